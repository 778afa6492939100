// Attention on bytes for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/byte_attention_impl.hpp"

namespace planish::cpu::avx512 {

void add_byte_attention(KernelTable& table) {
    table.byte_attention = byte_attention;
}

}  // namespace planish::cpu::avx512
