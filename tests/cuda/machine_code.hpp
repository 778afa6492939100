// What tests look for in a kernel's machine code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backends/cuda/compiler.hpp"

namespace planish::cuda {

// Instructions of sm_80 and later have 16 bytes, the operation in the lowest twelve bits.
constexpr unsigned kHmma = 0x23c, kImma = 0x237, kHgmma = 0x9f0, kIgmma = 0x9f1, kQgmma = 0x9f3;
constexpr unsigned kHeldHgmma = 0xdf0;  // its first factor in registers

inline size_t count_instructions(const Binary& binary, unsigned operation) {
    size_t count = 0;
    for (size_t i = 0; i + 16 <= binary.code.size(); i += 16) {
        uint64_t word = 0;
        std::memcpy(&word, binary.code.data() + i, sizeof(word));
        count += (word & 0xfff) == operation;
    }
    return count;
}

}  // namespace planish::cuda
