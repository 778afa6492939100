// The generated inner kernel of products of u8 and s8: a tile of rows x vectors of int32 sums held in registers.
#pragma once

#include <cstdint>
#include <string>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/gemm_kernel.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// How a kernel walks along K, which it does four bytes at a time: a step multiplies the `load` bytes of A at one place
/// with four rows of B. Where a segment's bytes are not a multiple of `load`, its last step begins `overlap` bytes
/// early and B has zeros for what was multiplied before, so that nothing is read beyond the segment.
struct ByteSteps {
    int load = 4;  ///< 4, 2 or 1
    int overlap = 0;

    /// For segments of that many bytes, >= 1.
    static ByteSteps of(int64_t bytes) {
        ByteSteps s;
        s.load = bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
        s.overlap = static_cast<int>(s.count(bytes) * s.load - bytes);
        return s;
    }
    int64_t count(int64_t bytes) const { return (bytes + load - 1) / load; }

    friend bool operator==(const ByteSteps&, const ByteSteps&) = default;
};

/// What becomes of float32 results at the end: they stay, or are clamped to [low, high] and rounded to bytes.
struct ByteResult {
    bool bytes = false;
    float low = 0, high = 255;
};

/// For t < tiles, i < rows, and j over the tile's columns, with r = t*rows + i, in int32:
///   sum(r, j) = start[j] + sum over segments s and steps q < k, bytes d < 4 of A(r, s, q, d) * B[s*k + q][j][d];
///   C[r][j]   = result(post_ops(float(sum(r, j)) * scale[j] + bias[j])).
/// Arguments are those of the float32 kernels, B's rows being groups of four. C may have elements of one byte.
struct GemmI8KernelKey {
    Isa isa = Isa::avx2;  ///< avx2: vectors of 8 columns, avx512: of 16
    bool vnni = false;    ///< has AVX-512 VNNI
    int rows = 1;         ///< 1 .. max_i8_tile_rows(isa, vnni, vectors)
    int vectors = 1;
    int tail = 0;  ///< valid lanes of the last vector; 0: all
    ByteSteps steps;
    int prefetch_lines = 0;  ///< cache lines prefetched for every kPrefetchSteps steps
    PostOps post_ops;
    ByteResult result;
};

/// The most rows a tile of that width may have; 0 when the width itself is too large.
int max_i8_tile_rows(Isa isa, bool vnni, int vectors);

/// Generates the kernel, or returns the one that this process has generated before. Thread-safe.
GemmKernel gemm_i8_kernel(const GemmI8KernelKey& key);

/// "gemm_u8s8u8_14x32_avx512-vnni".
std::string kernel_name(const GemmI8KernelKey& key);

}  // namespace planish::cpu
