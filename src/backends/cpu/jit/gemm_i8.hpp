// C = result(post_ops(scale * (A_u8 * B_s8) + bias)): integer matrix products with a packed right-hand side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/gemm.hpp"
#include "backends/cpu/jit/i8_product.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// As GemmPlan, for A in bytes and B in signed ones; the sums are exact. 1 <= k <= kMostByteProducts.
class GemmI8Plan {
  public:
    /// `result`: how C is stored in bytes; nullopt: as float32.
    GemmI8Plan(const GemmShape& shape, PostOps post_ops, const std::optional<ByteFormat>& result, Isa isa,
               PanelWidth width = {});
    ~GemmI8Plan();
    GemmI8Plan(GemmI8Plan&&) noexcept;
    GemmI8Plan& operator=(GemmI8Plan&&) noexcept;

    const GemmShape& shape() const;
    /// In steps of four rows and elements of four bytes.
    const PackLayout& b_layout() const;
    /// B[row][column] = b[row*ldb + column], or b[column*ldb + row] when `transposed`. `packed`: 4 * b_layout().size()
    /// bytes, 64-byte aligned.
    void pack(const int8_t* b, int64_t ldb, bool transposed, int8_t* packed) const;
    /// What `run` is to be given for this B: see ByteEpilogue::terms.
    ColumnTerms terms(const int8_t* packed, const ByteFormat& a, std::span<const float> scales,
                      std::span<const float> bias) const;
    /// As above, given B's column sums, group after group.
    ColumnTerms terms(std::span<const int32_t> sums, const ByteFormat& a, std::span<const float> scales,
                      std::span<const float> bias) const;

    /// `operands[i]` is what PostOp::operand == i refers to: n floats for a channel operand, a matrix of floats or
    /// bytes with C's row stride for a tensor operand (which may be C itself if its elements are as large). No
    /// allocation.
    void run(const uint8_t* a, const int8_t* packed_b, const Columns& columns, void* c,
             std::span<const float* const> operands, ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
