// Parameters of attention on warpgroup products, read by host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/attention_params.h"
#include "planish/gemm_wgmma_params.h"
#else
#include "backends/cuda/kernels/attention_params.h"
#include "backends/cuda/kernels/gemm_wgmma_params.h"
#endif

namespace planish {

struct AttentionWgmmaParams {
    // 4-D {size, heads, rows, batch} where heads are columns of rows, else {size, rows, heads, batch}; boxes of 64
    // columns and as many rows as a warpgroup (query, output) or a block of keys (key, value) has.
    TensorMap query, key, value, output;
    AttentionParams attention;
    int row_blocks;  // of a head
    int tiles;       // row blocks of all heads
};

}  // namespace planish
