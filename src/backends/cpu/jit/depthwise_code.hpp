// Generated tiles of a depthwise convolution: a few output pixels, all channels.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cpu/jit/depthwise.hpp"
#include "backends/cpu/jit/jit_code.hpp"
#include "backends/cpu/jit/vector_math.hpp"

namespace planish::cpu {

/// Output pixels that are computed together, and which of the input pixels under them exist. Input rows and columns
/// are counted from where the first output pixel's first tap falls; those outside [first, last) are padding.
struct DepthwiseTile {
    int rows = 1, columns = 1;
    int first_column = 0, last_column = 0;
    int first_row = 0, last_row = 0;  ///< rows > 1 only; tiles of one row take their rows at run time

    friend auto operator<=>(const DepthwiseTile&, const DepthwiseTile&) = default;
};

/// Code for the kinds of tile that one convolution needs; a call runs some equal tiles, side by side.
///
/// Channels are the inner loop, so that memory is read in long runs. Each input vector is loaded once per tile and
/// feeds all outputs that it lies under; taps meet an output in the order of the filter's rows, then columns, in
/// every kind of tile, so all kinds give the same bits.
class DepthwiseCode : private JitCode {
  public:
    struct Args {
        const float* x;  ///< under the first tap of the first output; tiles of one row: in its first existing row
        const float* w;  ///< packed weights; tiles of one row: from the first existing tap row on
        float* y;
        int64_t tiles;
        int64_t tap_rows;  ///< tiles of one row: number of existing tap rows
        const float* const*
            operands;  ///< in the order of the post-ops that have one: at the first output, or channel 0
    };
    static constexpr size_t kMaxOperands = 6;

    DepthwiseCode(const DepthwiseShape& shape, const PostOps& post_ops, Isa isa);

    /// Generates a kind of tile, or finds it generated, and returns its number.
    size_t add_tile(const DepthwiseTile& tile);
    /// After the last `add_tile`, before the first call.
    void finish();

    void operator()(size_t tile, const Args& args) const {
        reinterpret_cast<void (*)(const Args*)>(reinterpret_cast<uintptr_t>(getCode()) + tiles_[tile].offset)(&args);
    }

    /// The most output columns of a tile of `rows` rows.
    static int max_columns(const DepthwiseShape& shape, Isa isa, int rows);
    /// Whether tiles of two rows, with the whole filter in registers, are worth their code.
    static bool two_rows(const DepthwiseShape& shape, Isa isa);

  private:
    void assign_registers();
    void generate();
    void tail();
    void vectors(int half, bool masked);
    void initialise(bool masked);
    void load_weights(const Xbyak::Reg64& base, int taps);
    void tap_row_loop(bool masked);
    void accumulate(const Xbyak::RegExp& row, int input_row, bool masked);
    void epilogue(bool masked);
    void channel_op(const PostOp& op, const Xbyak::Address& operand, bool masked);
    void tensor_op(const PostOp& op, int acc, const Xbyak::Address& operand, bool masked);
    void clamp_all(float low, float high, bool has_high);
    void load(int reg, const Xbyak::Address& address, bool masked);
    void advance(const Xbyak::Reg64& pointer, int64_t floats);

    Xbyak::Xmm v(int index) const { return math_.reg(index); }
    int accumulator(int row, int column) const { return row * tile_.columns + column; }
    int64_t output_offset(int acc) const;  // bytes from the tile's first output pixel

    struct Tap {
        int output, column;
    };

    struct Generated {
        DepthwiseTile tile;
        size_t offset;
    };

    DepthwiseShape s_;
    PostOps post_ops_;
    Isa isa_;
    std::vector<Generated> tiles_;
    VectorMathEmitter math_;
    Xbyak::Label tail_mask_;
    // Of the tile being generated.
    DepthwiseTile tile_;
    std::vector<std::vector<Tap>> taps_;  // by input column: the output columns it meets, and under which tap column
    int accumulators_ = 0;
    int weights_ = 0;           // first weight register
    int weight_registers_ = 0;  // 0: weights are memory operands
    int x_ = 0;                 // for input vectors
    int mask_register_ = -1;    // AVX2, where channels end inside a vector
    int half_ = 0;              // bytes into a block of 16 channels
    std::vector<int> temps_;    // free once all taps are summed
};

}  // namespace planish::cpu
