// Arithmetic on numbers that come from files: what would overflow saturates, so that the checks that follow refuse it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

namespace planish {

/// The nearest int64 to what `x` truncates to; NaN gives 0.
inline int64_t saturating_int64(double x) {
    constexpr double kLimit = 9223372036854775808.0;  // 2^63
    if (std::isnan(x)) return 0;
    if (x >= kLimit) return std::numeric_limits<int64_t>::max();
    if (x < -kLimit) return std::numeric_limits<int64_t>::min();
    return static_cast<int64_t>(x);
}

inline int64_t saturating_add(int64_t a, int64_t b) {
    int64_t sum = 0;
    if (!__builtin_add_overflow(a, b, &sum)) return sum;
    return b > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
}

/// Do the sizes cut an axis of `extent` into parts: none negative, their sum the extent?
inline bool partitions(std::span<const int64_t> sizes, int64_t extent) {
    int64_t sum = 0;
    for (const int64_t size : sizes) {
        if (size < 0) return false;
        sum = saturating_add(sum, size);
    }
    return sum == extent;
}

}  // namespace planish
