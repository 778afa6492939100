// Parameters of a chain of convolutions, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

constexpr int kConvChainOperands = 8;  // of each link's epilogue

struct ConvChainParams {
    const void* input;                                   // T [n, h, w, channels]
    const void* weights;                                 // bytes: of each chunk of expanded channels, see ConvChainTile
    const void* bias;                                    // f32 [out channels]: of the project convolution, or null
    void* output;                                        // T [n, out_h, out_w, out channels]
    const void* expand_operands[kConvChainOperands];     // f32 [expanded]
    const void* depthwise_operands[kConvChainOperands];  // f32 [expanded]; without project also T like the output
    const void* project_operands[kConvChainOperands];    // f32 [out channels], or T like the output
    int n, h, w, out_h, out_w, pad_top, pad_left, tiles_h, tiles_w;
};

}  // namespace planish
