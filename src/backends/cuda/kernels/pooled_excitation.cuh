// A squeeze-and-excitation block with its pool, on Hopper: a cluster of blocks for each image.
//
//   s = mean over pixels of x,  h = f1(W1 s),  g = f2(W2 h),  y[p, c] = x[p, c] g[c]
//
// A block keeps its channels of the image in shared memory, so that the image is read once: it takes their means, what
// they give to each of h's sums (W1's columns of these channels), the same sums of the other blocks of the cluster,
// added in the order of ranks, and from h the gates of its channels. Weights do not depend on the kernels before: they
// are on their way while those end.
//
// The translation unit gives: T, First and Second (an Epilogue each: see common.cuh; operands by channel), kChannels,
// kHidden, kPixels, kBlocks (of a cluster: a divisor of the channels' vectors), kThreads (a multiple of 32, at least
// one for each of a block's vectors).
#pragma once

#include "planish/excitation.cuh"
#include "planish/hopper.cuh"

namespace planish {

template <class C>
struct PooledExcitation {
    using T = typename C::T;
    static constexpr int kV = 16 / sizeof(T), kOwn = C::kChannels / C::kBlocks, kUnits = kOwn / kV;
    static constexpr int kLanes = C::kThreads / kUnits;  // threads that share a vector of channels
    static constexpr int kParts = 8;                     // lanes that share a row of W2
    static_assert(C::kChannels % (C::kBlocks * kV) == 0 && kLanes > 0 && C::kThreads % 32 == 0);

    // Shared memory, in bytes: the image's part, those of W1 and W2, the threads' sums, and what follows from them.
    static constexpr int kFirst = C::kPixels * kUnits * 16;
    static constexpr int kSecond = kFirst + C::kHidden * kUnits * 16;
    static constexpr int kSums = kSecond + kOwn * C::kHidden * static_cast<int>(sizeof(T));
    static constexpr int kStride = kOwn + 1;  // of floats: the reads of a column are spread over the banks
    static constexpr int kMeans = kSums + round_up(kLanes * kStride, 4) * 4;
    static constexpr int kGate = kMeans + kOwn * 4;
    static constexpr int kGiven = kGate + kOwn * 4;  // to h's sums by this block
    static constexpr int kHiddenAt = kGiven + C::kHidden * 4;
    static constexpr int kShared = kHiddenAt + C::kHidden * 4;
};

template <class C>
inline __device__ void pooled_excitation(const ExcitationParams& p) {
    using T = typename C::T;
    using K = PooledExcitation<C>;
    constexpr int kV = K::kV, kOwn = K::kOwn, kUnits = K::kUnits, kWarps = C::kThreads / 32;
    using Elements = Pack<T, kV>;
    char* const shared = dynamic_shared();
    const auto floats = [&](int offset) { return reinterpret_cast<float*>(shared + offset); };
    float *const sums = floats(K::kSums), *const means = floats(K::kMeans), *const gate = floats(K::kGate);
    float *const given = floats(K::kGiven), *const hidden = floats(K::kHiddenAt);
    T* const first_rows = reinterpret_cast<T*>(shared + K::kFirst);
    T* const second_rows = reinterpret_cast<T*>(shared + K::kSecond);

    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const unsigned rank = cluster_rank();
    const int first_channel = static_cast<int>(rank) * kOwn;
    const long long image = blockIdx.x / C::kBlocks;

    for (int i = thread; i < C::kHidden * kUnits; i += C::kThreads)
        cp_async_16(first_rows + i * kV,
                    static_cast<const T*>(p.first) + i / kUnits * C::kChannels + first_channel + i % kUnits * kV);
    for (int i = thread; i < kOwn * C::kHidden / kV; i += C::kThreads)
        cp_async_16(second_rows + i * kV, static_cast<const T*>(p.second) + first_channel * C::kHidden + i * kV);

    pdl_wait();
    const int unit = thread % kUnits, first_pixel = thread < K::kLanes * kUnits ? thread / kUnits : C::kPixels;
    const long long base = image * C::kPixels * C::kChannels + first_channel + unit * kV;
    const T* const from = static_cast<const T*>(p.image) + base;
    T* const own_image = reinterpret_cast<T*>(shared) + unit * kV;
    for (int pixel = first_pixel; pixel < C::kPixels; pixel += K::kLanes)
        cp_async_16(own_image + pixel * kOwn, from + static_cast<long long>(pixel) * C::kChannels);
    cp_async_commit();
    pdl_launch();
    cp_async_wait<0>();

    // A thread sums the pixels that it has copied itself.
    float sum[kV] = {};
    for (int pixel = first_pixel; pixel < C::kPixels; pixel += K::kLanes) {
        const Elements x = Elements::load(own_image + pixel * kOwn);
#pragma unroll
        for (int c = 0; c < kV; ++c) sum[c] += x.get(c);
    }
    if (thread < K::kLanes * kUnits) {
#pragma unroll
        for (int c = 0; c < kV; ++c) sums[thread / kUnits * K::kStride + unit * kV + c] = sum[c];
    }
    __syncthreads();
    for (int c = warp; c < kOwn; c += kWarps) {
        float total = 0;
        for (int i = lane; i < K::kLanes; i += 32) total += sums[i * K::kStride + c];
        total = sum_lanes<32>(total);
        if (lane == 0) means[c] = total / C::kPixels;
    }
    __syncthreads();
    for (int row = warp; row < C::kHidden; row += kWarps) {
        float total = 0;
        for (int c = lane; c < kOwn; c += 32)
            total = fmaf(Element<T>::load(first_rows[row * kOwn + c]), means[c], total);
        total = sum_lanes<32>(total);
        if (lane == 0) given[row] = total;
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
    for (int row = thread; row < C::kHidden; row += C::kThreads) {
        ChannelOperands<typename C::First> operands;
        operands.load(p.first_operands, row);
        float total = 0;
#pragma unroll
        for (int r = 0; r < C::kBlocks; ++r) total += load_remote(shared_address(given + row), r);
        hidden[row] = C::First::apply(total, operands.values);
    }
    __syncthreads();
    cluster_arrive();  // this block has read what it wants of the others
    for (int group = 0; group < kOwn; group += C::kThreads / K::kParts) {
        const int own = group + thread / K::kParts, part = thread % K::kParts;
        float total = 0;
        if (own < kOwn) {
            for (int i = part; i < C::kHidden; i += K::kParts)
                total = fmaf(Element<T>::load(second_rows[own * C::kHidden + i]), hidden[i], total);
        }
        total = sum_lanes<K::kParts>(total);
        if (own < kOwn && part == 0) {
            ChannelOperands<typename C::Second> operands;
            operands.load(p.second_operands, first_channel + own);
            gate[own] = C::Second::apply(total, operands.values);
        }
    }
    __syncthreads();
    float g[kV];
#pragma unroll
    for (int c = 0; c < kV; ++c) g[c] = gate[unit * kV + c];
    T* const to = static_cast<T*>(p.output) + base;
    for (int pixel = first_pixel; pixel < C::kPixels; pixel += K::kLanes) {
        const Elements x = Elements::load(own_image + pixel * kOwn);
        float y[kV];
#pragma unroll
        for (int c = 0; c < kV; ++c) y[c] = x.get(c) * g[c];
        store<kV>(to + static_cast<long long>(pixel) * C::kChannels, y);
    }
    __syncwarp();
    cluster_wait();
}

}  // namespace planish
