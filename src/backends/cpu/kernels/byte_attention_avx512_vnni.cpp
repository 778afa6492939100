// Attention on bytes for AVX-512 with VNNI.
#include "backends/cpu/kernels/byte_attention_impl.hpp"

namespace planish::cpu::avx512_vnni {

void add_byte_attention(KernelTable& table) {
    table.byte_attention = byte_attention;
}

}  // namespace planish::cpu::avx512_vnni
