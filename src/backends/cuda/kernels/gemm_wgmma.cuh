// C = epilogue(A B^T) on Hopper: wgmma fed by the tensor copy engine, for matrix products and for convolutions as
// implicit products (rows of A are output pixels, gathered by im2col copies; K runs over taps, then channels).
//
//   struct Config {
//       using Element = planish::f16;           // or bf16, e4m3: sums in float32; u8 (B: with sign): exact sums
//       using Output = planish::f16;            // or bf16, e4m3, u8
//       static constexpr int kTileM, kTileN;    // of a block; N: 32, 64, 96, 128, 192, 256
//       static constexpr int kStages;           // of 128 bytes along K in shared memory
//       static constexpr int kProducts;         // of 32 bytes in a stage that are multiplied: up to 4
//       static constexpr int kConsumers;        // warpgroups that multiply: 1 or 2
//       static constexpr bool kPingPong;        // they take tiles in turn: one's epilogue under the other's products
//       static constexpr int kClusterM, kClusterN;  // blocks that share the tiles of B, of A by multicast
//       static constexpr int kSplitK;           // blocks of a cluster that share one tile's K, summed in order
//       static constexpr int kChunks;           // buffers of a consumer's epilogue
//       static constexpr bool kConvolution;
//   };
//
// A block is the consumers, a warp that loads stages, and a warp that loads the epilogue's residual tensor; beside two
// consumers these are half of a warpgroup that gives most of its registers to the consumers' accumulators. Blocks are
// persistent: they walk tiles in an order that keeps their neighbours' A and B in the L2 cache.
//
// A lane's two neighbouring columns of every eight are a register of 16-bit outputs. For outputs of bytes B's columns
// come in another order, 4j + 2i + e of every 16 at 8i + 2j + e, so that a lane has four neighbours, one register too.
#pragma once

#include "planish/gemm_wgmma_params.h"
#include "planish/hopper.cuh"

namespace planish {

/// -1: none.
template <class Epilogue>
constexpr __device__ int first_tensor_operand() {
    for (int i = 0; i < Epilogue::kOperands; ++i) {
        if (Epilogue::kind(i) == Epilogue::tensor) return i;
    }
    return -1;
}

template <class Config, class Epilogue>
struct GemmWgmma {
    using T = typename Config::Element;
    using Output = typename Config::Output;
    using Sum = typename WgmmaForm<T>::Sum;

    static constexpr int kStep = 128 / sizeof(T);      // of a stage along K
    static constexpr int kUnit = 16 / sizeof(Output);  // columns of the output in 16 bytes
    static constexpr int kOwn = kUnit / 4;             // of those, neighbours that a lane has
    static constexpr int kUnitSums = kUnit / 2;        // of a lane, in two rows
    static constexpr int kTileM = Config::kTileM, kTileN = Config::kTileN, kStages = Config::kStages;
    static constexpr int kConsumers = Config::kConsumers, kSplitK = Config::kSplitK;
    static constexpr bool kPingPong = Config::kPingPong;
    static constexpr int kClusterM = Config::kClusterM, kClusterN = Config::kClusterN;
    static constexpr bool kMulticast = kClusterM * kClusterN > 1;
    static constexpr int kRows = kPingPong ? kTileM : kTileM / kConsumers;  // of a consumer
    static constexpr int kBlocksM = kRows / 64;                             // products along M of a consumer
    // What is stored at once: of a row, 128 bytes where that divides it.
    static constexpr int kRowBytes = kTileN * sizeof(Output);
    static constexpr int kChunkRow = kRowBytes % 128 == 0 ? 128 : kRowBytes % 64 == 0 ? 64 : 32;
    static constexpr int kChunkN = kChunkRow / sizeof(Output), kChunkBytes = kRows * kChunkRow;
    static constexpr int kStageA = kTileM * 128, kStageB = kTileN * 128;
    static constexpr int kThreads = kConsumers == 1 ? 192 : 384;
    static constexpr int kReleases = 4 * (kPingPong ? 1 : kConsumers) * (kClusterM + kClusterN - 1);

    static_assert(!kPingPong || (kConsumers == 2 && kSplitK == 1));
    static_assert(kRows % 64 == 0 && !(kMulticast && kSplitK > 1));
    static_assert(!Config::kConvolution || kClusterN == 1);
    static_assert(kTileN % kClusterM == 0 && kTileN / kClusterM % 8 == 0 && kTileM / kClusterN % 8 == 0);
    static_assert(Config::kChunks >= 2);

    /// The epilogue's first tensor operand comes through shared memory, the others are read where they are needed.
    static constexpr int kResidual = kSplitK > 1 ? -1 : first_tensor_operand<Epilogue>();

    // Shared memory, from a multiple of 1024.
    static constexpr int kB = kStages * kStageA;
    static constexpr int kChunkBuffers = kB + kStages * kStageB;
    // Of a split tile: the parts of those units of columns that this block sums.
    static constexpr int kOwned = (kTileN / kUnit + kSplitK - 1) / kSplitK;
    static constexpr int kPartBytes = kBlocksM * 128 * kConsumers * kUnitSums * 4;  // a unit of one part
    static constexpr int kBarriers =
        kChunkBuffers + (kSplitK > 1 ? kSplitK * kOwned * kPartBytes : kConsumers * Config::kChunks * kChunkBytes);
    static constexpr int kShared = 1024 + kBarriers + 8 * (2 * kStages + 3 + 2 * kConsumers * Config::kChunks);

    const GemmWgmmaParams& p;
    unsigned shared;  // address of the aligned shared memory
    int warp, lane;
    unsigned rank;  // in the cluster

    __device__ Barrier full(int stage) const { return shared + kBarriers + 8 * stage; }
    __device__ Barrier empty(int stage) const { return full(kStages + stage); }
    __device__ Barrier turn(int group) const { return full(2 * kStages + group); }
    __device__ Barrier parts() const { return full(2 * kStages + 2); }
    __device__ Barrier residual_full(int group, int buffer) const {
        return full(2 * kStages + 3 + group * Config::kChunks + buffer);
    }
    __device__ Barrier residual_empty(int group, int buffer) const {
        return residual_full(group, kConsumers * Config::kChunks + buffer);
    }
    __device__ unsigned chunk_buffer(int group, int buffer) const {
        return shared + kChunkBuffers + (group * Config::kChunks + buffer) * kChunkBytes;
    }

    // ---- Tiles of this block ----------------------------------------------------------------------------------------

    static constexpr int kCluster = kMulticast ? kClusterM * kClusterN : kSplitK;

    struct Tile {
        int row, column;
    };
    __device__ int first_tile() const { return static_cast<int>(blockIdx.x) / kCluster; }
    __device__ int tile_step() const { return static_cast<int>(gridDim.x) / kCluster; }
    __device__ int tile_count() const { return p.tiles_m * p.tiles_n; }
    /// Groups of p.group rows are walked column by column.
    __device__ Tile tile(int index) const {
        const int group_size = p.group * p.tiles_n;
        const int first = index / group_size * p.group;
        const int rows = min(p.group, p.tiles_m - first), rest = index % group_size;
        int m = first + rest % rows, n = rest / rows;
        if constexpr (kMulticast) {
            m = m * kClusterM + static_cast<int>(rank) % kClusterM;
            n = n * kClusterN + static_cast<int>(rank) / kClusterM;
        }
        return {m * kTileM, n * kTileN};
    }
    __device__ int first_step() const { return kSplitK == 1 ? 0 : p.steps * static_cast<int>(rank) / kSplitK; }
    __device__ int last_step() const {
        return kSplitK == 1 ? p.steps : p.steps * (static_cast<int>(rank) + 1) / kSplitK;
    }

    // ---- Loads ------------------------------------------------------------------------------------------------------

    /// Where along K a step lies. One division, at a tile's start.
    struct Step {
        int channel, tap, tap_w, tap_h;
    };
    __device__ Step step_at(int index) const {
        if constexpr (!Config::kConvolution) return {index * kStep, 0, 0, 0};
        const int tap = index / p.channel_steps;
        return {(index - tap * p.channel_steps) * kStep, tap, tap % p.kernel_w, tap / p.kernel_w};
    }
    __device__ void next(Step& step) const {
        step.channel += kStep;
        if constexpr (Config::kConvolution) {
            if (step.channel < p.channel_steps * kStep) return;
            step.channel = 0;
            ++step.tap;
            if (++step.tap_w == p.kernel_w) {
                step.tap_w = 0;
                ++step.tap_h;
            }
        }
    }
    __device__ Pixel pixel_at(int row) const {
        const int image = p.out_h * p.out_w;
        const int n = row / image, in_image = row - n * image;
        const int y = in_image / p.out_w, x = in_image - y * p.out_w;
        return {x * p.stride_w - p.pad_left, y * p.stride_h - p.pad_top, n};
    }

    __device__ void load_a(int stage, const Step& step, int row, const Pixel& pixel) const {
        const unsigned to = shared + stage * kStageA;
        if constexpr (Config::kConvolution) {
            copy_im2col(to, &p.a, full(stage), step.channel, pixel, step.tap_w * p.dilation_w,
                        step.tap_h * p.dilation_h);
        } else if constexpr (kClusterN > 1) {
            // Each block of a row of the cluster brings its share of the rows of A to all of them.
            const int m = static_cast<int>(rank) % kClusterM, share = static_cast<int>(rank) / kClusterM;
            unsigned blocks = 0;
            for (int i = 0; i < kClusterN; ++i) blocks |= 1u << (m + i * kClusterM);
            copy_tile_multicast(to + share * (kStageA / kClusterN), &p.a, full(stage), blocks, step.channel,
                                row + share * (kTileM / kClusterN));
        } else {
            copy_tile(to, &p.a, full(stage), step.channel, row);
        }
    }
    __device__ void load_b(int stage, const Step& step, int column) const {
        const unsigned to = shared + kB + stage * kStageB;
        if constexpr (kClusterM > 1) {
            const int n = static_cast<int>(rank) / kClusterM, share = static_cast<int>(rank) % kClusterM;
            const unsigned blocks = ((1u << kClusterM) - 1) << (n * kClusterM);
            copy_tile_multicast(to + share * (kStageB / kClusterM), &p.b, full(stage), blocks, step.channel, step.tap,
                                column + share * (kTileN / kClusterM));
        } else {
            copy_tile(to, &p.b, full(stage), step.channel, step.tap, column);
        }
    }

    /// One thread.
    __device__ void load_stages() const {
        const int begin = first_step(), end = last_step();
        int iteration = 0;  // over all tiles: its stage and the parity of the stage's barriers follow from it
        for (int index = first_tile(); index < tile_count(); index += tile_step()) {
            const Tile at = tile(index);
            Pixel pixel{};
            if constexpr (Config::kConvolution) pixel = pixel_at(at.row);
            int ahead = 0;
            if (index == first_tile()) {
                // Weights do not depend on the kernels before this one: the first are fetched while those end.
                ahead = min(kStages, end - begin);
                if (!p.constant_weights) pdl_wait();
                Step step = step_at(begin);
                for (int i = 0; i < ahead; ++i, next(step)) {
                    barrier_expect(full(i), kStageA + kStageB);
                    load_b(i, step, at.column);
                }
                if (p.constant_weights) pdl_wait();
            }
            Step step = step_at(begin);
            for (int i = begin; i < end; ++i, ++iteration, next(step)) {
                const int stage = iteration % kStages;
                if (iteration >= ahead) {
                    barrier_wait(empty(stage), (iteration / kStages & 1) ^ 1);
                    barrier_expect(full(stage), kStageA + kStageB);
                    load_b(stage, step, at.column);
                }
                load_a(stage, step, at.row, pixel);
            }
            ahead = 0;
        }
    }

    /// One thread.
    __device__ void load_residual() const {
        pdl_wait();
        int count[kConsumers] = {};
        int turn_of = 0;
        for (int index = first_tile(); index < tile_count(); index += tile_step(), turn_of ^= 1) {
            const Tile at = tile(index);
            for (int chunk = 0; chunk < kTileN / kChunkN; ++chunk) {
#pragma unroll
                for (int group = 0; group < kConsumers; ++group) {
                    if (kPingPong && group != turn_of) continue;
                    const int buffer = count[group] % Config::kChunks;
                    barrier_wait(residual_empty(group, buffer), (count[group] / Config::kChunks & 1) ^ 1);
                    barrier_expect(residual_full(group, buffer), kChunkBytes);
                    copy_tile(chunk_buffer(group, buffer), &p.residual, residual_full(group, buffer),
                              at.column + chunk * kChunkN, at.row + (kPingPong ? 0 : group * kRows));
                    ++count[group];
                }
            }
        }
    }

    // ---- Products ---------------------------------------------------------------------------------------------------

    using Accumulators = Sum[kBlocksM][kTileN / 2];

    /// To the blocks that write this stage of this block's shared memory.
    __device__ void release(int stage) const {
        if constexpr (!kMulticast) {
            if (lane == 0) barrier_arrive(empty(stage));
        } else if (lane < kClusterM + kClusterN - 1) {
            // Lane i: block i of the column of the cluster, then those others of the row.
            const int m = static_cast<int>(rank) % kClusterM, n = static_cast<int>(rank) / kClusterM;
            int to = n * kClusterM + lane;
            if (lane >= kClusterM) {
                const int other = lane - kClusterM;
                to = (other + (other >= n)) * kClusterM + m;
            }
            barrier_arrive_remote(empty(stage), to);
        }
    }

    __device__ void multiply(Accumulators& sums, int& iteration, int steps, int group) const {
        const int first_row = kPingPong ? 0 : group * kRows;
        for (int i = 0; i < steps; ++i, ++iteration) {
            const int stage = iteration % kStages;
            barrier_wait(full(stage), iteration / kStages & 1);
            const unsigned long long a = wgmma_operand(shared + stage * kStageA + first_row * 128);
            const unsigned long long b = wgmma_operand(shared + kB + stage * kStageB);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < Config::kProducts; ++k) {
#pragma unroll
                for (int m = 0; m < kBlocksM; ++m)
                    Wgmma<T, kTileN>::multiply(sums[m], a + m * (64 * 128 / 16) + 2 * k, b + 2 * k, i + k > 0);
            }
            wgmma_commit();
            // Once this consumer has seen all of its stages, the other may look for its own: a barrier's parity tells
            // only two phases apart.
            if (kPingPong && i == steps - 1 && lane == 0) barrier_arrive(turn(group ^ 1));
            // The step before this one has been multiplied when only this one is under way.
            wgmma_wait<1>();
            if (i > 0) release((iteration + kStages - 1) % kStages);
        }
        wgmma_wait<0>();
        release((iteration + kStages - 1) % kStages);
    }

    // ---- Epilogue ---------------------------------------------------------------------------------------------------

    using Columns = float[kOwn];

    static __device__ void unpack(unsigned word, Columns& to) {
        if constexpr (sizeof(Output) == 1)
            unpack4<Output>(word, to);
        else
            unpack2<Output>(word, to[0], to[1]);
    }
    static __device__ unsigned pack(const Columns& from) {
        if constexpr (sizeof(Output) == 1)
            return pack4<Output>(from);
        else
            return pack2<Output>(from[0], from[1]);
    }

    /// A lane's of a unit: its columns of row `row`, then those of `row` + 8.
    using Operands = float[2 * kOwn][Epilogue::kOperands + 1];

    static __device__ void set_operand(Operands& operands, int i, int half, const Columns& from) {
#pragma unroll
        for (int c = 0; c < kOwn; ++c) operands[half * kOwn + c][i] = from[c];
    }
    __device__ void load_channels(int column, Operands& operands) const {
#pragma unroll
        for (int i = 0; i < Epilogue::kOperands; ++i) {
            if (Epilogue::kind(i) != Epilogue::channel) continue;
            Columns v{};
            if (column < p.n) planish::load<kOwn>(v, static_cast<const float*>(p.operands[i]) + column);
            set_operand(operands, i, 0, v);
            set_operand(operands, i, 1, v);
        }
    }
    /// All but the residual one in shared memory.
    __device__ void load_tensors(int row, int column, Operands& operands) const {
#pragma unroll
        for (int i = 0; i < Epilogue::kOperands; ++i) {
            if (i == kResidual || Epilogue::kind(i) == Epilogue::channel) continue;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int r = row + 8 * half;
                unsigned word = 0;
                if (column < p.n && r < p.m)
                    word = *reinterpret_cast<const unsigned*>(static_cast<const Output*>(p.operands[i]) +
                                                              static_cast<long long>(r) * p.n + column);
                Columns v;
                unpack(word, v);
                set_operand(operands, i, half, v);
            }
        }
    }
    /// A unit's sums to its words of both rows.
    __device__ static void finish(const Sum* sums, const Operands& operands, unsigned* words) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Columns y;
#pragma unroll
            for (int c = 0; c < kOwn; ++c)
                y[c] =
                    Epilogue::apply(static_cast<float>(sums[c / 2 * 4 + 2 * half + c % 2]), operands[half * kOwn + c]);
            words[half] = pack(y);
        }
    }

    /// A consumer's rows, chunk by chunk of columns, through shared memory; `count`: chunks so far.
    __device__ void store(const Accumulators& sums, int& count, int group, Tile at) const {
        const bool leader = threadIdx.x % 128 == 0;
        // Lane l addresses row l % 8 (+ 8) of unit 0 or 1 of a block of 16 rows and 32 bytes; see Wgmma for its
        // elements.
        const int own_row = 16 * (warp % 4) + (lane & 15), own_unit = lane >> 4;
        const int row = at.row + 16 * (warp % 4) + lane / 4, column = at.column + lane % 4 * kOwn;
#pragma unroll
        for (int chunk = 0; chunk < kTileN / kChunkN; ++chunk, ++count) {
            const int buffer = count % Config::kChunks;
            const unsigned to = chunk_buffer(group, buffer);
            if constexpr (kResidual >= 0) {
                barrier_wait(residual_full(group, buffer), count / Config::kChunks & 1);
            } else {
                if (leader) store_wait_read<Config::kChunks - 1>();
                named_barrier(1 + group, 128);
            }
#pragma unroll
            for (int j = 0; j < kChunkRow / 32; ++j) {
                const int first_unit = chunk * (kChunkRow / 16) + 2 * j;
                Operands operands[2];
#pragma unroll
                for (int unit = 0; unit < 2; ++unit)
                    load_channels(column + (first_unit + unit) * kUnit, operands[unit]);
#pragma unroll
                for (int m = 0; m < kBlocksM; ++m) {
                    const unsigned address =
                        to + swizzled<kChunkRow>((64 * m + own_row) * kChunkRow + (2 * j + own_unit) * 16);
                    unsigned words[4];
                    if constexpr (kResidual >= 0) ldmatrix_x4(words, address);
#pragma unroll
                    for (int unit = 0; unit < 2; ++unit) {
                        load_tensors(row + 64 * m, column + (first_unit + unit) * kUnit, operands[unit]);
                        if constexpr (kResidual >= 0) {
#pragma unroll
                            for (int half = 0; half < 2; ++half) {
                                Columns v;
                                unpack(words[2 * unit + half], v);
                                set_operand(operands[unit], kResidual, half, v);
                            }
                        }
                        finish(&sums[m][(first_unit + unit) * kUnitSums], operands[unit], words + 2 * unit);
                    }
                    stmatrix_x4(address, words);
                }
            }
            async_fence();
            named_barrier(1 + group, 128);
            if (leader) {
                store_tile(&p.c, to, at.column + chunk * kChunkN, at.row);
                store_commit();
                if constexpr (kResidual >= 0) {
                    // A buffer may be filled again once its store has read it: at once at a tile's end, else with the
                    // next chunk.
                    const auto refill = [&](int used) {
                        barrier_arrive(residual_empty(group, used % Config::kChunks));
                    };
                    if (chunk == kTileN / kChunkN - 1) {
                        store_wait_read<0>();
                        if (chunk > 0) refill(count - 1);
                        refill(count);
                    } else if (chunk > 0) {
                        store_wait_read<1>();
                        refill(count - 1);
                    }
                }
            }
        }
    }

    __device__ void consume() const {
        const int group = warp / 4;
        const int steps = last_step() - first_step();
        int iteration = 0, count = 0, turns = 0;
        int turn_of = 0;
        for (int index = first_tile(); index < tile_count(); index += tile_step(), turn_of ^= 1) {
            if (kPingPong && turn_of != group) {
                iteration += steps;
                continue;
            }
            Tile at = tile(index);
            Accumulators sums;
            if constexpr (kPingPong) {
                if (turns >= 1 - group) barrier_wait(turn(group), (turns - (1 - group)) & 1);
                ++turns;
            } else {
                at.row += group * kRows;
            }
            multiply(sums, iteration, steps, group);
            if (count == 0) pdl_wait();
            store(sums, count, group, at);
        }
        if (threadIdx.x % 128 == 0) store_wait_read<0>();
    }

    // ---- Split sums: the blocks of a cluster have one tile and share its K ------------------------------------------
    // Each unit of columns of the tile belongs to a rank. Everyone sends its part of it there, and thread by thread the
    // parts are added in the order of ranks.

    __device__ unsigned part(int from, int owned, int m, int four) const {
        return shared + kChunkBuffers + (from * kOwned + owned) * kPartBytes +
               ((four * kBlocksM + m) * 128 * kConsumers + static_cast<int>(threadIdx.x)) * 16;
    }
    __device__ int owned() const {
        return max(0, min(kOwned, kTileN / kUnit - static_cast<int>(rank) * kOwned));
    }

    __device__ void multiply_part() const {
        const int group = warp / 4;
        Accumulators sums;
        int iteration = 0;
        multiply(sums, iteration, last_step() - first_step(), group);
        __syncwarp();
        cluster_wait();  // everyone's barriers are ready
#pragma unroll
        for (int j = 0; j < kTileN / kUnit; ++j) {
#pragma unroll
            for (int m = 0; m < kBlocksM; ++m)
#pragma unroll
                for (int four = 0; four < kUnitSums / 4; ++four)
                    send(part(static_cast<int>(rank), j % kOwned, m, four), parts(), j / kOwned,
                         &sums[m][kUnitSums * j + 4 * four]);
        }
        pdl_wait();
        const Tile at = tile(first_tile());
        const int row = at.row + group * kRows + 16 * (warp % 4) + lane / 4;
        const int column = at.column + static_cast<int>(rank) * kOwned * kUnit + lane % 4 * kOwn;
        const int count = owned();
        Operands operands[kOwned][kBlocksM];
#pragma unroll
        for (int j = 0; j < kOwned; ++j) {
#pragma unroll
            for (int m = 0; m < kBlocksM; ++m) {
                load_channels(column + kUnit * j, operands[j][m]);
                load_tensors(row + 64 * m, column + kUnit * j, operands[j][m]);
            }
        }
        if (count > 0) barrier_wait(parts(), 0);
#pragma unroll
        for (int j = 0; j < kOwned; ++j) {
#pragma unroll
            for (int m = 0; m < kBlocksM; ++m) {
                if (j >= count) continue;
                Sum x[kUnitSums] = {};
#pragma unroll
                for (int from = 0; from < kSplitK; ++from)
#pragma unroll
                    for (int four = 0; four < kUnitSums / 4; ++four) {
                        const float4 v = load_shared(part(from, j, m, four));
                        Sum* y = x + 4 * four;
                        y[0] += bits_as<Sum>(v.x), y[1] += bits_as<Sum>(v.y), y[2] += bits_as<Sum>(v.z);
                        y[3] += bits_as<Sum>(v.w);
                    }
                unsigned words[2];
                finish(x, operands[j][m], words);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int r = row + 64 * m + 8 * half, c = column + kUnit * j;
                    if (r < p.m && c < p.n)
                        *reinterpret_cast<unsigned*>(static_cast<Output*>(p.output) + static_cast<long long>(r) * p.n +
                                                     c) = words[half];
                }
            }
        }
    }

    // ---- Roles ------------------------------------------------------------------------------------------------------

    __device__ void initialize() const {
        for (int i = 0; i < kStages; ++i) {
            barrier_init(full(i), 1);
            barrier_init(empty(i), kReleases);
        }
        for (int i = 0; i < 2; ++i) barrier_init(turn(i), 4);
        barrier_init(parts(), 1);
        for (int i = 0; i < kConsumers * Config::kChunks; ++i) {
            barrier_init(residual_full(0, i), 1);
            barrier_init(residual_empty(0, i), 1);
        }
        barrier_init_fence();
        if (kSplitK > 1 && owned() > 0) barrier_expect(parts(), kSplitK * owned() * kPartBytes);
        prefetch_map(&p.a);
        prefetch_map(&p.b);
        if (kSplitK == 1) prefetch_map(&p.c);
        if (kResidual >= 0) prefetch_map(&p.residual);
    }

    __device__ void run() const {
        if (threadIdx.x == 0) initialize();
        if constexpr (kCluster > 1) {
            __syncwarp();
            cluster_arrive();
        }
        if constexpr (kMulticast) {
            cluster_wait();
        } else {
            __syncthreads();
        }
        pdl_launch();
        if (warp >= 4 * kConsumers) {
            if constexpr (kConsumers == 2) registers_release<40>();
            if (lane == 0) {
                if (warp == 4 * kConsumers) load_stages();
                if (kResidual >= 0 && warp == 4 * kConsumers + 1) load_residual();
            }
            __syncwarp();
            if constexpr (kSplitK > 1) cluster_wait();
            leave();
        } else {
            if constexpr (kConsumers == 2) registers_take<232>();
            if constexpr (kSplitK > 1) {
                multiply_part();
            } else {
                consume();
            }
            leave();
        }
    }

    /// When nobody in the cluster copies to this block's shared memory or arrives at its barriers any more.
    __device__ void leave() const {
        if constexpr (kMulticast) {
            __syncwarp();
            cluster_arrive();
            cluster_wait();
        }
        asm volatile("exit;");
    }
};

/// A kernel of GemmWgmma<Config, Epilogue>::kThreads threads, kShared bytes and clusters of kCluster blocks.
template <class Config, class Epilogue>
inline __device__ void gemm_wgmma(const GemmWgmmaParams& p) {
    extern __shared__ char memory[];
    const unsigned shared = (shared_address(memory) + 1023) & ~1023u;
    using Kernel = GemmWgmma<Config, Epilogue>;
    // Said uniformly: the compiler must see that all lanes of a warp have one role.
    const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
    Kernel{p, shared, warp, static_cast<int>(threadIdx.x) % 32, Kernel::kCluster > 1 ? cluster_rank() : 0}.run();
}

}  // namespace planish
