// Depthwise convolution, channels last:
//
//   y[n, i, j, c] = epilogue(bias[c] + sum_rt x[n, i s + r d - p, j s + t d - p, c] w[r, t, c])
//
// A thread has kVector neighbouring channels (16 bytes) of kTileH x kTileW outputs: each row of the input that they
// need is loaded once, its loads in flight together, and every element is used by up to kernel_h * kernel_w outputs
// from registers. Neighbouring lanes have neighbouring channels, so every load of a warp is contiguous.
//
// The translation unit gives: T, E (an Epilogue: see common.cuh), kChannels, kVector, kKernelH, kKernelW, kStrideH, kStrideW,
// kDilationH, kDilationW, kTileH, kTileW, kAllRows (whether the rows' loop is unrolled, so that the loads of all rows
// are in flight together: more registers, less latency).
#pragma once

#include "planish/depthwise_params.h"
#include "planish/epilogue.cuh"

namespace planish {

template <typename C>
__device__ void depthwise(const DepthwiseParams& p) {
    using T = typename C::T;
    using E = typename C::E;
    using Elements = Pack<T, C::kVector>;
    constexpr int kV = C::kVector, kVectors = C::kChannels / kV;
    constexpr int kColumns = (C::kTileW - 1) * C::kStrideW + (C::kKernelW - 1) * C::kDilationW + 1;
    constexpr int kInputRows = (C::kTileH - 1) * C::kStrideH + (C::kKernelH - 1) * C::kDilationH + 1;
    constexpr int kUnroll = C::kAllRows ? kInputRows : 1;

    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned tiles_w = (p.out_w + C::kTileW - 1) / C::kTileW, tiles_h = (p.out_h + C::kTileH - 1) / C::kTileH;
    const unsigned channel = index % kVectors * kV, tile = index / kVectors;
    const unsigned tile_x = tile % tiles_w, tile_y = tile / tiles_w % tiles_h, n = tile / tiles_w / tiles_h;
    if (n >= static_cast<unsigned>(p.n)) return;
    const int out_x = tile_x * C::kTileW, out_y = tile_y * C::kTileH;
    const int in_x = out_x * C::kStrideW - p.pad_left, in_y = out_y * C::kStrideH - p.pad_top;

    float sums[C::kTileH][C::kTileW][kV];
    {
        float bias[kV] = {};
        if (p.bias != nullptr) load<kV>(bias, static_cast<const float*>(p.bias) + channel);
#pragma unroll
        for (int i = 0; i < C::kTileH; ++i)
#pragma unroll
            for (int j = 0; j < C::kTileW; ++j)
#pragma unroll
                for (int c = 0; c < kV; ++c) sums[i][j][c] = bias[c];
    }
    const T* const weights = static_cast<const T*>(p.weights) + channel;
    pdl_wait();
    pdl_launch();
    const T* const image =
        static_cast<const T*>(p.input) + static_cast<long long>(n) * p.h * p.w * C::kChannels + channel;

#pragma unroll kUnroll
    for (int row = 0; row < kInputRows; ++row) {
        const int y = in_y + row;
        const bool row_exists = y >= 0 && y < p.h;
        const T* const line = image + (static_cast<long long>(y) * p.w + in_x) * C::kChannels;
        Elements x[kColumns];
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
            const bool exists = row_exists && in_x + column >= 0 && in_x + column < p.w;
            x[column] = Elements{};
            if (exists) x[column] = Elements::load(line + column * C::kChannels);
        }
#pragma unroll
        for (int i = 0; i < C::kTileH; ++i) {
            const int r = row - i * C::kStrideH;  // in rows of the input; the output row i uses it as tap r / dilation
            if (r < 0 || r % C::kDilationH != 0 || r / C::kDilationH >= C::kKernelH) continue;
            const T* const taps = weights + r / C::kDilationH * C::kKernelW * C::kChannels;
#pragma unroll
            for (int t = 0; t < C::kKernelW; ++t) {
                const Elements w = Elements::load(taps + t * C::kChannels);
#pragma unroll
                for (int j = 0; j < C::kTileW; ++j)
#pragma unroll
                    for (int c = 0; c < kV; ++c)
                        sums[i][j][c] = fmaf(x[j * C::kStrideW + t * C::kDilationW].get(c), w.get(c), sums[i][j][c]);
            }
        }
    }

#pragma unroll
    for (int i = 0; i < C::kTileH; ++i) {
        if (out_y + i >= p.out_h) break;
#pragma unroll
        for (int j = 0; j < C::kTileW; ++j) {
            if (out_x + j >= p.out_w) break;
            const long long at =
                ((static_cast<long long>(n) * p.out_h + out_y + i) * p.out_w + out_x + j) * C::kChannels + channel;
            store_epilogue<E, kV, T>(p.output, p.operands, at, static_cast<int>(channel), sums[i][j]);
        }
    }
}

}  // namespace planish
