// Gathering and scattering by several indices, running sums, the largest elements of rows.
//
// An index outside its axis, which ONNX forbids, means the axis's nearest entry.
#pragma once

#include "planish/indexed_params.h"
#include "planish/movement.cuh"

namespace planish {

template <typename Index>
inline __device__ int index_at(const void* indices, long long at, int length) {
    long long index = static_cast<const Index*>(indices)[at];
    if (index < 0) index += length;
    return static_cast<int>(index < 0 ? 0 : index >= length ? length - 1 : index);
}

/// Element i of the output or of the updates, whose other place is `at`.
template <bool kScatter, typename T>
inline __device__ void transfer(void* to, const void* from, long long i, long long at) {
    static_cast<T*>(to)[kScatter ? at : i] = static_cast<const T*>(from)[kScatter ? i : at];
    pdl_launch();
}

template <bool kScatter, int kRank, typename T, typename Index>
inline __device__ void elements(const ElementsParams& p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    unsigned rest = i;
    int at = 0;
#pragma unroll
    for (int axis = kRank - 1; axis >= 0; --axis) {
        const unsigned outer = axis > 0 ? quotient(rest, p.extents[axis]) : 0;
        at += static_cast<int>(rest - outer * p.extents[axis].divisor) * p.strides[axis];
        rest = outer;
    }
    pdl_wait();
    at += index_at<Index>(p.indices, i, p.axis) * p.axis_stride;
    transfer<kScatter, T>(p.to, p.from, i, at);
}

template <bool kScatter, typename T, typename Index>
inline __device__ void tuples(const TuplesParams& p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    const unsigned row = quotient(i, p.inner);
    long long at = i - row * p.inner.divisor;
    pdl_wait();
    for (int j = 0; j < p.tuple; ++j)
        at += static_cast<long long>(
                  index_at<Index>(p.indices, static_cast<long long>(row) * p.tuple + j, p.lengths[j])) *
              p.strides[j];
    transfer<kScatter, T>(p.to, p.from, i, at);
}

template <typename T, bool kExclusive, bool kReverse>
inline __device__ void running_sum(const LinesParams& p) {
    const unsigned line = blockIdx.x * blockDim.x + threadIdx.x;
    if (line >= p.lines) return;
    const unsigned outer = quotient(line, p.inner), stride = p.inner.divisor;
    const long long first = static_cast<long long>(outer) * p.n * stride + (line - outer * stride);
    const T* const in = static_cast<const T*>(p.input) + first;
    T* const out = static_cast<T*>(p.output) + first;
    pdl_wait();
    Register<T> sum = 0;
    for (int i = 0; i < p.n; ++i) {
        const long long at = static_cast<long long>(kReverse ? p.n - 1 - i : i) * stride;
        const Register<T> x = Element<T>::load(in[at]);
        if constexpr (kExclusive) out[at] = Element<T>::store(sum);
        sum += x;
        if constexpr (!kExclusive) out[at] = Element<T>::store(sum);
    }
    pdl_launch();
}

/// Bitonic sorting of a row in shared memory (Batcher, "Sorting networks and their applications", 1968); kSize: a power
/// of two, n or more. Of equal elements the one with the lower index comes first; what fills the row up comes last.
template <typename T, bool kLargest, int kSize, int kThreads>
inline __device__ void top_k(const TopKParams& p) {
    float* const keys = reinterpret_cast<float*>(dynamic_shared());
    int* const places = reinterpret_cast<int*>(keys + kSize);
    const int thread = static_cast<int>(threadIdx.x);
    const long long row = blockIdx.x;
    pdl_wait();
#pragma unroll 1
    for (int i = thread; i < kSize; i += kThreads) {
        keys[i] = i < p.n ? Element<T>::load(static_cast<const T*>(p.input)[row * p.n + i]) : 0.0f;
        places[i] = i;
    }
    pdl_launch();
    const auto comes_before = [&](int a, int b) {
        if (places[a] >= p.n || places[b] >= p.n) return places[a] < places[b];
        if (keys[a] != keys[b]) return kLargest ? keys[a] > keys[b] : keys[a] < keys[b];
        return places[a] < places[b];
    };
    __syncthreads();
#pragma unroll 1
    for (int size = 2; size <= kSize; size *= 2) {
#pragma unroll 1
        for (int distance = size / 2; distance > 0; distance /= 2) {
#pragma unroll 1
            for (int i = thread; i < kSize / 2; i += kThreads) {
                const int low = 2 * i - (i & (distance - 1)), high = low + distance;
                if (comes_before(high, low) != ((low & size) == 0)) continue;
                const float key = keys[low];
                const int place = places[low];
                keys[low] = keys[high], places[low] = places[high];
                keys[high] = key, places[high] = place;
            }
            __syncthreads();
        }
    }
#pragma unroll 1
    for (int i = thread; i < p.k; i += kThreads) {
        static_cast<T*>(p.values)[row * p.k + i] = Element<T>::store(keys[i]);
        p.indices[row * p.k + i] = places[i];
    }
}

}  // namespace planish
