// 2-D convolution of channels-last images of bytes as an integer matrix product over segments of contiguous input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv_shape.hpp"
#include "backends/cpu/jit/i8_product.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// As ConvPlan, for images in bytes and weights in signed ones; the sums are exact. A filter has at most
/// kMostByteProducts elements.
class ConvI8Plan {
  public:
    /// `result`: how y is stored in bytes; nullopt: as float32.
    ConvI8Plan(const ConvShape& shape, PostOps post_ops, const std::optional<ByteFormat>& result, Isa isa,
               PanelWidth width = {});
    ~ConvI8Plan();
    ConvI8Plan(ConvI8Plan&&) noexcept;
    ConvI8Plan& operator=(ConvI8Plan&&) noexcept;

    const ConvShape& shape() const;
    /// Of one group's weights, in steps of four rows and elements of four bytes.
    const PackLayout& weight_layout() const;
    /// The packed form's grammar, beside the layout: segments of so many taps.
    int64_t taps_per_segment() const;
    /// In bytes.
    int64_t packed_weight_size() const;
    void pack_weights(const int8_t* oihw, int8_t* packed) const;
    /// What `run` is to be given for these weights: see ByteEpilogue::terms.
    ColumnTerms terms(const int8_t* packed, const ByteFormat& x, std::span<const float> scales,
                      std::span<const float> bias) const;
    /// As above, given B's column sums, group after group.
    ColumnTerms terms(std::span<const int32_t> sums, const ByteFormat& x, std::span<const float> scales,
                      std::span<const float> bias) const;

    size_t workspace(int max_threads) const;
    /// Operands as for GemmI8Plan::run.
    void run(const uint8_t* x, const int8_t* packed_weights, const Columns& columns, void* y,
             std::span<const float* const> operands, void* workspace, ThreadPool& pool, int max_threads) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
