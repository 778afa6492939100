// Kernels over bytes for x86-64 baseline.
#include "backends/cpu/kernels/bytes_impl.hpp"

namespace planish::cpu::baseline {

void add_bytes(KernelTable& table) {
    put_bytes(table);
}

}  // namespace planish::cpu::baseline
