// The container's fixed part: the 64-byte header, alignment and checksums, shared by writer and reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace planish::plan {

inline constexpr char kMagic[8] = {'P', 'L', 'A', 'N', 'I', 'S', 'H', '\0'};
// A plan has the first version that knows what it holds, so that readers as old as that take it.
inline constexpr uint32_t kPlainVersion = 1;
inline constexpr uint32_t kPackedVersion = 2;       // packed weights
inline constexpr uint32_t kSparseVersion = 3;       // compressed weights
inline constexpr uint32_t kPackedBytesVersion = 4;  // packed int8 weights
inline constexpr uint32_t kFormatVersion = kPackedBytesVersion;
inline constexpr uint64_t kAlignment = 64;
inline constexpr size_t kInlineLimit = 256;  // tensors up to this many bytes lie in the description
inline constexpr int kMaxNesting = 32;       // graphs inside graphs

/// Little-endian, at offset 0. All fields but the description's own bytes are covered by `header_checksum`.
struct Header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t file_bytes;
    uint64_t description_offset;
    uint64_t description_bytes;
    uint64_t description_checksum;
    uint64_t reserved;  // zero
    uint64_t header_checksum;
};
static_assert(sizeof(Header) == 64);

inline uint64_t checksum(const void* data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}
inline uint64_t header_checksum(const Header& header) {
    return checksum(&header, offsetof(Header, header_checksum));
}
inline uint64_t align_up(uint64_t offset) {
    return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace planish::plan
