// Depthwise convolution of float32 channels-last tensors, with a fused epilogue.
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

/// x[batch, height, width, channels] with one kernel_h x kernel_w filter for each channel; padding is zeros and may
/// differ from side to side.
struct DepthwiseShape {
    int64_t batch = 1, height = 0, width = 0, channels = 0;
    int64_t kernel_h = 1, kernel_w = 1;
    int64_t stride_h = 1, stride_w = 1;
    int64_t dilation_h = 1, dilation_w = 1;
    int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;

    int64_t out_height() const {
        return (height + pad_top + pad_bottom - (kernel_h - 1) * dilation_h - 1) / stride_h + 1;
    }
    int64_t out_width() const {
        return (width + pad_left + pad_right - (kernel_w - 1) * dilation_w - 1) / stride_w + 1;
    }

    friend bool operator==(const DepthwiseShape&, const DepthwiseShape&) = default;
};

/// Of how many columns tiles of a row of `width` have: most of at most `most`, then the fewest left over.
int64_t choose_columns(int64_t width, int64_t most);

/// Packed weights are [ceil(channels / 16)][kernel_h * kernel_w][16], zeros past the last channel: the transposed
/// weights in panels of one vector, whatever the instruction set.
PackLayout depthwise_weight_layout(const DepthwiseShape& shape);
size_t depthwise_packed_size(const DepthwiseShape& shape);  ///< in floats

/// Packs weights[channels][kernel_h][kernel_w] (ONNX's [C, 1, kH, kW]).
void pack_depthwise_weights(const DepthwiseShape& shape, const float* weights, float* packed);

/// A compiled depthwise convolution. Immutable once built: any number of threads may run it at once. A result depends
/// neither on the number of threads nor on how the rows are cut.
class DepthwisePlan {
  public:
    /// `isa` must be avx2 or above. Throws `unsupported` where an image row or the weights of a channel block exceed
    /// the 2 GiB that an instruction can address.
    DepthwisePlan(const DepthwiseShape& shape, PostOps post_ops, Isa isa);
    ~DepthwisePlan();
    DepthwisePlan(DepthwisePlan&&) noexcept;
    DepthwisePlan& operator=(DepthwisePlan&&) noexcept;

    const DepthwiseShape& shape() const;

    /// `operands[i]` is what PostOp::operand == i refers to: `channels` floats for a channel operand, a tensor laid
    /// out as the output for a tensor operand (which may be y itself). No allocation.
    void run(const float* x, const float* packed_w, float* y, std::span<const float* const> operands, ThreadPool& pool,
             int max_threads) const;

    /// Output rows [row_begin, row_end) of the batch * out_height() rows, on the calling thread. Pointers are to row 0
    /// of whole tensors; only the input rows under the kernel and the output rows asked for are touched, so a caller
    /// who holds a band of rows passes the pointer at which row 0 would be.
    void run_rows(const float* x, const float* packed_w, float* y, std::span<const float* const> operands,
                  int64_t row_begin, int64_t row_end) const;

    /// Input rows [first, second) of one image that its output rows [row_begin, row_end) read.
    std::pair<int64_t, int64_t> input_rows(int64_t row_begin, int64_t row_end) const;

  private:
    struct Impl;
    std::shared_ptr<const Impl> impl_;  // of all plans alive that compute the same
};

}  // namespace planish::cpu
