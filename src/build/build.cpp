// planish::build: a model file in, a verified plan out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <unordered_map>

#include "backends/backend.hpp"
#include "backends/cuda/device.hpp"
#include "build/auto_precision.hpp"
#include "build/model.hpp"
#include "build/network.hpp"
#include "build/verify.hpp"
#include "passes/pass.hpp"
#include "plan/contents.hpp"
#include "planish/planish.hpp"
#include "precision/quantize.hpp"
#include "precision/table.hpp"
#include "reference/interpreter.hpp"
#include "runtime/compile.hpp"

namespace planish {
namespace {

void check_accuracy(const BuildOptions& options) {
    const AccuracyOptions& given = options.accuracy;
    if (given.budget.empty())
        fail(ErrorCode::invalid_argument, "precision 'auto' needs an accuracy budget",
             "say what may be lost, e.g. --budget 'top1>=0.99', budget= in Python, BuildOptions::accuracy in C++");
    const bool own = parse_budget(given.budget).is_users_own(), metric = given.metric || !given.command.empty();
    if (own && !metric)
        fail(ErrorCode::invalid_argument, "the budget '" + given.budget + "' is on a metric that was not given",
             "give --metric COMMAND, or in Python a function of the engine as metric=");
    if (metric && !own)
        fail(ErrorCode::invalid_argument, "a metric was given, and the budget '" + given.budget + "' does not use it",
             "write metric>=NUMBER, or leave the metric out");
    if (options.only_reference || options.optimization_level < kReplayLevel)
        fail(ErrorCode::invalid_argument, "precision 'auto' chooses by measured times, and timing is off",
             "use optimization level 3 or above, without --only-reference");
    if (given.mixes < 0) fail(ErrorCode::invalid_argument, fmt::format("the number of mixes is {}", given.mixes));
}

/// Every target has to have tensor cores for floats of 8 bits.
void check_float8(const BuildOptions& options) {
    for (const std::string& target : options.targets) {
        const std::string full = runtime::full_target(target);
        const auto arch = full.starts_with("cuda:") ? cuda::Arch::parse(full.substr(5)) : std::nullopt;
        if (!arch)
            fail(ErrorCode::unsupported, "precision 'fp8' is not available on the CPU in this version",
                 "build for a GPU alone, --target cuda:sm_90a, or for the CPU with int8");
        if (!arch->at_least(89))
            fail(ErrorCode::unsupported,
                 "precision 'fp8' is not available on target '" + target + "': " + arch->name() +
                     " does not multiply floats of 8 bits",
                 "architectures from sm_89 on do; build this one with int8");
    }
}

/// Throws for options that contradict each other; else returns them.
const BuildOptions& checked(const BuildOptions& options) {
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
    if (!options.accuracy.budget.empty() && options.precision != "auto")
        fail(ErrorCode::invalid_argument,
             "the budget '" + options.accuracy.budget + "' is of no use for precision '" + options.precision + "'",
             "it belongs to precision auto");
    if (options.precision == "fp32") return options;
    const bool automatic = options.precision == "auto";
    if (options.precision == "fp8") check_float8(options);
    if (options.precision == "int8" || options.precision == "fp8" || automatic) {
        if (gpu && automatic)
            fail(ErrorCode::unsupported, "precision 'auto' is not available on GPUs in this version",
                 "build for the CPU, or for a GPU with tf32, fp16, bf16, int8 or fp8");
        if (options.calibration.samples.empty() && !options.calibration.next)
            fail(ErrorCode::invalid_argument,
                 "precision '" + options.precision + "' needs calibration data, and none was given",
                 "give 100 or so real inputs: --calib FOLDER or FILE.npz, calibration= in Python, "
                 "BuildOptions::calibration in C++");
        precision::parse_method(options.calibration.method);
        if (automatic) check_accuracy(options);
        return options;
    }
    for (std::string_view known : {"tf32", "fp16", "bf16"}) {
        if (options.precision != known) continue;
        if (gpu) return options;
        fail(ErrorCode::unsupported,
             "precision '" + options.precision + "' is not available on the CPU in this version",
             "build with precision fp32, or for a GPU: --target cuda:sm_90a");
    }
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
    if (precision == "fp32") return 0x1p-24;
    return precision == "bf16" ? 0x1p-8 : 0x1p-11;  // of int8 and fp8: what is not in 8 bits
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
    explicit Builder(const BuildOptions& options) : options_(checked(options)), stages_(options, report_) {}

    Plan run(const std::function<Model()>& read) {
        stages_.begin("import", 0, 0.1);
        Model model = read();
        bind_shapes(*model.graph, options_);
        contents_ = std::make_shared<plan::PlanContents>();
        contents_->provenance.source = std::move(model.source);

        stages_.begin("optimise", 0.1, 0.3);
        std::unique_ptr<Graph> graph = model.graph->clone();
        optimise(*graph);

        if (options_.precision == "auto")
            mix(*graph);
        else
            build_as_asked(std::move(graph));
        compiler_.keep_measurements();
        contents_->graph = std::move(network_.graph);
        contents_->profiles = compiler_.profiles(*contents_->graph);
        contents_->sections = compiler_.sections(network_);
        report_.tactics = std::move(network_.tactics);
        for (const auto& program : network_.programs)
            if (program && report_.layers.empty()) report_.layers = layer_rows(*program);
        if (options_.verify) {
            stages_.begin("verify", 0.75, 0.98);
            verify(*model.graph);
        }
        store_packed();
        stages_.end();
        describe();
        return Plan(contents_, std::move(report_));
    }

  private:
    void build_as_asked(std::unique_ptr<Graph> graph) {
        std::unique_ptr<Graph> floats;  // what the quantised network has to beat
        if (options_.precision == "int8" || options_.precision == "fp8") {
            stages_.begin("quantise", 0.3, 0.5);
            floats = graph->clone();
            quantise(*graph);
        }

        stages_.begin("compile", 0.5, 0.55);
        network_ = compiler_.compile(std::move(graph));

        if (compiler_.tunes()) {
            stages_.begin("tune", 0.55, 0.75);
            std::string key;
            if (floats) key = compiler_.key_of(network_, compiler_.quantised_or_floats());
            compiler_.tune(network_);
            if (floats) require_gain(std::move(floats), key);
        }
    }

    void mix(const Graph& floats) {
        std::vector<TensorMap> samples = calibration_samples(floats),
                               held_out = named(options_.accuracy.held_out, floats);
        if (held_out.empty()) {
            constexpr size_t kEvery = 5;
            if (samples.size() < 2)
                fail(ErrorCode::invalid_argument,
                     "precision 'auto' needs data to verify with, and one calibration sample cannot be shared out",
                     "give more calibration data, or some to verify with: --held-out, held_out= in Python");
            std::vector<TensorMap> kept;
            for (size_t i = 0; i < samples.size(); ++i)
                (i % kEvery == std::min(kEvery, samples.size()) - 1 ? held_out : kept).push_back(samples[i]);
            samples = std::move(kept);
        }
        LoadOptions load;
        load.device = options_.targets[0];
        for (const std::string& target : options_.targets)
            if (!runtime::device_of(runtime::full_target(target)).name.empty()) {
                load.device = target;
                break;
            }
        load.threads = compiler_.threads();
        Accuracy accuracy(options_.accuracy, parse_budget(options_.accuracy.budget), samples, std::move(held_out),
                          std::move(load));
        const Quantise quantise = [&](Graph& graph, const StringPairs& pins, bool first) {
            return quantise_with(graph, samples, pins, first);
        };
        expect(floats, samples[0]);
        network_ = build_mix(floats, options_, quantise, accuracy, compiler_, stages_, report_);
        quantised_ = std::any_of(report_.precision.begin(), report_.precision.end(),
                                 [](const PrecisionRow& row) { return row.after == "int8"; });
    }

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

    std::vector<TensorMap> calibration_samples(const Graph& graph) const {
        std::vector<TensorMap> samples = options_.calibration.samples;
        if (options_.calibration.next)
            for (TensorMap sample; options_.calibration.next(sample); sample.clear()) samples.push_back(sample);
        return named(std::move(samples), graph);
    }

    bool is_for_gpus() const {
        return std::any_of(options_.targets.begin(), options_.targets.end(),
                           [](const std::string& target) { return runtime::full_target(target).starts_with("cuda:"); });
    }

    /// `first`: of the networks that are quantised in this build.
    precision::QuantizeResult quantise_with(Graph& graph, std::span<const TensorMap> samples, const StringPairs& pins,
                                            bool first) {
        const CalibrationOptions& given = options_.calibration;
        precision::QuantizeOptions options;
        options.floats = options_.precision == "fp8";
        options.gpu = is_for_gpus();
        options.method = precision::parse_method(given.method);
        options.percentile = given.percentile;
        options.equalise = given.equalise;
        options.compensate = given.compensate;
        options.round_jointly = given.round_jointly;
        options.correct_bias = given.correct_bias;
        options.layer_precision = given.layer_precision;
        options.layer_precision.insert(options.layer_precision.end(), pins.begin(), pins.end());
        options.sensitivities = first && options_.precision == "auto";
        options.threads = compiler_.threads();
        options.progress = [&](std::string_view detail, double fraction) { stages_.update(detail, fraction); };
        precision::CalibrationTable table;
        if (!given.table.empty()) {
            table = precision::read_table(given.table);
            options.table = &table;
        }
        precision::QuantizeResult result = precision::quantize(graph, samples, options);
        if (first && !given.save_table.empty()) precision::write_table(given.save_table, result.table);
        return result;
    }

    /// Without a word on shapes from the user, those of the calibration data are what the network will see.
    void expect(const Graph& graph, const TensorMap& sample) {
        if (options_.shapes.empty() && options_.samples.empty()) compiler_.expect(graph, sample);
    }

    void quantise(Graph& graph) {
        const std::vector<TensorMap> samples = calibration_samples(graph);
        precision::QuantizeResult result = quantise_with(graph, samples, {}, true);
        expect(graph, samples[0]);
        report_.precision = std::move(result.layers);
        report_.output_errors = std::move(result.outputs);
        quantised_ = true;
    }

    void require_gain(std::unique_ptr<Graph> floats, const std::string& key) {
        const auto loss = compiler_.require_gain(network_, std::move(floats), key);
        if (!loss) return;
        precision_ = is_for_gpus() ? "fp16" : "fp32";
        quantised_ = false;
        report_.output_errors.clear();
        for (PrecisionRow& row : report_.precision) {
            row.after = precision_;
            row.note = "the network is not faster in " + options_.precision;
        }
        report_.warnings.push_back(
            fmt::format("{} does not make this network faster here ({:.3g} ms, floats {:.3g} ms): it stays in floats",
                        options_.precision, loss->quantised * 1e3, loss->floats * 1e3));
    }

    // Each region against the reference on what it read; then the outputs against the model as it was imported, which
    // checks the passes too.
    void verify(const Graph& imported) {
        if (!compiler_.shapes()) return;
        if (const std::string reason = not_comparable(imported); !reason.empty()) {
            report_.warnings.push_back("not verified: " + reason);
            return;
        }
        std::unique_ptr<Graph> bound = passes::specialise(*contents_->graph, *compiler_.shapes());
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
        for (size_t p = 0; p < network_.programs.size(); ++p) {
            const std::string target = runtime::full_target(options_.targets[p]);
            if (network_.programs[p] != nullptr && target.starts_with("cuda:") &&
                runtime::device_of(target).name.empty()) {
                report_.warnings.push_back("target '" + target + "' is not verified: this machine has no such GPU; " +
                                           "there, `planish compare` does it");
                continue;
            }
            std::vector<Tensor> outputs;
            std::vector<VerificationRow> rows;
            if (network_.programs[p] == nullptr) {
                outputs = reference_outputs(*contents_->graph, inputs);
            } else {
                rows = verification::verify_regions(
                    *network_.programs[p], inputs, compiler_.threads(), &outputs, [&](double fraction) {
                        stages_.update("regions", (static_cast<double>(p) + 0.5 + 0.5 * fraction) /
                                                      static_cast<double>(network_.programs.size()));
                    });
            }
            auto end = quantised_ ? quantisation_rows()
                                  : verification::verify_outputs(*bound, outputs, reference,
                                                                 roundoff_of(compiler_.precision_of(target)));
            if (!quantised_ && !real.empty()) verification::allow_other_bytes(end, reference, real);
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
            // Of precision "auto" the search has looked at what its budget is on.
            if (options_.precision == "auto") row.tolerance = std::max(row.tolerance, row.error);
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
        if (network_.programs.empty() || network_.programs[0] == nullptr) return;
        std::unordered_map<const Tensor*, Packing> wanted;
        for (const ConstantUse& use : network_.programs[0]->packed_constants())
            if (const int64_t bytes = use.constant->bytes();
                bytes >= kLeastBytes && use.packing->size() * 40 <= bytes * 11)
                wanted.emplace(use.constant.get(), *use.packing);
        // Equal weights are stored once, so all of them have to be wanted in the same order.
        std::map<int64_t, std::vector<Value*>> by_size;
        for (Value* value : contents_->graph->values())
            if (value->is_constant() && value->constant->bytes() >= kLeastBytes &&
                (value->constant->dtype() == DType::f32 || value->constant->dtype() == DType::i8))
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
                                 value->constant->dims(),
                                 compiler_.packed().get(value->constant, *packing, compiler_.threads()), *packing))
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
        if (!report_.budget.empty()) p.options.emplace_back("budget", report_.budget);
        p.precision = report_.precision;
        p.output_errors = report_.output_errors;
        p.mixes = report_.mixes;
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
    bool quantised_ = false;                      // by this build, not by the model
    BuildReport report_;
    Stages stages_;
    std::shared_ptr<plan::PlanContents> contents_;
    NetworkCompiler compiler_{options_, report_, stages_};
    Network network_;
};

}  // namespace

Plan build(const std::filesystem::path& model, const BuildOptions& options) {
    return Builder(options).run([&] { return read_model(model); });
}

Plan build(std::span<const std::byte> model, const BuildOptions& options,
           const std::filesystem::path& external_data_folder) {
    return Builder(options).run([&] { return read_model(model, external_data_folder); });
}

}  // namespace planish
