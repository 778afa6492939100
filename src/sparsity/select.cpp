// Greedy descent along the curves.
#include "sparsity/select.hpp"

#include <algorithm>
#include <numeric>

namespace planish::sparsity {

std::vector<size_t> allowed_removals(const ChannelGroup& group, int multiple) {
    const auto total = static_cast<int64_t>(group.channels.size());
    const int64_t step = multiple / std::gcd<int64_t>(multiple, group.width);
    const int64_t least = std::max<int64_t>(step, (total + 9) / 10);
    std::vector<size_t> removals{0};
    for (int64_t kept = (total - 1) / step * step; kept >= least; kept -= step)
        removals.push_back(static_cast<size_t>(total - kept));
    return removals;
}

std::vector<Counts> removal_path(const std::vector<Curve>& curves, const std::vector<std::vector<size_t>>& allowed,
                                 const std::function<double(const Counts&)>& gain) {
    std::vector<size_t> place(curves.size());
    std::vector<Counts> path{Counts(curves.size())};
    double reached = 0;
    for (;;) {
        size_t best = curves.size(), best_place = 0;
        double best_slope = 0, best_gain = 0;
        for (size_t g = 0; g < curves.size(); ++g)
            // Steps over several counts too: a small gain may lie before a large one.
            for (size_t p = place[g] + 1; p < std::min(allowed[g].size(), place[g] + 3); ++p) {
                Counts next = path.back();
                next[g] = allowed[g][p];
                const double more = gain(next) - reached;
                if (more <= 0) continue;
                const double slope = (curves[g].loss[next[g]] - curves[g].loss[path.back()[g]]) / more;
                if (best == curves.size() || slope < best_slope) {
                    best = g;
                    best_place = p;
                    best_slope = slope;
                    best_gain = more;
                }
            }
        if (best == curves.size()) return path;
        place[best] = best_place;
        reached += best_gain;
        path.push_back(path.back());
        path.back()[best] = allowed[best][best_place];
    }
}

std::vector<bool> removed_channels(const Channels& channels, const std::vector<Curve>& curves, const Counts& counts) {
    std::vector<bool> removed(static_cast<size_t>(channels.count));
    for (size_t g = 0; g < curves.size(); ++g)
        for (size_t i = 0; i < counts[g]; ++i) removed[static_cast<size_t>(curves[g].order[i])] = true;
    return removed;
}

}  // namespace planish::sparsity
