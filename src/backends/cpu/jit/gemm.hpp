// C = post_ops(A * B): float32 matrix products with a packed right-hand side, and batches of products of activations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// C[m x n] = A[m x k] * B[k x n]; strides in elements, 0 = contiguous.
struct GemmShape {
    int64_t m = 0, n = 0, k = 0;
    int64_t lda = 0;  ///< between rows of A
    int64_t ldc = 0;  ///< between rows of C and of every tensor operand
};

/// A product whose B is constant (weights), packed once by `pack_b` in `b_layout()`. Immutable once built: any number
/// of threads may run it at once. Results do not depend on the number of threads.
class GemmPlan {
  public:
    /// `width` forces the panels of B, so that several plans share one packed B; {} = chosen from the shape.
    /// `isa` must be avx2 or above, and at least that of the forced width; else throws.
    GemmPlan(const GemmShape& shape, PostOps post_ops, Isa isa, PanelWidth width = {});
    ~GemmPlan();
    GemmPlan(GemmPlan&&) noexcept;
    GemmPlan& operator=(GemmPlan&&) noexcept;

    const GemmShape& shape() const;
    const PackLayout& b_layout() const;

    /// `operands[i]` is what PostOp::operand == i refers to: n floats for a channel operand, a matrix with C's row
    /// stride for a tensor operand (which may be C itself, but not overlap it otherwise). `packed_b` must be 64-byte
    /// aligned. No allocation.
    void run(const float* a, const float* packed_b, float* c, std::span<const float* const> operands, ThreadPool& pool,
             int max_threads) const;

    /// The whole product on the calling thread: for callers that cut a larger product into strips themselves.
    void run_serial(const float* a, const float* packed_b, float* c, std::span<const float* const> operands) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

/// For i < batch: C[i] = post_ops(A[i] * op(B[i])), where B is an activation: packed in the workspace when run.
struct BatchedGemmShape {
    int64_t batch = 1;
    int64_t m = 0, n = 0, k = 0;
    int64_t lda = 0, ldb = 0, ldc = 0;  ///< row strides in floats, 0 = contiguous
    bool b_transposed = false;          ///< B[i] is stored as [n x k]
};

/// Where the matrices of a batch begin, in floats from the base pointers: base + a[i], ...
struct BatchedGemmOffsets {
    std::span<const int64_t> a, b, c;  ///< `batch` entries each; tensor operands use `c`
};

class BatchedGemmPlan {
  public:
    BatchedGemmPlan(const BatchedGemmShape& shape, PostOps post_ops, Isa isa);
    ~BatchedGemmPlan();
    BatchedGemmPlan(BatchedGemmPlan&&) noexcept;
    BatchedGemmPlan& operator=(BatchedGemmPlan&&) noexcept;

    const BatchedGemmShape& shape() const;
    /// Bytes of scratch that `run` needs with at most that many threads (64-byte aligned).
    size_t workspace(int max_threads) const;
    void run(const float* a, const float* b, float* c, const BatchedGemmOffsets& offsets,
             std::span<const float* const> operands, void* workspace, ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
