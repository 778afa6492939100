// Fuse layer normalisations: one over the last axis and the matrix product that alone reads it, with the product's
// epilogue, become one Region node, whose body is the two.
//
//   t = LayerNormalization(x, g, b), y = f(t W)   ->   y = Region(x, g, b, W) { t = ..., y = f(t W) }
//
// The normalisation is linear but for two numbers of a row, so a kernel multiplies x itself by diag(g) W and applies
// them to its sums. A backend that does not gain by it dissolves the region and finds the two again.
#include <array>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// Of each row, by constants.
bool is_of_rows(const Node& norm) {
    const Value* x = norm.input(0);
    if (norm.outputs().size() != 1 || x->type.dtype != DType::f32 || !x->has_static_shape()) return false;
    const int64_t axis = norm.integer("axis"), rank = static_cast<int64_t>(x->dims().size());
    if (axis != -1 && axis != rank - 1) return false;
    for (int i = 1; i < norm.input_count(); ++i)
        if (norm.input(i) != nullptr && !norm.input(i)->is_constant()) return false;
    return true;
}

/// Whether `node` multiplies rows of `value` by constant weights and reads it for nothing else.
bool multiplies(const Node& node, const Value* value) {
    const Node* product = &node;
    const Value *rows = value, *weights = nullptr;
    if (node.is("Region", "planish")) {
        if (node.text("kind") != "matmul") return false;
        const Graph& body = *node.subgraph("body");
        product = body.nodes().front().get();
        const auto inner = [&](const auto& is_wanted) -> const Value* {
            for (int i = 0; i < node.input_count(); ++i)
                if (is_wanted(i)) return body.inputs()[static_cast<size_t>(i)];
            return nullptr;
        };
        rows = inner([&](int i) { return node.input(i) == value; });
        weights = inner([&](int i) {
            return body.inputs()[static_cast<size_t>(i)] == product->input(1) && node.input(i)->is_constant();
        });
    } else if (node.is("MatMul") || node.is("Gemm")) {
        weights = node.input(1)->is_constant() ? node.input(1) : nullptr;
    }
    if (rows == nullptr || weights == nullptr || rows->uses.size() != 1 || product->input(0) != rows) return false;
    return !product->is("Gemm") || product->integer("transA") == 0;
}

}  // namespace

int fuse_layer_norms(Graph& graph) {
    int changes = 0;
    for (Node* norm : nodes_of(graph, {"LayerNormalization"})) {
        if (!is_of_rows(*norm) || !only_use(graph, norm->output())) continue;
        Node* product = norm->output()->uses[0].node;
        if (!multiplies(*product, norm->output())) continue;
        make_region(graph, std::array{norm, product}, *product, "normalized_product");
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
