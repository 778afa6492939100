// Parameters of kernels that gather and scatter by several indices, sum along an axis and select: plain C++ without
// headers, for host and device.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

constexpr int kIndexedRank = 8;

/// Element i of `indices` says where along one axis of a tensor the element at i's other coordinates lies: it is read
/// from there to [i] of the output, or written there from [i] of the updates.
struct ElementsParams {
    const void* from;
    const void* indices;
    void* to;
    unsigned count;
    Divisor extents[kIndexedRank];  // of the indices
    int strides[kIndexedRank];      // of the tensor, 0 along the axis
    int axis, axis_stride;          // length and stride
};

/// The same with rows of `inner` units, each at a tuple of indices.
struct TuplesParams {
    const void* from;
    const void* indices;
    void* to;
    unsigned count;  // units
    Divisor inner;
    int tuple;  // indices in one
    int lengths[kIndexedRank], strides[kIndexedRank];
};

/// Lines of `n` elements, `inner` elements from one to the next.
struct LinesParams {
    const void* input;
    void* output;
    unsigned lines;
    int n;
    Divisor inner;
};

/// The first `k` of each row of `n`, sorted.
struct TopKParams {
    const void* input;
    void* values;
    long long* indices;
    int n, k;
};

}  // namespace planish
