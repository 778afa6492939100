// Node by node over all samples.
#include "precision/rehearsal.hpp"

#include <algorithm>

#include "planish/error.hpp"
#include "reference/interpreter.hpp"
#include "runtime/compile.hpp"

namespace planish::precision {

struct NodeRunner::Compiled {
    std::unique_ptr<Program> program;  // null: the interpreter runs the node
    Tensor arena;
};

NodeRunner::NodeRunner(const Node& node, std::map<int, Tensor> replaced, int threads)
    : node_(node), replaced_(std::move(replaced)), threads_(threads) {}
NodeRunner::~NodeRunner() = default;

namespace {

/// Compiling pays for tensors of some size only; what a kernel cannot hold is the interpreter's.
bool worth_compiling(const Node& node, const std::vector<const RefValue*>& inputs) {
    constexpr int64_t kLeastElements = 256;
    int64_t largest = 0;
    for (const RefValue* input : inputs) {
        if (input == nullptr) continue;
        if (input->kind != Kind::tensor || input->tensor.dtype() == DType::string) return false;
        largest = std::max(largest, input->tensor.size());
    }
    for (const auto& [_, attribute] : node.attributes)
        if (std::holds_alternative<GraphPtr>(attribute)) return false;
    return largest >= kLeastElements && node.output() != nullptr && node.output()->type.dtype == DType::f32;
}

}  // namespace

const NodeRunner::Compiled& NodeRunner::compiled(const std::vector<const RefValue*>& inputs) {
    std::vector<Dims> shapes;
    for (const RefValue* input : inputs) shapes.push_back(input != nullptr ? input->tensor.dims() : Dims{});
    std::unique_ptr<Compiled>& entry = programs_[shapes];
    if (entry) return *entry;
    entry = std::make_unique<Compiled>();
    if (!worth_compiling(node_, inputs)) return *entry;
    Graph graph(node_.name);
    std::vector<Value*> operands;
    std::unordered_map<const Value*, Value*> made;
    std::vector<Dims> bound;
    for (int i = 0; i < node_.input_count(); ++i) {
        const Value* value = node_.input(i);
        if (value == nullptr) {
            operands.push_back(nullptr);
            continue;
        }
        Value*& operand = made[value];
        const auto at = static_cast<size_t>(i);
        if (operand == nullptr && (replaced_.contains(i) || value->is_constant())) {
            operand = graph.add_constant(value->name, inputs[at]->tensor);
        } else if (operand == nullptr) {
            operand = graph.add_input(value->name,
                                      {Kind::tensor, inputs[at]->tensor.dtype(), to_shape(inputs[at]->tensor.dims())});
            bound.push_back(inputs[at]->tensor.dims());
        }
        operands.push_back(operand);
    }
    Node* copy = graph.add_node(node_.op().name, operands, node_.attributes, static_cast<int>(node_.outputs().size()),
                                node_.name, nullptr, node_.op().domain);
    for (size_t i = 0; i < node_.outputs().size(); ++i)
        if (node_.outputs()[i] != nullptr) graph.add_output(copy->outputs()[i]);
    if (!is_static(graph)) return *entry;
    CompileOptions options;
    options.threads = threads_;
    entry->program = runtime::compile(graph, bound, cpu_backend(), options).program;
    if (entry->program) entry->arena = Tensor(DType::u8, {std::max<int64_t>(entry->program->arena_bytes(), 1)});
    return *entry;
}

std::vector<RefValue> NodeRunner::run(const std::vector<const RefValue*>& given) {
    std::vector<const RefValue*> inputs = given;
    std::map<int, RefValue> constants;
    for (int i = 0; i < node_.input_count(); ++i) {
        const Value* value = node_.input(i);
        const auto it = replaced_.find(i);
        if (it == replaced_.end() && (value == nullptr || !value->is_constant())) continue;
        inputs[static_cast<size_t>(i)] =
            &constants.emplace(i, it != replaced_.end() ? it->second : *value->constant).first->second;
    }
    const Compiled& code = compiled(inputs);
    if (code.program == nullptr) return reference::run_node(node_, inputs);
    std::vector<const void*> in;
    std::vector<const Value*> met;
    for (int i = 0; i < node_.input_count(); ++i) {
        const Value* value = node_.input(i);
        if (value == nullptr || constants.contains(i) || std::find(met.begin(), met.end(), value) != met.end())
            continue;
        met.push_back(value);
        in.push_back(inputs[static_cast<size_t>(i)]->tensor.raw());
    }
    std::vector<RefValue> results(node_.outputs().size());
    std::vector<void*> out;
    size_t port = 0;
    for (size_t i = 0; i < results.size(); ++i) {
        if (node_.outputs()[i] == nullptr) continue;
        const Port& type = code.program->outputs()[port++];
        results[i] = RefValue(Tensor(type.dtype, type.dims));
        out.push_back(results[i].tensor.raw());
    }
    code.program->run(in, out, static_cast<std::byte*>(const_cast<void*>(code.arena.raw())), threads_);
    return results;
}

Rehearsal::Rehearsal(const Graph& graph, std::span<const TensorMap> samples, int threads)
    : threads_(threads), values_(samples.size()) {
    for (const auto& node : graph.nodes())
        for (const Value* input : node->inputs())
            if (input != nullptr && !input->is_constant()) ++readers_[input];
    for (const Value* output : graph.outputs()) ++readers_[output];
    for (size_t i = 0; i < samples.size(); ++i) {
        for (const Value* input : graph.inputs()) {
            const auto it = samples[i].find(input->name);
            if (it == samples[i].end())
                fail(ErrorCode::invalid_argument,
                     "calibration sample " + std::to_string(i) + " misses input '" + input->name + "'",
                     "give every sample one array for each input of the model");
            if (it->second.dtype() != input->type.dtype)
                fail(ErrorCode::invalid_argument,
                     "calibration sample " + std::to_string(i) + ": input '" + input->name + "' is " +
                         std::string(to_string(it->second.dtype())) + ", the model declares " + to_string(input->type));
            values_[i][input] = RefValue(it->second);
            if (i == 0) held_ += it->second.bytes();
        }
    }
    peak_ = held_;
}

void Rehearsal::run(const Node& node, const std::map<int, Tensor>& replaced) {
    NodeRunner runner(node, replaced, threads_);
    advance(node, [&](const std::vector<const RefValue*>& inputs) { return runner.run(inputs); });
}

void Rehearsal::map(const Node& node, FunctionRef<Tensor(const Tensor&)> fn) {
    advance(node, [&](const std::vector<const RefValue*>& inputs) {
        return std::vector<RefValue>{RefValue(fn(inputs[0]->tensor))};
    });
}

void Rehearsal::advance(const Node& node,
                        FunctionRef<std::vector<RefValue>(const std::vector<const RefValue*>&)> compute) {
    const auto bytes = [](const RefValue& value) { return value.tensor ? value.tensor.bytes() : 0; };
    std::vector<const Value*> done;
    for (const Value* input : node.inputs())
        if (input != nullptr && !input->is_constant() && --readers_.at(input) == 0) done.push_back(input);
    for (size_t i = 0; i < values_.size(); ++i) {
        auto& values = values_[i];
        std::vector<const RefValue*> inputs;
        for (const Value* input : node.inputs())
            inputs.push_back(input == nullptr || input->is_constant() ? nullptr : &values.at(input));
        std::vector<RefValue> results = compute(inputs);
        for (size_t o = 0; o < results.size(); ++o) {
            const Value* output = node.outputs()[o];
            if (output == nullptr || !readers_.contains(output)) continue;
            if (i == 0) held_ += bytes(results[o]);
            values[output] = std::move(results[o]);
        }
        if (i == 0) peak_ = std::max(peak_, held_);
        for (const Value* input : done) {
            if (i == 0) held_ -= bytes(values.at(input));
            values.erase(input);
        }
    }
}

}  // namespace planish::precision
