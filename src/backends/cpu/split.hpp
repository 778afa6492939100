// Splitting a kernel's independent items over the threads of a launch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backends/cpu/implementation.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {

/// Calls run(begin, end, thread) for pieces of [0, items) that cost at least `kPieceCost` each, where one item costs
/// `item_cost` (about nanoseconds): smaller loops are not worth waking a thread for.
template <typename F>
void split_items(const Launch& launch, int64_t items, int64_t item_cost, F&& run) {
    constexpr int64_t kPieceCost = 4000;
    if (items <= 0) return;
    const int64_t grain = std::max<int64_t>(1, kPieceCost / std::max<int64_t>(item_cost, 1));
    const int64_t wanted = std::min<int64_t>(4 * launch.threads, (items + grain - 1) / grain);
    if (launch.threads == 1 || wanted <= 1) {
        run(int64_t{0}, items, 0);
        return;
    }
    // Pieces that differ by at most one item: few large items leave no thread with a second piece to itself.
    launch.pool->parallel_for(wanted, launch.threads, [&](int64_t task, int thread) {
        run(items * task / wanted, items * (task + 1) / wanted, thread);
    });
}

}  // namespace planish::cpu
