// Parameters of softmax and the normalisations, for host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

/// Rows of `n` elements, side by side; softmax over columns has `inner` elements from one of a row to the next.
struct RowsParams {
    const void* input;
    void* output;
    const void* scale;  // [n] or null
    const void* bias;   // [n] or null
    int rows, n;
    Divisor inner;
    float eps;
    float encode, zero;  // of results in 8 bits: stored = y * encode + zero
};

/// Images [batch, pixels, channels] whose channels lie in groups.
struct GroupNormParams {
    const void* input;
    void* output;
    const void* scale;  // [channels]
    const void* bias;   // [channels]
    void* moments;      // f32 [batch * groups, splits, 2]: mean and sum of squared differences from it
    int pixels, channels, groups, splits;
    int pixels_per_split;
    Divisor vectors;  // of a pixel's share of a group
    float eps;
};

}  // namespace planish
