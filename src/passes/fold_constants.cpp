// Fold constants: op(constants) = constant.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "reference/interpreter.hpp"

namespace planish::passes {
namespace {

/// Folding may not blow up the plan: a constant of more than this many bytes must not be larger than what made it.
constexpr int64_t kFreeBytes = 1 << 16;

bool grows_too_much(const Node& node) {
    int64_t given = 0;
    for (const Value* input : node.inputs())
        if (input != nullptr) given += input->constant->bytes();
    for (const Value* output : node.outputs()) {
        if (output == nullptr || !output->has_static_shape()) continue;
        const int64_t bytes = byte_size(output->type.dtype, element_count(output->dims()));
        if (bytes > kFreeBytes && bytes > 2 * given) return true;
    }
    return false;
}

bool foldable(const Graph& graph, const Node& node) {
    const OpDef& op = node.op();
    if (has(op.traits, Trait::nondeterministic) || op.reference == nullptr || !op.domain.empty()) return false;
    // Quantised weights stay quantised: whether to decode them is the backend's choice.
    if (op.name == "DequantizeLinear") return false;
    // How a graph output that is a constant is written.
    if (op.name == "Identity" && graph.is_output(node.output())) return false;
    for (const Value* input : node.inputs())
        if (input != nullptr && !input->is_constant()) return false;
    for (const Value* output : node.outputs())
        if (output != nullptr && output->type.kind != Kind::tensor) return false;
    return !grows_too_much(node);
}

}  // namespace

bool fold_node(Graph& graph, Node* node) {
    // If(constant) = the branch that it takes.
    if (node->is("If") && node->input(0)->is_constant()) {
        const bool taken = node->input(0)->constant->at_int64(0) != 0;
        const GraphPtr branch = node->subgraph(taken ? "then_branch" : "else_branch");
        const std::vector<Value*> captures(node->inputs().begin() + 1, node->inputs().end());
        const std::vector<Value*> results = splice(graph, *branch, captures, node);
        for (size_t i = 0; i < results.size(); ++i)
            if (node->outputs()[i] != nullptr) graph.replace_all_uses(node->outputs()[i], results[i]);
        erase_unused(graph, node);
        return true;
    }
    if (!foldable(graph, *node)) return false;
    std::vector<RefValue> values;
    values.reserve(node->inputs().size());
    std::vector<const RefValue*> operands;
    for (const Value* input : node->inputs()) {
        if (input != nullptr) values.emplace_back(*input->constant);
        operands.push_back(input != nullptr ? &values.back() : nullptr);
    }
    const std::vector<RefValue> results = reference::run_node(*node, operands);
    for (size_t i = 0; i < results.size() && i < node->outputs().size(); ++i) {
        Value* output = node->outputs()[i];
        if (output == nullptr || (output->uses.empty() && !graph.is_output(output))) continue;
        graph.replace_all_uses(output, graph.add_constant(output->name + "_value", results[i].tensor));
    }
    erase_unused(graph, node);
    return true;
}

int fold_constants(Graph& graph) {
    int changes = 0;
    // Topological order: what a folded node feeds is looked at afterwards, with its constant in place.
    for (Node* node : graph.node_list()) changes += fold_node(graph, node) ? 1 : 0;
    if (changes > 0) graph.infer();
    return changes;
}

}  // namespace planish::passes
