// Static memory plan: offsets in one arena for buffers whose lives are known, with in-place reuse.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backends/cpu/program.hpp"

namespace planish::cpu {

/// A buffer's size and the steps between which its content matters.
struct BufferLife {
    int64_t bytes = 0;
    int first = -1, last = -1;   // step indices; -1: never touched
    Slot fixed;                  // base none: the plan gives it arena memory
    std::vector<int> may_reuse;  // buffers whose memory it may take over when they die in its first step
};

struct MemoryPlan {
    int64_t bytes = 0;
    std::vector<int64_t> offsets;  // -1 where the buffer is fixed or unused
};

/// Greedy by size, best fit: each buffer, largest first, goes to the lowest gap between those already placed whose
/// lives overlap its own. A buffer that takes over another's memory is merged with it beforehand.
MemoryPlan plan_memory(std::span<const BufferLife> buffers);

}  // namespace planish::cpu
