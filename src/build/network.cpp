// Compiling for the shapes and targets of a build, and tuning.
#include "build/network.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/gpu.hpp"
#include "base/cpu_budget.hpp"
#include "base/thread_pool.hpp"
#include "build/verify.hpp"
#include "passes/pass.hpp"
#include "runtime/compile.hpp"

namespace planish {
namespace {

constexpr int kEffort[] = {0, 0, 0, 1, 3, 10};  // by level of optimisation

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

}  // namespace

std::vector<Tensor> sample_inputs(const Graph& graph, const TensorMap& sample) {
    std::vector<Tensor> inputs;
    for (const Value* input : graph.inputs()) {
        const auto it = sample.find(input->name);
        if (it == sample.end()) fail(ErrorCode::invalid_argument, "a sample misses input '" + input->name + "'");
        inputs.push_back(it->second);
    }
    return inputs;
}

NetworkCompiler::NetworkCompiler(const BuildOptions& options, BuildReport& report, const Stages& stages)
    : options_(options), report_(report), stages_(stages) {
    if (tunes() && !options.timing_cache.empty()) known_ = cache_ = tuner::TimingCache::read(options.timing_cache);
}

int NetworkCompiler::threads() const {
    return std::min(options_.threads > 0 ? options_.threads : process_cpu_budget().cores, ThreadPool::process().size());
}

int NetworkCompiler::effort() const {
    return kEffort[options_.optimization_level];
}

std::string NetworkCompiler::precision_of(const std::string& target) const {
    return target.starts_with("cuda:") ? options_.precision : "fp32";
}

std::string NetworkCompiler::machine_of(const std::string& target) const {
    const runtime::Device device = runtime::device_of(target);
    return device.ordinal >= 0
               ? cuda::Gpu::get(device.ordinal).properties().name + ", " + target + ", " + options_.precision
               : tuner::describe_machine(target, threads());
}

void NetworkCompiler::expect(const Graph& graph, const TensorMap& sample) {
    shapes_.emplace();
    for (const Tensor& t : sample_inputs(graph, sample)) shapes_->push_back(t.dims());
}

Network NetworkCompiler::compile(std::unique_ptr<Graph> graph) {
    Network network{std::move(graph), {}, {}, {}};
    if (!shapes_ && !options_.samples.empty()) expect(*network.graph, options_.samples[0]);
    if (shapes_) {
        compile_for(network, *shapes_);
        return network;
    }
    // A dynamic model without given shapes is tried with sizes of different kinds (sequences, small and large images)
    // until one passes its own shape rules.
    std::optional<Error> refusal;
    for (const int64_t guess : {64, 32, 16, 128, 224}) {
        const auto shapes = opt_shapes(*network.graph, options_, guess);
        if (!shapes) break;
        try {
            compile_for(network, *shapes);
            shapes_ = shapes;
            return network;
        } catch (const Error& error) {
            if (error.code() == ErrorCode::internal) throw;
            refusal = error;
        }
    }
    report_.warnings.push_back(refusal
                                   ? "the model accepted none of the shapes tried (" + refusal->message() +
                                         "): give shapes for its inputs to have it compiled and verified"
                                   : "the rank of an input is unknown: give shapes to have it compiled and verified");
    return network;
}

CompileOptions NetworkCompiler::compile_options(const std::string& target) {
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

void NetworkCompiler::compile_for(Network& network, const std::vector<Dims>& shapes) {
    std::vector<std::unique_ptr<Program>> programs;
    for (const std::string& target : options_.targets) {
        runtime::Compiled compiled = runtime::compile(
            *network.graph, shapes, runtime::backend_of(runtime::full_target(target)), compile_options(target));
        const std::string warning = "runs in the reference interpreter: " + compiled.interpreted;
        if (compiled.program == nullptr &&
            std::find(report_.warnings.begin(), report_.warnings.end(), warning) == report_.warnings.end())
            report_.warnings.push_back(warning);
        programs.push_back(std::move(compiled.program));
    }
    network.programs = std::move(programs);
    network.tuned.resize(network.programs.size());
}

std::vector<plan::Profile> NetworkCompiler::profiles(const Graph& graph) const {
    if (!shapes_) return {};
    plan::Profile profile{{}, *shapes_, {}};
    for (size_t i = 0; i < shapes_->size(); ++i) {
        const auto given = options_.shapes.find(graph.inputs()[i]->name);
        profile.min.push_back(given == options_.shapes.end() ? (*shapes_)[i] : given->second.min);
        profile.max.push_back(given == options_.shapes.end() ? (*shapes_)[i] : given->second.max);
    }
    return {std::move(profile)};
}

std::vector<plan::Section> NetworkCompiler::sections(const Network& network) const {
    std::vector<plan::Section> sections;
    for (size_t p = 0; p < network.programs.size(); ++p) {
        const std::string target = runtime::full_target(options_.targets[p]);
        const bool floats = network.gave_way && target.starts_with("cuda:");
        plan::Section section{target, {}, network.tuned[p] ? threads() : 0, floats ? "fp16" : precision_of(target), {}};
        if (const Program* program = network.programs[p].get()) {
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
        }
        sections.push_back(std::move(section));
    }
    return sections;
}

void NetworkCompiler::tune(Network& network) {
    if (!shapes_) return;
    const std::unique_ptr<Graph> bound = passes::specialise(*network.graph, *shapes_);
    for (size_t p = 0; p < network.programs.size(); ++p) {
        const std::string target = runtime::full_target(options_.targets[p]);
        const runtime::Device device = runtime::device_of(target);
        // What this machine cannot run cannot be timed on it.
        if (network.programs[p] == nullptr || device.name.empty()) continue;
        const auto stopwatch = make_stopwatch(*bound);
        tuner::TuneOptions how;
        how.machine = machine_of(target);
        how.effort = effort();
        if (options_.time_budget >= 0) how.budget = options_.time_budget;
        how.measure = measures();
        how.replay_only = options_.replay_only;
        how.progress = [&](std::string_view detail, double fraction) {
            stages_.update(detail, (static_cast<double>(p) + fraction) / static_cast<double>(network.programs.size()));
        };
        tuner::Tuned tuned = tuner::tune(std::move(network.programs[p]), *bound, *device.backend,
                                         compile_options(options_.targets[p]), how, *stopwatch, cache_);
        network.programs[p] = std::move(tuned.program);
        network.tuned[p] = true;
        if (p == 0) network.tactics = std::move(tuned.rows);
        if (!tuned.failure.empty())
            report_.warnings.push_back("not tuned: the model does not run on random inputs: " + tuned.failure +
                                       "; give samples of its inputs");
        else if (tuned.missed > 0 && how.measure)
            report_.warnings.push_back(
                fmt::format("{} of {} kinds of regions were not timed within the time budget of {} s", tuned.missed,
                            tuned.missed + tuned.timed + tuned.replayed, options_.time_budget));
    }
}

std::unique_ptr<tuner::Stopwatch> NetworkCompiler::make_stopwatch(const Graph& bound) const {
    return tuner::make_stopwatch(
        options_.samples.empty() ? verification::random_inputs(bound) : sample_inputs(bound, options_.samples[0]),
        threads());
}

void NetworkCompiler::keep_measurements() {
    report_.timing_cache = options_.timing_cache.string();
    if (options_.timing_cache.empty() || cache_.entries() == known_.entries()) return;
    try {
        cache_.add_to(options_.timing_cache);
    } catch (const Error& error) {
        report_.warnings.push_back("the measurements were not kept: " + error.message());
    }
}

}  // namespace planish
