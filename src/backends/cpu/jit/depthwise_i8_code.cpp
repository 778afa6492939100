// Instruction selection of 8-bit depthwise tiles.
//
// Tiles: rdi arguments, rsi interleaved input, rdx output, rcx filter, r8 channel constants, r9 tiles left, r10 and r11
// input and filter of a group, rax groups left. Rows: rdi arguments, rax bytes from column 0, rdx output, rcx filter,
// r8 channel constants, others pointers to input rows. Both: rbx, rbp, r12, r13 tensor operands.
#include "backends/cpu/jit/depthwise_i8_code.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>

#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr int kMostWeightRegisters = 5;
constexpr int kMostUnrolledGroups = 2;
constexpr int kLess = 0x11;
// Below 2^31 and above all that is stored differently from it, whatever the zero point.
constexpr float kLargest = 0x1p30f;

Xbyak::Reg64 operand_register(size_t index) {
    using namespace Xbyak::util;
    const std::array<Xbyak::Reg64, DepthwiseI8Code::kMaxOperands> registers = {rbx, rbp, r12, r13};
    return registers[index];
}

constexpr int kInterleaveRegisters = 5;
const std::array<Xbyak::Reg64, 4> kInputRows = {Xbyak::util::r9, Xbyak::util::r10, Xbyak::util::r11, Xbyak::util::rsi};

// Filter columns in registers; 0: they are memory operands. Without VNNI a register is needed for products.
int weight_registers(const DepthwiseShape& s, Isa isa) {
    return isa >= Isa::avx512_vnni && s.kernel_w <= kMostWeightRegisters ? static_cast<int>(s.kernel_w) : 0;
}

}  // namespace

int DepthwiseI8Code::max_columns(const DepthwiseShape& s, Isa isa) {
    // Beside weights: a pixel, without VNNI its products, a vector of scales and one of biases.
    const int others = weight_registers(s, isa) + (isa >= Isa::avx512_vnni ? 3 : 4);
    return (vector_registers(isa) - std::max(others, VectorMathEmitter::kTemps)) / kVectors;
}

DepthwiseI8Code::DepthwiseI8Code(const DepthwiseShape& shape, const PostOps& post_ops,
                                 const DepthwiseI8Options& options, Isa isa)
    : JitCode(16384), s_(shape), post_ops_(post_ops), options_(options), isa_(isa), math_(*this, isa) {
    const auto tensors =
        std::count_if(post_ops.begin(), post_ops.end(), [](const PostOp& op) { return has_tensor_operand(op.kind); });
    if (static_cast<size_t>(tensors) > kMaxOperands)
        fail(ErrorCode::unsupported, "8-bit depthwise convolution: more than 4 fused tensors");
    groups_ = static_cast<int>((s_.kernel_h + group_rows(isa) - 1) / group_rows(isa));
    fold_output();
}

uint32_t DepthwiseI8Code::stored(float real) const {
    const float quanta = std::nearbyint(real / options_.output->scale) + static_cast<float>(options_.output->zero);
    return static_cast<uint32_t>(std::clamp(quanta, 0.0f, 255.0f));
}

// Storing is monotone, so that bounds on what is stored become bounds on bytes.
void DepthwiseI8Code::fold_output() {
    folded_ = options_.output && std::all_of(post_ops_.begin(), post_ops_.end(), [](const PostOp& op) {
                  return op.kind == PostOp::Kind::relu || op.kind == PostOp::Kind::clip;
              });
    if (!folded_) return;
    for (const PostOp& op : post_ops_) {
        const bool clip = op.kind == PostOp::Kind::clip;
        const uint32_t low = stored(clip ? op.alpha : 0), high = clip ? stored(op.beta) : 255;
        low_ = std::clamp(low_, low, high);
        high_ = std::clamp(high_, low, high);
    }
}

Xbyak::Xmm DepthwiseI8Code::v(int index) const {
    const auto kind = width_ == 64 ? Xbyak::Operand::ZMM : width_ == 32 ? Xbyak::Operand::YMM : Xbyak::Operand::XMM;
    return Xbyak::Xmm(kind, index);
}

DepthwiseI8Code::Pixels DepthwiseI8Code::pixels() const {
    Pixels result;
    for (int column = 0; column < columns_; ++column) result.push_back(acc(column, 0));
    return result;
}

size_t DepthwiseI8Code::begin_entry() {
    align(32);
    entries_.push_back(getSize());
    return entries_.size() - 1;
}

size_t DepthwiseI8Code::add_interleave(int width, int rows) {
    const size_t entry = begin_entry();
    width_ = width;
    const std::array<Xbyak::Reg64, 4> pointers = {rsi, rdx, rcx, r8};
    const bool bytes = group_rows(isa_) == 4;
    Xbyak::Label next;
    for (int row = 0; row < rows; ++row)
        mov(pointers[static_cast<size_t>(row)], ptr[rdi + static_cast<int>(offsetof(InterleaveArgs, rows)) + 8 * row]);
    mov(r9, ptr[rdi + offsetof(InterleaveArgs, columns)]);
    mov(r10, ptr[rdi + offsetof(InterleaveArgs, to)]);
    xor_(eax, eax);
    const int zero = 8;
    vpxor(xmm8, xmm8, xmm8);
    align(32);
    L(next);
    // What a missing row holds meets weights of zero.
    for (int row = 0; row < rows; ++row) vmovups(v(row), ptr[pointers[static_cast<size_t>(row)] + rax]);
    const auto source = [&](int row) { return v(std::min(row, rows - 1)); };
    vpunpcklbw(v(4), v(0), source(1));
    vpunpckhbw(v(5), v(0), source(1));
    if (bytes) {
        vpunpcklbw(v(6), source(2), source(3));
        vpunpckhbw(v(7), source(2), source(3));
        vpunpcklwd(v(0), v(4), v(6));
        vpunpckhwd(v(1), v(4), v(6));
        vpunpcklwd(v(2), v(5), v(7));
        vpunpckhwd(v(3), v(5), v(7));
    } else {
        vpunpcklbw(v(0), v(4), v(zero));
        vpunpckhbw(v(1), v(4), v(zero));
        vpunpcklbw(v(2), v(5), v(zero));
        vpunpckhbw(v(3), v(5), v(zero));
    }
    for (int i = 0; i < kVectors; ++i) vmovups(ptr[r10 + i * vector_bytes()], v(i));
    add(rax, static_cast<int>(s_.channels));
    add(r10, static_cast<int>(column_bytes()));
    dec(r9);
    jnz(next, T_NEAR);
    vzeroupper();
    ret();
    return entry;
}

size_t DepthwiseI8Code::add_tile(int width, int columns) {
    const size_t entry = begin_entry();
    width_ = width;
    columns_ = columns;
    weight_registers_ = weight_registers(s_, isa_);
    Xbyak::Label next;
    for (size_t i = 0; i < kMaxOperands; ++i) push(operand_register(i));
    mov(rsi, ptr[rdi + offsetof(TileArgs, x)]);
    mov(rdx, ptr[rdi + offsetof(TileArgs, y)]);
    mov(rcx, ptr[rdi + offsetof(TileArgs, filter)]);
    mov(r8, ptr[rdi + offsetof(TileArgs, channel)]);
    mov(r9, ptr[rdi + offsetof(TileArgs, tiles)]);
    load_operands(ptr[rdi + offsetof(TileArgs, operands)]);
    align(32);
    L(next);
    groups_ <= kMostUnrolledGroups ? sums_in_turns() : sums();
    epilogue(pixels(), acc(columns_, 0));
    add(rsi, static_cast<int>(columns_ * s_.stride_w * column_bytes()));
    advance_outputs(columns_);
    dec(r9);
    jnz(next, T_NEAR);
    for (size_t i = kMaxOperands; i-- > 0;) pop(operand_register(i));
    vzeroupper();
    ret();
    return entry;
}

void DepthwiseI8Code::load_operands(const Xbyak::Address& list) {
    mov(rax, list);
    size_t tensors = 0;
    for (const PostOp& op : post_ops_)
        if (has_tensor_operand(op.kind)) {
            mov(operand_register(tensors), ptr[rax + static_cast<int>(8 * tensors)]);
            ++tensors;
        }
}

void DepthwiseI8Code::advance_outputs(int columns) {
    const auto step = static_cast<int>(columns * std::max<int64_t>(s_.channels, 16));
    add(rdx, options_.output ? step : 4 * step);
    size_t tensors = 0;
    for (const PostOp& op : post_ops_)
        if (has_tensor_operand(op.kind)) add(operand_register(tensors++), op.bytes ? step : 4 * step);
}

bool DepthwiseI8Code::rows_in_registers(const DepthwiseShape& s, Isa isa) {
    if (isa < Isa::avx512_vnni || s.kernel_h > group_rows(isa) || s.dilation_w != 1 || s.kernel_w < s.stride_w)
        return false;
    const int64_t live = (s.kernel_w + s.stride_w - 1) / s.stride_w;
    return live * kVectors + kInterleaveRegisters <= vector_registers(isa);
}

// Outputs of a row from left to right. Each pixel of the input rows is interleaved in registers and meets all outputs
// that it lies under, `live_` of them; then the leftmost of these is complete.
size_t DepthwiseI8Code::add_row(int width) {
    const size_t entry = begin_entry();
    width_ = width;
    const auto kernel = static_cast<int>(s_.kernel_w), stride = static_cast<int>(s_.stride_w);
    live_ = (kernel + stride - 1) / stride;
    const int filter_vectors = kVectors * kernel;
    const int interleaved = live_ * kVectors;
    weight_registers_ =
        interleaved + kInterleaveRegisters + filter_vectors <= vector_registers(isa_) ? filter_vectors : 0;
    for (size_t i = 0; i < kMaxOperands; ++i) push(operand_register(i));
    load_operands(ptr[rdi + offsetof(RowArgs, operands)]);
    mov(rdx, ptr[rdi + offsetof(RowArgs, y)]);
    mov(rcx, ptr[rdi + offsetof(RowArgs, filter)]);
    mov(r8, ptr[rdi + offsetof(RowArgs, channel)]);
    mov(rax, ptr[rdi + offsetof(RowArgs, first)]);
    for (int row = 0; row < s_.kernel_h; ++row)
        mov(kInputRows[static_cast<size_t>(row)], ptr[rdi + static_cast<int>(offsetof(RowArgs, rows)) + 8 * row]);
    for (int i = 0; i < weight_registers_; ++i)
        vmovups(v(interleaved + kInterleaveRegisters + i), ptr[rcx + i * vector_bytes()]);
    for (int column = 0; column < kernel - stride; ++column) row_column(column);
    Xbyak::Label next, done;
    align(32);
    L(next);
    for (int output = 0; output < live_; ++output) {
        for (int i = 0; i < stride; ++i) row_column(output * stride + kernel - stride + i);
        for (int vector = 0; vector < kVectors; ++vector) {
            std::vector<Instruction> conversions;
            append_conversions(conversions, {output * kVectors}, vector, interleaved);
            for (const Instruction& instruction : conversions) instruction();
        }
        epilogue({output * kVectors}, interleaved);
        advance_outputs(1);
        dec(qword[rdi + offsetof(RowArgs, outputs)]);
        output + 1 < live_ ? jz(done, T_NEAR) : jnz(next, T_NEAR);
    }
    L(done);
    for (size_t i = kMaxOperands; i-- > 0;) pop(operand_register(i));
    vzeroupper();
    ret();
    return entry;
}

// Adds what the pixels of input column `column` contribute, counted from the first tap of an output in slot 0.
void DepthwiseI8Code::row_column(int column) {
    const int first = live_ * kVectors;
    const auto kernel = static_cast<int>(s_.kernel_w), stride = static_cast<int>(s_.stride_w);
    if (column % stride == 0)
        for (int vector = 0; vector < kVectors; ++vector)
            vmovups(v(column / stride % live_ * kVectors + vector),
                    ptr[r8 + (correction * kVectors + vector) * vector_bytes()]);
    Xbyak::Label padding, products;
    test(rax, rax);
    js(padding, T_NEAR);
    cmp(rax, static_cast<int>(s_.width * s_.channels));
    jge(padding, T_NEAR);
    const int rows = static_cast<int>(s_.kernel_h);
    const auto source = [&](int row) { return v(first + std::min(row, rows - 1)); };
    for (int row = 0; row < rows; ++row) vmovups(v(first + row), ptr[kInputRows[static_cast<size_t>(row)] + rax]);
    // In place: what a missing row holds meets weights of zero.
    const Xbyak::Xmm t = v(first + 4);
    vpunpcklbw(t, source(0), source(1));
    vpunpckhbw(v(first), source(0), source(1));
    if (rows > 2) {
        const Xbyak::Xmm third = source(2), last = source(3);
        vpunpcklbw(v(first + 1), third, last);
        vpunpckhbw(v(first + 2), third, last);
    } else {
        vmovaps(v(first + 1), t);
        vmovaps(v(first + 2), v(first));
    }
    vpunpcklwd(v(first + 3), t, v(first + 1));
    vpunpckhwd(t, t, v(first + 1));
    vpunpcklwd(v(first + 1), v(first), v(first + 2));
    vpunpckhwd(v(first + 2), v(first), v(first + 2));
    jmp(products, T_NEAR);
    L(padding);
    repeat(first + 1, static_cast<uint32_t>(options_.x_zero), 0x1010101);
    for (int vector = 1; vector < kVectors; ++vector) vmovaps(v(first + 1 + vector), v(first + 1));
    L(products);
    const int interleaved[kVectors] = {first + 3, first + 4, first + 1, first + 2};
    for (int tap = kernel - 1; tap >= 0; --tap) {
        if (column - tap < 0 || (column - tap) % stride != 0) continue;
        const int slot = (column - tap) / stride % live_;
        for (int vector = 0; vector < kVectors; ++vector) {
            const int weight = vector * kernel + tap;
            if (weight_registers_ != 0)
                vpdpbusd(v(slot * kVectors + vector), v(interleaved[vector]), v(first + kInterleaveRegisters + weight));
            else
                vpdpbusd(v(slot * kVectors + vector), v(interleaved[vector]), ptr[rcx + weight * vector_bytes()]);
        }
    }
    add(rax, static_cast<int>(s_.channels));
}

void DepthwiseI8Code::finish() {
    math_.emit_tables();
    publish("depthwise_i8_" + std::to_string(s_.kernel_h) + "x" + std::to_string(s_.kernel_w) + "_c" +
            std::to_string(s_.channels) + "_" + std::string(to_string(isa_)));
}

void DepthwiseI8Code::initialise(int vector) {
    vmovups(v(acc(0, vector)), ptr[r8 + (correction * kVectors + vector) * vector_bytes()]);
    for (int column = 1; column < columns_; ++column) vmovaps(v(acc(column, vector)), v(acc(0, vector)));
}

// Products and conversions go to different ports, but a tile has more of both than the processor looks ahead: so the
// products of each vector are written among the conversions of the one before it.
void DepthwiseI8Code::sums_in_turns() {
    std::vector<Instruction> conversions;
    for (int vector = 0; vector < kVectors; ++vector) {
        initialise(vector);
        std::vector<Instruction> products;
        for (int group = 0; group < groups_; ++group)
            append_products(products, rsi + group * kVectors * vector_bytes(),
                            rcx + static_cast<int>(group * kVectors * s_.kernel_w * vector_bytes()), vector);
        size_t done = 0;
        for (size_t i = 0; i < products.size(); ++i) {
            products[i]();
            for (; done * products.size() < (i + 1) * conversions.size(); ++done) conversions[done]();
        }
        conversions.clear();
        append_conversions(conversions, pixels(), vector, vector_registers(isa_) - 2);
    }
    for (const Instruction& instruction : conversions) instruction();
}

void DepthwiseI8Code::sums() {
    for (int vector = 0; vector < kVectors; ++vector) initialise(vector);
    std::vector<Instruction> instructions;
    Xbyak::Label next;
    mov(r10, rsi);
    mov(r11, rcx);
    mov(eax, groups_);
    L(next);
    for (int vector = 0; vector < kVectors; ++vector) append_products(instructions, r10, r11, vector);
    for (const Instruction& instruction : instructions) instruction();
    add(r10, kVectors * vector_bytes());
    add(r11, static_cast<int>(kVectors * s_.kernel_w * vector_bytes()));
    dec(eax);
    jnz(next, T_NEAR);
    instructions.clear();
    for (int vector = 0; vector < kVectors; ++vector)
        append_conversions(instructions, pixels(), vector, vector_registers(isa_) - 2);
    for (const Instruction& instruction : instructions) instruction();
}

// Of one group. Each interleaved pixel is loaded once and meets every output that it lies under.
void DepthwiseI8Code::append_products(std::vector<Instruction>& to, const Xbyak::RegExp& pixels,
                                      const Xbyak::RegExp& filter, int vector) {
    const int first_weight = acc(columns_, 0), x = first_weight + weight_registers_;
    const auto weights = [=, this](int64_t tap) {
        return ptr[filter + static_cast<int>((vector * s_.kernel_w + tap) * vector_bytes())];
    };
    for (int tap = 0; tap < weight_registers_; ++tap)
        to.push_back([=, this] { vmovups(v(first_weight + tap), weights(tap)); });
    const int64_t count = (columns_ - 1) * s_.stride_w + (s_.kernel_w - 1) * s_.dilation_w + 1;
    for (int64_t pixel = 0; pixel < count; ++pixel) {
        bool loaded = false;
        for (int column = 0; column < columns_; ++column) {
            const int64_t distance = pixel - column * s_.stride_w, tap = distance / s_.dilation_w;
            if (distance < 0 || distance % s_.dilation_w != 0 || tap >= s_.kernel_w) continue;
            if (!loaded) {
                const auto offset = static_cast<int>(pixel * column_bytes() + vector * vector_bytes());
                to.push_back([=, this] { vmovups(v(x), ptr[pixels + offset]); });
            }
            loaded = true;
            to.push_back([=, this] {
                if (weight_registers_ != 0)
                    dot(acc(column, vector), x, v(first_weight + static_cast<int>(tap)));
                else
                    dot(acc(column, vector), x, weights(tap));
            });
        }
    }
}

void DepthwiseI8Code::dot(int acc, int x, const Xbyak::Operand& weights) {
    if (isa_ >= Isa::avx512_vnni) return vpdpbusd(v(acc), v(x), weights);
    const Xbyak::Xmm products = v(x + 1);
    vpmaddwd(products, v(x), weights);
    vpaddd(v(acc), v(acc), products);
}

// Sums to what the post-ops work on: integers to be stored where those are folded, else reals.
void DepthwiseI8Code::append_conversions(std::vector<Instruction>& to, const Pixels& pixels, int vector, int temp) {
    const int factor = temp, addend = temp + 1;
    to.push_back([=, this] { vmovups(v(factor), ptr[r8 + (scale * kVectors + vector) * vector_bytes()]); });
    to.push_back([=, this] { vmovups(v(addend), ptr[r8 + (bias * kVectors + vector) * vector_bytes()]); });
    for (const int pixel : pixels) to.push_back([=, this] { vcvtdq2ps(v(pixel + vector), v(pixel + vector)); });
    for (const int pixel : pixels) to.push_back([=, this] { vfmadd213ps(v(pixel + vector), v(factor), v(addend)); });
    if (!folded_) return;
    for (const int pixel : pixels) to.push_back([=, this] { to_integer(pixel + vector); });
}

void DepthwiseI8Code::epilogue(const Pixels& pixels, int temp) {
    std::vector<int> temps(VectorMathEmitter::kTemps);
    std::iota(temps.begin(), temps.end(), temp);
    int channel_vector = first_operand;
    size_t tensor = 0;
    for (const PostOp& op : post_ops_) {
        if (folded_) break;
        if (has_channel_operand(op.kind)) {
            channel_op(op, channel_vector++ * kVectors, pixels, temp);
        } else if (has_tensor_operand(op.kind)) {
            tensor_op(op, operand_register(tensor++), pixels, temp);
        } else {
            for (const int pixel : pixels)
                for (int vector = 0; vector < kVectors; ++vector) math_.apply(op, pixel + vector, temps);
        }
    }
    options_.output ? store_bytes(pixels, temp) : store_floats(pixels);
}

void DepthwiseI8Code::channel_op(const PostOp& op, int first_vector, const Pixels& pixels, int temp) {
    const int operand = temp, product = temp + 1, negative = temp + 2;
    for (int vector = 0; vector < kVectors; ++vector) {
        vmovups(v(operand), ptr[r8 + (first_vector + vector) * vector_bytes()]);
        for (const int pixel : pixels) {
            const Xbyak::Xmm y = v(pixel + vector);
            if (op.kind == PostOp::Kind::add_channel) {
                vaddps(y, y, v(operand));
            } else if (op.kind == PostOp::Kind::mul_channel) {
                vmulps(y, y, v(operand));
            } else {
                math_.broadcast(negative, 0.0f);
                vmulps(v(product), y, v(operand));
                if (math_.is_avx512()) {
                    vcmpps(k7, y, v(negative), kLess);
                    vmovaps(y | k7, v(product));
                } else {
                    vcmpps(v(negative), y, v(negative), kLess);
                    vblendvps(y, y, v(product), v(negative));
                }
            }
        }
    }
}

// Floats in memory order -> the lanes of dword vector `vector`.
void DepthwiseI8Code::load_spread(int reg, const Xbyak::RegExp& base, int vector) {
    vmovups(Xbyak::Xmm(reg), ptr[base + 16 * vector]);
    for (int lane = 1; lane < width_ / 16; ++lane) {
        const Xbyak::Address address = ptr[base + 64 * lane + 16 * vector];
        if (math_.is_avx512())
            width_ == 64 ? vinsertf32x4(Xbyak::Zmm(reg), Xbyak::Zmm(reg), address, static_cast<uint8_t>(lane))
                         : vinsertf32x4(Xbyak::Ymm(reg), Xbyak::Ymm(reg), address, static_cast<uint8_t>(lane));
        else
            vinsertf128(Xbyak::Ymm(reg), Xbyak::Ymm(reg), address, static_cast<uint8_t>(lane));
    }
}

// Likewise from bytes; overwrites the register behind `reg`, too.
void DepthwiseI8Code::load_spread_bytes(int reg, const Xbyak::RegExp& base, int vector, const PostOp& op) {
    const Xbyak::Xmm x = v(reg), other = v(reg + 1);
    math_.broadcast(reg + 1, 0.0f);
    vmovups(x, ptr[base]);
    vector < 2 ? vpunpcklbw(x, x, other) : vpunpckhbw(x, x, other);
    vector % 2 == 0 ? vpunpcklwd(x, x, other) : vpunpckhwd(x, x, other);
    vcvtdq2ps(x, x);
    math_.broadcast(reg + 1, op.alpha);
    vfmadd213ps(x, other, math_.constant(op.beta));
}

void DepthwiseI8Code::tensor_op(const PostOp& op, const Xbyak::Reg64& pointer, const Pixels& pixels, int temp) {
    const int operand = temp, unordered = temp + 1;
    for (size_t i = 0; i < pixels.size(); ++i)
        for (int vector = 0; vector < kVectors; ++vector) {
            const Xbyak::Xmm y = v(pixels[i] + vector), b = v(operand);
            const size_t pixel = i * static_cast<size_t>(s_.channels);
            if (op.bytes)
                load_spread_bytes(temp, pointer + pixel, vector, op);
            else
                load_spread(operand, pointer + 4 * pixel, vector);
            switch (op.kind) {
                case PostOp::Kind::add_tensor:
                    vaddps(y, y, b);
                    continue;
                case PostOp::Kind::sub_tensor:
                    vsubps(y, y, b);
                    continue;
                case PostOp::Kind::rsub_tensor:
                    vsubps(y, b, y);
                    continue;
                case PostOp::Kind::mul_tensor:
                    vmulps(y, y, b);
                    continue;
                case PostOp::Kind::div_tensor:
                    vdivps(y, y, b);
                    continue;
                default:
                    break;
            }
            // NaN if either is: the instructions return the last source, so only a NaN in b needs care.
            op.kind == PostOp::Kind::max_tensor ? vmaxps(y, b, y) : vminps(y, b, y);
            if (math_.is_avx512()) {
                vcmpps(k7, b, b, 3);
                vmovaps(y | k7, b);
            } else {
                vcmpps(v(unordered), b, b, 3);
                vblendvps(y, y, b, v(unordered));
            }
        }
}

void DepthwiseI8Code::store_floats(const Pixels& pixels) {
    for (size_t i = 0; i < pixels.size(); ++i)
        for (int vector = 0; vector < kVectors; ++vector) {
            const int reg = pixels[i] + vector;
            const auto offset =
                static_cast<int>(4 * static_cast<int64_t>(i) * std::max<int64_t>(s_.channels, 16)) + 16 * vector;
            vmovups(ptr[rdx + offset], Xbyak::Xmm(reg));
            for (int lane = 1; lane < width_ / 16; ++lane) {
                const Xbyak::Address address = ptr[rdx + offset + 64 * lane];
                if (width_ == 64)
                    vextractf32x4(address, Xbyak::Zmm(reg), static_cast<uint8_t>(lane));
                else if (math_.is_avx512())
                    vextractf32x4(address, Xbyak::Ymm(reg), static_cast<uint8_t>(lane));
                else
                    vextractf128(address, Xbyak::Ymm(reg), static_cast<uint8_t>(lane));
            }
        }
}

// The conversion makes what is too large the least integer, so that it must be bounded before. A NaN is stored as the
// least byte.
void DepthwiseI8Code::to_integer(int reg) {
    if (!options_.bounded || !folded_) vminps(v(reg), v(reg), math_.constant(kLargest));
    vcvtps2dq(v(reg), v(reg));
}

void DepthwiseI8Code::repeat(int reg, uint32_t value, uint32_t factor) {
    math_.broadcast(reg, std::bit_cast<float>(value * factor));
}

void DepthwiseI8Code::store_bytes(const Pixels& pixels, int temp) {
    if (!folded_) {
        math_.broadcast(temp, 1 / options_.output->scale);
        for (const int pixel : pixels)
            for (int vector = 0; vector < kVectors; ++vector) {
                vmulps(v(pixel + vector), v(pixel + vector), v(temp));
                to_integer(pixel + vector);
            }
    }
    const int zero = temp, least = temp + 1, most = temp + 2;
    const bool shifted = options_.output->zero != 0;
    if (shifted) repeat(zero, static_cast<uint32_t>(options_.output->zero), 0x10001);
    if (low_ > 0) repeat(least, low_, 0x1010101);
    if (high_ < 255) repeat(most, high_, 0x1010101);
    for (size_t i = 0; i < pixels.size(); ++i) {
        const Xbyak::Xmm low = v(pixels[i]), high = v(pixels[i] + 2);
        vpackssdw(low, low, v(pixels[i] + 1));
        vpackssdw(high, high, v(pixels[i] + 3));
        if (shifted) {
            vpaddsw(low, low, v(zero));
            vpaddsw(high, high, v(zero));
        }
        vpackuswb(low, low, high);
        if (low_ > 0) vpmaxub(low, low, v(least));
        if (high_ < 255) vpminub(low, low, v(most));
        vmovups(ptr[rdx + static_cast<int>(static_cast<int64_t>(i) * std::max<int64_t>(s_.channels, 16))], low);
    }
}

}  // namespace planish::cpu
