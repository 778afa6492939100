// The CPU backend: chooses an implementation for each region, settles layouts, plans memory, makes the Program.
#include "backends/backend.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "backends/cpu/program.hpp"
#include "backends/cpu/roofline.hpp"
#include "backends/tactic_choice.hpp"
#include "base/thread_pool.hpp"
#include "ir/canonical.hpp"
#include "planish/error.hpp"

namespace planish {

namespace cpu {
namespace {

// The choice made for one node.
struct Choice {
    const Implementation* implementation = nullptr;  // null: dissolve
    std::vector<std::pair<std::string, std::string>> refused;
    int region = -1;
};

/// What a target string asks for, as far as the machine has it.
Isa target_isa(const std::string& target) {
    if (!target.starts_with("cpu:")) return detect_isa();
    const auto wanted = parse_isa(std::string_view(target).substr(4));
    if (!wanted)
        fail(ErrorCode::invalid_argument, "unknown target '" + target + "'",
             "use cpu, cpu:avx2, cpu:avx512 or cpu:avx512_vnni");
    return std::min(detect_isa(), *wanted);
}

class Compiler {
  public:
    Compiler(std::unique_ptr<Graph> graph, const CompileOptions& options) : options_(options) {
        parts_.graph = std::move(graph);
        environment_.isa = target_isa(options.target);
        environment_.threads = options.threads > 0 ? options.threads : ThreadPool::process().size();
        if (options.packed == nullptr) parts_.own_packed = std::make_unique<PackedStore>();
        environment_.packed = options.packed ? options.packed : parts_.own_packed.get();
        environment_.uses = &uses_;
    }

    std::unique_ptr<Program> run() {
        choose_implementations();
        place_interface();
        for (Node* node : parts_.graph->node_list()) lower(*node);
        bind_outputs();
        place_constants();
        const MemoryPlan plan = plan_memory(buffers_);
        parts_.arena_bytes = plan.bytes;
        for (size_t i = 0; i < buffers_.size(); ++i)
            if (buffers_[i].fixed.base == Slot::Base::none)
                buffers_[i].fixed = {Slot::Base::arena, 0, plan.offsets[i], nullptr};
        for (size_t s = 0; s < parts_.steps.size(); ++s) {
            Step& step = parts_.steps[s];
            const Wires& wires = wires_[s];
            for (const int b : wires.inputs) step.inputs.push_back(slot(b));
            for (const int b : wires.outputs) step.outputs.push_back(slot(b));
            if (wires.workspace >= 0) step.workspace_offset = slot(wires.workspace).offset;
        }
        return std::make_unique<CpuProgram>(std::move(parts_));
    }

  private:
    struct Wires {
        std::vector<int> inputs, outputs;  // buffer indices, -1: none
        int workspace = -1;
    };

    Slot slot(int buffer) const { return buffer < 0 ? Slot{} : buffers_[static_cast<size_t>(buffer)].fixed; }

    void choose_implementations() {
        tactics_.for_each_region(*parts_.graph, *environment_.packed, [&](Node& node, int index) {
            Choice choice = choose(node, parts_.regions[static_cast<size_t>(index)]);
            if (choice.implementation == nullptr) return false;
            choice.region = index;
            choices_[&node] = std::move(choice);
            return true;
        });
    }

    Refusal ask(const Implementation& candidate, const RegionView& region) const {
        const bool reference = &candidate == &families::kReference;
        if (!reference && (options_.only_reference || tactics_.is_disabled(candidate.name))) return Refusal::disabled;
        return candidate.can_implement(region, environment_);
    }

    // The tactic that was asked for, else the first implementation that can and is expected to pay, else the first that
    // can; a region that none is expected to gain by is dissolved. The reference is a candidate only where it is the
    // only one.
    Choice choose(const Node& node, RegionInfo& info) {
        const RegionView region(node);
        const std::string_view wanted = tactics_.wanted(info);
        const std::span<const Implementation* const> list = implementations(region);
        std::vector<TacticAnswer> answers;
        int first = -1, by_default = -1;  // that can; that is expected to pay, too
        for (const Implementation* candidate : list) {
            if (candidate == &families::kReference && first >= 0) break;
            const int index = static_cast<int>(answers.size());
            answers.push_back({std::string(candidate->name), ask(*candidate, region)});
            if (answers.back().refusal != Refusal::none) continue;
            if (first < 0) first = index;
            const bool pays = candidate->pays == nullptr || candidate->pays(region);
            if (pays && by_default < 0) by_default = index;
            if (wanted.empty() ? pays && !options_.list_candidates : candidate->name == wanted) break;
        }
        if (by_default < 0 && !region.has_body()) by_default = first;
        if (options_.list_candidates && by_default < 0)
            sign(region, {}, info);  // others in lower(), where the layouts are known
        const int chosen = tactics_.settle(region, answers, by_default, info);
        Choice choice{chosen < 0 ? nullptr : list[static_cast<size_t>(chosen)], {}, -1};
        answers.resize(chosen < 0 ? answers.size() : static_cast<size_t>(chosen));
        for (const auto& [tactic, refusal] : answers)
            choice.refused.emplace_back(tactic, to_string(refusal == Refusal::none ? Refusal::slower : refusal));
        return choice;
    }

    // ---- buffers ----

    int64_t bytes_of(const Value& value) const { return byte_size(value.type.dtype, element_count(value.dims())); }

    int add_buffer(int64_t bytes) {
        buffers_.push_back({std::max<int64_t>(bytes, 1), -1, -1, {}, {}});
        return static_cast<int>(buffers_.size()) - 1;
    }

    void place_interface() {
        Graph& graph = *parts_.graph;
        for (size_t i = 0; i < graph.inputs().size(); ++i) {
            Value* value = graph.inputs()[i];
            parts_.inputs.push_back({value->name, value->type.dtype, value->dims()});
            const int buffer = add_buffer(bytes_of(*value));
            buffers_.back().fixed = {Slot::Base::input, static_cast<int>(i), 0, nullptr};
            locate(value, Layout::plain, buffer);
        }
        for (Value* value : graph.values()) {
            if (!value->is_constant()) continue;
            const int buffer = add_buffer(bytes_of(*value));
            buffers_.back().fixed = {Slot::Base::absolute, 0, 0, nullptr};
            constants_.emplace_back(buffer, value->constant);
            locate(value, Layout::plain, buffer);
        }
    }

    // The elements of a constant are asked for only where a step reads them: one that is stored packed for its kernels
    // is never unpacked.
    void place_constants() {
        for (const auto& [buffer, constant] : constants_) {
            BufferLife& life = buffers_[static_cast<size_t>(buffer)];
            if (life.first < 0) continue;
            life.fixed.address = static_cast<const std::byte*>(constant->raw());
            parts_.keep_alive.push_back(constant);
            uses_.push_back({constant, std::nullopt});
        }
        std::map<const Tensor*, size_t> met;  // index of the constant's first use
        std::vector<bool> unique(uses_.size(), true);
        for (size_t i = 0; i < uses_.size(); ++i) {
            const auto [it, first] = met.try_emplace(uses_[i].constant.get(), i);
            if (!first) unique[i] = false;
            if (!uses_[i].packing || uses_[i].packing != uses_[it->second].packing) unique[it->second] = false;
        }
        for (size_t i = 0; i < uses_.size(); ++i)
            if (unique[i]) parts_.packed_constants.push_back(std::move(uses_[i]));
    }

    void locate(const Value* value, Layout layout, int buffer) {
        located_[{value, layout}] = buffer;
        home_layout_.try_emplace(value, layout);
        if (layouts_coincide(value->dims()))
            located_[{value, layout == Layout::plain ? Layout::channels_last : Layout::plain}] = buffer;
    }

    Layout layout_of(const Value* value) const { return home_layout_.at(value); }

    /// The buffer that holds `value` in `layout`, made by a reorder step (or at compile time) when there is none yet.
    int buffer_in(const Value* value, Layout layout) {
        if (const auto it = located_.find({value, layout}); it != located_.end()) return it->second;
        const Layout home = layout_of(value);
        const int from = located_.at({value, home});
        const Dims dims = value->dims();
        const int64_t element = byte_size(value->type.dtype, 1);
        if (value->is_constant()) {
            auto moved = std::make_shared<Tensor>(value->type.dtype, dims);
            uses_.push_back({value->constant, std::nullopt});
            reorder(static_cast<const std::byte*>(value->constant->raw()), home, static_cast<std::byte*>(moved->raw()),
                    layout, dims, element);
            const int buffer = add_buffer(bytes_of(*value));
            buffers_.back().fixed = {Slot::Base::absolute, 0, 0, static_cast<const std::byte*>(moved->raw())};
            parts_.keep_alive.push_back(moved);
            parts_.constant_bytes += bytes_of(*value);
            located_[{value, layout}] = buffer;
            return buffer;
        }
        const int to = add_buffer(bytes_of(*value));
        Step step;
        step.kernel = make_reorder_kernel(dims, element, home, layout, environment_.isa);
        step.info.name = "reorder(" + value->name + ")";
        step.info.op = "Reorder";
        step.info.implementation = step.kernel->name;
        step.info.dtype = value->type.dtype;
        step.info.bytes = 2 * bytes_of(*value);
        if (lowering_ >= 0) step.info.regions.push_back(lowering_);
        add_producer(*value, step.info);
        push(std::move(step), {{from}, {to}, -1});
        located_[{value, layout}] = to;
        return to;
    }

    void push(Step step, Wires wires) {
        const int index = static_cast<int>(parts_.steps.size());
        if (step.kernel->workspace > 0) {
            wires.workspace = add_buffer(static_cast<int64_t>(step.kernel->workspace));
            touch(wires.workspace, index);
        }
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
        const Value* moved = node.is("Transpose") ? node.input(0) : nullptr;
        if (const auto layout = moved ? transpose_alias(node, layout_of(moved)) : std::nullopt) {
            locate(node.output(), *layout, located_.at({node.input(0), layout_of(node.input(0))}));
            return;
        }
        if (is_alias(node)) {
            // The same bytes under other dimensions: no step.
            const Value* output = node.output();
            Layout layout = node.is("Identity") ? layout_of(node.input(0)) : Layout::plain;
            locate(output, layout, buffer_in(node.input(0), layout));
            return;
        }
        const auto it = choices_.find(&node);
        if (it == choices_.end()) fail(ErrorCode::internal, "node '" + node.name + "' was not given an implementation");
        const Choice& choice = it->second;
        const RegionView region(node);
        std::vector<Layout> available;
        for (const Value* input : node.inputs()) available.push_back(input ? layout_of(input) : Layout::plain);
        lowering_ = choice.region;
        if (options_.list_candidates) sign(region, available, parts_.regions[static_cast<size_t>(lowering_)]);
        const Layouts layouts = choice.implementation->layouts(region, available);

        Step step;
        step.kernel = choice.implementation->compile(region, layouts, environment_);
        step.region = &node;
        step.layouts = layouts;
        Wires wires;
        for (int i = 0; i < node.input_count(); ++i) {
            const auto& consumed = step.kernel->consumed;
            const bool unused =
                node.input(i) == nullptr || std::find(consumed.begin(), consumed.end(), i) != consumed.end();
            wires.inputs.push_back(unused ? -1 : buffer_in(node.input(i), layouts.inputs[static_cast<size_t>(i)]));
        }
        for (size_t i = 0; i < node.outputs().size(); ++i) {
            const Value* output = node.outputs()[i];
            const int buffer = add_buffer(bytes_of(*output));
            wires.outputs.push_back(buffer);
            locate(output, layouts.outputs[i], buffer);
        }
        if (!wires.outputs.empty()) {
            BufferLife& life = buffers_[static_cast<size_t>(wires.outputs[0])];
            for (const int i : step.kernel->in_place) {
                // Not when the same memory is also read as another input.
                const int buffer = wires.inputs[static_cast<size_t>(i)];
                if (buffer >= 0 && std::count(wires.inputs.begin(), wires.inputs.end(), buffer) == 1)
                    life.may_reuse.push_back(buffer);
            }
        }
        step.info = describe(region, *step.kernel, choice);
        push(std::move(step), std::move(wires));
        lowering_ = -1;
    }

    static void sign(const RegionView& region, std::span<const Layout> available, RegionInfo& info) {
        info.title = op_of(region);
        for (const Value* output : region.node().outputs())
            if (output) info.title += " " + to_string(output->type);
        info.signature = canonical_text(region.node()) + "\nlayouts";
        for (const Layout layout : available) info.signature += layout == Layout::plain ? " plain" : " channels_last";
    }

    // A reorder is the price of what its value's producer and its reader chose together: both are charged.
    void add_producer(const Value& value, StepInfo& info) const {
        const auto it = choices_.find(value.producer);
        if (it != choices_.end()) info.regions.push_back(it->second.region);
    }

    StepInfo describe(const RegionView& region, const Kernel& kernel, const Choice& choice) const {
        const Node& node = region.node();
        StepInfo info;
        info.name = node.name;
        info.layers = layers_of(node);
        info.op = op_of(region);
        info.implementation = kernel.name;
        info.dtype = node.outputs().empty() ? DType::undefined : node.output()->type.dtype;
        info.flops = kernel.flops;
        info.factor_roundoff = kernel.factor_roundoff;
        info.integer = region.has_body() && node.text("kind") == "quantized";
        for (const Value* value : node.inputs())
            if (value) info.bytes += bytes_of(*value);
        for (const Value* value : node.outputs()) info.bytes += bytes_of(*value);
        info.refused = choice.refused;
        info.regions = {choice.region};
        return info;
    }

    // Every graph output ends in the caller's memory, row-major: the producing step writes there itself where it can.
    void bind_outputs() {
        Graph& graph = *parts_.graph;
        std::unordered_set<int> bound;
        for (size_t i = 0; i < graph.outputs().size(); ++i) {
            const Value* value = graph.outputs()[i];
            parts_.outputs.push_back({value->name, value->type.dtype, value->dims()});
            const Slot port{Slot::Base::output, static_cast<int>(i), 0, nullptr};
            const int buffer = buffer_in(value, Layout::plain);
            BufferLife& life = buffers_[static_cast<size_t>(buffer)];
            if (life.fixed.base == Slot::Base::none && !bound.contains(buffer)) {
                life.fixed = port;
                bound.insert(buffer);
                continue;
            }
            const int64_t bytes = bytes_of(*value);
            const int to = add_buffer(bytes);
            buffers_.back().fixed = port;
            Step step;
            step.kernel = make_reorder_kernel({bytes}, 1, Layout::plain, Layout::plain, environment_.isa);
            step.info.name = "copy(" + value->name + ")";
            step.info.op = "Copy";
            step.info.implementation = step.kernel->name;
            step.info.dtype = value->type.dtype;
            step.info.bytes = 2 * bytes;
            add_producer(*value, step.info);
            push(std::move(step), {{buffer}, {to}, -1});
        }
    }

    struct KeyHash {
        size_t operator()(const std::pair<const Value*, Layout>& key) const {
            return std::hash<const void*>()(key.first) * 2 + static_cast<size_t>(key.second);
        }
    };

    const CompileOptions& options_;
    Environment environment_;
    CpuProgram::Parts parts_;
    TacticChoice tactics_{options_, parts_.regions, parts_.ignored_tactics};
    std::unordered_map<const Node*, Choice> choices_;
    int lowering_ = -1;  // the region that lower() is at
    std::vector<BufferLife> buffers_;
    std::vector<std::pair<int, std::shared_ptr<const Tensor>>> constants_;  // by buffer
    std::vector<ConstantUse> uses_;
    std::vector<Wires> wires_;
    std::unordered_map<std::pair<const Value*, Layout>, int, KeyHash> located_;
    std::unordered_map<const Value*, Layout> home_layout_;
};

class CpuBackend final : public Backend {
  public:
    std::string_view name() const override { return "cpu"; }
    std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph, const CompileOptions& options) const override {
        if (!is_static(*graph)) fail(ErrorCode::internal, "the CPU backend was given a graph that is not specialised");
        return Compiler(std::move(graph), options).run();
    }
    Roofline measure_roofline(const std::string& target, int threads, int64_t working_set) const override {
        return cpu::measure_roofline(target_isa(target), ThreadPool::process(), threads, working_set);
    }
};

}  // namespace
}  // namespace cpu

const Backend& cpu_backend() {
    static const cpu::CpuBackend backend;
    return backend;
}

}  // namespace planish
