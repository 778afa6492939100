// Element-wise arithmetic, comparison, logic and selection with broadcasting.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "planish/error.hpp"
#include "reference/elementwise.hpp"

namespace planish::reference {

namespace {

/// fn computed modulo 2^64 for integers, in double for floats.
template <typename Fn>
void modular_binary(RefContext& ctx, Fn fn) {
    const DType dtype = ctx.input(0).dtype();
    with_modular_arithmetic(dtype, [&](auto t) { map_binary<decltype(t)>(ctx, dtype, fn); });
}

template <typename Fn>
void compare(RefContext& ctx, Fn fn) {
    with_arithmetic(ctx.input(0).dtype(), [&](auto t) { map_binary<decltype(t)>(ctx, DType::boolean, fn); });
}

/// Bitwise and logical functions: only the low bits matter, so that one integer type does for all.
template <typename Fn>
void bitwise(RefContext& ctx, Fn fn) {
    map_binary<uint64_t>(ctx, ctx.input(0).dtype(), fn);
}

/// Quotient rounded toward zero. Division by zero gives 0 and the lowest / -1 wraps, as in NumPy: no trap.
template <typename T>
T quotient(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return a / b;
    else if (b == 0)
        return 0;
    else if constexpr (std::is_signed_v<T>)
        return b == -1 ? static_cast<T>(0 - static_cast<uint64_t>(a)) : a / b;
    else
        return a / b;
}

template <typename T>
T remainder_truncated(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return std::fmod(a, b);
    else if (b == 0)
        return 0;
    else if constexpr (std::is_signed_v<T>)
        return b == -1 ? 0 : a % b;
    else
        return a % b;
}

/// a - floor(a / b) * b: the result has the divisor's sign, zeros included.
template <typename T>
T remainder_floored(T a, T b) {
    const T r = remainder_truncated(a, b);
    if constexpr (std::is_floating_point_v<T>) {
        if (r == 0) return std::copysign(r, b);
        return (r < 0) != (b < 0) ? r + b : r;  // NaN passes: both comparisons are false or r + b is NaN
    } else if constexpr (std::is_signed_v<T>) {
        return r != 0 && (r < 0) != (b < 0) ? r + b : r;
    } else {
        return r;
    }
}

/// base^exponent modulo 2^64; a negative exponent truncates toward zero (so only 1 and -1 stay).
uint64_t integer_power(uint64_t base, int64_t exponent) {
    if (exponent < 0) {
        const auto b = static_cast<int64_t>(base);
        if (b == 1) return 1;
        if (b == -1) return exponent % 2 ? static_cast<uint64_t>(-1) : 1;
        return 0;
    }
    uint64_t result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

/// NaN when either is: std::max and std::min would drop it.
template <typename T>
T nan_max(T a, T b) {
    const T larger = a > b ? a : b;  // one instruction, without a branch on data
    return a != a ? a : larger;
}
template <typename T>
T nan_min(T a, T b) {
    const T smaller = a < b ? a : b;
    return a != a ? a : smaller;
}

}  // namespace

void add(RefContext& ctx) {
    modular_binary(ctx, [](auto a, auto b) { return a + b; });
}
void sub(RefContext& ctx) {
    modular_binary(ctx, [](auto a, auto b) { return a - b; });
}
void mul(RefContext& ctx) {
    modular_binary(ctx, [](auto a, auto b) { return a * b; });
}

void div(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_arithmetic(
        dtype, [&](auto t) { map_binary<decltype(t)>(ctx, dtype, [](auto a, auto b) { return quotient(a, b); }); });
}

void mod(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    const bool truncated = ctx.integer("fmod") != 0;
    with_arithmetic(dtype, [&](auto t) {
        map_binary<decltype(t)>(ctx, dtype, [truncated](auto a, auto b) {
            return truncated ? remainder_truncated(a, b) : remainder_floored(a, b);
        });
    });
}

void pow(RefContext& ctx) {
    const DType base = ctx.input(0).dtype(), exponent = ctx.input(1).dtype();
    if (arithmetic_of(base) == Arithmetic::real || arithmetic_of(exponent) == Arithmetic::real)
        map_binary<double>(ctx, base, [](double a, double b) { return std::pow(a, b); });
    else
        map_binary<int64_t>(ctx, base, [](int64_t a, int64_t b) { return integer_power(static_cast<uint64_t>(a), b); });
}

void bit_shift(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    const bool left = ctx.text("direction") == "LEFT";
    const int bits = bit_width(dtype);
    with_arithmetic(dtype, [&](auto t) {
        using T = std::conditional_t<std::is_floating_point_v<decltype(t)>, int64_t, decltype(t)>;
        map_binary<T>(ctx, dtype, [left, bits](T a, T b) {
            // A shift by nothing or past the width leaves what the sign extension alone produces.
            const bool outside = b < 0 || b >= static_cast<T>(bits);
            if (left) return outside ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << b);
            return outside ? (a < 0 ? static_cast<T>(-1) : T{0}) : static_cast<T>(a >> b);
        });
    });
}

void bitwise_and(RefContext& ctx) {
    bitwise(ctx, [](uint64_t a, uint64_t b) { return a & b; });
}
void bitwise_or(RefContext& ctx) {
    bitwise(ctx, [](uint64_t a, uint64_t b) { return a | b; });
}
void bitwise_xor(RefContext& ctx) {
    bitwise(ctx, [](uint64_t a, uint64_t b) { return a ^ b; });
}
void bitwise_not(RefContext& ctx) {
    map_unary<uint64_t>(ctx, ctx.input(0).dtype(), [](uint64_t a) { return ~a; });
}
void logical_and(RefContext& ctx) {
    bitwise_and(ctx);
}
void logical_or(RefContext& ctx) {
    bitwise_or(ctx);
}
void logical_xor(RefContext& ctx) {
    bitwise_xor(ctx);
}
void logical_not(RefContext& ctx) {
    map_unary<uint64_t>(ctx, DType::boolean, [](uint64_t a) { return uint64_t{a == 0}; });
}

void equal(RefContext& ctx) {
    const Tensor &a = ctx.input(0), &b = ctx.input(1);
    if (a.dtype() != DType::string) return compare(ctx, [](auto x, auto y) { return uint64_t{x == y}; });
    Tensor& out = ctx.output(0, DType::boolean, broadcast(a.dims(), b.dims()));
    const BroadcastWalk walk(out.dims(), {a.dims(), b.dims()});
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        for (int64_t i = 0; i < count; ++i) {
            const auto x = static_cast<size_t>(from[0] + i * walk.stride(0));
            const auto y = static_cast<size_t>(from[1] + i * walk.stride(1));
            out.data<uint8_t>()[static_cast<size_t>(first + i)] = a.strings()[x] == b.strings()[y];
        }
    });
}
void less(RefContext& ctx) {
    compare(ctx, [](auto a, auto b) { return uint64_t{a < b}; });
}
void less_or_equal(RefContext& ctx) {
    compare(ctx, [](auto a, auto b) { return uint64_t{a <= b}; });
}
void greater(RefContext& ctx) {
    compare(ctx, [](auto a, auto b) { return uint64_t{a > b}; });
}
void greater_or_equal(RefContext& ctx) {
    compare(ctx, [](auto a, auto b) { return uint64_t{a >= b}; });
}

void max(RefContext& ctx) {
    with_arithmetic(ctx.input(0).dtype(), [&](auto t) {
        using T = decltype(t);
        map_fold<T>(
            ctx, [](T a, T b) { return nan_max(a, b); }, [](T a) { return a; });
    });
}
void min(RefContext& ctx) {
    with_arithmetic(ctx.input(0).dtype(), [&](auto t) {
        using T = decltype(t);
        map_fold<T>(
            ctx, [](T a, T b) { return nan_min(a, b); }, [](T a) { return a; });
    });
}
void sum(RefContext& ctx) {
    map_fold<double>(
        ctx, [](double a, double b) { return a + b; }, [](double a) { return a; });
}
void mean(RefContext& ctx) {
    const double n = ctx.input_count();
    map_fold<double>(
        ctx, [](double a, double b) { return a + b; }, [n](double a) { return a / n; });
}

/// min(high, max(low, x)): `high` wins where low > high; NaN stays NaN.
void clip(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    with_arithmetic(x.dtype(), [&](auto t) {
        using T = decltype(t);
        T low{}, high{};
        const bool has_low = ctx.has_input(1), has_high = ctx.has_input(2);
        for (int i : {1, 2})
            if (ctx.has_input(i) && ctx.input(i).size() != 1)
                ctx.error("the bounds of Clip must be scalars, but input " + std::to_string(i) + " has shape " +
                          to_string(ctx.input(i).dims()));
        if (has_low) read(ctx.input(1), 0, 1, 1, &low);
        if (has_high) read(ctx.input(2), 0, 1, 1, &high);
        map_unary<T>(ctx, x.dtype(), [=](T v) {
            if (has_low) v = nan_max(v, low);
            if (has_high) v = nan_min(v, high);
            return v;
        });
    });
}

/// x for x >= 0, else slope * x; the slope is broadcast to x.
void prelu(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    if (broadcast(ctx.input(0).dims(), ctx.input(1).dims()) != ctx.input(0).dims())
        ctx.error("the slope of shape " + to_string(ctx.input(1).dims()) + " does not broadcast to the input's " +
                  to_string(ctx.input(0).dims()));
    with_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        map_binary<T>(ctx, dtype, [](T x, T slope) {
            if constexpr (std::is_floating_point_v<T>)
                return x < 0 ? slope * x : x;
            else
                return x < 0 ? static_cast<T>(static_cast<uint64_t>(slope) * static_cast<uint64_t>(x)) : x;
        });
    });
}

namespace {

/// out[i] = condition ? x : y on elements of `Size` bytes.
template <size_t Size>
void select_bytes(const BroadcastWalk& walk, const Tensor& condition, const Tensor& x, const Tensor& y, Tensor& out) {
    const auto* chosen = static_cast<const uint8_t*>(condition.raw());
    const auto* a = static_cast<const char*>(x.raw());
    const auto* b = static_cast<const char*>(y.raw());
    auto* to = static_cast<char*>(out.raw());
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        for (int64_t i = 0; i < count; ++i) {
            const char* source = chosen[from[0] + i * walk.stride(0)]
                                     ? a + static_cast<size_t>(from[1] + i * walk.stride(1)) * Size
                                     : b + static_cast<size_t>(from[2] + i * walk.stride(2)) * Size;
            std::memcpy(to + static_cast<size_t>(first + i) * Size, source, Size);
        }
    });
}

}  // namespace

void where(RefContext& ctx) {
    const Tensor &condition = ctx.input(0), &x = ctx.input(1), &y = ctx.input(2);
    Tensor& out = ctx.output(0, x.dtype(), broadcast_inputs(ctx, 0, 3));
    const BroadcastWalk walk(out.dims(), {condition.dims(), x.dims(), y.dims()});
    switch (x.dtype() == DType::string ? 0 : bit_width(x.dtype())) {
        case 8:
            return select_bytes<1>(walk, condition, x, y, out);
        case 16:
            return select_bytes<2>(walk, condition, x, y, out);
        case 32:
            return select_bytes<4>(walk, condition, x, y, out);
        case 64:
            return select_bytes<8>(walk, condition, x, y, out);
        case 128:
            return select_bytes<16>(walk, condition, x, y, out);
        default:
            break;
    }
    // Strings and packed types: one element at a time, in order (neighbours share a byte).
    std::vector<double> picked(static_cast<size_t>(out.size()));
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        for (int64_t i = 0; i < count; ++i) {
            const bool take_x = condition.data<uint8_t>()[static_cast<size_t>(from[0] + i * walk.stride(0))] != 0;
            const Tensor& source = take_x ? x : y;
            const int64_t at = take_x ? from[1] + i * walk.stride(1) : from[2] + i * walk.stride(2);
            if (out.dtype() == DType::string)
                out.strings()[static_cast<size_t>(first + i)] = source.strings()[static_cast<size_t>(at)];
            else
                picked[static_cast<size_t>(first + i)] = source.at_double(at);
        }
    });
    if (out.dtype() != DType::string) write_all(picked, out);
}

}  // namespace planish::reference
