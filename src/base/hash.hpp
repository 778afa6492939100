// Content hashes for cache keys and provenance: stable between runs, machines and builds. Not for signatures.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace planish {

/// 128 bits of XXH3 (xxHash, Yann Collet).
struct Hash128 {
    uint64_t high = 0;
    uint64_t low = 0;

    friend auto operator<=>(const Hash128&, const Hash128&) = default;
    /// 32 lower-case hexadecimal digits, most significant first.
    std::string to_hex() const;
};

Hash128 hash128(std::span<const std::byte> bytes);
inline Hash128 hash128(std::string_view text) {
    return hash128(std::as_bytes(std::span(text.data(), text.size())));
}

/// The same hash of a content that comes in pieces. `update(string_view)` and `update(number)` write a length or a
/// fixed width, so that different sequences of fields never give the same byte stream.
class Hasher {
  public:
    Hasher();
    ~Hasher();
    Hasher(const Hasher&) = delete;
    Hasher& operator=(const Hasher&) = delete;

    Hasher& update_bytes(std::span<const std::byte> bytes);
    Hasher& update(std::string_view text);
    Hasher& update(uint64_t number);
    Hash128 digest() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace planish
