// The reference interpreter: node by node in graph order, values freed after their last use.
#include "reference/interpreter.hpp"

#include <algorithm>
#include <memory>
#include <unordered_map>

#include "planish/error.hpp"

namespace planish::reference {

std::vector<RefValue> run_node(const Node& node, std::vector<const RefValue*> inputs) {
    const OpDef& op = node.op();
    const std::string where = "running node '" + node.name + "' (" + std::string(op.name) + ")";
    if (!op.reference)
        fail(ErrorCode::unsupported, where + ": the operator has no reference function",
             "only operators of the op table can run");
    RefContext context(node, std::move(inputs));
    try {
        op.reference(context);
    } catch (const Error& e) {
        throw e.with_context(where);
    }
    std::vector<RefValue> outputs = context.take_outputs();
    outputs.resize(node.outputs().size());
    return outputs;
}

namespace {

/// The values that are still needed, each with the number of readers to come.
class Environment {
  public:
    explicit Environment(const Graph& graph) {
        for (const auto& node : graph.nodes())
            for (const Value* v : node->inputs())
                if (v) ++slots_[v].readers;
        for (const Value* v : graph.outputs()) ++slots_[v].readers;
        for (auto& [value, slot] : slots_)
            if (value->is_constant()) slot.content = RefValue(*value->constant);
    }

    void put(const Value* value, RefValue content) {
        const auto it = slots_.find(value);
        if (it != slots_.end()) it->second.content = std::move(content);
    }
    const RefValue& get(const Value* value) const { return slots_.at(value).content; }
    void release(const Value* value) {
        Slot& slot = slots_.at(value);
        if (--slot.readers == 0) slot.content = RefValue();
    }
    /// The content for its next reader, moved out when that is the last.
    RefValue take(const Value* value) {
        Slot& slot = slots_.at(value);
        return --slot.readers == 0 ? std::move(slot.content) : slot.content;
    }

  private:
    struct Slot {
        RefValue content;
        int readers = 0;
    };
    std::unordered_map<const Value*, Slot> slots_;
};

}  // namespace

void run_node_into(const Node& node, std::span<const std::byte* const> in, std::span<std::byte* const> out) {
    std::vector<RefValue> values(static_cast<size_t>(node.input_count()));
    std::vector<const RefValue*> inputs;
    for (size_t i = 0; i < values.size(); ++i) {
        const Value* value = node.inputs()[i];
        if (value == nullptr) {
            inputs.push_back(nullptr);
            continue;
        }
        values[i].tensor =
            value->is_constant() ? *value->constant : Tensor(value->type.dtype, value->dims(), in[i], nullptr);
        inputs.push_back(&values[i]);
    }
    const std::vector<RefValue> outputs = run_node(node, inputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
        const Value* value = node.outputs()[i];
        const Tensor& result = outputs[i].tensor;
        if (value == nullptr || !result) continue;
        // Memory was planned for the declared type, which for shapes that depend on data is only what the plan says.
        if (result.dtype() != value->type.dtype || result.dims() != value->dims())
            fail(ErrorCode::invalid_model, "node '" + node.name + "' (" + std::string(node.op().name) + ") gives '" +
                                               value->name + "' of type " + std::string(to_string(result.dtype())) +
                                               " " + to_string(std::span<const int64_t>(result.dims())) +
                                               " where the model declares " + to_string(value->type));
        if (result.bytes() > 0) std::memcpy(out[i], result.raw(), static_cast<size_t>(result.bytes()));
    }
}

std::vector<RefValue> run_graph(const Graph& graph, std::vector<RefValue> inputs, const Observer& observer) {
    if (inputs.size() != graph.inputs().size())
        fail(ErrorCode::invalid_argument, "graph '" + graph.name + "' has " + std::to_string(graph.inputs().size()) +
                                              " inputs, but " + std::to_string(inputs.size()) + " were given");
    Environment values(graph);
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (observer) observer(*graph.inputs()[i], inputs[i]);
        values.put(graph.inputs()[i], std::move(inputs[i]));
    }
    for (const auto& node : graph.nodes()) {
        std::vector<const RefValue*> arguments;
        arguments.reserve(node->inputs().size());
        for (const Value* v : node->inputs()) arguments.push_back(v ? &values.get(v) : nullptr);
        std::vector<RefValue> results = run_node(*node, std::move(arguments));
        for (const Value* v : node->inputs())
            if (v) values.release(v);
        for (size_t i = 0; i < results.size(); ++i) {
            const Value* output = node->outputs()[i];
            if (!output) continue;
            if (observer) observer(*output, results[i]);
            values.put(output, std::move(results[i]));
        }
    }
    std::vector<RefValue> outputs;
    outputs.reserve(graph.outputs().size());
    for (const Value* v : graph.outputs()) outputs.push_back(values.take(v));
    return outputs;
}

std::map<std::string, Tensor> run_graph(const Graph& graph, const std::map<std::string, Tensor>& feeds) {
    std::string names;
    for (const Value* v : graph.inputs()) names += (names.empty() ? "'" : ", '") + v->name + "'";
    std::vector<RefValue> inputs;
    for (const Value* v : graph.inputs()) {
        const auto it = feeds.find(v->name);
        if (it == feeds.end())
            fail(ErrorCode::invalid_argument, "input '" + v->name + "' is missing", "the graph's inputs are " + names);
        const Tensor& fed = it->second;
        if (v->type.dtype != DType::undefined && fed.dtype() != v->type.dtype)
            fail(ErrorCode::invalid_argument, "input '" + v->name + "' is " + std::string(to_string(fed.dtype())) +
                                                  ", but the graph declares " + to_string(v->type));
        inputs.emplace_back(fed);
    }
    for (const auto& [name, tensor] : feeds)
        if (const Value* v = graph.find_value(name);
            !v || std::find(graph.inputs().begin(), graph.inputs().end(), v) == graph.inputs().end())
            fail(ErrorCode::invalid_argument, "the graph has no input '" + name + "'",
                 "the graph's inputs are " + names);
    std::vector<RefValue> results = run_graph(graph, std::move(inputs));
    std::map<std::string, Tensor> outputs;
    for (size_t i = 0; i < results.size(); ++i) {
        const std::string& name = graph.outputs()[i]->name;
        if (results[i].kind != Kind::tensor)
            fail(ErrorCode::invalid_argument, "output '" + name + "' is not a tensor",
                 "run the graph by position to get sequences and optionals");
        outputs.emplace(name, std::move(results[i].tensor));
    }
    return outputs;
}

}  // namespace planish::reference
