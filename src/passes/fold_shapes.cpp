// Fold shapes: shape arithmetic whose numbers are known becomes constants; Reshape targets become constants of 0 and
// -1.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// An integer tensor whose numbers the shape rules worked out = a constant.
bool fold_known_numbers(Graph& graph, Node* node) {
    if (node->outputs().size() != 1) return false;
    Value* value = node->output();
    if (!value->symbolic || !value->has_static_shape() || !is_integer(value->type.dtype) ||
        (node->is("Identity") && graph.is_output(value)))
        return false;
    const auto numbers = static_dims(*value->symbolic);
    if (!numbers || element_count(value->dims()) != static_cast<int64_t>(numbers->size())) return false;
    Tensor tensor(value->type.dtype, value->dims());
    for (size_t i = 0; i < numbers->size(); ++i) {
        if (tensor.dtype() == DType::i64)
            tensor.data<int64_t>()[i] = (*numbers)[i];
        else
            tensor.set_double(static_cast<int64_t>(i), static_cast<double>((*numbers)[i]));
    }
    replace(graph, node, graph.add_constant(value->name + "_value", std::move(tensor)));
    return true;
}

/// Reshape(x, [n, 2*S, 64]) = Reshape(x, [0, -1, 64]) where x's own first size is n.
bool simplify_reshape_target(Graph& graph, Node* node) {
    if (!node->is("Reshape") || node->input(1)->is_constant()) return false;
    Value* output = node->output();
    if (!output->type.shape || !node->input(0)->type.shape) return false;
    const Shape &from = *node->input(0)->type.shape, &to = *output->type.shape;
    std::vector<int64_t> target;
    int inferred = 0;
    for (size_t i = 0; i < to.size(); ++i) {
        if (const auto number = to[i].value()) {
            if (*number <= 0) return false;  // a literal 0 would mean "copy"
            target.push_back(*number);
        } else if (i < from.size() && from[i] == to[i] && node->integer("allowzero") == 0) {
            target.push_back(0);
        } else {
            target.push_back(-1);
            ++inferred;
        }
    }
    if (inferred > 1) return false;
    // A size that only this rule's own guess names would be lost: keep what the model computes.
    for (size_t i = 0; i < to.size(); ++i)
        if (target[i] == -1 && to[i].contains_unknown() && !node->input(1)->symbolic) return false;
    Value* old = node->input(1);
    graph.set_input(node, 1, make_integers(graph, target, node->name + "_shape"));
    if (old->uses.empty() && !graph.is_output(old) && old->producer != nullptr) erase_unused(graph, old->producer);
    graph.infer(node);
    return true;
}

}  // namespace

int fold_shapes(Graph& graph) {
    int changes = 0;
    // One sweep in topological order: what is folded makes the next node's inputs constants, its shape rule is run
    // with them, and so on.
    for (Node* node : graph.node_list()) {
        graph.infer(node);
        if (fold_known_numbers(graph, node) || fold_node(graph, node) || simplify_reshape_target(graph, node))
            ++changes;
    }
    return changes;
}

}  // namespace planish::passes
