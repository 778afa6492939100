// Depthwise convolution of large images and batches, channels last: the sum of depthwise.cuh with every row of the
// input fetched once.
//
// A block has kUnits vectors of channels, 16 bytes each, of kTileW columns of the output, and walks down p.rows of its
// rows. Rows of the input come to a ring of kStages rows in shared memory by asynchronous copies, zeros where they lie
// outside of the image: memory's latency is covered without a register. A thread has one vector of kRun neighbouring
// columns. It adds a row of the input to all rows of the output that have a tap on it (ceil(kernel / stride) are under
// way, their sums in registers) and stores the one that this completes. Weights stay in registers.
//
// The translation unit gives: T, E (an Epilogue: see common.cuh), kChannels, kKernelH, kKernelW, kStrideH, kStrideW,
// kUnits (a divisor of the channels' vectors), kTileW (a multiple of kRun), kRun, kStages (a power of two).
#pragma once

#include "planish/depthwise_params.h"
#include "planish/epilogue.cuh"

namespace planish {

template <typename C>
struct DepthwiseRows {
    using T = typename C::T;
    using E = typename C::E;

    static constexpr int kV = 16 / sizeof(T), kChunks = C::kChannels / kV / C::kUnits;
    static constexpr int kThreads = C::kUnits * (C::kTileW / C::kRun);
    static constexpr int kRowUnits = ((C::kTileW - 1) * C::kStrideW + C::kKernelW) * C::kUnits;  // of the input
    static constexpr int kRowBytes = kRowUnits * 16;
    static constexpr int kLoads = (kRowUnits + kThreads - 1) / kThreads;
    static constexpr int kColumns = (C::kRun - 1) * C::kStrideW + C::kKernelW;  // of the input, that a thread reads
    static constexpr int kLive = (C::kKernelH + C::kStrideH - 1) / C::kStrideH;
    static constexpr int kPeriod = kLive * C::kStrideH;  // rows of the input until sums lie as before
    static_assert(C::kChannels % (kV * C::kUnits) == 0 && C::kTileW % C::kRun == 0);
    static_assert((C::kStages & (C::kStages - 1)) == 0);

    const DepthwiseParams& p;
    int thread, in_y;
    const T* image;       // the block's first channel of its first pixel
    int offsets[kLoads];  // from the first pixel of a row on; -1: outside of the image

    __device__ void load_row(int row) const {
        const unsigned to = shared_address(dynamic_shared()) + row % C::kStages * kRowBytes;
        const int y = in_y + row;
        const bool row_exists = y >= 0 && y < p.h;
        const T* const line = image + static_cast<long long>(row_exists ? y : 0) * p.w * C::kChannels;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int at = thread + i * kThreads;
            if (kRowUnits % kThreads != 0 && at >= kRowUnits) continue;
            const bool exists = row_exists && offsets[i] >= 0;
            cp_async_16(to + at * 16, line + (exists ? offsets[i] : 0), exists);
        }
    }

    __device__ void run() {
        thread = static_cast<int>(threadIdx.x);
        const int first_channel = static_cast<int>(blockIdx.x) % kChunks * (C::kUnits * kV);
        const int unit = thread % C::kUnits, column = thread / C::kUnits * C::kRun, channel = first_channel + unit * kV;
        const int out_x = static_cast<int>(blockIdx.x) / kChunks * C::kTileW;
        const int out_y = static_cast<int>(blockIdx.y) * p.rows, n = static_cast<int>(blockIdx.z);
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int at = thread + i * kThreads, x = out_x * C::kStrideW - p.pad_left + at / C::kUnits;
            offsets[i] = x >= 0 && x < p.w ? x * C::kChannels + at % C::kUnits * kV : -1;
        }
        in_y = out_y * C::kStrideH - p.pad_top;
        image = static_cast<const T*>(p.input) + static_cast<long long>(n) * p.h * p.w * C::kChannels + first_channel;
        const int input_rows = (min(p.rows, p.out_h - out_y) - 1) * C::kStrideH + C::kKernelH;

        using Elements = Pack<T, kV>;
        Elements weights[C::kKernelH][C::kKernelW];
#pragma unroll
        for (int t = 0; t < C::kKernelH * C::kKernelW; ++t)
            weights[t / C::kKernelW][t % C::kKernelW] =
                Elements::load(static_cast<const T*>(p.weights) + t * C::kChannels + channel);
        float bias[kV] = {};
        if (p.bias != nullptr) load<kV>(bias, static_cast<const float*>(p.bias) + channel);

        constexpr int kAhead = C::kStages - 1;
        pdl_wait();
#pragma unroll
        for (int row = 0; row < kAhead; ++row) {
            if (row < input_rows) load_row(row);
            cp_async_commit();
        }
        pdl_launch();
        float sums[kLive][C::kRun][kV];
#pragma unroll 1
        for (int first = 0; first < input_rows; first += kPeriod) {
#pragma unroll
            for (int phase = 0; phase < kPeriod; ++phase) {
                const int row = first + phase;
                if (row >= input_rows) break;
                cp_async_wait<kAhead - 1>();
                __syncthreads();  // the row is there, and everybody has read the one before it, whose place is filled
                if (row + kAhead < input_rows) load_row(row + kAhead);
                cp_async_commit();
                const T* const from = reinterpret_cast<const T*>(dynamic_shared() + row % C::kStages * kRowBytes) +
                                      (column * C::kStrideW * C::kUnits + unit) * kV;
                Elements x[kColumns];
#pragma unroll
                for (int i = 0; i < kColumns; ++i) x[i] = Elements::load(from + i * (C::kUnits * kV));
                    // Tap t of the row of the output that begins t rows above: there is one where the stride divides
                    // that. Rows above the block's first one are never stored.
#pragma unroll
                for (int t = 0; t < C::kKernelH; ++t) {
                    if ((phase + C::kStrideH * C::kKernelH - t) % C::kStrideH != 0) continue;
                    auto& sum = sums[(phase + kPeriod * C::kKernelH - t) / C::kStrideH % kLive];
#pragma unroll
                    for (int j = 0; j < C::kRun; ++j)
#pragma unroll
                        for (int c = 0; c < kV; ++c) {
                            if (t == 0) sum[j][c] = bias[c];
#pragma unroll
                            for (int s = 0; s < C::kKernelW; ++s)
                                sum[j][c] = fmaf(x[j * C::kStrideW + s].get(c), weights[t][s].get(c), sum[j][c]);
                        }
                    const int i = (row - t) / C::kStrideH;
                    if (t + 1 != C::kKernelH || row < t) continue;
#pragma unroll
                    for (int j = 0; j < C::kRun; ++j) {
                        if (out_x + column + j >= p.out_w) break;
                        const long long pixel =
                            (static_cast<long long>(n) * p.out_h + out_y + i) * p.out_w + out_x + column + j;
                        store_epilogue<E, kV, T>(p.output, p.operands, pixel * C::kChannels + channel, channel, sum[j]);
                    }
                }
            }
        }
    }
};

template <typename C>
inline __device__ void depthwise_rows(const DepthwiseParams& p) {
    DepthwiseRows<C>{p}.run();
}

}  // namespace planish
