// The loops of a convolution as a product, for images of floats or of bytes: a line of output pixels is a line of rows,
// a filter's row of taps a segment of K, a block of lines is padded first where the image has pads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backends/cpu/jit/conv_shape.hpp"
#include "backends/cpu/jit/tile_loop.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

class ConvLoop {
  public:
    /// Of images in bytes; else elements are floats.
    struct Bytes {
        ByteResult result;
    };
    struct Call {
        const void* x = nullptr;
        const void* weights = nullptr;  ///< packed, group after group
        void* y = nullptr;
        const float* const* operands = nullptr;
        void* workspace = nullptr;
        // Of images in bytes, for all output channels.
        const int32_t* start = nullptr;
        const float *scale = nullptr, *bias = nullptr;
        uint8_t x_zero = 0;  ///< what padding reads
    };

    ConvLoop() = default;
    /// `by_rows`: lines stay apart even where all pixels could be one product.
    ConvLoop(const ConvShape& shape, const PostOps& post_ops, Isa isa, PanelWidth width, bool by_rows,
             const std::optional<Bytes>& bytes);

    const ConvShape& shape() const { return shape_; }
    /// Of one group's weights.
    const PackLayout& layout() const { return loop_.layout(); }
    int64_t group_c() const { return shape_.c / shape_.groups; }
    int64_t group_oc() const { return shape_.oc / shape_.groups; }
    int64_t segments() const { return static_cast<int64_t>(segment_offsets_.size()); }
    int64_t taps_per_segment() const { return shape_.kh * shape_.kw / segments(); }

    size_t workspace(int max_threads) const;  ///< in bytes
    void run(const Call& call, ThreadPool& pool, int max_threads) const;
    void run_rows(const Call& call, int64_t begin, int64_t end) const;

  private:
    int64_t padded_lines(int64_t lines) const;
    int64_t scratch_bytes() const;
    void copy_lines(const std::byte* x, uint8_t x_zero, int64_t first, int64_t lines, std::byte* scratch) const;
    TileLoop::Call tile_call(const Call& call) const;
    TileLoop::Call group_call(const Call& call, TileLoop::Call part, const std::byte* x, int64_t y_offset,
                              int64_t group) const;
    void run_flat(const Call& call, ThreadPool& pool, int threads) const;
    void run_block(const Call& call, std::byte* scratch, int64_t image, int64_t first_line, int64_t lines,
                   int64_t first_panel, int64_t last_panel) const;

    ConvShape shape_;
    TileLoop loop_;
    bool flat_ = false;    ///< every output pixel is one row at a constant stride: a plain matrix product
    bool padded_ = false;  ///< lines are first copied into padded ones in the workspace
    int64_t block_lines_ = 1;
    // In bytes.
    int64_t element_ = 4, y_element_ = 4;
    int64_t pixel_ = 0;  ///< between pixels of what the kernel reads
    int64_t line_ = 0;   ///< between lines of what the kernel reads
    std::vector<int64_t> segment_offsets_;
};

}  // namespace planish::cpu
