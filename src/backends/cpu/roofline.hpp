// The machine's own limits, measured: what a kernel's speed is held against.
#pragma once

#include <cstdint>

#include "backends/backend.hpp"
#include "backends/cpu/isa.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// float32 FMAs of the widest vectors that `isa` allows (or of narrower ones, where those are faster), and reading
/// `working_set` bytes (kept between 64 KiB and 128 MiB) that the threads share evenly. The best of some rounds;
/// 0.05 to 0.3 s. Integer products by VNNI where there is it, else in 16 bits. On the baseline, which has no generated
/// code: multiplications and additions of 128 bits.
Roofline measure_roofline(Isa isa, ThreadPool& pool, int threads, int64_t working_set);

}  // namespace planish::cpu
