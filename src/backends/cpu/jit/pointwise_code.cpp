// Register allocation and instruction selection of point-wise kernels.
//
// Frame: spill slots, staging area, then pointers that found no general register. rcx counts columns, rdx is the
// end of the full vectors; rax, r8 and rdi are scratch. AVX-512: k1 = lanes of the last, partial vector, k2 = its
// upper half shifted down; AVX2: the same mask in a vector register.
#include "backends/cpu/jit/pointwise_code.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "planish/error.hpp"

namespace planish::cpu {

namespace {

using Kind = PointwiseOp::Kind;

constexpr int kStageBytes = 64;
constexpr size_t kPointerRegisters = 10;
// Hoisting the elements of broadcast inputs out of the column loop leaves at least so many registers to the program.
constexpr size_t kRegistersKeptFree = 6;
constexpr uint32_t kOneBits = std::bit_cast<uint32_t>(1.0f);

// vcmpps predicates, quiet.
constexpr int kEqual = 0x00, kUnordered = 0x03, kNotEqual = 0x04, kLess = 0x11, kLessEqual = 0x12, kGreaterEqual = 0x1d,
              kGreater = 0x1e;

Xbyak::Reg64 pointer_register(size_t index) {
    using namespace Xbyak::util;
    const std::array<Xbyak::Reg64, kPointerRegisters> registers = {rsi, r9, r10, r11, rbx, rbp, r12, r13, r14, r15};
    return registers[index];
}

}  // namespace

PointwiseCode::PointwiseCode(const PointwiseProgram& program, std::vector<Tensor> tensors, Isa isa)
    : JitCode(4096), program_(program), tensors_(std::move(tensors)), avx512_(isa >= Isa::avx512), math_(*this, isa) {
    analyse();
    generate();
    publish("pointwise_f32_" + std::to_string(program_.ops.size()) + "ops_" + std::string(to_string(isa)));
}

void PointwiseCode::analyse() {
    int count = program_.inputs;
    for (const PointwiseOp& op : program_.ops) count = std::max(count, op.dst + 1);
    values_.resize(static_cast<size_t>(count));
    std::vector<bool> defined(values_.size());
    for (int i = 0; i < program_.inputs; ++i) {
        values_[i].source = Value::Source::input;
        defined[i] = true;
    }
    auto use = [&](int value, size_t at) {
        if (value < 0 || value >= count || !defined[value])
            fail(ErrorCode::internal, "pointwise: value " + std::to_string(value) + " is used before it is defined");
        if (values_[value].uses.empty() || values_[value].uses.back() != static_cast<int>(at))
            values_[value].uses.push_back(static_cast<int>(at));
    };
    bool has_pow = false;
    for (size_t i = 0; i < program_.ops.size(); ++i) {
        const PointwiseOp& op = program_.ops[i];
        const bool one_source = op.kind == Kind::unary || op.kind == Kind::logical_not || op.kind == Kind::is_nan ||
                                op.kind == Kind::is_inf;
        if (op.kind != Kind::constant) use(op.a, i);
        if (op.kind != Kind::constant && !one_source) use(op.b, i);
        if (op.kind == Kind::where) use(op.c, i);
        if (op.dst < 0 || defined[op.dst])
            fail(ErrorCode::internal, "pointwise: value " + std::to_string(op.dst) + " is defined twice");
        defined[op.dst] = true;
        if (op.kind == Kind::constant) {
            values_[op.dst].source = Value::Source::constant;
            values_[op.dst].constant = op.alpha;
        }
        has_pow = has_pow || op.kind == Kind::pow;
    }
    for (int output : program_.outputs) use(output, program_.ops.size());

    const int registers = avx512_ ? 32 : 16;
    const int temps = has_pow ? VectorMathEmitter::kPowTemps : VectorMathEmitter::kTemps;
    int next = 0;
    while (next < temps) temps_.push_back(next++);
    if (!avx512_) mask_register_ = next++;
    while (next < registers) free_.push_back(next++);
    holder_.assign(static_cast<size_t>(registers), -1);

    frame_stage_ = count * 64;
    frame_pointers_ = frame_stage_ + kStageBytes;
    frame_rows_ = frame_pointers_ + static_cast<int>(tensors_.size()) * 8;
    frame_tail_ = frame_rows_ + 8;
    frame_rsp_ = frame_rows_ + 16;
}

void PointwiseCode::generate() {
    const int lanes = avx512_ ? 16 : 8;
    Xbyak::Label row, loop, tail, next_row;
    prologue();
    L(row);
    hoist_broadcasts();
    xor_(ecx, ecx);
    test(rdx, rdx);
    jz(tail, T_NEAR);
    align(32);
    L(loop);
    body(false);
    add(rcx, lanes);
    cmp(rcx, rdx);
    jb(loop, T_NEAR);
    L(tail);
    cmp(dword[rsp + frame_tail_], 0);
    je(next_row, T_NEAR);
    body(true);
    L(next_row);
    bump_pointers();
    dec(qword[rsp + frame_rows_]);
    jnz(row, T_NEAR);
    epilogue();
    math_.emit_tables();
    if (!avx512_) {
        L(tail_mask_);
        for (int i = 0; i < 16; ++i) dd(i < 8 ? ~0u : 0u);
    }
}

void PointwiseCode::prologue() {
    const int lanes = avx512_ ? 16 : 8;
    for (const Xbyak::Reg64& reg : {rbx, rbp, r12, r13, r14, r15}) push(reg);
    mov(rax, rsp);
    sub(rsp, frame_rsp_ + 8);
    and_(rsp, -64);
    mov(stack(frame_rsp_), rax);
    mov(rax, ptr[rdi + offsetof(Args, rows)]);
    mov(stack(frame_rows_), rax);
    mov(rdx, ptr[rdi + offsetof(Args, columns)]);
    mov(r8, ptr[rdi + offsetof(Args, pointers)]);
    for (size_t t = 0; t < tensors_.size(); ++t) {
        const int offset = static_cast<int>(t * 8);
        if (t < kPointerRegisters) {
            mov(pointer_register(t), ptr[r8 + offset]);
        } else {
            mov(rax, ptr[r8 + offset]);
            mov(stack(frame_pointers_ + offset), rax);
        }
    }
    mov(eax, edx);
    and_(eax, lanes - 1);
    mov(dword[rsp + frame_tail_], eax);
    sub(rdx, rax);
    if (avx512_) {
        mov(ecx, -1);
        bzhi(ecx, ecx, eax);
        kmovw(k1, ecx);
        kshiftrw(k2, k1, 8);
    } else {
        neg(rax);
        lea(r8, ptr[rip + tail_mask_]);
        vmovups(v(mask_register_), ptr[r8 + rax * 4 + 32]);
    }
}

void PointwiseCode::epilogue() {
    mov(rsp, stack(frame_rsp_));
    for (const Xbyak::Reg64& reg : {r15, r14, r13, r12, rbp, rbx}) pop(reg);
    vzeroupper();
    ret();
}

void PointwiseCode::bump_pointers() {
    for (size_t t = 0; t < tensors_.size(); ++t) {
        const int64_t stride = tensors_[t].row_stride;
        if (stride == 0) continue;
        mov(rax, stride);
        if (t < kPointerRegisters)
            add(pointer_register(t), rax);
        else
            add(stack(frame_pointers_ + static_cast<int64_t>(t) * 8), rax);
    }
}

void PointwiseCode::hoist_broadcasts() {
    for (int i = 0; i < program_.inputs; ++i) {
        if (tensors_[i].contiguous || values_[i].uses.empty() || free_.size() <= kRegistersKeptFree) continue;
        const int reg = free_.back();
        free_.pop_back();
        load_broadcast(reg, i);
        values_[i].reg = reg;
        holder_[reg] = i;
        hoisted_.push_back(i);
    }
}

void PointwiseCode::body(bool masked) {
    masked_ = masked;
    for (Value& value : values_) value.slot = -1;
    for (position_ = 0; position_ < static_cast<int>(program_.ops.size()); ++position_) {
        pinned_.clear();
        const PointwiseOp& op = program_.ops[position_];
        emit(op);
        release_dead({op.a, op.b, op.c, op.dst});
    }
    pinned_.clear();
    // First everything into registers or slots, then the stores: an output may lie over an input that another output
    // equals.
    for (size_t o = 0; o < program_.outputs.size(); ++o) {
        const int value = program_.outputs[o];
        if (values_[value].source != Value::Source::input) continue;
        const int reg = get(value);
        if (values_[value].slot < 0) {
            values_[value].slot = value;
            vmovups(stack(value * 64), v(reg));
        }
        pinned_.clear();
    }
    for (size_t o = 0; o < program_.outputs.size(); ++o) {
        pinned_.clear();
        store(get(program_.outputs[o]), static_cast<int>(program_.inputs + o));
    }
    for (size_t reg = 0; reg < holder_.size(); ++reg) {
        const int value = holder_[reg];
        if (value < 0 || std::find(hoisted_.begin(), hoisted_.end(), value) != hoisted_.end()) continue;
        holder_[reg] = -1;
        values_[value].reg = -1;
        free_.push_back(static_cast<int>(reg));
    }
}

// ---- Registers.

int PointwiseCode::next_use(const Value& value) const {
    const auto it = std::lower_bound(value.uses.begin(), value.uses.end(), position_);
    return it == value.uses.end() ? std::numeric_limits<int>::max() : *it;
}

// Whether the current op is the last to read `value`.
bool PointwiseCode::dies(int value) const {
    return values_[value].uses.back() == position_ &&
           std::find(hoisted_.begin(), hoisted_.end(), value) == hoisted_.end();
}

int PointwiseCode::take_register() {
    if (free_.empty()) {
        int victim = -1, furthest = -1;
        for (int reg = 0; reg < static_cast<int>(holder_.size()); ++reg) {
            const int value = holder_[reg];
            if (value < 0 || std::find(hoisted_.begin(), hoisted_.end(), value) != hoisted_.end()) continue;
            if (std::find(pinned_.begin(), pinned_.end(), reg) != pinned_.end()) continue;
            const int use = next_use(values_[value]);
            if (use > furthest) furthest = use, victim = reg;
        }
        if (victim < 0) fail(ErrorCode::internal, "pointwise: no register left");
        Value& value = values_[holder_[victim]];
        if (value.source == Value::Source::computed && value.slot < 0) {
            value.slot = holder_[victim];
            vmovups(stack(value.slot * 64), v(victim));
        }
        value.reg = -1;
        holder_[victim] = -1;
        free_.push_back(victim);
    }
    const int reg = free_.back();
    free_.pop_back();
    pinned_.push_back(reg);
    return reg;
}

// The register that holds `value`, loaded if need be and safe until the end of the current op.
int PointwiseCode::get(int value) {
    Value& state = values_[value];
    if (state.reg >= 0) {
        pinned_.push_back(state.reg);
        return state.reg;
    }
    const int reg = take_register();
    if (state.slot >= 0)
        vmovups(v(reg), stack(state.slot * 64));
    else if (state.source == Value::Source::constant)
        math_.broadcast(reg, state.constant);
    else
        load(reg, value);
    state.reg = reg;
    holder_[reg] = value;
    return reg;
}

// Calls emit(operand), where a constant that is in no register is read from the table.
template <typename F>
void PointwiseCode::with_source(int value, F emit) {
    if (values_[value].source == Value::Source::constant && values_[value].reg < 0) {
        const Xbyak::Address address = math_.constant(values_[value].constant);
        emit(address);
    } else {
        const Xbyak::Xmm reg = v(get(value));
        emit(reg);
    }
}

// A register for the op's result: that of a source whose last use this is, where the emitter can cope with that.
int PointwiseCode::result(int dst, std::initializer_list<int> reusable) {
    int reg = -1;
    for (int source : reusable) {
        if (values_[source].reg < 0 || !dies(source)) continue;
        reg = values_[source].reg;
        values_[source].reg = -1;
        break;
    }
    if (reg < 0) reg = take_register();
    values_[dst].reg = reg;
    holder_[reg] = dst;
    return reg;
}

void PointwiseCode::release_dead(std::initializer_list<int> values) {
    for (int value : values) {
        if (value < 0 || values_[value].reg < 0) continue;
        if (!values_[value].uses.empty() && !dies(value)) continue;
        free_.push_back(values_[value].reg);
        holder_[values_[value].reg] = -1;
        values_[value].reg = -1;
    }
}

// ---- Instructions.

void PointwiseCode::emit(const PointwiseOp& op) {
    switch (op.kind) {
        case Kind::constant:
            return;
        case Kind::unary:
            return emit_unary(op);
        case Kind::add:
        case Kind::sub:
        case Kind::mul:
        case Kind::div:
        case Kind::logical_and:
        case Kind::logical_or:
        case Kind::logical_xor:
            return emit_binary(op);
        case Kind::min:
        case Kind::max:
            return emit_min_max(op);
        case Kind::pow:
            return emit_pow(op);
        case Kind::equal:
            return emit_compare(op, kEqual);
        case Kind::not_equal:
            return emit_compare(op, kNotEqual);
        case Kind::less:
            return emit_compare(op, kLess);
        case Kind::less_equal:
            return emit_compare(op, kLessEqual);
        case Kind::greater:
            return emit_compare(op, kGreater);
        case Kind::greater_equal:
            return emit_compare(op, kGreaterEqual);
        case Kind::where:
            return emit_where(op);
        case Kind::logical_not: {
            const int a = get(op.a);
            vxorps(v(result(op.dst, {op.a})), v(a), math_.constant_bits(kOneBits));
            return;
        }
        case Kind::is_nan: {
            const int a = get(op.a);
            const Xbyak::Xmm operand = v(a);
            return truth_from_compare(result(op.dst, {op.a}), a, operand, kUnordered);
        }
        case Kind::is_inf: {
            const int a = get(op.a);
            vandps(v(temps_[1]), v(a), math_.constant_bits(0x7fffffffu));
            return truth_from_compare(result(op.dst, {op.a}), temps_[1],
                                      math_.constant(std::numeric_limits<float>::infinity()), kEqual);
        }
    }
}

void PointwiseCode::emit_binary(const PointwiseOp& op) {
    int first = op.a, second = op.b;
    const bool commutes = op.kind != Kind::sub && op.kind != Kind::div;
    if (commutes && values_[first].source == Value::Source::constant) std::swap(first, second);
    const Xbyak::Xmm a = v(get(first));
    with_source(second, [&](const Xbyak::Operand& b) {
        const Xbyak::Xmm dst = v(result(op.dst, {first, second}));
        switch (op.kind) {
            case Kind::add:
                return vaddps(dst, a, b);
            case Kind::sub:
                return vsubps(dst, a, b);
            case Kind::mul:
                return vmulps(dst, a, b);
            case Kind::div:
                return vdivps(dst, a, b);
            // Truth values are the bit patterns of 0.0f and 1.0f.
            case Kind::logical_and:
                return vandps(dst, a, b);
            case Kind::logical_or:
                return vorps(dst, a, b);
            default:
                return vxorps(dst, a, b);
        }
    });
}

// vminps and vmaxps return the last source when either is NaN: only a NaN in the first needs care.
void PointwiseCode::emit_min_max(const PointwiseOp& op) {
    int first = op.a, second = op.b;
    const bool first_is_constant = values_[first].source == Value::Source::constant;
    const bool constant = first_is_constant || values_[second].source == Value::Source::constant;
    // A constant goes first: then one instruction does it, unless the constant itself is NaN.
    if (constant && !first_is_constant) std::swap(first, second);
    const bool needs_care = !constant || std::isnan(values_[first].constant);
    const Xbyak::Xmm a = v(get(first)), b = v(get(second)), t = v(temps_[0]);
    auto combine = [&](const Xbyak::Xmm& dst) { op.kind == Kind::min ? vminps(dst, a, b) : vmaxps(dst, a, b); };
    if (!needs_care) return combine(v(result(op.dst, {first, second})));
    combine(t);
    if (avx512_) {
        vcmpps(k7, a, a, kUnordered);
        vmovaps(t | k7, a);
    } else {
        vcmpps(v(temps_[1]), a, a, kUnordered);
        vblendvps(t, t, a, v(temps_[1]));
    }
    vmovaps(v(result(op.dst, {first, second})), t);
}

// dst := (a predicate b) ? 1 : 0
void PointwiseCode::truth_from_compare(int dst, int a, const Xbyak::Operand& b, int predicate) {
    if (avx512_) {
        vcmpps(k7, v(a), b, static_cast<uint8_t>(predicate));
        vpmovm2d(v(dst), k7);
    } else {
        vcmpps(v(dst), v(a), b, static_cast<uint8_t>(predicate));
    }
    vandps(v(dst), v(dst), math_.constant_bits(kOneBits));
}

void PointwiseCode::emit_compare(const PointwiseOp& op, int predicate) {
    const int a = get(op.a);
    with_source(op.b, [&](const Xbyak::Operand& b) {
        truth_from_compare(result(op.dst, {op.a, op.b}), a, b, predicate);
    });
}

void PointwiseCode::emit_where(const PointwiseOp& op) {
    const Xbyak::Xmm condition = v(get(op.a)), otherwise = v(get(op.c));
    with_source(op.b, [&](const Xbyak::Operand& then) {
        const Xbyak::Xmm dst = v(result(op.dst, {op.c, op.a, op.b}));
        if (avx512_) {
            vcmpps(k7, condition, math_.constant(0.0f), kNotEqual);
            vblendmps(dst | k7, otherwise, then);
        } else {
            vcmpps(v(temps_[0]), condition, math_.constant(0.0f), kNotEqual);
            vblendvps(dst, otherwise, then, v(temps_[0]));
        }
    });
}

void PointwiseCode::emit_unary(const PointwiseOp& op) {
    const int a = get(op.a);
    const int dst = result(op.dst, {op.a});
    if (dst != a) vmovaps(v(dst), v(a));
    math_.apply({op.function, op.alpha, op.beta}, dst, temps_);
}

void PointwiseCode::emit_pow(const PointwiseOp& op) {
    const Value& exponent = values_[op.b];
    if (exponent.source == Value::Source::constant) {
        const float e = exponent.constant;
        PostOp simple;
        if (e == 2.0f || e == 3.0f)
            simple.kind = PostOp::Kind::square;
        else if (e == -1.0f)
            simple.kind = PostOp::Kind::reciprocal;
        else if (e == 0.5f)
            simple.kind = PostOp::Kind::sqrt;
        if (simple.kind != PostOp::Kind::relu) {
            const int a = get(op.a);
            const Xbyak::Xmm t = v(temps_[1]);
            // pow(-0, 1/2) is +0 and pow(-inf, 1/2) is +inf.
            if (e == 0.5f) {
                vmovaps(v(temps_[4]), v(a));
                vaddps(t, v(a), math_.constant(0.0f));
            } else {
                vmovaps(t, v(a));
            }
            if (e == 3.0f) {
                vmulps(t, t, v(a));
                vmulps(t, t, v(a));
            } else if (e == 2.0f) {
                vmulps(t, t, v(a));
            } else {
                const int others[] = {temps_[0], temps_[2], temps_[3], temps_[5]};
                math_.apply(simple, temps_[1], others);
            }
            if (e == 0.5f) {
                const float inf = std::numeric_limits<float>::infinity();
                math_.broadcast(temps_[0], inf);
                if (avx512_) {
                    vcmpps(k7, v(temps_[4]), math_.constant(-inf), kEqual);
                    vmovaps(t | k7, v(temps_[0]));
                } else {
                    vcmpps(v(temps_[4]), v(temps_[4]), math_.constant(-inf), kEqual);
                    vblendvps(t, t, v(temps_[0]), v(temps_[4]));
                }
            }
            vmovaps(v(result(op.dst, {op.a})), t);
            return;
        }
    }
    const int a = get(op.a), b = get(op.b);
    const int dst = op.a == op.b ? result(op.dst, {}) : result(op.dst, {op.a});
    if (dst != a) vmovaps(v(dst), v(a));
    math_.pow(dst, b, temps_);
}

// ---- Memory.

Xbyak::Reg64 PointwiseCode::pointer(int tensor) {
    if (static_cast<size_t>(tensor) < kPointerRegisters) return pointer_register(static_cast<size_t>(tensor));
    mov(rax, stack(frame_pointers_ + tensor * 8));
    return rax;
}

// The elements at the current column, from `element_offset` on.
Xbyak::Address PointwiseCode::at(int tensor, int element_offset) {
    const Tensor& info = tensors_[tensor];
    const Xbyak::Reg64 base = pointer(tensor);
    if (!info.contiguous) return ptr[base];
    const int size = byte_size(info.type);
    return ptr[base + rcx * size + element_offset * size];
}

void PointwiseCode::load(int reg, int tensor) {
    if (tensors_[tensor].contiguous)
        load_contiguous(reg, tensor);
    else
        load_broadcast(reg, tensor);
}

void PointwiseCode::load_broadcast(int reg, int tensor) {
    const Xbyak::Reg64 base = pointer(tensor);
    const Xbyak::Xmm low(reg);
    switch (tensors_[tensor].type) {
        case PointwiseType::f32:
            return vbroadcastss(v(reg), dword[base]);
        case PointwiseType::boolean:
        case PointwiseType::u8:
            movzx(eax, byte[base]);
            vcvtsi2ss(low, low, eax);
            break;
        case PointwiseType::i8:
            movsx(eax, byte[base]);
            vcvtsi2ss(low, low, eax);
            break;
        case PointwiseType::i32:
            vcvtsi2ss(low, low, dword[base]);
            break;
        case PointwiseType::i64:
            vcvtsi2ss(low, low, qword[base]);
            break;
    }
    vbroadcastss(v(reg), low);
}

void PointwiseCode::load_contiguous(int reg, int tensor) {
    const PointwiseType type = tensors_[tensor].type;
    const bool bytes = byte_size(type) == 1;
    if (avx512_) {
        const Xbyak::Xmm dst = masked_ ? Xbyak::Xmm(v(reg) | k1 | T_z) : v(reg);
        if (type == PointwiseType::f32) return vmovups(dst, at(tensor));
        if (type == PointwiseType::i32) return vcvtdq2ps(dst, at(tensor));
        if (type == PointwiseType::i64) {
            const Xbyak::Ymm low(reg), high(temps_[0]);
            vcvtqq2ps(masked_ ? Xbyak::Ymm(low | k1 | T_z) : low, at(tensor));
            vcvtqq2ps(masked_ ? Xbyak::Ymm(high | k2 | T_z) : high, at(tensor, 8));
            return vinsertf32x8(Xbyak::Zmm(reg), Xbyak::Zmm(reg), high, 1);
        }
        type == PointwiseType::i8 ? vpmovsxbd(dst, at(tensor)) : vpmovzxbd(dst, at(tensor));
        return vcvtdq2ps(v(reg), v(reg));
    }
    if (type == PointwiseType::i64 || (bytes && masked_)) return load_staged(reg, tensor);
    if (bytes) {
        type == PointwiseType::i8 ? vpmovsxbd(v(reg), at(tensor)) : vpmovzxbd(v(reg), at(tensor));
        return vcvtdq2ps(v(reg), v(reg));
    }
    if (masked_)
        vmaskmovps(v(reg), v(mask_register_), at(tensor));
    else
        vmovups(v(reg), at(tensor));
    if (type == PointwiseType::i32) vcvtdq2ps(v(reg), v(reg));
}

// AVX2 has neither byte masks nor 64-bit integer conversions: element by element through the stack.
void PointwiseCode::load_staged(int reg, int tensor) {
    const PointwiseType type = tensors_[tensor].type;
    Xbyak::Label next;
    lea(rax, at(tensor));
    xor_(r8d, r8d);
    L(next);
    if (type == PointwiseType::i64) {
        const Xbyak::Xmm t(temps_[0]);
        vcvtsi2ss(t, t, qword[rax + r8 * 8]);
        vmovss(dword[rsp + r8 * 4 + frame_stage_], t);
    } else {
        movzx(edi, byte[rax + r8]);
        mov(byte[rsp + r8 + frame_stage_], dil);
    }
    inc(r8d);
    masked_ ? cmp(r8d, dword[rsp + frame_tail_]) : cmp(r8d, 8);
    jb(next);
    if (type == PointwiseType::i64) return vmovups(v(reg), stack(frame_stage_));
    type == PointwiseType::i8 ? vpmovsxbd(v(reg), stack(frame_stage_)) : vpmovzxbd(v(reg), stack(frame_stage_));
    vcvtdq2ps(v(reg), v(reg));
}

void PointwiseCode::store(int reg, int tensor) {
    const PointwiseType type = tensors_[tensor].type;
    int source = reg;
    if (type == PointwiseType::i64 || type == PointwiseType::i8)
        fail(ErrorCode::unsupported, "pointwise: 64-bit and signed byte outputs are not generated");
    if (byte_size(type) == 1) return store_bytes(reg, tensor);
    if (type == PointwiseType::i32) {
        source = temps_[0];
        vcvttps2dq(v(source), v(reg));
    }
    if (!masked_)
        vmovups(at(tensor), v(source));
    else if (avx512_)
        vmovups(at(tensor) | k1, v(source));
    else
        vmaskmovps(at(tensor), v(mask_register_), v(source));
}

void PointwiseCode::store_bytes(int reg, int tensor) {
    const int t = temps_[0];
    if (tensors_[tensor].type == PointwiseType::u8) {
        vcvttps2dq(v(t), v(reg));
    } else {
        if (avx512_) {
            vcmpps(k7, v(reg), math_.constant(0.0f), kNotEqual);
            vpmovm2d(v(t), k7);
        } else {
            vcmpps(v(t), v(reg), math_.constant(0.0f), kNotEqual);
        }
        vpsrld(v(t), v(t), 31);
    }
    if (avx512_) return masked_ ? vpmovdb(at(tensor) | k1, Xbyak::Zmm(t)) : vpmovdb(at(tensor), Xbyak::Zmm(t));
    const Xbyak::Xmm low(t), high(temps_[1]);
    vextracti128(high, Xbyak::Ymm(t), 1);
    vpackusdw(low, low, high);
    vpackuswb(low, low, low);
    if (!masked_) return vmovq(at(tensor), low);
    vmovq(stack(frame_stage_), low);
    Xbyak::Label next;
    lea(rax, at(tensor));
    xor_(r8d, r8d);
    L(next);
    movzx(edi, byte[rsp + r8 + frame_stage_]);
    mov(byte[rax + r8], dil);
    inc(r8d);
    cmp(r8d, dword[rsp + frame_tail_]);
    jb(next);
}

}  // namespace planish::cpu
