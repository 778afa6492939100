// Parameters of the first layer's convolution, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

constexpr int kConvStemOperands = 8;

struct ConvStemParams {
    const void* input;                        // Input: elements lie by the strides below
    const void* weights;                      // T [out_channels to a multiple of 16, kernel_h, row of K]
    void* output;                             // T [n, out_h, out_w, out_channels]
    const void* operands[kConvStemOperands];  // of the epilogue: f32 [out_channels], or T like the output
    long long image;                          // elements from an image to the next
    int row, pixel, channel;                  // elements from one to the next
    int h, w, out_h, out_w, pad_top, pad_left, out_channels;
    int tiles, tiles_y, tiles_x;  // of all images; of an image
};

}  // namespace planish
