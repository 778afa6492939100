// Engine: a plan, a device, and the programs compiled for the input shapes met so far.
#include <algorithm>
#include <unordered_set>

#include "backends/packing.hpp"
#include "base/cpu_budget.hpp"
#include "base/log.hpp"
#include "base/sparse_tensor.hpp"
#include "base/thread_pool.hpp"
#include "plan/plan_io.hpp"
#include "runtime/engine_impl.hpp"
#include "runtime/input_check.hpp"

namespace planish {
namespace {

TensorInfo describe(const Value& value) {
    TensorInfo info{value.name, value.type.dtype, {}, value.type.shape.has_value(), "tensor"};
    if (value.type.kind == Kind::sequence) info.kind = "sequence";
    if (value.type.kind == Kind::optional) info.kind = "optional";
    if (!value.type.shape) return info;
    for (const Dim& dim : *value.type.shape) {
        std::vector<std::string> names;
        if (dim.is_symbol()) dim.collect_symbols(names);
        info.shape.push_back(names.size() == 1 ? names[0] : dim.contains_unknown() ? "?" : dim.to_string());
    }
    return info;
}

int index_of(std::span<Value* const> values, std::string_view name) {
    for (size_t i = 0; i < values.size(); ++i)
        if (values[i]->name == name) return static_cast<int>(i);
    return -1;
}

void append_key(std::vector<int64_t>& key, const Value& input, const Dims& dims) {
    key.push_back(static_cast<int64_t>(input.type.dtype));
    key.push_back(static_cast<int64_t>(dims.size()));
    key.insert(key.end(), dims.begin(), dims.end());
}

std::vector<std::string> targets_of(const plan::PlanContents& contents) {
    std::vector<std::string> targets;
    for (const plan::Section& section : contents.sections) targets.push_back(section.target);
    return targets;
}

/// Shapes to compile at load: what the plan was tuned for, or the graph's own when they are all fixed.
std::optional<std::vector<Dims>> shapes_at_load(const plan::PlanContents& contents) {
    if (!contents.profiles.empty()) return contents.profiles[0].opt;
    std::vector<Dims> shapes;
    for (const Value* input : contents.graph->inputs()) {
        if (!input->has_static_shape()) return std::nullopt;
        shapes.push_back(input->dims());
    }
    return shapes;
}

/// Memory of the plan's own constants, and of those that are packed or compressed there and were asked for row by row.
void count_constants(const Graph& graph, std::unordered_set<const void*>& seen, int64_t& stored, int64_t& unpacked) {
    for (const Value* value : graph.values()) {
        if (!value->is_constant()) continue;
        const PackedSource* packed = packed_source(*value->constant);
        const SparseSource* sparse = sparse_source(*value->constant);
        const TensorSource* source = value->constant->source();
        const Tensor& tensor = packed ? packed->packed() : sparse ? sparse->stored() : *value->constant;
        if (seen.insert(tensor.raw()).second) stored += tensor.bytes();
        if (source && source->is_made() && seen.insert(value->constant->raw()).second)
            unpacked += value->constant->bytes();
    }
    for (const auto& node : graph.nodes())
        for (const auto& [name, attribute] : node->attributes)
            if (const GraphPtr* body = std::get_if<GraphPtr>(&attribute))
                count_constants(**body, seen, stored, unpacked);
}

/// "int8": all layers with weights compute in 8-bit integers; "mixed": some do; else `otherwise`.
std::string precision_of(const Graph& graph, const std::string& otherwise) {
    const auto decoded = [](const Value* value) {
        return value != nullptr && value->producer != nullptr && value->producer->is("DequantizeLinear");
    };
    bool integers = false, floats = false;
    for (const auto& node : graph.nodes()) {
        if (!node->is("Conv") && !node->is("Gemm") && !node->is("MatMul")) continue;
        const Value* weights = node->input(1);
        const bool bytes = decoded(weights) && weights->producer->input(0)->is_constant();
        if (bytes || weights->is_constant()) (bytes && decoded(node->input(0)) ? integers : floats) = true;
    }
    return !integers ? otherwise : floats ? "mixed" : "int8";
}

}  // namespace

std::string_view version() {
    return PLANISH_VERSION;
}

Engine::Impl::Impl(std::shared_ptr<const plan::PlanContents> plan, const LoadOptions& options)
    : contents(std::move(plan)),
      device(runtime::find_device(options.device, targets_of(*contents))),
      cache(options.cached_shapes) {
    if (options.threads < 0)
        fail(ErrorCode::invalid_argument, "threads is " + std::to_string(options.threads),
             "give a positive number, or 0 for one for each core that the process may use");
    if (options.cached_shapes < 1)
        fail(ErrorCode::invalid_argument, "cached_shapes is " + std::to_string(options.cached_shapes),
             "keep at least the program of one set of input shapes");
    // Hyper-threads of one core share its arithmetic units: by default one thread for each core.
    const int cores = process_cpu_budget().cores;
    threads = std::min(options.threads == 0 ? cores : options.threads, ThreadPool::process().size());
    compile_options.target = device.target;
    compile_options.device = device.ordinal;
    compile_options.store = device.backend->create_store(device.ordinal);
    compile_options.threads = threads;
    compile_options.packed = &packed;
    compile_options.only_reference = options.only_reference;
    compiled_at_load = true;
    // A GPU that the plan has no section for computes as the plan's other GPUs would.
    for (const plan::Section& section : contents->sections)
        if (device.ordinal >= 0 && section.target.starts_with("cuda:")) compile_options.precision = section.precision;
    for (const plan::Section& section : contents->sections) {
        if (section.target != device.target) continue;
        compiled_at_load = false;
        compile_options.precision = section.precision;
        for (const plan::Binary& binary : section.binaries) binaries[binary.key] = binary.code;
        if (options.only_reference) continue;
        for (const plan::Tactic& tactic : section.tactics) tactics[tactic.region] = tactic.implementation;
    }
    compile_options.binaries = &binaries;
    for (const Value* input : graph().inputs()) {
        inputs.push_back(describe(*input));
        tensors_only = tensors_only && input->type.kind == Kind::tensor;
    }
    for (const Value* output : graph().outputs()) outputs.push_back(describe(*output));
    if (!tensors_only) return;
    if (const auto shapes = shapes_at_load(*contents)) {
        std::vector<int64_t> key;
        for (size_t i = 0; i < shapes->size(); ++i) append_key(key, *graph().inputs()[i], (*shapes)[i]);
        prepare(key, *shapes);
    }
}

CompileOptions Engine::Impl::options_for(const std::vector<Dims>& shapes) const {
    CompileOptions options = compile_options;
    if (shapes == shapes_at_load(*contents)) options.tactics = tactics;
    return options;
}

int Engine::Impl::input_index(std::string_view name) const {
    return index_of(graph().inputs(), name);
}

int Engine::Impl::output_index(std::string_view name) const {
    return index_of(graph().outputs(), name);
}

std::shared_ptr<const runtime::Prepared> Engine::Impl::prepare(std::span<const int64_t> key,
                                                               const std::vector<Dims>& shapes) const {
    auto make = [&]() -> std::shared_ptr<const runtime::Prepared> {
        auto prepared = std::make_shared<runtime::Prepared>();
        prepared->compiled = runtime::compile(graph(), shapes, *device.backend, options_for(shapes));
        const Program* program = prepared->compiled.program.get();
        if (program == nullptr) return prepared;
        for (const std::string& ignored : program->ignored_tactics())
            log(LogLevel::warning, "tactic of the plan ignored: " + ignored);
        if (program->outputs().size() != outputs.size())
            fail(ErrorCode::internal, "the program delivers " + std::to_string(program->outputs().size()) + " of " +
                                          std::to_string(outputs.size()) + " outputs");
        for (const Port& port : program->inputs()) {
            const int index = input_index(port.name);
            if (index < 0)
                fail(ErrorCode::internal, "the program has an input '" + port.name + "' that the plan has not");
            prepared->input_of_port.push_back(index);
        }
        for (const Port& port : program->outputs()) prepared->output_dims.push_back(port.dims);
        return prepared;
    };
    return cache.get(key, make);
}

EngineInfo Engine::Impl::info() const {
    EngineInfo result;
    result.device = device.name;
    result.target = device.target;
    result.compiled_at_load = compiled_at_load;
    result.threads = threads;
    std::unordered_set<const void*> seen;
    count_constants(graph(), seen, result.weight_bytes, result.packed_bytes);
    result.packed_bytes += packed.bytes();
    result.precision =
        device.ordinal >= 0 ? compile_options.precision : precision_of(graph(), compile_options.precision);
    if (compile_options.store) result.device_weight_bytes = compile_options.store->bytes();
    if (!tensors_only) result.interpreted = "an input is a sequence or an optional";
    cache.for_each([&](const runtime::Prepared& prepared) {
        ++result.programs;
        if (const Program* program = prepared.compiled.program.get()) {
            result.arena_bytes = std::max({result.arena_bytes, program->arena_bytes(), program->device_arena_bytes()});
            for (std::string& ignored : program->ignored_tactics())
                result.ignored_tactics.push_back(std::move(ignored));
        } else
            result.interpreted = prepared.compiled.interpreted;
    });
    const plan::Provenance& p = contents->provenance;
    for (const auto& [key, value] : p.source) result.provenance.emplace_back("source." + key, value);
    for (const auto& [key, value] : p.options) result.provenance.emplace_back("option." + key, value);
    for (const auto& [key, value] : p.versions) result.provenance.emplace_back("version." + key, value);
    for (const auto& [key, value] : p.metadata) result.provenance.emplace_back("metadata." + key, value);
    return result;
}

// ---- the public face

Engine::Engine(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

std::span<const TensorInfo> Engine::inputs() const {
    return impl_->inputs;
}

std::span<const TensorInfo> Engine::outputs() const {
    return impl_->outputs;
}

Context Engine::create_context() const {
    return Context(std::make_unique<Context::Impl>(impl_));
}

TensorMap Engine::run(const TensorMap& inputs) const {
    return create_context().run(inputs);
}

namespace {

std::shared_ptr<const runtime::Prepared> prepare_for(const Engine::Impl& engine, std::span<const Dims> shapes) {
    const auto& inputs = engine.graph().inputs();
    if (!engine.tensors_only) return std::make_shared<runtime::Prepared>();
    if (shapes.size() != inputs.size())
        fail(ErrorCode::invalid_argument, "the plan has " + std::to_string(inputs.size()) + " inputs, " +
                                              std::to_string(shapes.size()) + " shapes were given");
    std::vector<TensorView> views(shapes.size());
    std::vector<const TensorView*> pointers;
    std::vector<int64_t> key;
    static char somewhere;  // a shape has no data; the checks only want to see that it is not null
    for (size_t i = 0; i < shapes.size(); ++i) {
        views[i] = {inputs[i]->type.dtype, shapes[i], &somewhere};
        pointers.push_back(&views[i]);
        append_key(key, *inputs[i], shapes[i]);
    }
    runtime::check_inputs(engine.graph(), pointers);
    return engine.prepare(key, {shapes.begin(), shapes.end()});
}

}  // namespace

void Engine::prepare(std::span<const Dims> shapes) const {
    prepare_for(*impl_, shapes);
}

std::vector<std::pair<DType, Dims>> Engine::output_types(std::span<const Dims> shapes) const {
    const auto prepared = prepare_for(*impl_, shapes);
    std::vector<std::pair<DType, Dims>> types;
    if (const Program* program = prepared->compiled.program.get())
        for (const Port& port : program->outputs()) types.emplace_back(port.dtype, port.dims);
    return types;
}

EngineInfo Engine::info() const {
    return impl_->info();
}

std::vector<LayerRow> Engine::layers(std::span<const Dims> shapes) const {
    const auto prepared = prepare_for(*impl_, shapes);
    std::vector<LayerRow> rows;
    if (!prepared->compiled.program) return rows;
    for (StepInfo& step : prepared->compiled.program->steps())
        rows.push_back({step.name, step.layers, step.op, step.implementation,
                        step.placement == "cpu" ? "cpu" : impl_->device.name, step.dtype, step.flops, step.bytes,
                        std::move(step.refused)});
    return rows;
}

Engine load(const std::filesystem::path& path, const LoadOptions& options) {
    auto contents = std::make_shared<const plan::PlanContents>(plan::read(path));
    try {
        return Engine(std::make_shared<const Engine::Impl>(std::move(contents), options));
    } catch (const Error& error) {
        if (error.code() == ErrorCode::invalid_argument) throw;
        throw error.with_context("'" + path.string() + "'");
    }
}

Engine load(std::span<const std::byte> bytes, const LoadOptions& options) {
    auto contents = std::make_shared<const plan::PlanContents>(plan::read(bytes, nullptr));
    return Engine(std::make_shared<const Engine::Impl>(std::move(contents), options));
}

Engine load(const Plan& plan, const LoadOptions& options) {
    return Engine(std::make_shared<const Engine::Impl>(plan.contents(), options));
}

// ---- Plan

Plan::Plan(std::shared_ptr<const plan::PlanContents> contents, BuildReport report)
    : contents_(std::move(contents)), report_(std::make_shared<const BuildReport>(std::move(report))) {}

void Plan::save(const std::filesystem::path& path) const {
    plan::write(*contents_, path);
}

std::vector<std::byte> Plan::bytes() const {
    return plan::write_bytes(*contents_);
}

const BuildReport& Plan::report() const {
    return *report_;
}

}  // namespace planish
