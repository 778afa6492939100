// C = post_ops(A * B) with seven products of halves where the definition has eight (Strassen, Numer. Math. 13, 1969).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backends/cpu/jit/gemm.hpp"

namespace planish::cpu {

/// One level of Strassen's recursion over the rows of A, the columns of B and their common axis. The sums of B's blocks
/// are formed when it is packed, which takes 7/4 of B's memory; forming them while the product runs costs as much time
/// as the eighth product does at 128 rows.
///
/// Its error is bounded in the norm of whole rows and columns only, with 4.5 times GemmPlan's factor (Winograd's
/// variant; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 23.2.2): a row of small numbers is rounded
/// like the large row that it is paired with, and an infinity spreads to its partner as NaN. Immutable once built;
/// results do not depend on the number of threads.
class StrassenPlan {
  public:
    /// Whether the shape has enough of everything to be halved. Columns need not be even, nor rows.
    static bool fits(const GemmShape& shape, Isa isa);

    /// As for GemmPlan; the shape must fit.
    StrassenPlan(const GemmShape& shape, PostOps post_ops, Isa isa);
    ~StrassenPlan();
    StrassenPlan(StrassenPlan&&) noexcept;
    StrassenPlan& operator=(StrassenPlan&&) noexcept;

    const GemmShape& shape() const;
    /// What determines the packed form beside B itself: for keys of stores.
    std::string packing() const;
    int64_t packed_size() const;  ///< floats
    /// B[row][column] = b[row*ldb + column], or b[column*ldb + row] when `transposed`; `packed` is 64-byte aligned.
    void pack(const float* b, int64_t ldb, bool transposed, float* packed, ThreadPool& pool, int max_threads) const;
    /// Bytes of scratch that `run` needs with at most that many threads (64-byte aligned).
    size_t workspace(int max_threads) const;
    /// As GemmPlan::run, but C must not be one of the operands.
    void run(const float* a, const float* packed_b, float* c, std::span<const float* const> operands, void* workspace,
             ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
