// Recognise attention: softmax(scale · Q Kᵀ + mask) V, as exporters decompose it, becomes ONNX's Attention. Where Q, K
// and V are cut into heads by Reshape and Transpose, the op reads them uncut and the transposes vanish.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "passes/view.hpp"

namespace planish::passes {
namespace {

using Perm = std::vector<int64_t>;

/// The scores below a softmax: scale · a·b + mask, or with the mask choosing.
struct Scores {
    Node* product = nullptr;  // MatMul(q, kᵀ)
    double scale = 1;
    Value* mask = nullptr;   // added after scaling
    Node* choice = nullptr;  // Where(condition, scores, -∞) or Where(condition, -∞, scores)
    std::vector<const Node*> nodes;
};

/// A score that is as good as -∞: it absorbs whatever is added to it.
bool is_minus_infinity(const Value* value) {
    const auto s = uniform(value);
    return s && *s <= -1e9;
}

std::optional<Scores> scores_below(const Graph& graph, Value* value) {
    Scores s;
    for (Value* current = value;;) {
        Node* node = current->producer;
        if (node == nullptr || !only_use(graph, current)) return std::nullopt;
        s.nodes.push_back(node);
        if (node->is("MatMul")) {
            s.product = node;
            return s;
        }
        const bool unmasked = s.mask == nullptr && s.choice == nullptr;
        if (node->is("Mul") || node->is("Div")) {
            const auto with = with_scalar(node);
            if (!with || with->second == 0) return std::nullopt;
            s.scale *= node->is("Mul") ? with->second : 1 / with->second;
            current = with->first;
        } else if (node->is("Add") && unmasked && s.scale == 1) {
            // scale · a·b is the side whose producer is the chain; the other is the mask.
            int side = -1;
            for (int i : {0, 1}) {
                const Node* p = node->input(i)->producer;
                if (p != nullptr && only_use(graph, node->input(i)) &&
                    (p->is("MatMul") || p->is("Mul") || p->is("Div")) && same_shape(node->input(i), node->output()) &&
                    side < 0)
                    side = i;
            }
            if (side < 0) return std::nullopt;
            s.mask = node->input(1 - side);
            current = node->input(side);
        } else if (node->is("Where") && unmasked && s.scale == 1) {
            const bool keeps = is_minus_infinity(node->input(2));
            if (!keeps && !is_minus_infinity(node->input(1))) return std::nullopt;
            s.choice = node;
            current = node->input(keeps ? 1 : 2);
        } else {
            return std::nullopt;
        }
    }
}

/// x behind multiplications by numbers, which go into `scale`; they may lie above a transpose.
Value* without_scale(Graph& graph, Value* value, double& scale, std::vector<const Node*>& nodes, Node* before) {
    Node* node = value->producer;
    if (node == nullptr) return value;
    if (node->is("Transpose")) {
        Value* x = without_scale(graph, node->input(0), scale, nodes, before);
        if (x == node->input(0)) return value;
        return graph.add_node("Transpose", {x}, node->attributes, 1, node->name, before)->output();
    }
    if (!node->is("Mul") && !node->is("Div")) return value;
    const auto with = with_scalar(node);
    if (!with || with->second == 0 || !same_shape(with->first, value)) return value;
    scale *= node->is("Mul") ? with->second : 1 / with->second;
    nodes.push_back(node);
    return without_scale(graph, with->first, scale, nodes, before);
}

/// K for a product's operand Kᵀ: the transpose undone, or done again where K is not at hand.
Value* transposed_back(Graph& graph, Value* kt, Node* before) {
    const auto r = rank(kt);
    if (!r || *r < 2) return nullptr;
    Node* transpose = producer(kt, "Transpose");
    Perm perm;
    if (transpose != nullptr) {
        perm = transpose->integers("perm");
        if (perm.empty()) return nullptr;
    } else {
        for (int64_t i = 0; i < *r; ++i) perm.push_back(i);
    }
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    Value* x = transpose != nullptr ? transpose->input(0) : kt;
    if (std::is_sorted(perm.begin(), perm.end())) return x;
    return graph.add_node("Transpose", {x}, {{"perm", perm}}, 1, "", before)->output();
}

/// [B, S, H·D] of which `value` [B, H, S, D] is the heads: a value of the graph, or a slice of its last axis. Null when
/// the heads lie otherwise.
Value* uncut(Graph& graph, Value* value, Node* before) {
    const auto view = view_of(value);
    if (!view || view->base == value || rank(view->base) != 3) return nullptr;
    const Shape& base = *view->base->type.shape;
    const Dim &batch = view->axes[0].size, &heads = view->axes[1].size, &length = view->axes[2].size,
              &depth = view->axes[3].size;
    const Dim width = base[2];
    const auto lies = [&](size_t axis, const Dim& stride) {
        return view->axes[axis].size == Dim(1) || view->stride(axis) == stride;
    };
    if (!(base[0] == batch) || !(base[1] == length) || !lies(0, length * width) || !lies(1, depth) || !lies(2, width) ||
        !lies(3, 1))
        return nullptr;
    const auto first = view->offset.value(), end = (view->offset + heads * depth).value(), whole = width.value();
    if (!first || !end || !whole || *end > *whole) return nullptr;
    if (*first == 0 && *end == *whole) return view->base;
    return graph
        .add_node("Slice",
                  {view->base, make_integers(graph, {*first}, "start"), make_integers(graph, {*end}, "end"),
                   make_integers(graph, {2}, "axis")},
                  {}, 1, value->name + "_heads", before)
        ->output();
}

/// What reads a result [B, H, S, D] as the heads joined: a Transpose to [B, S, H, D] or [S, B, H, D], then a Reshape
/// that keeps the first two axes or joins them too.
struct Join {
    Node* reshape = nullptr;
    bool sequence_first = false;
};

std::optional<Join> joined(const Graph& graph, Value* value) {
    Node* transpose = only_reader(graph, value, "Transpose");
    if (transpose == nullptr) return std::nullopt;
    const Perm& perm = transpose->integers("perm");
    Join join;
    join.sequence_first = perm == Perm{2, 0, 1, 3};
    if (!join.sequence_first && perm != Perm{0, 2, 1, 3}) return std::nullopt;
    join.reshape = only_reader(graph, transpose->output(), "Reshape");
    if (join.reshape == nullptr) return std::nullopt;
    const Shape& from = *transpose->output()->type.shape;
    const auto r = rank(join.reshape->output());
    if (r != 2 && r != 3) return std::nullopt;
    const Shape& to = *join.reshape->output()->type.shape;
    if (!(to.back() == from[2] * from[3])) return std::nullopt;
    const bool keeps = r == 3 ? from[0] == to[0] && from[1] == to[1] : to[0] == from[0] * from[1];
    return keeps ? std::optional(join) : std::nullopt;
}

Value* unsqueezed(Graph& graph, Value* value, Node* before) {
    return graph.add_node("Unsqueeze", {value, make_integers(graph, {0}, "axis")}, {}, 1, "", before)->output();
}

/// An additive mask that is `choice`'s: 0 where it keeps a score, its own -∞ where it does not.
Value* additive_mask(Graph& graph, Node* choice, DType dtype) {
    const bool keeps = is_minus_infinity(choice->input(2));
    Value* low = make_scalar(graph, *uniform(choice->input(keeps ? 2 : 1)), dtype, "minus_infinity");
    Value* zero = make_scalar(graph, 0, dtype, "zero");
    return graph
        .add_node("Where", {choice->input(0), keeps ? zero : low, keeps ? low : zero}, {}, 1, choice->name + "_mask",
                  choice)
        ->output();
}

/// What reads the weights that `softmax` gives: itself, or Where(IsNaN(p), 0, p), by which exporters guard rows of
/// which every score is -∞. Attention gives such rows zeros by itself.
Node* guarded(const Graph& graph, Node* softmax) {
    Value* p = softmax->output();
    if (p->uses.size() != 2 || graph.is_output(p)) return softmax;
    for (const Use& use : p->uses) {
        if (!use.node->is("IsNaN")) continue;
        Node* where = only_reader(graph, use.node->output(), "Where");
        if (where != nullptr && where->input(2) == p && uniform(where->input(1)) == 0.0) return where;
    }
    return softmax;
}

bool recognise(Graph& graph, Node* softmax) {
    const auto r = rank(softmax->output());
    if (!r || (*r != 3 && *r != 4) || !is_float(softmax->output()->type.dtype)) return false;
    if (softmax->integer("axis") != -1 && softmax->integer("axis") != *r - 1) return false;
    const Node* weights = guarded(graph, softmax);
    Node* last = only_reader(graph, weights->output(), "MatMul");
    if (last == nullptr || last->input(0) != weights->output() || rank(last->input(1)) != r) return false;
    auto scores = scores_below(graph, softmax->input(0));
    if (!scores) return false;
    Node* product = scores->product;
    if (rank(product->input(0)) != r || rank(product->input(1)) != r) return false;
    Value* v = last->input(1);

    // Batches and heads of all three must be the same: no broadcasting inside the products.
    const Shape &qs = *product->input(0)->type.shape, &kts = *product->input(1)->type.shape, &vs = *v->type.shape;
    for (size_t i = 0; i + 2 < qs.size(); ++i)
        if (!(qs[i] == kts[i]) || !(qs[i] == vs[i])) return false;
    if (!(kts.back() == vs[vs.size() - 2]) || !(qs.back() == kts[kts.size() - 2])) return false;
    const auto heads = qs[qs.size() - 3].value();
    Value* mask = scores->mask;
    if (mask != nullptr || scores->choice != nullptr) {
        // The mask's last axis is the keys': a backend need not broadcast along it.
        const Value* shape = mask != nullptr ? mask : scores->choice->input(0);
        const auto mr = rank(shape);
        if (!mr || *mr < 2 || *mr > *r || !(shape->type.shape->back() == kts.back())) return false;
        if (mask != nullptr && mask->type.dtype != softmax->output()->type.dtype) return false;
    }

    double scale = scores->scale;
    std::vector<const Node*> nodes = scores->nodes;
    Value* q = without_scale(graph, product->input(0), scale, nodes, last);
    Value* kt = without_scale(graph, product->input(1), scale, nodes, last);
    if (scale <= 0) return false;
    Value* k = transposed_back(graph, kt, last);
    if (k == nullptr) return false;
    if (scores->choice != nullptr) mask = additive_mask(graph, scores->choice, q->type.dtype);

    Attributes attributes{{"scale", scale}};
    Node* attention = nullptr;
    Node* replaced = last;
    const auto join = *r == 4 && heads ? joined(graph, last->output()) : std::nullopt;
    Value* q3 = join ? uncut(graph, q, last) : nullptr;
    Value* k3 = q3 != nullptr ? uncut(graph, k, last) : nullptr;
    Value* v3 = k3 != nullptr ? uncut(graph, v, last) : nullptr;
    if (v3 != nullptr) {
        attributes["q_num_heads"] = attributes["kv_num_heads"] = *heads;
        attention = graph.add_node("Attention", {q3, k3, v3}, attributes, 1, softmax->name + "_attention", last);
        replaced = join->reshape;
    } else if (*r == 4) {
        attention = graph.add_node("Attention", {q, k, v}, attributes, 1, softmax->name + "_attention", last);
    } else {
        // [B·H, S, D]: one batch of B·H heads.
        attention = graph.add_node("Attention",
                                   {unsqueezed(graph, q, last), unsqueezed(graph, k, last), unsqueezed(graph, v, last)},
                                   attributes, 1, softmax->name + "_attention", last);
    }
    if (mask != nullptr) {
        graph.set_input(attention, 3, mask);
        graph.infer(attention);
    }
    for (const Node* node : nodes) add_origins(attention, {node});
    add_origins(attention, {softmax, last});
    Value* result = attention->output();
    if (v3 != nullptr && join->sequence_first)
        result = graph.add_node("Transpose", {result}, {{"perm", Perm{1, 0, 2}}}, 1, softmax->name + "_joined", last)
                     ->output();
    if (v3 != nullptr && rank(replaced->output()) == 2) {
        const Dim width = replaced->output()->type.shape->back();
        result =
            graph
                .add_node("Reshape", {result, make_integers(graph, {-1, *width.value()}, replaced->name + "_shape")},
                          {}, 1, replaced->name, last)
                ->output();
    }
    if (*r == 3)
        result = graph.add_node("Squeeze", {result, make_integers(graph, {0}, "axis")}, {}, 1, "", last)->output();
    replace(graph, replaced, result);
    return true;
}

}  // namespace

int recognise_attention(Graph& graph) {
    int changes = 0;
    for (Node* softmax : nodes_of(graph, {"Softmax"})) changes += recognise(graph, softmax) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
