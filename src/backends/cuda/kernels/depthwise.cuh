// Depthwise convolution, channels last:
//
//   y[n, i, j, c] = epilogue(bias[c] + sum_rt x[n, i s + r d - p, j s + t d - p, c] w[r, t, c])
//
// A thread has kVector neighbouring channels (16 bytes) of kTileH x kTileW outputs: each row of the input that they
// need is loaded once, its loads in flight together, and every element is used by up to kernel_h * kernel_w outputs
// from registers. Neighbouring lanes have neighbouring channels, so every load of a warp is contiguous.
//
// The translation unit gives: T, Epilogue (see common.cuh), kChannels, kVector, kKernelH, kKernelW, kStrideH, kStrideW,
// kDilationH, kDilationW, kTileH, kTileW, kAllRows (whether the rows' loop is unrolled, so that the loads of all rows
// are in flight together: more registers, less latency).
#pragma once

#include "planish/common.cuh"
#include "planish/depthwise_params.h"

namespace planish {

namespace depthwise_detail {

template <int kBytes>
struct Word {
    using Type = unsigned;
};
template <>
struct Word<2> {
    using Type = unsigned short;
};

/// Neighbouring elements as they lie in memory: two 16-bit values share a register until they are used.
template <typename T, int kVector>
struct Pack {
    static constexpr int kBytes = sizeof(T) * kVector;
    static_assert(kBytes == 16 || kBytes == 8 || kBytes == 4 || kBytes == 2);
    using Word = typename depthwise_detail::Word<kBytes>::Type;
    static constexpr int kWords = kBytes / sizeof(Word);
    struct alignas(kBytes) Words {
        Word at[kWords];
    };
    Words words;

    static __device__ Pack load(const T* from) { return {*reinterpret_cast<const Words*>(from)}; }

    __device__ float get(int i) const {
        if constexpr (sizeof(T) == 4) {
            return __uint_as_float(words.at[i]);
        } else {
            float low, high;
            unpack2<T>(words.at[i / 2], low, high);
            return i % 2 == 0 ? low : high;
        }
    }

    static __device__ void store(T* to, const float (&values)[kVector]) {
        Words words;
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int i = 0; i < kVector; ++i) words.at[i] = __float_as_uint(values[i]);
        } else if constexpr (kVector == 1) {
            words.at[0] = static_cast<unsigned short>(pack2<T>(values[0], 0.0f));
        } else {
#pragma unroll
            for (int i = 0; i < kWords; ++i) words.at[i] = pack2<T>(values[2 * i], values[2 * i + 1]);
        }
        *reinterpret_cast<Words*>(to) = words;
    }
};

template <int kVector>
inline __device__ void load_floats(float (&to)[kVector], const float* from) {
    constexpr int kWidth = kVector < 4 ? kVector : 4;
#pragma unroll
    for (int c = 0; c < kVector; c += kWidth) {
        const auto pack = Pack<float, kWidth>::load(from + c);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) to[c + i] = pack.get(i);
    }
}

}  // namespace depthwise_detail

template <typename C>
__device__ void depthwise(const DepthwiseParams& p) {
    using namespace depthwise_detail;
    using T = typename C::T;
    using E = typename C::Epilogue;
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
        if (p.bias != nullptr) load_floats<kV>(bias, static_cast<const float*>(p.bias) + channel);
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
            float operands[kV][E::kOperands > 0 ? E::kOperands : 1];
#pragma unroll
            for (int o = 0; o < E::kOperands; ++o) {
                float values[kV];
                if (E::kind(o) == E::channel) {
                    load_floats<kV>(values, static_cast<const float*>(p.operands[o]) + channel);
                } else {
                    const Elements elements = Elements::load(static_cast<const T*>(p.operands[o]) + at);
#pragma unroll
                    for (int c = 0; c < kV; ++c) values[c] = elements.get(c);
                }
#pragma unroll
                for (int c = 0; c < kV; ++c) operands[c][o] = values[c];
            }
            float y[kV];
#pragma unroll
            for (int c = 0; c < kV; ++c) y[c] = E::apply(sums[i][j][c], operands[c]);
            Elements::store(static_cast<T*>(p.output) + at, y);
        }
    }
}

}  // namespace planish
