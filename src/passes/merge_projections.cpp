// Merge projections: the products that queries, keys and values of one attention come from become one.
//
//   Attention(x Wq + bq, x Wk + bk, x Wv + bv)   ->   y = x [Wq|Wk|Wv] + [bq|bk|bv],  Attention(slices of y)
//
// One product reads x once and is wide enough to fill a machine that the three would each leave idle in part. The
// slices cost nothing where attention reads them with strides (slice_attention.cpp).
#include <array>
#include <cstring>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

constexpr size_t kProjections = 3;

/// MatMul(x, w) + bias, read by nobody but the attention.
struct Projection {
    Node* product = nullptr;
    Node* add = nullptr;  // null: no bias
    const Tensor* weight = nullptr;
    const Tensor* bias = nullptr;

    Node* last() const { return add != nullptr ? add : product; }
    int64_t width() const { return weight->dim(1); }
};

std::optional<Projection> projection(const Graph& graph, const Value* value) {
    if (!only_use(graph, value)) return std::nullopt;
    Projection p;
    p.add = producer(value, "Add");
    if (p.add != nullptr) {
        const int side = p.add->input(0)->is_constant() ? 0 : 1;
        const Value* bias = p.add->input(side);
        value = p.add->input(1 - side);
        if (!bias->is_constant() || bias->constant->rank() != 1 || !only_use(graph, value)) return std::nullopt;
        p.bias = bias->constant.get();
    }
    p.product = producer(value, "MatMul");
    if (p.product == nullptr || rank(value) != 3) return std::nullopt;
    const Value* weight = p.product->input(1);
    if (!weight->is_constant() || weight->constant->rank() != 2 || !only_use(graph, weight)) return std::nullopt;
    p.weight = weight->constant.get();
    if (p.bias != nullptr && (p.bias->dim(0) != p.width() || p.bias->dtype() != p.weight->dtype())) return std::nullopt;
    return p;
}

/// Tensors of the same leading sizes, side by side along their last axis.
Tensor side_by_side(const std::array<const Tensor*, kProjections>& parts) {
    Dims dims = parts[0]->dims();
    dims.back() = 0;
    for (const Tensor* part : parts) dims.back() += part->dims().back();
    Tensor joined(parts[0]->dtype(), dims);
    const int64_t rows = element_count(dims) / dims.back(), row = byte_size(joined.dtype(), dims.back());
    int64_t at = 0;
    for (const Tensor* part : parts) {
        const int64_t size = byte_size(part->dtype(), part->dims().back());
        for (int64_t i = 0; i < rows; ++i)
            std::memcpy(static_cast<std::byte*>(joined.raw()) + i * row + at,
                        static_cast<const std::byte*>(part->raw()) + i * size, static_cast<size_t>(size));
        at += size;
    }
    return joined;
}

bool merge(Graph& graph, Node* attention) {
    std::array<Projection, kProjections> parts;
    for (size_t i = 0; i < kProjections; ++i) {
        const auto p = projection(graph, attention->input(static_cast<int>(i)));
        if (!p) return false;
        parts[i] = *p;
        if (p->product->input(0) != parts[0].product->input(0) || p->weight->dim(0) != parts[0].weight->dim(0) ||
            p->weight->dtype() != parts[0].weight->dtype() || (p->bias == nullptr) != (parts[0].bias == nullptr))
            return false;
    }
    if (byte_size(parts[0].weight->dtype(), 8) % 8 != 0) return false;  // elements of whole bytes
    const std::string name = parts[0].product->name;
    Value* weight =
        graph.add_constant(name + "_merged", side_by_side({parts[0].weight, parts[1].weight, parts[2].weight}));
    Node* product = graph.add_node("MatMul", {parts[0].product->input(0), weight}, {}, 1, name + "_merged", attention);
    product->origins.clear();
    Node* last = product;
    if (parts[0].bias != nullptr) {
        Value* bias =
            graph.add_constant(name + "_merged_bias", side_by_side({parts[0].bias, parts[1].bias, parts[2].bias}));
        last = graph.add_node("Add", {product->output(), bias}, {}, 1, name + "_merged_bias", attention);
        last->origins.clear();
    }
    for (const Projection& p : parts) {
        add_origins(product, {p.product});
        if (p.add != nullptr) add_origins(last, {p.add});
    }
    int64_t first = 0;
    for (size_t i = 0; i < kProjections; ++i) {
        const int64_t end = first + parts[i].width();
        Value* slice = graph
                           .add_node("Slice",
                                     {last->output(), make_integers(graph, {first}, "start"),
                                      make_integers(graph, {end}, "end"), make_integers(graph, {2}, "axis")},
                                     {}, 1, parts[i].last()->name + "_columns", attention)
                           ->output();
        Node* old = parts[i].last();
        graph.set_input(attention, static_cast<int>(i), slice);
        erase_unused(graph, old);
        first = end;
    }
    return true;
}

}  // namespace

int merge_projections(Graph& graph) {
    int changes = 0;
    for (Node* attention : nodes_of(graph, {"Attention"}))
        if (attention->input(0) != attention->input(1)) changes += merge(graph, attention) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
