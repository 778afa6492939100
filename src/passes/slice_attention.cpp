// Slice attention: queries, keys or values that are columns of a wider value are read where they lie.
//
//   Attention(Slice(y), Slice(y), Slice(y))   ->   Region(y) { the slices, Attention }
//
// A backend that reads rows with strides saves three copies; another one dissolves the region.
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// Slice(y, first, end, axis 2) of y [B, S, width] that only `value`'s reader needs; null for any other producer.
Node* columns(const Graph& graph, const Value* value) {
    Node* slice = producer(value, "Slice");
    if (slice == nullptr || !only_use(graph, value) || rank(slice->input(0)) != 3 || slice->input_count() < 4)
        return nullptr;
    const auto first = scalar(slice->input(1)), end = scalar(slice->input(2)), axis = scalar(slice->input(3));
    const bool steps = slice->input_count() > 4 && slice->input(4) != nullptr && !is_scalar(slice->input(4), 1);
    if (!first || *first < 0 || !end || !axis || (*axis != 2 && *axis != -1) || steps) return nullptr;
    return slice;
}

}  // namespace

int slice_attention(Graph& graph) {
    int changes = 0;
    for (Node* attention : nodes_of(graph, {"Attention"})) {
        if (attention->outputs().size() != 1 || !attention->output()->has_static_shape()) continue;
        std::vector<Node*> nodes;
        for (int i = 0; i < 3; ++i)
            if (Node* slice = columns(graph, attention->input(i))) nodes.push_back(slice);
        if (nodes.empty()) continue;
        nodes.push_back(attention);
        make_region(graph, nodes, *attention, "attention");
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
