// Recognise activations that exporters write as several ops.
#include <cmath>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

using Rule = bool (*)(Graph&, Node*);

/// node, with what `merged` computed on the way, becomes op(x).
bool becomes(Graph& graph, Node* node, std::string_view op, std::vector<Value*> inputs, Attributes attributes,
             std::initializer_list<const Node*> merged) {
    Node* made = graph.add_node(op, std::move(inputs), std::move(attributes), 1, node->name, node);
    for (const Node* m : merged) add_origins(made, {m});
    add_origins(made, {node});
    replace(graph, node, made->output());
    return true;
}

/// Clip with constant scalar bounds; a missing one is infinite.
struct Bounds {
    Value* x = nullptr;
    double low = -HUGE_VAL, high = HUGE_VAL;
};
std::optional<Bounds> bounds_of(const Node* clip) {
    if (clip == nullptr || !clip->is("Clip")) return std::nullopt;
    Bounds b{clip->input(0)};
    for (int i : {1, 2}) {
        if (clip->input(i) == nullptr) continue;
        const auto s = scalar(clip->input(i));
        if (!s) return std::nullopt;
        (i == 1 ? b.low : b.high) = *s;
    }
    return b;
}

/// x of clip(x + 3, 0, 6)
Value* relu6_of_shifted(const Node* clip) {
    const auto bounds = bounds_of(clip);
    if (!bounds || bounds->low != 0 || bounds->high != 6) return nullptr;
    const auto shifted = with_scalar(producer(bounds->x, "Add"));
    return shifted && shifted->second == 3 ? shifted->first : nullptr;
}

/// The operand of node when it divides by six.
Value* sixth(const Node* node) {
    const auto with = with_scalar(node);
    if (!with) return nullptr;
    const bool six = node->is("Div") ? is_near(with->second, 6) : node->is("Mul") && is_near(with->second, 1.0 / 6);
    return six ? with->first : nullptr;
}

// min(max(x, a), b) = Clip(x, a, b);  max(x, 0) = Relu(x)
bool clip_of_min_max(Graph& graph, Node* node) {
    const bool high = node->is("Min");
    if (!high && !node->is("Max")) return false;
    const auto with = with_scalar(node);
    if (!with || !is_float(node->output()->type.dtype) || !same_shape(with->first, node->output())) return false;
    Value* x = with->first;
    if (!high && with->second == 0) return becomes(graph, node, "Relu", {x}, {}, {});
    Value* bound = make_scalar(graph, with->second, x->type.dtype, node->name + "_bound");
    return high ? becomes(graph, node, "Clip", {x, nullptr, bound}, {}, {})
                : becomes(graph, node, "Clip", {x, bound}, {}, {});
}

// Clip(Clip(x, a, b), c, d) = Clip(x, max(a, c), min(max(b, c), d));  Clip(Relu(x), c, d) likewise with a = 0
bool merge_clips(Graph& graph, Node* node) {
    const auto outer = bounds_of(node);
    if (!outer || !only_use(graph, outer->x)) return false;
    auto inner = bounds_of(outer->x->producer);
    if (const Node* relu = producer(outer->x, "Relu")) inner = Bounds{relu->input(0), 0, HUGE_VAL};
    if (!inner || inner->low > inner->high || outer->low > outer->high) return false;
    const double low = std::min(std::max(inner->low, outer->low), outer->high);
    const double high = std::max(std::min(inner->high, outer->high), low);
    const DType dtype = outer->x->type.dtype;
    const auto bound = [&](double v, const char* name) {
        return std::isinf(v) ? nullptr : make_scalar(graph, v, dtype, node->name + name);
    };
    Value* low_value = bound(low, "_min");
    return becomes(graph, node, "Clip", {inner->x, low_value, bound(high, "_max")}, {}, {outer->x->producer});
}

// Clip(x, 0, ∞) = Relu(x)
bool relu_of_clip(Graph& graph, Node* node) {
    const auto bounds = bounds_of(node);
    if (!bounds || bounds->low != 0 || !std::isinf(bounds->high) || !is_float(node->output()->type.dtype)) return false;
    return becomes(graph, node, "Relu", {bounds->x}, {}, {});
}

// x · sigmoid(a x) = Swish(x, a)
bool swish(Graph& graph, Node* node) {
    if (!node->is("Mul")) return false;
    for (int side : {0, 1}) {
        const Node* sigmoid = producer(node->input(side), "Sigmoid");
        if (sigmoid == nullptr || !only_use(graph, sigmoid->output())) continue;
        Value* x = node->input(1 - side);
        if (sigmoid->input(0) == x) return becomes(graph, node, "Swish", {x}, {}, {sigmoid});
        const auto scaled = with_scalar(producer(sigmoid->input(0), "Mul"));
        if (scaled && scaled->first == x && same_shape(x, node->output()))
            return becomes(graph, node, "Swish", {x}, {{"alpha", scaled->second}}, {sigmoid});
    }
    return false;
}

// clip(x + 3, 0, 6) / 6 = HardSigmoid(x, 1/6, 1/2)
bool hard_sigmoid(Graph& graph, Node* node) {
    const Value* clipped = sixth(node);
    if (clipped == nullptr || !only_use(graph, clipped)) return false;
    Value* x = relu6_of_shifted(clipped->producer);
    if (x == nullptr || !same_shape(x, node->output())) return false;
    return becomes(graph, node, "HardSigmoid", {x}, {{"alpha", 1.0 / 6}, {"beta", 0.5}}, {clipped->producer});
}

// x · HardSigmoid(x, 1/6, 1/2) = HardSwish(x);  x · clip(x + 3, 0, 6) / 6 likewise
bool hard_swish(Graph& graph, Node* node) {
    if (const Value* product = sixth(node)) {
        const Node* mul = producer(product, "Mul");
        if (mul == nullptr || !only_use(graph, product)) return false;
        for (int side : {0, 1}) {
            Value* x = relu6_of_shifted(producer(mul->input(side), "Clip"));
            if (x != nullptr && mul->input(1 - side) == x && only_use(graph, mul->input(side)))
                return becomes(graph, node, "HardSwish", {x}, {}, {mul->input(side)->producer, mul});
        }
        return false;
    }
    if (!node->is("Mul")) return false;
    for (int side : {0, 1}) {
        const Node* gate = producer(node->input(side), "HardSigmoid");
        if (gate != nullptr && gate->input(0) == node->input(1 - side) && only_use(graph, gate->output()) &&
            is_near(gate->real("alpha"), 1.0 / 6) && gate->real("beta") == 0.5)
            return becomes(graph, node, "HardSwish", {gate->input(0)}, {}, {gate});
    }
    return false;
}

// x · tanh(softplus(x)) = Mish(x)
bool mish(Graph& graph, Node* node) {
    if (!node->is("Mul")) return false;
    for (int side : {0, 1}) {
        const Node* tanh = producer(node->input(side), "Tanh");
        const Node* softplus = tanh != nullptr ? producer(tanh->input(0), "Softplus") : nullptr;
        if (softplus != nullptr && softplus->input(0) == node->input(1 - side) && only_use(graph, tanh->output()) &&
            only_use(graph, softplus->output()))
            return becomes(graph, node, "Mish", {softplus->input(0)}, {}, {softplus, tanh});
    }
    return false;
}

// max(x, a x) = LeakyRelu(x, a) for 0 ≤ a ≤ 1
bool leaky_relu(Graph& graph, Node* node) {
    if (!node->is("Max") || node->input_count() != 2) return false;
    for (int side : {0, 1}) {
        const Node* mul = producer(node->input(side), "Mul");
        const auto scaled = with_scalar(mul);
        if (scaled && scaled->first == node->input(1 - side) && scaled->second >= 0 && scaled->second <= 1 &&
            only_use(graph, mul->output()) && same_shape(scaled->first, node->output()))
            return becomes(graph, node, "LeakyRelu", {scaled->first}, {{"alpha", scaled->second}}, {mul});
    }
    return false;
}

// x² = x · x;  x^½ = √x
bool cheap_power(Graph& graph, Node* node) {
    if (!node->is("Pow") || !same_shape(node->input(0), node->output()) || !is_float(node->output()->type.dtype))
        return false;
    const auto exponent = scalar(node->input(1));
    if (exponent == 2.0) return becomes(graph, node, "Mul", {node->input(0), node->input(0)}, {}, {});
    if (exponent == 0.5) return becomes(graph, node, "Sqrt", {node->input(0)}, {}, {});
    return false;
}

constexpr Rule kRules[] = {clip_of_min_max, merge_clips, relu_of_clip, swish,      hard_sigmoid,
                           hard_swish,      mish,        leaky_relu,   cheap_power};

}  // namespace

int recognise_activations(Graph& graph) {
    int changes = 0;
    // Results of one rule are operands of another: until nothing changes.
    for (int round = -1; round != changes;) {
        round = changes;
        for (Node* node : graph.node_list())
            for (Rule rule : kRules)
                if (rule(graph, node)) {
                    ++changes;
                    break;
                }
    }
    return changes;
}

}  // namespace planish::passes
