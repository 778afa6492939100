// One vector of floats in the widest register of the instruction set that the including file is compiled for.
//
// Included only by the *_impl.hpp of this folder, and those only by their per-ISA files. Everything lives in a
// namespace named after the ISA and is inlined by force, and no inline function of the standard library is used: a
// shared one, compiled here with AVX code, could otherwise be picked by the linker for callers that run on older
// machines.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// GCC 12's own header passes `__Y = __Y` as the don't-care operand of AVX-512 intrinsics and then warns of it (PR
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#if defined(__AVX512VNNI__)
#define PLANISH_ISA avx512_vnni
#elif defined(__AVX512F__)
#define PLANISH_ISA avx512
#elif defined(__AVX2__)
#define PLANISH_ISA avx2
#else
#define PLANISH_ISA baseline
#endif
#define PLANISH_INLINE inline __attribute__((always_inline))

namespace planish::cpu::PLANISH_ISA {

constexpr float kInfinity = __builtin_inff();
/// 1.5 * 2^23: x + kIntegerShift rounds x to an integer, which the low bits of the sum hold.
constexpr float kIntegerShift = 12582912.0f;

PLANISH_INLINE int64_t min_of(int64_t a, int64_t b) {
    return a < b ? a : b;
}
PLANISH_INLINE int64_t max_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

#if defined(__AVX512F__)

struct Vec {
    static constexpr int kWidth = 16;
    __m512 v;

    PLANISH_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
    PLANISH_INLINE static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    PLANISH_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    /// The first n < kWidth elements; the other lanes hold `rest` and their memory is not touched.
    PLANISH_INLINE static Vec load_part(const float* p, int64_t n, Vec rest) {
        return {_mm512_mask_loadu_ps(rest.v, static_cast<__mmask16>((1u << n) - 1), p)};
    }
    PLANISH_INLINE static Vec load_bytes(const uint8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    PLANISH_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
    /// Integers from 0 to 255.
    PLANISH_INLINE void store_bytes(uint8_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v)));
    }
    PLANISH_INLINE void store_part(float* p, int64_t n) const {
        _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
    }
    /// Lanes from n on become those of `rest`.
    PLANISH_INLINE Vec keep(int64_t n, Vec rest) const {
        return {_mm512_mask_mov_ps(rest.v, static_cast<__mmask16>((1u << n) - 1), v)};
    }
};

PLANISH_INLINE Vec operator+(Vec a, Vec b) {
    return {_mm512_add_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator-(Vec a, Vec b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator*(Vec a, Vec b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator/(Vec a, Vec b) {
    return {_mm512_div_ps(a.v, b.v)};
}
PLANISH_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
/// As the instruction: the second operand where either is NaN.
PLANISH_INLINE Vec max(Vec a, Vec b) {
    return {_mm512_max_ps(a.v, b.v)};
}
PLANISH_INLINE Vec min(Vec a, Vec b) {
    return {_mm512_min_ps(a.v, b.v)};
}
PLANISH_INLINE Vec abs(Vec a) {
    return {_mm512_abs_ps(a.v)};
}
PLANISH_INLINE Vec round_even(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)};
}
/// a * 2^n for integral n, exact, with gradual underflow.
PLANISH_INLINE Vec scale_by_power(Vec a, Vec n) {
    return {_mm512_scalef_ps(a.v, n.v)};
}
/// x < 0 ? a : b.
PLANISH_INLINE Vec if_negative(Vec x, Vec a, Vec b) {
    return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_LT_OQ), a.v)};
}
/// a * 2^n for normal a and results, where n was added to kIntegerShift.
PLANISH_INLINE Vec add_to_exponent(Vec a, Vec n) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(n.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted))};
}
PLANISH_INLINE bool any_nan(Vec a) {
    return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q) != 0;
}

#elif defined(__AVX2__)

alignas(64) constexpr int32_t kLaneMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

struct Vec {
    static constexpr int kWidth = 8;
    __m256 v;

    PLANISH_INLINE static __m256i mask(int64_t n) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMasks + 8 - n));
    }
    PLANISH_INLINE static Vec zero() { return {_mm256_setzero_ps()}; }
    PLANISH_INLINE static Vec all(float x) { return {_mm256_set1_ps(x)}; }
    PLANISH_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    PLANISH_INLINE static Vec load_part(const float* p, int64_t n, Vec rest) {
        return Vec{_mm256_maskload_ps(p, mask(n))}.keep(n, rest);
    }
    PLANISH_INLINE static Vec load_bytes(const uint8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
    PLANISH_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
    PLANISH_INLINE void store_bytes(uint8_t* p) const {
        const __m256i whole = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
    }
    PLANISH_INLINE void store_part(float* p, int64_t n) const { _mm256_maskstore_ps(p, mask(n), v); }
    PLANISH_INLINE Vec keep(int64_t n, Vec rest) const {
        return {_mm256_blendv_ps(rest.v, v, _mm256_castsi256_ps(mask(n)))};
    }
};

PLANISH_INLINE Vec operator+(Vec a, Vec b) {
    return {_mm256_add_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator/(Vec a, Vec b) {
    return {_mm256_div_ps(a.v, b.v)};
}
PLANISH_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
PLANISH_INLINE Vec max(Vec a, Vec b) {
    return {_mm256_max_ps(a.v, b.v)};
}
PLANISH_INLINE Vec min(Vec a, Vec b) {
    return {_mm256_min_ps(a.v, b.v)};
}
PLANISH_INLINE Vec abs(Vec a) {
    return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)};
}
PLANISH_INLINE Vec round_even(Vec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
PLANISH_INLINE Vec scale_by_power(Vec a, Vec n) {
    // Two factors, since 2^n itself may be no normal number.
    const __m256i whole = _mm256_cvtps_epi32(n.v);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))};
}
PLANISH_INLINE Vec if_negative(Vec x, Vec a, Vec b) {
    return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_LT_OQ))};
}
PLANISH_INLINE Vec add_to_exponent(Vec a, Vec n) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), shifted))};
}
PLANISH_INLINE bool any_nan(Vec a) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)) != 0;
}

#else

struct Vec {
    static constexpr int kWidth = 4;
    __m128 v;

    PLANISH_INLINE static Vec zero() { return {_mm_setzero_ps()}; }
    PLANISH_INLINE static Vec all(float x) { return {_mm_set1_ps(x)}; }
    PLANISH_INLINE static Vec load(const float* p) { return {_mm_loadu_ps(p)}; }
    PLANISH_INLINE static Vec load_part(const float* p, int64_t n, Vec rest) {
        float lanes[4];
        rest.store(lanes);
        for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
        return load(lanes);
    }
    PLANISH_INLINE static Vec load_bytes(const uint8_t* p) {
        int32_t bytes;
        __builtin_memcpy(&bytes, p, 4);
        const __m128i zero = _mm_setzero_si128(), words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
        return {_mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero))};
    }
    PLANISH_INLINE void store(float* p) const { _mm_storeu_ps(p, v); }
    PLANISH_INLINE void store_bytes(uint8_t* p) const {
        const __m128i whole = _mm_cvtps_epi32(v), words = _mm_packs_epi32(whole, whole);
        const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
        __builtin_memcpy(p, &bytes, 4);
    }
    PLANISH_INLINE void store_part(float* p, int64_t n) const {
        float lanes[4];
        store(lanes);
        for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
    }
    PLANISH_INLINE Vec keep(int64_t n, Vec rest) const {
        float lanes[4];
        store(lanes);
        return load_part(lanes, n, rest);
    }
};

PLANISH_INLINE Vec operator+(Vec a, Vec b) {
    return {_mm_add_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator-(Vec a, Vec b) {
    return {_mm_sub_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator*(Vec a, Vec b) {
    return {_mm_mul_ps(a.v, b.v)};
}
PLANISH_INLINE Vec operator/(Vec a, Vec b) {
    return {_mm_div_ps(a.v, b.v)};
}
PLANISH_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)};
}
PLANISH_INLINE Vec max(Vec a, Vec b) {
    return {_mm_max_ps(a.v, b.v)};
}
PLANISH_INLINE Vec min(Vec a, Vec b) {
    return {_mm_min_ps(a.v, b.v)};
}
PLANISH_INLINE Vec abs(Vec a) {
    return {_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v)};
}
/// Only for |a| < 2^31, which is all that exp needs; NaN is passed on by the arithmetic around it.
PLANISH_INLINE Vec round_even(Vec a) {
    return {_mm_cvtepi32_ps(_mm_cvtps_epi32(a.v))};
}
PLANISH_INLINE Vec scale_by_power(Vec a, Vec n) {
    const __m128i whole = _mm_cvtps_epi32(n.v);
    const __m128i half = _mm_srai_epi32(whole, 1);
    const __m128i bias = _mm_set1_epi32(127);
    const __m128i first = _mm_slli_epi32(_mm_add_epi32(half, bias), 23);
    const __m128i second = _mm_slli_epi32(_mm_add_epi32(_mm_sub_epi32(whole, half), bias), 23);
    return {_mm_mul_ps(_mm_mul_ps(a.v, _mm_castsi128_ps(first)), _mm_castsi128_ps(second))};
}
PLANISH_INLINE Vec if_negative(Vec x, Vec a, Vec b) {
    const __m128 negative = _mm_cmplt_ps(x.v, _mm_setzero_ps());
    return {_mm_or_ps(_mm_and_ps(negative, a.v), _mm_andnot_ps(negative, b.v))};
}
PLANISH_INLINE Vec add_to_exponent(Vec a, Vec n) {
    const __m128i shifted = _mm_slli_epi32(_mm_castps_si128(n.v), 23);
    return {_mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(a.v), shifted))};
}
PLANISH_INLINE bool any_nan(Vec a) {
    return _mm_movemask_ps(_mm_cmpunord_ps(a.v, a.v)) != 0;
}

#endif

/// e^(x - n ln 2) for integral n, |x - n ln 2| <= ln(2) / 2: a polynomial of degree 7 (coefficients of Cephes' expf).
PLANISH_INLINE Vec exp_polynomial(Vec x, Vec n) {
    Vec r = fma(n, Vec::all(-0.693359375f), x);
    r = fma(n, Vec::all(2.12194440e-4f), r);
    Vec p = Vec::all(1.9875691500e-4f);
    p = fma(p, r, Vec::all(1.3981999507e-3f));
    p = fma(p, r, Vec::all(8.3334519073e-3f));
    p = fma(p, r, Vec::all(4.1665795894e-2f));
    p = fma(p, r, Vec::all(1.6666665459e-1f));
    p = fma(p, r, Vec::all(5.0000001201e-1f));
    return fma(p, r * r, r) + Vec::all(1.0f);
}

/// e^x within about 1 ulp; 0 below -104, infinity above 89, NaN for NaN.
PLANISH_INLINE Vec exp(Vec x) {
    // The constant first: min and max return their second operand, here x, where one is NaN.
    x = max(Vec::all(-104.0f), min(Vec::all(89.0f), x));
    const Vec n = round_even(x * Vec::all(1.44269504088896341f));
    return scale_by_power(exp_polynomial(x, n), n);
}

/// e^x, and 0 for x below `least`, which is never computed: results that underflow are slow on many processors, and
/// masked elements would all be such.
PLANISH_INLINE Vec exp_above(Vec x, float least) {
    const Vec above = x - Vec::all(least);
    return if_negative(above, Vec::zero(), exp(if_negative(above, Vec::zero(), x)));
}

/// e^x of a softmax's x <= 0 within about 1 ulp, NaN for NaN. Below e^-86 it is 0: beside the weight 1 of the peak no
/// sum could show it, and above, results are normal numbers, so that n can be added to the exponent's bits.
PLANISH_INLINE Vec exp_weight(Vec x) {
    const Vec above = x + Vec::all(86.0f);
    x = if_negative(above, Vec::zero(), x);
    const Vec shifted = fma(x, Vec::all(1.44269504088896341f), Vec::all(kIntegerShift));
    const Vec n = shifted - Vec::all(kIntegerShift);
    return if_negative(above, Vec::zero(), add_to_exponent(exp_polynomial(x, n), shifted));
}

PLANISH_INLINE Vec sigmoid(Vec x) {
    return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::zero() - x));
}

/// tanh x = sign(x) (1 - e) / (1 + e) with e = exp(-2|x|); near 0, where 1 - e cancels, its odd Taylor polynomial
/// (the first omitted term is below 2^-24 of x up to |x| = 0.2).
PLANISH_INLINE Vec tanh(Vec x) {
    const Vec magnitude = abs(x);
    const Vec e = exp(magnitude * Vec::all(-2.0f));
    const Vec far = (Vec::all(1.0f) - e) / (Vec::all(1.0f) + e);
    const Vec square = x * x;
    Vec p = Vec::all(-1382.0f / 155925.0f);
    p = fma(p, square, Vec::all(62.0f / 2835.0f));
    p = fma(p, square, Vec::all(-17.0f / 315.0f));
    p = fma(p, square, Vec::all(2.0f / 15.0f));
    p = fma(p, square, Vec::all(-1.0f / 3.0f));
    const Vec near = fma(p * square, magnitude, magnitude);
    const Vec positive = if_negative(magnitude - Vec::all(0.2f), near, far);
    return if_negative(x, Vec::zero() - positive, positive);
}

/// Combines the lanes in a fixed order: halves first, then pairs.
template <typename Op>
PLANISH_INLINE float reduce_lanes(Vec a, Op op) {
    float lanes[Vec::kWidth];
    a.store(lanes);
    for (int width = Vec::kWidth / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] = op(lanes[i], lanes[i + width]);
    return lanes[0];
}

PLANISH_INLINE float sum_lanes(Vec a) {
#if defined(__AVX512F__)
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
#else
    __m128 quarter = a.v;
#endif
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

PLANISH_INLINE float max_lanes(Vec a) {
#if defined(__AVX512F__)
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
#else
    __m128 quarter = a.v;
#endif
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
}

PLANISH_INLINE float sqrt_of(float x) {
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

/// Calls body(offset, count) for [0, n) in whole vectors (count == kWidth, a constant there) and one rest.
template <typename Body>
PLANISH_INLINE void for_vectors(int64_t n, const Body& whole_or_rest) {
    int64_t i = 0;
    for (; i + Vec::kWidth <= n; i += Vec::kWidth) whole_or_rest(i, Vec::kWidth);
    if (i < n) whole_or_rest(i, n - i);
}

/// Loads and stores that become plain ones where `n` is the constant kWidth.
PLANISH_INLINE Vec load(const float* p, int64_t n, Vec rest = Vec::zero()) {
    return n == Vec::kWidth ? Vec::load(p) : Vec::load_part(p, n, rest);
}
PLANISH_INLINE void store(Vec v, float* p, int64_t n) {
    if (n == Vec::kWidth)
        v.store(p);
    else
        v.store_part(p, n);
}

}  // namespace planish::cpu::PLANISH_ISA
