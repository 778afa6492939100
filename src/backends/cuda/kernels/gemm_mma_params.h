// Parameters of products and convolutions on mma.sync, read by host and device: plain C++ without headers.
#pragma once

#ifdef __CUDACC__
#include "planish/indexing_params.h"
#else
#include "backends/cuda/kernels/indexing_params.h"
#endif

namespace planish {

constexpr int kGemmMmaOperands = 8;

/// Where a unit along K of a gathered row lies: elements from the row's first tap, and the taps that must be inside of
/// the image, as bits: the row's in the lower half, the column's in the upper one.
struct alignas(8) GemmMmaTap {
    int offset;
    unsigned inside;
};
constexpr int kGemmMmaMostTaps = 15;            // that are tested, along either axis
constexpr unsigned kGemmMmaNowhere = 1u << 15;  // never inside: padding along K

struct GemmMmaParams {
    const void* a;
    const void* b;                           // [n, k] or [k, n] of each batch position
    void* output;                            // [m, n], rows ldc apart
    const void* operands[kGemmMmaOperands];  // of the epilogue: f32 [channels], or like the output
    const GemmMmaTap* taps;                  // for each unit along K, and those of one step more
    float* parts;                            // of split sums
    unsigned* arrived;                       // for each tile: blocks that have left their part
    BatchAxis batch[kBatchAxes];             // outermost first; of a convolution: its groups
    long long output_step;                   // elements from a batch position's output to the next one's
    int channel_step;                        // of a channel operand, likewise
    int m, n, k, ldc;
    int a_row, b_row, b_depth;  // elements from a row to the next; elements of B along k that may be read
    float alpha;
    unsigned zero;                // of bytes: the one that stands for 0, four times
    int steps;                    // along K
    int tiles_m, tiles_n, group;  // group: rows of tiles that are walked together
    // Convolution: elements from an image to the next, of a row and a pixel
    int image, row, pixel;
    int h, w, out_h, out_w, pad_top, pad_left;
};

}  // namespace planish
