// Attention on bytes. The per-ISA body of byte_attention_{avx2,avx512,avx512_vnni}.cpp.
//
// With q, k, v the stored bytes less their zero points and s the product of all scales before the softmax,
//     score = s * sum_d q k,   w = round(32767 exp(score - max)),   output = scale_v * (sum_k w v) / (sum_k w).
// Both sums are exact in 32 bits. Four bytes of a query meet four of a key as unsigned and signed: the key's are moved
// by 128, and what q's zero point makes of them is where the key's sum starts. What the key's zero point makes is the
// same for all keys, so that the softmax does not see it. Weights and values are pairs of 16 bits. All keys are seen at
// once: scores of 6 queries stay in L1.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"
#include "backends/cpu/kernels/transpose_block.hpp"

namespace planish::cpu::PLANISH_ISA {

constexpr int kVectors = Vec::kWidth == 16 ? 4 : 2;  // of a tile: 24 sums of 32 registers, 12 of 16
constexpr int kQueries = static_cast<int>(kAttentionTile);
constexpr int64_t kPanelKeys = kVectors * Vec::kWidth;
constexpr int32_t kLeast = -(1 << 30);  // where the sum of a key that is none starts

/// As many 32-bit integers as a Vec has floats.
#if defined(__AVX512F__)
struct Lanes {
    __m512i v;

    PLANISH_INLINE static Lanes all(int32_t x) { return {_mm512_set1_epi32(x)}; }
    PLANISH_INLINE static Lanes load(const void* p) { return {_mm512_loadu_si512(p)}; }
    PLANISH_INLINE static Lanes bytes(const uint8_t* p) {
        return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(static_cast<const void*>(p))))};
    }
    PLANISH_INLINE void store(void* p) const { _mm512_storeu_si512(p, v); }
    /// The low halves.
    PLANISH_INLINE void store_words(void* p) const {
        _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
    }
    PLANISH_INLINE Vec floats() const { return {_mm512_cvtepi32_ps(v)}; }
    /// 0 from lane n on.
    PLANISH_INLINE Lanes first(int64_t n) const {
        return {_mm512_maskz_mov_epi32(static_cast<__mmask16>((1u << n) - 1), v)};
    }
};
PLANISH_INLINE Lanes operator+(Lanes a, Lanes b) {
    return {_mm512_add_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes operator-(Lanes a, Lanes b) {
    return {_mm512_sub_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes operator^(Lanes a, Lanes b) {
    return {_mm512_xor_si512(a.v, b.v)};
}
PLANISH_INLINE Lanes max(Lanes a, Lanes b) {
    return {_mm512_max_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes round(Vec a) {
    return {_mm512_cvtps_epi32(a.v)};
}
/// low + high * 65536 where both are words.
PLANISH_INLINE Lanes pair(Lanes low, Lanes high) {
    return {_mm512_mask_mov_epi16(low.v, 0xaaaaaaaau, _mm512_slli_epi32(high.v, 16))};
}
/// sum + a[0] b[0] + a[1] b[1] of signed words.
PLANISH_INLINE Lanes add_products_of_words(Lanes sum, Lanes a, Lanes b) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
/// The signed or unsigned bytes 0 and 2 (1 and 3) as words.
PLANISH_INLINE Lanes even(Lanes a, bool is_signed) {
    const __m512i high = _mm512_slli_epi16(a.v, 8);
    return {is_signed ? _mm512_srai_epi16(high, 8) : _mm512_srli_epi16(high, 8)};
}
PLANISH_INLINE Lanes odd(Lanes a, bool is_signed) {
    return {is_signed ? _mm512_srai_epi16(a.v, 8) : _mm512_srli_epi16(a.v, 8)};
}
#else
struct Lanes {
    __m256i v;

    PLANISH_INLINE static Lanes all(int32_t x) { return {_mm256_set1_epi32(x)}; }
    PLANISH_INLINE static Lanes load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
    PLANISH_INLINE static Lanes bytes(const uint8_t* p) {
        return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(static_cast<const void*>(p))))};
    }
    PLANISH_INLINE void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
    PLANISH_INLINE void store_words(void* p) const {
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v, v), 0x08);
        _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(words));
    }
    PLANISH_INLINE Vec floats() const { return {_mm256_cvtepi32_ps(v)}; }
    PLANISH_INLINE Lanes first(int64_t n) const { return {_mm256_and_si256(Vec::mask(n), v)}; }
};
PLANISH_INLINE Lanes operator+(Lanes a, Lanes b) {
    return {_mm256_add_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes operator-(Lanes a, Lanes b) {
    return {_mm256_sub_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes operator^(Lanes a, Lanes b) {
    return {_mm256_xor_si256(a.v, b.v)};
}
PLANISH_INLINE Lanes max(Lanes a, Lanes b) {
    return {_mm256_max_epi32(a.v, b.v)};
}
PLANISH_INLINE Lanes round(Vec a) {
    return {_mm256_cvtps_epi32(a.v)};
}
PLANISH_INLINE Lanes pair(Lanes low, Lanes high) {
    return {_mm256_blend_epi16(low.v, _mm256_slli_epi32(high.v, 16), 0xaa)};
}
PLANISH_INLINE Lanes add_products_of_words(Lanes sum, Lanes a, Lanes b) {
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
PLANISH_INLINE Lanes even(Lanes a, bool is_signed) {
    const __m256i high = _mm256_slli_epi16(a.v, 8);
    return {is_signed ? _mm256_srai_epi16(high, 8) : _mm256_srli_epi16(high, 8)};
}
PLANISH_INLINE Lanes odd(Lanes a, bool is_signed) {
    return {is_signed ? _mm256_srai_epi16(a.v, 8) : _mm256_srli_epi16(a.v, 8)};
}
#endif

/// sum + four products of unsigned bytes of a and signed ones of b.
PLANISH_INLINE Lanes add_products_of_bytes(Lanes sum, Lanes a, Lanes b) {
#if defined(__AVX512VNNI__)
    return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)};
#else
    sum = add_products_of_words(sum, even(a, false), even(b, true));
    return add_products_of_words(sum, odd(a, false), odd(b, true));
#endif
}

PLANISH_INLINE int32_t max_lanes(Lanes a) {
    int32_t lanes[Vec::kWidth];
    a.store(lanes);
    int32_t most = lanes[0];
    for (int i = 1; i < Vec::kWidth; ++i) most = lanes[i] > most ? lanes[i] : most;
    return most;
}

PLANISH_INLINE int32_t sum_lanes(Lanes a) {
    int32_t lanes[Vec::kWidth], sum = 0;
    a.store(lanes);
    for (int i = 0; i < Vec::kWidth; ++i) sum += lanes[i];
    return sum;
}

/// Rows of `a` in steps of four bytes; `b`: a row of 32-bit columns for each step, `stride` apart.
struct Factors {
    const uint8_t* a;
    int64_t a_stride;
    const int32_t* b;
    int64_t b_stride, steps;
};

// sums[r][j] = start[j] (or 0) + sum over steps of a[r] * b[j], for kRows rows and kColumns vectors.
template <bool kBytes, int kRows, int kColumns>
PLANISH_INLINE void multiply_tile(const Factors& f, const int32_t* start, int32_t* sums, int64_t stride) {
    Lanes acc[kRows][kColumns];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c)
            acc[r][c] = start != nullptr ? Lanes::load(start + c * Vec::kWidth) : Lanes::all(0);
    const int32_t* b = f.b;
    for (int64_t k = 0; k < f.steps; ++k, b += f.b_stride) {
        Lanes columns[kColumns];
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) columns[c] = Lanes::load(b + c * Vec::kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            int32_t step;
            __builtin_memcpy(&step, f.a + r * f.a_stride + 4 * k, 4);
            const Lanes x = Lanes::all(step);
#pragma GCC unroll 8
            for (int c = 0; c < kColumns; ++c)
                acc[r][c] = kBytes ? add_products_of_bytes(acc[r][c], x, columns[c])
                                   : add_products_of_words(acc[r][c], x, columns[c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) acc[r][c].store(sums + r * stride + c * Vec::kWidth);
}

template <bool kBytes, int kColumns>
__attribute__((noinline)) void multiply_rows(int rows, const Factors& f, const int32_t* start, int32_t* sums,
                                             int64_t stride) {
    switch (rows) {
        case 6:
            return multiply_tile<kBytes, 6, kColumns>(f, start, sums, stride);
        case 5:
            return multiply_tile<kBytes, 5, kColumns>(f, start, sums, stride);
        case 4:
            return multiply_tile<kBytes, 4, kColumns>(f, start, sums, stride);
        case 3:
            return multiply_tile<kBytes, 3, kColumns>(f, start, sums, stride);
        case 2:
            return multiply_tile<kBytes, 2, kColumns>(f, start, sums, stride);
        default:
            return multiply_tile<kBytes, 1, kColumns>(f, start, sums, stride);
    }
}

template <bool kBytes>
PLANISH_INLINE void multiply(int rows, int64_t columns, const Factors& f, const int32_t* start, int32_t* sums,
                             int64_t stride) {
    if (columns == kVectors) return multiply_rows<kBytes, kVectors>(rows, f, start, sums, stride);
    if constexpr (kVectors > 2) {
        if (columns == 3) return multiply_rows<kBytes, 3>(rows, f, start, sums, stride);
        if (columns == 2) return multiply_rows<kBytes, 2>(rows, f, start, sums, stride);
    }
    multiply_rows<kBytes, 1>(rows, f, start, sums, stride);
}

PLANISH_INLINE int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

// Keys [n, dim] -> panels of kPanelKeys keys, each [dim / 4][key][4 bytes], signed, with the starts of their sums.
PLANISH_INLINE void pack_keys(const uint8_t* keys, int64_t stride, int64_t n, int64_t dim, int query_zero,
                              int32_t* packed, int32_t* starts) {
    constexpr int kW = Vec::kWidth;
    const int64_t steps = dim / 4;
    const Lanes flip = Lanes::all(static_cast<int32_t>(0x80808080u)),
                zero = Lanes::all(static_cast<int32_t>(static_cast<uint32_t>(query_zero) * 0x01010101u));
    for (int64_t first = 0; first < n; first += kPanelKeys) {
        int32_t* panel = packed + first * steps;
        for (int64_t j = 0; j < kPanelKeys; j += kW) {
            const uint8_t* x = keys + (first + j) * stride;
            const int64_t rows = max_of(0, min_of(kW, n - first - j));
            int64_t d = 0;
            // Four bytes move as a float does.
            if (rows == kW && stride % 4 == 0)
                for (; d + kW <= steps; d += kW)
                    transpose_block(static_cast<const float*>(static_cast<const void*>(x + 4 * d)), stride / 4,
                                    static_cast<float*>(static_cast<void*>(panel + d * kPanelKeys + j)), kPanelKeys);
            for (; d < steps; ++d)
                for (int64_t i = 0; i < kW; ++i) {
                    int32_t& to = panel[d * kPanelKeys + j + i];
                    to = 0;
                    if (i < rows) __builtin_memcpy(&to, x + i * stride + 4 * d, 4);
                }
            Lanes sum = Lanes::all(0);
            for (d = 0; d < steps; ++d) {
                int32_t* at = panel + d * kPanelKeys + j;
                const Lanes bytes = Lanes::load(at) ^ flip;
                bytes.store(at);
                sum = add_products_of_bytes(sum, zero, bytes);
            }
            int32_t* start = starts + first + j;
            (Lanes::all(0) - sum).store(start);
            for (int64_t i = rows; i < kW; ++i) start[i] = kLeast;
        }
    }
}

// Values [n, dim] -> [pair of keys][round_up(dim, 16)][2 words], 128 less, zero beyond n and dim.
PLANISH_INLINE void pack_values(const uint8_t* values, int64_t stride, int64_t n, int64_t dim, int32_t* packed) {
    constexpr int kW = Vec::kWidth;
    const int64_t width = round_up(dim, 16);
    const Lanes middle = Lanes::all(128);
    for (int64_t k = 0; k < n; k += 2, packed += width) {
        for (int64_t d = 0; d < width; d += kW) {
            const auto row = [&](int64_t i) {
                const int64_t count = i < n ? max_of(0, min_of(dim - d, kW)) : 0;
                const uint8_t* from = values + i * stride + d;
                if (count == kW) return Lanes::bytes(from) - middle;
                uint8_t part[kW] = {};
                for (int64_t c = 0; c < count; ++c) part[c] = from[c];
                return (Lanes::bytes(part) - middle).first(count);
            };
            pair(row(k), row(k + 1)).store(packed + d);
        }
    }
}

/// round(32767 * 2^(difference * factor)) for difference <= 0 < factor: relative error 3e-6 before rounding (minimax
/// polynomial of degree 4). Below 2^-30 it is 0.
PLANISH_INLINE Lanes weights(Vec difference, Vec factor, Vec lowest) {
    const Vec x = max(difference, lowest);
    const Vec shifted = fma(x, factor, Vec::all(kIntegerShift));
    const Vec r = fma(x, factor, Vec::all(kIntegerShift) - shifted);
    Vec p = Vec::all(314.0013427734375f);
    p = fma(p, r, Vec::all(1831.8858642578125f));
    p = fma(p, r, Vec::all(7871.9765625f));
    p = fma(p, r, Vec::all(22711.599609375f));
    p = fma(p, r, Vec::all(static_cast<float>(kAttentionWeightOne)));
    return round(add_to_exponent(p, shifted));
}

// A row of scores -> weights as words, in the same memory, zeros from `seen` to `n`; returns their sum.
template <typename Difference>
PLANISH_INLINE int32_t weigh(int32_t* row, int64_t seen, int64_t n, float factor, const Difference& difference) {
    constexpr int kW = Vec::kWidth;
    auto* words = static_cast<int16_t*>(static_cast<void*>(row));
    const Vec factors = Vec::all(factor), lowest = Vec::all(-30.0f / factor);
    Lanes sums[2] = {Lanes::all(0), Lanes::all(0)};
    int64_t i = 0;
    for (; i + 2 * kW <= seen; i += 2 * kW) {
        const Lanes a = weights(difference(row + i), factors, lowest);
        const Lanes b = weights(difference(row + i + kW), factors, lowest);
        a.store_words(words + i);
        b.store_words(words + i + kW);
        sums[0] = sums[0] + a;
        sums[1] = sums[1] + b;
    }
    for (; i < seen; i += kW) {
        Lanes a = weights(difference(row + i), factors, lowest);
        if (seen - i < kW) a = a.first(seen - i);
        a.store_words(words + i);
        sums[0] = sums[0] + a;
    }
    for (; i < n; ++i) words[i] = 0;
    return sum_lanes(sums[0] + sums[1]);
}

// The same where a mask or the order of keys stands between the sums and their softmax.
PLANISH_INLINE int32_t weigh_masked(int32_t* row, const float* mask, int64_t seen, int64_t n, float scale) {
    constexpr int kW = Vec::kWidth;
    auto* scores = static_cast<float*>(static_cast<void*>(row));
    const Vec lowest = Vec::all(-kInfinity);
    Vec top = lowest;
    for (int64_t i = 0; i < seen; i += kW) {
        const int64_t count = min_of(seen - i, kW);
        Vec s = Lanes::load(row + i).floats() * Vec::all(scale);
        if (mask != nullptr) s = s + load(mask + i, count);
        if (count != kW) s = s.keep(count, lowest);
        s.store(scores + i);
        top = max(s, top);
    }
    const float peak = max_lanes(top);
    if (peak == -kInfinity) seen = 0;
    const Vec shift = Vec::all(peak);
    return weigh(row, seen, n, 1.44269504088896341f,
                 [&](const int32_t* at) { return Vec::load(scores + (at - row)) - shift; });
}

struct ByteScratch {
    int32_t *keys, *starts, *values, *scores, *sums;
};

// `rows` queries from `first_query` of one head, against all keys.
PLANISH_INLINE void attend_rows(const ByteAttentionArgs& args, const ByteScratch& s, int rows, int64_t first_query,
                                const uint8_t* query, const float* mask, int64_t output) {
    constexpr int kW = Vec::kWidth;
    const int64_t n = args.keys, stride = round_up(n, 64), width = round_up(args.value_dim, 16);
    const float scale = args.scale * args.stored_query.scale * args.stored_key.scale;
    const bool plain = mask == nullptr && !args.causal;
    for (int64_t first = 0; first < n; first += kPanelKeys) {
        const int64_t columns = min_of(kVectors, (n - first + kW - 1) / kW), steps = args.head_dim / 4;
        multiply<true>(rows, columns, {query, args.query_strides.row, s.keys + first * steps, kPanelKeys, steps},
                       s.starts + first, s.scores + first, stride);
    }
    alignas(64) float factors[kQueries], shifts[kQueries];
    for (int r = 0; r < rows; ++r) {
        int32_t* row = s.scores + r * stride;
        int32_t sum;
        if (plain) {
            Lanes most = Lanes::load(row);
            for (int64_t i = kW; i < n; i += kW) most = max(most, Lanes::load(row + i));
            const Lanes top = Lanes::all(max_lanes(most));
            sum = weigh(row, n, n + 1, scale * 1.44269504088896341f,
                        [&](const int32_t* at) { return (Lanes::load(at) - top).floats(); });
        } else {
            const int64_t seen = args.causal ? max_of(0, min_of(n, first_query + r + args.causal_offset + 1)) : n;
            sum = weigh_masked(row, mask != nullptr ? mask + r * args.mask_strides.row : nullptr, seen, n + 1, scale);
        }
        // scale_v * (sum / weights + 128 - zero), and in bytes that over the output's scale, plus its zero point.
        const bool bytes = args.bytes != nullptr;
        const float value = bytes ? args.stored_value.scale / args.stored_output.scale : args.stored_value.scale;
        factors[r] = sum == 0 ? 0.0f : value / static_cast<float>(sum);
        shifts[r] =
            (sum == 0 ? 0.0f : value * (128.0f - args.stored_value.zero)) + (bytes ? args.stored_output.zero : 0.0f);
    }
    const auto* words = static_cast<const uint8_t*>(static_cast<const void*>(s.scores));
    for (int64_t d = 0; d < width; d += kPanelKeys)
        multiply<false>(rows, min_of(kPanelKeys, width - d) / kW, {words, 4 * stride, s.values + d, width, (n + 1) / 2},
                        nullptr, s.sums + d, width);
    for (int r = 0; r < rows; ++r) {
        for (int64_t d = 0; d < args.value_dim; d += kW) {
            const Vec sum = Lanes::load(s.sums + r * width + d).floats();
            const Vec y = fma(sum, Vec::all(factors[r]), Vec::all(shifts[r]));
            const int64_t count = min_of(args.value_dim - d, kW), at = output + r * args.output_strides.row + d;
            if (args.bytes == nullptr) {
                store(y, args.floats + at, count);
                continue;
            }
            const Vec clamped = min(max(y, Vec::zero()), Vec::all(255.0f));
            if (count == kW) {
                clamped.store_bytes(args.bytes + at);
                continue;
            }
            uint8_t part[kW];
            clamped.store_bytes(part);
            for (int64_t i = 0; i < count; ++i) args.bytes[at + i] = part[i];
        }
    }
}

inline void byte_attention(const ByteAttentionArgs& args, int64_t begin, int64_t end, float* scratch) {
    const int64_t query_block = args.query_block > 0 ? args.query_block : kAttentionQueryBlock;
    const int64_t blocks_per_head = (args.queries + query_block - 1) / query_block;
    const int64_t keys = round_up(args.keys, 64), width = round_up(args.value_dim, 16);
    ByteScratch s;
    s.keys = static_cast<int32_t*>(static_cast<void*>(scratch));
    s.starts = s.keys + keys * (args.head_dim / 4);
    s.values = s.starts + keys;
    s.scores = s.values + keys / 2 * width;
    s.sums = s.scores + kQueries * keys;

    int64_t packed_head = -1;  // batch * kv_heads + kv head
    for (int64_t item = begin; item < end; ++item) {
        const int64_t head = item / blocks_per_head % args.heads, batch = item / blocks_per_head / args.heads;
        const int64_t kv_head = head / (args.heads / args.kv_heads);
        const int64_t first_query = item % blocks_per_head * query_block;
        const auto at = [&](const AttentionShape::Strides& strides, int64_t h, int64_t row) {
            return batch * strides.batch + h * strides.head + row * strides.row;
        };
        if (packed_head != batch * args.kv_heads + kv_head) {
            packed_head = batch * args.kv_heads + kv_head;
            pack_keys(args.key + at(args.key_strides, kv_head, 0), args.key_strides.row, args.keys, args.head_dim,
                      static_cast<int>(args.stored_query.zero), s.keys, s.starts);
            pack_values(args.value + at(args.value_strides, kv_head, 0), args.value_strides.row, args.keys,
                        args.value_dim, s.values);
        }
        const int64_t last = min_of(first_query + query_block, args.queries);
        for (int64_t q = first_query; q < last; q += kQueries)
            attend_rows(args, s, static_cast<int>(min_of(kQueries, last - q)), q,
                        args.query + at(args.query_strides, head, q),
                        args.mask != nullptr ? args.mask + at(args.mask_strides, head, q) : nullptr,
                        at(args.output_strides, head, q));
    }
}

}  // namespace planish::cpu::PLANISH_ISA
