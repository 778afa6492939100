// Products with weights in 4 or 8 bits. The per-ISA body of weights_{baseline,avx2,avx512}.cpp.
//
// A code becomes a float without a conversion: set in the low bits of 2^23 it is the float 2^23 + code, from which
// 2^23 + zero is subtracted, exactly. One row of A needs a shift, an and-or, a subtraction and a fused multiply-add for
// each vector of weights, so that 4-bit weights stream at about the rate at which one core reads memory.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"

namespace planish::cpu::PLANISH_ISA {

constexpr float kCodeBase = 8388608.0f;  // 2^23

/// A vector of 32-bit words, each with several codes.
struct Words {
#if defined(__AVX512F__)
    __m512i v;
    PLANISH_INLINE static Words load(const uint32_t* p) {
        return {_mm512_loadu_si512(p)};
    }
    /// 2^23 + the lowest code.
    template <int kBits>
    PLANISH_INLINE Vec lowest() const {
        constexpr int kAndOr = 0xEA;  // (a & b) | c
        return {_mm512_castsi512_ps(_mm512_ternarylogic_epi32(v, _mm512_set1_epi32((1 << kBits) - 1),
                                                              _mm512_castps_si512(_mm512_set1_ps(kCodeBase)), kAndOr))};
    }
    template <int kBits>
    PLANISH_INLINE Words next() const {
        return {_mm512_srli_epi32(v, kBits)};
    }
#elif defined(__AVX2__)
    __m256i v;
    PLANISH_INLINE static Words load(const uint32_t* p) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
    template <int kBits>
    PLANISH_INLINE Vec lowest() const {
        const __m256i code = _mm256_and_si256(v, _mm256_set1_epi32((1 << kBits) - 1));
        return {_mm256_or_ps(_mm256_castsi256_ps(code), _mm256_set1_ps(kCodeBase))};
    }
    template <int kBits>
    PLANISH_INLINE Words next() const {
        return {_mm256_srli_epi32(v, kBits)};
    }
#else
    __m128i v;
    PLANISH_INLINE static Words load(const uint32_t* p) {
        return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
    }
    template <int kBits>
    PLANISH_INLINE Vec lowest() const {
        const __m128i code = _mm_and_si128(v, _mm_set1_epi32((1 << kBits) - 1));
        return {_mm_or_ps(_mm_castsi128_ps(code), _mm_set1_ps(kCodeBase))};
    }
    template <int kBits>
    PLANISH_INLINE Words next() const {
        return {_mm_srli_epi32(v, kBits)};
    }
#endif
};

/// How far ahead of the words that are decoded memory is asked for: one line for each row of words.
constexpr int64_t kPrefetchBytes = 2048;
constexpr int kPanelVectors = static_cast<int>(CodedWeights::kPanel) / Vec::kWidth;

/// What the codes of one block of a panel are decoded with.
struct BlockFormat {
    Vec scale[kPanelVectors], zero[kPanelVectors];  // zero: 2^23 more
    PLANISH_INLINE BlockFormat(const CodedWeights& b, int64_t panel, int64_t block) {
        const int64_t at = (panel * b.blocks() + block) * CodedWeights::kPanel;
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) {
            scale[v] = Vec::load(b.scales + at + v * Vec::kWidth);
            zero[v] = Vec::load_bytes(b.zeros + at + v * Vec::kWidth) + Vec::all(kCodeBase);
        }
    }
};

/// Calls body(row, i, vectors of code - zero) for rows [first, last) of a panel; `words` are those of the first row,
/// which begins a word. Row i of whole words is a constant of the unrolled loop, that of a cut-off word 0.
template <int kBits, typename Body>
PLANISH_INLINE void for_rows(const uint32_t* words, const BlockFormat& format, int64_t first, int64_t last,
                             const Body& body) {
    constexpr int kRows = 32 / kBits;
    Words w[kPanelVectors];
    const auto load = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) w[v] = Words::load(words + v * Vec::kWidth);
        _mm_prefetch(reinterpret_cast<const char*>(words) + kPrefetchBytes, _MM_HINT_T0);
        words += CodedWeights::kPanel;
    };
    const auto take = [&](int64_t row, int i) __attribute__((always_inline)) {
        Vec codes[kPanelVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) {
            codes[v] = w[v].template lowest<kBits>() - format.zero[v];
            w[v] = w[v].template next<kBits>();
        }
        body(row, i, codes);
    };
    int64_t row = first;
    for (; row + kRows <= last; row += kRows) {
        load();
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) take(row + i, i);
    }
    if (row < last) load();
    for (; row < last; ++row) take(row, 0);
}

/// kM rows of C within one panel. Each block is summed by itself and scaled once.
template <int kBits, int kM>
PLANISH_INLINE void coded_tile(const CodedProductArgs& args, int64_t panel, const float* a, float* c) {
    constexpr int kChains = kM == 1 ? 4 : kM == 2 ? 2 : 1;  // enough sums to hide the latency of an addition
    const CodedWeights& b = args.b;
    Vec total[kM][kPanelVectors];
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) total[m][v] = Vec::zero();
    const uint32_t* codes = b.codes + panel * b.words() * CodedWeights::kPanel;
    for (int64_t block = 0; block < b.blocks(); ++block) {
        const BlockFormat format(b, panel, block);
        const int64_t first = block * b.block, last = min_of(b.k, first + b.block);
        Vec sum[kChains][kM][kPanelVectors];
#pragma GCC unroll 4
        for (int chain = 0; chain < kChains; ++chain)
#pragma GCC unroll 8
            for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
                for (int v = 0; v < kPanelVectors; ++v) sum[chain][m][v] = Vec::zero();
        for_rows<kBits>(
            codes + first / (32 / kBits) * CodedWeights::kPanel, format, first,
            last, [&](int64_t row, int i, const Vec* w) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
                    for (int v = 0; v < kPanelVectors; ++v)
                        sum[i % kChains][m][v] = fma(Vec::all(a[m * args.lda + row]), w[v], sum[i % kChains][m][v]);
            });
#pragma GCC unroll 8
        for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < kPanelVectors; ++v) {
                Vec all = sum[0][m][v];
#pragma GCC unroll 4
                for (int chain = 1; chain < kChains; ++chain) all = all + sum[chain][m][v];
                total[m][v] = fma(all, format.scale[v], total[m][v]);
            }
    }
    const int64_t column = panel * CodedWeights::kPanel;
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) {
            const int64_t at = column + v * Vec::kWidth, n = min_of(Vec::kWidth, b.n - at);
            if (n > 0) store(total[m][v], c + m * args.ldc + at, n);
        }
}

template <int kBits>
inline void coded_product_of(const CodedProductArgs& args, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
        int64_t m = 0;
        const auto a = [&] { return args.a + m * args.lda; };
        const auto c = [&] { return args.c + m * args.ldc; };
        constexpr int kMost = 16 / Vec::kWidth == 1 ? 8 : 4;  // rows whose sums the registers hold
        for (; m + kMost <= args.m; m += kMost) coded_tile<kBits, kMost>(args, panel, a(), c());
        for (; m + 4 <= args.m; m += 4) coded_tile<kBits, 4>(args, panel, a(), c());
        for (; m + 2 <= args.m; m += 2) coded_tile<kBits, 2>(args, panel, a(), c());
        for (; m < args.m; ++m) coded_tile<kBits, 1>(args, panel, a(), c());
    }
}

inline void coded_product(const CodedProductArgs& args, int64_t begin, int64_t end) {
    (args.b.bits == 4 ? coded_product_of<4> : coded_product_of<8>)(args, begin, end);
}

template <int kBits>
inline void decode_weights_of(const DecodeWeightsArgs& args, int64_t begin, int64_t end) {
    const CodedWeights& b = args.b;
    for (int64_t panel = begin; panel < end; ++panel) {
        const uint32_t* codes = b.codes + panel * b.words() * CodedWeights::kPanel;
        float* output = args.output + (panel - begin) * CodedWeights::kPanel;
        for (int64_t block = 0; block < b.blocks(); ++block) {
            const BlockFormat format(b, panel, block);
            const int64_t first = block * b.block, last = min_of(b.k, first + b.block);
            for_rows<kBits>(
                codes + first / (32 / kBits) * CodedWeights::kPanel, format, first,
                last, [&](int64_t row, int, const Vec* w) __attribute__((always_inline)) {
                    for (int v = 0; v < kPanelVectors; ++v)
                        (w[v] * format.scale[v]).store(output + row * args.row_stride + v * Vec::kWidth);
                });
        }
    }
}

inline void decode_weights(const DecodeWeightsArgs& args, int64_t begin, int64_t end) {
    (args.b.bits == 4 ? decode_weights_of<4> : decode_weights_of<8>)(args, begin, end);
}

inline void put_weights(KernelTable& table) {
    table.coded_product = coded_product;
    table.decode_weights = decode_weights;
}

}  // namespace planish::cpu::PLANISH_ISA
