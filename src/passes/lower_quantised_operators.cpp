// Lower quantised operators: QLinearConv and QLinearMatMul become the float operator between its borders.
//
//   QLinearConv(x, w, y's scale) = Q(Conv(DQ(x), DQ(w), DQ(bias)))
//
// Both compute the sum exactly and round once, so only ties may end differently; and one form is left to fuse.
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// DequantizeLinear of input `i` of `node`, whose scale and zero point are the next two. `axis` counts for vectors.
Value* decode(Graph& graph, Node* node, int i, int64_t axis) {
    return graph
        .add_node("DequantizeLinear", {node->input(i), node->input(i + 1), node->input(i + 2)}, {{"axis", axis}}, 1,
                  node->input(i)->name + "_decoded", node)
        ->output();
}

bool is_float_scale(const Value* scale) {
    return scale->type.dtype == DType::f32 && rank(scale) && *rank(scale) <= 1;
}

/// The bias of a QLinearConv is stored with the scale of its sums.
Value* decode_bias(Graph& graph, Node* node) {
    Value* scale =
        graph.add_node("Mul", {node->input(1), node->input(4)}, {}, 1, node->name + "_bias_scale", node)->output();
    return graph
        .add_node("DequantizeLinear", {node->input(8), scale}, {{"axis", int64_t{0}}}, 1, node->name + "_bias", node)
        ->output();
}

bool lower(Graph& graph, Node* node) {
    const bool conv = node->is("QLinearConv");
    const int y = 6;  // scale and zero point of the result
    for (const int i : {1, 4, y})
        if (!is_float_scale(node->input(i))) return false;
    std::vector<Value*> operands;
    if (conv) {
        operands = {decode(graph, node, 0, 1), decode(graph, node, 3, 0)};
        if (node->input(8) != nullptr) operands.push_back(decode_bias(graph, node));
    } else {
        operands = {decode(graph, node, 0, -2), decode(graph, node, 3, -1)};
    }
    Node* real = graph.add_node(conv ? "Conv" : "MatMul", operands, node->attributes, 1, node->name, node);
    real->origins = origins_of(*node);
    Node* q = graph.add_node("QuantizeLinear", {real->output(), node->input(y), node->input(y + 1)}, {}, 1,
                             node->name + "_encoded", node);
    q->origins = real->origins;
    replace(graph, node, q->output());
    return true;
}

}  // namespace

int lower_quantised_operators(Graph& graph) {
    int changes = 0;
    for (Node* node : nodes_of(graph, {"QLinearConv", "QLinearMatMul"})) changes += lower(graph, node) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
