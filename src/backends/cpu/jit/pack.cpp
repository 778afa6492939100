// Packing and its inverse: plain copies, row by row; transposed sources in 4x4 blocks of SSE registers.
#include "backends/cpu/jit/pack.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

namespace planish::cpu {
namespace {

/// dst[row*width + j] = src[j*ld + row] for row < k, j < columns; zeros up to width.
void pack_transposed_panel(const float* src, int64_t ld, int64_t k, int64_t columns, int64_t width, float* dst) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
        const float* s = src + j * ld;
        int64_t row = 0;
        for (; row + 4 <= k; row += 4) {
            __m128 r0 = _mm_loadu_ps(s + row), r1 = _mm_loadu_ps(s + ld + row);
            __m128 r2 = _mm_loadu_ps(s + 2 * ld + row), r3 = _mm_loadu_ps(s + 3 * ld + row);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            float* d = dst + row * width + j;
            _mm_storeu_ps(d, r0);
            _mm_storeu_ps(d + width, r1);
            _mm_storeu_ps(d + 2 * width, r2);
            _mm_storeu_ps(d + 3 * width, r3);
        }
        for (; row < k; ++row) {
            for (int64_t i = 0; i < 4; ++i) dst[row * width + j + i] = s[i * ld + row];
        }
    }
    for (; j < columns; ++j) {
        for (int64_t row = 0; row < k; ++row) dst[row * width + j] = src[j * ld + row];
    }
    if (columns < width) {
        for (int64_t row = 0; row < k; ++row) std::fill(dst + row * width + columns, dst + (row + 1) * width, 0.0F);
    }
}

void pack_plain_panel(const float* src, int64_t ld, int64_t k, int64_t columns, int64_t width, float* dst) {
    for (int64_t row = 0; row < k; ++row, src += ld, dst += width) {
        std::memcpy(dst, src, static_cast<size_t>(columns) * sizeof(float));
        std::fill(dst + columns, dst + width, 0.0F);
    }
}

/// Calls fn(row of B, column of B, index in oihw) for every weight.
template <typename Fn>
void for_each_conv_weight(int64_t c, int64_t kh, int64_t kw, int64_t oc, const Fn& fn) {
    const int64_t taps = kh * kw;
    for (int64_t o = 0; o < oc; ++o) {
        for (int64_t i = 0; i < c; ++i) {
            for (int64_t tap = 0; tap < taps; ++tap) fn(tap * c + i, o, (o * c + i) * taps + tap);
        }
    }
}

}  // namespace

void pack_b_panels(const float* b, int64_t ldb, bool transposed, const PackLayout& layout, int64_t first, int64_t last,
                   float* packed) {
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t column = panel * layout.nr;
        const int64_t columns = std::min<int64_t>(layout.nr, layout.n - column);
        float* dst = packed + layout.panel_offset(panel);
        if (transposed) {
            pack_transposed_panel(b + column * ldb, ldb, layout.k, columns, layout.width(panel), dst);
        } else {
            pack_plain_panel(b + column, ldb, layout.k, columns, layout.width(panel), dst);
        }
    }
}

void pack_b(const float* b, int64_t ldb, bool transposed, const PackLayout& layout, float* packed) {
    pack_b_panels(b, ldb, transposed, layout, 0, layout.panels(), packed);
}

void unpack_b(const float* packed, const PackLayout& layout, float* b, int64_t ldb, bool transposed) {
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
        const int64_t column = panel * layout.nr, width = layout.width(panel);
        const int64_t columns = std::min<int64_t>(layout.nr, layout.n - column);
        const float* src = packed + layout.panel_offset(panel);
        for (int64_t row = 0; row < layout.k; ++row, src += width) {
            for (int64_t j = 0; j < columns; ++j) {
                b[transposed ? (column + j) * ldb + row : row * ldb + column + j] = src[j];
            }
        }
    }
}

void pack_conv_weights(const float* oihw, int64_t c, int64_t kh, int64_t kw, const PackLayout& layout, float* packed) {
    if (kh * kw == 1) return pack_b(oihw, c, true, layout, packed);
    std::fill(packed, packed + layout.size(), 0.0F);
    for_each_conv_weight(c, kh, kw, layout.n, [&](int64_t row, int64_t column, int64_t source) {
        packed[layout.index(row, column)] = oihw[source];
    });
}

void unpack_conv_weights(const float* packed, int64_t c, int64_t kh, int64_t kw, const PackLayout& layout,
                         float* oihw) {
    for_each_conv_weight(c, kh, kw, layout.n, [&](int64_t row, int64_t column, int64_t source) {
        oihw[source] = packed[layout.index(row, column)];
    });
}

}  // namespace planish::cpu
