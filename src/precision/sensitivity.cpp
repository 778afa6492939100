// One float run for each sample, and from each group's layers on another one with their operands rounded.
#include "precision/sensitivity.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "passes/rewrite.hpp"
#include "precision/comparison.hpp"
#include "precision/samples.hpp"

namespace planish::precision {
namespace {

using Values = std::unordered_map<const Value*, RefValue>;

class Experiment {
  public:
    Experiment(const Graph& graph, std::span<const Layer> layers, std::span<const TensorMap> samples,
               const Rounding& rounding, int threads)
        : graph_(graph), samples_(samples), padding_(samples), rounding_(rounding) {
        std::unordered_map<const Value*, size_t> group_of;
        for (const Layer& layer : layers) {
            const auto [it, fresh] = group_of.try_emplace(layer.input(), groups_.size());
            if (fresh) groups_.emplace_back();
            layers_.emplace(&layer.node(), Place{&layer, it->second});
        }
        for (const auto& node : graph.nodes()) {
            const auto it = layers_.find(node.get());
            steps_.push_back({node.get(), it == layers_.end() ? nullptr : &it->second,
                              std::make_unique<NodeRunner>(*node, std::map<int, Tensor>{}, threads), nullptr});
            if (it == layers_.end()) continue;
            steps_.back().rounded = std::make_unique<NodeRunner>(
                *node, std::map<int, Tensor>{{1, rounding.weights(*it->second.layer)}}, threads);
        }
        find_borders();
    }

    /// `done(group)` after each.
    void run(size_t sample, const std::function<void(size_t)>& done) {
        Values exact;
        for (const Value* input : graph_.inputs()) exact[input] = RefValue(samples_[sample].at(input->name));
        const Values none;
        for (const Step& step : steps_) {
            compute(*step.runner, *step.node, none, exact, exact);
            if (sample == 0 && step.place != nullptr) describe(step, exact);
        }
        for (size_t g = 0; g < groups_.size(); ++g) {
            Values changed;
            for (const Step& step : steps_) {
                if (step.place != nullptr && step.place->group == g) {
                    const Value* input = step.place->layer->input();
                    Values rounded;
                    rounded[input] = RefValue(rounding_.input(*step.place->layer, exact.at(input).tensor));
                    compute(*step.rounded, *step.node, rounded, exact, changed);
                } else if (reads(*step.node, changed)) {
                    compute(*step.runner, *step.node, changed, exact, changed);
                }
            }
            for (size_t o = 0; o < graph_.outputs().size(); ++o) {
                const Value* output = graph_.outputs()[o];
                const auto it = changed.find(output);
                if (output->type.dtype != DType::f32 || output->is_constant()) continue;
                const Tensor& wanted = exact.at(output).tensor;
                compared_[{g, o}].add(padding_.strip(wanted, sample),
                                      padding_.strip(it == changed.end() ? wanted : it->second.tensor, sample));
            }
            done(g);
        }
    }

    std::vector<LayerGroup> result() {
        for (const auto& [at, comparison] : compared_)
            if (comparison.noise > 0) groups_[at.first].noise += comparison.noise / comparison.signal;
        return std::move(groups_);
    }

    size_t groups() const { return groups_.size(); }

  private:
    struct Place {
        const Layer* layer;
        size_t group;
    };
    struct Step {
        const Node* node;
        const Place* place;  // null: no layer
        std::unique_ptr<NodeRunner> runner, rounded;
    };

    static bool reads(const Node& node, const Values& values) {
        return std::any_of(node.inputs().begin(), node.inputs().end(),
                           [&](const Value* input) { return values.contains(input); });
    }

    /// Inputs come from `changed` where they are there.
    static void compute(NodeRunner& runner, const Node& node, const Values& changed, const Values& exact, Values& to) {
        std::vector<const RefValue*> inputs;
        for (const Value* input : node.inputs()) {
            const auto it = changed.find(input);
            inputs.push_back(input == nullptr || input->is_constant() ? nullptr
                             : it != changed.end()                    ? &it->second
                                                                      : &exact.at(input));
        }
        std::vector<RefValue> results = runner.run(inputs);
        for (size_t i = 0; i < results.size(); ++i)
            if (node.outputs()[i] != nullptr) to[node.outputs()[i]] = std::move(results[i]);
    }

    void describe(const Step& step, const Values& exact) {
        const Layer& layer = *step.place->layer;
        const Tensor& x = exact.at(layer.input()).tensor;
        LayerGroup& group = groups_[step.place->group];
        group.members.push_back({step.node->name, passes::origins_of(*step.node),
                                 layer.places(x.dims()) * layer.terms() * layer.channels()});
        for (LayerGroup::Border& border : group.borders) border.elements = x.size();
    }

    void find_borders() {
        for (const auto& [node, place] : layers_) {
            std::set<size_t> makers;
            std::set<const Value*> met;
            collect_makers(place.layer->input(), makers, met);
            LayerGroup& group = groups_[place.group];
            if (!group.borders.empty()) continue;
            for (const size_t maker : makers)
                if (maker != place.group) group.borders.push_back({maker, 0});
        }
    }

    void collect_makers(const Value* value, std::set<size_t>& makers, std::set<const Value*>& met) const {
        if (value == nullptr || value->producer == nullptr || !met.insert(value).second) return;
        if (const auto it = layers_.find(value->producer); it != layers_.end()) {
            makers.insert(it->second.group);
            return;
        }
        for (const Value* input : value->producer->inputs()) collect_makers(input, makers, met);
    }

    const Graph& graph_;
    std::span<const TensorMap> samples_;
    Padding padding_;
    const Rounding& rounding_;
    std::vector<LayerGroup> groups_;
    std::unordered_map<const Node*, Place> layers_;
    std::vector<Step> steps_;
    std::map<std::pair<size_t, size_t>, Comparison> compared_;  // by group and output
};

}  // namespace

std::vector<LayerGroup> sensitivities(const Graph& graph, std::span<const Layer> layers,
                                      std::span<const TensorMap> samples, const Rounding& rounding, int threads,
                                      const std::function<void(double fraction)>& progress) {
    Experiment experiment(graph, layers, samples, rounding, threads);
    for (size_t s = 0; s < samples.size(); ++s)
        experiment.run(s, [&](size_t group) {
            progress(
                (static_cast<double>(s) + static_cast<double>(group + 1) / static_cast<double>(experiment.groups())) /
                static_cast<double>(samples.size()));
        });
    return experiment.result();
}

}  // namespace planish::precision
