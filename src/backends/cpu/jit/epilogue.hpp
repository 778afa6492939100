// Emits a list of post-ops over a tile of accumulators.
#pragma once

#include <xbyak/xbyak.h>

#include <array>
#include <span>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"
#include "backends/cpu/jit/vector_math.hpp"

namespace planish::cpu {

/// A tile in registers: accumulator (row, v) is register first + row*vectors + v.
struct TileRegisters {
    int rows = 1;
    int vectors = 1;
    bool masked = false;  ///< the last vector of each row is only partly valid
    int first = 0;
    int first_temp = 0;  ///< VectorMathEmitter::kTemps registers from here on are free
    int tail = 0;        ///< valid lanes of a partly valid vector, where known: operands and results in bytes need it

    int at(int row, int vector) const { return first + row * vectors + vector; }
    int count() const { return rows * vectors; }
    int end() const { return first + count(); }
    int temp(int i) const { return first_temp + i; }
};

/// Addresses of up to 15 rows at a constant stride: bases[j] points to row 3j, so row r is
/// bases[r/3] + (r%3)*stride, which x86 can encode.
struct RowPointers {
    std::array<Xbyak::Reg64, 5> bases;
    Xbyak::Reg64 stride;

    Xbyak::RegExp at(int row, int displacement = 0) const;
    /// Sets the bases from row 0's address in bases[0]; `scratch` is overwritten.
    void emit_spread(Xbyak::CodeGenerator& code, int rows, const Xbyak::Reg64& scratch) const;
};

/// Where the kernel keeps what the epilogue needs.
struct EpilogueContext {
    Xbyak::RegExp operands;       ///< of the pointer to the list of operand pointers
    Xbyak::RegExp column_offset;  ///< of the tile's first column in a channel operand (int64, bytes)
    Xbyak::Reg64 tensor_offset;   ///< from C's origin to the tile, in bytes of C; so with a tensor operand's base
    RowPointers rows;             ///< bases are overwritten; the stride is C's
    Xbyak::Reg64 scratch;         ///< overwritten
    Xbyak::RegExp tail_mask;      ///< AVX2: of the address of 8 int32 lanes
    Xbyak::Opmask tail_opmask;    ///< AVX-512
    int element = 4;              ///< bytes of an element of C
};

class EpilogueEmitter {
  public:
    /// `narrow_avx512`: AVX2 code for a processor that has AVX-512, too, may use its instructions for bytes.
    EpilogueEmitter(Xbyak::CodeGenerator& code, Isa isa, bool narrow_avx512 = false);

    void apply(std::span<const PostOp> post_ops, const TileRegisters& tile, const EpilogueContext& context);
    /// Loads and stores of a full vector, or of the valid lanes of the last one of a row (zero elsewhere).
    /// AVX2 code overwrites `mask_temp` with the mask.
    void load(int dst, const Xbyak::RegExp& address, bool masked, const EpilogueContext& context, int mask_temp);
    void store(const Xbyak::RegExp& address, int src, bool masked, const EpilogueContext& context, int mask_temp);
    /// dst := the bytes at `address` as float32, of a vector or of its first `tail` lanes (0: all).
    void load_bytes(int dst, const Xbyak::RegExp& address, int tail, const EpilogueContext& context);
    /// Stores float32 lanes, rounded to nearest, ties to even, and saturated, as bytes. `src` and `temp` are
    /// overwritten. What is below zero must be clamped before; without AVX-512 what is above 255, too.
    void store_bytes(const Xbyak::RegExp& address, int src, int tail, const EpilogueContext& context, int temp);
    bool saturates_above() const { return math_.is_avx512() || narrow_avx512_; }
    /// Constants: to be called once, after the kernel's last instruction.
    void emit_tables() { math_.emit_tables(); }
    VectorMathEmitter& math() { return math_; }

  private:
    Xbyak::Xmm reg(int r) const { return math_.reg(r); }
    void zero(int r);
    void apply_unary(const PostOp& op, const TileRegisters& tile);
    void apply_channel(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context);
    void apply_tensor(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context);
    void scale_offset(const Xbyak::Reg64& offset, int from, int to);
    void emit_leaky(int r, const Xbyak::Xmm& slope, int temp);

    Xbyak::CodeGenerator& code_;
    VectorMathEmitter math_;
    bool narrow_avx512_;
};

}  // namespace planish::cpu
