// An inverted residual in one kernel: expand 1x1 -> depthwise kxk -> project 1x1, on tensor cores; images
// channels-last.
//
// A block computes a tile of kTileH x kTileW pixels of the output. The expanded channels pass through shared memory in
// chunks of kChunk and never reach memory:
//
//   E = f1(X W1 + b1)     the pixels of the tile and its border; zero outside the image
//   D = f2(dw(E) + b2)    the tile
//   Y += D W2             kept in registers over the chunks, then f3(Y + b3)
//
// At small batch the blocks of a cluster share a tile and take different chunks; each writes its Y to its shared
// memory and every one adds, in the order of the blocks, a part of the tile from all of them.
//
// Without expand (kExpand false) E is the chunk's channels of the input. Without project (kProject false) D is the
// result, the groups of chunks are independent blocks and there is no cluster.
//
// The translation unit gives: T (f16, bf16), ExpandEpilogue, DepthwiseEpilogue, ProjectEpilogue (see common.cuh),
// kExpand, kProject, kChannels, kExpanded, kOut (kExpanded without project), kChunk (a multiple of 16 that divides
// kExpanded), kGroups (groups of chunks: blocks for a tile), kKernel, kStride, kTileH, kTileW, kRun (neighbouring
// pixels of a row that a thread computes in the depthwise step; divides kTileW), kWarps, kWarpRows (warps along the
// pixels in project; divides kWarps).
#pragma once

#include "planish/common.cuh"
#include "planish/conv_chain_params.h"

namespace planish {

/// Shapes, and what a chunk's weights are in memory, one chunk after the other, each part a multiple of 16 bytes:
///   W1 T [kChunk][kIn]   W2 T [kOutPadded][kChunk]   depthwise T [kKernel][kKernel][kChunk]   b1, b2 f32 [kChunk]
template <typename C>
struct ConvChainTile {
    static constexpr int kThreads = 32 * C::kWarps;
    static constexpr int kIn = round_up(C::kChannels, 16), kOutPadded = round_up(C::kOut, 16);
    static constexpr int kGridH = (C::kTileH - 1) * C::kStride + C::kKernel;  // the tile with its border
    static constexpr int kGridW = (C::kTileW - 1) * C::kStride + C::kKernel;
    static constexpr int kGrid = kGridH * kGridW, kPixels = C::kTileH * C::kTileW;
    static constexpr int kChunks = C::kExpanded / C::kChunk, kSteps = (kChunks + C::kGroups - 1) / C::kGroups;
    static constexpr int kTaps = C::kKernel * C::kKernel;

    // Rows of shared memory are an odd number of 16-byte units apart: eight of them meet eight groups of banks.
    static constexpr int kInStride = kIn + 8, kChunkStride = C::kChunk + 8, kSumStride = kOutPadded + 4;

    // Of a chunk in memory, in bytes:
    static constexpr int kProjectAt = C::kExpand ? C::kChunk * kIn * 2 : 0;
    static constexpr int kDepthwiseAt = kProjectAt + (C::kProject ? kOutPadded * C::kChunk * 2 : 0);
    static constexpr int kBiasAt = kDepthwiseAt + kTaps * C::kChunk * 2;
    static constexpr int kChunkBytes = kBiasAt + 2 * C::kChunk * 4;
    // Of a chunk's weights in shared memory, in bytes:
    static constexpr int kSharedProjectAt = C::kExpand ? C::kChunk * kInStride * 2 : 0;
    static constexpr int kSharedDepthwiseAt = kSharedProjectAt + (C::kProject ? kOutPadded * kChunkStride * 2 : 0);
    static constexpr int kSharedBiasAt = kSharedDepthwiseAt + kTaps * C::kChunk * 2;
    static constexpr int kSharedChunkBytes = kSharedBiasAt + 2 * C::kChunk * 4;

    static constexpr int kStages = kSteps > 1 ? 2 : 1;
    static constexpr int kInputAt = kStages * kSharedChunkBytes;
    static constexpr int kExpandedAt = kInputAt + (C::kExpand ? round_up(kGrid, 16) * kInStride * 2 : 0);
    static constexpr int kTileAt = kExpandedAt + kGrid * kChunkStride * 2;
    static constexpr int kLoopBytes = kTileAt + (C::kProject ? round_up(kPixels, 16) * kChunkStride * 2 : 0);
    static constexpr int kSumBytes = C::kProject ? round_up(kPixels, 16) * kSumStride * 4 : 0;
    static constexpr int kSharedBytes = kLoopBytes > kSumBytes ? kLoopBytes : kSumBytes;
};

namespace conv_chain_detail {

/// Rows of kBytes in memory, one behind the other, to rows of kStride bytes in shared memory.
template <int kRows, int kBytes, int kStride, int kThreads>
inline __device__ void copy_rows(unsigned char* to, const unsigned char* from) {
    constexpr int kUnits = kBytes / 16, kTotal = kRows * kUnits;
    for (int i = threadIdx.x; i < kTotal; i += kThreads)
        cp_async_16(to + i / kUnits * kStride + i % kUnits * 16, from + i * 16);
}

template <typename T>
inline __device__ void unpack8(float (&to)[8], uint4 from) {
    unpack2<T>(from.x, to[0], to[1]);
    unpack2<T>(from.y, to[2], to[3]);
    unpack2<T>(from.z, to[4], to[5]);
    unpack2<T>(from.w, to[6], to[7]);
}
template <typename T>
inline __device__ uint4 pack8(const float (&x)[8]) {
    return {pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])};
}

/// Applies an epilogue to one value of channel `column`; `at` is the value's place in the output.
template <typename E, typename T>
inline __device__ float apply(float x, const void* const* operands, int column, long long at) {
    float values[E::kOperands > 0 ? E::kOperands : 1];
#pragma unroll
    for (int o = 0; o < E::kOperands; ++o)
        values[o] = E::kind(o) == E::channel ? static_cast<const float*>(operands[o])[column]
                                             : to_float(static_cast<const T*>(operands[o])[at]);
    return E::apply(x, values);
}

inline __device__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// Four floats at `address` of the shared memory of the cluster's block `rank`.
inline __device__ float4 load_of_block(unsigned address, int rank) {
    float4 x;
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
        : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
        : "r"(address), "r"(rank));
    return x;
}

}  // namespace conv_chain_detail

template <typename C>
__device__ void conv_chain(const ConvChainParams& p) {
    using namespace conv_chain_detail;
    using T = typename C::T;
    using Tile = ConvChainTile<C>;
    constexpr int kThreads = Tile::kThreads;
    extern __shared__ __align__(128) unsigned char shared[];
    T* const shared_input = reinterpret_cast<T*>(shared + Tile::kInputAt);
    T* const shared_expanded = reinterpret_cast<T*>(shared + Tile::kExpandedAt);
    T* const shared_tile = reinterpret_cast<T*>(shared + Tile::kTileAt);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int group = static_cast<int>(blockIdx.x) % C::kGroups, tile = static_cast<int>(blockIdx.x) / C::kGroups;
    const int image = static_cast<int>(blockIdx.y);
    const int out_y = tile / p.tiles_w * C::kTileH, out_x = tile % p.tiles_w * C::kTileW;
    const int grid_y = out_y * C::kStride - p.pad_top, grid_x = out_x * C::kStride - p.pad_left;
    // The part of the grid that lies in the image.
    const int first_y = max(grid_y, 0), first_x = max(grid_x, 0);
    const int rows = min(grid_y + Tile::kGridH, p.h) - first_y, columns = min(grid_x + Tile::kGridW, p.w) - first_x;
    const int inside = rows * columns;
    // Row of a pixel among `columns`: exact as long as pixel * columns < 2^16.
    static_assert(Tile::kGrid * Tile::kGridW < 1 << 16);
    const unsigned inverse = ((1u << 16) + columns - 1) / columns;
    const auto row_of = [&](int pixel) { return static_cast<int>(pixel * inverse >> 16); };
    const int first_chunk = group * Tile::kSteps, last_chunk = min(first_chunk + Tile::kSteps, Tile::kChunks);

    auto copy_weights = [&](int chunk, int stage) {
        if (chunk < last_chunk) {
            const auto* from =
                static_cast<const unsigned char*>(p.weights) + static_cast<long long>(chunk) * Tile::kChunkBytes;
            unsigned char* const to = shared + stage * Tile::kSharedChunkBytes;
            if constexpr (C::kExpand) copy_rows<C::kChunk, Tile::kIn * 2, Tile::kInStride * 2, kThreads>(to, from);
            if constexpr (C::kProject)
                copy_rows<Tile::kOutPadded, C::kChunk * 2, Tile::kChunkStride * 2, kThreads>(
                    to + Tile::kSharedProjectAt, from + Tile::kProjectAt);
            constexpr int kRest = Tile::kChunkBytes - Tile::kDepthwiseAt;
            copy_rows<1, kRest, kRest, kThreads>(to + Tile::kSharedDepthwiseAt, from + Tile::kDepthwiseAt);
        }
        cp_async_commit();
    };
    // Weights are constants: they arrive while the kernel before this one still runs.
    copy_weights(first_chunk, 0);

    if (inside < Tile::kGrid) {  // the border stays zero, the inside is written anew for each chunk
        for (int i = threadIdx.x; i < Tile::kGrid * Tile::kChunkStride / 8; i += kThreads)
            reinterpret_cast<uint4*>(shared_expanded)[i] = make_uint4(0, 0, 0, 0);
        if (!C::kExpand) __syncthreads();  // before other threads copy there
    }
    pdl_wait();
    const T* const x = static_cast<const T*>(p.input) + static_cast<long long>(image) * p.h * p.w * C::kChannels;
    if constexpr (C::kExpand) {
        constexpr int kUnits = Tile::kIn / 8;
        for (int i = threadIdx.x; i < inside * kUnits; i += kThreads) {
            const int pixel = i / kUnits, unit = i % kUnits;
            const int y = row_of(pixel);
            const T* from = x + ((first_y + y) * p.w + first_x + pixel - y * columns) * C::kChannels;
            const bool exists = Tile::kIn == C::kChannels || unit * 8 < C::kChannels;
            cp_async_16(shared_input + pixel * Tile::kInStride + unit * 8, exists ? from + unit * 8 : x, exists);
        }
        cp_async_commit();
    }

    pdl_launch();

    // Y of this warp: rows of 16 pixels by columns of 16 channels.
    constexpr int kWarpColumns = C::kWarps / C::kWarpRows;
    constexpr int kRowTiles = round_up(Tile::kPixels, 16) / 16, kColumnTiles = Tile::kOutPadded / 16;
    constexpr int kMyRows = (kRowTiles + C::kWarpRows - 1) / C::kWarpRows;
    constexpr int kMyColumns = (kColumnTiles + kWarpColumns - 1) / kWarpColumns;
    const int warp_row = warp % C::kWarpRows, warp_column = warp / C::kWarpRows;
    float sums[C::kProject ? kMyRows : 1][C::kProject ? kMyColumns : 1][2][4] = {};

    for (int chunk = first_chunk, stage = 0; chunk < last_chunk; ++chunk, stage ^= Tile::kStages - 1) {
        const unsigned char* const weights = shared + stage * Tile::kSharedChunkBytes;
        const auto* const biases = reinterpret_cast<const float*>(weights + Tile::kSharedBiasAt);
        if constexpr (!C::kExpand) {
            constexpr int kUnits = C::kChunk / 8;
            for (int i = threadIdx.x; i < inside * kUnits; i += kThreads) {
                const int pixel = i / kUnits, unit = i % kUnits;
                const int row = row_of(pixel), y = first_y + row, column = first_x + pixel - row * columns;
                cp_async_16(
                    shared_expanded + ((y - grid_y) * Tile::kGridW + column - grid_x) * Tile::kChunkStride + unit * 8,
                    x + (y * p.w + column) * C::kChannels + chunk * C::kChunk + unit * 8);
            }
            cp_async_commit();
        }
        cp_async_wait<0>();
        __syncthreads();
        if (Tile::kStages == 2) copy_weights(chunk + 1, stage ^ 1);

        if constexpr (C::kExpand) {
            const T* const w1 = reinterpret_cast<const T*>(weights);
            constexpr int kUnits = C::kChunk / 16;
            const int units = (inside + 15) / 16 * kUnits;
            for (int u = warp; u < units; u += C::kWarps) {
                const int row = u / kUnits * 16, column = u % kUnits * 16;
                const T* const a_from = shared_input + (row + lane % 16) * Tile::kInStride + lane / 16 * 8;
                const T* const b_from = w1 + (column + lane % 8 + lane / 16 * 8) * Tile::kInStride + lane / 8 % 2 * 8;
                float e[2][4] = {};
#pragma unroll
                for (int k = 0; k < Tile::kIn; k += 16) {
                    unsigned a[4], b[4];
                    ldmatrix_x4(a, a_from + k);
                    ldmatrix_x4(b, b_from + k);
                    mma_m16n8k16<T>(e[0], a, b[0], b[1]);
                    mma_m16n8k16<T>(e[1], a, b[2], b[3]);
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int pixel = row + half * 8 + lane / 4;
                    if (pixel >= inside) continue;
                    const int line = row_of(pixel), at = first_x - grid_x + pixel - line * columns;
                    T* const to =
                        shared_expanded + ((first_y - grid_y + line) * Tile::kGridW + at) * Tile::kChunkStride;
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        const int c = column + j * 8 + lane % 4 * 2;
                        float v[2];
#pragma unroll
                        for (int i = 0; i < 2; ++i)
                            v[i] = apply<typename C::ExpandEpilogue, T>(
                                e[j][2 * half + i] + biases[c + i], p.expand_operands, chunk * C::kChunk + c + i, 0);
                        *reinterpret_cast<unsigned*>(to + c) = pack2<T>(v[0], v[1]);
                    }
                }
            }
            __syncthreads();
        }

        {
            constexpr int kVectors = C::kChunk / 8, kRuns = Tile::kPixels / C::kRun;
            constexpr int kReach = (C::kRun - 1) * C::kStride + C::kKernel;
            const auto* const taps = reinterpret_cast<const T*>(weights + Tile::kSharedDepthwiseAt);
            for (int item = threadIdx.x; item < kRuns * kVectors; item += kThreads) {
                const int c = item % kVectors * 8, first = item / kVectors * C::kRun;
                const int y = first / C::kTileW, column = first % C::kTileW;
                const T* const from =
                    shared_expanded + (y * C::kStride * Tile::kGridW + column * C::kStride) * Tile::kChunkStride + c;
                float d[C::kRun][8];
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    d[0][i] = biases[C::kChunk + c + i];
#pragma unroll
                    for (int j = 1; j < C::kRun; ++j) d[j][i] = d[0][i];
                }
#pragma unroll
                for (int r = 0; r < C::kKernel; ++r) {
                    float w[C::kKernel][8];
#pragma unroll
                    for (int t = 0; t < C::kKernel; ++t)
                        unpack8<T>(w[t], *reinterpret_cast<const uint4*>(taps + (r * C::kKernel + t) * C::kChunk + c));
#pragma unroll
                    for (int t = 0; t < kReach; ++t) {
                        float v[8];
                        unpack8<T>(v,
                                   *reinterpret_cast<const uint4*>(from + (r * Tile::kGridW + t) * Tile::kChunkStride));
#pragma unroll
                        for (int j = 0; j < C::kRun; ++j) {
                            const int tap = t - j * C::kStride;
                            if (tap < 0 || tap >= C::kKernel) continue;
#pragma unroll
                            for (int i = 0; i < 8; ++i) d[j][i] = fmaf(v[i], w[tap][i], d[j][i]);
                        }
                    }
                }
#pragma unroll
                for (int j = 0; j < C::kRun; ++j) {
                    const int channel = chunk * C::kChunk + c;
                    const bool exists = out_y + y < p.out_h && out_x + column + j < p.out_w;
                    const long long at =
                        ((static_cast<long long>(image) * p.out_h + out_y + y) * p.out_w + out_x + column + j) *
                            C::kExpanded +
                        channel;
                    if (!C::kProject && !exists) continue;
#pragma unroll
                    for (int i = 0; i < 8; ++i)
                        d[j][i] =
                            apply<typename C::DepthwiseEpilogue, T>(d[j][i], p.depthwise_operands, channel + i, at + i);
                    if constexpr (C::kProject)
                        *reinterpret_cast<uint4*>(shared_tile + (first + j) * Tile::kChunkStride + c) = pack8<T>(d[j]);
                    else
                        *reinterpret_cast<uint4*>(static_cast<T*>(p.output) + at) = pack8<T>(d[j]);
                }
            }
            __syncthreads();
        }

        if constexpr (C::kProject) {
            const T* const w2 = reinterpret_cast<const T*>(weights + Tile::kSharedProjectAt);
#pragma unroll
            for (int k = 0; k < C::kChunk; k += 16) {
                unsigned a[kMyRows][4];
#pragma unroll
                for (int i = 0; i < kMyRows; ++i) {
                    const int row = warp_row + i * C::kWarpRows;
                    if (row < kRowTiles)
                        ldmatrix_x4(a[i],
                                    shared_tile + (row * 16 + lane % 16) * Tile::kChunkStride + k + lane / 16 * 8);
                }
#pragma unroll
                for (int j = 0; j < kMyColumns; ++j) {
                    const int column = warp_column + j * kWarpColumns;
                    if (column >= kColumnTiles) break;
                    unsigned b[4];
                    ldmatrix_x4(
                        b, w2 + (column * 16 + lane % 8 + lane / 16 * 8) * Tile::kChunkStride + k + lane / 8 % 2 * 8);
#pragma unroll
                    for (int i = 0; i < kMyRows; ++i) {
                        if (warp_row + i * C::kWarpRows >= kRowTiles) break;
                        mma_m16n8k16<T>(sums[i][j][0], a[i], b[0], b[1]);
                        mma_m16n8k16<T>(sums[i][j][1], a[i], b[2], b[3]);
                    }
                }
            }
        }
    }

    if constexpr (C::kProject) {
        float* const shared_sums = reinterpret_cast<float*>(shared);
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kMyRows; ++i)
#pragma unroll
            for (int j = 0; j < kMyColumns; ++j) {
                const int row = warp_row + i * C::kWarpRows, column = warp_column + j * kWarpColumns;
                if (row >= kRowTiles || column >= kColumnTiles) continue;
#pragma unroll
                for (int n = 0; n < 2; ++n)
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        *reinterpret_cast<float2*>(shared_sums + (row * 16 + half * 8 + lane / 4) * Tile::kSumStride +
                                                   column * 16 + n * 8 + lane % 4 * 2) =
                            make_float2(sums[i][j][n][2 * half], sums[i][j][n][2 * half + 1]);
            }
        if constexpr (C::kGroups > 1)
            cluster_sync();
        else
            __syncthreads();
        constexpr int kVectors = C::kOut / 8, kItems = Tile::kPixels * kVectors;
        constexpr int kShare = (kItems + C::kGroups - 1) / C::kGroups;
        const int end = min((group + 1) * kShare, kItems);
        for (int item = group * kShare + threadIdx.x; item < end; item += kThreads) {
            const int pixel = item / kVectors, c = item % kVectors * 8;
            const int y = out_y + pixel / C::kTileW, column = out_x + pixel % C::kTileW;
            if (y >= p.out_h || column >= p.out_w) continue;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] = p.bias != nullptr ? static_cast<const float*>(p.bias)[c + i] : 0.0f;
            const float* const mine = shared_sums + pixel * Tile::kSumStride + c;
#pragma unroll
            for (int g = 0; g < C::kGroups; ++g)
#pragma unroll
                for (int i = 0; i < 8; i += 4) {
                    float4 part;
                    if constexpr (C::kGroups > 1)
                        part = load_of_block(shared_address(mine + i), g);
                    else
                        part = *reinterpret_cast<const float4*>(mine + i);
                    v[i] += part.x;
                    v[i + 1] += part.y;
                    v[i + 2] += part.z;
                    v[i + 3] += part.w;
                }
            const long long at = ((static_cast<long long>(image) * p.out_h + y) * p.out_w + column) * C::kOut + c;
#pragma unroll
            for (int i = 0; i < 8; ++i)
                v[i] = apply<typename C::ProjectEpilogue, T>(v[i], p.project_operands, c + i, at + i);
            *reinterpret_cast<uint4*>(static_cast<T*>(p.output) + at) = pack8<T>(v);
        }
        // The others may still read this block's shared memory.
        if constexpr (C::kGroups > 1) cluster_sync();
    }
}

}  // namespace planish
