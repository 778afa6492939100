// The convolution of a first layer, of few channels, on tensor cores (sm_80 and later).
//
// A block brings the part of the image that a tile of 4 kTiles x 16 outputs sees to shared memory, once, with kPixel
// (4 or 8) channels for each pixel. A pixel of the output is a row of A whose K are the kernel's rows one by one, each
// with its pixels and their channels: neighbours in shared memory. So A's fragments are read from the image as it lies:
// from an output to the next it is kStrideW * kPixel elements, the 16 bytes that ldmatrix reads times an odd number, so
// that eight of them lie in different banks.
//
//   K of a row of the kernel = kernel_w * kPixel, up to a multiple of 16
//
// What lies behind a row of the kernel is set to zero in the fragment: it may be infinite. Weights stay in shared
// memory while the block walks its tiles. Their columns come in the order in which a lane has four neighbours of the
// output in its sums: column 4j + 2i + e of every 16 at place 8i + 2j + e.
//
// The translation unit gives Epilogue (see common.cuh) and, as Config: T (f16, bf16), Input (of the image), kChannels,
// kPixel, kKernelH, kKernelW, kStrideH, kStrideW, kTiles (products of 16 rows of each of the four warps), kColumns (a
// multiple of 16).
#pragma once

#include "planish/conv_stem_params.h"
#include "planish/epilogue.cuh"

namespace planish {

template <class C>
struct ConvStem {
    static constexpr int kWarps = 4, kThreads = 32 * kWarps;
    static constexpr int kTileH = kWarps * C::kTiles, kTileW = 16;
    static constexpr int kSteps = (C::kKernelW * C::kPixel + 15) / 16;  // of a row of the kernel
    static constexpr int kRowK = 16 * kSteps;
    static constexpr int kPatchH = (kTileH - 1) * C::kStrideH + C::kKernelH;
    // A row of K that begins at the last output ends here; rows begin at multiples of 16 bytes.
    static constexpr int kPatchW = round_up((kTileW - 1) * C::kStrideW + kRowK / C::kPixel, 2);
    static constexpr int kK = C::kKernelH * kRowK;
    static constexpr int kWeightsRow = kK + 8;  // 16 bytes times an odd number: eight rows lie in different banks
    static constexpr int kWeights = C::kColumns * kWeightsRow * 2;
    static constexpr int kShared = kWeights + kPatchH * kPatchW * C::kPixel * 2;
    static_assert(C::kStrideW * C::kPixel % 16 == 8 && C::kColumns % 16 == 0 && C::kChannels <= C::kPixel);
};

template <class C, class E>
inline __device__ void conv_stem(const ConvStemParams& p) {
    using K = ConvStem<C>;
    using T = typename C::T;
    using Input = typename C::Input;
    constexpr int kN = C::kColumns / 8;
    char* const memory = dynamic_shared();
    T* const patch = reinterpret_cast<T*>(memory + K::kWeights);
    const unsigned weights = shared_address(memory), image = shared_address(patch);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int first_column = static_cast<int>(blockIdx.y) * C::kColumns;

    constexpr int kUnits = K::kK / 8;  // of 16 bytes in a row of weights
    for (int i = thread; i < C::kColumns * kUnits; i += K::kThreads)
        cp_async_16(weights + (i / kUnits * K::kWeightsRow + i % kUnits * 8) * 2,
                    static_cast<const T*>(p.weights) + (first_column + i / kUnits) * K::kK + i % kUnits * 8);
    cp_async_commit();
    pdl_wait();
    pdl_launch();

    for (int tile = static_cast<int>(blockIdx.x); tile < p.tiles; tile += static_cast<int>(gridDim.x)) {
        const int tile_x = tile % p.tiles_x, tile_y = tile / p.tiles_x % p.tiles_y;
        const long long n = tile / p.tiles_x / p.tiles_y;
        const int top = tile_y * K::kTileH, left = tile_x * K::kTileW;
        const Input* const from = static_cast<const Input*>(p.input) + n * p.image;
#pragma unroll 4  // several pixels of a thread are on their way at once
        for (int i = thread; i < K::kPatchH * K::kPatchW; i += K::kThreads) {
            const int y = top * C::kStrideH - p.pad_top + i / K::kPatchW;
            const int x = left * C::kStrideW - p.pad_left + i % K::kPatchW;
            float of[C::kPixel] = {};
            if (y >= 0 && y < p.h && x >= 0 && x < p.w) {
                const Input* const at =
                    from + (static_cast<long long>(y) * p.row + static_cast<long long>(x) * p.pixel);
#pragma unroll
                for (int c = 0; c < C::kChannels; ++c)
                    of[c] = Element<Input>::load(at[static_cast<long long>(c) * p.channel]);
            }
            store<C::kPixel>(patch + i * C::kPixel, of);
        }
        cp_async_wait<0>();
        __syncthreads();

        float sums[C::kTiles][kN][4] = {};
        // Lanes address rows of 16 bytes: of A, pixel lane % 16; of B, a column; both with a half of the step's K.
        const unsigned a_lane = image + (lane % 16 * C::kStrideW * C::kPixel + lane / 16 * 8) * 2 +
                                warp * C::kTiles * C::kStrideH * K::kPatchW * C::kPixel * 2;
        const unsigned b_lane = weights + ((lane % 8 + lane / 16 * 8) * K::kWeightsRow + lane / 8 % 2 * 8) * 2;
#pragma unroll 1
        for (int row = 0; row < C::kKernelH; ++row) {
#pragma unroll
            for (int step = 0; step < K::kSteps; ++step) {
                unsigned a[C::kTiles][4];
#pragma unroll
                for (int t = 0; t < C::kTiles; ++t) {
                    ldmatrix_x4(a[t], a_lane + ((t * C::kStrideH + row) * K::kPatchW * C::kPixel + step * 16) * 2);
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        if (step * 16 + i / 2 * 8 + 8 > C::kKernelW * C::kPixel &&
                            step * 16 + i / 2 * 8 + lane % 4 * 2 >= C::kKernelW * C::kPixel)
                            a[t][i] = 0;
                }
#pragma unroll
                for (int j = 0; j < kN / 2; ++j) {
                    unsigned b[4];
                    ldmatrix_x4(b, b_lane + (j * 16 * K::kWeightsRow + row * K::kRowK + step * 16) * 2);
#pragma unroll
                    for (int t = 0; t < C::kTiles; ++t) {
                        mma_m16n8k16<T>(sums[t][2 * j], a[t], b[0], b[1]);
                        mma_m16n8k16<T>(sums[t][2 * j + 1], a[t], b[2], b[3]);
                    }
                }
            }
        }
        __syncthreads();  // the patch may be filled again

#pragma unroll
        for (int t = 0; t < C::kTiles; ++t) {
            const int y = top + warp * C::kTiles + t;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int x = left + lane / 4 + 8 * half;
                if (y >= p.out_h || x >= p.out_w) continue;
                const long long pixel = (n * p.out_h + y) * p.out_w + x;
#pragma unroll
                for (int j = 0; j < kN / 2; ++j) {
                    const int column = first_column + 16 * j + lane % 4 * 4;
                    if (column >= p.out_channels) continue;
                    const float four[4] = {sums[t][2 * j][2 * half], sums[t][2 * j][2 * half + 1],
                                           sums[t][2 * j + 1][2 * half], sums[t][2 * j + 1][2 * half + 1]};
                    store_epilogue<E, 4, T>(p.output, p.operands, pixel * p.out_channels + column, column, four);
                }
            }
        }
    }
}

}  // namespace planish
