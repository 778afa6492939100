// The instruction sets that the CPU backend generates code for, and which of them this process may use.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace planish::cpu {

/// Ordered: a later value includes the instructions of every earlier one.
/// `avx2` = AVX2 + FMA3 + F16C (x86-64-v3); `avx512` = F, BW, DQ, VL, CD; `avx512_vnni` adds VNNI.
enum class Isa : uint8_t { baseline, avx2, avx512, avx512_vnni };

/// What CPUID and the operating system (XCR0) allow, lowered by the environment variable PLANISH_MAX_ISA
/// (one of the names of `to_string`; an unknown name throws). Determined once, then constant.
Isa detect_isa();

/// As `detect_isa`, without regard to the environment.
Isa hardware_isa();

/// Whether this processor executes a 512-bit instruction as two of 256 bits (AMD Zen 4), so that the wide one
/// brings no more arithmetic a cycle. False for what is not known to.
bool splits_wide_vectors();

std::string_view to_string(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);

/// Floats in one vector register: 4, 8 or 16.
constexpr int vector_floats(Isa isa) {
    return isa >= Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4;
}
/// Number of architectural vector registers.
constexpr int vector_registers(Isa isa) {
    return isa >= Isa::avx512 ? 32 : 16;
}

}  // namespace planish::cpu
