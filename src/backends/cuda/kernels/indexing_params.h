// Division by numbers that are known when a kernel is launched, and batches of matrices: plain C++ without headers, for
// host and device.
#pragma once

namespace planish {

/// n / divisor = (n * multiplier / 2^32 + n) >> shift for n < 2^31
/// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
    unsigned divisor, multiplier, shift;
};

inline constexpr Divisor make_divisor(unsigned divisor) {
    unsigned shift = 0;
    while ((1ull << shift) < divisor) ++shift;
    const unsigned long long excess = (1ull << shift) - divisor;
    return {divisor, static_cast<unsigned>((excess << 32) / divisor + (divisor > 1 ? 1 : 0)), shift};
}

constexpr int kBatchAxes = 4;

/// An axis of a batch of products, in elements from one of its positions to the next; 0 where an operand is broadcast.
struct BatchAxis {
    long long input, weights;
    int extent;
};

}  // namespace planish
