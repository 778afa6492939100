// planish::build: a model file in, a verified plan out.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <unordered_map>

#include "backends/backend.hpp"
#include "backends/cuda/gpu.hpp"
#include "base/cpu_budget.hpp"
#include "base/hash.hpp"
#include "base/mapped_file.hpp"
#include "base/thread_pool.hpp"
#include "build/verify.hpp"
#include "importers/onnx/importer.hpp"
#include "passes/pass.hpp"
#include "plan/contents.hpp"
#include "plan/plan_io.hpp"
#include "planish/planish.hpp"
#include "precision/quantize.hpp"
#include "precision/table.hpp"
#include "reference/interpreter.hpp"
#include "runtime/compile.hpp"
#include "tuner/tuner.hpp"

namespace planish {
namespace {

using Clock = std::chrono::steady_clock;

// Levels of optimisation: below kPassLevel the graph stays as it was imported, from kReplayLevel on the timing cache is
// used, from kMeasureLevel on what it lacks is timed, more often at the levels above.
constexpr int kPassLevel = 1, kReplayLevel = 2, kMeasureLevel = 3;
constexpr int kEffort[] = {0, 0, 0, 1, 3, 10};

// Reports progress over the whole build from the progress of its stages, and keeps their times.
class Stages {
  public:
    Stages(const BuildOptions& options, BuildReport& report) : options_(options), report_(report) {}

    void begin(std::string_view stage, double from, double to) {
        end();
        stage_ = stage;
        from_ = from;
        to_ = to;
        start_ = Clock::now();
        update("", 0);
    }
    void update(std::string_view detail, double fraction) const {
        if (options_.progress && !options_.progress({stage_, detail, from_ + (to_ - from_) * fraction}))
            fail(ErrorCode::invalid_argument, "the build was cancelled");
    }
    void end() {
        if (!stage_.empty())
            report_.seconds.emplace_back(stage_, std::chrono::duration<double>(Clock::now() - start_).count());
        stage_.clear();
    }

  private:
    const BuildOptions& options_;
    BuildReport& report_;
    std::string stage_;
    double from_ = 0, to_ = 0;
    Clock::time_point start_;
};

/// A plan is built again from its portable core, for other targets or in another precision.
bool is_plan(std::span<const std::byte> bytes) {
    return plan::describe_foreign(bytes).empty();
}

void check_options(const BuildOptions& options) {
    if (options.targets.empty())
        fail(ErrorCode::invalid_argument, "no target given", "targets are cpu, cpu:avx2, cpu:avx512, cuda:sm_90a, ...");
    bool gpu = false;
    for (const std::string& target : options.targets) gpu = runtime::full_target(target).starts_with("cuda:") || gpu;
    if (options.optimization_level < 0 || options.optimization_level > 5)
        fail(ErrorCode::invalid_argument, "the optimization level is " + std::to_string(options.optimization_level),
             "levels are 0 to 5");
    if (options.replay_only && (options.timing_cache.empty() || options.optimization_level < kReplayLevel))
        fail(ErrorCode::invalid_argument, "replay only, but no timing cache is used",
             "give one, and an optimization level of 2 or more");
    if (options.precision == "fp32") return;
    if (options.precision == "int8") {
        if (gpu)
            fail(ErrorCode::unsupported, "precision 'int8' is not available on GPUs in this version",
                 "build for the CPU, or for a GPU with tf32, fp16 or bf16");
        if (options.calibration.samples.empty() && !options.calibration.next)
            fail(ErrorCode::invalid_argument, "precision 'int8' needs calibration data, and none was given",
                 "give 100 or so real inputs: --calib FOLDER or FILE.npz, calibration= in Python, "
                 "BuildOptions::calibration in C++");
        precision::parse_method(options.calibration.method);
        return;
    }
    for (std::string_view known : {"tf32", "fp16", "bf16"}) {
        if (options.precision != known) continue;
        if (gpu) return;
        fail(ErrorCode::unsupported,
             "precision '" + options.precision + "' is not available on the CPU in this version",
             "build with precision fp32, or for a GPU: --target cuda:sm_90a");
    }
    for (std::string_view known : {"fp8", "auto"})
        if (options.precision == known)
            fail(ErrorCode::unsupported, "precision '" + options.precision + "' is not available in this version",
                 "build with precision fp32, or for a GPU with tf32, fp16 or bf16");
    fail(ErrorCode::invalid_argument, "unknown precision '" + options.precision + "'",
         "precisions are fp32, tf32, fp16, bf16, int8, fp8, auto");
}

std::string dims_text(const Dims& dims) {
    return to_string(std::span<const int64_t>(dims));
}

// The user's shape ranges: checked against the model, minimum = maximum bound into the graph.
void bind_shapes(Graph& graph, const BuildOptions& options) {
    std::string names;
    for (const Value* input : graph.inputs()) names += (names.empty() ? "" : ", ") + input->name;
    SymbolTable fixed;
    for (const auto& [name, range] : options.shapes) {
        Value* input = nullptr;
        for (Value* candidate : graph.inputs())
            if (candidate->name == name) input = candidate;
        if (input == nullptr)
            fail(ErrorCode::invalid_argument, "shapes name an input '" + name + "' that the model does not have",
                 "its inputs are: " + names);
        if (!input->type.shape) input->type.shape = Shape(range.opt.size(), Dim::unknown());
        Shape& shape = *input->type.shape;
        if (range.min.size() != shape.size() || range.opt.size() != shape.size() || range.max.size() != shape.size())
            fail(ErrorCode::invalid_argument,
                 fmt::format("input '{}' has rank {} ({}), but a shape of rank {} was given", name, shape.size(),
                             to_string(shape), range.opt.size()));
        for (size_t i = 0; i < shape.size(); ++i) {
            if (range.min[i] > range.opt[i] || range.opt[i] > range.max[i])
                fail(ErrorCode::invalid_argument,
                     fmt::format("input '{}': shapes must satisfy min <= opt <= max, got {} {} {}", name,
                                 dims_text(range.min), dims_text(range.opt), dims_text(range.max)));
            if (const auto d = shape[i].value(); d && (*d != range.min[i] || *d != range.max[i]))
                fail(ErrorCode::invalid_argument,
                     fmt::format("input '{}': axis {} is fixed to {} by the model, shapes say {} to {}", name, i, *d,
                                 range.min[i], range.max[i]));
            if (range.min[i] != range.max[i]) continue;
            if (shape[i].is_symbol()) fixed[shape[i].to_string()] = range.min[i];
            shape[i] = range.min[i];
        }
    }
    if (fixed.empty() && options.shapes.empty()) return;
    for (Value* input : graph.inputs())
        if (input->type.shape)
            for (Dim& d : *input->type.shape) d = d.substitute(fixed);
    graph.infer();
}

// Shapes to compile and verify with where the user gave none: sizes that networks of the usual kinds accept.
std::optional<std::vector<Dims>> opt_shapes(const Graph& graph, const BuildOptions& options, int64_t guess) {
    SymbolTable symbols;
    for (const Value* input : graph.inputs()) {
        if (!input->type.shape) return std::nullopt;
        const auto given = options.shapes.find(input->name);
        const Shape& shape = *input->type.shape;
        for (size_t i = 0; i < shape.size(); ++i) {
            std::vector<std::string> names;
            shape[i].collect_symbols(names);
            for (const std::string& name : names)
                if (given != options.shapes.end() && shape[i].is_symbol())
                    symbols[name] = given->second.opt[i];
                else
                    symbols.try_emplace(name, i == 0 ? 1 : guess);
        }
    }
    std::vector<Dims> result;
    for (const Value* input : graph.inputs()) {
        const auto given = options.shapes.find(input->name);
        Dims dims;
        for (size_t i = 0; i < input->type.shape->size(); ++i) {
            const auto d = (*input->type.shape)[i].substitute(symbols).value();
            dims.push_back(d ? *d : given != options.shapes.end() ? given->second.opt[i] : i == 0 ? 1 : guess);
        }
        result.push_back(std::move(dims));
    }
    return result;
}

std::vector<LayerRow> layer_rows(const Program& program) {
    std::vector<LayerRow> rows;
    for (StepInfo& step : program.steps())
        rows.push_back({step.name, step.layers, step.op, step.implementation, step.placement, step.dtype, step.flops,
                        step.bytes, std::move(step.refused)});
    return rows;
}

// Throws for the first row over tolerance, with all such rows counted.
void require_passed(const std::vector<VerificationRow>& rows) {
    const VerificationRow* first = nullptr;
    int failed = 0;
    for (const VerificationRow& row : rows) {
        if (row.passed) continue;
        ++failed;
        if (first == nullptr) first = &row;
    }
    if (first == nullptr) return;
    std::string layers;
    for (const std::string& layer : first->layers) layers += (layers.empty() ? "" : ", ") + layer;
    fail(ErrorCode::verification_failed,
         fmt::format("'{}'{}{} differs from the reference by {:.3g}, tolerance {:.3g}{}{}", first->name,
                     layers.empty() ? "" : " (" + layers + ")",
                     first->implementation.empty() ? "" : " computed by " + first->implementation, first->error,
                     first->tolerance, first->note.empty() ? "" : ": " + first->note,
                     failed > 1 ? fmt::format("; {} more are over tolerance", failed - 1) : ""),
         "no plan was written; `planish compare` shows every region, --disable excludes an implementation");
}

/// Of the values that a network computed in `precision` is made of.
double roundoff_of(const std::string& precision) {
    return precision == "fp16" || precision == "tf32" ? 0x1p-11 : precision == "bf16" ? 0x1p-8 : 0x1p-24;
}

std::vector<Tensor> sample_inputs(const Graph& graph, const TensorMap& sample) {
    std::vector<Tensor> inputs;
    for (const Value* input : graph.inputs()) {
        const auto it = sample.find(input->name);
        if (it == sample.end())
            fail(ErrorCode::invalid_argument, "the verification sample misses input '" + input->name + "'");
        inputs.push_back(it->second);
    }
    return inputs;
}

std::vector<Tensor> reference_outputs(const Graph& graph, const std::vector<Tensor>& inputs) {
    std::vector<RefValue> values(inputs.begin(), inputs.end());
    std::vector<Tensor> result;
    for (RefValue& value : reference::run_graph(graph, std::move(values))) result.push_back(std::move(value.tensor));
    return result;
}

// Why two runs on the same inputs cannot be compared, or "".
std::string not_comparable(const Graph& graph) {
    for (const Value* input : graph.inputs())
        if (input->type.kind != Kind::tensor) return "input '" + input->name + "' is not a tensor";
    for (const auto& node : graph.nodes()) {
        // A Dropout is random only while it trains.
        const Value* training = node->is("Dropout") ? node->input(2) : nullptr;
        const bool resting =
            node->is("Dropout") && (!training || (training->is_constant() && training->constant->at_int64(0) == 0));
        if (has(node->op().traits, Trait::nondeterministic) && !resting)
            return "'" + node->name + "' makes random numbers";
        for (const auto& [_, attribute] : node->attributes)
            if (const GraphPtr* body = std::get_if<GraphPtr>(&attribute))
                if (std::string reason = not_comparable(**body); !reason.empty()) return reason;
    }
    return {};
}

class Builder {
  public:
    explicit Builder(const BuildOptions& options) : options_(options), stages_(options, report_) {
        check_options(options);
    }

    Plan run(std::span<const std::byte> bytes, const std::function<std::unique_ptr<Graph>()>& import) {
        if (tunes() && !options_.timing_cache.empty()) cache_ = tuner::TimingCache::read(options_.timing_cache);
        stages_.begin("import", 0, 0.1);
        std::unique_ptr<Graph> imported = import();
        bind_shapes(*imported, options_);
        contents_ = std::make_shared<plan::PlanContents>();
        contents_->provenance.source = {{"format", is_plan(bytes) ? "plan" : "onnx"},
                                        {"xxh3", hash_text(bytes)},
                                        {"bytes", std::to_string(bytes.size())}};

        stages_.begin("optimise", 0.1, 0.3);
        contents_->graph = imported->clone();
        optimise(*contents_->graph);

        std::unique_ptr<Graph> real;  // what integers have to beat
        if (options_.precision == "int8") {
            stages_.begin("quantise", 0.3, 0.5);
            real = contents_->graph->clone();
            quantise(*contents_->graph);
        }

        stages_.begin("compile", 0.5, 0.55);
        compile();

        if (tunes()) {
            stages_.begin("tune", 0.55, 0.75);
            const tuner::TimingCache before = cache_;
            const std::string key = network_key();
            tune();
            if (real != nullptr) require_gain(std::move(real), key);
            keep_measurements(before);
        }
        write_sections();
        if (options_.verify) {
            stages_.begin("verify", 0.75, 0.98);
            verify(*imported);
        }
        store_packed();
        stages_.end();
        describe();
        return Plan(contents_, std::move(report_));
    }

  private:
    static std::string hash_text(std::span<const std::byte> bytes) { return hash128(bytes).to_hex(); }

    void optimise(Graph& graph) {
        passes::PassOptions options;
        options.disabled = options_.disabled_passes;
        if (options_.optimization_level < kPassLevel)
            for (const passes::Pass& pass : passes::portable_pipeline()) options.disabled.emplace_back(pass.name);
        options.dump_after = options_.dump_after;
        options.dump = [&](std::string_view pass, const Graph& g) {
            const auto path = options_.dump_folder / (std::string(pass) + ".txt");
            std::ofstream file(path);
            file << print(g);
            if (!file) fail(ErrorCode::io_error, "cannot write the dump '" + path.string() + "'");
        };
        options.progress = [&](std::string_view pass, int index, int count) {
            stages_.update(pass, static_cast<double>(index) / count);
        };
        for (const passes::PassReport& row : passes::run(graph, passes::portable_pipeline(), options))
            report_.passes.push_back({row.name, row.changes, row.seconds});
    }

    void quantise(Graph& graph) {
        const CalibrationOptions& given = options_.calibration;
        std::vector<TensorMap> samples = given.samples;
        if (given.next)
            for (TensorMap sample; given.next(sample); sample.clear()) samples.push_back(sample);
        // A model of one input need not have it named.
        for (TensorMap& sample : samples)
            if (graph.inputs().size() == 1 && sample.size() == 1 && sample.begin()->first.empty())
                sample = {{graph.inputs()[0]->name, sample.begin()->second}};
        precision::QuantizeOptions options;
        options.method = precision::parse_method(given.method);
        options.percentile = given.percentile;
        options.equalise = given.equalise;
        options.compensate = given.compensate;
        options.round_jointly = given.round_jointly;
        options.correct_bias = given.correct_bias;
        options.layer_precision = given.layer_precision;
        options.threads = threads();
        options.progress = [&](std::string_view detail, double fraction) { stages_.update(detail, fraction); };
        precision::CalibrationTable table;
        if (!given.table.empty()) {
            table = precision::read_table(given.table);
            options.table = &table;
        }
        precision::QuantizeResult result = precision::quantize(graph, samples, options);
        if (!given.save_table.empty()) precision::write_table(given.save_table, result.table);
        report_.precision = std::move(result.layers);
        report_.output_errors = std::move(result.outputs);
    }

    void compile() {
        const Graph& graph = *contents_->graph;
        if (!options_.samples.empty()) {
            shapes_.emplace();
            for (const Tensor& t : sample_inputs(graph, options_.samples[0])) shapes_->push_back(t.dims());
        }
        // A dynamic model without given shapes is tried with sizes of different kinds (sequences, small and large
        // images) until one passes its own shape rules.
        std::optional<Error> refusal;
        for (const int64_t guess : {64, 32, 16, 128, 224}) {
            const auto shapes = shapes_ ? shapes_ : opt_shapes(graph, options_, guess);
            if (!shapes) break;
            try {
                compile_for(*shapes);
                shapes_ = shapes;
                return;
            } catch (const Error& error) {
                if (error.code() == ErrorCode::internal || shapes_) throw;
                refusal = error;
            }
        }
        report_.warnings.push_back(
            refusal ? "the model accepted none of the shapes tried (" + refusal->message() +
                          "): give shapes for its inputs to have it compiled and verified"
                    : "the rank of an input is unknown: give shapes to have it compiled and verified");
    }

    bool tunes() const { return options_.optimization_level >= kReplayLevel && !options_.only_reference; }

    // As many as an engine takes.
    int threads() const {
        return std::min(options_.threads > 0 ? options_.threads : process_cpu_budget().cores,
                        ThreadPool::process().size());
    }

    /// The precision that applies to a full target: the CPU computes in float32.
    std::string precision_of(const std::string& target) const {
        return target.starts_with("cuda:") ? options_.precision : "fp32";
    }

    CompileOptions compile_options(const std::string& target) {
        CompileOptions options;
        options.target = runtime::full_target(target);
        options.precision = precision_of(options.target);
        options.device = runtime::device_of(options.target).ordinal;
        if (options.device >= 0) {
            if (!store_) store_ = cuda_backend().create_store(options.device);
            options.store = store_;
        }
        options.threads = threads();
        options.packed = &packed_;
        options.list_candidates = tunes();
        options.only_reference = options_.only_reference;
        options.disabled = options_.disabled_implementations;
        return options;
    }

    void compile_for(const std::vector<Dims>& shapes) {
        for (const std::string& target : options_.targets) {
            runtime::Compiled compiled = runtime::compile(
                *contents_->graph, shapes, runtime::backend_of(runtime::full_target(target)), compile_options(target));
            if (compiled.program == nullptr)
                report_.warnings.push_back("runs in the reference interpreter: " + compiled.interpreted);
            programs_.push_back(std::move(compiled.program));
        }
        tuned_.resize(programs_.size());
        plan::Profile profile{{}, shapes, {}};
        const Graph& graph = *contents_->graph;
        for (size_t i = 0; i < shapes.size(); ++i) {
            const auto given = options_.shapes.find(graph.inputs()[i]->name);
            profile.min.push_back(given == options_.shapes.end() ? shapes[i] : given->second.min);
            profile.max.push_back(given == options_.shapes.end() ? shapes[i] : given->second.max);
        }
        contents_->profiles = {std::move(profile)};
    }

    // Replaces each program by one with the tactics that the timing cache knows or that are timed now.
    void tune() {
        if (!shapes_) return;
        const std::unique_ptr<Graph> bound = passes::specialise(*contents_->graph, *shapes_);
        for (size_t p = 0; p < programs_.size(); ++p) {
            const std::string target = runtime::full_target(options_.targets[p]);
            const runtime::Device device = runtime::device_of(target);
            // What this machine cannot run cannot be timed on it.
            if (programs_[p] == nullptr || device.name.empty()) continue;
            const auto stopwatch = make_stopwatch(*bound);
            tuner::TuneOptions how;
            how.machine = device.ordinal >= 0 ? cuda::Gpu::get(device.ordinal).properties().name + ", " + target +
                                                    ", " + options_.precision
                                              : tuner::describe_machine(target, threads());
            how.effort = kEffort[options_.optimization_level];
            if (options_.time_budget >= 0) how.budget = options_.time_budget;
            how.measure = options_.optimization_level >= kMeasureLevel && !options_.replay_only;
            how.replay_only = options_.replay_only;
            how.progress = [&](std::string_view detail, double fraction) {
                stages_.update(detail, (static_cast<double>(p) + fraction) / static_cast<double>(programs_.size()));
            };
            tuner::Tuned tuned = tuner::tune(std::move(programs_[p]), *bound, *device.backend,
                                             compile_options(options_.targets[p]), how, *stopwatch, cache_);
            programs_[p] = std::move(tuned.program);
            tuned_[p] = true;
            if (p == 0) report_.tactics = std::move(tuned.rows);
            if (!tuned.failure.empty())
                report_.warnings.push_back("not tuned: the model does not run on random inputs: " + tuned.failure +
                                           "; give samples of its inputs");
            else if (tuned.missed > 0 && how.measure)
                report_.warnings.push_back(
                    fmt::format("{} of {} kinds of regions were not timed within the time budget of {} s", tuned.missed,
                                tuned.missed + tuned.timed + tuned.replayed, options_.time_budget));
        }
    }

    std::unique_ptr<tuner::Stopwatch> make_stopwatch(const Graph& bound) const {
        return tuner::make_stopwatch(
            options_.samples.empty() ? verification::random_inputs(bound) : sample_inputs(bound, options_.samples[0]),
            threads());
    }

    void keep_measurements(const tuner::TimingCache& before) {
        report_.timing_cache = options_.timing_cache.string();
        if (options_.timing_cache.empty() || cache_.entries() == before.entries()) return;
        try {
            cache_.add_to(options_.timing_cache);
        } catch (const Error& error) {
            report_.warnings.push_back("the measurements were not kept: " + error.message());
        }
    }

    /// Of the first target that this machine can run; nullopt: there is none.
    std::optional<size_t> timed_target() const {
        for (size_t p = 0; p < programs_.size(); ++p)
            if (programs_[p] != nullptr && !runtime::device_of(runtime::full_target(options_.targets[p])).name.empty())
                return p;
        return std::nullopt;
    }

    /// Names what the network computes and where, for the choice between integers and floats.
    std::string network_key() const {
        const auto p = timed_target();
        if (!p) return {};
        Hasher hasher;
        hasher.update(version())
            .update("int8 or fp32")
            .update(tuner::describe_machine(runtime::full_target(options_.targets[*p]), threads()));
        for (const RegionInfo& region : programs_[*p]->regions()) {
            hasher.update(region.path).update(region.signature);
            for (const std::string& candidate : region.candidates) hasher.update(candidate);
        }
        return hasher.digest().to_hex();
    }

    struct Network {
        std::unique_ptr<Graph> graph;
        std::vector<std::unique_ptr<Program>> programs;
        std::vector<bool> tuned;
        std::vector<TacticRow> tactics;
    };
    Network take_network() {
        return {std::move(contents_->graph), std::exchange(programs_, {}), std::exchange(tuned_, {}),
                std::exchange(report_.tactics, {})};
    }

    // Integers are asked for because they are fast: where floats are as fast, the plan stays with them. Tuning gains
    // less than a quarter, so where the untuned float network is slower by more, it need not be tuned.
    void require_gain(std::unique_ptr<Graph> real, const std::string& key) {
        constexpr double kMostGain = 0.75;
        const bool measures = options_.optimization_level >= kMeasureLevel && !options_.replay_only;
        const auto p = timed_target();
        if (!p || !shapes_) return;
        if (cache_.find(key) == nullptr && options_.replay_only)
            fail(ErrorCode::not_found, "the timing cache does not know whether integers are faster than floats here",
                 "build once without --replay-only on such a machine and keep its timing cache");
        if (cache_.find(key) == nullptr && !measures) return;
        const std::unique_ptr<Graph> bound = passes::specialise(*real, *shapes_);
        Network integers = take_network();
        contents_->graph = std::move(real);
        compile_for(*shapes_);
        bool tuned = false;
        if (cache_.find(key) == nullptr) {
            const auto stopwatch = make_stopwatch(*bound);
            const int turns = 5 * kEffort[options_.optimization_level];
            const auto race = [&] {
                return tuner::race(std::array<const Program*, 2>{integers.programs[*p].get(), programs_[*p].get()},
                                   *stopwatch, turns, [&] {
                                       stages_.update("integers against floats", 1);
                                       return true;
                                   });
            };
            try {
                std::vector<double> seconds = race();
                if (seconds[0] > kMostGain * seconds[1]) {
                    tune();
                    tuned = true;
                    seconds = race();
                }
                tuner::Timing timing{tuner::describe_machine(runtime::full_target(options_.targets[*p]), threads()),
                                     std::string(version()),
                                     "network: int8 or fp32",
                                     turns,
                                     {},
                                     0};
                timing.nanoseconds = {{"int8", std::llround(seconds[0] * 1e9)},
                                      {"fp32", std::llround(seconds[1] * 1e9)}};
                cache_.insert(key, std::move(timing));
            } catch (const tuner::CannotMeasure&) {  // tune() has said why
            }
        }
        const tuner::Timing* timing = cache_.find(key);
        if (timing == nullptr || timing->nanoseconds[0].second < timing->nanoseconds[1].second) {
            contents_->graph = std::move(integers.graph);
            programs_ = std::move(integers.programs);
            tuned_ = std::move(integers.tuned);
            report_.tactics = std::move(integers.tactics);
            return;
        }
        if (!tuned) tune();
        precision_ = "fp32";
        report_.output_errors.clear();
        for (PrecisionRow& row : report_.precision) {
            row.after = "fp32";
            row.note = "the network is not faster with integers";
        }
        report_.warnings.push_back(fmt::format(
            "integers do not make this network faster here ({:.3g} ms, floats {:.3g} ms): it stays in float32",
            static_cast<double>(timing->nanoseconds[0].second) * 1e-6,
            static_cast<double>(timing->nanoseconds[1].second) * 1e-6));
    }

    void write_sections() {
        if (!shapes_) return;
        for (size_t p = 0; p < programs_.size(); ++p) {
            const std::string target = runtime::full_target(options_.targets[p]);
            plan::Section section{target, {}, tuned_[p] ? threads() : 0, precision_of(target), {}};
            if (const Program* program = programs_[p].get()) {
                for (const auto& [key, code] : program->binaries()) {
                    auto copy = std::make_shared<std::vector<std::byte>>(code.begin(), code.end());
                    section.binaries.push_back({key, *copy, copy});
                }
                // Where there was no choice but the interpreter or to dissolve, a later version may have one.
                for (const RegionInfo& region : program->regions()) {
                    const bool forced =
                        region.tactic == "reference" || (region.tactic == kDissolve && region.candidates.size() < 2);
                    if (!forced) section.tactics.push_back({region.path, region.tactic});
                }
                std::sort(section.tactics.begin(), section.tactics.end(),
                          [](const plan::Tactic& a, const plan::Tactic& b) { return a.region < b.region; });
                if (report_.layers.empty()) report_.layers = layer_rows(*program);
            }
            contents_->sections.push_back(std::move(section));
        }
    }

    // Each region against the reference on what it read; then the outputs against the model as it was imported, which
    // checks the passes too.
    void verify(const Graph& imported) {
        if (!shapes_) return;
        if (const std::string reason = not_comparable(imported); !reason.empty()) {
            report_.warnings.push_back("not verified: " + reason);
            return;
        }
        std::unique_ptr<Graph> bound = passes::specialise(*contents_->graph, *shapes_);
        stages_.update("reference", 0);
        std::vector<Tensor> inputs, reference, real;  // real: of a network that comes quantised, without that
        try {
            inputs = options_.samples.empty() ? verification::random_inputs(*bound)
                                              : sample_inputs(*bound, options_.samples[0]);
            reference = reference_outputs(imported, inputs);
            if (const auto floats = verification::without_quantisation(imported))
                real = reference_outputs(*floats, inputs);
        } catch (const std::exception& error) {
            // Inputs that say a shape, an axis or an index take few values, and random ones need not be among them.
            if (!options_.samples.empty()) throw;
            report_.warnings.push_back(std::string("not verified: the model does not run on random inputs: ") +
                                       error.what() + "; give samples of its inputs");
            return;
        }
        for (size_t p = 0; p < programs_.size(); ++p) {
            const std::string target = runtime::full_target(options_.targets[p]);
            if (programs_[p] != nullptr && target.starts_with("cuda:") && runtime::device_of(target).name.empty()) {
                report_.warnings.push_back("target '" + target + "' is not verified: this machine has no such GPU; " +
                                           "there, `planish compare` does it");
                continue;
            }
            std::vector<Tensor> outputs;
            std::vector<VerificationRow> rows;
            if (programs_[p] == nullptr) {
                outputs = reference_outputs(*contents_->graph, inputs);
            } else {
                rows = verification::verify_regions(*programs_[p], inputs, threads(), &outputs, [&](double fraction) {
                    stages_.update("regions", (static_cast<double>(p) + 0.5 + 0.5 * fraction) /
                                                  static_cast<double>(programs_.size()));
                });
            }
            auto end = precision_ == "int8" ? quantisation_rows()
                                            : verification::verify_outputs(*bound, outputs, reference,
                                                                           roundoff_of(precision_of(target)));
            if (precision_ != "int8" && !real.empty()) verification::allow_other_bytes(end, reference, real);
            rows.insert(rows.end(), std::make_move_iterator(end.begin()), std::make_move_iterator(end.end()));
            if (report_.verification.empty()) report_.verification = rows;
            require_passed(rows);
        }
    }

    // What quantisation may cost is the user's decision; without one, an output that is more noise than signal is taken
    // for a mistake.
    std::vector<VerificationRow> quantisation_rows() const {
        const double budget = std::max(options_.calibration.accuracy_budget, 0.0);
        std::vector<VerificationRow> rows;
        for (const OutputErrorRow& output : report_.output_errors) {
            VerificationRow row{"output:" + output.name, {}, "", 0, 0, true, {}};
            row.error = std::pow(10, -output.sqnr / 20);
            row.tolerance = std::pow(10, -budget / 20);
            row.passed = row.error <= row.tolerance;
            row.note = fmt::format("noise against signal on calibration data: {:.1f} dB, cosine {:.4f}", output.sqnr,
                                   output.cosine);
            rows.push_back(std::move(row));
        }
        return rows;
    }

    // Weights that the first target's program reads in one packed order are stored in that order, where the zeros in it
    // are few: loading the plan then copies nothing. Whoever wants them row by row gets them back.
    void store_packed() {
        constexpr int64_t kLeastBytes = 4096;  // below, packing takes a microsecond
        if (programs_.empty() || programs_[0] == nullptr) return;
        std::unordered_map<const Tensor*, Packing> wanted;
        for (const ConstantUse& use : programs_[0]->packed_constants())
            if (const int64_t bytes = use.constant->bytes();
                bytes >= kLeastBytes && use.packing->size() * 40 <= bytes * 11)
                wanted.emplace(use.constant.get(), *use.packing);
        // Equal weights are stored once, so all of them have to be wanted in the same order.
        std::map<int64_t, std::vector<Value*>> by_size;
        for (Value* value : contents_->graph->values())
            if (value->is_constant() && value->constant->bytes() >= kLeastBytes &&
                value->constant->dtype() == DType::f32)
                by_size[value->constant->bytes()].push_back(value);
        const auto packing_of = [&](const Value* value) {
            const auto it = wanted.find(value->constant.get());
            return it == wanted.end() ? std::nullopt : std::optional(it->second);
        };
        for (const auto& group : by_size) {
            const int64_t bytes = group.first;
            const std::vector<Value*>& values = group.second;
            std::vector<std::shared_ptr<const Tensor>> stored;
            for (const Value* value : values) {
                const std::optional<Packing> packing = packing_of(value);
                const bool agreed = packing && std::all_of(values.begin(), values.end(), [&](const Value* other) {
                                        return packing_of(other) == packing ||
                                               std::memcmp(other->constant->raw(), value->constant->raw(),
                                                           static_cast<size_t>(bytes)) != 0;
                                    });
                stored.push_back(
                    agreed ? std::make_shared<const Tensor>(packed_constant(
                                 value->constant->dims(), packed_.get(value->constant, *packing, threads()), *packing))
                           : nullptr);
            }
            for (size_t i = 0; i < values.size(); ++i)
                if (stored[i]) values[i]->constant = stored[i];
        }
    }

    void describe() {
        plan::Provenance& p = contents_->provenance;
        p.versions = {{"planish", std::string(version())}};
        std::string targets;
        for (const std::string& target : options_.targets) targets += (targets.empty() ? "" : ",") + target;
        p.options = {{"targets", targets},
                     {"precision", precision_},
                     {"verify", options_.verify ? "true" : "false"},
                     {"optimization_level", std::to_string(options_.optimization_level)}};
        for (const auto& [name, range] : options_.shapes)
            p.options.emplace_back("shape:" + name,
                                   dims_text(range.min) + " " + dims_text(range.opt) + " " + dims_text(range.max));
        for (const OutputErrorRow& row : report_.output_errors)
            p.options.emplace_back("int8 output:" + row.name,
                                   fmt::format("{:.1f} dB, cosine {:.4f} on calibration data", row.sqnr, row.cosine));
        for (const PrecisionRow& row : report_.precision)
            p.options.emplace_back("layer:" + row.layer, row.after == "int8" ? fmt::format("int8, {:.1f} dB", row.sqnr)
                                                                             : row.after + ": " + row.note);
        p.passes = report_.passes;
        for (PassRow& row : p.passes) row.seconds = 0;  // equal inputs give equal bytes
        p.layers = report_.layers;
        p.verification = report_.verification;
        p.metadata = options_.metadata;
        for (const LayerRow& row : report_.layers)
            if (row.implementation.starts_with("reference.") && row.bytes > (1 << 16))
                report_.warnings.push_back(
                    fmt::format("'{}' ({}) runs in the reference interpreter", row.name, row.op));
    }

    const BuildOptions& options_;
    std::string precision_ = options_.precision;  // that the plan ends up with
    BuildReport report_;
    Stages stages_;
    std::shared_ptr<plan::PlanContents> contents_;
    std::optional<std::vector<Dims>> shapes_;
    PackedStore packed_;
    std::shared_ptr<DeviceStore> store_;
    std::vector<std::unique_ptr<Program>> programs_;  // by target; null: the interpreter runs the plan
    tuner::TimingCache cache_;
    std::vector<bool> tuned_;  // by target
};

}  // namespace

Plan build(const std::filesystem::path& model, const BuildOptions& options) {
    const MappedFile file(model);
    return Builder(options).run(file.bytes(), [&]() -> std::unique_ptr<Graph> {
        if (is_plan(file.bytes())) return std::move(plan::read(model).graph);
        return onnx_import::import_file(model.string());
    });
}

Plan build(std::span<const std::byte> model, const BuildOptions& options,
           const std::filesystem::path& external_data_folder) {
    return Builder(options).run(model, [&]() -> std::unique_ptr<Graph> {
        if (is_plan(model)) return std::move(plan::read(model, nullptr).graph);
        return onnx_import::import_bytes(model, external_data_folder.string());
    });
}

}  // namespace planish
