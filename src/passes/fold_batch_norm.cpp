// Fold batch normalisation: scales and shifts by channel go into the weights of the convolution or Gemm before them;
// what is left of BatchNormalization becomes a multiplication and an addition.
#include <cmath>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// y = scale[c] * x + shift[c] along one axis.
struct Affine {
    std::vector<double> scale, shift;
};

const Tensor* float_constant(const Value* value) {
    return value != nullptr && value->is_constant() && is_float(value->constant->dtype()) ? value->constant.get()
                                                                                          : nullptr;
}

/// BatchNormalization(x) = g/sqrt(var + eps) * x + (b - mean * g/sqrt(var + eps)) in inference.
std::optional<Affine> affine_of_batch_norm(const Node& node) {
    if (!node.is("BatchNormalization") || node.integer("training_mode") != 0) return std::nullopt;
    const Tensor* p[4];
    for (int i = 0; i < 4; ++i)
        if ((p[i] = float_constant(node.input(i + 1))) == nullptr) return std::nullopt;
    for (size_t i = 1; i < node.outputs().size(); ++i)
        if (node.outputs()[i] != nullptr && !node.outputs()[i]->uses.empty()) return std::nullopt;
    Affine a;
    for (int64_t c = 0; c < p[0]->size(); ++c) {
        a.scale.push_back(p[0]->at_double(c) / std::sqrt(p[3]->at_double(c) + node.real("epsilon")));
        a.shift.push_back(p[1]->at_double(c) - p[2]->at_double(c) * a.scale.back());
    }
    return a;
}

/// A constant that differs only along the channel axis (axis 1 of `rank`), as one number a channel.
std::optional<std::vector<double>> per_channel(const Value* value, int64_t rank, int64_t channels) {
    const Tensor* t = float_constant(value);
    if (t == nullptr || t->rank() > rank) return std::nullopt;
    if (t->size() == 1) return std::vector<double>(static_cast<size_t>(channels), t->at_double(0));
    const int64_t axis = 1 - (rank - t->rank());
    if (axis < 0 || t->size() != channels || t->dim(axis) != channels) return std::nullopt;
    return t->to_doubles();
}

/// Mul or Add by a constant of one number a channel.
std::optional<Affine> affine_of_arithmetic(const Node& node, const Value* x, int64_t channels) {
    const bool multiplies = node.is("Mul") || node.is("Div");
    if (!multiplies && !node.is("Add") && !node.is("Sub")) return std::nullopt;
    const bool first = node.input(0) == x;
    if (!first && !has(node.op().traits, Trait::commutative)) return std::nullopt;
    const auto r = rank(x);
    if (!r) return std::nullopt;
    auto numbers = per_channel(node.input(first ? 1 : 0), *r, channels);
    if (!numbers) return std::nullopt;
    Affine a{std::vector<double>(numbers->size(), 1), std::vector<double>(numbers->size(), 0)};
    for (size_t c = 0; c < numbers->size(); ++c) {
        const double v = (*numbers)[c];
        if (node.is("Mul")) a.scale[c] = v;
        if (node.is("Div")) a.scale[c] = 1 / v;
        if (node.is("Add")) a.shift[c] = v;
        if (node.is("Sub")) a.shift[c] = -v;
    }
    return a;
}

/// Where a weight's output channels lie: [outer, channels, inner].
struct ChannelAxis {
    int64_t outer = 1, channels = 0, inner = 1;
};

std::optional<ChannelAxis> output_channels(const Node& node) {
    const Tensor* w = float_constant(node.input(1));
    if (w == nullptr || w->rank() < 2) return std::nullopt;
    if (node.is("Conv")) return ChannelAxis{1, w->dim(0), w->size() / std::max<int64_t>(1, w->dim(0))};
    if (node.is("ConvTranspose")) {
        // [C, M/group, kernel]: with groups an output channel is not one slice of the weight.
        if (node.integer("group") != 1) return std::nullopt;
        return ChannelAxis{w->dim(0), w->dim(1), w->size() / std::max<int64_t>(1, w->dim(0) * w->dim(1))};
    }
    if (node.is("Gemm")) {
        if (node.real("alpha") != 1 || node.real("beta") != 1) return std::nullopt;
        return node.integer("transB") != 0 ? ChannelAxis{1, w->dim(0), w->dim(1)}
                                           : ChannelAxis{w->dim(0), w->dim(1), 1};
    }
    return std::nullopt;
}

/// scale * (W x + b) + shift = (scale W) x + (scale b + shift)
bool fold_into_weights(Graph& graph, Node* node) {
    for (int side = 0; side < std::min(2, node->input_count()); ++side) {
        Value* x = node->input(side);
        if (x == nullptr || x->producer == nullptr || !only_use(graph, x)) continue;
        Node* linear = x->producer;
        const auto axis = output_channels(*linear);
        if (!axis) continue;
        const Value* bias = linear->input(2);
        const Tensor* b = float_constant(bias);
        if (bias != nullptr && (b == nullptr || b->size() != axis->channels || b->dim(-1) != axis->channels)) continue;
        const auto a = side == 0 && node->is("BatchNormalization") ? affine_of_batch_norm(*node)
                                                                   : affine_of_arithmetic(*node, x, axis->channels);
        if (!a || static_cast<int64_t>(a->scale.size()) != axis->channels || !same_shape(x, node->output())) continue;

        const Tensor& w = *linear->input(1)->constant;
        Value* weight = linear->input(1);
        const auto channels = static_cast<size_t>(axis->channels);
        if (std::any_of(a->scale.begin(), a->scale.end(), [](double s) { return s != 1; })) {
            Tensor scaled(w.dtype(), w.dims());
            int64_t i = 0;
            for (int64_t o = 0; o < axis->outer; ++o)
                for (size_t c = 0; c < channels; ++c)
                    for (int64_t k = 0; k < axis->inner; ++k, ++i) scaled.set_double(i, w.at_double(i) * a->scale[c]);
            weight = graph.add_constant(linear->input(1)->name + "_folded", std::move(scaled));
        }
        Tensor shifted(w.dtype(), {axis->channels});
        for (size_t c = 0; c < channels; ++c)
            shifted.set_double(static_cast<int64_t>(c),
                               (b != nullptr ? b->at_double(static_cast<int64_t>(c)) * a->scale[c] : 0) + a->shift[c]);
        Value* new_bias = graph.add_constant(linear->name + "_bias", std::move(shifted));
        Node* folded = graph.add_node(linear->op().name, {linear->input(0), weight, new_bias}, linear->attributes, 1,
                                      linear->name, linear);
        folded->origins = origins_of(*linear);
        add_origins(folded, {node});
        replace(graph, node, folded->output());
        return true;
    }
    return false;
}

/// BatchNormalization(x) = x * scale + shift, for what no weight takes in.
bool lower_batch_norm(Graph& graph, Node* node) {
    const auto a = affine_of_batch_norm(*node);
    const auto r = rank(node->input(0));
    if (!a || !r || *r < 2) return false;
    Dims dims(static_cast<size_t>(*r - 1), 1);
    dims[0] = static_cast<int64_t>(a->scale.size());
    const DType dtype = node->input(0)->type.dtype;
    Tensor scale(dtype, dims), shift(dtype, dims);
    for (size_t c = 0; c < a->scale.size(); ++c) {
        scale.set_double(static_cast<int64_t>(c), a->scale[c]);
        shift.set_double(static_cast<int64_t>(c), a->shift[c]);
    }
    Node* mul = graph.add_node("Mul", {node->input(0), graph.add_constant(node->name + "_scale", std::move(scale))}, {},
                               1, node->name + "_scaled", node);
    Node* add = graph.add_node("Add", {mul->output(), graph.add_constant(node->name + "_shift", std::move(shift))}, {},
                               1, node->name, node);
    mul->origins = add->origins = origins_of(*node);
    replace(graph, node, add->output());
    return true;
}

}  // namespace

int fold_batch_norm(Graph& graph) {
    int changes = 0;
    for (Node* node : graph.node_list()) changes += fold_into_weights(graph, node) ? 1 : 0;
    for (Node* node : graph.node_list())
        if (node->is("BatchNormalization") && lower_batch_norm(graph, node)) ++changes;
    return changes;
}

}  // namespace planish::passes
