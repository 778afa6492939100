// Elementwise float32 functions as AVX2 and AVX-512 instruction sequences.
//
// Rational and polynomial coefficients are relative minimax fits (Lawson iteration on Chebyshev points).
// Where numerator and denominator carry a common factor other than 1, it was picked so that rounding the
// leading coefficients to float32 costs nothing.
#include "backends/cpu/jit/vector_math.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kSignBit = 0x80000000u;

// Comparison predicates of vcmpps (ordered, quiet ones unless named otherwise).
constexpr int kLess = 0x11;
constexpr int kEqual = 0x00;
constexpr int kGreater = 0x1e;
constexpr int kNotLess = 0x15;   // true for NaN
constexpr int kNotEqual = 0x04;  // true for NaN

// Immediate of vroundps / vrndscaleps: low bits choose the direction, 8 keeps the inexact flag quiet.
constexpr int kNearest = 8 + 0, kFloor = 8 + 1, kCeil = 8 + 2;

constexpr float kLog2E = 1.44269504f;
// ln 2 = kLn2High + kLn2Low; the high part has 15 significant bits, so n * kLn2High is exact for |n| < 512.
constexpr float kLn2High = 0.693145751953125f;
constexpr float kLn2Low = 1.42860682e-6f;

// exp(r) = 1 + r + r^2 * q(r) on |r| <= ln2 / 2; fit error 0.1 * 2^-24.
constexpr std::array kExpTail = {0.49999997f, 0.1666652f, 0.04166694f, 0.008368886f, 0.0013904738f};

// log(1 + f) = f - f^2/2 + f^3 * q(f) on [sqrt(1/2) - 1, sqrt(2) - 1]; fit error 0.04 * 2^-24.
constexpr std::array kLogTail = {0.33333313f,  -0.25000021f, 0.2000206f,    -0.1666737f, 0.14220132f,
                                 -0.12416355f, 0.11894924f,  -0.116169795f, 0.066619352f};

// tanh(x) = x * P(x^2) / Q(x^2) on |x| <= kTanhBound, beyond which the float result is +-1; fit error 0.02 * 2^-24.
constexpr float kTanhBound = 9.02f;
constexpr std::array kTanhP = {1.07966006f,    0.147696584f,   0.00417647976f,
                               3.02385488e-5f, 3.30214576e-8f, -1.31756134e-11f};
constexpr std::array kTanhQ = {1.07966006f, 0.507583261f, 0.0294162463f, 4.25238395e-4f, 1.38991925e-6f};

// erf(x) = x * P(x^2) / Q(x^2) on |x| <= kErfBound, beyond which the float result is +-1; fit error 0.33 * 2^-24.
constexpr float kErfBound = 3.93f;
constexpr std::array kErfP = {1.45004034f, 0.245169207f, 0.06783887f, 0.00485702045f, 3.65995948e-4f, 2.62405433e-6f};
constexpr std::array kErfQ = {1.28506482f, 0.645629704f, 0.146828145f, 0.0192726366f, 0.00149736635f, 4.88375081e-5f};

// erf(x / sqrt 2), the same fit in x^2 / 2.
constexpr float kErfHalfBound = 5.5296f;
constexpr std::array kErfHalfP = {1.53821647f,    0.130038902f,   0.0179910287f,
                                  6.44046639e-4f, 2.42657479e-5f, 8.69881731e-8f};
constexpr std::array kErfHalfQ = {1.92786849f,    0.484290421f,   0.0550683029f,
                                  0.00361412787f, 1.40397853e-4f, 2.28958038e-6f};

// log(1 + e) = e * P(e) / Q(e) on [0, 1]; fit error 0.02 * 2^-24.
constexpr std::array kLog1pP = {1.0f, 1.06621838f, 0.238157496f, 0.0034172812f};
constexpr std::array kLog1pQ = {1.0f, 1.56621826f, 0.687936246f, 0.0752872750f};

// x Phi(x) as polynomials of degree 4 on 13 equal segments of [-kGeluBound, kGeluBound], where each interpolates at the
// Chebyshev points; beyond, 0 and x. The largest error is 7.4e-6, at the ends 6.1e-6. Entry s of the table is the
// segment around (s - 8) * kGeluSegment, entry 0 of no use.
constexpr float kGeluBound = 4.7F;
constexpr int kGeluSegments = 16, kGeluDegree = 4;
constexpr float kGeluSegment = 2 * kGeluBound / 13;
using GeluTable = std::array<std::array<float, kGeluSegments>, kGeluDegree + 1>;  // by power of x, from 0 up

GeluTable gelu_table() {
    GeluTable table{};
    table[1][kGeluSegments - 1] = 1;
    for (size_t s = 2; s + 1 < kGeluSegments; ++s) {
        const double centre = kGeluSegment * (static_cast<double>(s) - 8);
        // Newton's form, multiplied out.
        std::array<double, kGeluDegree + 1> at{}, divided{}, powers{};
        for (size_t i = 0; i < at.size(); ++i) {
            const double angle = std::acos(-1.0) * (2 * static_cast<double>(i) + 1) / (2 * (kGeluDegree + 1));
            at[i] = centre + kGeluSegment / 2 * std::cos(angle);
            divided[i] = at[i] * std::erfc(-at[i] / std::sqrt(2.0)) / 2;
        }
        for (size_t order = 1; order < at.size(); ++order)
            for (size_t i = at.size(); i-- > order;)
                divided[i] = (divided[i] - divided[i - 1]) / (at[i] - at[i - order]);
        for (size_t i = at.size(); i-- > 0;) {
            for (size_t k = at.size(); k-- > 1;) powers[k] = powers[k - 1] - at[i] * powers[k];
            powers[0] = divided[i] - at[i] * powers[0];
        }
        for (size_t k = 0; k < powers.size(); ++k) table[k][s] = static_cast<float>(powers[k]);
    }
    return table;
}

}  // namespace

VectorMathEmitter::VectorMathEmitter(Xbyak::CodeGenerator& gen, Isa isa) : g_(gen), avx512_(isa >= Isa::avx512) {}

int VectorMathEmitter::constant_offset(uint32_t bits) {
    auto it = std::find(constants_.begin(), constants_.end(), bits);
    if (it == constants_.end()) it = constants_.insert(constants_.end(), bits);
    return static_cast<int>(it - constants_.begin()) * (avx512_ ? 4 : 32);
}

Xbyak::Address VectorMathEmitter::constant_bits(uint32_t bits) {
    const Xbyak::RegRip address = g_.rip + table_ + constant_offset(bits);
    return avx512_ ? g_.ptr_b[address] : g_.ptr[address];
}

Xbyak::Address VectorMathEmitter::constant(float value) {
    return constant_bits(std::bit_cast<uint32_t>(value));
}

void VectorMathEmitter::broadcast(int dst, float value) {
    if (std::bit_cast<uint32_t>(value) == 0) return zero(dst);
    g_.vbroadcastss(reg(dst), g_.dword[g_.rip + table_ + constant_offset(std::bit_cast<uint32_t>(value))]);
}

void VectorMathEmitter::emit_tables() {
    g_.align(64);
    g_.L(table_);
    for (uint32_t bits : constants_)
        for (int lane = 0; lane < (avx512_ ? 1 : 8); ++lane) g_.dd(bits);
    if (!uses_segments_) return;
    g_.align(64);
    g_.L(segments_);
    for (const auto& coefficients : gelu_table())
        for (const float c : coefficients) g_.dd(std::bit_cast<uint32_t>(c));
}

void VectorMathEmitter::zero(int dst) {
    if (dst < 16)
        g_.vxorps(Xbyak::Xmm(dst), Xbyak::Xmm(dst), Xbyak::Xmm(dst));
    else
        g_.vpxord(Xbyak::Zmm(dst), Xbyak::Zmm(dst), Xbyak::Zmm(dst));
}

void VectorMathEmitter::copy(int dst, int src) {
    g_.vmovaps(reg(dst), reg(src));
}

// vminps and vmaxps return their last source when either is NaN: the bound goes first.
void VectorMathEmitter::min_keep_nan(int v, float bound, int t) {
    broadcast(t, bound);
    g_.vminps(reg(v), reg(t), reg(v));
}

void VectorMathEmitter::max_keep_nan(int v, float bound, int t) {
    broadcast(t, bound);
    g_.vmaxps(reg(v), reg(t), reg(v));
}

void VectorMathEmitter::clamp(int v, float low, float high, int t) {
    max_keep_nan(v, low, t);
    min_keep_nan(v, high, t);
}

// acc := polynomial in x, coefficients from the constant term up.
void VectorMathEmitter::horner(int acc, int x, std::span<const float> ascending) {
    broadcast(acc, ascending.back());
    for (size_t i = ascending.size() - 1; i-- > 0;) g_.vfmadd213ps(reg(acc), reg(x), constant(ascending[i]));
}

void VectorMathEmitter::round_to_int(int dst, int src, int mode) {
    if (avx512_)
        g_.vrndscaleps(reg(dst), reg(src), static_cast<uint8_t>(mode));
    else
        g_.vroundps(reg(dst), reg(src), static_cast<uint8_t>(mode));
}

// dst := significand * 2^exponent for integral exponents in [-250, 252]. Without vscalefps in two factors, so that the
// one rounding into the denormals, or the overflow, is left to the last product. `exponent` is overwritten.
void VectorMathEmitter::scale_by_power_of_two(int dst, int significand, int exponent, int t) {
    if (avx512_) return g_.vscalefps(reg(dst), reg(significand), reg(exponent));
    g_.vcvtps2dq(reg(exponent), reg(exponent));
    g_.vpsrad(reg(t), reg(exponent), 1);
    g_.vpsubd(reg(exponent), reg(exponent), reg(t));
    for (int half : {t, exponent}) {
        g_.vpaddd(reg(half), reg(half), constant_bits(127));
        g_.vpslld(reg(half), reg(half), 23);
    }
    g_.vmulps(reg(dst), reg(significand), reg(t));
    g_.vmulps(reg(dst), reg(dst), reg(exponent));
}

// dst := (a predicate b) ? src : dst
void VectorMathEmitter::select(int dst, int a, const Xbyak::Operand& b, int predicate, int src, int t) {
    if (avx512_) {
        g_.vcmpps(g_.k7, reg(a), b, static_cast<uint8_t>(predicate));
        g_.vmovaps(reg(dst) | g_.k7, reg(src));
    } else {
        g_.vcmpps(reg(t), reg(a), b, static_cast<uint8_t>(predicate));
        g_.vblendvps(reg(dst), reg(dst), reg(src), reg(t));
    }
}

// v := exp(+-v): x = n ln2 + r, exp(x) = 2^n exp(r). The clamp keeps n in range; exp(-104.5) is below half the least
// denormal and exp(89) above the greatest float, so the scaling itself yields 0 and inf. Uses t0, t1, t2.
void VectorMathEmitter::exp(int v, Temps t, Sign sign) {
    const float s = sign == Sign::plus ? 1.0f : -1.0f;
    const float a = s * -104.5f, b = s * 89.0f;
    clamp(v, std::min(a, b), std::max(a, b), t.t0);
    g_.vmulps(reg(t.t0), reg(v), constant(s * kLog2E));
    round_to_int(t.t0, t.t0, kNearest);
    if (sign == Sign::plus)
        g_.vfnmadd231ps(reg(v), reg(t.t0), constant(kLn2High));
    else
        g_.vfnmsub231ps(reg(v), reg(t.t0), constant(kLn2High));
    g_.vfnmadd231ps(reg(v), reg(t.t0), constant(kLn2Low));
    horner(t.t1, v, kExpTail);
    g_.vfmadd213ps(reg(t.t1), reg(v), constant(1.0f));
    g_.vfmadd213ps(reg(t.t1), reg(v), constant(1.0f));
    scale_by_power_of_two(v, t.t1, t.t0, t.t2);
}

// v := exp(min(v, 0)) - 1 without cancellation: 2^n (exp(r) - 1) + (2^n - 1). Uses t0, t1, t2.
void VectorMathEmitter::expm1_negative(int v, Temps t) {
    clamp(v, -25.0f, 0.0f, t.t0);
    g_.vmulps(reg(t.t0), reg(v), constant(kLog2E));
    round_to_int(t.t0, t.t0, kNearest);
    g_.vfnmadd231ps(reg(v), reg(t.t0), constant(kLn2High));
    g_.vfnmadd231ps(reg(v), reg(t.t0), constant(kLn2Low));
    horner(t.t1, v, kExpTail);
    g_.vmulps(reg(t.t1), reg(t.t1), reg(v));
    g_.vfmadd213ps(reg(t.t1), reg(v), reg(v));
    g_.vcvtps2dq(reg(t.t0), reg(t.t0));
    g_.vpaddd(reg(t.t0), reg(t.t0), constant_bits(127));
    g_.vpslld(reg(t.t0), reg(t.t0), 23);
    broadcast(t.t2, 1.0f);
    g_.vsubps(reg(v), reg(t.t0), reg(t.t2));
    g_.vfmadd231ps(reg(v), reg(t.t1), reg(t.t0));
}

// For v = 2^n m > 0 with m in [sqrt(1/2), sqrt 2): v := m - 1 (exact) and n as a float. The parts are taken on the
// integer side; denormals are scaled up by 2^23 before. Zero, inf and NaN give finite garbage.
void VectorMathEmitter::split_exponent(int v, int n, int t0, int t1) {
    constexpr float kLeastNormal = 0x1p-126f, kScale = 0x1p23f, kScaleExponent = 23.0f;
    if (avx512_) {
        g_.vcmpps(g_.k7, reg(v), constant(kLeastNormal), kLess);
        g_.vmulps(reg(v) | g_.k7, reg(v), constant(kScale));
        g_.vbroadcastss(reg(t0) | g_.k7 | g_.T_z,
                        g_.dword[g_.rip + table_ + constant_offset(std::bit_cast<uint32_t>(kScaleExponent))]);
    } else {
        g_.vcmpps(reg(t0), reg(v), constant(kLeastNormal), kLess);
        g_.vmulps(reg(n), reg(v), constant(kScale));
        g_.vblendvps(reg(v), reg(v), reg(n), reg(t0));
        g_.vandps(reg(t0), reg(t0), constant(kScaleExponent));
    }
    constexpr uint32_t kSqrtHalfBits = 0x3f3504f3;
    g_.vpsubd(reg(n), reg(v), constant_bits(kSqrtHalfBits));
    g_.vpsrad(reg(n), reg(n), 23);
    g_.vpslld(reg(t1), reg(n), 23);
    g_.vpsubd(reg(v), reg(v), reg(t1));
    g_.vcvtdq2ps(reg(n), reg(n));
    g_.vsubps(reg(n), reg(n), reg(t0));
    g_.vaddps(reg(v), reg(v), constant(-1.0f));
}

// v := log(v) = n ln2 + log(1 + f). Uses all temporaries.
void VectorMathEmitter::log(int v, Temps t) {
    copy(t.t3, v);
    split_exponent(v, t.t1, t.t0, t.t2);
    horner(t.t0, v, kLogTail);
    g_.vmulps(reg(t.t2), reg(v), reg(v));
    g_.vfmsub213ps(reg(t.t0), reg(v), constant(0.5f));
    g_.vmulps(reg(t.t0), reg(t.t0), reg(t.t2));
    g_.vfmadd231ps(reg(t.t0), reg(t.t1), constant(kLn2Low));
    g_.vaddps(reg(v), reg(v), reg(t.t0));
    g_.vfmadd231ps(reg(v), reg(t.t1), constant(kLn2High));
    log_special_cases(v, t.t3, t.t0, t.t1);
}

// v := what log(x) is where x is not a positive finite number.
void VectorMathEmitter::log_special_cases(int v, int x, int t0, int t1) {
    if (avx512_) {
        // By class of x: NaN -> NaN, 0 -> -inf, negative -> NaN, +inf -> x, else the computed value.
        g_.vfixupimmps(reg(v), reg(x), constant_bits(0x03130422), 0);
    } else {
        broadcast(t1, kInf);
        select(v, x, reg(t1), kNotLess, x, t0);
        broadcast(t1, -kInf);
        select(v, x, constant(0.0f), kEqual, t1, t0);
        g_.vcmpps(reg(t0), reg(x), constant(0.0f), kLess);
        g_.vorps(reg(v), reg(v), reg(t0));  // all ones is a NaN
    }
}

// exp(y log|x|) with y log|x| as the unevaluated sum of two floats, then the sign and the special cases.
void VectorMathEmitter::pow(int x, int y, std::span<const int> temps) {
    if (temps.size() < kPowTemps)
        fail(ErrorCode::internal, "vector math: pow needs " + std::to_string(kPowTemps) + " temporaries");
    const int f = temps[0], low = temps[1], n = temps[2], h = temps[3], e = temps[4], s = temps[5];
    auto take_abs = [&](int dst, int src) { g_.vandps(reg(dst), reg(src), constant_bits(~kSignBit)); };

    // log|x| = n ln2 + f - f^2/2 + f^3 q(f). What is large is summed by exact two-sums (n ln2_high and f^2 have exact
    // representations, each term is smaller than the sum before it); `low` gathers what the sums lose.
    take_abs(f, x);
    split_exponent(f, n, low, h);
    horner(low, f, kLogTail);
    g_.vmulps(reg(h), reg(f), reg(f));
    copy(e, f);
    g_.vfmsub213ps(reg(e), reg(f), reg(h));
    g_.vmulps(reg(low), reg(low), reg(f));
    g_.vmulps(reg(low), reg(low), reg(h));
    g_.vfnmadd231ps(reg(low), reg(e), constant(0.5f));
    g_.vfmadd231ps(reg(low), reg(n), constant(kLn2Low));
    g_.vmulps(reg(n), reg(n), constant(kLn2High));
    g_.vaddps(reg(s), reg(n), reg(f));
    g_.vsubps(reg(e), reg(s), reg(n));
    g_.vsubps(reg(e), reg(f), reg(e));
    g_.vaddps(reg(low), reg(low), reg(e));
    g_.vmulps(reg(h), reg(h), constant(0.5f));
    g_.vsubps(reg(f), reg(s), reg(h));
    g_.vsubps(reg(s), reg(s), reg(f));
    g_.vsubps(reg(s), reg(s), reg(h));
    g_.vaddps(reg(low), reg(low), reg(s));
    g_.vaddps(reg(s), reg(f), reg(low));
    g_.vsubps(reg(f), reg(s), reg(f));
    g_.vsubps(reg(low), reg(low), reg(f));
    copy(f, s);
    take_abs(s, x);
    log_special_cases(f, s, h, e);

    // p + low = y * (f + low); far out of exp's range (and for infinite p, where it would be NaN) low is dropped.
    const int p = n;
    g_.vmulps(reg(p), reg(f), reg(y));
    g_.vfmsub213ps(reg(f), reg(y), reg(p));
    g_.vfmadd231ps(reg(f), reg(low), reg(y));
    take_abs(e, p);
    zero(h);
    select(f, e, constant(200.0f), kNotLess, h, s);
    copy(low, f);
    clamp(p, -110.0f, 110.0f, h);
    g_.vmulps(reg(e), reg(p), constant(kLog2E));
    round_to_int(e, e, kNearest);
    g_.vfnmadd231ps(reg(p), reg(e), constant(kLn2High));
    g_.vfnmadd231ps(reg(p), reg(e), constant(kLn2Low));
    g_.vaddps(reg(p), reg(p), reg(low));
    horner(h, p, kExpTail);
    g_.vfmadd213ps(reg(h), reg(p), constant(1.0f));
    g_.vfmadd213ps(reg(h), reg(p), constant(1.0f));
    scale_by_power_of_two(f, h, e, s);

    broadcast(h, 1.0f);
    take_abs(s, x);
    select(f, s, reg(h), kEqual, h, e);
    select(f, y, constant(0.0f), kEqual, h, e);
    // Negative for x < 0 and odd y: y is an integer and y / 2 is not. NaN for finite x < 0 and y not an integer.
    round_to_int(low, y, kNearest);
    g_.vmulps(reg(n), reg(y), constant(0.5f));
    round_to_int(h, n, kNearest);
    g_.vandps(reg(s), reg(x), constant_bits(kSignBit));
    if (avx512_) {
        g_.vcmpps(g_.k7, reg(low), reg(y), kEqual);
        g_.vcmpps(g_.k7 | g_.k7, reg(n), reg(h), kNotEqual);
        g_.vxorps(reg(f) | g_.k7, reg(f), reg(s));
        g_.vcmpps(g_.k7, reg(x), constant(0.0f), kLess);
        g_.vcmpps(g_.k7 | g_.k7, reg(x), constant(-kInf), kGreater);
        g_.vcmpps(g_.k7 | g_.k7, reg(low), reg(y), kNotEqual);
        broadcast(h, std::numeric_limits<float>::quiet_NaN());
        g_.vmovaps(reg(f) | g_.k7, reg(h));
    } else {
        g_.vcmpps(reg(n), reg(n), reg(h), kNotEqual);
        g_.vcmpps(reg(h), reg(low), reg(y), kEqual);
        g_.vandps(reg(n), reg(n), reg(h));
        g_.vandps(reg(n), reg(n), reg(s));
        g_.vxorps(reg(f), reg(f), reg(n));
        g_.vcmpps(reg(n), reg(x), constant(0.0f), kLess);
        g_.vcmpps(reg(h), reg(x), constant(-kInf), kGreater);
        g_.vandps(reg(n), reg(n), reg(h));
        g_.vcmpps(reg(h), reg(low), reg(y), kNotEqual);
        g_.vandps(reg(n), reg(n), reg(h));
        g_.vorps(reg(f), reg(f), reg(n));
    }
    copy(x, f);
}

// v := v * P(u) / Q(u); p and q are overwritten.
void VectorMathEmitter::rational(int v, int u, int p, int q, std::span<const float> numerator,
                                 std::span<const float> denominator) {
    horner(p, u, numerator);
    horner(q, u, denominator);
    g_.vmulps(reg(v), reg(v), reg(p));
    g_.vdivps(reg(v), reg(v), reg(q));
}

void VectorMathEmitter::tanh(int v, Temps t) {
    clamp(v, -kTanhBound, kTanhBound, t.t0);
    g_.vmulps(reg(t.t0), reg(v), reg(v));
    rational(v, t.t0, t.t1, t.t2, kTanhP, kTanhQ);
    clamp(v, -1.0f, 1.0f, t.t0);
}

void VectorMathEmitter::erf(int v, Temps t) {
    clamp(v, -kErfBound, kErfBound, t.t0);
    g_.vmulps(reg(t.t0), reg(v), reg(v));
    rational(v, t.t0, t.t1, t.t2, kErfP, kErfQ);
    clamp(v, -1.0f, 1.0f, t.t0);
}

// The sum 1 + erf cancels for x << 0: the error is bounded by 2^-22 |x| there, and the result is exactly -0 below
// -kErfHalfBound.
void VectorMathEmitter::gelu_erf(int v, Temps t) {
    g_.vmulps(reg(t.t3), reg(v), constant(0.5f));
    clamp(v, -kErfHalfBound, kErfHalfBound, t.t0);
    g_.vmulps(reg(t.t0), reg(v), reg(v));
    rational(v, t.t0, t.t1, t.t2, kErfHalfP, kErfHalfQ);
    g_.vfmadd213ps(reg(v), reg(t.t3), reg(t.t3));
}

// x (1 + tanh u) / 2 = x / (1 + exp(-2u)).
// The segment's number, rounded into the low bits of a large float, picks the coefficients: vpermps looks at the low
// four bits of each lane.
void VectorMathEmitter::gelu_near(int v, Temps t) {
    if (!avx512_) return gelu_erf(v, t);
    constexpr float kIntegerShift = 0x1.8p23F, kLargest = 7 * kGeluSegment;
    constexpr uint8_t kLeastMagnitude = 0b0010;  // of vrangeps, with the sign of the first source
    uses_segments_ = true;
    const auto coefficients = [&](int power) { return g_.ptr[g_.rip + segments_ + power * kGeluSegments * 4]; };
    g_.vrangeps(reg(t.t0), reg(v), constant(kLargest), kLeastMagnitude);
    broadcast(t.t1, kIntegerShift + 8);
    g_.vfmadd132ps(reg(t.t0), reg(t.t1), constant(1 / kGeluSegment));
    g_.vpermps(Xbyak::Zmm(t.t1), Xbyak::Zmm(t.t0), coefficients(kGeluDegree));
    for (int power = kGeluDegree - 1; power > 0; --power) {
        g_.vpermps(Xbyak::Zmm(t.t2), Xbyak::Zmm(t.t0), coefficients(power));
        g_.vfmadd213ps(reg(t.t1), reg(v), reg(t.t2));
    }
    g_.vpermps(Xbyak::Zmm(t.t2), Xbyak::Zmm(t.t0), coefficients(0));
    g_.vfmadd213ps(reg(v), reg(t.t1), reg(t.t2));
}

void VectorMathEmitter::gelu_tanh(int v, Temps t) {
    constexpr double kTwoSqrtTwoOverPi = 1.5957691216057308;
    copy(t.t3, v);
    g_.vmulps(reg(t.t0), reg(v), reg(v));
    broadcast(t.t1, static_cast<float>(kTwoSqrtTwoOverPi * 0.044715));
    g_.vfmadd213ps(reg(t.t0), reg(t.t1), constant(static_cast<float>(kTwoSqrtTwoOverPi)));
    g_.vmulps(reg(v), reg(v), reg(t.t0));
    exp(v, t, Sign::minus);
    g_.vaddps(reg(v), reg(v), constant(1.0f));
    g_.vdivps(reg(v), reg(t.t3), reg(v));
}

void VectorMathEmitter::sigmoid(int v, Temps t) {
    exp(v, t, Sign::minus);
    broadcast(t.t0, 1.0f);
    g_.vaddps(reg(v), reg(v), reg(t.t0));
    g_.vdivps(reg(v), reg(t.t0), reg(v));
}

void VectorMathEmitter::silu(int v, float alpha, Temps t) {
    copy(t.t3, v);
    if (alpha != 1.0f) g_.vmulps(reg(v), reg(v), constant(alpha));
    exp(v, t, Sign::minus);
    g_.vaddps(reg(v), reg(v), constant(1.0f));
    g_.vdivps(reg(v), reg(t.t3), reg(v));
}

// log(1 + exp x) = max(x, 0) + log(1 + exp(-|x|)).
void VectorMathEmitter::softplus(int v, Temps t) {
    zero(t.t3);
    g_.vmaxps(reg(t.t3), reg(t.t3), reg(v));
    g_.vandps(reg(v), reg(v), constant_bits(~kSignBit));
    exp(v, t, Sign::minus);
    rational(v, v, t.t1, t.t2, kLog1pP, kLog1pQ);
    g_.vaddps(reg(v), reg(v), reg(t.t3));
}

// tanh(log(1 + e)) = s / (s + 2) with s = e (e + 2), e = exp x; 1 in float from x = 20 on.
void VectorMathEmitter::mish(int v, Temps t) {
    copy(t.t3, v);
    min_keep_nan(v, 20.0f, t.t0);
    exp(v, t, Sign::plus);
    g_.vaddps(reg(t.t0), reg(v), constant(2.0f));
    g_.vmulps(reg(v), reg(v), reg(t.t0));
    g_.vaddps(reg(t.t0), reg(v), constant(2.0f));
    g_.vdivps(reg(v), reg(v), reg(t.t0));
    g_.vmulps(reg(v), reg(v), reg(t.t3));
}

// output_scale * (x > 0 ? x : alpha * (exp(input_scale * x) - 1))
void VectorMathEmitter::elu(int v, float alpha, float input_scale, float output_scale, Temps t) {
    copy(t.t3, v);
    if (input_scale != 1.0f) g_.vmulps(reg(v), reg(v), constant(input_scale));
    expm1_negative(v, t);
    if (alpha != 1.0f) g_.vmulps(reg(v), reg(v), constant(alpha));
    select(v, t.t3, constant(0.0f), kGreater, t.t3, t.t0);
    if (output_scale != 1.0f) g_.vmulps(reg(v), reg(v), constant(output_scale));
}

void VectorMathEmitter::apply(const PostOp& op, int v, std::span<const int> temps) {
    if (temps.size() < kTemps)
        fail(ErrorCode::internal, "vector math: " + std::to_string(kTemps) + " temporaries needed");
    const Temps t{temps[0], temps[1], temps[2], temps[3]};
    using Kind = PostOp::Kind;
    switch (op.kind) {
        case Kind::relu:
            return max_keep_nan(v, 0.0f, t.t0);
        case Kind::clip:
            return clamp(v, op.alpha, op.beta, t.t0);
        case Kind::leaky_relu:
            g_.vmulps(reg(t.t0), reg(v), constant(op.alpha));
            return select(v, v, constant(0.0f), kLess, t.t0, t.t1);
        case Kind::hard_sigmoid:
            broadcast(t.t0, op.alpha);
            g_.vfmadd213ps(reg(v), reg(t.t0), constant(op.beta));
            return clamp(v, 0.0f, 1.0f, t.t0);
        case Kind::hard_swish:
            copy(t.t1, v);
            broadcast(t.t0, 1.0f / 6.0f);
            g_.vfmadd213ps(reg(v), reg(t.t0), constant(0.5f));
            clamp(v, 0.0f, 1.0f, t.t0);
            return g_.vmulps(reg(v), reg(v), reg(t.t1));
        case Kind::scale_shift:
            broadcast(t.t0, op.alpha);
            return g_.vfmadd213ps(reg(v), reg(t.t0), constant(op.beta));
        case Kind::sqrt:
            return g_.vsqrtps(reg(v), reg(v));
        case Kind::rsqrt:
            g_.vsqrtps(reg(v), reg(v));
            broadcast(t.t0, 1.0f);
            return g_.vdivps(reg(v), reg(t.t0), reg(v));
        case Kind::abs:
            return g_.vandps(reg(v), reg(v), constant_bits(~kSignBit));
        case Kind::neg:
            return g_.vxorps(reg(v), reg(v), constant_bits(kSignBit));
        case Kind::reciprocal:
            broadcast(t.t0, 1.0f);
            return g_.vdivps(reg(v), reg(t.t0), reg(v));
        case Kind::square:
            return g_.vmulps(reg(v), reg(v), reg(v));
        case Kind::floor:
            return round_to_int(v, v, kFloor);
        case Kind::ceil:
            return round_to_int(v, v, kCeil);
        case Kind::round:
            return round_to_int(v, v, kNearest);
        case Kind::softsign:
            g_.vandps(reg(t.t0), reg(v), constant_bits(~kSignBit));
            g_.vaddps(reg(t.t0), reg(t.t0), constant(1.0f));
            return g_.vdivps(reg(v), reg(v), reg(t.t0));
        case Kind::sigmoid:
            return sigmoid(v, t);
        case Kind::silu:
            return silu(v, op.alpha, t);
        case Kind::tanh:
            return tanh(v, t);
        case Kind::gelu_erf:
            return gelu_erf(v, t);
        case Kind::gelu_tanh:
            return gelu_tanh(v, t);
        case Kind::gelu_near:
            return gelu_near(v, t);
        case Kind::exp:
            return exp(v, t, Sign::plus);
        case Kind::log:
            return log(v, t);
        case Kind::erf:
            return erf(v, t);
        case Kind::elu:
            return elu(v, op.alpha, 1.0f, 1.0f, t);
        case Kind::selu:
            return elu(v, op.alpha, 1.0f, op.beta, t);
        case Kind::celu:
            return elu(v, op.alpha, 1.0f / op.alpha, 1.0f, t);
        case Kind::softplus:
            return softplus(v, t);
        case Kind::mish:
            return mish(v, t);
        case Kind::add_channel:
        case Kind::mul_channel:
        case Kind::prelu_channel:
        case Kind::add_tensor:
        case Kind::sub_tensor:
        case Kind::rsub_tensor:
        case Kind::mul_tensor:
        case Kind::div_tensor:
        case Kind::max_tensor:
        case Kind::min_tensor:
            break;
    }
    fail(ErrorCode::internal, "vector math: post-op with an operand given to the unary emitter");
}

}  // namespace planish::cpu
