// Which positions of a pooling window lie inside the image.
#pragma once

#include "backends/cpu/kernels/simd.hpp"

namespace planish::cpu::PLANISH_ISA {

// The kernel positions [first, last) of a window that starts at `start` and fall inside [0, size).
struct Taps {
    int64_t first, last;

    PLANISH_INLINE Taps(int64_t start, int64_t size, int64_t kernel, int64_t dilation) {
        first = start < 0 ? min_of((-start + dilation - 1) / dilation, kernel) : 0;
        last = start >= size ? first : max_of(first, min_of(kernel, (size - start + dilation - 1) / dilation));
    }
    PLANISH_INLINE int64_t count() const { return last - first; }
};

}  // namespace planish::cpu::PLANISH_ISA
