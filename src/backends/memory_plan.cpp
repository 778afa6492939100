// Arena offsets: greedy by size over interval overlaps.
#include "backends/memory_plan.hpp"

#include <algorithm>
#include <numeric>

namespace planish {

MemoryPlan plan_memory(std::span<const BufferLife> buffers, int64_t alignment) {
    const auto round_up = [&](int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; };
    struct Block {
        int64_t bytes = 0, offset = -1;
        int first = 0, last = 0;
        std::vector<size_t> members;
    };
    auto planned = [&](size_t i) { return buffers[i].fixed.base == Slot::Base::none && buffers[i].first >= 0; };

    // Buffers that share memory form one block. Order of first use makes chains (a -> b -> c) fall together.
    std::vector<size_t> order;
    for (size_t i = 0; i < buffers.size(); ++i)
        if (planned(i)) order.push_back(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return buffers[a].first < buffers[b].first; });
    std::vector<Block> blocks;
    std::vector<int> block_of(buffers.size(), -1);
    for (const size_t i : order) {
        const BufferLife& life = buffers[i];
        for (const int candidate : life.may_reuse) {
            const auto c = static_cast<size_t>(candidate);
            if (block_of[c] < 0 || buffers[c].last != life.first || round_up(buffers[c].bytes) < round_up(life.bytes))
                continue;
            Block& block = blocks[static_cast<size_t>(block_of[c])];
            if (block.last != life.first) continue;  // another member is still needed
            block.last = std::max(block.last, life.last);
            block.members.push_back(i);
            block_of[i] = block_of[c];
            break;
        }
        if (block_of[i] >= 0) continue;
        block_of[i] = static_cast<int>(blocks.size());
        blocks.push_back({round_up(life.bytes), -1, life.first, life.last, {i}});
    }

    std::vector<size_t> by_size(blocks.size());
    std::iota(by_size.begin(), by_size.end(), size_t{0});
    std::stable_sort(by_size.begin(), by_size.end(),
                     [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
    MemoryPlan plan;
    plan.offsets.assign(buffers.size(), -1);
    std::vector<const Block*> placed;  // sorted by offset
    for (const size_t b : by_size) {
        Block& block = blocks[b];
        int64_t best = -1, best_gap = INT64_MAX, end = 0;
        for (const Block* other : placed) {
            if (other->last < block.first || block.last < other->first) continue;
            const int64_t gap = other->offset - end;
            if (gap >= block.bytes && gap < best_gap) {
                best = end;
                best_gap = gap;
            }
            end = std::max(end, other->offset + other->bytes);
        }
        block.offset = best >= 0 ? best : end;
        placed.insert(std::upper_bound(placed.begin(), placed.end(), &block,
                                       [](const Block* x, const Block* y) { return x->offset < y->offset; }),
                      &block);
        plan.bytes = std::max(plan.bytes, block.offset + block.bytes);
        for (const size_t member : block.members) plan.offsets[member] = block.offset;
    }
    return plan;
}

}  // namespace planish
