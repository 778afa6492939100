// Simplify quantisation: data moves as bytes, borders that cancel vanish, and what saturation does anyway is left to
// it. Q = QuantizeLinear and DQ = DequantizeLinear with one scale for the tensor.
//
//   f(DQ(q)) = DQ(f(q)), Q(f(x)) = f(Q(x))    for f that only moves elements (and MaxPool, which is monotone)
//                                             and no columns that an attention reads where they lie
//   Concat(DQ(p), DQ(q)) = DQ(Concat(p, q))   for equal scales;   Q(Concat(x, y)) = Concat(Q(x), Q(y))
//   Q(DQ(q)) = q                              for equal scales
//   Q(Clip(x)) = Q(x), Q(Relu(x)) = Q(x)      where the smallest and the largest stored number lie within the bounds
//   DQ(Q(x))                                  of int8 is that of uint8 with a zero point 128 higher
//   DQ(w)                                     of constant uint8 around 128 is that of int8 around 0
//
// So every placement of the borders that computes the same ends as the same graph, and integer kernels need uint8 only.
#include <algorithm>
#include <cmath>
#include <limits>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

constexpr double kLargestFloat8 = 448;  // e4m3

struct Scale {
    DType dtype;
    double scale, zero;
    friend bool operator==(const Scale&, const Scale&) = default;
};

/// Of a QuantizeLinear or DequantizeLinear between float32 and 8 bits with one scale; nullopt: another kind. Float8 has
/// a zero point of zero and saturates.
std::optional<Scale> scale_of(const Node* node) {
    const bool to = node->is("QuantizeLinear");
    if (!to && !node->is("DequantizeLinear")) return std::nullopt;
    const Value *real = to ? node->input(0) : node->output(), *stored = to ? node->output() : node->input(0);
    const DType dtype = stored->type.dtype;
    const auto scale = scalar(node->input(1));
    const auto zero = node->input(2) == nullptr ? std::optional(0.0) : scalar(node->input(2));
    const bool integer = dtype == DType::u8 || dtype == DType::i8;
    const bool float8 = dtype == DType::f8e4m3fn && zero == 0.0 && (!to || node->integer("saturate") != 0);
    if (real->type.dtype != DType::f32 || (!integer && !float8) || !scale || !zero || *scale <= 0 ||
        node->input(1)->constant->dtype() != DType::f32 || node->integer("block_size") != 0)
        return std::nullopt;
    return Scale{dtype, *scale, *zero};
}

/// Its first input's elements in other places, and nothing else.
bool moves(const Node& node) {
    if (!node.op().domain.empty() || node.outputs().size() != 1 || node.input_count() == 0) return false;
    for (std::string_view op : {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Gather",
                                "MaxPool", "Identity", "DepthToSpace", "SpaceToDepth"})
        if (node.op().name == op) return node.input(0) != nullptr && !node.input(0)->is_constant();
    return false;
}

/// Columns of a value [B, S, width] that are an attention's queries, keys or values: it reads them where they lie, so
/// that its border stands before the slice and one serves all three.
bool slices_for_attention(const Node& node) {
    if (!node.is("Slice") || node.output()->uses.empty()) return false;
    const auto& uses = node.output()->uses;
    return std::all_of(uses.begin(), uses.end(),
                       [](const Use& use) { return use.node->is("Attention") && use.index < 3; });
}

/// The border's node over `value`, before `before`.
Value* add_border(Graph& graph, const Node& border, Value* value, Node* before) {
    std::vector<Value*> inputs(border.inputs().begin(), border.inputs().end());
    inputs[0] = value;
    return graph.add_node(border.op().name, std::move(inputs), border.attributes, 1, border.name, before)->output();
}

Node* add_moved(Graph& graph, Node* node, std::vector<Value*> inputs) {
    Node* moved = graph.add_node(node->op().name, std::move(inputs), node->attributes, 1, node->name, node);
    moved->origins = origins_of(*node);
    return moved;
}

/// f(DQ(q)) = DQ(f(q)), and Concat's.
bool move_below(Graph& graph, Node* node) {
    const bool concat = node->is("Concat");
    if (!concat && (!moves(*node) || slices_for_attention(*node))) return false;
    const size_t carried = concat ? node->inputs().size() : 1;
    std::vector<Value*> inputs(node->inputs().begin(), node->inputs().end());
    const Node* first = nullptr;
    for (size_t i = 0; i < carried; ++i) {
        const Node* dq = producer(inputs[i], "DequantizeLinear");
        const auto scale = dq != nullptr ? scale_of(dq) : std::nullopt;
        if (!scale || (first != nullptr && scale != scale_of(first))) return false;
        if (first == nullptr) first = dq;
        inputs[i] = dq->input(0);
    }
    if (first == nullptr) return false;
    Node* moved = add_moved(graph, node, std::move(inputs));
    replace(graph, node, add_border(graph, *first, moved->output(), node));
    return true;
}

/// Q(f(x)) = f(Q(x)), and Concat's, where the float values are read by nobody else.
bool move_above(Graph& graph, Node* q) {
    if (!q->is("QuantizeLinear") || !scale_of(q)) return false;
    Node* node = q->input(0)->producer;
    if (node == nullptr || !only_use(graph, q->input(0))) return false;
    const bool concat = node->is("Concat");
    if (!concat && !moves(*node)) return false;
    std::vector<Value*> inputs(node->inputs().begin(), node->inputs().end());
    for (size_t i = 0; i < (concat ? inputs.size() : 1); ++i) {
        if (inputs[i]->is_constant() || (!concat && !only_use(graph, inputs[i]))) return false;
        if (!concat && inputs[i]->producer == nullptr) return false;  // an input's bytes are fewer after it
    }
    for (size_t i = 0; i < (concat ? inputs.size() : 1); ++i) inputs[i] = add_border(graph, *q, inputs[i], node);
    Node* moved = add_moved(graph, node, std::move(inputs));
    replace(graph, q, moved->output());
    return true;
}

/// Q(DQ(q)) = q.
bool cancel(Graph& graph, Node* q) {
    if (!q->is("QuantizeLinear")) return false;
    const Node* dq = producer(q->input(0), "DequantizeLinear");
    const auto scale = dq != nullptr ? scale_of(dq) : std::nullopt;
    if (!scale || scale != scale_of(q)) return false;
    if (graph.is_output(q->output()) && (dq->input(0)->producer == nullptr || graph.is_output(dq->input(0))))
        return false;
    replace(graph, q, dq->input(0));
    return true;
}

/// Q(Clip(x)) = Q(x).
bool saturate_only(Graph& graph, Node* q) {
    const auto scale = q->is("QuantizeLinear") ? scale_of(q) : std::nullopt;
    Node* node = scale ? q->input(0)->producer : nullptr;
    if (node == nullptr || !only_use(graph, q->input(0)) || node->outputs().size() != 1) return false;
    double low = -std::numeric_limits<double>::infinity(), high = -low;
    if (node->is("Relu")) {
        low = 0;
    } else if (node->is("Clip")) {
        for (int i = 1; i < node->input_count(); ++i) {
            if (node->input(i) == nullptr) continue;
            const auto bound = scalar(node->input(i));
            if (!bound) return false;
            (i == 1 ? low : high) = *bound;
        }
    } else {
        return false;
    }
    const bool float8 = scale->dtype == DType::f8e4m3fn;
    const double smallest = float8 ? -kLargestFloat8 : scale->dtype == DType::u8 ? 0 : -128;
    const double largest = float8 ? kLargestFloat8 : smallest + 255;
    if (low > scale->scale * (smallest - scale->zero) || high < scale->scale * (largest - scale->zero)) return false;
    Node* kept = node->input(0)->producer;
    graph.set_input(q, 0, node->input(0));
    if (kept != nullptr) add_origins(kept, {node});
    erase_unused(graph, node);
    return true;
}

/// Whether all that reads `value`, or what moves its elements, decodes them by `scale`.
bool only_decoded(const Graph& graph, const Value* value, const Scale& scale) {
    if (graph.is_output(value) || value->uses.empty()) return false;
    return std::all_of(value->uses.begin(), value->uses.end(), [&](const Use& use) {
        if (use.index != 0) return false;
        if (use.node->is("DequantizeLinear")) return scale_of(use.node) == scale;
        return moves(*use.node) && only_decoded(graph, use.node->output(), scale);
    });
}

/// What only_decoded looked at reads `stored` instead of `value`, whose zero point is another.
void decode_instead(Graph& graph, Value* value, Value* stored, Value* scale, Value* zero) {
    for (const Use& use : std::vector<Use>(value->uses)) {
        if (use.node->is("DequantizeLinear")) {
            graph.set_inputs(use.node, {stored, scale, zero});
            continue;
        }
        std::vector<Value*> inputs(use.node->inputs().begin(), use.node->inputs().end());
        inputs[0] = stored;
        Node* moved = add_moved(graph, use.node, std::move(inputs));
        decode_instead(graph, use.node->output(), moved->output(), scale, zero);
        graph.erase(use.node);
    }
}

/// int8 between a Q and its DQs becomes uint8.
bool make_unsigned(Graph& graph, Node* q) {
    const auto scale = q->is("QuantizeLinear") ? scale_of(q) : std::nullopt;
    if (!scale || scale->dtype != DType::i8 || !only_decoded(graph, q->output(), *scale)) return false;
    Tensor zero(DType::u8, {});
    zero.set_double(0, scale->zero + 128);
    Value* shifted = graph.add_constant(q->output()->name + "_zero", std::move(zero));
    Attributes attributes = q->attributes;
    attributes.erase("output_dtype");
    Node* unsigned_q =
        graph.add_node("QuantizeLinear", {q->input(0), q->input(1), shifted}, std::move(attributes), 1, q->name, q);
    unsigned_q->origins = q->origins;
    decode_instead(graph, q->output(), unsigned_q->output(), q->input(1), shifted);
    erase_unused(graph, q);
    return true;
}

/// Weights in uint8 around 128 are int8 around 0.
bool make_symmetric(Graph& graph, Node* dq) {
    const Value *w = dq->input(0), *zeros = dq->input(2);
    if (!w->is_constant() || w->type.dtype != DType::u8 || uniform(zeros) != 128.0) return false;
    Tensor stored(DType::i8, w->constant->dims());
    const auto from = w->constant->data<uint8_t>();
    std::transform(from.begin(), from.end(), stored.data<int8_t>().begin(),
                   [](uint8_t byte) { return static_cast<int8_t>(byte - 128); });
    graph.set_inputs(dq, {graph.add_constant(w->name + "_signed", std::move(stored)), dq->input(1)});
    return true;
}

}  // namespace

int simplify_quantisation(Graph& graph) {
    int changes = 0;
    for (int round = -1; round != changes;) {
        round = changes;
        for (Node* node : nodes_of(graph, {"QuantizeLinear"})) changes += make_unsigned(graph, node) ? 1 : 0;
        for (Node* node : nodes_of(graph, {"DequantizeLinear"})) changes += make_symmetric(graph, node) ? 1 : 0;
        for (auto* rewrite : {cancel, saturate_only, move_above})
            for (Node* node : nodes_of(graph, {"QuantizeLinear"})) changes += rewrite(graph, node) ? 1 : 0;
        for (Node* node : graph.node_list()) changes += move_below(graph, node) ? 1 : 0;
    }
    return changes;
}

}  // namespace planish::passes
