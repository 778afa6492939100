// 3x3 convolutions by Winograd's algorithms: a matrix product at each point of a transform, and fewer multiplications.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv.hpp"
#include "backends/cpu/jit/post_op.hpp"
#include "backends/cpu/jit/winograd_tile.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// Same use as ConvPlan. F(4x4) multiplies least, but its weights are four times as large as the convolution's and its
/// largest rounding error is about twice that of the direct sum (see kWinogradErrorFactor); tiles of 2x2 outputs have
/// weights of 16/9 and, as their sums are a ninth as long and their factors 1 and 1/2, 0.6 of the direct sum's error
/// (root mean squares, 64 to 512 channels in [-1, 1]).
class WinogradPlan {
  public:
    /// Empty when the plan can be built, else what stands in the way.
    static std::string_view refusal(const ConvShape& shape, Isa isa, WinogradTile tile = WinogradTile::f4x4);
    /// Estimated time of the direct convolution over that of this one, weights coming from memory; no measurement.
    static double estimated_speedup(const ConvShape& shape, WinogradTile tile);

    WinogradPlan(const ConvShape& shape, PostOps post_ops, Isa isa, WinogradTile tile = WinogradTile::f4x4);
    ~WinogradPlan();
    WinogradPlan(WinogradPlan&&) noexcept;
    WinogradPlan& operator=(WinogradPlan&&) noexcept;

    const ConvShape& shape() const;
    const PackLayout& weight_layout() const;  ///< of the matrix of one point
    int64_t packed_weight_size() const;       ///< floats, of all of them
    /// Transforms and packs; `packed` must be 64-byte aligned. Computed in float64, rounded once.
    void pack_weights(const float* oihw, float* packed) const {
        pack_panels(oihw, packed, 0, weight_layout().panels());
    }
    /// Panels [first, last) of all points' matrices: the unit of parallel packing.
    void pack_panels(const float* oihw, float* packed, int64_t first, int64_t last) const;

    size_t workspace(int max_threads) const;  ///< bytes, 64-byte aligned
    void run(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
             void* workspace, ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

/// The rounding error of one output stays below this times sqrt(9c + 40) * eps/2 * max|x| * sum|w|: errors of the
/// products add up like a random walk, the transforms stretch them. Measured on inputs in [-1, 1]: under a third of it.
inline constexpr double kWinogradErrorFactor = 1;

}  // namespace planish::cpu
