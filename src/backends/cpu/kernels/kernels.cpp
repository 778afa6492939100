// Table assembly, and the sizes that must agree between ISAs.
#include "backends/cpu/kernels/kernels.hpp"

#include <algorithm>

#include "backends/cpu/kernels/families.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t round_up(int64_t x, int64_t to) {
    return (x + to - 1) / to * to;
}

int64_t groups_per_item(const GroupNormArgs& args) {
    const int64_t group = args.channels / args.groups;
    return std::min(args.groups, std::max<int64_t>(1, kGroupNormChannels / group));
}

}  // namespace

// Filled by code of the ISA itself, so only on a machine that has it.
const KernelTable& kernels(Isa isa) {
    if (isa >= Isa::avx512_vnni) {
        static const KernelTable table = [] {
            KernelTable t = kernels(Isa::avx512);
            avx512_vnni::add_byte_attention(t);
            return t;
        }();
        return table;
    }
    if (isa >= Isa::avx512) {
        static const KernelTable table = [] {
            KernelTable t;
            avx512::add_rows(t);
            avx512::add_image(t);
            avx512::add_attention(t);
            avx512::add_byte_attention(t);
            avx512::add_blocks(t);
            avx512::add_bytes(t);
            avx512::add_weights(t);
            return t;
        }();
        return table;
    }
    if (isa >= Isa::avx2) {
        static const KernelTable table = [] {
            KernelTable t;
            avx2::add_rows(t);
            avx2::add_image(t);
            avx2::add_attention(t);
            avx2::add_byte_attention(t);
            avx2::add_blocks(t);
            avx2::add_bytes(t);
            avx2::add_weights(t);
            return t;
        }();
        return table;
    }
    static const KernelTable table = [] {
        KernelTable t;
        baseline::add_rows(t);
        baseline::add_image(t);
        baseline::add_attention(t);
        baseline::add_blocks(t);
        baseline::add_bytes(t);
        baseline::add_weights(t);
        return t;
    }();
    return table;
}

int64_t group_norm_items(const GroupNormArgs& args) {
    const int64_t per_item = groups_per_item(args);
    return args.batch * ((args.groups + per_item - 1) / per_item);
}

int64_t group_norm_scratch(const GroupNormArgs& args) {
    return round_up(2 * groups_per_item(args) * (args.channels / args.groups), 16);
}

int64_t attention_key_block(const AttentionArgs& args) {
    const int64_t widest = std::max<int64_t>(args.head_dim + args.value_dim, 1);
    const int64_t block = std::clamp<int64_t>(65536 / widest / 64 * 64, 64, 1024);
    return std::min(block, round_up(args.keys, 16));
}

int64_t attention_items(const AttentionShape& args) {
    const int64_t block = args.query_block > 0 ? args.query_block : kAttentionQueryBlock;
    return args.batch * args.heads * ((args.queries + block - 1) / block);
}

int64_t attention_scratch(const AttentionArgs& args) {
    const int64_t keys = round_up(attention_key_block(args), 16);
    const int64_t values = round_up(args.value_dim, 16);
    const int64_t block = args.query_block > 0 ? args.query_block : kAttentionQueryBlock;
    const int64_t queries = std::min(block, std::max<int64_t>(args.queries, 1));
    return keys * args.head_dim         // packed keys
           + keys * values              // packed values
           + kAttentionTile * keys      // scores of one tile
           + queries * values           // running outputs
           + 2 * round_up(queries, 16)  // running maximum and sum of each query
           + 64;
}

bool takes_byte_attention(const AttentionShape& args) {
    // Sums of weights times values, and of queries times keys, with the lowest start that stands for no key.
    constexpr int64_t kMostKeys = (int64_t{1} << 31) / (kAttentionWeightOne * 128), kMostDims = 4096;
    return args.head_dim % 4 == 0 && args.head_dim <= kMostDims && args.keys <= kMostKeys && args.softcap == 0 &&
           args.scale > 0;
}

int64_t byte_attention_scratch(const AttentionShape& args) {
    const int64_t keys = round_up(args.keys, 64), values = round_up(args.value_dim, 16);
    return keys * (args.head_dim / 4)  // packed keys
           + keys                      // starts of their sums
           + keys / 2 * values         // packed values
           + kAttentionTile * keys     // scores of one tile
           + kAttentionTile * values;  // and their outputs
}

}  // namespace planish::cpu
