// A network on its way into a plan: the portable graph, and for each target the program that is tuned for it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "build/stages.hpp"
#include "plan/contents.hpp"
#include "planish/planish.hpp"
#include "tuner/tuner.hpp"

namespace planish {

// Levels of optimisation: below kPassLevel the graph stays as it was imported, from kReplayLevel on the timing cache is
// used, from kMeasureLevel on what it lacks is timed.
inline constexpr int kPassLevel = 1, kReplayLevel = 2, kMeasureLevel = 3;

struct Network {
    std::unique_ptr<Graph> graph;
    std::vector<std::unique_ptr<Program>> programs;  // by target; null: the interpreter runs the plan. None: no shapes
    std::vector<bool> tuned;                         // by target
    std::vector<TacticRow> tactics;                  // of the first target
    bool gave_way = false;                           // 8 bits were asked for, and floats are faster
};

/// The inputs of `graph` in its order, out of a sample that names them. Errors: invalid_argument (one is missing).
std::vector<Tensor> sample_inputs(const Graph& graph, const TensorMap& sample);

/// Compiles, tunes and races networks for the targets of a build. What they have in common is kept once: shapes, packed
/// weights, measurements.
class NetworkCompiler {
  public:
    /// Reads the timing cache where one is used. Warnings go into `report`.
    NetworkCompiler(const BuildOptions& options, BuildReport& report, const Stages& stages);

    /// The first network decides the shapes: those of the verification's sample, else of the options, else some of
    /// usual sizes that the model accepts.
    Network compile(std::unique_ptr<Graph> graph);
    /// Replaces each program by one with the tactics that the timing cache knows or that are timed now.
    void tune(Network& network);

    /// Names what an untuned network computes and where, and what its measurement is for: a key of the timing cache.
    std::string key_of(const Network& network, std::string_view purpose) const;

    /// 8 bits are asked for because they are fast: where floats are as fast, the network gives way to `floats`,
    /// compiled and tuned. `key` is that of the untuned network for quantised_or_floats(). The seconds of both when it
    /// did, else nullopt.
    struct Loss {
        double quantised, floats;
    };
    std::string quantised_or_floats() const { return options_.precision + " or fp32"; }
    std::optional<Loss> require_gain(Network& network, std::unique_ptr<Graph> floats, const std::string& key);

    /// Seconds of one run of `network` and of `rival`, which took turns: as the timing cache says for `key`, else as is
    /// measured now. Nullopt: neither can be. Errors: not_found (nothing may be measured, and it is not known).
    std::optional<std::pair<double, double>> race(const Network& network, const Network& rival, const std::string& key,
                                                  const std::pair<std::string, std::string>& names);
    /// The same by step of their programs.
    std::optional<std::pair<std::vector<double>, std::vector<double>>> race_steps(const Network& network,
                                                                                  const Network& rival,
                                                                                  const std::string& key);
    /// The program that is timed: of the first target that this machine can run. Null: there is none.
    const Program* timed_program(const Network& network) const;

    /// Adds what was measured to the timing cache's file.
    void keep_measurements();

    bool tunes() const { return options_.optimization_level >= kReplayLevel && !options_.only_reference; }
    bool measures() const { return options_.optimization_level >= kMeasureLevel && !options_.replay_only; }
    /// As many as an engine takes.
    int threads() const;
    /// That applies to a full target: the CPU computes in float32, or as the graph says.
    std::string precision_of(const std::string& target) const;
    /// Compiles for the shapes of this sample of inputs.
    void expect(const Graph& graph, const TensorMap& sample);
    const std::optional<std::vector<Dims>>& shapes() const { return shapes_; }
    std::vector<plan::Profile> profiles(const Graph& graph) const;
    std::vector<plan::Section> sections(const Network& network) const;
    PackedStore& packed() { return packed_; }

  private:
    CompileOptions compile_options(const std::string& target);
    void compile_for(Network& network, const std::vector<Dims>& shapes);
    /// On the verification's sample, else on random inputs.
    std::unique_ptr<tuner::Stopwatch> make_stopwatch(const Graph& bound) const;
    std::optional<size_t> timed_target(const Network& network) const;
    /// What the timing cache holds for `key`, which `measure` fills in where it may.
    const tuner::Timing* measured(const Network& network, const std::string& key, const std::string& title,
                                  const std::function<void(tuner::Timing&)>& measure);
    std::unique_ptr<tuner::Stopwatch> stopwatch_for(const Network& network) const;
    int effort() const;
    std::string machine_of(const std::string& target) const;

    const BuildOptions& options_;
    BuildReport& report_;
    const Stages& stages_;
    std::optional<std::vector<Dims>> shapes_;
    PackedStore packed_;
    std::shared_ptr<DeviceStore> store_;
    tuner::TimingCache known_, cache_;  // what the file held, and what is known by now
};

}  // namespace planish
