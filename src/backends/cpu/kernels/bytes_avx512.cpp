// Kernels over bytes for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/bytes_impl.hpp"

namespace planish::cpu::avx512 {

void add_bytes(KernelTable& table) {
    put_bytes(table);
}

}  // namespace planish::cpu::avx512
