// Parameters of the wgmma matrix products and convolutions, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

/// A CUtensorMap.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

struct GemmWgmmaParams {
    TensorMap a;         // activations: 2-D {K, M}, box {128 bytes, rows of a load}, or im2col of NHWC
    TensorMap b;         // weights: 3-D {C, taps, N}, box {128 bytes, 1, rows of a load}; a product has one tap
    TensorMap c;         // output {N, M}, box {columns of a chunk, rows of a warpgroup}
    TensorMap residual;  // like c: the epilogue's first tensor operand
    const void* operands[8];
    void* output;
    int m, n;
    int steps;             // of 128 bytes along K: taps * ceil(C / step)
    int tiles_m, tiles_n;  // in clusters
    int group;             // rows of clusters that are walked together
    int constant_weights;  // they may be read before the kernels before this one have ended
    // Convolution
    int channel_steps;  // ceil(C / step)
    int kernel_w, dilation_h, dilation_w;
    int out_h, out_w, stride_h, stride_w, pad_top, pad_left;
};

}  // namespace planish
