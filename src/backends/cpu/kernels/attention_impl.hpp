// Attention. The per-ISA body of attention_{baseline,avx2,avx512}.cpp.
#pragma once
#include "backends/cpu/kernels/families.hpp"
#include "backends/cpu/kernels/simd.hpp"
namespace planish::cpu::PLANISH_ISA {
void add_attention(KernelTable&) {}
}  // namespace planish::cpu::PLANISH_ISA
