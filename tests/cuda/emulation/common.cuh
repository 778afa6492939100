// What emulated kernels use of src/backends/cuda/kernels/common.cuh, without PTX.
#pragma once

namespace planish {

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

inline float to_float(f16 x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                 : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25));
}
inline float to_float(bf16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

template <typename T>
T from_float(float x);
/// To nearest, ties to even: in steps of 2^(exponent - 10), at least 2^-24; 65520 and more is infinite.
template <>
inline f16 from_float<f16>(float x) {
    const auto sign = static_cast<unsigned short>(__float_as_uint(x) >> 16 & 0x8000);
    const float a = std::fabs(x);
    if (a != a) return {static_cast<unsigned short>(sign | 0x7e00)};
    if (a >= 65520.0f) return {static_cast<unsigned short>(sign | 0x7c00)};
    int exponent = -14;
    if (a >= 0x1p-14f) exponent = std::ilogb(a);
    const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(a, 10 - exponent)));  // 1024: 2^exponent
    return {static_cast<unsigned short>(sign | (static_cast<unsigned>(exponent + 14) * 1024 + steps))};
}
template <>
inline bf16 from_float<bf16>(float x) {
    const unsigned bits = __float_as_uint(x);
    if (x != x) return {static_cast<unsigned short>(bits >> 16 | 64)};
    return {static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline void pdl_wait() {}
inline void pdl_launch() {}

}  // namespace planish
