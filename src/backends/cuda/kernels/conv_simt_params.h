// Parameters of products and convolutions without tensor cores, read by host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

constexpr int kConvSimtOperands = 8;

struct ConvSimtParams {
    const void* input;
    const void* weights;                      // [k, n] of each batch position
    void* output;                             // [m, n], rows ldc apart
    const void* operands[kConvSimtOperands];  // of the epilogue: f32 [channels], or like the output
    BatchAxis batch[kBatchAxes];              // outermost first; of a convolution: its groups
    long long output_step;                    // elements from a batch position's output to the next one's
    int channel_step;                         // of a channel operand, likewise
    int m, n, k, ldc;
    float alpha;
    // Row (image, i, j) of A, or (row, 0, 0); column (tap, channel).
    long long input_image;
    int input_y, input_x, input_channel;
    long long weights_k;
    int weights_n;
    int h, w, out_h, out_w, pad_top, pad_left;
};

}  // namespace planish
