// Where a product keeps its weights and its bias.
#include "sparsity/products.hpp"

#include <algorithm>

#include "passes/rewrite.hpp"
#include "sparsity/couplings.hpp"

namespace planish::sparsity {
namespace {

/// Is weights[c][o] how they are stored?
bool channels_first(const Node& node) {
    return node.is("MatMul") || (node.is("Gemm") && node.integer("transB") == 0);
}

/// What is added to every output: `sign` times an input of a node. Node null: there is none.
struct Bias {
    Node* node = nullptr;
    int input = 0;
    float sign = 1;

    const Value* value() const { return node->input(input); }
};

Bias bias_of(const Node& node) {
    if (node.is("MatMul")) {
        Node* add = passes::only_reader(node.graph(), node.output(), "Add");
        return add ? Bias{add, add->input(0) == node.output() ? 1 : 0} : Bias{};
    }
    // A convolution that leaves its bias to the normalisation behind it, which subtracts a mean.
    if (node.input(2) == nullptr)
        if (Node* norm = passes::only_reader(node.graph(), node.output(), "BatchNormalization");
            norm != nullptr && norm->input(0) == node.output())
            return {norm, 3, -1};
    return {const_cast<Node*>(&node), 2};
}

int64_t outputs_of(const Node& node) {
    const Tensor& w = *node.input(1)->constant;
    return channels_first(node) ? w.dim(1) : w.dim(0);
}

/// Constants that others read too are left to them.
void set_constant(Node& node, int input, Tensor tensor) {
    Value* value = node.input(input);
    if (value != nullptr && value->uses.size() == 1) {
        value->type.shape = to_shape(tensor.dims());
        value->constant = std::make_shared<const Tensor>(std::move(tensor));
        return;
    }
    const std::string name = value ? value->name : node.name + "_bias";
    node.graph().set_input(&node, input, node.graph().add_constant(node.graph().unique_name(name), std::move(tensor)));
}

}  // namespace

std::string Product::layer() const {
    return passes::origins_of(*node).front();
}

std::optional<Product> as_product(const Node& node) {
    const Value *x = node.input(0), *w = node.input(1);
    if (w == nullptr || !w->is_constant() || w->type.dtype != DType::f32) return std::nullopt;
    auto* mutable_node = const_cast<Node*>(&node);
    if (node.is("Conv") && node.integer("group") == 1) return Product{mutable_node, 1};
    if (node.is("Gemm") && node.integer("transA") == 0) return Product{mutable_node, 1};
    if (node.is("MatMul") && w->constant->rank() == 2 && rank_of(x) >= 2) return Product{mutable_node, rank_of(x) - 1};
    return std::nullopt;
}

std::vector<Product> products_of(const Graph& graph) {
    std::vector<Product> result;
    for (const auto& node : graph.nodes())
        if (const auto product = as_product(*node)) result.push_back(*product);
    return result;
}

Weights read_weights(const Product& product) {
    const Node& node = *product.node;
    const Tensor& w = *node.input(1)->constant;
    const bool swapped = channels_first(node);
    Weights result;
    result.outputs = swapped ? w.dim(1) : w.dim(0);
    result.channels = swapped ? w.dim(0) : w.dim(1);
    result.kernel = result.outputs * result.channels == 0 ? 1 : w.size() / (result.outputs * result.channels);
    result.values.resize(static_cast<size_t>(w.size()));
    const auto data = w.data<float>();
    for (int64_t o = 0; o < result.outputs; ++o)
        for (int64_t c = 0; c < result.channels; ++c)
            for (int64_t k = 0; k < result.kernel; ++k)
                result.at(o, c, k) = data[static_cast<size_t>(swapped ? c * result.outputs + o
                                                                      : (o * result.channels + c) * result.kernel + k)];
    return result;
}

void write_weights(const Product& product, const Weights& weights) {
    Node& node = *product.node;
    const bool swapped = channels_first(node);
    Tensor w(DType::f32, node.input(1)->constant->dims());
    const auto data = w.data<float>();
    for (int64_t o = 0; o < weights.outputs; ++o)
        for (int64_t c = 0; c < weights.channels; ++c)
            for (int64_t k = 0; k < weights.kernel; ++k)
                data[static_cast<size_t>(swapped ? c * weights.outputs + o
                                                 : (o * weights.channels + c) * weights.kernel + k)] =
                    static_cast<float>(weights.at(o, c, k));
    set_constant(node, 1, std::move(w));
}

bool takes_bias(const Product& product, bool may_add) {
    const Node& node = *product.node;
    if (node.is("Gemm") && (node.real("alpha") != 1 || node.real("beta") != 1)) return false;
    const Bias place = bias_of(node);
    if (place.node == nullptr) return false;
    const Value* bias = place.value();
    if (bias == nullptr) return may_add;
    if (!bias->is_constant() || bias->type.dtype != DType::f32) return false;
    const Dims& dims = bias->constant->dims();
    return !dims.empty() && bias->constant->size() == outputs_of(node) && dims.back() == outputs_of(node);
}

void add_to_bias(const Product& product, const std::vector<double>& shift) {
    const Bias place = bias_of(*product.node);
    const Value* old = place.value();
    Tensor bias = old ? old->constant->clone() : Tensor(DType::f32, {static_cast<int64_t>(shift.size())});
    const auto data = bias.data<float>();
    for (size_t o = 0; o < shift.size(); ++o) data[o] = static_cast<float>(data[o] + place.sign * shift[o]);
    set_constant(*place.node, place.input, std::move(bias));
}

}  // namespace planish::sparsity
