// Kernels over bytes: pooling, conversions, transposes. The per-ISA body of bytes_{baseline,avx2,avx512}.cpp.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/window_taps.hpp"

namespace planish::cpu::PLANISH_ISA {

// ---- Conversions.

PLANISH_INLINE Vec decoded(Vec stored, const ByteScale& s) {
    return (stored - Vec::all(s.zero)) * Vec::all(s.scale);
}

// Saturation is left to the bounds: those are integers, so that rounding commutes with it. NaN becomes 0.
PLANISH_INLINE Vec saturated(Vec quanta, const ByteScale& s) {
    return round_even(max(min(Vec::all(255 - s.zero), quanta), Vec::all(-s.zero))) + Vec::all(s.zero);
}
PLANISH_INLINE Vec encoded(Vec real, const ByteScale& s) {
    return saturated(real * Vec::all(1 / s.scale), s);
}

PLANISH_INLINE Vec load_bytes(const uint8_t* p, int64_t n) {
    if (n == Vec::kWidth) return Vec::load_bytes(p);
    uint8_t bytes[Vec::kWidth] = {};
    for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
    return Vec::load_bytes(bytes);
}
PLANISH_INLINE void store_bytes(Vec v, uint8_t* p, int64_t n) {
    if (n == Vec::kWidth) return v.store_bytes(p);
    uint8_t bytes[Vec::kWidth];
    v.store_bytes(bytes);
    for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
}

inline void encode(const EncodeArgs& args, int64_t begin, int64_t end) {
    const float* input = args.input + begin;
    uint8_t* output = args.output + begin;
    if (args.divide) {
        const Vec scale = Vec::all(args.scale.scale);
        for_vectors(end - begin, [&](int64_t i, int64_t n) {
            store_bytes(saturated(load(input + i, n) / scale, args.scale), output + i, n);
        });
        return;
    }
    for_vectors(end - begin,
                [&](int64_t i, int64_t n) { store_bytes(encoded(load(input + i, n), args.scale), output + i, n); });
}

inline void extremes(const ExtremesArgs& args, int64_t begin, int64_t end) {
    constexpr int kChains = 4;  // enough to hide the latency of a maximum
    for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t first = args.n * piece / args.pieces, count = args.n * (piece + 1) / args.pieces - first;
        const float* x = args.input + first;
        Vec least[kChains], greatest[kChains];
        for (int c = 0; c < kChains; ++c) least[c] = greatest[c] = Vec::zero();
        int64_t i = 0;
        for (; i + kChains * Vec::kWidth <= count; i += kChains * Vec::kWidth)
            for (int c = 0; c < kChains; ++c) {
                const Vec v = Vec::load(x + i + c * Vec::kWidth);
                least[c] = min(v, least[c]);
                greatest[c] = max(v, greatest[c]);
            }
        for_vectors(count - i, [&](int64_t j, int64_t n) {
            const Vec v = load(x + i + j, n);
            least[0] = min(v, least[0]);
            greatest[0] = max(v, greatest[0]);
        });
        float low[Vec::kWidth], high[Vec::kWidth];
        min(min(least[0], least[1]), min(least[2], least[3])).store(low);
        max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3])).store(high);
        for (int lane = 1; lane < Vec::kWidth; ++lane) {
            low[0] = low[lane] < low[0] ? low[lane] : low[0];
            high[0] = high[lane] > high[0] ? high[lane] : high[0];
        }
        args.least[piece] = low[0];
        args.greatest[piece] = high[0];
    }
}

inline void decode(const DecodeArgs& args, int64_t begin, int64_t end) {
    for_vectors(end - begin, [&](int64_t i, int64_t n) {
        store(decoded(load_bytes(args.input + begin + i, n), args.scale), args.output + begin + i, n);
    });
}

// ---- Pooling.

#if defined(__AVX512F__)
struct Bytes {
    static constexpr int64_t kWidth = 64;
    __m512i v;
    PLANISH_INLINE static Bytes load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
    PLANISH_INLINE void store(uint8_t* p) const { _mm512_storeu_si512(p, v); }
    PLANISH_INLINE Bytes max_with(Bytes other) const { return {_mm512_max_epu8(v, other.v)}; }
};
#elif defined(__AVX2__)
struct Bytes {
    static constexpr int64_t kWidth = 32;
    __m256i v;
    PLANISH_INLINE static Bytes load(const uint8_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
    PLANISH_INLINE void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
    PLANISH_INLINE Bytes max_with(Bytes other) const { return {_mm256_max_epu8(v, other.v)}; }
};
#else
struct Bytes {
    static constexpr int64_t kWidth = 16;
    __m128i v;
    PLANISH_INLINE static Bytes load(const uint8_t* p) {
        return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
    }
    PLANISH_INLINE void store(uint8_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
    PLANISH_INLINE Bytes max_with(Bytes other) const { return {_mm_max_epu8(v, other.v)}; }
};
#endif

// Which pixels of the input a window covers.
struct Window {
    const uint8_t* corner;  // of its first position, which may lie outside of the image
    Taps rows, columns;
    int64_t row_step, column_step;

    template <typename Body>
    PLANISH_INLINE void for_pixels(const Body& body) const {
        for (int64_t ky = rows.first; ky < rows.last; ++ky)
            for (int64_t kx = columns.first; kx < columns.last; ++kx) body(corner + ky * row_step + kx * column_step);
    }
};

// The last vector ends at the last channel: a maximum may be taken twice.
PLANISH_INLINE void max_of_window(const Window& window, int64_t channels, uint8_t* y) {
    const bool empty = window.rows.count() <= 0 || window.columns.count() <= 0;
    if (channels < Bytes::kWidth || empty) {
        for (int64_t c = 0; c < channels; ++c) {
            uint8_t most = 0;
            window.for_pixels([&](const uint8_t* x) { most = x[c] > most ? x[c] : most; });
            y[c] = most;
        }
        return;
    }
    const uint8_t* first =
        window.corner + window.rows.first * window.row_step + window.columns.first * window.column_step;
    for (int64_t at = 0; at < channels; at += Bytes::kWidth) {
        const int64_t c = min_of(at, channels - Bytes::kWidth);
        Bytes most = Bytes::load(first + c);
        window.for_pixels([&](const uint8_t* x) { most = most.max_with(Bytes::load(x + c)); });
        most.store(y + c);
    }
}

// Sums of bytes are exact in floats.
PLANISH_INLINE void mean_of_window(const BytePoolArgs& args, const Window& window, float divisor, int64_t at) {
    const auto pixels = static_cast<float>(window.rows.count() * window.columns.count());
    const Vec offset = Vec::all(pixels * args.input_scale.zero), factor = Vec::all(args.input_scale.scale / divisor);
    const auto mean = [&](int64_t c, int64_t n, Vec sum) {
        const Vec real = (sum - offset) * factor;
        if (args.floats != nullptr)
            store(real, args.floats + at + c, n);
        else
            store_bytes(encoded(real, args.output_scale), args.bytes + at + c, n);
    };
    int64_t c = 0;
    constexpr int kVectors = 4;
    for (; c + kVectors * Vec::kWidth <= args.window.channels; c += kVectors * Vec::kWidth) {
        Vec sums[kVectors] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
        window.for_pixels([&](const uint8_t* x) {
            for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + Vec::load_bytes(x + c + v * Vec::kWidth);
        });
        for (int v = 0; v < kVectors; ++v) mean(c + v * Vec::kWidth, Vec::kWidth, sums[v]);
    }
    for_vectors(args.window.channels - c, [&](int64_t i, int64_t n) {
        Vec sum = Vec::zero();
        window.for_pixels([&](const uint8_t* x) { sum = sum + load_bytes(x + c + i, n); });
        mean(c + i, n, sum);
    });
}

inline void byte_pool(const BytePoolArgs& args, int64_t begin, int64_t end) {
    const PoolArgs& w = args.window;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t image = row / w.out_height, oy = row % w.out_height, top = oy * w.stride_h - w.pad_top;
        const Taps rows(top, w.in_height, w.kernel_h, w.dilation_h);
        const Taps padded_rows(top + w.pad_top, w.pad_top + w.in_height + w.pad_bottom, w.kernel_h, w.dilation_h);
        for (int64_t ox = 0; ox < w.out_width; ++ox) {
            const int64_t left = ox * w.stride_w - w.pad_left;
            const Window window{
                args.input + image * w.in_image_stride + top * w.in_row_stride + left * w.in_pixel_stride, rows,
                Taps(left, w.in_width, w.kernel_w, w.dilation_w), w.dilation_h * w.in_row_stride,
                w.dilation_w * w.in_pixel_stride};
            const int64_t at = image * w.out_image_stride + oy * w.out_row_stride + ox * w.out_pixel_stride;
            if (!w.average) {
                max_of_window(window, w.channels, args.bytes + at);
                continue;
            }
            int64_t divisor = rows.count() * window.columns.count();
            if (w.count_include_pad)
                divisor =
                    padded_rows.count() *
                    Taps(left + w.pad_left, w.pad_left + w.in_width + w.pad_right, w.kernel_w, w.dilation_w).count();
            mean_of_window(args, window, static_cast<float>(divisor), at);
        }
    }
}

// ---- Transpose.

// Each round of unpacking rotates the index (row, column) of all 256 bytes by one bit: four exchange the two.
PLANISH_INLINE void transpose_16x16(const uint8_t* input, int64_t input_stride, uint8_t* output,
                                    int64_t output_stride) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(input + i * input_stride));
    const auto round = [](const __m128i* from, __m128i* to) __attribute__((always_inline)) {
        for (int i = 0; i < 8; ++i) {
            to[2 * i] = _mm_unpacklo_epi8(from[i], from[i + 8]);
            to[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + 8]);
        }
    };
    round(a, b);
    round(b, a);
    round(a, b);
    round(b, a);
    for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(output + i * output_stride), a[i]);
}

inline void byte_transpose(const ByteTransposeArgs& args, int64_t begin, int64_t end) {
    constexpr int64_t kBlock = 16;
    const auto element = [&](int64_t r, int64_t c) {
        args.output[c * args.output_stride + r] = args.input[r * args.input_stride + c];
    };
    const int64_t rows = begin + (end - begin) / kBlock * kBlock, columns = args.columns / kBlock * kBlock;
    for (int64_t c = 0; c < columns; c += kBlock)
        for (int64_t r = begin; r < rows; r += kBlock)
            transpose_16x16(args.input + r * args.input_stride + c, args.input_stride,
                            args.output + c * args.output_stride + r, args.output_stride);
    for (int64_t c = columns; c < args.columns; ++c)
        for (int64_t r = begin; r < rows; ++r) element(r, c);
    for (int64_t r = rows; r < end; ++r)
        for (int64_t c = 0; c < args.columns; ++c) element(r, c);
}

inline void put_bytes(KernelTable& table) {
    table.byte_pool = byte_pool;
    table.encode = encode;
    table.extremes = extremes;
    table.decode = decode;
    table.byte_transpose = byte_transpose;
}

}  // namespace planish::cpu::PLANISH_ISA
