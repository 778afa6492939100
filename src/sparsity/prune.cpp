// planish::prune: channels found, ordered, chosen, removed; what is left adapted and measured.
#include "planish/prune.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/glob.hpp"
#include "build/model.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "sparsity/couplings.hpp"
#include "sparsity/latency.hpp"
#include "sparsity/products.hpp"
#include "sparsity/reconstruct.hpp"

namespace planish {
namespace sparsity {
namespace {

void check_options(const PruneOptions& options) {
    const auto invalid = [](std::string message, std::string hint) {
        fail(ErrorCode::invalid_argument, std::move(message), std::move(hint));
    };
    if (options.speedup == 0 && !(options.ratio >= 0 && options.ratio < 1))
        invalid(fmt::format("the ratio is {}", options.ratio),
                "give the share of channels to remove, from 0 to below 1");
    if (options.speedup != 0 && !(options.speedup > 1))
        invalid(fmt::format("the speed-up is {}", options.speedup), "give a factor above 1");
    if (options.multiple < 1) invalid(fmt::format("multiple is {}", options.multiple), "give 1 or more");
    for (const char* known : {"auto", "l1", "l2", "bn", "activation", "taylor"})
        if (options.criterion == known) {
            if ((options.criterion == "activation" || options.criterion == "taylor") && options.calibration.empty())
                invalid("the criterion '" + options.criterion + "' needs calibration data",
                        "give some dozens of the network's inputs");
            if (options.criterion == "taylor" && options.gradients.empty())
                invalid("the criterion 'taylor' needs gradients", "prune the module with planish.torch.prune");
            return;
        }
    invalid("unknown criterion '" + options.criterion + "'", "criteria are auto, l1, l2, bn, activation, taylor");
}

int64_t constant_bytes(const Graph& graph) {
    int64_t bytes = 0;
    for (const Value* value : graph.values())
        if (value->is_constant()) bytes += value->constant->bytes();
    return bytes;
}

class Pruner {
  public:
    Pruner(std::unique_ptr<Graph> graph, const PruneOptions& options)
        : graph_(std::move(graph)),
          options_(options),
          calibration_(named(options.calibration, *graph_)),
          observer_(calibration_, options.rows, options.threads) {
        report_.criterion = options.criterion != "auto"   ? options.criterion
                            : options.calibration.empty() ? "l2"
                                                          : "activation";
    }

    Pruned run() {
        progress("optimise", "", 0);
        optimise();
        progress("analyse", "", 0.02);
        channels_ = find_channels(*graph_);
        drop_kept_layers();
        if (channels_.groups.empty())
            fail(ErrorCode::invalid_argument, "no channel of this network can be removed",
                 "its layers are tied to its inputs and outputs, or kept by name");
        for (const ChannelGroup& group : channels_.groups)
            allowed_.push_back(allowed_removals(group, options_.multiple));
        curves_ =
            importance(*graph_, channels_, report_.criterion, options_.gradients, observer_, allowed_,
                       [&](std::string_view detail, double part) { progress("analyse", detail, 0.02 + 0.38 * part); });
        if (options_.measure || options_.speedup > 1) sample_ = timing_sample(*graph_, calibration_, options_.shapes);
        progress("choose", "", 0.4);
        const Counts counts = options_.speedup > 1 ? by_speedup() : options_.global ? by_ratio() : by_layer();
        const std::vector<bool> removed = removed_channels(channels_, curves_, counts);
        std::shared_ptr<Graph> pruned = shrink(*graph_, channels_, removed);
        const std::vector<Repair> repairs = adapt(pruned, removed);
        describe(*pruned, removed, repairs);
        return Pruned(std::move(pruned), std::move(report_));
    }

  private:
    void progress(std::string_view stage, std::string_view detail, double fraction) const {
        if (options_.progress && !options_.progress({stage, detail, fraction}))
            fail(ErrorCode::invalid_argument, "the pruning was cancelled");
    }

    // Names of parameters are lost where constants are folded into others.
    void optimise() {
        static constexpr passes::Pass kShapesOnly[] = {
            {"fold-shapes", "sizes in Reshape targets become constants", passes::fold_shapes},
            {"eliminate-dead-code", "shape arithmetic that nothing reads", passes::eliminate_dead_code},
            {"simplify-identities", "they would stand between layers", passes::simplify_identities},
            {"fold-shapes", "targets behind what was removed", passes::fold_shapes},
            {"eliminate-dead-code", "the last of the shape arithmetic", passes::eliminate_dead_code},
        };
        if (options_.keep_parameters)
            passes::run(*graph_, kShapesOnly);
        else
            passes::run(*graph_, passes::portable_pipeline());
    }

    /// What runs in the end, which is what counts where time does: a build folds the parameters that are kept here.
    std::unique_ptr<Graph> deployed(const Graph& graph) const {
        auto copy = graph.clone();
        if (options_.keep_parameters) passes::run(*copy, passes::portable_pipeline());
        return copy;
    }

    void drop_kept_layers() {
        for (const std::string& pattern : options_.keep) {
            bool found = false;
            std::set<const Value*> kept;
            for (const auto& node : graph_->nodes())
                for (const std::string& layer : passes::origins_of(*node))
                    if (matches(pattern, layer)) {
                        found = true;
                        kept.insert(node->output());
                    }
            if (!found)
                fail(ErrorCode::invalid_argument, "no layer is called '" + pattern + "'",
                     "planish inspect MODEL.plan --layers lists them");
            std::erase_if(channels_.groups, [&](const ChannelGroup& group) {
                return std::any_of(group.axes.begin(), group.axes.end(),
                                   [&](int a) { return kept.contains(channels_.axes[static_cast<size_t>(a)].value); });
            });
        }
    }

    int64_t total_channels() const {
        int64_t total = 0;
        for (const ChannelGroup& group : channels_.groups) total += static_cast<int64_t>(group.channels.size());
        return total;
    }

    static double gone(const Counts& counts) {
        double sum = 0;
        for (const size_t n : counts) sum += static_cast<double>(n);
        return sum;
    }

    Counts by_layer() const {
        Counts counts;
        for (size_t g = 0; g < curves_.size(); ++g) {
            const double wanted = options_.ratio * static_cast<double>(channels_.groups[g].channels.size());
            size_t best = 0;
            for (const size_t n : allowed_[g])
                if (std::abs(static_cast<double>(n) - wanted) <= std::abs(static_cast<double>(best) - wanted)) best = n;
            counts.push_back(best);
        }
        return counts;
    }

    Counts by_ratio() const {
        const std::vector<Counts> path = removal_path(curves_, allowed_, gone);
        const double wanted = options_.ratio * static_cast<double>(total_channels());
        const auto at = std::find_if(path.begin(), path.end(), [&](const Counts& c) { return gone(c) >= wanted; });
        return at == path.end() ? path.back() : *at;
    }

    // The model of time orders the steps; how many of them it takes, the clock says.
    Counts by_speedup() {
        const std::vector<RegionTime> regions = region_times(*deployed(*graph_), sample_, options_.threads);
        const TimeModel model(*graph_, channels_, regions);
        const double before = model.seconds(Counts(curves_.size()));
        const std::vector<Counts> path =
            removal_path(curves_, allowed_, [&](const Counts& c) { return before - model.seconds(c); });
        Context whole = engine_of(deployed(*graph_), options_.threads).create_context();
        const auto measured = [&](size_t place) {
            Context smaller =
                engine_of(deployed(*shrink(*graph_, channels_, removed_channels(channels_, curves_, path[place]))),
                          options_.threads)
                    .create_context();
            const auto [a, b] = time_both(whole, smaller, sample_);
            return a / b;
        };
        size_t low = 0, high = path.size() - 1;  // low is too slow, high is fast enough
        if (const double most = measured(high); most < options_.speedup)
            fail(ErrorCode::invalid_argument,
                 fmt::format("a speed-up of {} is out of reach: with all channels gone that may go it is {:.2f}",
                             options_.speedup, most),
                 "ask for less, or let multiples be smaller");
        // Where the model predicts the aim to be, first.
        size_t probe = 0;
        while (probe + 1 < path.size() && model.seconds(path[probe]) * options_.speedup > before) ++probe;
        while (high - low > 1) {
            probe = std::clamp(probe, low + 1, high - 1);
            progress("choose", fmt::format("{} of {} steps", probe, path.size()), 0.5);
            (measured(probe) >= options_.speedup ? high : low) = probe;
            probe = (low + high) / 2;
        }
        return path[high];
    }

    /// Layers are adapted one by one, and what brings each nearer to what it was may still lead the network astray: its
    /// outputs on the samples that no layer was fitted to decide.
    std::vector<Repair> adapt(std::shared_ptr<Graph>& pruned, const std::vector<bool>& removed) {
        if (observer_.empty()) return {};
        ReconstructOptions how;
        how.ridge = options_.ridge;
        how.add_biases = !options_.keep_parameters;
        how.apply = options_.reconstruct;
        how.progress = [&](std::string_view layer, double fraction) {
            progress("reconstruct", layer, 0.6 + 0.35 * fraction);
        };
        std::shared_ptr<Graph> adapted = pruned->clone();
        std::vector<Repair> repairs = reconstruct(*graph_, *adapted, channels_, removed, observer_, how);
        if (!how.apply) return repairs;
        const std::vector<TensorMap>& samples = observer_.samples();
        const OutputError error(*graph_,
                                {samples.end() - std::max<std::ptrdiff_t>(1, std::ssize(samples) / 5), samples.end()},
                                options_.threads);
        if (error.of(*adapted) < error.of(*pruned)) {
            pruned = std::move(adapted);
            return repairs;
        }
        how.apply = false;
        return reconstruct(*graph_, *pruned, channels_, removed, observer_, how);
    }

    void describe(const Graph& pruned, const std::vector<bool>& removed, const std::vector<Repair>& repairs) {
        progress("measure", "", 0.96);
        std::map<std::string, double> before, after;
        if (options_.measure) {
            Context a = engine_of(deployed(*graph_), options_.threads).create_context();
            Context b = engine_of(deployed(pruned), options_.threads).create_context();
            std::tie(report_.seconds_before, report_.seconds) = time_both(a, b, sample_);
            before = seconds_by_layer(*graph_);
            after = seconds_by_layer(pruned);
        }
        std::map<std::string, double> error;
        for (const Repair& repair : repairs) error[repair.layer] = repair.error;
        report_.channels_before = total_channels();
        report_.channels = report_.channels_before - std::count(removed.begin(), removed.end(), true);
        report_.bytes_before = constant_bytes(*graph_);
        report_.bytes = constant_bytes(pruned);
        for (const auto& node : pruned.nodes()) {
            const bool weighted =
                (node->is("Conv") || node->is("ConvTranspose") || node->is("Gemm") || node->is("MatMul")) &&
                node->input(1)->is_constant();
            const Value* then = weighted ? graph_->find_value(node->output()->name) : nullptr;
            if (then == nullptr || then->producer == nullptr) continue;
            const Node& source = *then->producer;
            const int64_t in = node->is("MatMul") ? rank_of(node->input(0)) - 1 : 1,
                          out = node->is("MatMul") ? rank_of(node->output()) - 1 : 1;
            PruneRow row{passes::origins_of(*node).front(), std::string(node->op().name)};
            row.inputs_before = size_of(source.input(0), in);
            row.inputs = size_of(node->input(0), in);
            row.channels_before = size_of(source.output(), out);
            row.channels = size_of(node->output(), out);
            if (const auto it = error.find(row.layer); it != error.end()) row.error = it->second;
            if (const auto it = before.find(row.layer); it != before.end()) row.seconds_before = it->second;
            if (const auto it = after.find(row.layer); it != after.end()) row.seconds = it->second;
            for (const auto& [list, bytes] :
                 {std::pair(source.inputs(), &row.bytes_before), {node->inputs(), &row.bytes}})
                for (const Value* value : list)
                    if (value && value->is_constant()) *bytes += value->constant->bytes();
            report_.layers.push_back(std::move(row));
        }
    }

    /// Seconds of each region, under the first of the layers with weights that it holds.
    std::map<std::string, double> seconds_by_layer(const Graph& graph) const {
        std::set<std::string> weighted;
        for (const Product& product : products_of(graph)) weighted.insert(product.layer());
        for (const auto& node : graph.nodes())
            if (node->is("Conv")) weighted.insert(passes::origins_of(*node).front());
        std::map<std::string, double> result;
        for (const RegionTime& region : region_times(*deployed(graph), sample_, options_.threads))
            for (const std::string& layer : region.layers)
                if (weighted.contains(layer)) {
                    result[layer] += region.seconds;
                    break;
                }
        return result;
    }

    std::shared_ptr<Graph> graph_;
    const PruneOptions& options_;
    std::vector<TensorMap> calibration_;
    Observer observer_;
    PruneReport report_;
    Channels channels_;
    std::vector<Curve> curves_;
    std::vector<std::vector<size_t>> allowed_;
    TensorMap sample_;
};

}  // namespace
}  // namespace sparsity

Pruned::Pruned(std::shared_ptr<const Graph> graph, PruneReport report)
    : Optimised(std::move(graph)), report_(std::make_shared<const PruneReport>(std::move(report))) {}

Pruned prune(const std::filesystem::path& model, const PruneOptions& options) {
    sparsity::check_options(options);
    return sparsity::Pruner(read_model(model).graph, options).run();
}

Pruned prune(std::span<const std::byte> model, const PruneOptions& options,
             const std::filesystem::path& external_data_folder) {
    sparsity::check_options(options);
    return sparsity::Pruner(read_model(model, external_data_folder).graph, options).run();
}

}  // namespace planish
