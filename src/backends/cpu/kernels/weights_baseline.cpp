// Products with weights in 4 or 8 bits for baseline x86-64.
#include "backends/cpu/kernels/weights_impl.hpp"

namespace planish::cpu::baseline {

void add_weights(KernelTable& table) {
    put_weights(table);
}

}  // namespace planish::cpu::baseline
