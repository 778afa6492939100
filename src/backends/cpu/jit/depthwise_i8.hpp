// Depthwise convolution of 8-bit channels-last images: exact sums in int32, then a float32 epilogue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backends/cpu/jit/depthwise.hpp"
#include "backends/cpu/jit/i8_product.hpp"

namespace planish::cpu {

struct DepthwiseI8Options {
    int x_zero = 0;                    ///< what x holds for the real 0, and what padding reads
    std::optional<ByteFormat> output;  ///< nullopt: float32
    /// y / output.scale of all possible sums is known to stay below 2^30 in magnitude before post-ops.
    bool bounded = false;
};

/// What the sums of each channel are turned into floats with; consumed by `pack`.
struct DepthwiseI8Channels {
    const float* scales = nullptr;             ///< scale of x times that of the channel's weights
    const float* bias = nullptr;               ///< null: none
    std::span<const float* const> operands{};  ///< `channels` floats for each post-op with a channel operand
};

/// y = epilogue(scales[c] * sum (x - x_zero) * w + bias[c]). Immutable once built; any number of threads may run it at
/// once, and results do not depend on how the work is cut.
class DepthwiseI8Plan {
  public:
    /// `isa` must be avx2 or above. A post-op's channel operand is an index into DepthwiseI8Channels::operands, its
    /// tensor operand one into those of `run`. Throws `unsupported` for tensor operands where there are fewer than 16
    /// channels, for sums that may exceed 32 bits, and where the packed filter of a block of channels exceeds 2 GiB.
    DepthwiseI8Plan(const DepthwiseShape& shape, PostOps post_ops, const DepthwiseI8Options& options, Isa isa);
    ~DepthwiseI8Plan();
    DepthwiseI8Plan(DepthwiseI8Plan&&) noexcept;
    DepthwiseI8Plan& operator=(DepthwiseI8Plan&&) noexcept;

    const DepthwiseShape& shape() const;
    size_t packed_size() const;  ///< in bytes
    /// Grammar of the packed form. Two plans whose forms and channels are alike read the same bytes; the sizes of the
    /// images count where they decide how many rows are computed together.
    std::string packed_form() const;
    /// Packs weights[channels][kernel_h][kernel_w] with all that depends on the channel; `packed` is 64-byte aligned.
    void pack(const int8_t* weights, const DepthwiseI8Channels& channels, std::byte* packed) const;
    size_t workspace(int threads) const;  ///< in bytes

    /// y is u8 or float32. `operands[i]` is a tensor of floats or bytes laid out as y, which it must not overlap.
    /// `packed` and `workspace` are 64-byte aligned. No allocation.
    void run(const uint8_t* x, const std::byte* packed, void* y, std::span<const float* const> operands,
             std::byte* workspace, ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
