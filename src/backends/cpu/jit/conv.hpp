// 2-D convolution of channels-last float32 images as a matrix product over segments of contiguous input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv_shape.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// Immutable once built: any number of threads may run it at once, each with a workspace of its own.
/// Results do not depend on the number of threads.
class ConvPlan {
  public:
    /// `width` forces the panels of the packed weights; {} = chosen from the shape. `isa` must be avx2 or above.
    /// `rows` keeps the lines of the image apart even where all its pixels could be one product: `run_rows` needs it.
    enum class Order : uint8_t { whole, rows };
    ConvPlan(const ConvShape& shape, PostOps post_ops, Isa isa, PanelWidth width = {}, Order order = Order::whole);
    ~ConvPlan();
    ConvPlan(ConvPlan&&) noexcept;
    ConvPlan& operator=(ConvPlan&&) noexcept;

    const ConvShape& shape() const;
    /// The layout of one group's weights; group g begins at float g * weight_layout().size().
    const PackLayout& weight_layout() const;
    /// Floats in the packed weights of all groups.
    int64_t packed_weight_size() const;
    void pack_weights(const float* oihw, float* packed) const;
    void unpack_weights(const float* packed, float* oihw) const;

    /// Bytes of scratch that `run` needs with at most that many threads (64-byte aligned); 0 for a 1x1 convolution
    /// without padding.
    size_t workspace(int max_threads) const;
    /// Operands as for GemmPlan::run: `oc` floats for a channel operand, an image with y's strides for a tensor
    /// operand.
    void run(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
             void* workspace, ThreadPool& pool, int max_threads) const;

    /// Output rows [begin, end) of the first image, on the calling thread, with the workspace of one thread. As for
    /// DepthwisePlan: pointers are to row 0 of whole tensors, and only the rows concerned are touched.
    void run_rows(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                  void* workspace, int64_t begin, int64_t end) const;
    /// Input rows [first, second) that output rows [begin, end) read.
    std::pair<int64_t, int64_t> input_rows(int64_t begin, int64_t end) const;

  private:
    struct Impl;
    std::unique_ptr<const Impl> impl_;
};

}  // namespace planish::cpu
