// Ops that move elements: layout reorders, Transpose, Concat, Split, Slice, Gather, Expand, Pad.
#include <cstring>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/program.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {

std::unique_ptr<Kernel> make_reorder_kernel(const Dims& dims, int64_t element, Layout from, Layout to, Isa) {
    return make_kernel(from == to ? "copy" : "reorder_" + std::to_string(8 * element) + "bit",
                       [dims, element, from, to](const Launch& launch) {
                           reorder(launch.in[0], from, launch.out[0], to, dims, element);
                       });
}

}  // namespace planish::cpu
