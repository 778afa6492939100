// What each per-ISA file puts into the table. Private to this folder.
#pragma once

#include "backends/cpu/kernels/kernels.hpp"

namespace planish::cpu {

/// Items and scratch must not depend on the ISA: channels of one group_norm item.
inline constexpr int64_t kGroupNormChannels = 16;
/// Queries of one register tile.
inline constexpr int64_t kAttentionTile = 6;

/// A weight of attention on bytes that stands for the greatest one, e^0. In 16 bits, so that pairs of weights and
/// values are multiplied at once.
inline constexpr int kAttentionWeightOne = 32767;

/// Keys that are packed at a time, so that packed keys and values take at most a quarter of a 1 MB L2.
int64_t attention_key_block(const AttentionArgs& args);

#define PLANISH_DECLARE_FAMILIES(isa)       \
    namespace isa {                         \
    void add_rows(KernelTable& table);      \
    void add_image(KernelTable& table);     \
    void add_attention(KernelTable& table); \
    void add_blocks(KernelTable& table);    \
    void add_bytes(KernelTable& table);     \
    void add_weights(KernelTable& table);   \
    }
PLANISH_DECLARE_FAMILIES(baseline)
PLANISH_DECLARE_FAMILIES(avx2)
PLANISH_DECLARE_FAMILIES(avx512)
#undef PLANISH_DECLARE_FAMILIES
namespace avx2 {
void add_byte_attention(KernelTable& table);
}
namespace avx512 {
void add_byte_attention(KernelTable& table);
}
namespace avx512_vnni {
void add_byte_attention(KernelTable& table);
}

}  // namespace planish::cpu
