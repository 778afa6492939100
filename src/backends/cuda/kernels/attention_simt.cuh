// Attention in true float32, for any head size up to 256 and any float type: the recurrence of attention.cuh on the
// ordinary cores. A block of 16 x 8 threads has 16 * kRowsOfThread rows of one head; thread (y, x) computes the scores
// of rows y * kRowsOfThread .. and keys x + 8 j, and of O the columns 4 (x + 8 j) .. + 3.
//
// The translation unit gives: T, Mask, kHeadDim, kValueDim (any), kRowsOfThread (1, 2 or 4), kVector (head sizes and
// strides are multiples of four and T is float), kMask, kSoftcap, kBounded; kPack == 1.
#pragma once

#include "planish/attention.cuh"

namespace planish {

template <typename C>
struct SimtAttentionTile {
    static constexpr int kKeySize = round_up(C::kHeadDim, 4);
    static constexpr int kValueSize = round_up(C::kValueDim, 32);
    static constexpr int kKeyStride = kKeySize + 4, kValueStride = kValueSize + 4;
    static constexpr int kThreads = 128, kKeys = 32, kRows = 16 * C::kRowsOfThread, kWeightStride = kKeys + 4;
    static constexpr int kSharedBytes =
        4 * ((kRows + kKeys) * kKeyStride + kKeys * kValueStride + kRows * kWeightStride);
};

namespace attention_detail {

/// Rows to shared memory as float32, zeros where `at` gives null and beyond kSize.
template <typename C, int kRows, int kSize, int kPadded, int kStride, typename At>
inline __device__ void load_rows(float* to, At at) {
    using T = typename C::T;
    constexpr int kVector = C::kVector ? 4 : 1, kChunks = kPadded / kVector;
    for (int i = threadIdx.x; i < kRows * kChunks; i += 128) {
        const int row = i / kChunks, column = i % kChunks * kVector;
        const T* from = at(row);
        const bool exists = from != nullptr && column < kSize;
        if constexpr (C::kVector) {
            const float4 x = exists ? *reinterpret_cast<const float4*>(from + column) : make_float4(0, 0, 0, 0);
            *reinterpret_cast<float4*>(to + row * kStride + column) = x;
        } else {
            to[row * kStride + column] = exists ? to_float(from[column]) : 0.0f;
        }
    }
}

inline __device__ float dot(float4 a, float4 b, float c) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, c))));
}

}  // namespace attention_detail

template <typename C>
__device__ void attention_simt(const AttentionParams& p) {
    using namespace attention_detail;
    using T = typename C::T;
    using Tile = SimtAttentionTile<C>;
    constexpr int kR = C::kRowsOfThread, kKeysOfThread = Tile::kKeys / 8, kColumns = Tile::kValueSize / 32;
    extern __shared__ __align__(16) float shared_floats[];
    float* const shared_query = shared_floats;
    float* const shared_keys = shared_query + Tile::kRows * Tile::kKeyStride;
    float* const shared_values = shared_keys + Tile::kKeys * Tile::kKeyStride;
    float* const shared_weights = shared_values + Tile::kKeys * Tile::kValueStride;

    const int x = threadIdx.x % 8, y = threadIdx.x / 8;
    const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
    const int kv_head = head / (p.heads / p.kv_heads);
    const int first_row = static_cast<int>(blockIdx.x) * Tile::kRows;
    pdl_wait();
    const T* query = static_cast<const T*>(p.query) + batch * p.query_strides.batch + head * p.query_strides.head;
    const T* key = static_cast<const T*>(p.key) + batch * p.key_strides.batch + kv_head * p.key_strides.head;
    const T* value = static_cast<const T*>(p.value) + batch * p.value_strides.batch + kv_head * p.value_strides.head;
    const auto* mask =
        static_cast<const typename C::Mask*>(p.mask) + batch * p.mask_strides.batch + head * p.mask_strides.head;

    const Bounds bounds = C::kBounded ? bounds_of(p, batch) : Bounds{p.keys, 0, 0, 0};
    int begin = 0, end = bounds.keys;
    if constexpr (C::kBounded) {
        begin = bounds.first(first_row);
        end = bounds.last(min(first_row + Tile::kRows, p.queries) - 1);
    }
    load_rows<C, Tile::kRows, C::kHeadDim, Tile::kKeySize, Tile::kKeyStride>(shared_query, [&](int row) -> const T* {
        return first_row + row < p.queries ? query + (first_row + row) * p.query_strides.row : nullptr;
    });

    pdl_launch();
    float4 out[kR][kColumns];
    float top[kR], total[kR];
#pragma unroll
    for (int i = 0; i < kR; ++i) {
        top[i] = minus_infinity();
        total[i] = 0;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) out[i][j] = make_float4(0, 0, 0, 0);
    }
    for (int first = begin; first < end; first += Tile::kKeys) {
        __syncthreads();
        load_rows<C, Tile::kKeys, C::kHeadDim, Tile::kKeySize, Tile::kKeyStride>(shared_keys, [&](int row) -> const T* {
            return first + row < end ? key + (first + row) * p.key_strides.row : nullptr;
        });
        load_rows<C, Tile::kKeys, C::kValueDim, Tile::kValueSize, Tile::kValueStride>(
            shared_values, [&](int row) -> const T* {
                return first + row < end ? value + (first + row) * p.value_strides.row : nullptr;
            });
        __syncthreads();
        float s[kR][kKeysOfThread] = {};
#pragma unroll 4
        for (int d = 0; d < Tile::kKeySize; d += 4) {
            float4 q[kR], k[kKeysOfThread];
#pragma unroll
            for (int i = 0; i < kR; ++i)
                q[i] = *reinterpret_cast<const float4*>(shared_query + (y * kR + i) * Tile::kKeyStride + d);
#pragma unroll
            for (int j = 0; j < kKeysOfThread; ++j)
                k[j] = *reinterpret_cast<const float4*>(shared_keys + (x + 8 * j) * Tile::kKeyStride + d);
#pragma unroll
            for (int i = 0; i < kR; ++i)
#pragma unroll
                for (int j = 0; j < kKeysOfThread; ++j) s[i][j] = dot(q[i], k[j], s[i][j]);
        }
#pragma unroll
        for (int i = 0; i < kR; ++i) {
            const int row = first_row + y * kR + i;
            float most = top[i];
#pragma unroll
            for (int j = 0; j < kKeysOfThread; ++j) {
                const int column = first + x + 8 * j;
                bool visible = column < end && row < p.queries;
                if constexpr (C::kBounded) visible = visible && bounds.sees(row, column);
                s[i][j] = visible ? score<C>(s[i][j], p.scale, p.softcap) : minus_infinity();
                if constexpr (C::kMask != MaskKind::none)
                    if (visible) s[i][j] += mask_at<C>(mask, row * p.mask_strides.row + column);
                most = fmaxf(most, s[i][j]);
            }
            // The eight threads of a row are neighbours in a warp.
#pragma unroll
            for (int lane = 1; lane < 8; lane *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, lane));
            const float base = most == minus_infinity() ? 0.0f : most;
            const float shrink = exp2f(top[i] - base);
            top[i] = most;
            total[i] *= shrink;
#pragma unroll
            for (int j = 0; j < kKeysOfThread; ++j) {
                const float weight = exp2f(s[i][j] - base);
                total[i] += weight;
                shared_weights[(y * kR + i) * Tile::kWeightStride + x + 8 * j] = weight;
            }
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
                out[i][j].x *= shrink;
                out[i][j].y *= shrink;
                out[i][j].z *= shrink;
                out[i][j].w *= shrink;
            }
        }
        __syncwarp();
#pragma unroll 2
        for (int k = 0; k < Tile::kKeys; k += 4) {
            float weights[kR][4];
#pragma unroll
            for (int i = 0; i < kR; ++i) {
                const float4 w =
                    *reinterpret_cast<const float4*>(shared_weights + (y * kR + i) * Tile::kWeightStride + k);
                weights[i][0] = w.x, weights[i][1] = w.y, weights[i][2] = w.z, weights[i][3] = w.w;
            }
#pragma unroll
            for (int l = 0; l < 4; ++l)
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    const float4 v = *reinterpret_cast<const float4*>(shared_values + (k + l) * Tile::kValueStride +
                                                                      (x + 8 * j) * 4);
#pragma unroll
                    for (int i = 0; i < kR; ++i) {
                        out[i][j].x = fmaf(weights[i][l], v.x, out[i][j].x);
                        out[i][j].y = fmaf(weights[i][l], v.y, out[i][j].y);
                        out[i][j].z = fmaf(weights[i][l], v.z, out[i][j].z);
                        out[i][j].w = fmaf(weights[i][l], v.w, out[i][j].w);
                    }
                }
        }
    }
#pragma unroll
    for (int i = 0; i < kR; ++i) {
        float sum = total[i];
#pragma unroll
        for (int lane = 1; lane < 8; lane *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
        const int row = first_row + y * kR + i;
        if (row >= p.queries) continue;
        const float share = sum > 0 ? 1.0f / sum : 0.0f;
        T* const to = static_cast<T*>(p.output) + batch * p.output_strides.batch + head * p.output_strides.head +
                      row * p.output_strides.row;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
            const float values[4] = {out[i][j].x * share, out[i][j].y * share, out[i][j].z * share,
                                     out[i][j].w * share};
#pragma unroll
            for (int c = 0; c < 4; ++c)
                if ((x + 8 * j) * 4 + c < C::kValueDim) to[(x + 8 * j) * 4 + c] = from_float<T>(values[c]);
        }
    }
}

}  // namespace planish
