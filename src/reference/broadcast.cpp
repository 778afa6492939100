// Broadcasting: shapes, and the walk over merged axes.
#include <algorithm>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"
#include "reference/elementwise.hpp"

namespace planish::reference {

Dims broadcast(const Dims& a, const Dims& b) {
    Dims out(std::max(a.size(), b.size()));
    for (size_t i = 0; i < out.size(); ++i) {  // i counts from the last axis
        const int64_t x = i < a.size() ? a[a.size() - 1 - i] : 1;
        const int64_t y = i < b.size() ? b[b.size() - 1 - i] : 1;
        if (x != y && x != 1 && y != 1)
            fail(ErrorCode::invalid_argument,
                 "shapes " + to_string(a) + " and " + to_string(b) + " cannot be broadcast together",
                 "aligned at the last axis, sizes must be equal or 1");
        out[out.size() - 1 - i] = x == 1 ? y : x;
    }
    return out;
}

Dims broadcast_inputs(RefContext& ctx, int first, int last) {
    Dims out = ctx.input(first).dims();
    for (int i = first + 1; i < last; ++i) out = broadcast(out, ctx.input(i).dims());
    return out;
}

BroadcastWalk::BroadcastWalk(const Dims& out, const std::vector<Dims>& operands)
    : outer_strides_(operands.size()), inner_strides_(operands.size(), 0) {
    // Row-major strides of each operand along the axes of `out`, 0 where it is broadcast.
    std::vector<Dims> strides(operands.size(), Dims(out.size(), 0));
    for (size_t k = 0; k < operands.size(); ++k) {
        int64_t step = 1;
        for (size_t i = 0; i < operands[k].size(); ++i) {
            const int64_t size = operands[k][operands[k].size() - 1 - i];
            if (size != 1) strides[k][out.size() - 1 - i] = step;
            step *= size;
        }
    }
    // Merge axis d into the one inside it when every operand runs through both with one stride.
    Dims sizes;
    std::vector<Dims> merged(operands.size());
    for (size_t d = out.size(); d-- > 0;) {
        if (out[d] == 1) continue;
        bool merge = !sizes.empty();
        for (size_t k = 0; merge && k < operands.size(); ++k) merge = strides[k][d] == merged[k].back() * sizes.back();
        if (merge) {
            sizes.back() *= out[d];
            continue;
        }
        sizes.push_back(out[d]);
        for (size_t k = 0; k < operands.size(); ++k) merged[k].push_back(strides[k][d]);
    }
    if (!sizes.empty()) {
        inner_ = sizes.front();
        outer_.assign(sizes.rbegin(), sizes.rend() - 1);
        for (size_t k = 0; k < operands.size(); ++k) {
            inner_strides_[k] = merged[k].front();
            outer_strides_[k].assign(merged[k].rbegin(), merged[k].rend() - 1);
        }
    }
}

void BroadcastWalk::for_each_run(
    FunctionRef<void(int64_t first, int64_t count, const int64_t* operand_firsts)> fn) const {
    const int64_t chunks = (inner_ + kMaxRun - 1) / kMaxRun;
    const int64_t runs = element_count(outer_) * chunks;
    if (runs == 0) return;
    constexpr int64_t kElementsPerTask = 1 << 15;
    const int64_t tasks = std::min(runs, runs * std::min(inner_, kMaxRun) / kElementsPerTask + 1);
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        std::vector<int64_t> from(inner_strides_.size());
        for (int64_t run = runs * task / tasks; run < runs * (task + 1) / tasks; ++run) {
            const int64_t begin = run % chunks * kMaxRun;
            int64_t rest = run / chunks;
            const int64_t first = rest * inner_ + begin;
            for (size_t k = 0; k < from.size(); ++k) from[k] = begin * inner_strides_[k];
            for (size_t d = outer_.size(); d-- > 0; rest /= outer_[d])
                for (size_t k = 0; k < from.size(); ++k) from[k] += rest % outer_[d] * outer_strides_[k][d];
            fn(first, std::min(kMaxRun, inner_ - begin), from.data());
        }
    });
}

}  // namespace planish::reference
