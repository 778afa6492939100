// Products with weights in 4 or 8 bits for AVX2 and FMA.
#include "backends/cpu/kernels/weights_impl.hpp"

namespace planish::cpu::avx2 {

void add_weights(KernelTable& table) {
    put_weights(table);
}

}  // namespace planish::cpu::avx2
