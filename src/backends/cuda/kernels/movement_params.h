// Parameters of kernels that move elements, for host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

/// Batches of matrices: out[b, j, i] = in[b, i, j], i < rows, j < columns. Strides in elements; along j in the input
/// and along i in the output they are 1.
struct TransposeParams {
    const void* input;
    void* output;
    int rows, columns;
    int row_stride, column_stride;  // of the input's i, of the output's j
    Divisor inner_batches;          // batch b = (outer, inner)
    int input_strides[2], output_strides[2];
};

constexpr int kMaxPieces = 64;

/// Row by row, pieces of neighbouring units side by side: the joined tensor is [rows, width].
struct PiecesParams {
    const void* pieces[kMaxPieces];  // concat reads them; split writes them
    const void* joined;
    unsigned count;             // units in all
    Divisor width;              // units in a row of the joined tensor
    int first[kMaxPieces + 1];  // where in a row each piece begins
    int pieces_count;
};

constexpr int kPadRank = 6;

/// Elements whose coordinate, less `begin`, is inside the input; `value` elsewhere.
struct PadParams {
    const void* input;
    void* output;
    unsigned count;
    Divisor extents[kPadRank];                               // of the output, the last one in vectors
    int begin[kPadRank], size[kPadRank], strides[kPadRank];  // of the input; the last ones in vectors
    unsigned long long value;
};

/// out[o, k, i] = data[o, indices[k], i]; a negative index counts from the end of the axis.
struct GatherParams {
    const void* data;
    const void* indices;
    void* output;
    unsigned count;              // vectors of the output
    Divisor inner, index_count;  // vectors of a row; indices
    int axis;                    // length
};

}  // namespace planish
