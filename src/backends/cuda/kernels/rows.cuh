// Softmax, log-softmax, layer and RMS normalisation of rows; group and instance normalisation of channels-last images.
// Sums are in float32, in an order that depends on the row's length only.
//
// kThreads threads have a row: at most 32 elements each stay in registers between the passes over it; longer rows
// (kPacks == 0) are read again from the cache.
#pragma once

#include "planish/math.cuh"
#include "planish/rows_params.h"
#include "planish/vector.cuh"

namespace planish {

struct Sum {
    static __device__ float apply(float a, float b) { return a + b; }
    static constexpr float kIdentity = 0;
};
struct Largest {  // NaN when any is
    static __device__ float apply(float a, float b) { return nan_max(a, b); }
};

/// To float32 where T is, else to what 16 bits can tell apart.
template <typename T>
inline __device__ float exponential(float x) {
    return sizeof(T) == 4 ? expf(x) : __expf(x);
}

/// Of the threads that share a row, given to each of them. kThreads a power of two; more than a warp: the whole block.
template <typename Op, int kThreads>
inline __device__ float reduce_row(float x, float* shared) {
#pragma unroll
    for (int distance = (kThreads < 32 ? kThreads : 32) / 2; distance > 0; distance /= 2)
        x = Op::apply(x, __shfl_xor_sync(0xffffffffu, x, distance));
    if constexpr (kThreads > 32) {
        constexpr int kWarps = kThreads / 32;
        __syncthreads();  // the last use of `shared`
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
        __syncthreads();
        x = shared[threadIdx.x % kWarps];
#pragma unroll
        for (int distance = kWarps / 2; distance > 0; distance /= 2)
            x = Op::apply(x, __shfl_xor_sync(0xffffffffu, x, distance));
    }
    return x;
}

/// The elements of a row that a thread has, in the order of its passes: fn(element's register, position in the row).
template <typename T, int kThreads, int kVector, int kPacks>
struct Row {
    const T* from;
    int n, lane;
    Pack<T, kVector> packs[kPacks > 0 ? kPacks : 1];

    __device__ Row(const T* row, int count, int thread) : from(row), n(count), lane(thread) {
#pragma unroll
        for (int i = 0; i < kPacks; ++i) {
            const int at = (i * kThreads + lane) * kVector;
            if (at < n) packs[i] = Pack<T, kVector>::load(from + at);
        }
    }
    template <typename Fn>
    __device__ void for_each_pack(Fn fn) const {
        if constexpr (kPacks > 0) {
#pragma unroll
            for (int i = 0; i < kPacks; ++i) {
                const int at = (i * kThreads + lane) * kVector;
                if (at < n) fn(packs[i], at);
            }
        } else {
#pragma unroll 1
            for (int at = lane * kVector; at < n; at += kThreads * kVector) fn(Pack<T, kVector>::load(from + at), at);
        }
    }
    template <typename Fn>
    __device__ void for_each(Fn fn) const {
        for_each_pack([&](const Pack<T, kVector>& pack, int) {
#pragma unroll
            for (int k = 0; k < kVector; ++k) fn(pack.get(k));
        });
    }
};

template <typename T, typename Out, bool kLog, int kThreads, int kVector, int kPacks>
inline __device__ void softmax(const RowsParams& p) {
    __shared__ float shared[kThreads > 32 ? kThreads / 32 : 1];
    const long long row = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) / kThreads;
    if (row >= p.rows) return;
    pdl_wait();
    const Row<T, kThreads, kVector, kPacks> x(static_cast<const T*>(p.input) + row * p.n, p.n, threadIdx.x % kThreads);
    pdl_launch();
    float top = -infinity();
    x.for_each([&](float v) { top = Largest::apply(top, v); });
    top = reduce_row<Largest, kThreads>(top, shared);
    float total = 0;
    x.for_each([&](float v) { total += exponential<Out>(v - top); });
    total = reduce_row<Sum, kThreads>(total, shared);
    const float log_total = logf(total), factor = 1.0f / total;
    Out* const out = static_cast<Out*>(p.output) + row * p.n;
    x.for_each_pack([&](const Pack<T, kVector>& pack, int at) {
        Pack<Out, kVector> y;
#pragma unroll
        for (int k = 0; k < kVector; ++k)
            y.set(k, kLog ? pack.get(k) - top - log_total : exponential<Out>(pack.get(k) - top) * factor);
        y.store(out + at);
    });
}

/// A thread has a column [n] with p.inner elements from one to the next.
template <typename T, typename Out, bool kLog>
inline __device__ void softmax_columns(const RowsParams& p) {
    const unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= static_cast<unsigned>(p.rows)) return;
    const unsigned outer = quotient(column, p.inner), stride = p.inner.divisor;
    const long long first = static_cast<long long>(outer) * p.n * stride + (column - outer * stride);
    const T* const in = static_cast<const T*>(p.input) + first;
    Out* const out = static_cast<Out*>(p.output) + first;
    pdl_wait();
    float top = -infinity(), total = 0;
    for (int i = 0; i < p.n; ++i) top = Largest::apply(top, Element<T>::load(in[static_cast<long long>(i) * stride]));
    for (int i = 0; i < p.n; ++i)
        total += exponential<Out>(Element<T>::load(in[static_cast<long long>(i) * stride]) - top);
    const float log_total = logf(total), factor = 1.0f / total;
    for (int i = 0; i < p.n; ++i) {
        const float x = Element<T>::load(in[static_cast<long long>(i) * stride]) - top;
        out[static_cast<long long>(i) * stride] =
            Element<Out>::store(kLog ? x - log_total : exponential<Out>(x) * factor);
    }
    pdl_launch();
}

/// kRms: x / sqrt(mean(x^2) + eps) scale; else (x - mean) / sqrt(variance + eps) scale + bias. Out may be of 8 bits.
template <typename T, typename Out, typename Scale, bool kRms, bool kBias, int kThreads, int kVector, int kPacks>
inline __device__ void normalize(const RowsParams& p) {
    __shared__ float shared[kThreads > 32 ? kThreads / 32 : 1];
    const long long row = (blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x) / kThreads;
    if (row >= p.rows) return;
    pdl_wait();
    const Row<T, kThreads, kVector, kPacks> x(static_cast<const T*>(p.input) + row * p.n, p.n, threadIdx.x % kThreads);
    pdl_launch();
    const float share = 1.0f / static_cast<float>(p.n);
    float mean = 0;
    if constexpr (!kRms) {
        x.for_each([&](float v) { mean += v; });
        mean = reduce_row<Sum, kThreads>(mean, shared) * share;
    }
    float squares = 0;
    x.for_each([&](float v) { squares = fmaf(v - mean, v - mean, squares); });
    squares = reduce_row<Sum, kThreads>(squares, shared) * share;
    const float factor = 1.0f / sqrtf(squares + p.eps);
    Out* const out = static_cast<Out*>(p.output) + row * p.n;
    x.for_each_pack([&](const Pack<T, kVector>& pack, int at) {
        const auto scale = Pack<Scale, kVector>::load(static_cast<const Scale*>(p.scale) + at);
        Pack<Scale, kVector> bias;
        if constexpr (kBias) bias = Pack<Scale, kVector>::load(static_cast<const Scale*>(p.bias) + at);
        Pack<Out, kVector> y;
#pragma unroll
        for (int k = 0; k < kVector; ++k) {
            float v = (pack.get(k) - mean) * factor * scale.get(k);
            if constexpr (kBias) v += bias.get(k);
            if constexpr (sizeof(Out) == 1) v = fmaf(v, p.encode, p.zero);
            y.set(k, v);
        }
        y.store(out + at);
    });
}

// ---- Groups of channels ----

struct Moments {
    float count, mean, squares;  // squares: of the differences from the mean
};

/// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
inline __device__ Moments merged(const Moments& a, const Moments& b) {
    const float count = a.count + b.count;
    if (count == 0) return a;
    const float difference = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + difference * share, a.squares + b.squares + difference * difference * a.count * share};
}

/// Block (split, image and group): the moments of its pixels, then, unless they are one of several splits, the result.
/// kApply: what comes after the moments of all splits are known, in the same launch (one split) or the next.
template <typename T, typename Out, typename Scale, int kThreads, int kVector, bool kMoments, bool kApply>
inline __device__ void group_norm(const GroupNormParams& p) {
    __shared__ float shared[kThreads / 32];
    const int width = p.channels / p.groups, group = blockIdx.y % p.groups;
    const long long image = blockIdx.y / p.groups;
    const int first = blockIdx.x * p.pixels_per_split;
    const int pixels = first + p.pixels_per_split <= p.pixels ? p.pixels_per_split : p.pixels - first;
    const T* const in = static_cast<const T*>(p.input) + (image * p.pixels + first) * p.channels + group * width;
    Out* const out = static_cast<Out*>(p.output) + (image * p.pixels + first) * p.channels + group * width;
    const unsigned packs = static_cast<unsigned>(pixels) * p.vectors.divisor;
    const auto offset = [&](unsigned i, int& channel) {
        const unsigned pixel = quotient(i, p.vectors);
        channel = static_cast<int>(i - pixel * p.vectors.divisor) * kVector;
        return static_cast<long long>(pixel) * p.channels + channel;
    };
    float2* const partial = static_cast<float2*>(p.moments) + static_cast<long long>(blockIdx.y) * p.splits;
    pdl_wait();
    float mean = 0, squares = 0;
    if constexpr (kMoments) {
        const float count = static_cast<float>(pixels * width);
        int channel;
        for (unsigned i = threadIdx.x; i < packs; i += kThreads) {
            const auto pack = Pack<T, kVector>::load(in + offset(i, channel));
#pragma unroll
            for (int k = 0; k < kVector; ++k) mean += pack.get(k);
        }
        mean = reduce_row<Sum, kThreads>(mean, shared) / count;
        for (unsigned i = threadIdx.x; i < packs; i += kThreads) {
            const auto pack = Pack<T, kVector>::load(in + offset(i, channel));
#pragma unroll
            for (int k = 0; k < kVector; ++k) squares = fmaf(pack.get(k) - mean, pack.get(k) - mean, squares);
        }
        squares = reduce_row<Sum, kThreads>(squares, shared);
        if constexpr (!kApply) {
            if (threadIdx.x == 0) partial[blockIdx.x] = make_float2(mean, squares);
        }
    } else {
        Moments all{0, 0, 0};
        for (int s = 0; s < p.splits; ++s) {
            const int share =
                (s + 1) * p.pixels_per_split <= p.pixels ? p.pixels_per_split : p.pixels - s * p.pixels_per_split;
            const float2 moments = partial[s];
            all = merged(all, {static_cast<float>(share * width), moments.x, moments.y});
        }
        mean = all.mean;
        squares = all.squares;
    }
    pdl_launch();
    if constexpr (kApply) {
        const float factor = 1.0f / sqrtf(squares / (static_cast<float>(p.pixels) * static_cast<float>(width)) + p.eps);
        for (unsigned i = threadIdx.x; i < packs; i += kThreads) {
            int channel;
            const long long at = offset(i, channel);
            const auto pack = Pack<T, kVector>::load(in + at);
            const auto scale = Pack<Scale, kVector>::load(static_cast<const Scale*>(p.scale) + group * width + channel);
            const auto bias = Pack<Scale, kVector>::load(static_cast<const Scale*>(p.bias) + group * width + channel);
            Pack<Out, kVector> y;
#pragma unroll
            for (int k = 0; k < kVector; ++k) y.set(k, fmaf((pack.get(k) - mean) * factor, scale.get(k), bias.get(k)));
            y.store(out + at);
        }
    }
}

}  // namespace planish
