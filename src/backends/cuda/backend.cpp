// The CUDA backend: chooses a tactic for each region, settles formats, plans memory, compiles kernels, makes the
// Program. Needs NVRTC or the code that a plan carries, but no GPU.
#include "backends/backend.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "backends/cuda/convert.hpp"
#include "backends/cuda/program.hpp"
#include "backends/tactic_choice.hpp"
#include "base/thread_pool.hpp"
#include "ir/canonical.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

constexpr int64_t kAlignment = 256;  // of every buffer: what cuMemAlloc gives, and more than any load wants

int64_t round_up(int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// A way to run a region: an implementation and one of its tactics. Named "gemm_mma:128x128x32_s4", or as the
/// implementation where it has one tactic only.
struct Candidate {
    const Implementation* implementation = nullptr;
    std::string tactic;
    double seconds = 0;

    std::string name() const {
        return tactic.empty() ? std::string(implementation->name) : std::string(implementation->name) + ":" + tactic;
    }
};

struct Choice {
    std::optional<Candidate> candidate;  // nullopt: dissolve
    std::vector<std::pair<std::string, std::string>> refused;
    int region = -1;
};

DType storage_of(const std::string& precision) {
    if (precision == "fp32" || precision == "tf32") return DType::f32;
    if (precision == "fp16" || precision == "int8" || precision == "fp8") return DType::f16;  // what is not in bytes
    if (precision == "bf16") return DType::bf16;
    fail(ErrorCode::unsupported, "precision '" + precision + "' is not available on a GPU in this version",
         "precisions are fp32, tf32, fp16, bf16, int8, fp8");
}

Arch arch_of(const std::string& target) {
    const auto arch = target.starts_with("cuda:") ? Arch::parse(target.substr(5)) : std::nullopt;
    if (!arch) fail(ErrorCode::internal, "'" + target + "' is no CUDA target");
    if (known_device(*arch) == nullptr)
        fail(ErrorCode::unsupported, "target '" + target + "': the oldest architecture is sm_80",
             "targets are cuda:sm_80, cuda:sm_86, cuda:sm_89, cuda:sm_90a, cuda:sm_100 and cuda:sm_120");
    return *arch;
}

class Compiler {
  public:
    Compiler(std::unique_ptr<Graph> graph, const CompileOptions& options) : options_(options) {
        parts_.graph = std::move(graph);
        parts_.device = options.device;
        parts_.store = options.store;
        if (options.packed == nullptr) parts_.own_packed = std::make_unique<PackedStore>();
        Environment& e = parts_.environment;
        e.arch = arch_of(options.target);
        e.device = options.device >= 0 ? Gpu::get(options.device).properties() : known_device(e.arch)->properties;
        e.storage = storage_of(options.precision);
        e.tf32 = options.precision == "tf32";
        e.packed = options.packed ? options.packed : parts_.own_packed.get();
    }

    std::unique_ptr<Program> run() {
        choose_tactics();
        place_interface();
        for (Node* node : parts_.graph->node_list()) lower(*node);
        bind_outputs();
        plan();
        compile();
        return std::make_unique<CudaProgram>(std::move(parts_));
    }

  private:
    struct Wires {
        std::vector<int> inputs, outputs;  // buffer indices, -1: none
        int workspace = -1;
    };

    // ---- tactics ----

    void choose_tactics() {
        tactics_.for_each_region(*parts_.graph, *parts_.environment.packed, [&](Node& node, int index) {
            Choice choice = choose(node, parts_.regions[static_cast<size_t>(index)]);
            if (!choice.candidate) return false;
            choice.region = index;
            choices_[&node] = std::move(choice);
            return true;
        });
    }

    std::vector<Tactic> tactics_of(const Implementation& implementation, const RegionView& region) const {
        if (implementation.tactics == nullptr) return {{}};
        std::vector<Tactic> tactics = implementation.tactics(region, parts_.environment);
        if (tactics.empty())
            fail(ErrorCode::internal, std::string(implementation.name) + " has no tactic for '" + region.node().name +
                                          "' although it does not refuse it");
        return tactics;
    }

    Choice choose(const Node& node, RegionInfo& info) {
        const RegionView region(node);
        std::vector<TacticAnswer> answers;
        std::vector<std::optional<Candidate>> candidates;  // by answer; nullopt: it refused
        int first = -1, by_default = -1;
        bool settled = false;  // by_default beats all that follow
        for (const Implementation* implementation : implementations(region)) {
            const bool reference = implementation == &families::kReference;
            if (reference && first >= 0) break;
            const bool off = !reference && (options_.only_reference || tactics_.is_disabled(implementation->name));
            const Refusal refusal = off ? Refusal::disabled : implementation->can_implement(region, parts_.environment);
            if (refusal != Refusal::none) {
                answers.push_back({std::string(implementation->name), refusal});
                candidates.emplace_back();
                continue;
            }
            const bool pays = implementation->pays == nullptr || implementation->pays(region, parts_.environment);
            for (Tactic& tactic : tactics_of(*implementation, region)) {
                const int index = static_cast<int>(answers.size());
                const Candidate& candidate =
                    candidates.emplace_back(Candidate{implementation, std::move(tactic.name), tactic.seconds}).value();
                answers.push_back({candidate.name(), Refusal::none});
                if (first < 0) first = index;
                if (!pays || settled || tactics_.is_disabled(candidate.name())) continue;
                const bool estimated = candidate.seconds > 0;
                if (by_default < 0 ||
                    (estimated && candidate.seconds < candidates[static_cast<size_t>(by_default)]->seconds))
                    by_default = index;
                settled = !estimated;
            }
        }
        if (by_default < 0 && !region.has_body()) by_default = first;
        if (options_.list_candidates && by_default < 0)
            sign(region, {}, info);  // others in lower(), where the formats are known
        const int chosen = tactics_.settle(region, answers, by_default, info);
        Choice choice{chosen < 0 ? std::nullopt : candidates[static_cast<size_t>(chosen)], {}, -1};
        for (const auto& [tactic, refusal] : answers)
            if (refusal != Refusal::none) choice.refused.emplace_back(tactic, to_string(refusal));
        return choice;
    }

    // ---- buffers ----

    static int64_t bytes_of(const Value& value, DType dtype) { return byte_size(dtype, element_count(value.dims())); }

    int add_buffer(int64_t bytes) {
        buffers_.push_back({std::max<int64_t>(bytes, 1), -1, -1, {}, {}});
        return static_cast<int>(buffers_.size()) - 1;
    }

    int add_constant(const Value& value, const Format& format) {
        Tensor tensor = *value.constant;
        if (format.dtype != tensor.dtype() || format.layout != Layout::plain) {
            const std::string packing = "stored " + std::string(to_string(format.dtype)) +
                                        (format.layout == Layout::plain ? " plain" : " channels_last");
            tensor = parts_.environment.packed->get(value.constant, packing,
                                                    [&] { return stored(*value.constant, format); });
        }
        const int buffer = add_buffer(tensor.bytes());
        buffers_.back().fixed = {Slot::Base::absolute, static_cast<int>(parts_.constants.size()), 0, nullptr};
        parts_.constants.push_back(std::move(tensor));
        return buffer;
    }

    void place_interface() {
        Graph& graph = *parts_.graph;
        for (size_t i = 0; i < graph.inputs().size(); ++i) {
            Value* value = graph.inputs()[i];
            parts_.inputs.push_back({value->name, value->type.dtype, value->dims()});
            const int buffer = add_buffer(bytes_of(*value, value->type.dtype));
            buffers_.back().fixed = {Slot::Base::input, static_cast<int>(i), 0, nullptr};
            locate(value, {Layout::plain, value->type.dtype}, buffer);
        }
    }

    void locate(const Value* value, const Format& format, int buffer) {
        located_[{value, format}] = buffer;
        home_.try_emplace(value, format);
        if (layouts_coincide(value->dims())) {
            const Layout other = format.layout == Layout::plain ? Layout::channels_last : Layout::plain;
            located_[{value, {other, format.dtype}}] = buffer;
        }
    }

    /// The format in which `value` was made. A constant has whichever is asked for.
    Format home(const Value* value) const {
        if (value->is_constant()) return {Layout::plain, parts_.environment.stored_as(*value)};
        return home_.at(value);
    }

    /// The buffer that holds `value` in `format`, made by a conversion (or at compile time) when there is none yet.
    int buffer_in(const Value* value, const Format& format) {
        if (const auto it = located_.find({value, format}); it != located_.end()) return it->second;
        if (value->is_constant()) {
            const int buffer = add_constant(*value, format);
            locate(value, format, buffer);
            return buffer;
        }
        const Format from_format = home(value);
        const int from = located_.at({value, from_format});
        const int to = add_buffer(bytes_of(*value, format.dtype));
        push_conversion("convert(" + value->name + ")", *value, from_format, format, from, to);
        locate(value, format, to);
        return to;
    }

    void push_conversion(std::string name, const Value& value, const Format& from_format, const Format& to_format,
                         int from, int to) {
        Step step;
        step.kernel = make_convert_kernel(value.dims(), from_format, to_format);
        step.info.name = std::move(name);
        step.info.op = "Convert";
        step.info.implementation = step.kernel.name;
        step.info.placement = "cuda";
        step.info.dtype = to_format.dtype;
        step.info.bytes = bytes_of(value, from_format.dtype) + bytes_of(value, to_format.dtype);
        // A conversion is the price of what its value's producer and its reader chose together: both are charged.
        if (lowering_ >= 0) step.info.regions.push_back(lowering_);
        if (const auto it = choices_.find(value.producer); it != choices_.end())
            step.info.regions.push_back(it->second.region);
        push(std::move(step), {{from}, {to}, -1});
    }

    void push(Step step, Wires wires) {
        const int index = static_cast<int>(parts_.steps.size());
        if (step.kernel.workspace > 0) {
            wires.workspace = add_buffer(step.kernel.workspace);
            touch(wires.workspace, index);
        }
        if (step.kernel.semaphores > 0) {
            step.semaphore_offset = parts_.semaphore_bytes;
            parts_.semaphore_bytes += round_up(step.kernel.semaphores);
        }
        step.first_constant = static_cast<int>(parts_.constants.size());
        for (Tensor& constant : step.kernel.constants) parts_.constants.push_back(constant);
        for (const int b : wires.inputs) touch(b, index);
        for (const int b : wires.outputs) touch(b, index);
        parts_.steps.push_back(std::move(step));
        wires_.push_back(std::move(wires));
    }

    void touch(int buffer, int step) {
        if (buffer < 0) return;
        BufferLife& life = buffers_[static_cast<size_t>(buffer)];
        if (life.first < 0) life.first = step;
        life.last = std::max(life.last, step);
    }

    // ---- lowering ----

    void lower(Node& node) {
        const Value* moved = node.is("Transpose") && !node.input(0)->is_constant() ? node.input(0) : nullptr;
        if (const auto layout = moved ? transpose_alias(node, home(moved).layout) : std::nullopt) {
            locate(node.output(), {*layout, home(moved).dtype}, located_.at({moved, home(moved)}));
            return;
        }
        if (is_alias(node)) {
            // The same bytes under other dimensions: no step.
            const Format in = home(node.input(0));
            const Format format{node.is("Identity") ? in.layout : Layout::plain, in.dtype};
            locate(node.output(), format, buffer_in(node.input(0), format));
            return;
        }
        const auto it = choices_.find(&node);
        if (it == choices_.end()) fail(ErrorCode::internal, "node '" + node.name + "' was not given an implementation");
        const Choice& choice = it->second;
        const Implementation& implementation = *choice.candidate->implementation;
        const RegionView region(node);
        std::vector<Format> available;
        for (const Value* input : node.inputs()) available.push_back(input ? home(input) : Format{});
        lowering_ = choice.region;
        if (options_.list_candidates) sign(region, available, parts_.regions[static_cast<size_t>(lowering_)]);
        const Formats formats = implementation.formats(region, available, parts_.environment);

        Step step;
        step.kernel = implementation.compile(region, formats, choice.candidate->tactic, parts_.environment);
        step.region = &node;
        step.formats = formats;
        Wires wires;
        for (int i = 0; i < node.input_count(); ++i) {
            const Value* input = node.input(i);
            const auto& consumed = step.kernel.consumed;
            const bool unused = input == nullptr || (step.kernel.host && input->is_constant()) ||
                                std::find(consumed.begin(), consumed.end(), i) != consumed.end();
            const Format& format = formats.inputs[static_cast<size_t>(i)];
            wires.inputs.push_back(unused ? -1 : buffer_in(input, format));
            step.input_bytes.push_back(unused ? 0 : bytes_of(*input, format.dtype));
        }
        for (size_t i = 0; i < node.outputs().size(); ++i) {
            const Value* output = node.outputs()[i];
            const int64_t bytes = bytes_of(*output, formats.outputs[i].dtype);
            const int buffer = add_buffer(bytes);
            wires.outputs.push_back(buffer);
            step.output_bytes.push_back(bytes);
            locate(output, formats.outputs[i], buffer);
        }
        if (!wires.outputs.empty()) {
            BufferLife& life = buffers_[static_cast<size_t>(wires.outputs[0])];
            for (const int i : step.kernel.in_place) {
                // Not when the same memory is also read as another input, or lies in another order.
                const auto index = static_cast<size_t>(i);
                const int buffer = wires.inputs[index];
                if (buffer >= 0 && formats.inputs[index] == formats.outputs[0] &&
                    std::count(wires.inputs.begin(), wires.inputs.end(), buffer) == 1)
                    life.may_reuse.push_back(buffer);
            }
        }
        step.info = describe(region, step, *choice.candidate, choice);
        push(std::move(step), std::move(wires));
        lowering_ = -1;
    }

    void sign(const RegionView& region, std::span<const Format> available, RegionInfo& info) const {
        info.title = op_of(region);
        for (const Value* output : region.node().outputs())
            if (output) info.title += " " + to_string(output->type);
        info.signature = canonical_text(region.node()) + "\nprecision " + options_.precision + "\nformats";
        for (const Format& format : available) {
            info.signature += format.layout == Layout::plain ? " plain" : " channels_last";
            info.signature += " " + std::string(to_string(format.dtype));
        }
    }

    StepInfo describe(const RegionView& region, const Step& step, const Candidate& candidate,
                      const Choice& choice) const {
        const Node& node = region.node();
        const bool host = static_cast<bool>(step.kernel.host);
        StepInfo info;
        info.name = node.name;
        info.layers = layers_of(node);
        info.op = op_of(region);
        info.implementation = step.kernel.name.empty() ? candidate.name() : step.kernel.name;
        info.placement = host ? "cpu" : "cuda";
        info.dtype = step.formats.outputs.empty() ? DType::undefined : step.formats.outputs[0].dtype;
        if (!host) {
            const DType storage = parts_.environment.storage;
            info.unit_roundoff = storage == DType::f16 ? 0x1p-11 : storage == DType::bf16 ? 0x1p-8 : 0x1p-24;
            // Weights and inputs are rounded to what tensor cores multiply: tf32 has ten bits, as f16.
            info.factor_roundoff = storage != DType::f32 ? info.unit_roundoff : parts_.environment.tf32 ? 0x1p-11 : 0;
        }
        info.flops = step.kernel.flops;
        for (int i = 0; i < node.input_count(); ++i)
            if (const Value* value = node.input(i))
                info.bytes += bytes_of(*value, step.formats.inputs[static_cast<size_t>(i)].dtype);
        for (const int64_t bytes : step.output_bytes) info.bytes += bytes;
        info.refused = choice.refused;
        info.regions = {choice.region};
        return info;
    }

    // Every graph output ends in the caller's memory, row-major, in its own type: the step that makes it writes there
    // itself where it can.
    void bind_outputs() {
        Graph& graph = *parts_.graph;
        std::unordered_set<int> bound;
        for (size_t i = 0; i < graph.outputs().size(); ++i) {
            const Value* value = graph.outputs()[i];
            const Format format{Layout::plain, value->type.dtype};
            parts_.outputs.push_back({value->name, value->type.dtype, value->dims()});
            const Slot port{Slot::Base::output, static_cast<int>(i), 0, nullptr};
            const int buffer = buffer_in(value, format);
            BufferLife& life = buffers_[static_cast<size_t>(buffer)];
            if (life.fixed.base == Slot::Base::none && !bound.contains(buffer)) {
                life.fixed = port;
                bound.insert(buffer);
                continue;
            }
            const int to = add_buffer(bytes_of(*value, format.dtype));
            buffers_.back().fixed = port;
            push_conversion("copy(" + value->name + ")", *value, format, format, buffer, to);
        }
    }

    // ---- memory and code ----

    Slot slot(int buffer) const { return buffer < 0 ? Slot{} : buffers_[static_cast<size_t>(buffer)].fixed; }

    void plan() {
        const MemoryPlan memory = plan_memory(buffers_, kAlignment);
        parts_.arena_bytes = memory.bytes;
        for (size_t i = 0; i < buffers_.size(); ++i)
            if (buffers_[i].fixed.base == Slot::Base::none)
                buffers_[i].fixed = {Slot::Base::arena, 0, memory.offsets[i], nullptr};
        for (size_t s = 0; s < parts_.steps.size(); ++s) {
            Step& step = parts_.steps[s];
            const Wires& wires = wires_[s];
            for (const int b : wires.inputs) step.inputs.push_back(slot(b));
            for (const int b : wires.outputs) step.outputs.push_back(slot(b));
            if (wires.workspace >= 0) step.workspace_offset = slot(wires.workspace).offset;
        }
    }

    void compile() {
        std::vector<const KernelSpec*> specs;
        for (const Step& step : parts_.steps)
            for (const Launch& launch : step.kernel.launches) specs.push_back(&launch.spec);
        const auto binaries =
            compile_kernels(specs, parts_.environment.arch, options_.binaries, KernelCache::of_user());
        size_t next = 0;
        for (Step& step : parts_.steps)
            for (size_t i = 0; i < step.kernel.launches.size(); ++i) step.binaries.push_back(binaries[next++]);
    }

    struct KeyHash {
        size_t operator()(const std::pair<const Value*, Format>& key) const {
            return std::hash<const void*>()(key.first) * 64 + static_cast<size_t>(key.second.layout) * 32 +
                   static_cast<size_t>(key.second.dtype);
        }
    };

    const CompileOptions& options_;
    CudaProgram::Parts parts_;
    TacticChoice tactics_{options_, parts_.regions, parts_.ignored_tactics};
    std::unordered_map<const Node*, Choice> choices_;
    int lowering_ = -1;  // the region that lower() is at
    std::vector<BufferLife> buffers_;
    std::vector<Wires> wires_;
    std::unordered_map<std::pair<const Value*, Format>, int, KeyHash> located_;
    std::unordered_map<const Value*, Format> home_;
};

class CudaBackend final : public Backend {
  public:
    std::string_view name() const override { return "cuda"; }
    std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph, const CompileOptions& options) const override {
        if (!is_static(*graph)) fail(ErrorCode::internal, "the CUDA backend was given a graph that is not specialised");
        return Compiler(std::move(graph), options).run();
    }
    int concurrent_compilations() const override { return ThreadPool::process().size(); }
    // What the maker states: a fraction of it is what a roofline shows.
    Roofline measure_roofline(const std::string& target, int, int64_t) const override {
        const DeviceProperties device =
            Gpu::count() > 0 ? Gpu::get(0).properties() : known_device(arch_of(target))->properties;
        return {device.tensor_flops, 2 * device.tensor_flops, device.bandwidth};
    }
    std::unique_ptr<DeviceState> create_state(int device) const override { return make_state(Gpu::get(device)); }
    std::shared_ptr<DeviceStore> create_store(int device) const override { return make_store(Gpu::get(device)); }
    bool is_device_memory(const void* pointer, int device) const override { return Gpu::get(device).owns(pointer); }
};

}  // namespace
}  // namespace planish::cuda

namespace planish {
const Backend& cuda_backend() {
    static const cuda::CudaBackend backend;
    return backend;
}
}  // namespace planish
