// Post-ops over a tile: constants and channel vectors are loaded once for all rows.
#include "backends/cpu/jit/epilogue.hpp"

#include "planish/error.hpp"

namespace planish::cpu {

using Xbyak::Reg64;
using Xbyak::RegExp;
using Xbyak::Xmm;
using Xbyak::Ymm;
using Xbyak::Zmm;

RegExp RowPointers::at(int row, int displacement) const {
    const Reg64& base = bases[static_cast<size_t>(row / 3)];
    const int step = row % 3;
    return step == 0 ? base + displacement : base + stride * step + displacement;
}

void RowPointers::emit_spread(Xbyak::CodeGenerator& code, int rows, const Reg64& scratch) const {
    if (rows <= 3) return;
    code.lea(scratch, code.ptr[stride + stride * 2]);
    for (int j = 1; 3 * j < rows; ++j) {
        code.lea(bases[static_cast<size_t>(j)], code.ptr[bases[static_cast<size_t>(j - 1)] + scratch]);
    }
}

EpilogueEmitter::EpilogueEmitter(Xbyak::CodeGenerator& code, Isa isa, bool narrow_avx512)
    : code_(code), math_(code, isa), narrow_avx512_(narrow_avx512) {}

void EpilogueEmitter::zero(int r) {
    if (r < 16) {
        code_.vxorps(Xmm(r), Xmm(r), Xmm(r));
    } else {
        code_.vpxord(Zmm(r), Zmm(r), Zmm(r));
    }
}

void EpilogueEmitter::load(int dst, const RegExp& address, bool masked, const EpilogueContext& context, int mask_temp) {
    if (!masked) {
        code_.vmovups(reg(dst), code_.ptr[address]);
    } else if (math_.is_avx512()) {
        code_.vmovups(Zmm(dst) | context.tail_opmask | Xbyak::util::T_z, code_.ptr[address]);
    } else {
        code_.mov(context.scratch, code_.ptr[context.tail_mask]);
        code_.vmovups(Ymm(mask_temp), code_.ptr[context.scratch]);
        code_.vmaskmovps(Ymm(dst), Ymm(mask_temp), code_.ptr[address]);
    }
}

void EpilogueEmitter::store(const RegExp& address, int src, bool masked, const EpilogueContext& context,
                            int mask_temp) {
    if (!masked) {
        code_.vmovups(code_.ptr[address], reg(src));
    } else if (math_.is_avx512()) {
        code_.vmovups(code_.ptr[address] | context.tail_opmask, Zmm(src));
    } else {
        code_.mov(context.scratch, code_.ptr[context.tail_mask]);
        code_.vmovups(Ymm(mask_temp), code_.ptr[context.scratch]);
        code_.vmaskmovps(code_.ptr[address], Ymm(mask_temp), Ymm(src));
    }
}

void EpilogueEmitter::load_bytes(int dst, const RegExp& address, int tail, const EpilogueContext& context) {
    const Xmm low(dst);
    if (math_.is_avx512()) {
        code_.vpmovzxbd(tail == 0 ? Zmm(dst) : Zmm(dst) | context.tail_opmask | Xbyak::util::T_z, code_.ptr[address]);
    } else if (tail == 0) {
        code_.vpmovzxbd(Ymm(dst), code_.ptr[address]);
    } else {
        int done = 0;
        if ((tail & 4) != 0) {
            code_.vmovd(low, code_.ptr[address]);
            done = 4;
        } else {
            code_.vpxor(low, low, low);
        }
        if ((tail & 2) != 0) {
            code_.vpinsrw(low, low, code_.ptr[address + done], static_cast<uint8_t>(done / 2));
            done += 2;
        }
        if ((tail & 1) != 0) code_.vpinsrb(low, low, code_.ptr[address + done], static_cast<uint8_t>(done));
        code_.vpmovzxbd(Ymm(dst), low);
    }
    code_.vcvtdq2ps(reg(dst), reg(dst));
}

// Converted integers are taken as unsigned where AVX-512 narrows them: what overflowed is 2^31 then, and saturates.
void EpilogueEmitter::store_bytes(const RegExp& address, int src, int tail, const EpilogueContext& context, int temp) {
    const Xmm low(src);
    code_.vcvtps2dq(reg(src), reg(src));
    if (math_.is_avx512()) {
        const Xbyak::Address to = code_.ptr[address];
        return code_.vpmovusdb(tail == 0 ? to : to | context.tail_opmask, Zmm(src));
    }
    if (narrow_avx512_) {
        if (tail == 0) return code_.vpmovusdb(code_.ptr[address], Ymm(src));
        code_.vpmovusdb(low, Ymm(src));
    } else {
        code_.vextracti128(Xmm(temp), Ymm(src), 1);
        code_.vpackusdw(low, low, Xmm(temp));
        code_.vpackuswb(low, low, low);
        if (tail == 0) return code_.vmovq(code_.ptr[address], low);
    }
    int done = 0;
    if ((tail & 4) != 0) {
        code_.vmovd(code_.ptr[address], low);
        done = 4;
    }
    if ((tail & 2) != 0) {
        code_.vpextrw(code_.ptr[address + done], low, static_cast<uint8_t>(done / 2));
        done += 2;
    }
    if ((tail & 1) != 0) code_.vpextrb(code_.ptr[address + done], low, static_cast<uint8_t>(done));
}

void EpilogueEmitter::apply(std::span<const PostOp> post_ops, const TileRegisters& tile,
                            const EpilogueContext& context) {
    for (const PostOp& op : post_ops) {
        if (has_tensor_operand(op.kind)) {
            apply_tensor(op, tile, context);
        } else if (has_channel_operand(op.kind)) {
            apply_channel(op, tile, context);
        } else {
            apply_unary(op, tile);
        }
    }
}

// x >= 0 ? x : slope * x. NaN keeps its sign bit, and either branch keeps it NaN.
void EpilogueEmitter::emit_leaky(int r, const Xmm& slope, int temp) {
    if (math_.is_avx512()) {
        code_.vpmovd2m(Xbyak::util::k2, Zmm(r));
        code_.vmulps(Zmm(r) | Xbyak::util::k2, Zmm(r), Zmm(slope.getIdx()));
    } else {
        code_.vmulps(reg(temp), reg(r), slope);
        code_.vblendvps(Ymm(r), Ymm(r), Ymm(temp), Ymm(r));
    }
}

// In `vmaxps dst, a, b` a NaN in either gives b: so x stands last, and NaN stays NaN.
void EpilogueEmitter::apply_unary(const PostOp& op, const TileRegisters& tile) {
    const int t0 = tile.temp(0), t1 = tile.temp(1), t2 = tile.temp(2);
    switch (op.kind) {
        case PostOp::Kind::relu:
            zero(t0);
            for (int r = tile.first; r < tile.end(); ++r) code_.vmaxps(reg(r), reg(t0), reg(r));
            return;
        case PostOp::Kind::clip:
            math_.broadcast(t0, op.alpha);
            math_.broadcast(t1, op.beta);
            for (int r = tile.first; r < tile.end(); ++r) {
                code_.vmaxps(reg(r), reg(t0), reg(r));
                code_.vminps(reg(r), reg(t1), reg(r));
            }
            return;
        case PostOp::Kind::leaky_relu:
            math_.broadcast(t0, op.alpha);
            for (int r = tile.first; r < tile.end(); ++r) emit_leaky(r, reg(t0), t1);
            return;
        case PostOp::Kind::scale_shift:
            math_.broadcast(t0, op.alpha);
            math_.broadcast(t1, op.beta);
            for (int r = tile.first; r < tile.end(); ++r) code_.vfmadd213ps(reg(r), reg(t0), reg(t1));
            return;
        case PostOp::Kind::hard_swish:
            zero(t1);
            for (int r = tile.first; r < tile.end(); ++r) {
                math_.broadcast(t0, 1.0F / 6.0F);
                math_.broadcast(t2, 0.5F);
                code_.vfmadd213ps(reg(t0), reg(r), reg(t2));
                math_.broadcast(t2, 1.0F);
                code_.vmaxps(reg(t0), reg(t1), reg(t0));
                code_.vminps(reg(t0), reg(t2), reg(t0));
                code_.vmulps(reg(r), reg(r), reg(t0));
            }
            return;
        default: {
            const std::array<int, VectorMathEmitter::kTemps> temps = {t0, t1, t2, tile.temp(3)};
            for (int r = tile.first; r < tile.end(); ++r) math_.apply(op, r, temps);
        }
    }
}

void EpilogueEmitter::apply_channel(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context) {
    const int operand = tile.temp(0), temp = tile.temp(1);
    const Reg64& base = context.rows.bases[0];
    const int vector_bytes = math_.is_avx512() ? 64 : 32;
    code_.mov(base, code_.ptr[context.operands]);
    code_.mov(base, code_.ptr[base + op.operand * 8]);
    code_.add(base, code_.ptr[context.column_offset]);
    for (int v = 0; v < tile.vectors; ++v) {
        load(operand, base + v * vector_bytes, tile.masked && v + 1 == tile.vectors, context, temp);
        for (int row = 0; row < tile.rows; ++row) {
            const int r = tile.at(row, v);
            switch (op.kind) {
                case PostOp::Kind::add_channel:
                    code_.vaddps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::mul_channel:
                    code_.vmulps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::prelu_channel:
                    emit_leaky(r, reg(operand), temp);
                    break;
                default:
                    fail(ErrorCode::internal, "post-op has no channel operand");
            }
        }
    }
}

/// From bytes of elements of one size to those of another; 1 and 4 are the sizes.
void EpilogueEmitter::scale_offset(const Reg64& offset, int from, int to) {
    if (from < to) code_.shl(offset, 2);
    if (from > to) code_.sar(offset, 2);
}

void EpilogueEmitter::apply_tensor(const PostOp& op, const TileRegisters& tile, const EpilogueContext& context) {
    const int operand = tile.temp(0), temp = tile.temp(1);
    const int vector_bytes = math_.is_avx512() ? 64 : 32;
    const Reg64& base = context.rows.bases[0];
    code_.mov(base, code_.ptr[context.operands]);
    code_.mov(base, code_.ptr[base + op.operand * 8]);
    // Offsets in bytes of C become those of the operand.
    const int element = op.bytes ? 1 : 4;
    if (element == context.element) {
        code_.add(base, context.tensor_offset);
    } else {
        code_.mov(context.scratch, context.tensor_offset);
        scale_offset(context.scratch, context.element, element);
        code_.add(base, context.scratch);
        scale_offset(context.rows.stride, context.element, element);
    }
    context.rows.emit_spread(code_, tile.rows, context.scratch);
    const bool multiplies = op.bytes && op.kind == PostOp::Kind::add_tensor && op.beta == 0;
    if (op.bytes) {
        math_.broadcast(tile.temp(2), op.alpha);
        if (!multiplies) math_.broadcast(tile.temp(3), op.beta);
    }
    for (int row = 0; row < tile.rows; ++row) {
        for (int v = 0; v < tile.vectors; ++v) {
            const int r = tile.at(row, v);
            const bool last = tile.masked && v + 1 == tile.vectors;
            const RegExp address = context.rows.at(row, v * vector_bytes / 4 * element);
            if (op.bytes) {
                load_bytes(operand, address, last ? tile.tail : 0, context);
                if (multiplies) {
                    code_.vfmadd231ps(reg(r), reg(operand), reg(tile.temp(2)));
                    continue;
                }
                code_.vfmadd213ps(reg(operand), reg(tile.temp(2)), reg(tile.temp(3)));
            } else {
                load(operand, address, last, context, temp);
            }
            switch (op.kind) {
                case PostOp::Kind::add_tensor:
                    code_.vaddps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::sub_tensor:
                    code_.vsubps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::rsub_tensor:
                    code_.vsubps(reg(r), reg(operand), reg(r));
                    break;
                case PostOp::Kind::mul_tensor:
                    code_.vmulps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::div_tensor:
                    code_.vdivps(reg(r), reg(r), reg(operand));
                    break;
                case PostOp::Kind::max_tensor:
                    code_.vmaxps(reg(r), reg(operand), reg(r));
                    break;
                case PostOp::Kind::min_tensor:
                    code_.vminps(reg(r), reg(operand), reg(r));
                    break;
                default:
                    fail(ErrorCode::internal, "post-op has no tensor operand");
            }
        }
    }
    if (element != context.element) scale_offset(context.rows.stride, element, context.element);
}

}  // namespace planish::cpu
