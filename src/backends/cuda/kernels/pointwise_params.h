// Parameters of kernels over strided operands, for host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

constexpr int kPointwiseInputs = 12, kPointwiseOutputs = 4, kPointwiseRank = 6;

struct PointwiseParams {
    const void* inputs[kPointwiseInputs];
    void* outputs[kPointwiseOutputs];
    unsigned count;  // elements
    // Axes outermost first; the last one counts vectors.
    Divisor extents[kPointwiseRank];
    // In elements, of inputs and then outputs; along the last axis from vector to vector.
    int strides[kPointwiseInputs + kPointwiseOutputs][kPointwiseRank];
    int element_strides[kPointwiseInputs + kPointwiseOutputs];  // from element to element inside a vector
};

}  // namespace planish
