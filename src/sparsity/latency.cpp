// The clock and the model.
#include "sparsity/latency.hpp"

#include <algorithm>
#include <chrono>
#include <set>

#include "base/median.hpp"
#include "build/verify.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "planish/error.hpp"
#include "runtime/profile.hpp"
#include "sparsity/couplings.hpp"

namespace planish::sparsity {
namespace {

constexpr int kProfiledRuns = 15;
constexpr double kSecondsToMeasure = 1.5;
constexpr int kFewestRuns = 7, kMostRuns = 301;

std::vector<NamedView> views_of(const TensorMap& inputs) {
    std::vector<NamedView> views;
    for (const auto& [name, tensor] : inputs)
        views.push_back({name, {tensor.dtype(), tensor.dims(), const_cast<void*>(tensor.raw())}});
    return views;
}

}  // namespace

TensorMap timing_sample(const Graph& graph, const std::vector<TensorMap>& calibration,
                        const std::map<std::string, ShapeRange>& ranges) {
    if (!calibration.empty()) return calibration.front();
    std::vector<Dims> shapes;
    for (const Value* input : graph.inputs()) {
        const auto given = ranges.find(input->name);
        if (given != ranges.end()) {
            shapes.push_back(given->second.opt);
            continue;
        }
        Dims dims;
        for (int64_t axis = 0; axis < rank_of(input); ++axis) {
            const int64_t size = size_of(input, axis);
            if (size < 0 && axis > 0)
                fail(ErrorCode::invalid_argument, "the shape of input '" + input->name + "' is open",
                     "give a shape or calibration data to time the network with");
            dims.push_back(std::max<int64_t>(size, 1));
        }
        shapes.push_back(std::move(dims));
    }
    const auto bound = passes::specialise(graph, shapes);
    const std::vector<Tensor> random = verification::random_inputs(*bound);
    TensorMap sample;
    for (size_t i = 0; i < random.size(); ++i) sample[graph.inputs()[i]->name] = random[i];
    return sample;
}

std::vector<RegionTime> region_times(const Graph& graph, const TensorMap& inputs, int threads) {
    const Engine engine = engine_of(graph.clone(), threads);
    Context::Impl context(engine.shared_impl());
    std::vector<RegionTime> result;
    for (const runtime::ProfileRow& row : runtime::profile(context, views_of(inputs), kProfiledRuns).rows)
        result.push_back({row.step.layers, row.seconds});
    return result;
}

TimeModel::TimeModel(const Graph& graph, const Channels& channels, const std::vector<RegionTime>& regions) {
    std::map<const Value*, std::set<size_t>> groups_of;
    for (size_t g = 0; g < channels.groups.size(); ++g) {
        sizes_.push_back(static_cast<double>(channels.groups[g].channels.size()));
        for (const int a : channels.groups[g].axes) groups_of[channels.axes[static_cast<size_t>(a)].value].insert(g);
    }
    std::map<std::string, std::set<size_t>> by_layer;
    for (const auto& node : graph.nodes())
        for (const std::string& layer : passes::origins_of(*node))
            for (const auto list : {node->inputs(), node->outputs()})
                for (const Value* value : list)
                    if (const auto it = groups_of.find(value); it != groups_of.end())
                        by_layer[layer].insert(it->second.begin(), it->second.end());
    for (const RegionTime& region : regions) {
        std::set<size_t> groups;
        for (const std::string& layer : region.layers)
            if (const auto it = by_layer.find(layer); it != by_layer.end())
                groups.insert(it->second.begin(), it->second.end());
        regions_.push_back({region.seconds, {groups.begin(), groups.end()}});
    }
}

double TimeModel::seconds(const Counts& removed) const {
    double sum = 0;
    for (const Region& region : regions_) {
        double seconds = region.seconds;
        for (const size_t g : region.groups) seconds *= 1 - static_cast<double>(removed[g]) / sizes_[g];
        sum += seconds;
    }
    return sum;
}

std::pair<double, double> time_both(Context& a, Context& b, const TensorMap& inputs) {
    using Clock = std::chrono::steady_clock;
    const std::vector<NamedView> views = views_of(inputs);
    const auto once = [&](Context& context) {
        const auto start = Clock::now();
        context.run(views);
        return std::chrono::duration<double>(Clock::now() - start).count();
    };
    once(a);
    once(b);
    const double both = once(a) + once(b);
    const int runs = std::clamp(static_cast<int>(kSecondsToMeasure / std::max(both, 1e-6)), kFewestRuns, kMostRuns);
    std::vector<double> first, second;
    for (int i = 0; i < runs; ++i) {
        first.push_back(once(a));
        second.push_back(once(b));
    }
    return {median(std::move(first)), median(std::move(second))};
}

}  // namespace planish::sparsity
