// Products and convolutions on tensor cores through mma.sync (sm_80 and later):
//
//   C[m, n] = epilogue(alpha * sum_k A[m, k] B[k, n])
//
// in float16 or bfloat16, in float32 whose factors are rounded to tf32, or in e4m3, with sums in float32; or of bytes,
// A's without and B's with sign, with exact sums. Scales and zero points of 8 bits are the epilogue's matter. Tiles of
// A and B come to shared memory by asynchronous copies, kStages of kStepBytes along K, and from there by ldmatrix to
// registers: 16-byte units of a row are permuted so that neither copies nor ldmatrix meet a bank twice. A k-step of one
// product takes 32 bytes of a row whatever the type, and fragments of tf32 and of four bytes are those of 16-bit pairs,
// so all types share this code.
//
// Rows of A are those of a matrix, or output pixels gathered from an image. A table in memory gives for each unit along
// K how far it lies from the pixel's first tap and which taps it belongs to; a row has a bit for every tap that lies
// inside of the image. So padding, dilation, groups and transposed convolutions cost an add and a test. Where units are
// no 16 bytes in a row (first layers, odd channels) the table has single elements, which go through registers.
//
// The translation unit gives Epilogue (see common.cuh) and, as Config: Element (f16, bf16, float, u8, e4m3), Input (of
// A in memory), Output, kTileM, kTileN, kWarpsM, kWarpsN, kStepBytes (64 or 128), kStages, kSplit (blocks that share
// one tile's K), kGather, kTransposed, kByElement, kRowsFirst (kByElement: lanes walk along rows), kAlongN (B lies as
// [k, n]), kConstantWeights, kKernelH, kKernelW (taps that are tested), kStrideH, kStrideW, kDilationH, kDilationW,
// kRun (elements of the output that are stored at once).
#pragma once

#include "planish/epilogue.cuh"
#include "planish/gemm_mma_params.h"

namespace planish {

namespace gemm_mma_detail {

template <typename T>
struct Sum {
    using Type = float;
};
template <>
struct Sum<u8> {
    using Type = int;
};

template <typename T>
inline __device__ void multiply(typename Sum<T>::Type (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    if constexpr (sizeof(T) == 1)
        mma_m16n8k32(c, a, b0, b1);
    else if constexpr (sizeof(T) == 4)
        mma_m16n8k8(c, a, b0, b1);
    else
        mma_m16n8k16<T>(c, a, b0, b1);
}

/// A word of neighbouring elements.
template <typename T, typename Input>
inline __device__ unsigned pack(const Input* from) {
    if constexpr (sizeof(T) == 1)
        return from[0].bits | from[1].bits << 8 | from[2].bits << 16 | static_cast<unsigned>(from[3].bits) << 24;
    else if constexpr (sizeof(T) == 4)
        return __float_as_uint(Element<Input>::load(from[0]));
    else
        return pack2<T>(Element<Input>::load(from[0]), Element<Input>::load(from[1]));
}

}  // namespace gemm_mma_detail

template <class C, class E>
struct GemmMma {
    using T = typename C::Element;
    using Input = typename C::Input;
    using Output = typename C::Output;
    using Sum = typename gemm_mma_detail::Sum<T>::Type;

    static constexpr int kUnit = 16 / sizeof(T);  // elements of 16 bytes
    static constexpr int kWarps = C::kWarpsM * C::kWarpsN, kThreads = 32 * kWarps;
    static constexpr int kRows = C::kTileM / C::kWarpsM, kColumns = C::kTileN / C::kWarpsN;  // of a warp
    static constexpr int kM = kRows / 16, kN = kColumns / 8, kK = C::kStepBytes / 32;        // products of a step
    static constexpr int kStep = C::kStepBytes / sizeof(T), kUnits = C::kStepBytes / 16;
    static constexpr int kStageA = C::kTileM * C::kStepBytes, kStageB = C::kTileN * C::kStepBytes;
    static constexpr int kStage = kStageA + kStageB;
    static constexpr int kUnitsN = C::kTileN / kUnit;  // kAlongN: of a row of B
    static constexpr int kLoadsA = (C::kTileM * kUnits + kThreads - 1) / kThreads;
    static constexpr int kLoadsB = (C::kTileN * kUnits + kThreads - 1) / kThreads;
    static constexpr bool kWholeA = C::kTileM * kUnits % kThreads == 0;
    static constexpr bool kWholeB = C::kTileN * kUnits % kThreads == 0;
    static constexpr int kPatchRow = kColumns + 8;  // floats: rows of a warp's patch lie eight banks apart
    static constexpr int kPatches = kWarps * 16 * kPatchRow * 4;
    static constexpr int kShared = C::kStages * kStage > kPatches ? C::kStages* kStage : kPatches;
    static_assert(kRows % 16 == 0 && kColumns % 16 == 0 && kK >= 2 && C::kStages >= 2);
    // Rows that a thread copies, and blocks of rows that a fragment is made of, lie so far apart that their units are
    // permuted alike: one address serves all of them.
    static_assert(kThreads / kUnits % 8 == 0);
    static_assert(!C::kAlongN || (kUnitsN >= 8 && kThreads / kUnitsN % (sizeof(T) == 4 ? 4 : 8) == 0));

    const GemmMmaParams& p;
    char* memory;
    unsigned shared;
    int thread, warp, lane;

    // ---- Places in shared memory ------------------------------------------------------------------------------------

    /// Of unit `unit` of a row of kStepBytes; eight rows that follow one another differ in their banks.
    static __device__ int place(int row, int unit) {
        const int turn = C::kStepBytes == 128 ? row & 7 : row >> 1 & 3;
        return row * C::kStepBytes + (unit ^ turn) * 16;
    }
    /// kAlongN: of a unit along n in row k.
    static __device__ int place_n(int k, int unit) {
        return (k * kUnitsN + (unit ^ (sizeof(T) == 4 ? (k & 3) << 1 : k & 7))) * 16;
    }

    // ---- Rows of A that this thread loads ---------------------------------------------------------------------------

    int first_row, first_column;
    int row_offset[kLoadsA];       // elements from `a` on: of the row, or of its first tap
    unsigned row_inside[kLoadsA];  // taps inside of the image
    const Input* a;
    const T* b;

    __device__ int load_row(int i) const {
        const int unit = thread + i * kThreads;
        return C::kByElement && C::kRowsFirst ? unit % C::kTileM : unit / kUnits;
    }
    __device__ int load_unit(int i) const {
        const int unit = thread + i * kThreads;
        return C::kByElement && C::kRowsFirst ? unit / C::kTileM : unit % kUnits;
    }

    /// Bits of the taps along one axis that lie inside of the image; `at`: the first one, `rest` what a transposed
    /// convolution's stride leaves.
    template <int kKernel, int kStride, int kDilation>
    static __device__ unsigned inside(int at, int rest, int size) {
        unsigned bits = 0;
#pragma unroll
        for (int tap = 0; tap < kKernel; ++tap) {
            const int away = C::kTransposed ? -(tap * kDilation / kStride) : tap * kDilation;
            const bool whole = !C::kTransposed || tap * kDilation % kStride == rest;
            bits |= static_cast<unsigned>(whole && at + away >= 0 && at + away < size) << tap;
        }
        return bits;
    }

    __device__ void start_rows() {
#pragma unroll
        for (int i = 0; i < kLoadsA; ++i) {
            // Rows past the end are the last one once more: nobody stores them.
            const int row = min(first_row + load_row(i), p.m - 1);
            if constexpr (C::kGather) {
                const int line = row / p.out_w, image = line / p.out_h;
                int y = line - image * p.out_h, x = row - line * p.out_w, rest_y = 0, rest_x = 0;
                if constexpr (C::kTransposed) {
                    y += p.pad_top, x += p.pad_left;
                    rest_y = y % C::kStrideH, rest_x = x % C::kStrideW;
                    y /= C::kStrideH, x /= C::kStrideW;
                } else {
                    y = y * C::kStrideH - p.pad_top, x = x * C::kStrideW - p.pad_left;
                }
                row_offset[i] = image * p.image + y * p.row + x * p.pixel;
                row_inside[i] = inside<C::kKernelH, C::kStrideH, C::kDilationH>(y, rest_y, p.h) |
                                inside<C::kKernelW, C::kStrideW, C::kDilationW>(x, rest_x, p.w) << 16;
            } else {
                row_offset[i] = row * p.a_row;
                row_inside[i] = 1;
            }
        }
    }

    // ---- Copies -----------------------------------------------------------------------------------------------------

    GemmMmaTap next_tap;  // of this thread's unit in the step that is loaded next

    __device__ void fetch_tap(int step) {
        if constexpr (C::kGather && !C::kByElement) next_tap = p.taps[step * kUnits + thread % kUnits];
    }

    /// Stages are named by where they begin in shared memory.
    __device__ void load_a(int step, int stage) {
        const unsigned to = shared + stage + place(thread / kUnits, thread % kUnits);
        const int k = step * kStep + thread % kUnits * kUnit;
        const GemmMmaTap tap = C::kGather ? next_tap : GemmMmaTap{k, 0};
        fetch_tap(step + 1);
#pragma unroll
        for (int i = 0; i < kLoadsA; ++i) {
            if (!kWholeA && load_row(i) >= C::kTileM) continue;
            const bool exists = C::kGather ? (row_inside[i] & tap.inside) == tap.inside : k < p.k;
            if constexpr (sizeof(T) == 1 && C::kGather) {
                if (!exists) {
                    const int at = static_cast<int>(to - shared) + i * (kThreads / kUnits * C::kStepBytes);
                    *reinterpret_cast<vector_detail::Chunk<16>*>(memory + at) = {{p.zero, p.zero, p.zero, p.zero}};
                    continue;
                }
            }
            cp_async_16(to + i * (kThreads / kUnits * C::kStepBytes), a + (exists ? row_offset[i] + tap.offset : 0),
                        exists);
        }
    }

    __device__ void load_b(int step, int stage) const {
        if constexpr (C::kAlongN) {
            const unsigned to = shared + stage + kStageA + place_n(thread / kUnitsN, thread % kUnitsN);
            const int n = first_column + thread % kUnitsN * kUnit;
#pragma unroll
            for (int i = 0; i < kLoadsB; ++i) {
                const int row = thread / kUnitsN + i * (kThreads / kUnitsN), k = step * kStep + row;
                if (!kWholeB && row >= kStep) continue;
                const bool exists = k < p.b_depth && n < p.n;
                cp_async_16(to + i * (kThreads * 16), b + (exists ? k * p.b_row + n : 0), exists);
            }
        } else {
            const unsigned to = shared + stage + kStageA + place(thread / kUnits, thread % kUnits);
            const int k = step * kStep + thread % kUnits * kUnit;
#pragma unroll
            for (int i = 0; i < kLoadsB; ++i) {
                const int row = thread / kUnits + i * (kThreads / kUnits), n = min(first_column + row, p.n - 1);
                if (!kWholeB && row >= C::kTileN) continue;
                const bool exists = C::kConstantWeights || k < p.b_depth;
                cp_async_16(to + i * (kThreads / kUnits * C::kStepBytes), b + (exists ? n * p.b_row + k : 0), exists);
            }
        }
    }

    // By elements: loaded while a step is multiplied, kept before the next one.
    using Elements = Input[kLoadsA][kUnit];

    __device__ void load_elements(int step, Elements& to) const {
#pragma unroll
        for (int i = 0; i < kLoadsA; ++i) {
            // Two taps come in 16 bytes.
            const auto* taps =
                reinterpret_cast<const vector_detail::Chunk<16>*>(p.taps + (step * kStep + load_unit(i) * kUnit));
#pragma unroll
            for (int j = 0; j < kUnit; j += 2) {
                const vector_detail::Chunk<16> two = taps[j / 2];
#pragma unroll
                for (int t = 0; t < 2; ++t) {
                    const GemmMmaTap tap{static_cast<int>(two.words[2 * t]), two.words[2 * t + 1]};
                    if constexpr (sizeof(T) == 1)
                        to[i][j + t].bits = static_cast<unsigned char>(p.zero);
                    else
                        to[i][j + t] = Input{};
                    if ((row_inside[i] & tap.inside) == tap.inside) to[i][j + t] = a[row_offset[i] + tap.offset];
                }
            }
        }
    }
    __device__ void keep_elements(const Elements& from, int stage) const {
#pragma unroll
        for (int i = 0; i < kLoadsA; ++i) {
            if (!kWholeA && load_row(i) >= C::kTileM) continue;
            vector_detail::Chunk<16> chunk;
#pragma unroll
            for (int j = 0; j < 4; ++j) chunk.words[j] = gemm_mma_detail::pack<T>(&from[i][j * kUnit / 4]);
            *reinterpret_cast<vector_detail::Chunk<16>*>(memory + stage + place(load_row(i), load_unit(i))) = chunk;
        }
    }

    // ---- Products ---------------------------------------------------------------------------------------------------

    using Sums = Sum[kM][kN][4];
    struct Fragments {
        unsigned a[kM][4], b[kN / 2][4];  // b: two blocks of eight columns, each for both halves of K
    };

    __device__ void load_fragments(Fragments& to, int stage, int k) const {
        const int row = warp / C::kWarpsN * kRows, column = warp % C::kWarpsN * kColumns;
        // The k-step is a bit of the unit that the permutation leaves one.
        const unsigned from_a = (shared + stage + place(row + lane % 16, lane / 16)) ^ k << 5;
#pragma unroll
        for (int i = 0; i < kM; ++i) {
            ldmatrix_x4(to.a[i], from_a + i * (16 * C::kStepBytes));
            if constexpr (sizeof(T) == 4) round(to.a[i]);
        }
        const unsigned from_b =
            C::kAlongN ? shared + stage + kStageA + place_n(lane % 16, column / 8 + lane / 16)
                       : (shared + stage + kStageA + place(column + lane % 8 + lane / 16 * 8, lane / 8 % 2)) ^ k << 5;
#pragma unroll
        for (int j = 0; j < kN / 2; ++j) {
            if constexpr (!C::kAlongN) {
                ldmatrix_x4(to.b[j], from_b + j * (16 * C::kStepBytes));
            } else if constexpr (sizeof(T) == 2) {
                ldmatrix_x4_trans(to.b[j], (from_b ^ j << 5) + k * (16 * kUnitsN * 16));
            } else {
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const int at_k = 8 * k + q % 2 * 4 + lane % 4, at_n = column + 16 * j + q / 2 * 8 + lane / 4;
                    to.b[j][q] = *reinterpret_cast<const unsigned*>(memory + stage + kStageA + place_n(at_k, at_n / 4) +
                                                                    at_n % 4 * 4);
                }
            }
            // Packed weights are rounded already.
            if constexpr (sizeof(T) == 4 && !C::kConstantWeights) round(to.b[j]);
        }
    }
    static __device__ void round(unsigned (&words)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = to_tf32(words[i]);
    }

    static __device__ void multiply(Sums& sums, const Fragments& from) {
#pragma unroll
        for (int i = 0; i < kM; ++i)
#pragma unroll
            for (int j = 0; j < kN; ++j)
                gemm_mma_detail::multiply<T>(sums[i][j], from.a[i], from.b[j / 2][j % 2 * 2],
                                             from.b[j / 2][j % 2 * 2 + 1]);
    }

    /// Steps [begin, end) along K.
    __device__ void multiply_steps(Sums& sums, int begin, int end) {
        constexpr int kAhead = C::kStages - 1;
        Elements elements;
        if constexpr (C::kConstantWeights) {
            // Weights do not depend on the kernels before this one: the first are fetched while those end.
#pragma unroll
            for (int s = 0; s < kAhead; ++s)
                if (begin + s < end) load_b(begin + s, s * kStage);
        }
        fetch_tap(begin);
        pdl_wait();
#pragma unroll
        for (int s = 0; s < kAhead; ++s) {
            if (begin + s < end) {
                if constexpr (!C::kConstantWeights) load_b(begin + s, s * kStage);
                if constexpr (C::kByElement) {
                    load_elements(begin + s, elements);
                    keep_elements(elements, s * kStage);
                } else {
                    load_a(begin + s, s * kStage);
                }
            }
            cp_async_commit();
        }
        pdl_launch();
        cp_async_wait<kAhead - 1>();
        __syncthreads();

        // While one k-step is multiplied the fragments of the next are loaded. The barrier before a step's last k-step
        // tells both that the next stage is there and that everybody has read the one before, which is filled then.
        Fragments fragments[2];
        load_fragments(fragments[0], 0, 0);
        int stage = 0;
        for (int step = begin; step < end; ++step) {
            const int ahead = step + kAhead, ahead_stage = stage == 0 ? kAhead * kStage : stage - kStage;
#pragma unroll
            for (int k = 0; k < kK; ++k) {
                if (k == kK - 1) {
                    if (C::kByElement && ahead < end) keep_elements(elements, ahead_stage);
                    cp_async_wait<kAhead - 1>();
                    __syncthreads();
                    stage = stage == kAhead * kStage ? 0 : stage + kStage;
                }
                if (k < kK - 1 || step + 1 < end) load_fragments(fragments[(k + 1) % 2], stage, (k + 1) % kK);
                if (k == 0) {
                    if (ahead < end) {
                        if constexpr (C::kByElement)
                            load_elements(ahead, elements);
                        else
                            load_a(ahead, ahead_stage);
                        load_b(ahead, ahead_stage);
                    }
                    cp_async_commit();
                }
                multiply(sums, fragments[k % 2]);
            }
        }
        cp_async_wait<0>();
        __syncthreads();
    }

    // ---- Split sums: blocks leave their parts in memory, and the last one to come adds all of them in order ---------

    /// False: another block goes on.
    __device__ bool join(Sums& sums, int tile) {
        constexpr int kWords = kM * kN;
        float4* parts =
            reinterpret_cast<float4*>(p.parts) + static_cast<long long>(tile) * C::kSplit * kWords * kThreads;
        float4* mine = parts + (static_cast<int>(blockIdx.y) * kWords * kThreads + thread);
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
            const Sum* s = sums[i / kN][i % kN];
            mine[i * kThreads] =
                float4{bits_as<float>(s[0]), bits_as<float>(s[1]), bits_as<float>(s[2]), bits_as<float>(s[3])};
        }
        __threadfence();
        __syncthreads();
        if (thread == 0) *reinterpret_cast<unsigned*>(memory) = atomicAdd(p.arrived + tile, 1u);
        __syncthreads();
        if (*reinterpret_cast<volatile unsigned*>(memory) != C::kSplit - 1) return false;
        __threadfence();
        if (thread == 0) p.arrived[tile] = 0;
#pragma unroll
        for (int i = 0; i < kWords; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i / kN][i % kN][j] = 0;
#pragma unroll 1
        for (int part = 0; part < C::kSplit; ++part) {
            const float4* from = parts + (part * kWords * kThreads + thread);
#pragma unroll
            for (int i = 0; i < kWords; ++i) {
                Sum(&s)[4] = sums[i / kN][i % kN];
                const float4 x = load_l2(from + i * kThreads);
                s[0] += bits_as<Sum>(x.x), s[1] += bits_as<Sum>(x.y), s[2] += bits_as<Sum>(x.z);
                s[3] += bits_as<Sum>(x.w);
            }
        }
        __syncthreads();
        return true;
    }

    // ---- Epilogue: sixteen rows of a warp at a time through its patch of shared memory, then runs along n -----------

    static constexpr int kRun = C::kRun, kRowRuns = kColumns / kRun;
    static constexpr int kPasses = (16 * kRowRuns + 31) / 32;

    /// Where this thread and its block are is asked for once more: registers are scarce while products run.
    __device__ void store(const Sums& sums) {
        const int thread = static_cast<int>(reread_thread()), warp = thread / 32, lane = thread % 32;
        place_block(static_cast<int>(reread_block()));
        float* patch = reinterpret_cast<float*>(memory) + warp * 16 * kPatchRow;
        const int warp_row = first_row + warp / C::kWarpsN * kRows;
        const int warp_column = first_column + warp % C::kWarpsN * kColumns;
        const long long batch_offset = blockIdx.z * p.output_step;
        const int first_channel = static_cast<int>(blockIdx.z) * p.channel_step;
#pragma unroll
        for (int i = 0; i < kM; ++i) {
#pragma unroll
            for (int j = 0; j < kN; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    *reinterpret_cast<float2*>(patch + (lane / 4 + 8 * half) * kPatchRow + 8 * j + lane % 4 * 2) =
                        float2{static_cast<float>(sums[i][j][2 * half]), static_cast<float>(sums[i][j][2 * half + 1])};
            __syncwarp();
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                const int run = pass * 32 + lane, row = run / kRowRuns, column = run % kRowRuns * kRun;
                const int m = warp_row + 16 * i + row, n = warp_column + column;
                if ((16 * kRowRuns % 32 != 0 && row >= 16) || m >= p.m || n >= p.n) continue;
                const long long at = batch_offset + static_cast<long long>(m) * p.ldc + n;
                float x[kRun];
                load<kRun>(x, patch + row * kPatchRow + column);
#pragma unroll
                for (int c = 0; c < kRun; ++c) x[c] *= p.alpha;
                store_epilogue<E, kRun, Output>(p.output, p.operands, at, first_channel + n, x);
            }
            __syncwarp();
        }
    }

    // ---- A block's work ---------------------------------------------------------------------------------------------

    /// Groups of rows of tiles are walked column by column: neighbours find their A and B in the L2 cache.
    __device__ void place_block(int index) {
        const int group_size = p.group * p.tiles_n;
        const int first = index / group_size * p.group, rest = index % group_size;
        const int rows = min(p.group, p.tiles_m - first);
        first_row = (first + rest % rows) * C::kTileM;
        first_column = rest / rows * C::kTileN;
    }

    __device__ void run() {
        place_block(static_cast<int>(blockIdx.x));
        a = static_cast<const Input*>(p.a);
        b = static_cast<const T*>(p.b);
        unsigned position = blockIdx.z;
#pragma unroll
        for (int axis = kBatchAxes; axis-- > 0;) {
            const unsigned extent = static_cast<unsigned>(p.batch[axis].extent);
            a += position % extent * p.batch[axis].input;
            b += position % extent * p.batch[axis].weights;
            position /= extent;
        }
        start_rows();
        const int split = static_cast<int>(blockIdx.y);
        Sums sums = {};
        multiply_steps(sums, p.steps * split / C::kSplit, p.steps * (split + 1) / C::kSplit);
        if constexpr (C::kSplit > 1)
            if (!join(sums, static_cast<int>(blockIdx.z * gridDim.x + blockIdx.x))) return;
        store(sums);
    }
};

template <class C, class E>
inline __device__ void gemm_mma(const GemmMmaParams& p) {
    char* memory = dynamic_shared();
    const int thread = static_cast<int>(threadIdx.x);
    GemmMma<C, E>{p, memory, shared_address(memory), thread, thread / 32, thread % 32}.run();
}

}  // namespace planish
