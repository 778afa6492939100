// The generated inner kernel of every float32 product: a tile of rows x vectors held in registers.
#pragma once

#include <cstdint>
#include <string>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// What one call computes, for t < tiles, i < rows, and j over the tile's columns:
///   C[t*rows + i][j] (+)= sum over segments s and q < k of  A(t*rows + i, s, q) * B[s*k + q][j],
///   A(r, s, q) = *(float*)((char*)a + r*lda + segment_offsets[s] + 4*q).
/// All strides and offsets are in bytes.
struct GemmKernelArgs {
    const float* a = nullptr;
    const float* b = nullptr;  ///< one packed panel, `vectors` wide, 64-byte aligned
    float* c = nullptr;
    int64_t k = 0;         ///< floats in a segment, >= 1
    int64_t segments = 0;  ///< >= 1
    const int64_t* segment_offsets = nullptr;
    int64_t lda = 0;
    int64_t ldc = 0;
    int64_t tiles = 0;                       ///< >= 1
    const float* const* operands = nullptr;  ///< PostOp::operand indexes this list
    int64_t column_offset = 0;               ///< of the tile's first column in a channel operand
    int64_t tensor_offset = 0;               ///< of C's first element from the base of a tensor operand
    const void* prefetch = nullptr;          ///< what to bring towards L2 meanwhile: the next panel
    int64_t b_stream = 0;                    ///< of `streams`: between the vectors of a row of B
    int64_t tail = 0;                        ///< valid lanes of the last vector, when masked
    // Of integer products, all at `column_offset`: readable to the end of the tile's last vector.
    const int32_t* start = nullptr;
    const float* scale = nullptr;
    const float* bias = nullptr;
};

struct GemmKernelKey {
    Isa isa = Isa::avx2;
    int rows = 1;             ///< 1 .. max_tile_rows(isa, vectors)
    int vectors = 1;          ///< vector registers in a tile's width
    bool masked = false;      ///< the last vector is only partly valid: `tail` lanes
    bool accumulate = false;  ///< begin from C instead of zero
    bool streams = false;     ///< one row; each vector of B's columns is a panel of its own
    int prefetch_lines = 0;   ///< cache lines prefetched for every kPrefetchSteps steps of k
    PostOps post_ops;

    friend bool operator==(const GemmKernelKey&, const GemmKernelKey&) = default;
};

constexpr int kPrefetchSteps = 4;

using GemmKernel = void (*)(const GemmKernelArgs*);

/// The most rows a tile of that width may have on that ISA; 0 when the width itself is too large.
int max_tile_rows(Isa isa, int vectors);
constexpr int kMaxTileVectors = 6, kMaxStreams = 8;

/// Generates the kernel, or returns the one that this process has generated before. Thread-safe.
GemmKernel gemm_kernel(const GemmKernelKey& key);

/// Operation, type, tile, ISA, variants: "gemm_f32_14x32_avx512_acc_masked".
std::string kernel_name(const GemmKernelKey& key);

}  // namespace planish::cpu
