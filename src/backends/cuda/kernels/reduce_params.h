// Parameters of reductions and pooling, for host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

constexpr int kReduceRank = 6;

/// [outer, n, inner] to [outer, inner]; n is cut into splits of `length`.
struct ReduceParams {
    const void* input;
    void* output;
    void* partial;  // accumulators [splits, outer * inner]
    int n, inner, length;
    unsigned outputs;  // outer * inner
    Divisor columns;   // vectors of inner
    // Of scattered axes: those that stay (outermost first, to number the outputs), those that are reduced.
    Divisor kept[kReduceRank], reduced[kReduceRank];
    int kept_strides[kReduceRank], reduced_strides[kReduceRank];
};

/// Windows over channels-last images.
struct PoolParams {
    const void* input;              // [n, h, w, channels]
    void* output;                   // [n, out_h, out_w, channels]
    unsigned count;                 // vectors of the output
    Divisor vectors, out_w, out_h;  // vectors: of a pixel
    int h, w, channels;
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right;
};

/// output[y, x] = sum over taps of weight_h weight_w input[index_h, index_w], channels last.
struct ResizeParams {
    const void* input;
    void* output;
    const void* rows;     // int [out_h, taps]: indices, then float: weights
    const void* columns;  // int [out_w, taps], then float
    unsigned count;       // vectors of the output
    Divisor vectors, out_w, out_h;
    int h, w, channels;
};

}  // namespace planish
