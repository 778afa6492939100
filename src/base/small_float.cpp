// Small float formats, described by one table.
#include "base/small_float.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "planish/error.hpp"

namespace planish {
namespace {

struct Format {
    int exponent_bits, mantissa_bits, bias;
    bool has_infinity;  // the top exponent holds infinity and NaNs (IEEE)
    bool fnuz;          // no negative zero: its code is the only NaN
    bool has_nan;
};

const Format& format_of(DType dtype) {
    static constexpr Format kF16{5, 10, 15, true, false, true}, kBf16{8, 7, 127, true, false, true},
        kE4m3fn{4, 3, 7, false, false, true}, kE4m3fnuz{4, 3, 8, false, true, true}, kE5m2{5, 2, 15, true, false, true},
        kE5m2fnuz{5, 2, 16, false, true, true}, kE2m1{2, 1, 1, false, false, false};
    switch (dtype) {
        case DType::f16:
            return kF16;
        case DType::bf16:
            return kBf16;
        case DType::f8e4m3fn:
            return kE4m3fn;
        case DType::f8e4m3fnuz:
            return kE4m3fnuz;
        case DType::f8e5m2:
            return kE5m2;
        case DType::f8e5m2fnuz:
            return kE5m2fnuz;
        case DType::f4e2m1:
            return kE2m1;
        default:
            fail(ErrorCode::internal, "not a small float format");
    }
}

}  // namespace

double decode_small_float(DType dtype, uint32_t bits) {
    if (dtype == DType::f8e8m0)  // an unsigned power of two; all ones is NaN
        return bits == 0xFF ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, static_cast<int>(bits) - 127);
    const Format& f = format_of(dtype);
    const uint32_t sign_bit = 1u << (f.exponent_bits + f.mantissa_bits);
    const double sign = bits & sign_bit ? -1.0 : 1.0;
    const uint32_t top = (1u << f.exponent_bits) - 1;
    const uint32_t exponent = (bits >> f.mantissa_bits) & top;
    const uint32_t mantissa = bits & ((1u << f.mantissa_bits) - 1);
    if (f.fnuz && bits == sign_bit) return std::numeric_limits<double>::quiet_NaN();
    if (f.has_infinity && exponent == top)
        return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    if (f.has_nan && !f.has_infinity && !f.fnuz && exponent == top && mantissa == (1u << f.mantissa_bits) - 1)
        return std::numeric_limits<double>::quiet_NaN();
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits);
    return sign * std::ldexp(mantissa + (1u << f.mantissa_bits), static_cast<int>(exponent) - f.bias - f.mantissa_bits);
}

uint32_t encode_small_float(DType dtype, double value, bool saturate) {
    if (dtype == DType::f8e8m0) {
        if (std::isnan(value)) return 0xFF;
        const double magnitude = std::fabs(value);
        if (magnitude == 0) return 0;
        const double exponent = std::nearbyint(std::log2(magnitude));
        return static_cast<uint32_t>(std::fmin(std::fmax(exponent + 127, 0), 254));
    }
    const Format& f = format_of(dtype);
    const uint32_t sign_bit = 1u << (f.exponent_bits + f.mantissa_bits);
    const uint32_t top = (1u << f.exponent_bits) - 1;
    const uint32_t mantissa_all = (1u << f.mantissa_bits) - 1;
    const uint32_t sign = std::signbit(value) ? sign_bit : 0;
    uint32_t nan = sign | (top << f.mantissa_bits) | mantissa_all;
    if (f.fnuz) nan = sign_bit;
    if (f.has_infinity) nan = sign | (top << f.mantissa_bits) | (1u << (f.mantissa_bits - 1));
    const uint32_t infinity = sign | (top << f.mantissa_bits);
    uint32_t largest = (top << f.mantissa_bits) | mantissa_all;  // code of the largest finite magnitude
    if (f.has_infinity)
        largest = (top << f.mantissa_bits) - 1;
    else if (f.has_nan && !f.fnuz)
        largest -= 1;

    if (std::isnan(value)) return f.has_nan ? nan : 0;
    const double magnitude = std::fabs(value);
    const uint32_t overflow = saturate || !f.has_nan ? (sign | largest) : (f.has_infinity ? infinity : nan);
    if (std::isinf(magnitude)) {
        if (f.has_infinity && !(saturate && bit_width(dtype) == 8)) return infinity;
        return overflow;
    }
    if (magnitude == 0) return f.fnuz ? 0 : sign;
    int exponent;
    std::frexp(magnitude, &exponent);
    exponent = std::max(exponent - 1, 1 - f.bias);  // of the leading bit, or of the subnormal range
    // Steps of the format at this exponent: an integer after scaling; nearbyint rounds ties to even.
    const double steps = std::nearbyint(std::ldexp(magnitude, f.mantissa_bits - exponent));
    uint64_t code = static_cast<uint64_t>(steps) + (static_cast<uint64_t>(exponent + f.bias - 1) << f.mantissa_bits);
    if (code > largest) {
        if (f.has_infinity && bit_width(dtype) == 16) return infinity;
        return overflow;
    }
    if (code == 0) return f.fnuz ? 0 : sign;
    return sign | static_cast<uint32_t>(code);
}

}  // namespace planish
