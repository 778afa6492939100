// 2-D convolution of channels-last float32 images as a matrix product over segments of contiguous input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// x[n, h, w, c] -> y[n, oh, ow, oc], weights [oc, c/groups, kh, kw] as ONNX stores them.
/// A 1-D convolution is one with h = kh = 1.
struct ConvShape {
    int64_t n = 1, h = 1, w = 1, c = 1;
    int64_t oc = 1, kh = 1, kw = 1;
    int64_t stride_h = 1, stride_w = 1;
    int64_t dilation_h = 1, dilation_w = 1;
    int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
    int64_t groups = 1;
    int64_t x_pixel_stride = 0;  ///< floats between pixels of x (0 = c): a slice of a wider tensor
    int64_t y_pixel_stride = 0;  ///< floats between pixels of y and of every tensor operand (0 = oc)
    bool x_nchw = false;         ///< x is [n, c, h, w] (contiguous): reordered while it is padded; groups must be 1

    int64_t oh() const { return (h + pad_top + pad_bottom - dilation_h * (kh - 1) - 1) / stride_h + 1; }
    int64_t ow() const { return (w + pad_left + pad_right - dilation_w * (kw - 1) - 1) / stride_w + 1; }
};

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
