// Parameters of the depthwise convolution, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

constexpr int kDepthwiseOperands = 8;

struct DepthwiseParams {
    const void* input;                         // T [n, h, w, channels]
    const void* weights;                       // f32 [kernel_h, kernel_w, channels]
    const void* bias;                          // f32 [channels] or null
    void* output;                              // T [n, out_h, out_w, channels]
    const void* operands[kDepthwiseOperands];  // of the epilogue: f32 [channels], or T like the output
    int n, h, w, out_h, out_w, pad_top, pad_left;
    int rows;  // of the output, that a block walks down: depthwise_rows.cuh
};

}  // namespace planish
