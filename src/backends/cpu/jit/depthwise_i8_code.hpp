// Generated parts of an 8-bit depthwise convolution: rows of pixels interleaved tap by tap, and tiles of outputs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "backends/cpu/jit/depthwise_i8.hpp"
#include "backends/cpu/jit/jit_code.hpp"
#include "backends/cpu/jit/vector_math.hpp"

namespace planish::cpu {

/// The filter's rows are taken in groups: four with VNNI, whose instruction multiplies 4 bytes by 4 bytes in each
/// dword lane, two without, as 16-bit products. `interleave` puts the pixels of a group's rows, one below the other,
/// into dwords; `tile` then needs one instruction for a group of taps of a filter column. `row` does both in registers.
///
/// Channels come in blocks of `width` (16, 32 or 64): one vector of bytes. Unpacking bytes, then words, spreads it over
/// four vectors of dwords, where vector v has channels 16 l + 4 v + (0..3) in its 128-bit lane l; packing words, then
/// bytes, puts results back in order. All that is stored for each channel lies in that order.
class DepthwiseI8Code : private JitCode {
  public:
    struct InterleaveArgs {
        const uint8_t* rows[4];
        int64_t columns;
        std::byte* to;
    };
    struct TileArgs {
        const std::byte* x;        ///< interleaved, at the first tap of the first output
        const std::byte* filter;   ///< of the output row
        const std::byte* channel;  ///< constants of the block
        std::byte* y;
        int64_t tiles;
        const std::byte* const* operands;  ///< of tensor post-ops, in their order, at the first output
    };
    struct RowArgs {
        const uint8_t* rows[4];    ///< column 0 of each row under the filter
        const std::byte* filter;   ///< of output row 0
        const std::byte* channel;  ///< constants of the block
        std::byte* y;
        int64_t first;                     ///< bytes from column 0 to the first tap of the first output
        mutable int64_t outputs;           ///< overwritten
        const std::byte* const* operands;  ///< as above
    };
    static constexpr size_t kMaxOperands = 4;
    static constexpr int kVectors = 4;  ///< dword vectors of a block

    /// Constants of a block: vectors of corrections (int32), of scales, of biases, and of each channel operand.
    enum ChannelVector : int { correction, scale, bias, first_operand };

    DepthwiseI8Code(const DepthwiseShape& shape, const PostOps& post_ops, const DepthwiseI8Options& options, Isa isa);

    size_t add_interleave(int width, int rows);
    size_t add_tile(int width, int columns);
    size_t add_row(int width);
    void finish();

    void interleave(size_t entry, const InterleaveArgs& args) const { call(entry, &args); }
    void tile(size_t entry, const TileArgs& args) const { call(entry, &args); }
    void row(size_t entry, const RowArgs& args) const { call(entry, &args); }

    static int group_rows(Isa isa) { return isa >= Isa::avx512_vnni ? 4 : 2; }
    static int widest(Isa isa) { return isa >= Isa::avx512 ? 64 : 32; }
    /// Whether `add_row` has code for it: one group, and all outputs that a pixel lies under fit into registers. Then
    /// it is faster than the other two, by 1.1 to 1.6.
    static bool rows_in_registers(const DepthwiseShape& shape, Isa isa);
    static int max_columns(const DepthwiseShape& shape, Isa isa);
    int groups() const { return groups_; }
    /// Whether scales and biases are to be divided by the output's scale: what follows them is done on bytes.
    bool folds_output_scale() const { return folded_; }

  private:
    void call(size_t entry, const void* args) const {
        reinterpret_cast<void (*)(const void*)>(reinterpret_cast<uintptr_t>(getCode()) + entries_[entry])(args);
    }
    size_t begin_entry();
    void fold_output();
    using Instruction = std::function<void()>;
    void initialise(int vector);
    void sums_in_turns();
    void sums();
    void append_products(std::vector<Instruction>& to, const Xbyak::RegExp& pixels, const Xbyak::RegExp& filter,
                         int vector);
    using Pixels = std::vector<int>;  // the first of each one's kVectors registers
    Pixels pixels() const;
    void append_conversions(std::vector<Instruction>& to, const Pixels& pixels, int vector, int temp);
    void row_column(int column);
    void dot(int acc, int x, const Xbyak::Operand& weights);
    void to_integer(int reg);
    void epilogue(const Pixels& pixels, int temp);
    void channel_op(const PostOp& op, int first_vector, const Pixels& pixels, int temp);
    void tensor_op(const PostOp& op, const Xbyak::Reg64& operand, const Pixels& pixels, int temp);
    void load_spread(int reg, const Xbyak::RegExp& base, int vector);
    void load_spread_bytes(int reg, const Xbyak::RegExp& base, int vector, const PostOp& op);
    void store_floats(const Pixels& pixels);
    void store_bytes(const Pixels& pixels, int temp);
    void repeat(int reg, uint32_t value, uint32_t factor);
    void load_operands(const Xbyak::Address& list);
    void advance_outputs(int columns);
    uint32_t stored(float real) const;

    Xbyak::Xmm v(int index) const;
    int acc(int column, int vector) const { return column * kVectors + vector; }
    int vector_bytes() const { return width_; }
    int64_t column_bytes() const { return int64_t{groups_} * kVectors * width_; }

    DepthwiseShape s_;
    PostOps post_ops_;
    DepthwiseI8Options options_;
    Isa isa_;
    VectorMathEmitter math_;
    int groups_;
    bool folded_ = false;
    uint32_t low_ = 0, high_ = 255;  // bounds on bytes, where folded
    std::vector<size_t> entries_;
    // Of the part being generated.
    int width_ = 0, columns_ = 0, live_ = 0, weight_registers_ = 0;
};

}  // namespace planish::cpu
