// Recognise normalisations: (x - mean x) / √(mean (x - mean x)² + ε) · γ + β is LayerNormalization,
// x / √(mean x² + ε) · γ is RMSNormalization.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// First of the trailing axes that `mean` averages over; nullopt when they are not the trailing ones.
std::optional<int64_t> trailing_axis(const Node* mean) {
    auto axes = integers(mean->input(1));
    const auto r = rank(mean->input(0));
    if (!axes || axes->empty() || !r || mean->integer("keepdims") == 0) return std::nullopt;
    for (int64_t& a : *axes)
        if (a < 0) a += *r;
    std::sort(axes->begin(), axes->end());
    for (size_t i = 0; i < axes->size(); ++i)
        if ((*axes)[i] != *r - static_cast<int64_t>(axes->size() - i)) return std::nullopt;
    return axes->front();
}

/// d for a value d² (Pow(d, 2) or Mul(d, d)), else null.
Value* square_of(const Value* value) {
    if (const Node* pow = producer(value, "Pow")) return is_scalar(pow->input(1), 2) ? pow->input(0) : nullptr;
    if (const Node* mul = producer(value, "Mul")) return mul->input(0) == mul->input(1) ? mul->input(0) : nullptr;
    return nullptr;
}

/// A constant that holds one number for each element of the normalised axes, in their shape.
Value* parameter(Graph& graph, Value* value, const Dims& dims) {
    if (value == nullptr || !value->is_constant() || value->constant->size() != element_count(dims)) return nullptr;
    const Dims& given = value->constant->dims();
    // Leading ones may be left away.
    const size_t lead = given.size() - std::min(given.size(), dims.size());
    if (!std::all_of(given.begin(), given.begin() + static_cast<int64_t>(lead), [](int64_t d) { return d == 1; }))
        return nullptr;
    if (!std::equal(given.begin() + static_cast<int64_t>(lead), given.end(), dims.begin(), dims.end())) return nullptr;
    if (lead == 0) return value;
    return graph.add_constant(value->name + "_flat", value->constant->reshaped(dims));
}

Value* other_input(const Node* node, const Value* value) {
    return node->input(node->input(0) == value ? 1 : 0);
}

/// `root` is √(variance + ε), or its power -1/2 when `inverse`.
bool recognise(Graph& graph, Node* root) {
    bool inverse = root->is("Pow");
    if (inverse && !is_scalar(root->input(1), -0.5)) return false;
    const auto shifted = with_scalar(producer(root->input(0), "Add"));
    if (!shifted) return false;
    const Node* variance = producer(shifted->first, "ReduceMean");
    if (variance == nullptr) return false;
    const auto axis = trailing_axis(variance);
    Value* d = square_of(variance->input(0));
    if (!axis || d == nullptr) return false;

    // d is x - mean(x) over the same axes, or x itself.
    const Node* sub = producer(d, "Sub");
    const Node* mean = sub != nullptr ? producer(sub->input(1), "ReduceMean") : nullptr;
    const bool centred = mean != nullptr && mean->input(0) == sub->input(0) && trailing_axis(mean) == axis;
    Value* x = centred ? sub->input(0) : d;

    // d / root, d * (1 / root), d * root^-1/2
    std::vector<const Node*> nodes{variance, root};
    Value* divisor = root->output();
    if (Node* reciprocal = only_reader(graph, divisor, "Reciprocal"); reciprocal != nullptr && !inverse) {
        nodes.push_back(reciprocal);
        divisor = reciprocal->output();
        inverse = true;
    } else if (Node* one = only_reader(graph, divisor, "Div");
               one != nullptr && !inverse && is_scalar(one->input(0), 1)) {
        nodes.push_back(one);
        divisor = one->output();
        inverse = true;
    }
    Node* last = only_reader(graph, divisor, inverse ? "Mul" : "Div");
    if (last == nullptr || other_input(last, divisor) != d || (!inverse && last->input(0) != d)) return false;
    nodes.push_back(last);

    const auto r = rank(x);
    Dims dims;
    for (int64_t i = *axis; r && i < *r; ++i) {
        const auto size = (*x->type.shape)[static_cast<size_t>(i)].value();
        if (!size) return false;
        dims.push_back(*size);
    }
    if (dims.empty() || !is_float(x->type.dtype)) return false;
    Value* scale = nullptr;
    Value* shift = nullptr;
    if (Node* mul = only_reader(graph, last->output(), "Mul")) {
        scale = parameter(graph, other_input(mul, last->output()), dims);
        if (scale != nullptr) {
            nodes.push_back(mul);
            last = mul;
        }
    }
    if (centred)
        if (Node* add = only_reader(graph, last->output(), "Add")) {
            shift = parameter(graph, other_input(add, last->output()), dims);
            if (shift != nullptr) {
                nodes.push_back(add);
                last = add;
            }
        }
    if (scale == nullptr) {
        Tensor ones(x->type.dtype, dims);
        for (int64_t i = 0; i < ones.size(); ++i) ones.set_double(i, 1);
        scale = graph.add_constant(last->name + "_scale", std::move(ones));
    }
    std::vector<Value*> inputs{x, scale};
    if (shift != nullptr) inputs.push_back(shift);
    Node* norm = graph.add_node(centred ? "LayerNormalization" : "RMSNormalization", inputs,
                                {{"axis", *axis - *r}, {"epsilon", shifted->second}}, 1, last->name, last);
    for (const Node* node : nodes) add_origins(norm, {node});
    replace(graph, last, norm->output());
    return true;
}

}  // namespace

int recognise_layer_norm(Graph& graph) {
    int changes = 0;
    for (Node* node : nodes_of(graph, {"Sqrt", "Pow"})) changes += recognise(graph, node) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
