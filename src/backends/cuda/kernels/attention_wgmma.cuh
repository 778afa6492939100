// Flash attention on Hopper: the algorithm of attention.cuh with warpgroup products that the tensor copy engine feeds
// (Shah et al., FlashAttention-3, 2024).
//
// A block is kConsumers warpgroups, each with 64 rows of queries of one head, and a warp that loads. Blocks are
// persistent: they walk tiles, and the loads of the next one begin while this one is finished. The scores of a block of
// keys are multiplied before the values of the block before it, so that the softmax of the former runs under the
// products of the latter; and the warpgroups issue their products in turns, so that one's softmax runs under the
// other's.
//
// The generated translation unit gives the constants as a struct: T, Mask, kHeadDim, kValueDim, kMask, kMaskPairs,
// kPack (1) and kBounded as in attention.cuh, and
//   kConsumers (1 or 2), kKeyBlock (a multiple of 16 that Wgmma has), kStages (blocks of keys and of values in shared
//   memory), kQueryStages (tiles of queries), kHeadsInRows (heads are columns of the same rows).
#pragma once

#include "planish/attention.cuh"
#include "planish/attention_wgmma_params.h"
#include "planish/hopper.cuh"

namespace planish {

namespace attention_detail {

/// d[64, N] += a[64, 16] b[16, N]. A lies in registers: those of a 16-bit result's columns 0-7 (row l / 4, row l / 4 +
/// 8), then of columns 8-15. B has N innermost, see values_operand.
template <typename T, int N>
struct HeldWgmma;

// clang-format off
#define PLANISH_HELD(N, a0_, a1_, a2_, a3_, b_, types_)                                                              \
    template <typename T>                                                                                            \
    struct HeldWgmma<T, N> {                                                                                         \
        static __device__ void multiply(float(&d)[N / 2], const unsigned(&a)[4], unsigned long long b) {             \
            asm volatile(                                                                                            \
                "{ .reg .pred p; setp.ne.b32 p, 1, 0;\n"                                                             \
                "wgmma.mma_async.sync.aligned.m64n" #N types_ " {" PLANISH_NAMES_##N "}, {" a0_ ", " a1_ ", " a2_    \
                ", " a3_ "}, " b_ ", p, 1, 1, 1; }"                                                                  \
                : PLANISH_SUMS_##N("+f")                                                                             \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "C"(WgmmaForm<T>::types));                     \
        }                                                                                                            \
    }
PLANISH_HELD(64, "%32", "%33", "%34", "%35", "%36", "%37");
PLANISH_HELD(96, "%48", "%49", "%50", "%51", "%52", "%53");
PLANISH_HELD(128, "%64", "%65", "%66", "%67", "%68", "%69");
PLANISH_HELD(192, "%96", "%97", "%98", "%99", "%100", "%101");
PLANISH_HELD(256, "%128", "%129", "%130", "%131", "%132", "%133");
// clang-format on
#undef PLANISH_HELD

/// Describes slabs of 64 columns (N, innermost, 128 bytes as copied with the 128-byte swizzle) and rows along K: the
/// leading distance is that of slabs, the stride that of groups of eight rows. A product takes 16 rows, 2048 bytes.
inline __device__ unsigned long long values_operand(unsigned address, int slab_bytes) {
    return static_cast<unsigned long long>((address & 0x3ffff) >> 4) |
           static_cast<unsigned long long>(slab_bytes >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

/// Keeps the compiler from moving what reads or writes the registers of products over this place.
template <int N>
inline __device__ void hold(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N>
inline __device__ void hold(unsigned (&x)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+r"(x[i / 4][i % 4])::"memory");
}

}  // namespace attention_detail

template <typename C>
struct AttentionWgmma {
    using T = typename C::T;
    static constexpr int kBlock = C::kKeyBlock, kConsumers = C::kConsumers, kStages = C::kStages;
    // Beside two consumers the loading warp is part of a warpgroup that gives most of its registers to them.
    static constexpr int kThreads = kConsumers == 1 ? 160 : 384, kRows = 64 * kConsumers;
    static constexpr int kKeySteps = (C::kHeadDim + 15) / 16;
    static constexpr int kWidth = C::kValueDim <= 64    ? 64
                                  : C::kValueDim <= 96  ? 96
                                  : C::kValueDim <= 128 ? 128
                                  : C::kValueDim <= 192 ? 192
                                                        : 256;  // of the products with values
    // Slabs of 64 columns: rows of 128 bytes.
    static constexpr int kKeySlabs = (C::kHeadDim + 63) / 64, kValueSlabs = (kWidth + 63) / 64;
    static constexpr int kRowSlab = 64 * 128, kSlab = kBlock * 128;
    static constexpr int kQueryBytes = kRowSlab * kKeySlabs;
    // The queries of a consumer; in the end its output.
    static constexpr int kRowBytes = kRowSlab * (kKeySlabs > kValueSlabs ? kKeySlabs : kValueSlabs);
    static constexpr int kKeyBytes = kSlab * kKeySlabs, kValueBytes = kSlab * kValueSlabs;

    // Shared memory, from a multiple of 1024.
    static constexpr int kKeys = C::kQueryStages * kConsumers * kRowBytes;
    static constexpr int kValues = kKeys + kStages * kKeyBytes;
    static constexpr int kBarriers = kValues + kStages * kValueBytes;
    static constexpr int kShared = 1024 + kBarriers + 8 * (4 * kStages + 2 * C::kQueryStages * kConsumers);

    static_assert(kBlock % 16 == 0 && kBlock <= 256);

    const AttentionWgmmaParams& p;
    unsigned shared;  // address of the aligned shared memory
    int warp, lane;

    __device__ Barrier keys_full(int stage) const { return shared + kBarriers + 8 * stage; }
    __device__ Barrier keys_empty(int stage) const { return keys_full(kStages + stage); }
    __device__ Barrier values_full(int stage) const { return keys_full(2 * kStages + stage); }
    __device__ Barrier values_empty(int stage) const { return keys_full(3 * kStages + stage); }
    __device__ Barrier queries_full(int stage, int group) const {
        return keys_full(4 * kStages + stage * kConsumers + group);
    }
    __device__ Barrier queries_empty(int stage, int group) const {
        return queries_full(C::kQueryStages + stage, group);
    }
    __device__ unsigned rows_at(int stage, int group) const {
        return shared + (stage * kConsumers + group) * kRowBytes;
    }

    // ---- Tiles of this block ----------------------------------------------------------------------------------------

    struct Tile {
        int row, head, batch;
        attention_detail::Bounds bounds;
        int begin, steps;  // blocks of keys that any of its rows sees
    };
    /// Row blocks of a head are neighbours; where later ones see more keys, those come first.
    __device__ Tile tile(int index) const {
        const AttentionParams& a = p.attention;
        const int all_heads = index / p.row_blocks, block = index - all_heads * p.row_blocks;
        Tile t;
        t.batch = all_heads / a.heads;
        t.head = all_heads - t.batch * a.heads;
        t.row = (C::kBounded ? p.row_blocks - 1 - block : block) * kRows;
        t.begin = 0;
        int end = a.keys;
        if constexpr (C::kBounded) {
            t.bounds = attention_detail::bounds_of(a, t.batch);
            t.begin = t.bounds.first(t.row) / kBlock * kBlock;
            end = t.bounds.last(min(t.row + kRows, a.queries) - 1);
        } else {
            t.bounds = {a.keys, 0, 0, 0};
        }
        t.steps = end > t.begin ? (end - t.begin + kBlock - 1) / kBlock : 0;
        return t;
    }
    /// Of a map, coordinates {column, heads and rows, batch}.
    static __device__ int second(int head, int row) { return C::kHeadsInRows ? head : row; }
    static __device__ int third(int head, int row) { return C::kHeadsInRows ? row : head; }

    // ---- Loads ------------------------------------------------------------------------------------------------------

    /// One thread.
    __device__ void load() const {
        int tiles = 0, blocks = 0;  // so far: stages and the parities of their barriers follow from them
        for (int index = static_cast<int>(blockIdx.x); index < p.tiles; index += static_cast<int>(gridDim.x), ++tiles) {
            const Tile t = tile(index);
            const int kv_head = t.head / (p.attention.heads / p.attention.kv_heads);
            const auto load_queries = [&] {
                const int stage = tiles % C::kQueryStages;
#pragma unroll
                for (int group = 0; group < kConsumers; ++group) {
                    const int row = t.row + 64 * group;
                    barrier_wait(queries_empty(stage, group), (tiles / C::kQueryStages & 1) ^ 1);
                    barrier_expect(queries_full(stage, group), kQueryBytes);
#pragma unroll
                    for (int slab = 0; slab < kKeySlabs; ++slab)
                        copy_tile(rows_at(stage, group) + slab * kRowSlab, &p.query, queries_full(stage, group),
                                  slab * 64, second(t.head, row), third(t.head, row), t.batch);
                }
            };
            if (t.steps == 0) load_queries();
            for (int i = 0; i < t.steps; ++i, ++blocks) {
                const int stage = blocks % kStages, parity = (blocks / kStages & 1) ^ 1, row = t.begin + i * kBlock;
                barrier_wait(keys_empty(stage), parity);
                barrier_expect(keys_full(stage), kKeyBytes);
#pragma unroll
                for (int slab = 0; slab < kKeySlabs; ++slab)
                    copy_tile(shared + kKeys + stage * kKeyBytes + slab * kSlab, &p.key, keys_full(stage), slab * 64,
                              second(kv_head, row), third(kv_head, row), t.batch);
                if (i == 0) load_queries();
                barrier_wait(values_empty(stage), parity);
                barrier_expect(values_full(stage), kValueBytes);
#pragma unroll
                for (int slab = 0; slab < kValueSlabs; ++slab)
                    copy_tile(shared + kValues + stage * kValueBytes + slab * kSlab, &p.value, values_full(stage),
                              slab * 64, second(kv_head, row), third(kv_head, row), t.batch);
            }
        }
    }

    // ---- Products ---------------------------------------------------------------------------------------------------

    using Scores = float[kBlock / 2];
    using Weights = unsigned[kBlock / 16][4];
    using Output = float[kWidth / 2];
    using Mask = attention_detail::MaskPair<C>[2][kBlock / 8];

    /// Warpgroups issue their products in turns.
    __device__ void await_turn(int group) const {
        if constexpr (kConsumers > 1) named_barrier(1 + group, 256);
    }
    __device__ void pass_turn(int group) const {
        if constexpr (kConsumers > 1) named_barrier_arrive(1 + (group + 1) % kConsumers, 256);
    }
    __device__ void release(Barrier barrier) const {
        __syncwarp();
        if (lane == 0) barrier_arrive(barrier);
    }

    /// S = Q K^T, begun.
    __device__ void multiply_keys(Scores& s, unsigned rows, int stage) const {
        const unsigned keys = shared + kKeys + stage * kKeyBytes;
#pragma unroll
        for (int k = 0; k < kKeySteps; ++k)
            Wgmma<T, kBlock>::multiply(s, wgmma_operand(rows + k / 4 * kRowSlab) + k % 4 * 2,
                                       wgmma_operand(keys + k / 4 * kSlab) + k % 4 * 2, k > 0);
        wgmma_commit();
    }
    /// O += P V, begun.
    __device__ void multiply_values(Output& out, const Weights& weights, int stage) const {
        const unsigned long long values =
            attention_detail::values_operand(shared + kValues + stage * kValueBytes, kSlab);
#pragma unroll
        for (int k = 0; k < kBlock / 16; ++k)
            attention_detail::HeldWgmma<T, kWidth>::multiply(out, weights[k], values + k * (16 * 128 / 16));
        wgmma_commit();
    }

    // ---- Softmax ----------------------------------------------------------------------------------------------------

    /// A lane's rows are `row` and `row` + 8.
    struct Rows {
        float top[2], total[2], shrink[2];
    };

    /// Products to exponentials; maxima and totals with them, and what the sums so far shrink by.
    __device__ void weigh(Scores& s, Rows& rows, const Mask& mask, const Tile& t, int group_row, int row,
                          int first) const {
        using namespace attention_detail;
        const AttentionParams& a = p.attention;
        if constexpr (C::kMask != MaskKind::none) {
#pragma unroll
            for (int i = 0; i < kBlock / 2; ++i) s[i] += mask[i / 2 % 2][i / 4].value(i % 2, a.mask_scale);
        }
        bool edge = first + kBlock > t.bounds.keys;
        if constexpr (C::kBounded)
            edge = edge || t.bounds.first(min(group_row + 64, a.queries) - 1) > first ||
                   t.bounds.last(group_row) < first + kBlock;
        if (edge) {
#pragma unroll
            for (int i = 0; i < kBlock / 2; ++i) {
                const int column = first + i / 4 * 8 + lane % 4 * 2 + i % 2;
                bool visible = column < t.bounds.keys;
                if constexpr (C::kBounded) visible = visible && t.bounds.sees(row + i / 2 % 2 * 8, column);
                if (!visible) s[i] = minus_infinity();
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = rows.top[half];
#pragma unroll
            for (int j = 0; j < kBlock / 8; ++j)
                most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
            most = quad_max(most);
            const float base = most == minus_infinity() ? 0.0f : most * a.scale;
            rows.shrink[half] = exp2_approx(rows.top[half] * a.scale - base);
            rows.top[half] = most;
            float sum = rows.total[half] * rows.shrink[half];
#pragma unroll
            for (int j = 0; j < kBlock / 8; ++j)
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float& x = s[4 * j + 2 * half + c];
                    x = exp2_approx(fmaf(x, a.scale, -base));
                    sum += x;
                }
            rows.total[half] = sum;
        }
    }
    static __device__ void pack(const Scores& s, Weights& weights) {
#pragma unroll
        for (int i = 0; i < kBlock / 4; ++i) weights[i / 4][i % 4] = pack2<T>(s[2 * i], s[2 * i + 1]);
    }

    // ---- A consumer -------------------------------------------------------------------------------------------------

    __device__ void consume() const {
        using namespace attention_detail;
        const int group = warp / 4, row_in_group = 16 * (warp % 4) + lane / 4;
        // The first one's turn is first.
        if (group == kConsumers - 1) pass_turn(group);
        int tiles = 0, blocks = 0;
        for (int index = static_cast<int>(blockIdx.x); index < p.tiles; index += static_cast<int>(gridDim.x), ++tiles) {
            const Tile t = tile(index);
            const int group_row = t.row + 64 * group, row = group_row + row_in_group;
            const int query_stage = tiles % C::kQueryStages;
            const unsigned own = rows_at(query_stage, group);
            Output out{};
            Rows rows{{minus_infinity(), minus_infinity()}, {0, 0}, {1, 1}};
            barrier_wait(queries_full(query_stage, group), tiles / C::kQueryStages & 1);
            if (t.steps > 0) {
                Scores s;
                Weights weights;
                Mask mask;
                const auto read = [&](int first) {
                    if constexpr (C::kMask != MaskKind::none)
                        read_mask<C>(mask, p.attention, t.batch, t.head, row, first);
                };
                int stage = blocks % kStages;
                read(t.begin);
                barrier_wait(keys_full(stage), blocks / kStages & 1);
                await_turn(group);
                wgmma_fence();
                multiply_keys(s, own, stage);
                pass_turn(group);
                wgmma_wait<0>();
                hold(s);
                release(keys_empty(stage));
                weigh(s, rows, mask, t, group_row, row, t.begin);
                pack(s, weights);
#pragma unroll 1
                for (int i = 1; i < t.steps; ++i) {
                    const int next = blocks + i, next_stage = next % kStages, first = t.begin + i * kBlock;
                    read(first);
                    barrier_wait(keys_full(next_stage), next / kStages & 1);
                    await_turn(group);
                    hold(out);
                    hold(weights);
                    wgmma_fence();
                    multiply_keys(s, own, next_stage);
                    barrier_wait(values_full(stage), (next - 1) / kStages & 1);
                    multiply_values(out, weights, stage);
                    pass_turn(group);
                    wgmma_wait<1>();
                    hold(s);
                    release(keys_empty(next_stage));
                    weigh(s, rows, mask, t, group_row, row, first);
                    hold(s);
                    wgmma_wait<0>();
                    hold(out);
                    release(values_empty(stage));
#pragma unroll
                    for (int j = 0; j < kWidth / 2; ++j) out[j] *= rows.shrink[j / 2 % 2];
                    pack(s, weights);
                    stage = next_stage;
                }
                blocks += t.steps;
                barrier_wait(values_full(stage), (blocks - 1) / kStages & 1);
                hold(out);
                hold(weights);
                wgmma_fence();
                multiply_values(out, weights, stage);
                wgmma_wait<0>();
                hold(out);
                release(values_empty(stage));
            }
            store(out, rows, t, group, own, query_stage);
        }
        if (threadIdx.x % 128 == 0) store_wait_read<0>();
    }

    /// Through the memory of the queries.
    __device__ void store(const Output& out, const Rows& rows, const Tile& t, int group, unsigned own,
                          int query_stage) const {
        using namespace attention_detail;
        const int barrier = 1 + kConsumers + group;
        float share[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float total = quad_sum(rows.total[half]);
            share[half] = total > 0 ? 1.0f / total : 0.0f;
        }
        named_barrier(barrier, 128);  // all warps have multiplied the queries
        // Lane l addresses row l % 16 of unit l / 16 of 16 rows and 32 bytes.
        const unsigned offset = (16 * (warp % 4) + (lane & 15)) * 128 + (lane >> 4) * 16;
#pragma unroll
        for (int j = 0; j < kWidth / 16; ++j) {
            unsigned words[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                words[i] = pack2<T>(out[8 * j + 2 * i] * share[i % 2], out[8 * j + 2 * i + 1] * share[i % 2]);
            stmatrix_x4(own + j / 4 * kRowSlab + swizzled<128>(offset + j % 4 * 32), words);
        }
        async_fence();
        named_barrier(barrier, 128);
        if (threadIdx.x % 128 == 0) {
            const int row = t.row + 64 * group;
#pragma unroll
            for (int slab = 0; slab < (C::kValueDim + 63) / 64; ++slab)
                store_tile(&p.output, own + slab * kRowSlab, slab * 64, second(t.head, row), third(t.head, row),
                           t.batch);
            store_commit();
            store_wait_read<0>();
            barrier_arrive(queries_empty(query_stage, group));
        }
        __syncwarp();
    }

    // ---- Roles ------------------------------------------------------------------------------------------------------

    __device__ void run() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < kStages; ++i) {
                barrier_init(keys_full(i), 1);
                barrier_init(values_full(i), 1);
                barrier_init(keys_empty(i), 4 * kConsumers);
                barrier_init(values_empty(i), 4 * kConsumers);
            }
            for (int i = 0; i < C::kQueryStages; ++i)
                for (int group = 0; group < kConsumers; ++group) {
                    barrier_init(queries_full(i, group), 1);
                    barrier_init(queries_empty(i, group), 1);
                }
            barrier_init_fence();
            prefetch_map(&p.query);
            prefetch_map(&p.key);
            prefetch_map(&p.value);
            prefetch_map(&p.output);
        }
        __syncthreads();
        pdl_launch();
        pdl_wait();
        if (warp >= 4 * kConsumers) {
            if constexpr (kConsumers == 2) registers_release<40>();
            if (warp == 4 * kConsumers && lane == 0) load();
        } else {
            if constexpr (kConsumers == 2) registers_take<232>();
            consume();
        }
    }
};

/// A kernel of AttentionWgmma<C>::kThreads threads and kShared bytes.
template <typename C>
inline __device__ void attention_wgmma(const AttentionWgmmaParams& p) {
    extern __shared__ __align__(128) unsigned char shared[];
    // Said uniformly: the compiler must see that all lanes of a warp have one role.
    const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
    AttentionWgmma<C>{p, (shared_address(shared) + 1023) & ~1023u, warp, static_cast<int>(threadIdx.x) % 32}.run();
}

}  // namespace planish
