// Pooling and resizing of channels-last images: a thread has kVector neighbouring channels of one pixel of the output.
#pragma once

#include "planish/math.cuh"
#include "planish/reduce_params.h"
#include "planish/vector.cuh"

namespace planish {

enum class Pooling { max, average, average_with_padding };

template <typename T, typename Out, Pooling kKind, int kVector, int kKernelH, int kKernelW>
inline __device__ void pool(const PoolParams& p) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= p.count) return;
    const unsigned pixel = quotient(index, p.vectors), line = quotient(pixel, p.out_w), n = quotient(line, p.out_h);
    const int channel = static_cast<int>(index - pixel * p.vectors.divisor) * kVector;
    const int x0 = static_cast<int>(pixel - line * p.out_w.divisor) * p.stride_w - p.pad_left;
    const int y0 = static_cast<int>(line - n * p.out_h.divisor) * p.stride_h - p.pad_top;
    const T* const image =
        static_cast<const T*>(p.input) + static_cast<long long>(n) * p.h * p.w * p.channels + channel;
    // Known windows are unrolled, so that their loads are in flight together.
    const int kernel_h = kKernelH > 0 ? kKernelH : p.kernel_h, kernel_w = kKernelW > 0 ? kKernelW : p.kernel_w;
    pdl_wait();
    float y[kVector];
#pragma unroll
    for (int k = 0; k < kVector; ++k) y[k] = kKind == Pooling::max ? -infinity() : 0.0f;
    int count = 0;
#pragma unroll
    for (int r = 0; r < kernel_h; ++r) {
        const int row = y0 + r * p.dilation_h;
#pragma unroll
        for (int t = 0; t < kernel_w; ++t) {
            const int column = x0 + t * p.dilation_w;
            const bool inside = row >= 0 && row < p.h && column >= 0 && column < p.w;
            count += kKind == Pooling::average_with_padding ? row < p.h + p.pad_bottom && column < p.w + p.pad_right
                                                            : inside;
            if (!inside) continue;
            const auto pack = Pack<T, kVector>::load(image + (static_cast<long long>(row) * p.w + column) * p.channels);
#pragma unroll
            for (int k = 0; k < kVector; ++k)
                y[k] = kKind == Pooling::max ? nan_max(y[k], pack.get(k)) : y[k] + pack.get(k);
        }
    }
    pdl_launch();
    if constexpr (kKind != Pooling::max) {
        const float share = static_cast<float>(count);
#pragma unroll
        for (int k = 0; k < kVector; ++k) y[k] /= share;
    }
    store<kVector>(static_cast<Out*>(p.output) + static_cast<long long>(index) * kVector, y);
}

template <typename T, typename Out, int kVector, int kTapsH, int kTapsW>
inline __device__ void resize(const ResizeParams& p) {
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= p.count) return;
    const unsigned pixel = quotient(index, p.vectors), line = quotient(pixel, p.out_w), n = quotient(line, p.out_h);
    const int channel = static_cast<int>(index - pixel * p.vectors.divisor) * kVector;
    const int out_x = static_cast<int>(pixel - line * p.out_w.divisor),
              out_y = static_cast<int>(line - n * p.out_h.divisor);
    const int* const rows = static_cast<const int*>(p.rows) + out_y * kTapsH;
    const int* const columns = static_cast<const int*>(p.columns) + out_x * kTapsW;
    const auto* const row_weights = static_cast<const float*>(p.rows) + (p.out_h.divisor + out_y) * kTapsH;
    const auto* const column_weights = static_cast<const float*>(p.columns) + (p.out_w.divisor + out_x) * kTapsW;
    const T* const image =
        static_cast<const T*>(p.input) + static_cast<long long>(n) * p.h * p.w * p.channels + channel;
    pdl_wait();
    float y[kVector] = {};
#pragma unroll
    for (int r = 0; r < kTapsH; ++r) {
        const T* const row = image + static_cast<long long>(rows[r]) * p.w * p.channels;
        const float row_weight = row_weights[r];
#pragma unroll
        for (int t = 0; t < kTapsW; ++t) {
            const auto pack = Pack<T, kVector>::load(row + static_cast<long long>(columns[t]) * p.channels);
            const float weight = row_weight * column_weights[t];
#pragma unroll
            for (int k = 0; k < kVector; ++k)
                y[k] = kTapsH * kTapsW == 1 ? pack.get(k) : fmaf(weight, pack.get(k), y[k]);
        }
    }
    pdl_launch();
    store<kVector>(static_cast<Out*>(p.output) + static_cast<long long>(index) * kVector, y);
}

}  // namespace planish
