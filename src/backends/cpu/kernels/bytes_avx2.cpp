// Kernels over bytes for AVX2 and FMA.
#include "backends/cpu/kernels/bytes_impl.hpp"

namespace planish::cpu::avx2 {

void add_bytes(KernelTable& table) {
    put_bytes(table);
}

}  // namespace planish::cpu::avx2
