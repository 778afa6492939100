// The rest of a squeeze-and-excitation block, behind the means s of an image's channels:
//
//   h = f1(W1 s),  g = f2(W2 h),  y[p, c] = x[p, c] g[c]
//
// A block makes kUnits vectors of channels (16 bytes each) of some pixels, and all of h for itself: W1 is small and
// comes from L2, and blocks that waited for one another would wait for longer. Weights do not depend on the kernels
// before: the first are on their way while those end.
//
// The translation unit gives: T, First and Second (an Epilogue each: see common.cuh; operands by channel), kChannels,
// kHidden, kUnits (a divisor of the channels' vectors), kThreads (8 for each channel of a block, at least).
#pragma once

#include "planish/excitation_params.h"
#include "planish/vector.cuh"

namespace planish {

template <class E>
struct ChannelOperands {
    float values[E::kOperands > 0 ? E::kOperands : 1];

    __device__ void load(const void* const* operands, int channel) {
#pragma unroll
        for (int o = 0; o < E::kOperands; ++o) values[o] = static_cast<const float*>(operands[o])[channel];
    }
};

/// The sum over kLanes neighbouring lanes, given to each of them.
template <int kLanes>
inline __device__ float sum_lanes(float x) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

template <class C>
inline __device__ void excitation(const ExcitationParams& p) {
    using T = typename C::T;
    constexpr int kV = 16 / sizeof(T), kWarps = C::kThreads / 32, kVectors = C::kChannels / kV;
    constexpr int kRows = (C::kHidden + kWarps - 1) / kWarps;  // of W1, of a warp
    constexpr int kPacks = (kVectors + 31) / 32;               // of a row, of a lane
    constexpr int kGroup = kPacks >= 16          ? 1
                           : kRows < 16 / kPacks ? kRows
                                                 : 16 / kPacks;             // rows that are under way at once
    constexpr int kParts = 8, kShare = (C::kHidden + kParts - 1) / kParts;  // lanes that share a row of W2
    static_assert(kVectors % C::kUnits == 0 && C::kUnits * kV * kParts <= C::kThreads);
    using Elements = Pack<T, kV>;
    // Means and gates are read as vectors.
    alignas(16) __shared__ float means[C::kChannels], gate[C::kUnits * kV];
    __shared__ float hidden[C::kHidden];

    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int first_channel = static_cast<int>(blockIdx.x) * C::kUnits * kV;
    const long long image = blockIdx.z;

    Elements rows[kGroup][kPacks];
    ChannelOperands<typename C::First> first[kGroup];
    const auto load_rows = [&](int group) {
#pragma unroll
        for (int r = 0; r < kGroup; ++r) {
            const int row = (group + r) * kWarps + warp;
            if (row >= C::kHidden) continue;
            const T* const from = static_cast<const T*>(p.first) + row * C::kChannels;
#pragma unroll
            for (int i = 0; i < kPacks; ++i)
                if (i * 32 + lane < kVectors) rows[r][i] = Elements::load(from + (i * 32 + lane) * kV);
            first[r].load(p.first_operands, row);
        }
    };
    load_rows(0);
    const int own = thread / kParts, part = thread % kParts;  // channel and share of W2
    float share[kShare] = {};
    ChannelOperands<typename C::Second> second;
    if (own < C::kUnits * kV) {
        const T* const from = static_cast<const T*>(p.second) + (first_channel + own) * C::kHidden;
#pragma unroll
        for (int i = 0; i < kShare; ++i)
            if (i * kParts + part < C::kHidden) share[i] = Element<T>::load(from[i * kParts + part]);
        second.load(p.second_operands, first_channel + own);
    }

    pdl_wait();
    // The first of this thread's pixels.
    const int unit = thread % C::kUnits, begin = static_cast<int>(blockIdx.y) * p.pixels_per_block;
    const int end = min(begin + p.pixels_per_block, p.pixels);
    int pixel = begin + thread / C::kUnits;
    if (thread >= C::kThreads / C::kUnits * C::kUnits) pixel = end;
    const long long base = image * p.pixels * C::kChannels + first_channel + unit * kV;
    const T* const from = static_cast<const T*>(p.image) + base;
    T* const to = static_cast<T*>(p.output) + base;
    Elements x{};
    if (pixel < end) x = Elements::load(from + static_cast<long long>(pixel) * C::kChannels);
    for (int c = thread; c < C::kChannels; c += C::kThreads)
        means[c] = Element<T>::load(static_cast<const T*>(p.means)[image * C::kChannels + c]);
    pdl_launch();
    __syncthreads();

#pragma unroll 1
    for (int group = 0; group < kRows; group += kGroup) {
        if (group > 0) load_rows(group);
#pragma unroll
        for (int r = 0; r < kGroup; ++r) {
            const int row = (group + r) * kWarps + warp;
            if (row >= C::kHidden) continue;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < kPacks; ++i) {
                if (i * 32 + lane >= kVectors) continue;
                float s[kV];
                load<kV>(s, means + (i * 32 + lane) * kV);
#pragma unroll
                for (int c = 0; c < kV; ++c) sum = fmaf(rows[r][i].get(c), s[c], sum);
            }
            sum = sum_lanes<32>(sum);
            if (lane == 0) hidden[row] = C::First::apply(sum, first[r].values);
        }
    }
    __syncthreads();
    // A warp's lanes go here together: it has four channels.
    if (own < C::kUnits * kV) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kShare; ++i)
            if (i * kParts + part < C::kHidden) sum = fmaf(share[i], hidden[i * kParts + part], sum);
        sum = sum_lanes<kParts>(sum);
        if (part == 0) gate[own] = C::Second::apply(sum, second.values);
    }
    __syncthreads();
    float g[kV];
    load<kV>(g, gate + unit * kV);
    while (pixel < end) {
        const int next = pixel + C::kThreads / C::kUnits;
        Elements following{};
        if (next < end) following = Elements::load(from + static_cast<long long>(next) * C::kChannels);
        float y[kV];
#pragma unroll
        for (int c = 0; c < kV; ++c) y[c] = x.get(c) * g[c];
        store<kV>(to + static_cast<long long>(pixel) * C::kChannels, y);
        x = following;
        pixel = next;
    }
}

}  // namespace planish
