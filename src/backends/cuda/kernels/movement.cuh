// Transposition through shared memory, joining and cutting, padding, gathering: elements by their size only.
#pragma once

#include "planish/common.cuh"
#include "planish/movement_params.h"
#include "planish/vector.cuh"

namespace planish {

/// 16 bytes as one element.
struct alignas(16) Bytes16 {
    unsigned words[4];
};

/// Tiles of 64 x 64 (32 x 32 for elements of 8 bytes and more), 256 threads. Rows of the tile are one element longer,
/// so that neither its rows nor its columns meet in a bank.
template <typename T>
inline __device__ void transpose(const TransposeParams& p) {
    constexpr int kTile = sizeof(T) >= 8 ? 32 : 64, kRows = 256 / kTile, kPerThread = kTile / kRows;
    __shared__ T tile[kTile][kTile + (sizeof(T) < 4 ? 4 / sizeof(T) : 1)];
    const unsigned outer = quotient(blockIdx.z, p.inner_batches);
    const int inner = static_cast<int>(blockIdx.z - outer * p.inner_batches.divisor);
    const T* const in =
        static_cast<const T*>(p.input) + static_cast<int>(outer) * p.input_strides[0] + inner * p.input_strides[1];
    T* const out =
        static_cast<T*>(p.output) + static_cast<int>(outer) * p.output_strides[0] + inner * p.output_strides[1];
    const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
    const int column = blockIdx.x * kTile, row = blockIdx.y * kTile;
    pdl_wait();
    T values[kPerThread];
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const int i = row + y + k * kRows;
        if (i < p.rows && column + x < p.columns) values[k] = in[static_cast<long long>(i) * p.row_stride + column + x];
    }
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) tile[y + k * kRows][x] = values[k];
    __syncthreads();
    pdl_launch();
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const int j = column + y + k * kRows;
        if (j < p.columns && row + x < p.rows)
            out[static_cast<long long>(j) * p.column_stride + row + x] = tile[x][y + k * kRows];
    }
}

template <bool kJoin, typename T>
inline __device__ void pieces(const PiecesParams& p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    const unsigned row = quotient(i, p.width);
    const int column = static_cast<int>(i - row * p.width.divisor);
    int piece = 0;
    while (column >= p.first[piece + 1]) ++piece;
    const int begin = p.first[piece], width = p.first[piece + 1] - begin;
    T* const element =
        static_cast<T*>(const_cast<void*>(p.pieces[piece])) + static_cast<long long>(row) * width + column - begin;
    T* const joined = static_cast<T*>(const_cast<void*>(p.joined)) + i;
    pdl_wait();
    if constexpr (kJoin)
        *joined = *element;
    else if (p.pieces[piece] != nullptr)
        *element = *joined;
    pdl_launch();
}

template <int kRank, int kVector, typename T>
inline __device__ void pad(const PadParams& p) {
    const unsigned vector = blockIdx.x * blockDim.x + threadIdx.x;
    if (vector * kVector >= p.count) return;
    unsigned rest = vector;
    int at = 0;
    bool inside = true;
#pragma unroll
    for (int axis = kRank - 1; axis >= 0; --axis) {
        const unsigned outer = axis > 0 ? quotient(rest, p.extents[axis]) : 0;
        const int here = static_cast<int>(rest - outer * p.extents[axis].divisor) - p.begin[axis];
        inside = inside && here >= 0 && here < p.size[axis];
        at += here * p.strides[axis];
        rest = outer;
    }
    pdl_wait();
    Pack<T, kVector> pack;
    if (inside) {
        pack = Pack<T, kVector>::load(static_cast<const T*>(p.input) + at);
    } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) pack.set(i, static_cast<T>(p.value));
    }
    pack.store(static_cast<T*>(p.output) + vector * kVector);
    pdl_launch();
}

/// An index outside the axis, which ONNX forbids, reads its nearest entry.
template <typename T, typename Index>
inline __device__ void gather(const GatherParams& p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    const unsigned row = quotient(i, p.inner), outer = quotient(row, p.index_count);
    pdl_wait();
    long long index = static_cast<const Index*>(p.indices)[row - outer * p.index_count.divisor];
    if (index < 0) index += p.axis;
    index = index < 0 ? 0 : index >= p.axis ? p.axis - 1 : index;
    static_cast<T*>(p.output)[i] = static_cast<const T*>(
        p.data)[(static_cast<long long>(outer) * p.axis + index) * p.inner.divisor + i - row * p.inner.divisor];
    pdl_launch();
}

}  // namespace planish
