// Element-wise functions of one input: mathematics, rounding, predicates, activations.
#include <cmath>
#include <numbers>

#include "reference/elementwise.hpp"

namespace planish::reference {

namespace {

template <typename Fn>
void real_unary(RefContext& ctx, Fn fn) {
    map_unary<double>(ctx, ctx.input(0).dtype(), fn);
}

template <typename Fn>
void predicate(RefContext& ctx, Fn fn) {
    map_unary<double>(ctx, DType::boolean, [fn](double x) { return uint64_t{fn(x)}; });
}

double sigmoid_of(double x) {
    // exp of a negative argument only: neither side overflows.
    if (x >= 0) return 1 / (1 + std::exp(-x));
    const double e = std::exp(x);
    return e / (1 + e);
}

double softplus_of(double x) {
    return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
}

/// min(1, max(0, x)), NaN stays.
double unit_clamp(double x) {
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

}  // namespace

void abs(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        map_unary<T>(ctx, dtype, [](T x) {
            if constexpr (std::is_floating_point_v<T>)
                return std::fabs(x);
            else if constexpr (std::is_signed_v<T>)
                return x < 0 ? static_cast<T>(0 - static_cast<uint64_t>(x)) : x;
            else
                return x;
        });
    });
}
void neg(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_modular_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        map_unary<T>(ctx, dtype, [](T x) {
            if constexpr (std::is_floating_point_v<T>)
                return -x;
            else
                return T{0} - x;
        });
    });
}
void sign(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        map_unary<T>(ctx, dtype, [](T x) { return x > 0 ? T{1} : x < 0 ? static_cast<T>(-1) : x; });
    });
}
void relu(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        map_unary<T>(ctx, dtype, [](T x) { return x < 0 ? T{0} : x; });
    });
}

void sqrt(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::sqrt(x); });
}
void reciprocal(RefContext& ctx) {
    real_unary(ctx, [](double x) { return 1 / x; });
}
void exp(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::exp(x); });
}
void log(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::log(x); });
}
void erf(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::erf(x); });
}
void sin(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::sin(x); });
}
void cos(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::cos(x); });
}
void tan(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::tan(x); });
}
void asin(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::asin(x); });
}
void acos(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::acos(x); });
}
void atan(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::atan(x); });
}
void sinh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::sinh(x); });
}
void cosh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::cosh(x); });
}
void tanh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::tanh(x); });
}
void asinh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::asinh(x); });
}
void acosh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::acosh(x); });
}
void atanh(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::atanh(x); });
}
void ceil(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::ceil(x); });
}
void floor(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::floor(x); });
}
/// Halves go to the nearest even integer (the default rounding mode of the process).
void round(RefContext& ctx) {
    real_unary(ctx, [](double x) { return std::nearbyint(x); });
}

void is_nan(RefContext& ctx) {
    predicate(ctx, [](double x) { return std::isnan(x); });
}
void is_inf(RefContext& ctx) {
    const bool positive = ctx.integer("detect_positive") != 0, negative = ctx.integer("detect_negative") != 0;
    predicate(ctx, [=](double x) { return std::isinf(x) && (x > 0 ? positive : negative); });
}

void sigmoid(RefContext& ctx) {
    real_unary(ctx, sigmoid_of);
}
void hard_sigmoid(RefContext& ctx) {
    const double alpha = ctx.real("alpha"), beta = ctx.real("beta");
    real_unary(ctx, [=](double x) { return unit_clamp(alpha * x + beta); });
}
void hard_swish(RefContext& ctx) {
    real_unary(ctx, [](double x) { return x * unit_clamp(x / 6 + 0.5); });
}
void swish(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    real_unary(ctx, [=](double x) { return x * sigmoid_of(alpha * x); });
}
void swiglu(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    map_binary<double>(ctx, ctx.input(0).dtype(), [=](double a, double b) { return a * sigmoid_of(alpha * a) * b; });
}
/// x * Phi(x), or its tanh approximation (https://arxiv.org/abs/1606.08415).
void gelu(RefContext& ctx) {
    if (ctx.text("approximate") == "tanh") {
        const double c = std::sqrt(2 / std::numbers::pi);
        real_unary(ctx, [c](double x) { return 0.5 * x * (1 + std::tanh(c * (x + 0.044715 * x * x * x))); });
    } else {
        real_unary(ctx, [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); });
    }
}
void leaky_relu(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    real_unary(ctx, [=](double x) { return x < 0 ? alpha * x : x; });
}
void thresholded_relu(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    real_unary(ctx, [=](double x) { return x <= alpha ? 0 : x; });
}
void elu(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    real_unary(ctx, [=](double x) { return x < 0 ? alpha * std::expm1(x) : x; });
}
void celu(RefContext& ctx) {
    const double alpha = ctx.real("alpha");
    real_unary(ctx, [=](double x) { return x < 0 ? alpha * std::expm1(x / alpha) : x; });
}
void selu(RefContext& ctx) {
    const double alpha = ctx.real("alpha"), gamma = ctx.real("gamma");
    real_unary(ctx, [=](double x) { return gamma * (x <= 0 ? alpha * std::expm1(x) : x); });
}
void softplus(RefContext& ctx) {
    real_unary(ctx, softplus_of);
}
void softsign(RefContext& ctx) {
    real_unary(ctx, [](double x) { return x / (1 + std::fabs(x)); });
}
void mish(RefContext& ctx) {
    real_unary(ctx, [](double x) { return x * std::tanh(softplus_of(x)); });
}
void shrink(RefContext& ctx) {
    const double bias = ctx.real("bias"), lambd = ctx.real("lambd");
    real_unary(ctx, [=](double x) { return x < -lambd ? x + bias : x > lambd ? x - bias : 0; });
}

}  // namespace planish::reference
