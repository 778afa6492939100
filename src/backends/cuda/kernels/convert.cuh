// Moves a value from one format to another: element types, and the two axes that channels-last swaps.
#pragma once

#include "planish/convert_params.h"

namespace planish {

// Through float where the types differ: every pair of them is one of float, __half and __nv_bfloat16.
template <typename To, typename From>
struct Convert {
    static __device__ To apply(From x) { return To(float(x)); }
};
template <typename T>
struct Convert<T, T> {
    static __device__ T apply(T x) { return x; }
};

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
    T x[N];
};

// Same order: 8 elements at a time, the rest one by one. Addresses are multiples of 16 bytes.
template <typename From, typename To>
__device__ void convert_elements(const ConvertParams& p) {
    constexpr int kIn = sizeof(From) * 8 > 16 ? 16 / sizeof(From) : 8, kOut = sizeof(To) * 8 > 16 ? 16 / sizeof(To) : 8;
    const auto* in = static_cast<const From*>(p.in);
    auto* out = static_cast<To*>(p.out);
    const long long packs = p.count / 8, stride = (long long)gridDim.x * blockDim.x;
    const long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (long long i = first; i < packs; i += stride) {
        From from[8];
        To to[8];
        for (int k = 0; k < 8; k += kIn)
            *reinterpret_cast<Pack<From, kIn>*>(from + k) = *reinterpret_cast<const Pack<From, kIn>*>(in + i * 8 + k);
        for (int k = 0; k < 8; ++k) to[k] = Convert<To, From>::apply(from[k]);
        for (int k = 0; k < 8; k += kOut)
            *reinterpret_cast<Pack<To, kOut>*>(out + i * 8 + k) = *reinterpret_cast<Pack<To, kOut>*>(to + k);
    }
    for (long long i = packs * 8 + first; i < p.count; i += stride) out[i] = Convert<To, From>::apply(in[i]);
}

// Few rows (an image of three channels): a thread takes a column, so that both sides are touched in order.
template <typename From, typename To>
__device__ void convert_few_rows(const ConvertParams& p) {
    const long long image = p.rows * p.columns;
    const auto* in = static_cast<const From*>(p.in) + blockIdx.z * image;
    auto* out = static_cast<To*>(p.out) + blockIdx.z * image;
    const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= p.columns) return;
    for (long long r = 0; r < p.rows; ++r)
        out[column * p.rows + r] = Convert<To, From>::apply(in[r * p.columns + column]);
}

// Tiles of 32 x 32 through shared memory; 256 threads.
template <typename From, typename To>
__device__ void convert_tiles(const ConvertParams& p) {
    __shared__ From tile[32][33];
    const long long image = p.rows * p.columns;
    const auto* in = static_cast<const From*>(p.in) + blockIdx.z * image;
    auto* out = static_cast<To*>(p.out) + blockIdx.z * image;
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32;
    const long long r0 = (long long)blockIdx.y * 32, c0 = (long long)blockIdx.x * 32;
    for (int i = group; i < 32; i += 8)
        if (r0 + i < p.rows && c0 + lane < p.columns) tile[i][lane] = in[(r0 + i) * p.columns + c0 + lane];
    __syncthreads();
    for (int i = group; i < 32; i += 8)
        if (c0 + i < p.columns && r0 + lane < p.rows)
            out[(c0 + i) * p.rows + r0 + lane] = Convert<To, From>::apply(tile[lane][i]);
}

}  // namespace planish
