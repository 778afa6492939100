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
    Xbyak::Reg64 tensor_offset;   ///< bytes from a tensor operand's base to the tile
    RowPointers rows;             ///< bases are overwritten; the stride is C's
    Xbyak::Reg64 scratch;         ///< overwritten
    Xbyak::RegExp tail_mask;      ///< AVX2: of the address of 8 int32 lanes
    Xbyak::Opmask tail_opmask;    ///< AVX-512
};

class EpilogueEmitter {
  public:
    EpilogueEmitter(Xbyak::CodeGenerator& code, Isa isa);

    void apply(std::span<const PostOp> post_ops, const TileRegisters& tile, const EpilogueContext& context);
    /// Loads and stores of a full vector, or of the valid lanes of the last one of a row (zero elsewhere).
    /// AVX2 code overwrites `mask_temp` with the mask.
    void load(int dst, const Xbyak::RegExp& address, bool masked, const EpilogueContext& context, int mask_temp);
    void store(const Xbyak::RegExp& address, int src, bool masked, const EpilogueContext& context, int mask_temp);
    /// Constants: to be called once, after the kernel's last instruction.
    void emit_tables() { math_.emit_tables(); }
    VectorMathEmitter& math() { return math_; }

  private:
    Xbyak::Xmm reg(int r) const { return math_.reg(r); }
    void zero(int r);
    void apply_unary(const PostOp& op, const TileRegisters& tile);
    void apply_channel(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context);
    void apply_tensor(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context);
    void emit_leaky(int r, const Xbyak::Xmm& slope, int temp);

    Xbyak::CodeGenerator& code_;
    VectorMathEmitter math_;
};

}  // namespace planish::cpu
