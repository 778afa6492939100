// Matching and replacing, shared by the passes.
#include "passes/rewrite.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <unordered_map>

#include "planish/error.hpp"

namespace planish::passes {

Node* producer(const Value* value, std::string_view op) {
    return value != nullptr && value->producer != nullptr && value->producer->is(op) ? value->producer : nullptr;
}

bool only_use(const Graph& graph, const Value* value) {
    return value->uses.size() == 1 && !graph.is_output(value);
}

Node* only_reader(const Graph& graph, const Value* value, std::string_view op) {
    return only_use(graph, value) && value->uses[0].node->is(op) ? value->uses[0].node : nullptr;
}

std::vector<Node*> nodes_of(const Graph& graph, std::initializer_list<std::string_view> ops) {
    std::vector<Node*> found;
    for (const auto& node : graph.nodes())
        if (std::any_of(ops.begin(), ops.end(), [&](std::string_view op) { return node->is(op); }))
            found.push_back(node.get());
    return found;
}

std::optional<double> scalar(const Value* value) {
    if (value == nullptr || !value->is_constant() || value->constant->size() != 1) return std::nullopt;
    const DType dtype = value->constant->dtype();
    if (!is_float(dtype) && !is_integer(dtype)) return std::nullopt;
    return value->constant->at_double(0);
}

std::optional<double> uniform(const Value* value) {
    if (value == nullptr || !value->is_constant()) return std::nullopt;
    const Tensor& t = *value->constant;
    if (t.size() == 0 || (!is_float(t.dtype()) && !is_integer(t.dtype()))) return std::nullopt;
    const double first = t.at_double(0);
    for (int64_t i = 1; i < t.size(); ++i)
        if (t.at_double(i) != first) return std::nullopt;
    return first;
}

bool is_near(double a, double b) {
    // Exporters write irrational constants as float32, now and then as a product of two: 4 roundings.
    return a == b || std::fabs(a - b) <= 4 * 0x1p-24 * std::max(std::fabs(a), std::fabs(b));
}

bool is_scalar(const Value* value, double expected) {
    const auto number = scalar(value);
    return number && is_near(*number, expected);
}

std::optional<std::pair<Value*, double>> with_scalar(const Node* node) {
    if (node == nullptr || node->input_count() != 2) return std::nullopt;
    if (const auto s = scalar(node->input(1))) return std::pair(node->input(0), *s);
    if (has(node->op().traits, Trait::commutative))
        if (const auto s = scalar(node->input(0))) return std::pair(node->input(1), *s);
    return std::nullopt;
}

std::optional<std::vector<int64_t>> integers(const Value* value) {
    if (value == nullptr || !value->is_constant() || !is_integer(value->constant->dtype())) return std::nullopt;
    return value->constant->to_int64s();
}

bool same_shape(const Value* a, const Value* b) {
    return a->type.shape && b->type.shape && *a->type.shape == *b->type.shape;
}

std::optional<int64_t> rank(const Value* value) {
    if (value == nullptr || !value->type.shape) return std::nullopt;
    return static_cast<int64_t>(value->type.shape->size());
}

std::vector<std::string> origins_of(const Node& node) {
    return node.origins.empty() ? std::vector{node.name} : node.origins;
}

void add_origins(Node* node, std::initializer_list<const Node*> merged) {
    for (const Node* other : merged) {
        if (other == nullptr || other == node) continue;
        for (std::string& name : origins_of(*other))
            if (std::find(node->origins.begin(), node->origins.end(), name) == node->origins.end())
                node->origins.push_back(std::move(name));
    }
}

Node* after(const Graph& graph, const Value* value) {
    auto at = graph.nodes().begin();
    if (value->producer != nullptr)
        at = std::next(
            std::find_if(at, graph.nodes().end(), [&](const auto& node) { return node.get() == value->producer; }));
    return at == graph.nodes().end() ? nullptr : at->get();
}

void replace(Graph& graph, Node* old, Value* value) {
    graph.replace_all_uses(old->output(), value);
    erase_unused(graph, old);
}

void erase_unused(Graph& graph, Node* node) {
    std::vector<Node*> work{node};
    while (!work.empty()) {
        Node* n = work.back();
        work.pop_back();
        const auto outputs = n->outputs();
        if (std::any_of(outputs.begin(), outputs.end(),
                        [&](const Value* v) { return v != nullptr && (!v->uses.empty() || graph.is_output(v)); }))
            continue;
        const std::vector<Value*> inputs(n->inputs().begin(), n->inputs().end());
        std::erase(work, n);
        graph.erase(n);
        for (size_t i = 0; i < inputs.size(); ++i) {
            Value* v = inputs[i];
            // A constant that is read twice is gone after its first turn: look for repetition before looking at it.
            const auto here = inputs.begin() + static_cast<int64_t>(i);
            if (v == nullptr || std::find(inputs.begin(), here, v) != here || !v->uses.empty()) continue;
            if (v->producer != nullptr) {
                if (std::find(work.begin(), work.end(), v->producer) == work.end()) work.push_back(v->producer);
            } else if (v->is_constant() && !graph.is_output(v)) {
                graph.erase_constant(v);
            }
        }
    }
}

std::vector<Value*> splice(Graph& graph, const Graph& body, const std::vector<Value*>& inputs, Node* before) {
    std::unordered_map<const Value*, Value*> map;
    for (size_t i = 0; i < inputs.size(); ++i) map[body.inputs()[i]] = inputs[i];
    for (const Value* value : body.values())
        if (value->is_constant()) map[value] = graph.add_constant(value->name, *value->constant);
    for (const auto& node : body.nodes()) {
        std::vector<Value*> operands;
        for (const Value* v : node->inputs()) operands.push_back(v ? map.at(v) : nullptr);
        Attributes attributes = node->attributes;
        for (auto& [name, attribute] : attributes)
            if (GraphPtr* inner = std::get_if<GraphPtr>(&attribute)) *inner = (*inner)->clone();
        std::vector<std::string> names;
        for (const Value* v : node->outputs()) names.push_back(v ? v->name : "");
        Node* copy =
            graph.add_node(node->op().name, operands, std::move(attributes), static_cast<int>(node->outputs().size()),
                           node->name, before, node->op().domain, names);
        copy->origins = node->origins;
        for (size_t i = 0; i < node->outputs().size(); ++i)
            if (node->outputs()[i]) map[node->outputs()[i]] = copy->outputs()[i];
    }
    std::vector<Value*> outputs;
    for (const Value* v : body.outputs()) outputs.push_back(map.at(v));
    return outputs;
}

Value* make_scalar(Graph& graph, double value, DType dtype, std::string_view name) {
    Tensor t(dtype, {});
    t.set_double(0, value);
    return graph.add_constant(std::string(name), std::move(t));
}

Value* make_integers(Graph& graph, const std::vector<int64_t>& values, std::string_view name) {
    return graph.add_constant(std::string(name),
                              Tensor::from(std::span(values), {static_cast<int64_t>(values.size())}));
}

Node* make_region(Graph& graph, std::span<Node* const> nodes, const Node& named_after, std::string_view kind) {
    auto body = std::make_shared<Graph>(named_after.name);
    std::unordered_map<const Value*, Value*> map;
    std::vector<Value*> operands;
    for (const Node* node : nodes)
        for (Value* input : node->inputs()) {
            if (input == nullptr || map.contains(input)) continue;
            const bool inside =
                std::any_of(nodes.begin(), nodes.end(), [&](const Node* n) { return n == input->producer; });
            if (inside) continue;
            if (input->is_constant() && input->constant->size() == 1) {
                map[input] = body->add_constant(input->name, *input->constant);
            } else {
                map[input] = body->add_input(input->name, input->type);
                operands.push_back(input);
            }
        }
    for (const Node* node : nodes) {
        std::vector<Value*> inputs;
        for (const Value* input : node->inputs()) inputs.push_back(input != nullptr ? map.at(input) : nullptr);
        Node* copy = body->add_node(node->op().name, std::move(inputs), node->attributes, 1, node->name, nullptr,
                                    node->op().domain, {node->output()->name});
        copy->origins = node->origins;
        map[node->output()] = copy->output();
    }
    Node* last = nodes.back();
    body->add_output(map.at(last->output()));
    Node* region =
        graph.add_node("Region", std::move(operands), {{"body", GraphPtr(body)}, {"kind", std::string(kind)}}, 1,
                       named_after.name, last, "planish");
    region->origins.clear();
    for (const Node* node : nodes) add_origins(region, {node});
    const std::string name = last->output()->name;
    graph.replace_all_uses(last->output(), region->output());
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) graph.erase(*it);
    if (region->output()->name != name && graph.find_value(name) == nullptr) graph.rename(region->output(), name);
    return region;
}

}  // namespace planish::passes
