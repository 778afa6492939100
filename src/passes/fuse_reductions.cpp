// Fuse reductions: a point-wise expression and the reduction that alone reads it become one Region node, whose body is
// the two.
//
//   t = f(x, ...), y = Reduce(t, axes)   ->   y = Region(x, ...) { t = f(x, ...), y = Reduce(t) }
//
// t, as large as x, is then never written to memory. A backend that does not gain by it dissolves the region and finds
// the point-wise region and the reduction again.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

bool is_reduction(const Node& node) {
    const std::string_view op = node.op().name;
    if (!node.op().domain.empty() || node.outputs().size() != 1) return false;
    if (!op.starts_with("Reduce") && op != "GlobalAveragePool" && op != "GlobalMaxPool") return false;
    for (int i = 1; i < node.input_count(); ++i)
        if (node.input(i) != nullptr && !node.input(i)->is_constant()) return false;
    const Value* x = node.input(0);
    return x->type.dtype == DType::f32 && x->has_static_shape() && node.output()->has_static_shape();
}

bool is_pointwise(const Node& node) {
    if (node.outputs().size() != 1) return false;
    if (node.is("Region", "planish")) return node.text("kind") == "pointwise";
    return has(node.op().traits, Trait::elementwise);
}

}  // namespace

int fuse_reductions(Graph& graph) {
    int changes = 0;
    for (Node* reduction : graph.node_list()) {
        if (!is_reduction(*reduction)) continue;
        Node* expression = reduction->input(0)->producer;
        if (expression == nullptr || !is_pointwise(*expression) || !only_use(graph, reduction->input(0))) continue;
        make_region(graph, std::array{expression, reduction}, *reduction, "reduction");
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
