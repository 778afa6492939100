// Instruction selection of depthwise tiles.
//
// rdi arguments, rsi and rdx input and output at the tile, rcx channel offset in bytes, r8 weights of the channel
// block, r9 tiles left, r10 and r11 input and weights of a tap row, rax counter; the others hold operand pointers.
// AVX-512: k1 = lanes of the last, partial vector of channels.
#include "backends/cpu/jit/depthwise_code.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <string>

#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr int kBlock = 16;  // channels of a block of packed weights
constexpr int kBlockBytes = kBlock * sizeof(float);
constexpr int kMostWeightRegistersAvx512 = 12, kMostWeightRegistersAvx2 = 5;
constexpr int kLess = 0x11;

Xbyak::Reg64 operand_register(size_t index) {
    using namespace Xbyak::util;
    const std::array<Xbyak::Reg64, DepthwiseCode::kMaxOperands> registers = {rbx, rbp, r12, r13, r14, r15};
    return registers[index];
}

bool has_operand(const PostOp& op) {
    return has_channel_operand(op.kind) || has_tensor_operand(op.kind);
}

int weight_registers(const DepthwiseShape& s, Isa isa, int rows) {
    const int64_t taps = rows > 1 ? s.kernel_h * s.kernel_w : s.kernel_w;
    const int most = isa >= Isa::avx512 ? kMostWeightRegistersAvx512 : kMostWeightRegistersAvx2;
    return taps <= most ? static_cast<int>(taps) : 0;
}

}  // namespace

bool DepthwiseCode::two_rows(const DepthwiseShape& s, Isa isa) {
    return isa >= Isa::avx512 && s.kernel_h > 1 && weight_registers(s, isa, 2) > 0 && s.out_height() > 1;
}

int DepthwiseCode::max_columns(const DepthwiseShape& s, Isa isa, int rows) {
    // 2 registers for input vectors; on AVX2 1 for a mask, and 5 free of accumulators for the epilogue.
    const int free = isa >= Isa::avx512 ? 30 : 13;
    const int most = isa >= Isa::avx512 ? 14 : 10;
    return std::min((free - weight_registers(s, isa, rows)) / rows, most);
}

DepthwiseCode::DepthwiseCode(const DepthwiseShape& shape, const PostOps& post_ops, Isa isa)
    : JitCode(16384), s_(shape), post_ops_(post_ops), isa_(isa), math_(*this, isa) {
    if (static_cast<size_t>(std::count_if(post_ops.begin(), post_ops.end(), has_operand)) > kMaxOperands)
        fail(ErrorCode::unsupported, "depthwise convolution: more than 6 fused operands");
}

size_t DepthwiseCode::add_tile(const DepthwiseTile& tile) {
    const auto known = std::find_if(tiles_.begin(), tiles_.end(), [&](const Generated& g) { return g.tile == tile; });
    if (known != tiles_.end()) return static_cast<size_t>(known - tiles_.begin());
    const int64_t image_rows = std::max<int64_t>(tile.last_row, 1) + s_.dilation_h;
    const int64_t reach =
        (image_rows * s_.width + tile.columns * s_.stride_w + s_.kernel_w * s_.dilation_w) * s_.channels;
    const int64_t out_reach = (tile.rows * s_.out_width() + tile.columns) * s_.channels;
    const int64_t limit = std::numeric_limits<int32_t>::max() / static_cast<int64_t>(sizeof(float));
    if (std::max({reach, out_reach, s_.kernel_h * s_.kernel_w * kBlock}) > limit)
        fail(ErrorCode::unsupported, "depthwise convolution: one image row exceeds 2 GiB");
    tile_ = tile;
    weight_registers_ = weight_registers(s_, isa_, tile.rows);
    taps_.assign(static_cast<size_t>((tile.columns - 1) * s_.stride_w + (s_.kernel_w - 1) * s_.dilation_w + 1), {});
    for (int output = 0; output < tile.columns; ++output)
        for (int tap = 0; tap < s_.kernel_w; ++tap)
            taps_[static_cast<size_t>(output * s_.stride_w + tap * s_.dilation_w)].push_back({output, tap});
    assign_registers();
    align(16);
    tiles_.push_back({tile, getSize()});
    generate();
    return tiles_.size() - 1;
}

void DepthwiseCode::finish() {
    math_.emit_tables();
    align(32);
    L(tail_mask_);
    for (int64_t lane = 0; lane < 8; ++lane) dd(lane < s_.channels % 8 ? ~0u : 0u);
    publish("depthwise_f32_" + std::to_string(s_.kernel_h) + "x" + std::to_string(s_.kernel_w) + "_c" +
            std::to_string(s_.channels) + "_" + std::string(to_string(isa_)));
}

void DepthwiseCode::assign_registers() {
    const int registers = math_.is_avx512() ? 32 : 16;
    accumulators_ = tile_.rows * tile_.columns;
    weights_ = accumulators_;
    x_ = weights_ + weight_registers_;
    int last = registers;
    mask_register_ = -1;
    temps_.clear();
    if (!math_.is_avx512() && s_.channels % 8 != 0) mask_register_ = --last;
    for (int reg = accumulators_; reg < last; ++reg) temps_.push_back(reg);
    if (x_ >= last || temps_.size() < VectorMathEmitter::kTemps + 1)
        fail(ErrorCode::internal, "depthwise: a tile of " + std::to_string(accumulators_) + " outputs does not fit");
}

int64_t DepthwiseCode::output_offset(int acc) const {
    const int64_t row = acc / tile_.columns, column = acc % tile_.columns;
    return (row * s_.out_width() + column) * s_.channels * static_cast<int64_t>(sizeof(float));
}

void DepthwiseCode::advance(const Xbyak::Reg64& pointer, int64_t floats) {
    add(pointer, static_cast<int>(floats * static_cast<int64_t>(sizeof(float))));
}

void DepthwiseCode::generate() {
    const int64_t blocks = s_.channels / kBlock;
    const int64_t block_weights = s_.kernel_h * s_.kernel_w * kBlock;
    Xbyak::Label next_tile, next_block;
    for (size_t i = 0; i < kMaxOperands; ++i) push(operand_register(i));
    mov(rsi, ptr[rdi + offsetof(Args, x)]);
    mov(rdx, ptr[rdi + offsetof(Args, y)]);
    mov(r9, ptr[rdi + offsetof(Args, tiles)]);
    mov(rax, ptr[rdi + offsetof(Args, operands)]);
    size_t operands = 0;
    for (const PostOp& op : post_ops_) {
        if (!has_operand(op)) continue;
        mov(operand_register(operands), ptr[rax + static_cast<int>(operands * sizeof(float*))]);
        ++operands;
    }
    if (math_.is_avx512() && s_.channels % kBlock != 0) {
        mov(eax, (1 << (s_.channels % kBlock)) - 1);
        kmovw(k1, eax);
    }
    if (mask_register_ >= 0) vmovups(v(mask_register_), ptr[rip + tail_mask_]);

    L(next_tile);
    mov(r8, ptr[rdi + offsetof(Args, w)]);
    xor_(ecx, ecx);
    if (blocks > 0) {
        align(32);
        L(next_block);
        for (int half = 0; half < kBlockBytes; half += math_.is_avx512() ? 64 : 32) vectors(half, false);
        advance(r8, block_weights);
        add(rcx, kBlockBytes);
        if (blocks > 1) {
            cmp(rcx, static_cast<int>(blocks * kBlockBytes));
            jb(next_block, T_NEAR);
        }
    }
    tail();
    advance(rsi, tile_.columns * s_.stride_w * s_.channels);
    advance(rdx, tile_.columns * s_.channels);
    operands = 0;
    for (const PostOp& op : post_ops_) {
        if (!has_operand(op)) continue;
        if (has_tensor_operand(op.kind)) advance(operand_register(operands), tile_.columns * s_.channels);
        ++operands;
    }
    dec(r9);
    jnz(next_tile, T_NEAR);
    for (size_t i = kMaxOperands; i-- > 0;) pop(operand_register(i));
    vzeroupper();
    ret();
}

// The channels after the last full block.
void DepthwiseCode::tail() {
    const int64_t rest = s_.channels % kBlock;
    if (rest == 0) return;
    if (math_.is_avx512()) return vectors(0, true);
    if (rest >= 8) vectors(0, false);
    if (rest % 8 != 0) vectors(rest >= 8 ? 32 : 0, true);
}

// One vector of channels of the tile.
void DepthwiseCode::vectors(int half, bool masked) {
    half_ = half;
    initialise(masked);
    if (tile_.rows == 1) {
        tap_row_loop(masked);
    } else {
        load_weights(r8, static_cast<int>(s_.kernel_h * s_.kernel_w));
        for (int row = tile_.first_row; row < tile_.last_row; ++row) accumulate(rsi + rcx, row, masked);
    }
    epilogue(masked);
}

// Accumulators start at the bias, when that is what the epilogue begins with, else at zero.
void DepthwiseCode::initialise(bool masked) {
    const bool bias = !post_ops_.empty() && post_ops_.front().kind == PostOp::Kind::add_channel;
    if (bias) load(0, ptr[operand_register(0) + rcx + half_], masked);
    for (int acc = bias ? 1 : 0; acc < accumulators_; ++acc) {
        if (bias)
            vmovaps(v(acc), v(0));
        else
            math_.broadcast(acc, 0.0f);
    }
}

void DepthwiseCode::load_weights(const Xbyak::Reg64& base, int taps) {
    if (weight_registers_ == 0) return;
    for (int tap = 0; tap < taps; ++tap) vmovups(v(weights_ + tap), ptr[base + tap * kBlockBytes + half_]);
}

void DepthwiseCode::tap_row_loop(bool masked) {
    Xbyak::Label next, done;
    mov(rax, ptr[rdi + offsetof(Args, tap_rows)]);
    lea(r10, ptr[rsi + rcx]);
    mov(r11, r8);
    test(rax, rax);
    jz(done, T_NEAR);
    L(next);
    load_weights(r11, static_cast<int>(s_.kernel_w));
    accumulate(r10, 0, masked);
    advance(r10, s_.dilation_h * s_.width * s_.channels);
    advance(r11, s_.kernel_w * kBlock);
    dec(rax);
    jnz(next, T_NEAR);
    L(done);
}

// Adds what one row of input contributes: x[i] meets output t under tap k where i = t * stride + k * dilation, and
// likewise for rows. `row` addresses the tile's first column in row 0.
void DepthwiseCode::accumulate(const Xbyak::RegExp& row, int input_row, bool masked) {
    for (int column = tile_.first_column; column < tile_.last_column; ++column) {
        bool loaded = false;
        for (int r = 0; r < tile_.rows; ++r) {
            const int64_t below = input_row - r * s_.stride_h;
            if (below < 0 || below % s_.dilation_h != 0 || below / s_.dilation_h >= s_.kernel_h) continue;
            const int64_t tap_row = below / s_.dilation_h;
            for (const Tap& tap : taps_[static_cast<size_t>(column)]) {
                if (!loaded) {
                    const int64_t offset =
                        (input_row * s_.width + column) * s_.channels * static_cast<int64_t>(sizeof(float));
                    load(x_, ptr[row + static_cast<size_t>(offset) + half_], masked);
                    loaded = true;
                }
                const Xbyak::Xmm acc = v(accumulator(r, tap.output));
                const int weight = static_cast<int>(tap_row * s_.kernel_w) + tap.column;
                if (weight_registers_ != 0)
                    vfmadd231ps(acc, v(x_), v(weights_ + weight));
                else
                    vfmadd231ps(acc, v(x_), ptr[r11 + weight * kBlockBytes + half_]);
            }
        }
    }
}

void DepthwiseCode::epilogue(bool masked) {
    size_t operand = 0;
    for (size_t i = 0; i < post_ops_.size(); ++i) {
        const PostOp& op = post_ops_[i];
        if (has_channel_operand(op.kind)) {
            // The leading bias is in the accumulators already.
            if (i > 0 || op.kind != PostOp::Kind::add_channel)
                channel_op(op, ptr[operand_register(operand) + rcx + half_], masked);
        } else if (has_tensor_operand(op.kind)) {
            for (int acc = 0; acc < accumulators_; ++acc)
                tensor_op(op, acc, ptr[operand_register(operand) + rcx + static_cast<int>(output_offset(acc)) + half_],
                          masked);
        } else if (op.kind == PostOp::Kind::relu) {
            clamp_all(0.0f, 0.0f, false);
        } else if (op.kind == PostOp::Kind::clip) {
            clamp_all(op.alpha, op.beta, true);
        } else {
            for (int acc = 0; acc < accumulators_; ++acc) math_.apply(op, acc, temps_);
        }
        if (has_operand(op)) ++operand;
    }
    for (int acc = 0; acc < accumulators_; ++acc) {
        const Xbyak::Address address = ptr[rdx + rcx + static_cast<int>(output_offset(acc)) + half_];
        if (!masked)
            vmovups(address, v(acc));
        else if (math_.is_avx512())
            vmovups(address | k1, v(acc));
        else
            vmaskmovps(address, v(mask_register_), v(acc));
    }
}

// vmaxps and vminps keep a NaN in their last source only.
void DepthwiseCode::clamp_all(float low, float high, bool has_high) {
    math_.broadcast(temps_[0], low);
    if (has_high) math_.broadcast(temps_[1], high);
    for (int acc = 0; acc < accumulators_; ++acc) vmaxps(v(acc), v(temps_[0]), v(acc));
    for (int acc = 0; acc < accumulators_ && has_high; ++acc) vminps(v(acc), v(temps_[1]), v(acc));
}

void DepthwiseCode::channel_op(const PostOp& op, const Xbyak::Address& operand, bool masked) {
    const Xbyak::Xmm value = v(temps_[0]), product = v(temps_[1]), negative = v(temps_[2]);
    load(temps_[0], operand, masked);
    for (int acc = 0; acc < accumulators_; ++acc) {
        if (op.kind == PostOp::Kind::add_channel) {
            vaddps(v(acc), v(acc), value);
        } else if (op.kind == PostOp::Kind::mul_channel) {
            vmulps(v(acc), v(acc), value);
        } else if (math_.is_avx512()) {
            vcmpps(k7, v(acc), math_.constant(0.0f), kLess);
            vmulps(v(acc) | k7, v(acc), value);
        } else {
            vcmpps(negative, v(acc), math_.constant(0.0f), kLess);
            vmulps(product, v(acc), value);
            vblendvps(v(acc), v(acc), product, negative);
        }
    }
}

void DepthwiseCode::tensor_op(const PostOp& op, int acc, const Xbyak::Address& operand, bool masked) {
    const Xbyak::Xmm x = v(acc), b = v(temps_[0]);
    load(temps_[0], operand, masked);
    switch (op.kind) {
        case PostOp::Kind::add_tensor:
            return vaddps(x, x, b);
        case PostOp::Kind::sub_tensor:
            return vsubps(x, x, b);
        case PostOp::Kind::rsub_tensor:
            return vsubps(x, b, x);
        case PostOp::Kind::mul_tensor:
            return vmulps(x, x, b);
        case PostOp::Kind::div_tensor:
            return vdivps(x, x, b);
        default:
            break;
    }
    // NaN if either is: the instructions return the last source, so only a NaN in b needs care.
    const Xbyak::Xmm t = v(temps_[1]);
    op.kind == PostOp::Kind::max_tensor ? vmaxps(x, b, x) : vminps(x, b, x);
    if (math_.is_avx512()) {
        vcmpps(k7, b, b, 3);
        vmovaps(x | k7, b);
    } else {
        vcmpps(t, b, b, 3);
        vblendvps(x, x, b, t);
    }
}

void DepthwiseCode::load(int reg, const Xbyak::Address& address, bool masked) {
    if (!masked)
        vmovups(v(reg), address);
    else if (math_.is_avx512())
        vmovups(v(reg) | k1 | T_z, address);
    else
        vmaskmovps(v(reg), v(mask_register_), address);
}

}  // namespace planish::cpu
