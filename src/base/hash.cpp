// xxHash compiled into this file alone, so that nothing has to be linked.
#define XXH_INLINE_ALL
#include "base/hash.hpp"

#include <xxhash.h>

#include <array>
#include <cstdio>

namespace planish {

std::string Hash128::to_hex() const {
    std::array<char, 33> text;
    std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(high),
                  static_cast<unsigned long long>(low));
    return text.data();
}

Hash128 hash128(std::span<const std::byte> bytes) {
    const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    return {hash.high64, hash.low64};
}

struct Hasher::State {
    XXH3_state_t xxh;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
    XXH3_128bits_reset(&state_->xxh);
}

Hasher::~Hasher() = default;

Hasher& Hasher::update_bytes(std::span<const std::byte> bytes) {
    XXH3_128bits_update(&state_->xxh, bytes.data(), bytes.size());
    return *this;
}

Hasher& Hasher::update(std::string_view text) {
    update(uint64_t{text.size()});
    return update_bytes(std::as_bytes(std::span(text.data(), text.size())));
}

Hasher& Hasher::update(uint64_t number) {
    std::array<std::byte, 8> little_endian;
    for (int i = 0; i < 8; ++i) little_endian[i] = static_cast<std::byte>(number >> (8 * i));
    return update_bytes(little_endian);
}

Hash128 Hasher::digest() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_->xxh);
    return {hash.high64, hash.low64};
}

}  // namespace planish
