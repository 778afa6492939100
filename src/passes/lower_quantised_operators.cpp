// Lower quantised operators: products of integers become the float operator between its borders.
//
//   QLinearConv(x, w, y's scale) = Q(Conv(DQ(x), DQ(w), DQ(bias)))                        and QLinearMatMul
//   Cast(ConvInteger(q, w, z)) * (s * t) = Conv(DQ(q, s, z), DQ(w, t))                    and MatMulInteger
//                                          where q, s, z = DynamicQuantizeLinear(x)
//   Transpose(DQ(w)) = DQ(Transpose(w)) of constants, whose blocks or places of scales move along
//
// Both sides compute the sum exactly and round once, so only ties may end differently; and one form is left to fuse.
#include <algorithm>

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

// ---- Dynamic quantisation ----

/// A constant of one element, or of one for each of `count` columns, as the scalar or vector of `size`.
Value* as_columns(Graph& graph, const Value* value, int64_t size, const std::string& name) {
    const Tensor& given = *value->constant;
    Tensor columns(given.dtype(), size == 1 ? Dims{} : Dims{size});
    for (int64_t i = 0; i < size; ++i) columns.set_double(i, given.at_double(given.size() == 1 ? 0 : i));
    return graph.add_constant(name, std::move(columns));
}

/// The other factor of a product of two values; null: `value` is none of them.
Value* other_factor(const Node* product, const Value* value) {
    if (product == nullptr) return nullptr;
    return product->input(0) == value ? product->input(1) : product->input(1) == value ? product->input(0) : nullptr;
}

bool lower_dynamic(Graph& graph, Node* node) {
    const bool conv = node->is("ConvInteger");
    const Node* dynamic = producer(node->input(0), "DynamicQuantizeLinear");
    if (dynamic == nullptr || node->input(0) != dynamic->output(0) || node->input(2) != dynamic->output(2))
        return false;
    Node* cast = only_reader(graph, node->output(), "Cast");
    if (cast == nullptr || cast->output()->type.dtype != DType::f32) return false;
    Node* scaled = only_reader(graph, cast->output(), "Mul");
    const Value* factor = other_factor(scaled, cast->output());
    const Value* scale = factor != nullptr ? other_factor(producer(factor, "Mul"), dynamic->output(1)) : nullptr;
    Value *w = node->input(1), *zero = node->input(3);
    if (scale == nullptr || !scale->is_constant() || scale->type.dtype != DType::f32 || !w->is_constant()) return false;
    const Dims& dims = w->constant->dims();
    if (zero != nullptr && !zero->is_constant()) return false;
    if (conv ? dims.size() < 3 : dims.size() != 2) return false;
    const int64_t axis = conv ? 0 : 1, count = dims[static_cast<size_t>(axis)];
    const int64_t scales = scale->constant->size(), zeros = zero != nullptr ? zero->constant->size() : 1;
    const int64_t size = std::max(scales, zeros);
    if ((scales != 1 && scales != count) || (zeros != 1 && zeros != count)) return false;

    const std::string& name = node->name;
    const auto decode = [&](std::vector<Value*> stored, const std::string& what, Attributes attributes) {
        return graph.add_node("DequantizeLinear", std::move(stored), std::move(attributes), 1, name + what, node)
            ->output();
    };
    Value* x = decode({node->input(0), dynamic->output(1), dynamic->output(2)}, "_x", {});
    std::vector<Value*> weights = {w, as_columns(graph, scale, size, name + "_w_scale")};
    if (zero != nullptr) weights.push_back(as_columns(graph, zero, size, name + "_w_zero"));
    Node* real = graph.add_node(conv ? "Conv" : "MatMul", {x, decode(std::move(weights), "_w", {{"axis", axis}})},
                                node->attributes, 1, name, node);
    real->origins = origins_of(*node);
    add_origins(real, {cast, scaled});
    replace(graph, scaled, real->output());
    return true;
}

// ---- Weights ----

/// What remains is folded, and products find the border beside them.
bool move_transpose_above(Graph& graph, Node* transpose) {
    const Node* dq = producer(transpose->input(0), "DequantizeLinear");
    if (dq == nullptr) return false;
    const Value* w = dq->input(0);
    if (!w->is_constant()) return false;
    const auto size = static_cast<int64_t>(w->constant->dims().size());
    const std::vector<int64_t> perm = transpose->integers("perm");
    if (static_cast<int64_t>(perm.size()) != size) return false;
    int64_t axis = dq->integer("axis");
    if (axis < 0) axis += size;
    const auto moved_axis = static_cast<int64_t>(std::find(perm.begin(), perm.end(), axis) - perm.begin());
    if (moved_axis == size) return false;
    const auto move = [&](Value* value) {
        if (rank(value) != size) return value;
        return graph.add_node("Transpose", {value}, {{"perm", perm}}, 1, transpose->name, transpose)->output();
    };
    std::vector<Value*> inputs;
    for (Value* input : dq->inputs()) inputs.push_back(input != nullptr ? move(input) : nullptr);
    Attributes attributes = dq->attributes;
    attributes["axis"] = moved_axis;
    Node* moved = graph.add_node("DequantizeLinear", std::move(inputs), std::move(attributes), 1, dq->name, transpose);
    replace(graph, transpose, moved->output());
    return true;
}

}  // namespace

int lower_quantised_operators(Graph& graph) {
    int changes = 0;
    for (Node* node : nodes_of(graph, {"QLinearConv", "QLinearMatMul"})) changes += lower(graph, node) ? 1 : 0;
    for (Node* node : nodes_of(graph, {"ConvInteger", "MatMulInteger"})) changes += lower_dynamic(graph, node) ? 1 : 0;
    for (Node* node : nodes_of(graph, {"Transpose"})) changes += move_transpose_above(graph, node) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
