// Flash attention on tensor cores (mma.sync m16n8k16, float32 accumulation): softmax(scale * Q K^T + mask) V by blocks
// of keys, with a running maximum m and a running total l of every row, so that no score leaves the registers:
//
//   m' = max(m, max S),  P = exp(S - m'),  l' = l exp(m - m') + sum P,  O' = O exp(m - m') + P V,   result O / l
//
// (Dao, FlashAttention-2, 2023.) A block of kRowWarps * kKeyWarps warps has 16 * kRowTiles * kRowWarps rows of one
// head. The key warps of a row take different keys and join their (m, l, O) at the end: for small batches that is
// parallelism which rows do not give. For few rows in all, the grid splits the keys as well, and attention_combine
// joins the splits in their order, so results do not depend on scheduling.
//
// With grouped queries, kPack query heads that share a key head are rows of one tile: row r is query r / kPack of
// head r % kPack.
//
// The generated translation unit gives the constants as a struct:
//   using T = f16 | bf16; using Mask = what the mask's elements are;
//   kHeadDim, kValueDim (multiples of 8), kRowTiles, kRowWarps, kKeyWarps, kKeyBlock (keys of a warp and step, a
//   multiple of 16), kStages (2: the next keys arrive meanwhile; 1: all keys fit one step), kPack, kMask, kMaskPairs
//   (its rows have an even number of elements), kSoftcap, kBounded (causal, window, offsets or lengths), kSplit.
#pragma once

#include "planish/attention_params.h"
#include "planish/common.cuh"

namespace planish {

enum class MaskKind { none, additive, boolean };

namespace attention_detail {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLowest = -3.402823466e38f;

inline __device__ float minus_infinity() {
    return __int_as_float(0xff800000);
}

inline __device__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// tanh(x) = 1 - 2 / (exp(2x) + 1): the quotient of large and of small x is exact at the ends.
inline __device__ float tanh_of(float x) {
    return 1.0f - __fdividef(2.0f, exp2_approx(x * (2 * kLog2e)) + 1.0f);
}

inline __device__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

inline __device__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// The score in units of log2, from the product q.k and what the mask says.
template <typename C>
inline __device__ float score(float product, float scale, float softcap) {
    if constexpr (C::kSoftcap) return softcap * tanh_of(product * scale);
    return product * scale;
}

/// What the mask adds, in units of log2. A finite mask stays finite (exporters write -3.4e38): a row of nothing else
/// is a uniform distribution, while a row of -inf has none and gives zeros.
template <typename C>
inline __device__ float mask_at(const typename C::Mask* mask, long long at) {
    if constexpr (C::kMask == MaskKind::boolean) return mask[at] ? 0.0f : minus_infinity();
    const float m = to_float(mask[at]);
    return m == minus_infinity() ? m : fmaxf(m * kLog2e, kLowest);
}

/// What a mask says of two neighbouring keys, as it lies in memory: read ahead, nobody waits for it.
template <typename C>
struct MaskPair {
    using T = typename C::Mask;
    static constexpr int kBits = 8 * sizeof(T), kWords = C::kMaskPairs && kBits < 32 ? 1 : 2;

    unsigned words[kWords];

    /// Keys that do not exist are not read.
    __device__ void read(const T* at, int existing) {
        if constexpr (!C::kMaskPairs) {
            words[0] = existing > 0 ? bits(at[0]) : 0;
            words[1] = existing > 1 ? bits(at[1]) : 0;
        } else if constexpr (kBits == 32) {
            const uint2 both = existing > 0 ? *reinterpret_cast<const uint2*>(at) : uint2{0, 0};
            words[0] = both.x, words[1] = both.y;
        } else if constexpr (kBits == 16) {
            words[0] = existing > 0 ? *reinterpret_cast<const unsigned*>(at) : 0;
        } else {
            words[0] = existing > 0 ? *reinterpret_cast<const unsigned short*>(at) : 0;
        }
    }

    /// What is added for key 0 or 1, in units of 1 / scale. Rounded towards zero, a finite mask stays finite (exporters
    /// write -3.4e38): a row of nothing else is a uniform distribution, while a row of -inf has none and gives zeros.
    __device__ float value(int key, float scale) const {
        const unsigned word = kWords == 2 ? words[key] : words[0] >> kBits * key & ((1u << kBits) - 1);
        if constexpr (C::kMask == MaskKind::boolean)
            return word != 0 ? 0.0f : minus_infinity();
        else if constexpr (kBits == 32)
            return __fmul_rz(__uint_as_float(word), scale);
        else
            return __fmul_rz(to_float(T{static_cast<unsigned short>(word)}), scale);
    }

  private:
    static __device__ unsigned bits(unsigned char x) { return x; }
    static __device__ unsigned bits(f16 x) { return x.bits; }
    static __device__ unsigned bits(bf16 x) { return x.bits; }
    static __device__ unsigned bits(float x) { return __float_as_uint(x); }
};

/// A lane's part of kBlocks times eight keys from `first` on, for its rows `row` and `row` + 8: of a row that does not
/// exist, another one's.
template <typename C, int kBlocks>
inline __device__ void read_mask(MaskPair<C> (&mask)[2][kBlocks], const AttentionParams& p, int batch, int head,
                                 int row, int first) {
    const int column = first + static_cast<int>(threadIdx.x) % 4 * 2;
    const auto* const all = static_cast<const typename C::Mask*>(p.mask) + batch * p.mask_strides.batch + column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int r = min(row + half * 8, p.queries * C::kPack - 1);
        const auto* const from = all + (head + r % C::kPack) * p.mask_strides.head + r / C::kPack * p.mask_strides.row;
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) mask[half][j].read(from + j * 8, p.keys - column - j * 8);
    }
}

/// Which keys a query may see.
struct Bounds {
    int keys, offset, left, right;

    __device__ bool sees(int query, int key) const {
        const int position = query + offset;
        return key < keys && key - position <= right && position - key <= left;
    }
    __device__ int first(int query) const { return max(query + offset - left, 0); }
    __device__ int last(int query) const { return min(query + offset + right + 1, keys); }
};

inline __device__ Bounds bounds_of(const AttentionParams& p, int batch) {
    Bounds b{p.keys, p.offset, p.left, p.right};
    if (p.lengths != nullptr) {
        const auto valid = static_cast<int>(static_cast<const long long*>(p.lengths)[batch]);
        b.keys = min(b.keys, valid);
        b.offset = valid - p.queries;
    }
    return b;
}

/// Copies rows of kSize elements to shared memory with rows of kStride: `rows` of them (at least one), zeros after
/// that.
template <int kRows, int kSize, int kPadded, int kStride, int kThreads, typename T>
inline __device__ void copy_rows(T* to, const T* from, long long row_stride, int rows) {
    constexpr int kChunks = kPadded / 8;
    const int tid = static_cast<int>(threadIdx.x);
    if constexpr (kThreads % kChunks == 0 && kRows % (kThreads / kChunks) == 0 && kSize == kPadded) {
        // A thread keeps its column: its addresses are one step apart.
        constexpr int kStep = kThreads / kChunks;
        const int first = tid / kChunks, column = tid % kChunks * 8;
        const T* source = from + first * row_stride + column;
        T* const target = to + first * kStride + column;
        const long long step = kStep * row_stride;
        if (rows >= kRows) {
#pragma unroll
            for (int i = 0; i < kRows / kStep; ++i, source += step) cp_async_16(target + i * kStep * kStride, source);
        } else {
#pragma unroll
            for (int i = 0; i < kRows / kStep; ++i, source += step) {
                const bool exists = first + i * kStep < rows;
                cp_async_16(target + i * kStep * kStride, exists ? source : from, exists);
            }
        }
    } else {
        constexpr int kTotal = kRows * kChunks;
#pragma unroll
        for (int i = 0; i < kTotal; i += kThreads) {
            const int index = i + tid;
            if (kTotal % kThreads != 0 && index >= kTotal) break;
            const int row = index / kChunks, column = index % kChunks * 8;
            const bool exists = row < rows && column < kSize;
            cp_async_16(to + row * kStride + column, exists ? from + row * row_stride + column : from, exists);
        }
    }
}

}  // namespace attention_detail

template <typename C>
struct AttentionTile {
    static constexpr int kKeySize = round_up(C::kHeadDim, 16);
    static constexpr int kValueSize = round_up(C::kValueDim, 16);
    // Rows of 16 bytes times an odd number: eight rows at one column lie in eight different groups of banks.
    static constexpr int kKeyStride = kKeySize + 8, kValueStride = kValueSize + 8;
    static constexpr int kThreads = 32 * C::kRowWarps * C::kKeyWarps;
    static constexpr int kRows = 16 * C::kRowTiles * C::kRowWarps;
    static constexpr int kStep = C::kKeyBlock * C::kKeyWarps;
    static constexpr int kJoinStride = kValueSize + 8;

    static constexpr int kRowElements = kRows * (kKeyStride > kValueStride ? kKeyStride : kValueStride);
    static constexpr int kLoopBytes = 2 * (kRowElements + C::kStages * kStep * (kKeyStride + kValueStride));
    static constexpr int kJoinBytes = C::kKeyWarps > 1 ? C::kKeyWarps* kRows * 4 * (kJoinStride + 2) : 0;
    static constexpr int kSharedBytes = kLoopBytes > kJoinBytes ? kLoopBytes : kJoinBytes;
};

namespace attention_detail {

/// One warp's rows: fragments of Q, the running maximum and total, and O.
template <typename C>
struct WarpRows {
    using T = typename C::T;
    using Tile = AttentionTile<C>;
    static constexpr int kTiles = C::kRowTiles, kGroups = C::kKeyBlock / 16;
    static constexpr int kKeySteps = Tile::kKeySize / 16, kValueSteps = Tile::kValueSize / 16;
    static constexpr bool kHoldsQuery = kTiles * Tile::kKeySize <= 128;  // else Q is read again for every block
    using Scores = float[kTiles][2 * kGroups][4];
    struct Mask {
        MaskPair<C> pairs[kTiles][2][2 * kGroups];
    };
    // Without a cap the scale is applied inside the exponential, and the maximum is one of products.
    static constexpr bool kScaled = C::kSoftcap;

    unsigned q[kHoldsQuery ? kTiles : 1][kHoldsQuery ? kKeySteps : 1][4];
    float out[kTiles][2 * kValueSteps][4];
    float top[kTiles][2], total[kTiles][2];

    __device__ void clear() {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
            for (int i = 0; i < 2 * kValueSteps; ++i)
#pragma unroll
                for (int c = 0; c < 4; ++c) out[t][i][c] = 0;
            top[t][0] = top[t][1] = minus_infinity();
            total[t][0] = total[t][1] = 0;
        }
    }

    static __device__ void load_query(unsigned (&to)[4], const T* rows, int tile, int step) {
        const int lane = threadIdx.x % 32;
        ldmatrix_x4(to, rows + (tile * 16 + lane % 16) * Tile::kKeyStride + step * 16 + lane / 16 * 8);
    }

    __device__ void hold_query(const T* rows) {
        if constexpr (kHoldsQuery) {
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int s = 0; s < kKeySteps; ++s) load_query(q[t][s], rows, t, s);
        }
    }

    /// Where the sums of products begin. The mask there costs no other registers; the tensor cores' sums then are as
    /// good as its magnitude allows, as they are for scores.
    static __device__ void start(Scores& s) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int j = 0; j < 2 * kGroups; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) s[t][j][c] = 0;
    }
    static __device__ void start(Scores& s, const Mask& mask, float scale) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int j = 0; j < 2 * kGroups; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) s[t][j][c] = mask.pairs[t][c / 2][j].value(c % 2, scale);
    }

    /// S += Q K^T of this warp's kKeyBlock keys; of groups of 16 keys only the first `groups`.
    template <bool kEdge>
    __device__ void products(Scores& s, const T* rows, const T* keys, int groups) {
        const int lane = threadIdx.x % 32;
        const T* from = keys + (lane % 8 + lane / 16 * 8) * Tile::kKeyStride + lane / 8 % 2 * 8;
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
            unsigned a[kTiles][4];
#pragma unroll
            for (int t = 0; t < kTiles; ++t) {
                if constexpr (kHoldsQuery) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[t][i] = q[t][step][i];
                } else {
                    load_query(a[t], rows, t, step);
                }
            }
#pragma unroll
            for (int j = 0; j < kGroups; ++j) {
                if (kEdge && j >= groups) break;
                unsigned b[4];
                ldmatrix_x4(b, from + j * 16 * Tile::kKeyStride + step * 16);
#pragma unroll
                for (int t = 0; t < kTiles; ++t) {
                    mma_m16n8k16<T>(s[t][2 * j], a[t], b[0], b[1]);
                    mma_m16n8k16<T>(s[t][2 * j + 1], a[t], b[2], b[3]);
                }
            }
        }
    }

    /// O += P V.
    template <bool kEdge>
    __device__ void accumulate(const unsigned (&p)[kTiles][kGroups][4], const T* values, int groups) {
        const int lane = threadIdx.x % 32;
        const T* from = values + (lane % 8 + lane / 8 % 2 * 8) * Tile::kValueStride + lane / 16 * 8;
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
            if (kEdge && j >= groups) break;
#pragma unroll
            for (int step = 0; step < kValueSteps; ++step) {
                unsigned b[4];
                ldmatrix_x4_trans(b, from + j * 16 * Tile::kValueStride + step * 16);
#pragma unroll
                for (int t = 0; t < kTiles; ++t) {
                    mma_m16n8k16<T>(out[t][2 * step], p[t][j], b[0], b[1]);
                    mma_m16n8k16<T>(out[t][2 * step + 1], p[t][j], b[2], b[3]);
                }
            }
        }
    }

    /// Scores to weights, with O and the totals brought to the new maximum.
    template <bool kEdge>
    __device__ void weigh(Scores& s, unsigned (&p)[kTiles][kGroups][4], int groups, float scale) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float most = top[t][half];
#pragma unroll
                for (int j = 0; j < 2 * kGroups; ++j) {
                    if (kEdge && j >= 2 * groups) break;
                    most = fmaxf(most, fmaxf(s[t][j][2 * half], s[t][j][2 * half + 1]));
                }
                most = quad_max(most);
                const float factor = kScaled ? 1.0f : scale;
                const float base = most == minus_infinity() ? 0.0f : most * factor;
                const float shrink = exp2_approx(top[t][half] * factor - base);
                top[t][half] = most;
                float sum = total[t][half] * shrink;
#pragma unroll
                for (int j = 0; j < 2 * kGroups; ++j) {
                    if (kEdge && j >= 2 * groups) break;
                    const float a = exp2_approx(fmaf(s[t][j][2 * half], factor, -base));
                    const float b = exp2_approx(fmaf(s[t][j][2 * half + 1], factor, -base));
                    sum += a + b;
                    p[t][j / 2][j % 2 * 2 + half] = pack2<T>(a, b);
                }
                total[t][half] = sum;
#pragma unroll
                for (int i = 0; i < 2 * kValueSteps; ++i) {
                    out[t][i][2 * half] *= shrink;
                    out[t][i][2 * half + 1] *= shrink;
                }
            }
    }
};

}  // namespace attention_detail

template <typename C>
__device__ void attention(const AttentionParams& p) {
    using namespace attention_detail;
    using T = typename C::T;
    using Tile = AttentionTile<C>;
    using Warp = WarpRows<C>;
    constexpr int kTiles = C::kRowTiles, kGroups = C::kKeyBlock / 16, kThreads = Tile::kThreads;
    extern __shared__ __align__(128) unsigned char shared[];
    T* const shared_rows = reinterpret_cast<T*>(shared);
    T* const shared_keys = shared_rows + Tile::kRowElements;
    T* const shared_values = shared_keys + C::kStages * Tile::kStep * Tile::kKeyStride;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row_warp = warp % C::kRowWarps, key_warp = warp / C::kRowWarps;
    const int split = C::kSplit ? static_cast<int>(blockIdx.x) % p.splits : 0;
    const int row_block = (C::kSplit ? static_cast<int>(blockIdx.x) / p.splits : static_cast<int>(blockIdx.x));
    const int first_head = static_cast<int>(blockIdx.y) * C::kPack, batch = static_cast<int>(blockIdx.z);
    const int kv_head = first_head / (p.heads / p.kv_heads);
    const int rows = p.queries * C::kPack, first_row = row_block * Tile::kRows;

    pdl_wait();
    const T* query = static_cast<const T*>(p.query) + batch * p.query_strides.batch;
    const T* key = static_cast<const T*>(p.key) + batch * p.key_strides.batch + kv_head * p.key_strides.head;
    const T* value = static_cast<const T*>(p.value) + batch * p.value_strides.batch + kv_head * p.value_strides.head;

    const Bounds bounds = C::kBounded ? bounds_of(p, batch) : Bounds{p.keys, 0, 0, 0};
    int begin = 0, end = bounds.keys;
    if constexpr (C::kBounded) {
        const int last_row = min(first_row + Tile::kRows, rows) - 1;
        begin = bounds.first(first_row / C::kPack) / Tile::kStep * Tile::kStep;
        end = bounds.last(last_row / C::kPack);
    }
    if constexpr (C::kSplit) {
        begin = max(begin, split * p.keys_per_split);
        end = min(end, (split + 1) * p.keys_per_split);
    }

    // Without keys left they still commit a group, an empty one: the waits count groups.
    auto copy_keys = [&](int first, int stage) {
        if (first < end)
            copy_rows<Tile::kStep, C::kHeadDim, Tile::kKeySize, Tile::kKeyStride, kThreads>(
                shared_keys + stage * Tile::kStep * Tile::kKeyStride, key + first * p.key_strides.row,
                p.key_strides.row, end - first);
        cp_async_commit();
    };
    auto copy_values = [&](int first, int stage) {
        if (first < end)
            copy_rows<Tile::kStep, C::kValueDim, Tile::kValueSize, Tile::kValueStride, kThreads>(
                shared_values + stage * Tile::kStep * Tile::kValueStride, value + first * p.value_strides.row,
                p.value_strides.row, end - first);
        cp_async_commit();
    };
    if constexpr (C::kPack == 1) {
        copy_rows<Tile::kRows, C::kHeadDim, Tile::kKeySize, Tile::kKeyStride, kThreads>(
            shared_rows, query + first_head * p.query_strides.head + first_row * p.query_strides.row,
            p.query_strides.row, rows - first_row);
    } else {
        constexpr int kChunks = Tile::kKeySize / 8;
        for (int i = threadIdx.x; i < Tile::kRows * kChunks; i += kThreads) {
            const int row = i / kChunks, column = i % kChunks * 8, r = first_row + row;
            const bool exists = r < rows && column < C::kHeadDim;
            const T* from = query + (first_head + r % C::kPack) * p.query_strides.head +
                            r / C::kPack * p.query_strides.row + column;
            cp_async_16(shared_rows + row * Tile::kKeyStride + column, exists ? from : query, exists);
        }
    }
    copy_keys(begin, 0);
    copy_values(begin, 0);
    pdl_launch();

    Warp w;
    w.clear();
    const T* const warp_rows = shared_rows + row_warp * kTiles * 16 * Tile::kKeyStride;
    const int warp_row = first_row + row_warp * kTiles * 16;
    const bool has_rows = warp_row < rows;
    typename Warp::Mask mask;  // of the step that comes, in what will be registers of its scores
    const auto read_mask = [&](int first) {
        if constexpr (C::kMask != MaskKind::none)
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
                attention_detail::read_mask<C>(mask.pairs[t], p, batch, first_head, warp_row + t * 16 + lane / 4,
                                               first + key_warp * C::kKeyBlock);
    };
    read_mask(begin);

    for (int first = begin, stage = 0; first < end; first += Tile::kStep, stage ^= C::kStages - 1) {
        cp_async_wait<1>();  // the keys; the values may still be under way
        __syncthreads();
        if (first == begin) w.hold_query(warp_rows);
        if (C::kStages == 2) copy_keys(first + Tile::kStep, stage ^ 1);

        const int warp_first = first + key_warp * C::kKeyBlock;
        const int groups = has_rows ? min((end - warp_first + 15) / 16, kGroups) : 0;
        bool edge = end - warp_first < C::kKeyBlock;
        if constexpr (C::kBounded) {
            // Whole blocks that every row of the warp sees need no test of single keys.
            const int from = warp_row / C::kPack, to = min(warp_row + kTiles * 16, rows) - 1;
            edge = edge || bounds.first(to / C::kPack) > warp_first || bounds.last(from) < warp_first + C::kKeyBlock;
        }
        const T* const keys = shared_keys + (stage * Tile::kStep + key_warp * C::kKeyBlock) * Tile::kKeyStride;
        const T* const values = shared_values + (stage * Tile::kStep + key_warp * C::kKeyBlock) * Tile::kValueStride;
        typename Warp::Scores s;
        unsigned weights[kTiles][kGroups][4];
        if (groups > 0) {
            if constexpr (C::kMask != MaskKind::none)
                Warp::start(s, mask, p.mask_scale);
            else
                Warp::start(s);
            const auto multiply = [&](typename Warp::Scores& sums) {
                if (edge)
                    w.template products<true>(sums, warp_rows, keys, groups);
                else
                    w.template products<false>(sums, warp_rows, keys, groups);
            };
            if constexpr (C::kSoftcap) {
                typename Warp::Scores sums{};
                multiply(sums);
#pragma unroll
                for (int t = 0; t < kTiles; ++t)
#pragma unroll
                    for (int j = 0; j < 2 * kGroups; ++j)
#pragma unroll
                        for (int c = 0; c < 4; ++c) s[t][j][c] += score<C>(sums[t][j][c], p.scale, p.softcap);
            } else {
                multiply(s);
            }
            if (edge) {
#pragma unroll
                for (int t = 0; t < kTiles; ++t)
#pragma unroll
                    for (int j = 0; j < 2 * kGroups; ++j)
#pragma unroll
                        for (int c = 0; c < 4; ++c) {
                            const int column = warp_first + j * 8 + lane % 4 * 2 + c % 2;
                            bool visible = column < end;
                            if constexpr (C::kBounded)
                                visible = visible &&
                                          bounds.sees((warp_row + t * 16 + c / 2 * 8 + lane / 4) / C::kPack, column);
                            if (!visible) s[t][j][c] = minus_infinity();
                        }
                w.template weigh<true>(s, weights, groups, p.scale);
            } else {
                w.template weigh<false>(s, weights, groups, p.scale);
            }
        }
        if (C::kStages == 2) read_mask(first + Tile::kStep);
        cp_async_wait<C::kStages - 1>();  // the values; the next keys may still be under way
        __syncthreads();
        if (C::kStages == 2) copy_values(first + Tile::kStep, stage ^ 1);
        if (groups > 0) {
            if (edge)
                w.template accumulate<true>(weights, values, groups);
            else
                w.template accumulate<false>(weights, values, groups);
        }
    }

    // Totals and maxima are those of all lanes from here on.
    const float factor = Warp::kScaled ? 1.0f : p.scale;
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            w.total[t][half] = quad_sum(w.total[t][half]);
            if (w.top[t][half] != minus_infinity()) w.top[t][half] *= factor;
        }

    const auto output_row = [&](int r) {
        return static_cast<T*>(p.output) + batch * p.output_strides.batch +
               (first_head + r % C::kPack) * p.output_strides.head + r / C::kPack * p.output_strides.row;
    };
    const long long all_rows = static_cast<long long>(p.batch) * p.heads * p.queries;
    const auto partial_row = [&](int r) {  // of a split's sums
        return (static_cast<long long>(split) * p.batch + batch) * p.heads * p.queries +
               static_cast<long long>(first_head + r % C::kPack) * p.queries + r / C::kPack;
    };
    float* const partial = static_cast<float*>(p.partial);
    float* const partial_ends = partial + p.splits * all_rows * C::kValueDim;
    cp_async_wait<0>();

    if constexpr (C::kKeyWarps == 1 && !C::kSplit) {
        // Each warp's rows pass through its part of Q's memory, so that they leave as 16-byte vectors.
        T* const mine = shared_rows + row_warp * kTiles * 16 * Tile::kValueStride;
        __syncthreads();
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float total = w.total[t][half], share = total > 0 ? 1.0f / total : 0.0f;
                T* const row = mine + (t * 16 + half * 8 + lane / 4) * Tile::kValueStride + lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < 2 * Warp::kValueSteps; ++i)
                    *reinterpret_cast<unsigned*>(row + i * 8) =
                        pack2<T>(w.out[t][i][2 * half] * share, w.out[t][i][2 * half + 1] * share);
            }
        __syncwarp();
        constexpr int kChunks = C::kValueDim / 8;
#pragma unroll
        for (int i = lane; i < kTiles * 16 * kChunks; i += 32) {
            const int row = i / kChunks, chunk = i % kChunks;
            if (warp_row + row < rows)
                *reinterpret_cast<uint4*>(output_row(warp_row + row) + chunk * 8) =
                    *reinterpret_cast<const uint4*>(mine + row * Tile::kValueStride + chunk * 8);
        }
    } else if constexpr (C::kKeyWarps == 1) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int r = warp_row + t * 16 + half * 8 + lane / 4;
                if (r >= rows) continue;
                float* const row = partial + partial_row(r) * C::kValueDim + lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < C::kValueDim / 8; ++i)
                    *reinterpret_cast<float2*>(row + i * 8) =
                        make_float2(w.out[t][i][2 * half], w.out[t][i][2 * half + 1]);
                if (lane % 4 == 0)
                    *reinterpret_cast<float2*>(partial_ends + 2 * partial_row(r)) =
                        make_float2(w.top[t][half], w.total[t][half]);
            }
    } else {
        // Join the key warps: bring each one's sums to the common maximum, then add them in order.
        float* const sums = reinterpret_cast<float*>(shared);  // [key warp][row][kJoinStride]
        float2* const ends = reinterpret_cast<float2*>(sums + C::kKeyWarps * Tile::kRows * Tile::kJoinStride);
        __syncthreads();
        if (lane % 4 == 0)
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    ends[key_warp * Tile::kRows + row_warp * kTiles * 16 + t * 16 + half * 8 + lane / 4] =
                        make_float2(w.top[t][half], w.total[t][half]);
        __syncthreads();
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int local = row_warp * kTiles * 16 + t * 16 + half * 8 + lane / 4;
                float top = minus_infinity();
#pragma unroll
                for (int k = 0; k < C::kKeyWarps; ++k) top = fmaxf(top, ends[k * Tile::kRows + local].x);
                const float share = top == minus_infinity() ? 0.0f : exp2_approx(w.top[t][half] - top);
                float* const row = sums + (key_warp * Tile::kRows + local) * Tile::kJoinStride + lane % 4 * 2;
#pragma unroll
                for (int i = 0; i < 2 * Warp::kValueSteps; ++i)
                    *reinterpret_cast<float2*>(row + i * 8) =
                        make_float2(w.out[t][i][2 * half] * share, w.out[t][i][2 * half + 1] * share);
            }
        __syncthreads();
        constexpr int kChunks = C::kValueDim / 8;
        for (int i = threadIdx.x; i < Tile::kRows * kChunks; i += kThreads) {
            const int local = i / kChunks, chunk = i % kChunks, r = first_row + local;
            if (r >= rows) continue;
            float top = minus_infinity(), total = 0, x[8] = {};
#pragma unroll
            for (int k = 0; k < C::kKeyWarps; ++k) top = fmaxf(top, ends[k * Tile::kRows + local].x);
#pragma unroll
            for (int k = 0; k < C::kKeyWarps; ++k) {
                const float2 e = ends[k * Tile::kRows + local];
                if (top != minus_infinity()) total += e.y * exp2_approx(e.x - top);
                const float* from = sums + (k * Tile::kRows + local) * Tile::kJoinStride + chunk * 8;
#pragma unroll
                for (int c = 0; c < 8; ++c) x[c] += from[c];
            }
            if constexpr (C::kSplit) {
                float* const row = partial + partial_row(r) * C::kValueDim + chunk * 8;
                *reinterpret_cast<float4*>(row) = make_float4(x[0], x[1], x[2], x[3]);
                *reinterpret_cast<float4*>(row + 4) = make_float4(x[4], x[5], x[6], x[7]);
                if (chunk == 0) *reinterpret_cast<float2*>(partial_ends + 2 * partial_row(r)) = make_float2(top, total);
            } else {
                const float share = total > 0 ? 1.0f / total : 0.0f;
                const uint4 y{pack2<T>(x[0] * share, x[1] * share), pack2<T>(x[2] * share, x[3] * share),
                              pack2<T>(x[4] * share, x[5] * share), pack2<T>(x[6] * share, x[7] * share)};
                *reinterpret_cast<uint4*>(output_row(r) + chunk * 8) = y;
            }
        }
    }
}

/// The splits of the keys joined, in their order. One thread for each value; a grid over batch * heads * queries *
/// size.
template <typename C>
__device__ void attention_combine(const AttentionParams& p) {
    using namespace attention_detail;
    using T = typename C::T;
    pdl_wait();
    const long long rows = static_cast<long long>(p.batch) * p.heads * p.queries;
    const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long row = index / C::kValueDim;
    const int column = static_cast<int>(index % C::kValueDim);
    if (row >= rows) return;
    const float* const partial = static_cast<const float*>(p.partial);
    const float2* const ends = reinterpret_cast<const float2*>(partial + p.splits * rows * C::kValueDim);
    float top = minus_infinity();
    for (int s = 0; s < p.splits; ++s) top = fmaxf(top, ends[s * rows + row].x);
    float total = 0, x = 0;
    if (top != minus_infinity())
        for (int s = 0; s < p.splits; ++s) {
            const float2 e = ends[s * rows + row];
            const float share = exp2_approx(e.x - top);
            total += e.y * share;
            x += partial[(s * rows + row) * C::kValueDim + column] * share;
        }
    const int query = static_cast<int>(row % p.queries);
    const int head = static_cast<int>(row / p.queries % p.heads);
    const long long batch = row / p.queries / p.heads;
    T* const out = static_cast<T*>(p.output) + batch * p.output_strides.batch + head * p.output_strides.head +
                   query * p.output_strides.row + column;
    *out = from_float<T>(total > 0 ? x / total : 0.0f);
}

}  // namespace planish
