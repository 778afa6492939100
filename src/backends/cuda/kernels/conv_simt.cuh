// Products and convolutions in float32 without tensor cores, for every shape, layout and element type:
//
//   C[m, n] = epilogue(alpha * sum_k A[m, k] B[k, n])
//
// Rows of A are output pixels, gathered from an image (k = tap, channel), or rows of a matrix with any two strides. A
// transposed convolution gathers, too: output pixel y reads input (y + pad - tap * dilation) / stride where that is
// whole. Groups are a batch whose outputs lie side by side.
//
// A block computes kTileM x kTileN sums, a thread kThreadM x kThreadN of them in registers. While it multiplies one
// step of kStep along K from shared memory, the elements of the next are on their way to registers. Loads are runs of
// four neighbours where strides and sizes allow, else guarded single elements; neighbouring lanes walk along the axis
// of A that is dense in memory.
//
// The translation unit gives Epilogue (see common.cuh) and, as Config: Input, Weights, Output (element types), kTileM,
// kTileN, kThreadM, kThreadN, kStep, kGather, kTransposed, kChannels (of a tap; kGather only), kKernelW, kStrideH,
// kStrideW, kDilationH, kDilationW, kInputRun, kWeightsRun, kOutputRun (4 or 1), kRowsFirst (lanes walk along rows).
#pragma once

#include "planish/conv_simt_params.h"
#include "planish/epilogue.cuh"

namespace planish {

namespace conv_simt_detail {

/// The input's coordinate for an output's; `at` is that of the first tap. Outside of the image where there is none.
template <bool kTransposed, int kStride, int kDilation>
inline __device__ int source(int at, int tap) {
    if constexpr (!kTransposed) return at + tap * kDilation;
    const int scaled = at - tap * kDilation;
    return scaled >= 0 && scaled % kStride == 0 ? scaled / kStride : -1;
}

/// A row of A: where its image begins and its first tap lies. Rows past the end lie outside of every image.
template <typename C>
struct Row {
    const typename C::Input* base;
    int y, x;

    __device__ void start(const ConvSimtParams& p, const typename C::Input* input, int row) {
        base = nullptr;
        if (row >= p.m) return;
        if constexpr (C::kGather) {
            const int pixel = row / p.out_w, image = pixel / p.out_h;
            const int i = pixel - image * p.out_h, j = row - pixel * p.out_w;
            y = C::kTransposed ? i + p.pad_top : i * C::kStrideH - p.pad_top;
            x = C::kTransposed ? j + p.pad_left : j * C::kStrideW - p.pad_left;
            base = input + image * p.input_image;
        } else {
            base = input + row * p.input_image;
        }
    }

    /// Null: zero.
    __device__ const typename C::Input* at(const ConvSimtParams& p, int k) const {
        if (base == nullptr || k >= p.k) return nullptr;
        if constexpr (C::kGather) {
            const int tap = k / C::kChannels, channel = k % C::kChannels;
            const int from_y = source<C::kTransposed, C::kStrideH, C::kDilationH>(y, tap / C::kKernelW);
            const int from_x = source<C::kTransposed, C::kStrideW, C::kDilationW>(x, tap % C::kKernelW);
            if (from_y < 0 || from_y >= p.h || from_x < 0 || from_x >= p.w) return nullptr;
            return base + (from_y * p.input_y + from_x * p.input_x + channel * p.input_channel);
        } else {
            return base + static_cast<long long>(k) * p.input_channel;
        }
    }
};

}  // namespace conv_simt_detail

template <typename C, typename E>
__device__ void conv_simt(const ConvSimtParams& p) {
    using namespace conv_simt_detail;
    using Output = typename C::Output;
    constexpr int kThreadsN = C::kTileN / C::kThreadN, kThreads = C::kTileM / C::kThreadM * kThreadsN;
    constexpr int kRunsK = C::kStep / 4, kRunsN = C::kTileN / 4;
    constexpr int kRunsA = C::kTileM * kRunsK / kThreads, kRunsB = (C::kStep * kRunsN + kThreads - 1) / kThreads;
    constexpr bool kWholeB = C::kStep * kRunsN % kThreads == 0;
    static_assert(C::kTileM * kRunsK % kThreads == 0 && C::kThreadM % 4 == 0 && C::kThreadN % 4 == 0);
    alignas(16) __shared__ float shared_a[2][C::kStep][C::kTileM + 4];
    alignas(16) __shared__ float shared_b[2][C::kStep][C::kTileN];

    const int thread = static_cast<int>(threadIdx.x);
    const int first_row = static_cast<int>(blockIdx.x) * C::kTileM,
              first_column = static_cast<int>(blockIdx.y) * C::kTileN;
    const auto* input = static_cast<const typename C::Input*>(p.input);
    const auto* weights = static_cast<const typename C::Weights*>(p.weights);
    unsigned rest = blockIdx.z;
#pragma unroll
    for (int axis = kBatchAxes; axis-- > 0;) {
        const unsigned extent = static_cast<unsigned>(p.batch[axis].extent);
        input += rest % extent * p.batch[axis].input;
        weights += rest % extent * p.batch[axis].weights;
        rest /= extent;
    }

    // Run i of this thread: four neighbours along K of row_of(i), from k_of(i) on.
    const auto row_of = [&](int i) {
        const int run = thread + i * kThreads;
        return C::kRowsFirst ? run % C::kTileM : run / kRunsK;
    };
    const auto k_of = [&](int i) {
        const int run = thread + i * kThreads;
        return (C::kRowsFirst ? run / C::kTileM : run % kRunsK) * 4;
    };
    Row<C> rows[kRunsA];
#pragma unroll
    for (int i = 0; i < kRunsA; ++i) rows[i].start(p, input, first_row + row_of(i));
    float next_a[kRunsA][4], next_b[kRunsB][4];
    const auto load_step = [&](int first_k) {
#pragma unroll
        for (int i = 0; i < kRunsA; ++i) {
            const int k = first_k + k_of(i);
            if constexpr (C::kInputRun == 4) {
                const auto* from = rows[i].at(p, k);
#pragma unroll
                for (int j = 0; j < 4; ++j) next_a[i][j] = 0;
                if (from != nullptr) load<4>(next_a[i], from);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const auto* from = rows[i].at(p, k + j);
                    next_a[i][j] = from != nullptr ? Element<typename C::Input>::load(*from) : 0.0f;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kRunsB; ++i) {
            const int run = thread + i * kThreads, k = first_k + run / kRunsN, n = first_column + run % kRunsN * 4;
            const bool exists = k < p.k && (kWholeB || run < C::kStep * kRunsN);
            const auto* from = weights + k * p.weights_k + static_cast<long long>(n) * p.weights_n;
#pragma unroll
            for (int j = 0; j < 4; ++j) next_b[i][j] = 0;
            if constexpr (C::kWeightsRun == 4) {
                if (exists && n < p.n) load<4>(next_b[i], from);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    if (exists && n + j < p.n)
                        next_b[i][j] =
                            Element<typename C::Weights>::load(from[static_cast<long long>(j) * p.weights_n]);
            }
        }
    };
    const auto keep_step = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < kRunsA; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) shared_a[buffer][k_of(i) + j][row_of(i)] = next_a[i][j];
#pragma unroll
        for (int i = 0; i < kRunsB; ++i) {
            const int run = thread + i * kThreads;
            if (kWholeB || run < C::kStep * kRunsN)
                store<4>(&shared_b[buffer][run / kRunsN][run % kRunsN * 4], next_b[i]);
        }
    };

    // Quads of rows and columns lie a block's width apart: lanes of a warp read neighbouring words.
    constexpr int kQuadsM = C::kThreadM / 4, kQuadsN = C::kThreadN / 4;
    const int row = thread / kThreadsN * 4, column = thread % kThreadsN * 4;
    float sums[C::kThreadM][C::kThreadN] = {};
    pdl_wait();
    load_step(0);
    pdl_launch();
    keep_step(0);
    __syncthreads();
    for (int first_k = 0, buffer = 0; first_k < p.k; first_k += C::kStep, buffer ^= 1) {
        const bool goes_on = first_k + C::kStep < p.k;
        if (goes_on) load_step(first_k + C::kStep);
#pragma unroll
        for (int k = 0; k < C::kStep; ++k) {
            float a[kQuadsM][4], b[kQuadsN][4];
#pragma unroll
            for (int q = 0; q < kQuadsM; ++q) load<4>(a[q], &shared_a[buffer][k][row + q * (C::kTileM / kQuadsM)]);
#pragma unroll
            for (int q = 0; q < kQuadsN; ++q) load<4>(b[q], &shared_b[buffer][k][column + q * (C::kTileN / kQuadsN)]);
#pragma unroll
            for (int i = 0; i < C::kThreadM; ++i)
#pragma unroll
                for (int j = 0; j < C::kThreadN; ++j) sums[i][j] = fmaf(a[i / 4][i % 4], b[j / 4][j % 4], sums[i][j]);
        }
        if (!goes_on) break;
        keep_step(buffer ^ 1);
        __syncthreads();
    }

    constexpr int kRun = C::kOutputRun;
    const long long first = blockIdx.z * p.output_step;
    const int first_channel = static_cast<int>(blockIdx.z) * p.channel_step;
#pragma unroll
    for (int i = 0; i < C::kThreadM; ++i) {
        const int m = first_row + row + i / 4 * (C::kTileM / kQuadsM) + i % 4;
        if (m >= p.m) continue;
#pragma unroll
        for (int j = 0; j < C::kThreadN; j += kRun) {
            const int n = first_column + column + j / 4 * (C::kTileN / kQuadsN) + j % 4;
            if (n >= p.n) continue;
            const long long at = first + static_cast<long long>(m) * p.ldc + n;
            float x[kRun];
#pragma unroll
            for (int c = 0; c < kRun; ++c) x[c] = p.alpha * sums[i][j + c];
            store_epilogue<E, kRun, Output>(p.output, p.operands, at, first_channel + n, x);
        }
    }
}

}  // namespace planish
