// Static memory plan: offsets in one arena for buffers whose lives are known, with in-place reuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace planish {

/// Where bytes are: a base that is known at run time plus an offset.
struct Slot {
    enum class Base : uint8_t { none, absolute, arena, input, output };
    Base base = Base::none;
    int index = 0;                       // which input or output
    int64_t offset = 0;                  // into the base
    const std::byte* address = nullptr;  // absolute: a constant
};

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
/// Offsets are multiples of `alignment`.
MemoryPlan plan_memory(std::span<const BufferLife> buffers, int64_t alignment = 64);

}  // namespace planish
