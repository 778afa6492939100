// Packing and its inverse: plain copies, row by row; transposed sources in 4x4 blocks of SSE registers.
#include "backends/cpu/jit/pack.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>

namespace planish::cpu {
namespace {

/// dst[target(row)*width + j] = src[j*ld + row] for row < k, j < columns; zeros up to width. Rows go outside, so that a
/// row of the panel is written at once and the `columns` lines of the source stay in L1 from row to row.
template <typename Target>
void pack_transposed_panel(const float* src, int64_t ld, int64_t k, int64_t columns, int64_t width, float* dst,
                           const Target& target) {
    const auto pack_row = [&](int64_t row, int64_t first) {
        float* to = dst + target(row) * width;
        for (int64_t j = first; j < columns; ++j) to[j] = src[j * ld + row];
        std::fill(to + columns, to + width, 0.0F);
    };
    int64_t row = 0;
    for (; row + 4 <= k; row += 4) {
        float* const to[4] = {dst + target(row) * width, dst + target(row + 1) * width, dst + target(row + 2) * width,
                              dst + target(row + 3) * width};
        int64_t j = 0;
        for (; j + 4 <= columns; j += 4) {
            const float* s = src + j * ld + row;
            __m128 r0 = _mm_loadu_ps(s), r1 = _mm_loadu_ps(s + ld);
            __m128 r2 = _mm_loadu_ps(s + 2 * ld), r3 = _mm_loadu_ps(s + 3 * ld);
            _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
            _mm_storeu_ps(to[0] + j, r0);
            _mm_storeu_ps(to[1] + j, r1);
            _mm_storeu_ps(to[2] + j, r2);
            _mm_storeu_ps(to[3] + j, r3);
        }
        for (int64_t i = 0; i < 4; ++i) pack_row(row + i, j);
    }
    for (; row < k; ++row) pack_row(row, 0);
}

void pack_plain_panel(const float* src, int64_t ld, int64_t k, int64_t columns, int64_t width, float* dst) {
    for (int64_t row = 0; row < k; ++row, src += ld, dst += width) {
        std::memcpy(dst, src, static_cast<size_t>(columns) * sizeof(float));
        std::fill(dst + columns, dst + width, 0.0F);
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
            pack_transposed_panel(b + column * ldb, ldb, layout.k, columns, layout.width(panel), dst,
                                  [](int64_t row) { return row; });
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

// ONNX's order of one output channel's weights is (c, tap), that of B's rows (tap, c).
void pack_conv_panels(const float* weights, int64_t c, int64_t taps, const PackLayout& layout, int64_t first,
                      int64_t last, float* packed) {
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t column = panel * layout.nr;
        pack_transposed_panel(weights + column * layout.k, layout.k, layout.k,
                              std::min<int64_t>(layout.nr, layout.n - column), layout.width(panel),
                              packed + layout.panel_offset(panel), [=](int64_t k) { return k % taps * c + k / taps; });
    }
}

void unpack_conv_weights(const float* packed, int64_t c, int64_t taps, const PackLayout& layout, float* weights) {
    for (int64_t o = 0; o < layout.n; ++o) {
        for (int64_t k = 0; k < layout.k; ++k) {
            weights[o * layout.k + k] = packed[layout.index(k % taps * c + k / taps, o)];
        }
    }
}

}  // namespace planish::cpu
