// Attention. The per-ISA body of attention_{baseline,avx2,avx512}.cpp.
//
// For a block of keys, packed transposed, and of values: tiles of 6 queries compute their scores against all keys of
// the block (a register-tiled product), turn them into exponentials in L1, and multiply those with the values. Running
// maximum m, sum l and output o of each query are corrected from block to block:
//     m' = max(m, max s),  p = exp(s - m'),  l' = l exp(m - m') + sum p,  o' = o exp(m - m') + p V,  result o / l.
#pragma once

#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"
#include "backends/cpu/kernels/transpose_block.hpp"

namespace planish::cpu::PLANISH_ISA {

// 6 rows of 4 vectors are 24 accumulators of 32 registers; with 16 registers 6 rows of 2.
constexpr int kTileVectors = Vec::kWidth == 16 ? 4 : 2;
constexpr int kPanel = kTileVectors * Vec::kWidth;
constexpr int kTile = static_cast<int>(kAttentionTile);
// With fewer queries than this, keys and values are used once and not worth packing.
constexpr int64_t kFewQueries = 4;

struct Matrix {
    const float* data;
    int64_t stride;
};

// c[r][j] (+)= sum over k of a[r][k] * b[k][j] for kRows rows and kVectors vectors of columns.
template <bool kAccumulate, int kRows, int kVectors>
PLANISH_INLINE void multiply_tile(Matrix a, Matrix b, int64_t depth, float* c, int64_t c_stride) {
    Vec acc[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
            acc[r][v] = kAccumulate ? Vec::load(c + r * c_stride + v * Vec::kWidth) : Vec::zero();
    const float* row = b.data;
    for (int64_t k = 0; k < depth; ++k, row += b.stride) {
        Vec columns[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) columns[v] = Vec::load(row + v * Vec::kWidth);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const Vec x = Vec::all(a.data[r * a.stride + k]);
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(x, columns[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v].store(c + r * c_stride + v * Vec::kWidth);
}

template <bool kAccumulate, int kVectors>
void multiply_rows(int rows, Matrix a, Matrix b, int64_t depth, float* c, int64_t c_stride) {
    switch (rows) {
        case 6:
            return multiply_tile<kAccumulate, 6, kVectors>(a, b, depth, c, c_stride);
        case 5:
            return multiply_tile<kAccumulate, 5, kVectors>(a, b, depth, c, c_stride);
        case 4:
            return multiply_tile<kAccumulate, 4, kVectors>(a, b, depth, c, c_stride);
        case 3:
            return multiply_tile<kAccumulate, 3, kVectors>(a, b, depth, c, c_stride);
        case 2:
            return multiply_tile<kAccumulate, 2, kVectors>(a, b, depth, c, c_stride);
        default:
            return multiply_tile<kAccumulate, 1, kVectors>(a, b, depth, c, c_stride);
    }
}

// The same for `vectors` <= kTileVectors.
template <bool kAccumulate>
PLANISH_INLINE void multiply(int rows, int64_t vectors, Matrix a, Matrix b, int64_t depth, float* c, int64_t c_stride) {
    if (vectors == kTileVectors) return multiply_rows<kAccumulate, kTileVectors>(rows, a, b, depth, c, c_stride);
    if constexpr (kTileVectors > 2) {
        if (vectors == 3) return multiply_rows<kAccumulate, 3>(rows, a, b, depth, c, c_stride);
        if (vectors == 2) return multiply_rows<kAccumulate, 2>(rows, a, b, depth, c, c_stride);
    }
    multiply_rows<kAccumulate, 1>(rows, a, b, depth, c, c_stride);
}

PLANISH_INLINE int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

// Keys [n, dim] -> panels of kPanel keys (the last one narrower), each [dim][width]; keys beyond n are zero.
PLANISH_INLINE void pack_keys(const float* keys, int64_t stride, int64_t n, int64_t dim, float* packed) {
    constexpr int kW = Vec::kWidth;
    const int64_t padded = round_up(n, 16);
    for (int64_t first = 0; first < padded; first += kPanel) {
        const int64_t width = min_of(kPanel, padded - first);
        float* panel = packed + first * dim;
        for (int64_t j = 0; j < width; j += kW) {
            const float* x = keys + (first + j) * stride;
            const int64_t rows = max_of(0, min_of(kW, n - first - j));
            int64_t d = 0;
            if (rows == kW)
                for (; d + kW <= dim; d += kW) transpose_block(x + d, stride, panel + d * width + j, width);
            for (; d < dim; ++d)
                for (int64_t i = 0; i < kW; ++i) panel[d * width + j + i] = i < rows ? x[i * stride + d] : 0.0f;
        }
    }
}

// Values [n, dim] -> dense rows of round_up(dim, 16), zero beyond dim.
PLANISH_INLINE void pack_values(const float* values, int64_t stride, int64_t n, int64_t dim, float* packed) {
    const int64_t width = round_up(dim, 16);
    for (int64_t k = 0; k < n; ++k, values += stride, packed += width)
        for (int64_t d = 0; d < width; d += Vec::kWidth)
            load(values + d, max_of(0, min_of(dim - d, Vec::kWidth))).store(packed + d);
}

// scores[r][k] = query row r . key k, straight from where the keys lie.
PLANISH_INLINE void dot_keys(int rows, Matrix query, Matrix keys, int64_t n, int64_t dim, float* scores,
                             int64_t scores_stride) {
    for (int64_t k = 0; k < n; ++k) {
        const float* key = keys.data + k * keys.stride;
        for (int r = 0; r < rows; ++r) {
            const float* q = query.data + r * query.stride;
            Vec even = Vec::zero(), odd = Vec::zero();
            int64_t d = 0;
            for (; d + 2 * Vec::kWidth <= dim; d += 2 * Vec::kWidth) {
                even = fma(Vec::load(q + d), Vec::load(key + d), even);
                odd = fma(Vec::load(q + d + Vec::kWidth), Vec::load(key + d + Vec::kWidth), odd);
            }
            for (; d < dim; d += Vec::kWidth) {
                const int64_t count = min_of(dim - d, Vec::kWidth);
                even = fma(load(q + d, count), load(key + d, count), even);
            }
            scores[r * scores_stride + k] = sum_lanes(even + odd);
        }
    }
}

/// Of a tile's queries; whole vectors.
struct alignas(64) TileFloats {
    float at[16] = {};
};

// Rows of raw scores -> exp(score - peak), the first seen[r] of each; updates the queries' m and l, returns the
// corrections of o. Where only a positive scale stands between a score and its exponential, it is applied on the way.
template <bool kOnlyScaled>
PLANISH_INLINE TileFloats weigh_rows(const AttentionArgs& args, int rows, const float* mask, float* scores,
                                     int64_t stride, const int64_t* seen, float* m, float* l) {
    const Vec scale = Vec::all(args.scale), lowest = Vec::all(-kInfinity);
    TileFloats peaks, shifts, corrections;
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * stride;
        const float* row_mask = mask ? mask + r * args.mask_strides.row : nullptr;
        Vec tops[2] = {lowest, lowest};
        const auto score = [&](int64_t i, int64_t count) {
            if constexpr (kOnlyScaled) return load(row + i, count, lowest);
            Vec s = load(row + i, count) * scale;
            if (args.softcap != 0) s = Vec::all(args.softcap) * tanh(s * Vec::all(1.0f / args.softcap));
            if (row_mask) s = s + load(row_mask + i, count);
            if (count != Vec::kWidth) s = s.keep(count, lowest);
            store(s, row + i, count);
            return s;
        };
        int64_t i = 0;
        for (; i + 2 * Vec::kWidth <= seen[r]; i += 2 * Vec::kWidth) {
            tops[0] = max(score(i, Vec::kWidth), tops[0]);
            tops[1] = max(score(i + Vec::kWidth, Vec::kWidth), tops[1]);
        }
        for (; i < seen[r]; i += Vec::kWidth) tops[0] = max(score(i, min_of(seen[r] - i, Vec::kWidth)), tops[0]);
        float top = max_lanes(max(tops[0], tops[1]));
        if (kOnlyScaled) top *= args.scale;
        const float next = top > m[r] ? top : m[r];
        peaks.at[r] = next == -kInfinity ? 0.0f : next;  // all masked so far: every exponential is 0, not NaN
        shifts.at[r] = m[r] - peaks.at[r];
        m[r] = next;
    }
    for (int i = 0; i < rows; i += Vec::kWidth) exp_weight(Vec::load(shifts.at + i)).store(corrections.at + i);
    for (int r = 0; r < rows; ++r) {
        float* row = scores + r * stride;
        const Vec shift = Vec::all(-peaks.at[r]);
        const auto exponential = [&](int64_t k, int64_t count) {
            Vec x = load(row + k, count, lowest);
            x = kOnlyScaled ? fma(x, scale, shift) : x + shift;
            const Vec p = exp_weight(x);
            store(p, row + k, count);
            return p;
        };
        Vec sums[2] = {Vec::zero(), Vec::zero()};
        int64_t i = 0;
        for (; i + 2 * Vec::kWidth <= seen[r]; i += 2 * Vec::kWidth) {
            sums[0] = sums[0] + exponential(i, Vec::kWidth);
            sums[1] = sums[1] + exponential(i + Vec::kWidth, Vec::kWidth);
        }
        for (; i < seen[r]; i += Vec::kWidth) sums[0] = sums[0] + exponential(i, min_of(seen[r] - i, Vec::kWidth));
        l[r] = l[r] * corrections.at[r] + sum_lanes(sums[0] + sums[1]);
    }
    return corrections;
}

struct Scratch {
    float *keys, *values, *scores, *outputs, *peaks, *sums;
};

// `rows` queries from `first_query` against the keys [first_key, first_key + n), given raw or packed.
struct KeyBlock {
    int64_t first_key, n;
    Matrix keys, values;  // raw keys only where there are few queries
    bool packed;
};

PLANISH_INLINE void attend_tile(const AttentionArgs& args, const KeyBlock& block, int rows, int64_t first_query,
                                Matrix query, const float* mask, float* scores, float* o, int64_t o_stride, float* m,
                                float* l) {
    const auto visible = [&](int64_t row) {
        if (!args.causal) return block.n;
        return max_of(0, min_of(block.n, first_query + row + args.causal_offset + 1 - block.first_key));
    };
    const int64_t n = visible(rows - 1);  // the last row sees most
    if (n == 0) return;
    const int64_t stride = round_up(block.n, 16);
    if (block.packed) {
        for (int64_t first = 0; first < n; first += kPanel) {
            const int64_t width = min_of(kPanel, stride - first);
            multiply<false>(rows, width / Vec::kWidth, query, {block.keys.data + first * args.head_dim, width},
                            args.head_dim, scores + first, stride);
        }
    } else {
        dot_keys(rows, query, block.keys, n, args.head_dim, scores, stride);
    }
    int64_t seen[kTile];
    for (int r = 0; r < rows; ++r) seen[r] = visible(r);
    const float* block_mask = mask ? mask + block.first_key : nullptr;
    const bool only_scaled = mask == nullptr && args.softcap == 0 && args.scale > 0;
    const TileFloats corrections = only_scaled ? weigh_rows<true>(args, rows, nullptr, scores, stride, seen, m, l)
                                               : weigh_rows<false>(args, rows, block_mask, scores, stride, seen, m, l);
    for (int r = 0; r < rows; ++r)
        for (int64_t k = seen[r]; k < n; ++k) scores[r * stride + k] = 0;
    if (block.first_key != 0) {
        for (int r = 0; r < rows; ++r)
            for (int64_t d = 0; d < o_stride; d += Vec::kWidth)
                (Vec::load(o + r * o_stride + d) * Vec::all(corrections.at[r])).store(o + r * o_stride + d);
    }
    for (int64_t d = 0; d < o_stride; d += kPanel)
        multiply<true>(rows, min_of(kPanel, o_stride - d) / Vec::kWidth, {scores, stride},
                       {block.values.data + d, block.values.stride}, n, o + d, o_stride);
}

void attention(const AttentionArgs& args, int64_t begin, int64_t end, float* scratch) {
    const int64_t query_block = args.query_block > 0 ? args.query_block : kAttentionQueryBlock;
    const int64_t blocks_per_head = (args.queries + query_block - 1) / query_block;
    const int64_t key_block = max_of(attention_key_block(args), 1);
    const int64_t value_width = round_up(args.value_dim, 16);
    const int64_t block_rows = min_of(query_block, args.queries);
    const bool few = args.queries < kFewQueries;
    const bool raw_values = few && args.value_dim % 16 == 0;

    Scratch s;
    s.keys = scratch;
    s.values = s.keys + round_up(key_block, 16) * args.head_dim;
    s.scores = s.values + round_up(key_block, 16) * value_width;
    s.outputs = s.scores + kTile * round_up(key_block, 16);
    s.peaks = s.outputs + block_rows * value_width;
    s.sums = s.peaks + round_up(block_rows, 16);

    int64_t packed_head = -1;  // batch * kv_heads + kv head whose only key block is packed
    for (int64_t item = begin; item < end; ++item) {
        const int64_t head = item / blocks_per_head % args.heads, batch = item / blocks_per_head / args.heads;
        const int64_t kv_head = head / (args.heads / args.kv_heads);
        const int64_t first_query = item % blocks_per_head * query_block;
        const int64_t rows = min_of(query_block, args.queries - first_query);
        const auto at = [&](const float* data, const AttentionArgs::Strides& strides, int64_t h, int64_t row) {
            return data + batch * strides.batch + h * strides.head + row * strides.row;
        };
        for (int64_t r = 0; r < rows; ++r) {
            s.peaks[r] = -kInfinity;
            s.sums[r] = 0;
        }
        for (int64_t i = 0; i < rows * value_width; i += Vec::kWidth) Vec::zero().store(s.outputs + i);

        for (int64_t first_key = 0; first_key < args.keys; first_key += key_block) {
            if (args.causal && first_key > first_query + rows - 1 + args.causal_offset) break;
            KeyBlock block{first_key, min_of(key_block, args.keys - first_key), {}, {}, !few};
            const float* keys = at(args.key, args.key_strides, kv_head, first_key);
            const float* values = at(args.value, args.value_strides, kv_head, first_key);
            const bool ready = packed_head == batch * args.kv_heads + kv_head && args.keys <= key_block;
            if (few) {
                block.keys = {keys, args.key_strides.row};
            } else {
                if (!ready) pack_keys(keys, args.key_strides.row, block.n, args.head_dim, s.keys);
                block.keys = {s.keys, 0};
            }
            if (raw_values) {
                block.values = {values, args.value_strides.row};
            } else {
                if (!ready) pack_values(values, args.value_strides.row, block.n, args.value_dim, s.values);
                block.values = {s.values, value_width};
            }
            packed_head = batch * args.kv_heads + kv_head;
            for (int64_t r = 0; r < rows; r += kTile) {
                const int64_t q = first_query + r;
                attend_tile(args, block, static_cast<int>(min_of(kTile, rows - r)), q,
                            {at(args.query, args.query_strides, head, q), args.query_strides.row},
                            args.mask ? at(args.mask, args.mask_strides, head, q) : nullptr, s.scores,
                            s.outputs + r * value_width, value_width, s.peaks + r, s.sums + r);
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            // A sum of 0 means that no key was seen; NaN among the scores has made it NaN instead.
            const Vec inverse = Vec::all(s.sums[r] == 0 ? 0.0f : 1.0f / s.sums[r]);
            float* y = args.output + batch * args.output_strides.batch + head * args.output_strides.head +
                       (first_query + r) * args.output_strides.row;
            for_vectors(args.value_dim, [&](int64_t d, int64_t count) {
                store(Vec::load(s.outputs + r * value_width + d) * inverse, y + d, count);
            });
        }
    }
}

void add_attention(KernelTable& table) {
    table.attention = attention;
}

}  // namespace planish::cpu::PLANISH_ISA
