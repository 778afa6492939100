// The transpose of one kWidth x kWidth block of floats in registers.
#pragma once

#include "backends/cpu/kernels/simd.hpp"

namespace planish::cpu::PLANISH_ISA {

/// output[c * output_stride + r] = input[r * input_stride + c] for r, c < kWidth.
PLANISH_INLINE void transpose_block(const float* input, int64_t input_stride, float* output, int64_t output_stride) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    // Within 128-bit lanes: after both steps b[4i + k] holds column k (and 4+k, 8+k, 12+k by lane) of rows 4i..4i+3.
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(input + i * input_stride);
    for (int i = 0; i < 16; i += 4) {
        const __m512 t0 = _mm512_unpacklo_ps(a[i], a[i + 1]), t1 = _mm512_unpackhi_ps(a[i], a[i + 1]);
        const __m512 t2 = _mm512_unpacklo_ps(a[i + 2], a[i + 3]), t3 = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        b[i] = _mm512_shuffle_ps(t0, t2, 0x44);
        b[i + 1] = _mm512_shuffle_ps(t0, t2, 0xee);
        b[i + 2] = _mm512_shuffle_ps(t1, t3, 0x44);
        b[i + 3] = _mm512_shuffle_ps(t1, t3, 0xee);
    }
    // Across lanes: a 4 x 4 transpose of 128-bit pieces for each k.
    for (int k = 0; k < 4; ++k) {
        const __m512 t0 = _mm512_shuffle_f32x4(b[k], b[4 + k], 0x88), t1 = _mm512_shuffle_f32x4(b[k], b[4 + k], 0xdd);
        const __m512 t2 = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0x88);
        const __m512 t3 = _mm512_shuffle_f32x4(b[8 + k], b[12 + k], 0xdd);
        _mm512_storeu_ps(output + k * output_stride, _mm512_shuffle_f32x4(t0, t2, 0x88));
        _mm512_storeu_ps(output + (4 + k) * output_stride, _mm512_shuffle_f32x4(t1, t3, 0x88));
        _mm512_storeu_ps(output + (8 + k) * output_stride, _mm512_shuffle_f32x4(t0, t2, 0xdd));
        _mm512_storeu_ps(output + (12 + k) * output_stride, _mm512_shuffle_f32x4(t1, t3, 0xdd));
    }
#elif defined(__AVX2__)
    __m256 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(input + i * input_stride);
    for (int i = 0; i < 8; i += 4) {
        const __m256 t0 = _mm256_unpacklo_ps(a[i], a[i + 1]), t1 = _mm256_unpackhi_ps(a[i], a[i + 1]);
        const __m256 t2 = _mm256_unpacklo_ps(a[i + 2], a[i + 3]), t3 = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
        b[i] = _mm256_shuffle_ps(t0, t2, 0x44);
        b[i + 1] = _mm256_shuffle_ps(t0, t2, 0xee);
        b[i + 2] = _mm256_shuffle_ps(t1, t3, 0x44);
        b[i + 3] = _mm256_shuffle_ps(t1, t3, 0xee);
    }
    for (int k = 0; k < 4; ++k) {
        _mm256_storeu_ps(output + k * output_stride, _mm256_permute2f128_ps(b[k], b[4 + k], 0x20));
        _mm256_storeu_ps(output + (4 + k) * output_stride, _mm256_permute2f128_ps(b[k], b[4 + k], 0x31));
    }
#else
    __m128 a0 = _mm_loadu_ps(input), a1 = _mm_loadu_ps(input + input_stride);
    __m128 a2 = _mm_loadu_ps(input + 2 * input_stride), a3 = _mm_loadu_ps(input + 3 * input_stride);
    _MM_TRANSPOSE4_PS(a0, a1, a2, a3);
    _mm_storeu_ps(output, a0);
    _mm_storeu_ps(output + output_stride, a1);
    _mm_storeu_ps(output + 2 * output_stride, a2);
    _mm_storeu_ps(output + 3 * output_stride, a3);
#endif
}

}  // namespace planish::cpu::PLANISH_ISA
