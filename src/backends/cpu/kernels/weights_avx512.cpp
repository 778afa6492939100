// Products with weights in 4 or 8 bits for AVX-512 F, BW, DQ, VL.
#include "backends/cpu/kernels/weights_impl.hpp"

namespace planish::cpu::avx512 {

void add_weights(KernelTable& table) {
    put_weights(table);
}

}  // namespace planish::cpu::avx512
