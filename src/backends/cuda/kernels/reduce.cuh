// Reductions over axes, in an order that the shape alone decides: no atomics. Also the index of the extreme.
//
// An accumulator has init state by default construction, add(x, position), merge(another) and result(n).
#pragma once

#include "planish/reduce_params.h"
#include "planish/vector.cuh"

namespace planish {

enum class Reduction { sum, mean, max, min, prod, l1, l2, sum_square, log_sum, log_sum_exp };

template <typename T>
struct Limits;
template <>
struct Limits<float> {
    static __device__ float lowest() { return -infinity(); }
    static __device__ float highest() { return infinity(); }
};
template <>
struct Limits<int> {
    static __device__ int lowest() { return -0x7fffffff - 1; }
    static __device__ int highest() { return 0x7fffffff; }
};
template <>
struct Limits<long long> {
    static __device__ long long lowest() { return -0x7fffffffffffffffLL - 1; }
    static __device__ long long highest() { return 0x7fffffffffffffffLL; }
};

template <Reduction kKind, typename R>
struct Accumulator {
    static constexpr bool kMax = kKind == Reduction::max, kMin = kKind == Reduction::min;
    R value;
    __device__ Accumulator()
        : value(kMax                       ? Limits<R>::lowest()
                : kMin                     ? Limits<R>::highest()
                : kKind == Reduction::prod ? R(1)
                                           : R(0)) {}
    static __device__ R combine(R a, R b) {
        if constexpr (kMax) return a != a || a > b ? a : b;
        if constexpr (kMin) return a != a || a < b ? a : b;
        if constexpr (kKind == Reduction::prod) return a * b;
        return a + b;
    }
    __device__ void add(R x, unsigned) {
        if constexpr (kKind == Reduction::l1)
            value += x < R(0) ? -x : x;
        else if constexpr (kKind == Reduction::l2 || kKind == Reduction::sum_square)
            value += x * x;
        else
            value = combine(value, x);
    }
    __device__ void merge(const Accumulator& other) { value = combine(value, other.value); }
    __device__ R result(int n) const {
        if constexpr (kKind == Reduction::mean) return value / R(n);
        if constexpr (kKind == Reduction::l2) return sqrtf(value);
        if constexpr (kKind == Reduction::log_sum) return logf(value);
        return value;
    }
};

/// log(sum(e^x)), relative to the largest so far: total e^top.
template <>
struct Accumulator<Reduction::log_sum_exp, float> {
    float top, total;
    __device__ Accumulator() : top(-infinity()), total(0) {}
    __device__ void add(float x, unsigned) {
        Accumulator other;
        other.top = x;
        other.total = 1;
        merge(other);
    }
    __device__ void merge(const Accumulator& other) {
        const float high = top != top || top > other.top ? top : other.top;
        // Both infinite and equal: no scaling; -infinity is the empty sum.
        const float mine = top == high ? 1.0f : expf(top - high),
                    its = other.top == high ? 1.0f : expf(other.top - high);
        total = total * mine + other.total * its;
        top = high;
    }
    __device__ float result(int) const { return total > 0 ? top + logf(total) : top; }
};

/// The position of the largest (smallest) element, of equals the first (last). NaN loses, as in a comparison.
template <bool kSmallest, bool kLast, typename R>
struct Extreme {
    R value;
    unsigned index;
    __device__ Extreme() : value(kSmallest ? Limits<R>::highest() : Limits<R>::lowest()), index(0xffffffffu) {}
    __device__ void add(R x, unsigned at) {
        Extreme other;
        other.value = x;
        other.index = at;
        merge(other);
    }
    __device__ void merge(const Extreme& other) {
        if (other.index == 0xffffffffu) return;
        const bool better = kSmallest ? other.value < value : other.value > value;
        const bool tie = other.value == value && (kLast ? other.index > index : other.index < index);
        if (better || tie || index == 0xffffffffu) *this = other;
    }
    __device__ long long result(int) const { return index; }
};

/// Shared memory has no constructors.
template <typename A, int kCount>
struct Storage {
    alignas(alignof(A)) unsigned char bytes[sizeof(A) * kCount];
    __device__ A& operator[](int i) { return reinterpret_cast<A*>(bytes)[i]; }
};

template <typename A>
inline __device__ A from_lane(const A& a, int distance) {
    static_assert(sizeof(A) % 4 == 0);
    A other;
    unsigned words[sizeof(A) / 4];
    memcpy(words, &a, sizeof(A));
#pragma unroll
    for (unsigned i = 0; i < sizeof(A) / 4; ++i) words[i] = __shfl_xor_sync(0xffffffffu, words[i], distance);
    memcpy(&other, words, sizeof(A));
    return other;
}

template <typename A, typename Out>
inline __device__ void finish(const ReduceParams& p, const A& a, unsigned output, bool last_stage) {
    if (last_stage)
        static_cast<Out*>(p.output)[output] = Element<Out>::store(a.result(p.n));
    else
        static_cast<A*>(p.partial)[static_cast<unsigned long long>(blockIdx.y) * p.outputs + output] = a;
}

/// Of rows that lie together (inner == 1): kThreads threads have a row; split blockIdx.y of it.
template <typename A, typename T, typename Out, int kThreads, int kVector, bool kLastStage>
inline __device__ void reduce_rows(const ReduceParams& p) {
    __shared__ Storage<A, (kThreads > 32 ? kThreads / 32 : 1)> shared;
    const unsigned row = (blockIdx.x * blockDim.x + threadIdx.x) / kThreads;
    const int lane = threadIdx.x % kThreads;
    if (row >= p.outputs) return;
    const T* const in = static_cast<const T*>(p.input) + static_cast<long long>(row) * p.n;
    const int begin = static_cast<int>(blockIdx.y) * p.length, end = begin + p.length < p.n ? begin + p.length : p.n;
    pdl_wait();
    A a;
    constexpr int kStep = kThreads * kVector;
#pragma unroll 4
    for (int at = begin + lane * kVector; at < end; at += kStep) {
        const auto pack = Pack<T, kVector>::load(in + at);
#pragma unroll
        for (int k = 0; k < kVector; ++k) a.add(pack.get(k), static_cast<unsigned>(at + k));
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) a.merge(from_lane(a, distance));
    if constexpr (kThreads > 32) {
        constexpr int kWarps = kThreads / 32;
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = a;
        __syncthreads();
        a = shared[threadIdx.x % kWarps];
#pragma unroll
        for (int distance = kWarps / 2; distance > 0; distance /= 2) a.merge(from_lane(a, distance));
    }
    if (lane == 0) finish<A, Out>(p, a, row, kLastStage);
    pdl_launch();
}

/// Of columns: a block has kColumns vectors of neighbouring columns, kRows threads share each.
template <typename A, typename T, typename Out, int kColumns, int kRows, int kVector, bool kLastStage>
inline __device__ void reduce_columns(const ReduceParams& p) {
    __shared__ Storage<A, kRows * kColumns * kVector> shared;
    const int x = threadIdx.x % kColumns, y = threadIdx.x / kColumns;
    const unsigned vector = blockIdx.x * kColumns + x;
    const bool exists = vector < p.outputs / kVector;
    const unsigned outer = exists ? quotient(vector, p.columns) : 0;
    const int column = static_cast<int>((exists ? vector : 0) - outer * p.columns.divisor) * kVector;
    const T* const in = static_cast<const T*>(p.input) + static_cast<long long>(outer) * p.n * p.inner + column;
    const int begin = static_cast<int>(blockIdx.y) * p.length, end = begin + p.length < p.n ? begin + p.length : p.n;
    pdl_wait();
    A a[kVector];
    if (exists) {
#pragma unroll 4
        for (int i = begin + y; i < end; i += kRows) {
            const auto pack = Pack<T, kVector>::load(in + static_cast<long long>(i) * p.inner);
#pragma unroll
            for (int k = 0; k < kVector; ++k) a[k].add(pack.get(k), static_cast<unsigned>(i));
        }
    }
#pragma unroll
    for (int k = 0; k < kVector; ++k) shared[(y * kColumns + x) * kVector + k] = a[k];
    __syncthreads();
    // Neighbouring threads take neighbouring columns.
    for (int c = threadIdx.x; c < kColumns * kVector; c += kColumns * kRows) {
        const unsigned output = blockIdx.x * kColumns * kVector + c;
        if (output >= p.outputs) break;
        A total = shared[c];
#pragma unroll
        for (int r = 1; r < kRows; ++r) total.merge(shared[r * kColumns * kVector + c]);
        finish<A, Out>(p, total, output, kLastStage);
    }
    pdl_launch();
}

/// The partial accumulators of all splits; a thread has an output.
template <typename A, typename Out>
inline __device__ void reduce_splits(const ReduceParams& p, int splits) {
    const unsigned output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output >= p.outputs) return;
    pdl_wait();
    A a;
    for (int s = 0; s < splits; ++s)
        a.merge(static_cast<const A*>(p.partial)[static_cast<unsigned long long>(s) * p.outputs + output]);
    static_cast<Out*>(p.output)[output] = Element<Out>::store(a.result(p.n));
    pdl_launch();
}

/// Axes that are no neighbours: a warp has an output.
template <typename A, typename T, typename Out, int kKept, int kReduced>
inline __device__ void reduce_scattered(const ReduceParams& p) {
    const unsigned output = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (output >= p.outputs) return;
    int base = 0;
    unsigned rest = output;
#pragma unroll
    for (int axis = kKept - 1; axis >= 0; --axis) {
        const unsigned outer = quotient(rest, p.kept[axis]);
        base += static_cast<int>(rest - outer * p.kept[axis].divisor) * p.kept_strides[axis];
        rest = outer;
    }
    pdl_wait();
    A a;
    for (unsigned i = threadIdx.x % 32; i < static_cast<unsigned>(p.n); i += 32) {
        int at = base;
        rest = i;
#pragma unroll
        for (int axis = kReduced - 1; axis >= 0; --axis) {
            const unsigned outer = quotient(rest, p.reduced[axis]);
            at += static_cast<int>(rest - outer * p.reduced[axis].divisor) * p.reduced_strides[axis];
            rest = outer;
        }
        a.add(Element<T>::load(static_cast<const T*>(p.input)[at]), i);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) a.merge(from_lane(a, distance));
    if (threadIdx.x % 32 == 0) static_cast<Out*>(p.output)[output] = Element<Out>::store(a.result(p.n));
    pdl_launch();
}

}  // namespace planish
