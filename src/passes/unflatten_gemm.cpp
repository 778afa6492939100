// Unflatten Gemm: Reshape(Gemm(Reshape(x, [M, K]), W, b), [..., N]) = MatMul(x, W) + b over x's own leading axes.
// Without the reshapes, transposes pass through the product and epilogues reach what follows it.
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// Reshape(x) that joins all axes but the last; null when it does anything else.
Value* before_flattening(const Value* value) {
    Node* reshape = producer(value, "Reshape");
    if (reshape == nullptr) reshape = producer(value, "Flatten");
    if (reshape == nullptr) return nullptr;
    Value* x = reshape->input(0);
    if (rank(value) != 2 || !rank(x) || *rank(x) < 3) return nullptr;
    return value->type.shape->back() == x->type.shape->back() ? x : nullptr;
}

Tensor transposed(const Tensor& w) {
    Tensor t(w.dtype(), {w.dim(1), w.dim(0)});
    const int64_t rows = w.dim(0), columns = w.dim(1);
    if (w.dtype() == DType::f32) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j)
                t.data<float>()[static_cast<size_t>(j * rows + i)] =
                    w.data<float>()[static_cast<size_t>(i * columns + j)];
    } else {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) t.set_double(j * rows + i, w.at_double(i * columns + j));
    }
    return t;
}

bool unflatten(Graph& graph, Node* gemm) {
    Value* x = before_flattening(gemm->input(0));
    if (x == nullptr || gemm->integer("transA") != 0 || gemm->real("alpha") != 1 || gemm->real("beta") != 1)
        return false;
    Value* weight = gemm->input(1);
    if (!weight->is_constant() || !is_float(weight->constant->dtype())) return false;
    Node* reshape = only_reader(graph, gemm->output(), "Reshape");
    if (reshape == nullptr || !reshape->output()->type.shape) return false;
    // The leading axes come back as they were.
    const Shape &from = *x->type.shape, &to = *reshape->output()->type.shape;
    if (from.size() != to.size() || !(to.back() == gemm->output()->type.shape->back())) return false;
    for (size_t i = 0; i + 1 < from.size(); ++i)
        if (!(from[i] == to[i])) return false;
    Value* bias = gemm->input(2);
    if (bias != nullptr && (rank(bias) != 1 || !(bias->type.shape->back() == to.back()))) return false;

    if (gemm->integer("transB") != 0)
        weight = graph.add_constant(weight->name + "_transposed", transposed(*weight->constant));
    Node* product = graph.add_node("MatMul", {x, weight}, {}, 1, gemm->name, gemm);
    product->origins = origins_of(*gemm);
    Node* last = product;
    if (bias != nullptr) {
        last = graph.add_node("Add", {product->output(), bias}, {}, 1, gemm->name + "_bias", gemm);
        last->origins = product->origins;
    }
    replace(graph, reshape, last->output());
    return true;
}

}  // namespace

int unflatten_gemm(Graph& graph) {
    int changes = 0;
    for (Node* gemm : nodes_of(graph, {"Gemm"})) changes += unflatten(graph, gemm) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
