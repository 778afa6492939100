// CPUID and XGETBV, read once.
#include "backends/cpu/isa.hpp"

#include <cpuid.h>

#include <cstdlib>
#include <string>

#include "planish/error.hpp"

namespace planish::cpu {
namespace {

struct CpuidRegisters {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidRegisters cpuid(unsigned leaf, unsigned subleaf) {
    CpuidRegisters r;
    if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
    return r;
}

uint64_t xgetbv0() {
    uint32_t low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t{high} << 32) | low;
}

constexpr bool has(unsigned word, int bit) {
    return ((word >> bit) & 1U) != 0;
}

Isa probe() {
    const CpuidRegisters leaf1 = cpuid(1, 0);
    const CpuidRegisters leaf7 = cpuid(7, 0);
    const bool osxsave = has(leaf1.ecx, 27);
    if (!osxsave) return Isa::baseline;
    const uint64_t xcr0 = xgetbv0();
    constexpr uint64_t kYmmState = 0x6;   // XMM and the upper halves of YMM
    constexpr uint64_t kZmmState = 0xe6;  // and opmasks, upper halves of ZMM0-15, ZMM16-31
    const bool avx2 = (xcr0 & kYmmState) == kYmmState && has(leaf1.ecx, 28) && has(leaf1.ecx, 12) &&
                      has(leaf1.ecx, 29) && has(leaf7.ebx, 5);
    if (!avx2) return Isa::baseline;
    const bool avx512 = (xcr0 & kZmmState) == kZmmState && has(leaf7.ebx, 16) && has(leaf7.ebx, 17) &&
                        has(leaf7.ebx, 28) && has(leaf7.ebx, 30) && has(leaf7.ebx, 31);
    if (!avx512) return Isa::avx2;
    return has(leaf7.ecx, 11) ? Isa::avx512_vnni : Isa::avx512;
}

}  // namespace

Isa hardware_isa() {
    static const Isa isa = probe();
    return isa;
}

bool splits_wide_vectors() {
    static const bool split = [] {
        const CpuidRegisters vendor = cpuid(0, 0);
        const bool amd = vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;
        const unsigned signature = cpuid(1, 0).eax;
        const unsigned family = ((signature >> 8) & 0xf) + ((signature >> 20) & 0xff);
        return amd && family == 0x19 && hardware_isa() >= Isa::avx512;
    }();
    return split;
}

Isa detect_isa() {
    static const Isa isa = [] {
        const char* limit = std::getenv("PLANISH_MAX_ISA");
        if (limit == nullptr || *limit == '\0') return hardware_isa();
        const std::optional<Isa> parsed = parse_isa(limit);
        if (!parsed) {
            fail(ErrorCode::invalid_argument, "PLANISH_MAX_ISA names no known instruction set: " + std::string(limit),
                 "use one of baseline, avx2, avx512, avx512-vnni");
        }
        return *parsed < hardware_isa() ? *parsed : hardware_isa();
    }();
    return isa;
}

std::string_view to_string(Isa isa) {
    switch (isa) {
        case Isa::baseline:
            return "baseline";
        case Isa::avx2:
            return "avx2";
        case Isa::avx512:
            return "avx512";
        case Isa::avx512_vnni:
            return "avx512-vnni";
    }
    return "baseline";
}

std::optional<Isa> parse_isa(std::string_view name) {
    for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_vnni}) {
        if (name == to_string(isa)) return isa;
    }
    if (name == "avx512_vnni") return Isa::avx512_vnni;
    return std::nullopt;
}

}  // namespace planish::cpu
