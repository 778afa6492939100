// Emits elementwise float32 functions into generated kernels, on one vector register at a time.
#pragma once

#include <xbyak/xbyak.h>

#include <cstdint>
#include <span>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// Writes the instructions of unary post-ops at the generator's current position.
///
/// Every function keeps NaN as NaN, is right at +-inf and +-0, and neither flushes nor mistreats denormals. Largest
/// errors in ulp, measured on every 97th bit pattern and equal on both instruction sets: exp 0.92, log 0.86, tanh 3.7,
/// erf 4.3, sigmoid and silu 2.3, gelu_tanh 2, elu 1.6, softplus 3.4, mish 4.3, softsign and rsqrt 1.5; gelu_erf 4 ulp
/// for x > 0 and 2^-22 |x| absolute below (see there). gelu_near is another kind: see PostOp.
/// AVX-512 code overwrites mask register k7, and no general register is touched.
class VectorMathEmitter {
  public:
    /// Temporaries that `apply` may ask for.
    static constexpr int kTemps = 4;

    /// `isa` picks ymm (avx2) or zmm (avx512 and above) code.
    VectorMathEmitter(Xbyak::CodeGenerator& gen, Isa isa);

    /// Replaces register `vreg` by op(vreg). `temps` are overwritten: kTemps registers, none of them vreg. Throws
    /// `internal` for kinds that read an operand.
    void apply(const PostOp& op, int vreg, std::span<const int> temps);

    /// Replaces register `base` by base^exponent with the special cases of C's pow; at most 2 ulp (400,000 random
    /// pairs). `temps` are kPowTemps registers other than the two.
    void pow(int base, int exponent, std::span<const int> temps);
    static constexpr int kPowTemps = 6;

    /// The constants used so far, to be placed after the code's last instruction.
    void emit_tables();

    /// Memory operand holding `value` in every lane: usable as last source of any vector instruction.
    Xbyak::Address constant(float value);
    Xbyak::Address constant_bits(uint32_t bits);

    /// dst := value in every lane.
    void broadcast(int dst, float value);

    /// Register `index` at the emitter's width.
    Xbyak::Xmm reg(int index) const { return Xbyak::Xmm(avx512_ ? Xbyak::Operand::ZMM : Xbyak::Operand::YMM, index); }

    bool is_avx512() const { return avx512_; }

  private:
    struct Temps {
        int t0, t1, t2, t3;
    };
    enum class Sign { plus, minus };

    int constant_offset(uint32_t bits);
    void zero(int dst);
    void copy(int dst, int src);
    void min_keep_nan(int v, float bound, int t);
    void max_keep_nan(int v, float bound, int t);
    void clamp(int v, float low, float high, int t);
    void horner(int acc, int x, std::span<const float> ascending);
    void round_to_int(int dst, int src, int mode);
    void scale_by_power_of_two(int dst, int significand, int exponent, int t);
    void select(int dst, int a, const Xbyak::Operand& b, int predicate, int src, int t);

    void exp(int v, Temps t, Sign sign);
    void expm1_negative(int v, Temps t);
    void split_exponent(int v, int n, int t0, int t1);
    void log(int v, Temps t);
    void log_special_cases(int v, int x, int t0, int t1);
    void rational(int v, int u, int p, int q, std::span<const float> numerator, std::span<const float> denominator);
    void tanh(int v, Temps t);
    void erf(int v, Temps t);
    void gelu_erf(int v, Temps t);
    void gelu_tanh(int v, Temps t);
    void gelu_near(int v, Temps t);
    void sigmoid(int v, Temps t);
    void silu(int v, float alpha, Temps t);
    void softplus(int v, Temps t);
    void mish(int v, Temps t);
    void elu(int v, float alpha, float input_scale, float output_scale, Temps t);

    Xbyak::CodeGenerator& g_;
    bool avx512_;
    Xbyak::Label table_, segments_;
    std::vector<uint32_t> constants_;
    bool uses_segments_ = false;
};

}  // namespace planish::cpu
