// Candidates built, measured and chosen.
#include "build/auto_precision.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/glob.hpp"
#include "precision/mixes.hpp"

namespace planish {
namespace {

using precision::Choice;
using precision::LayerGroup;
using precision::Mix;

constexpr size_t kFloat = 0, kInteger = 1;  // places in every list of choices

/// Shares the times of a program's steps out to the groups whose layers run in them, by their multiplications. What
/// holds no such layer (a conversion, a reorder) is charged to the layers that run next.
std::vector<double> seconds_of_groups(const std::vector<LayerGroup>& groups, const std::vector<StepInfo>& steps,
                                      const std::vector<double>& seconds) {
    std::map<std::string, std::pair<size_t, double>> by_layer;  // group, multiplications
    for (size_t g = 0; g < groups.size(); ++g)
        for (const LayerGroup::Member& member : groups[g].members)
            for (const std::string& layer : member.layers)
                by_layer[layer] = {g, static_cast<double>(member.products) / static_cast<double>(member.layers.size())};
    std::vector<double> result(groups.size());
    std::map<size_t, double> last;
    double waiting = 0;
    const auto share = [&](double time) {
        double sum = 0;
        for (const auto& [g, products] : last) sum += products;
        for (const auto& [g, products] : last) result[g] += time * products / sum;
    };
    for (size_t s = 0; s < steps.size(); ++s) {
        std::map<size_t, double> here;
        for (const std::string& layer : steps[s].layers)
            if (const auto it = by_layer.find(layer); it != by_layer.end())
                here[it->second.first] += std::max(it->second.second, 1.0);
        waiting += seconds[s];
        if (here.empty()) continue;
        last = std::move(here);
        share(waiting);
        waiting = 0;
    }
    if (!last.empty()) share(waiting);
    return result;
}

/// Seconds for each byte that is read or written where floats become integers; where there is no such step, of the step
/// that moves its bytes fastest.
double seconds_per_byte(const std::vector<StepInfo>& steps, const std::vector<double>& seconds) {
    double conversion = 0, least = 1e-9;
    for (size_t s = 0; s < steps.size(); ++s) {
        if (steps[s].bytes == 0 || seconds[s] == 0) continue;
        const double here = seconds[s] / static_cast<double>(steps[s].bytes);
        least = std::min(least, here);
        if (steps[s].op == "QuantizeLinear") conversion = std::max(conversion, here);
    }
    return conversion > 0 ? conversion : least;
}

class Search {
  public:
    Search(const Graph& floats, const BuildOptions& options, const Quantise& quantise, Accuracy& accuracy,
           NetworkCompiler& compiler, Stages& stages, BuildReport& report)
        : graph_(floats),
          options_(options),
          quantise_(quantise),
          accuracy_(accuracy),
          compiler_(compiler),
          stages_(stages),
          report_(report),
          start_(Stages::Clock::now()) {}

    Network run() {
        build_floats();
        begin("int8");
        build("int8", {}, Mix());
        if (groups_.empty()) {
            report_.warnings.push_back("no layer of this network can be quantised: it stays in float32");
        } else {
            measure_parts();
            explore();
        }
        Candidate& chosen = choose();
        describe(chosen);
        return std::move(chosen.network);
    }

  private:
    struct Candidate {
        MixRow row;
        Network network;
        std::string key;  // of the untuned network
        std::vector<PrecisionRow> precision;
        std::vector<OutputErrorRow> output_errors;
        Mix mix;  // empty: float32, or whatever can be int8
    };

    void begin(const std::string& name) {
        constexpr double kFrom = 0.3, kTo = 0.75;  // of the build
        const double all = options_.accuracy.mixes + 2;
        const auto done = static_cast<double>(candidates_.size());
        stages_.begin(name, kFrom + (kTo - kFrom) * done / all, kFrom + (kTo - kFrom) * (done + 1) / all);
    }

    void build_floats() {
        begin("fp32");
        Candidate floats;
        floats.row.name = "fp32";
        compile(floats, graph_.clone());
        if (compiler_.timed_program(floats.network) == nullptr)
            fail(ErrorCode::invalid_argument, "precision 'auto' needs to run the network, and this machine cannot",
                 "give shapes to compile for, and a target of this machine; or say which layers are int8 yourself: "
                 "--precision int8 --layer-precision");
        accuracy_.set_floats(plan_of(floats.network));
        measure_accuracy(floats);
        floats.row.seconds = INFINITY;
        candidates_.push_back(std::move(floats));
    }

    void compile(Candidate& candidate, std::unique_ptr<Graph> graph) {
        candidate.network = compiler_.compile(std::move(graph));
        candidate.key = compiler_.key_of(candidate.network, "mix or fp32");
        compiler_.tune(candidate.network);
    }

    Plan plan_of(const Network& network) const {
        auto contents = std::make_shared<plan::PlanContents>();
        contents->graph = network.graph->clone();
        contents->profiles = compiler_.profiles(*network.graph);
        contents->sections = compiler_.sections(network);
        return Plan(std::move(contents), {});
    }

    /// The network with `pins`, measured as a whole.
    void build(const std::string& name, const StringPairs& pins, Mix mix) {
        Candidate candidate;
        candidate.row.name = name;
        candidate.mix = std::move(mix);
        std::unique_ptr<Graph> graph = graph_.clone();
        const bool first = candidates_.size() == 1;
        precision::QuantizeResult result = quantise_(*graph, pins, first);
        if (first) groups_ = std::move(result.groups);
        candidate.precision = std::move(result.layers);
        candidate.output_errors = std::move(result.outputs);
        candidate.row.layers =
            static_cast<int>(std::count_if(candidate.precision.begin(), candidate.precision.end(),
                                           [](const PrecisionRow& row) { return row.after == "int8"; }));
        compile(candidate, std::move(graph));
        Candidate& floats = candidates_.front();
        const auto seconds = compiler_.race(candidate.network, floats.network, candidate.key, {"mix", "fp32"});
        if (!seconds)
            fail(ErrorCode::invalid_argument, "precision 'auto' needs the networks' times, and cannot measure them",
                 "build at optimization level 3 or above with inputs that the model takes (--sample), or with a timing "
                 "cache that knows this network");
        // All are held against float32 as it ran beside the first, so that the machine's mood leaves no trace.
        if (first) floats.row.seconds = seconds->second;
        candidate.row.seconds = floats.row.seconds * seconds->first / seconds->second;
        measure_accuracy(candidate);
        candidates_.push_back(std::move(candidate));
    }

    void measure_accuracy(Candidate& candidate) const {
        const Plan plan = plan_of(candidate.network);
        MixRow& row = candidate.row;
        row.accuracy = accuracy_.on_calibration(plan);
        row.held_out = accuracy_.on_held_out(plan);
        row.met = accuracy_.met(row.accuracy) && accuracy_.met(row.accuracy_to_expect());
    }

    void measure_parts() {
        const Candidate &floats = candidates_[0], &integers = candidates_[1];
        const auto seconds = compiler_.race_steps(integers.network, floats.network,
                                                  compiler_.key_of(integers.network, "regions, " + floats.key));
        if (!seconds)
            fail(ErrorCode::invalid_argument, "the times of the network's regions are not known",
                 "build without --replay-only, or with another timing cache");
        const std::vector<StepInfo> steps = compiler_.timed_program(integers.network)->steps();
        const std::vector<double> integer = seconds_of_groups(groups_, steps, seconds->first),
                                  real = seconds_of_groups(groups_, compiler_.timed_program(floats.network)->steps(),
                                                           seconds->second);
        // A conversion reads floats and writes bytes, or keeps floats where bytes would do.
        constexpr double kBytes = 5;
        const double each = kBytes * seconds_per_byte(steps, seconds->first);
        for (size_t g = 0; g < groups_.size(); ++g) {
            parts_.push_back({{"fp32", real[g], 0}, {"int8", integer[g], groups_[g].noise}});
            if (is_pinned(groups_[g])) parts_[g].erase(parts_[g].begin());
            for (const LayerGroup::Border& border : groups_[g].borders)
                crossings_.push_back({border.group, g, each * static_cast<double>(border.elements)});
        }
    }

    /// Does the user want it in integers?
    bool is_pinned(const LayerGroup& group) const {
        std::string pin;
        for (const LayerGroup::Member& member : group.members)
            for (const std::string& layer : member.layers)
                for (const auto& [pattern, precision] : options_.calibration.layer_precision)
                    if (matches(pattern, layer, '?')) pin = precision;
        return pin == "int8";
    }
    bool may_stay_float() const {
        return std::none_of(groups_.begin(), groups_.end(), [&](const LayerGroup& g) { return is_pinned(g); });
    }

    StringPairs pins_of(const Mix& mix) const {
        StringPairs pins;
        for (size_t g = 0; g < mix.size(); ++g)
            if (parts_[g][mix[g]].precision == "fp32")
                for (const LayerGroup::Member& member : groups_[g].members)
                    for (const std::string& layer : member.layers) pins.emplace_back(layer, "fp32");
        return pins;
    }

    void explore() {
        std::vector<Mix> path = precision::search_path(parts_, crossings_);
        // Float32 throughout was measured first.
        if (pins_of(path.back()).size() == pins_of(Mix(groups_.size(), kFloat)).size() && may_stay_float())
            path.pop_back();
        if (path.empty()) return;
        std::set<size_t> measured;
        const auto met = [&](size_t place) {
            measured.insert(place);
            if (pins_of(path[place]).empty()) return candidates_[1].row.met;
            const std::string name = fmt::format("mix {}", candidates_.size() - 1);
            begin(name);
            build(name, pins_of(path[place]), path[place]);
            return candidates_.back().row.met;
        };
        // Places at `low` and before cost too much, from `high` on they are within the budget.
        ptrdiff_t low = -1, high = static_cast<ptrdiff_t>(path.size());
        if (may_go_on()) (met(0) ? high : low) = 0;
        while (high - low > 1 && high > 0 && may_go_on()) {
            const ptrdiff_t middle = (low + high) / 2;
            (met(static_cast<size_t>(middle)) ? high : low) = middle;
        }
        // The rest of the front, for the user to choose from.
        while (may_go_on() && measured.size() < path.size()) met(widest_gap(path, measured));
    }

    bool may_go_on() const {
        const double limit = options_.accuracy.time_limit;
        const double spent = std::chrono::duration<double>(Stages::Clock::now() - start_).count();
        return static_cast<int>(candidates_.size()) < options_.accuracy.mixes + 2 && (limit < 0 || spent < limit);
    }

    /// The place whose predicted time is farthest from those of all that were measured.
    size_t widest_gap(const std::vector<Mix>& path, const std::set<size_t>& measured) const {
        size_t best = 0;
        double widest = -1;
        const auto time = [&](size_t place) { return precision::seconds_of(path[place], parts_, crossings_); };
        for (size_t place = 0; place < path.size(); ++place) {
            if (measured.contains(place)) continue;
            double gap = INFINITY;
            for (const size_t other : measured) gap = std::min(gap, std::abs(time(place) - time(other)));
            if (gap > widest) {
                widest = gap;
                best = place;
            }
        }
        return best;
    }

    Candidate& choose() {
        if (groups_.empty()) {
            candidates_.resize(1);
            candidates_[0].row.seconds = 0;
        }
        std::stable_sort(candidates_.begin(), candidates_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.row.seconds < b.row.seconds; });
        for (Candidate& candidate : candidates_)
            candidate.row.on_front = std::none_of(candidates_.begin(), candidates_.end(), [&](const Candidate& other) {
                const double here = candidate.row.accuracy_to_expect(), there = other.row.accuracy_to_expect();
                return accuracy_.budget().better(there, here)
                           ? other.row.seconds <= candidate.row.seconds
                           : there == here && other.row.seconds < candidate.row.seconds;
            });
        // What comes behind float32 is slower than it.
        for (Candidate& candidate : candidates_)
            if (candidate.row.met && (candidate.row.name != "fp32" || may_stay_float())) return candidate;
        unreachable();
    }

    [[noreturn]] void unreachable() const {
        const MixRow* best = nullptr;
        double reached = 0;
        for (const Candidate& candidate : candidates_) {
            if (candidate.row.name == "fp32" && !may_stay_float()) continue;
            const double calibrated = candidate.row.accuracy, expected = candidate.row.accuracy_to_expect();
            const double value = accuracy_.budget().better(calibrated, expected) ? expected : calibrated;
            if (best != nullptr && !accuracy_.budget().better(value, reached)) continue;
            best = &candidate.row;
            reached = value;
        }
        fail(ErrorCode::verification_failed,
             fmt::format("the accuracy budget {} cannot be met: the best reachable is {} = {:.6g}, by {}",
                         options_.accuracy.budget, accuracy_.budget().metric, reached, best->name),
             may_stay_float() ? "ask for what float32 has itself, or less"
                              : "leave it more layers than those pinned to int8");
    }

    void describe(Candidate& chosen) {
        chosen.row.chosen = true;
        report_.budget = options_.accuracy.budget;
        for (const Candidate& candidate : candidates_) report_.mixes.push_back(candidate.row);
        const bool floats = chosen.row.name == "fp32";
        std::map<std::string, std::string> reasons;  // by node: why it is not in integers
        for (size_t g = 0; g < groups_.size(); ++g) {
            const std::vector<Choice>& choices = parts_[g];
            PrecisionGroupRow row;
            for (const LayerGroup::Member& member : groups_[g].members)
                row.layers.insert(row.layers.end(), member.layers.begin(), member.layers.end());
            for (const Choice& choice : choices)
                row.choices.push_back({choice.precision, choice.seconds, choice.noise});
            row.chosen = floats ? "fp32" : chosen.mix.empty() ? "int8" : choices[chosen.mix[g]].precision;
            const bool slower = choices.size() > kInteger && choices[kInteger].seconds >= choices[kFloat].seconds;
            for (const LayerGroup::Member& member : groups_[g].members)
                reasons[member.name] =
                    slower ? "not faster with integers" : "float32 in the fastest mix within the budget";
            report_.groups.push_back(std::move(row));
        }
        // The quantiser knows of pins only.
        report_.precision = floats && candidates_.size() > 1 ? integer_rows() : std::move(chosen.precision);
        for (PrecisionRow& row : report_.precision) {
            if (floats) row.after = "fp32";
            const auto reason = reasons.find(row.layer);
            if (row.after == "fp32" && reason != reasons.end()) row.note = reason->second;
        }
        report_.output_errors = std::move(chosen.output_errors);
    }

    std::vector<PrecisionRow> integer_rows() const {
        for (const Candidate& candidate : candidates_)
            if (candidate.row.name == "int8") return candidate.precision;
        return {};
    }

    const Graph& graph_;
    const BuildOptions& options_;
    const Quantise& quantise_;
    Accuracy& accuracy_;
    NetworkCompiler& compiler_;
    Stages& stages_;
    BuildReport& report_;
    Stages::Clock::time_point start_;
    std::vector<Candidate> candidates_;  // float32 first, then int8
    std::vector<LayerGroup> groups_;
    std::vector<std::vector<Choice>> parts_;  // by group
    std::vector<precision::Crossing> crossings_;
};

}  // namespace

Network build_mix(const Graph& floats, const BuildOptions& options, const Quantise& quantise, Accuracy& accuracy,
                  NetworkCompiler& compiler, Stages& stages, BuildReport& report) {
    return Search(floats, options, quantise, accuracy, compiler, stages, report).run();
}

}  // namespace planish
