// Attention on bytes for AVX2 + FMA.
#include "backends/cpu/kernels/byte_attention_impl.hpp"

namespace planish::cpu::avx2 {

void add_byte_attention(KernelTable& table) {
    table.byte_attention = byte_attention;
}

}  // namespace planish::cpu::avx2
