// Simplify transposes: transposes move down through element-wise ops and products until they meet, compose and cancel.
#include <algorithm>
#include <numeric>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

using Perm = std::vector<int64_t>;

std::optional<Perm> perm_of(const Node* transpose) {
    Perm perm = transpose->integers("perm");
    if (!perm.empty()) return perm;
    const auto r = rank(transpose->input(0));
    if (!r) return std::nullopt;
    perm.resize(static_cast<size_t>(*r));
    std::iota(perm.rbegin(), perm.rend(), 0);
    return perm;
}

/// Transpose(Transpose(x, p), q) = Transpose(x, p∘q); the identity vanishes.
bool compose(Graph& graph, Node* node) {
    Node* first = producer(node->input(0), "Transpose");
    if (!node->is("Transpose") || first == nullptr) return false;
    const auto p = perm_of(first), q = perm_of(node);
    if (!p || !q) return false;
    Perm both;
    for (int64_t axis : *q) both.push_back((*p)[static_cast<size_t>(axis)]);
    Value* x = first->input(0);
    if (std::is_sorted(both.begin(), both.end()) &&
        !(graph.is_output(node->output()) && (x->producer == nullptr || graph.is_output(x)))) {
        replace(graph, node, x);
        return true;
    }
    Node* merged = graph.add_node("Transpose", {x}, {{"perm", both}}, 1, node->name, node);
    merged->origins = origins_of(*node);
    add_origins(merged, {first});
    replace(graph, node, merged->output());
    return true;
}

/// The shape of `constant` before `perm`, when at most one of its axes is longer than 1: it is reshaped, not moved.
std::optional<Dims> shape_before(const Tensor& constant, const Perm& perm) {
    if (constant.rank() > static_cast<int64_t>(perm.size())) return std::nullopt;
    if (constant.size() == 1) return constant.dims();
    const size_t lead = perm.size() - constant.dims().size();
    Dims dims(perm.size(), 1);
    int long_axes = 0;
    for (size_t i = 0; i < constant.dims().size(); ++i) {
        dims[static_cast<size_t>(perm[lead + i])] = constant.dims()[i];
        long_axes += constant.dims()[i] != 1;
    }
    if (long_axes != 1) return std::nullopt;
    dims.erase(dims.begin(), std::find_if(dims.begin(), dims.end(), [](int64_t d) { return d != 1; }));
    return dims;
}

/// An image that others read too than `reader`, made by a convolution: it lies channels-last, so that the inverse of a
/// transpose from [N, ..., C] moves nothing.
bool is_shared_image(const Graph& graph, const Value* value, const Node* reader, const Perm& perm) {
    if (producer(value, "Conv") == nullptr || only_use(graph, value) || !same_shape(value, reader->output()))
        return false;
    for (size_t i = 1; i < perm.size(); ++i)
        if (perm[i] != static_cast<int64_t>(i == 1 ? perm.size() : i) - 1) return false;
    return perm.size() >= 3 && perm[0] == 0;
}

/// f(Transpose(x), Transpose(y), constant) = Transpose(f(x, y, constant)) for element-wise f and one perm. Transposes
/// that others read too stay for them: with one that nobody else reads there are no more than before. A convolution's
/// image counts as the transpose of its memory.
bool move_down(Graph& graph, Node* node) {
    if (!has(node->op().traits, Trait::elementwise) || !node->op().domain.empty() || node->outputs().size() != 1)
        return false;
    std::optional<Perm> perm;
    bool one_vanishes = false;
    for (const Value* input : node->inputs()) {
        if (input == nullptr || input->is_constant()) continue;
        const Node* transpose = producer(input, "Transpose");
        if (transpose == nullptr) continue;
        const auto p = perm_of(transpose);
        if (!p || (perm && *perm != *p)) return false;
        perm = p;
        one_vanishes =
            one_vanishes || (!graph.is_output(input) && std::all_of(input->uses.begin(), input->uses.end(),
                                                                    [&](const Use& u) { return u.node == node; }));
    }
    if (!one_vanishes) return false;
    for (const Value* input : node->inputs()) {
        if (input == nullptr || producer(input, "Transpose") != nullptr) continue;
        if (input->is_constant() ? !shape_before(*input->constant, *perm) : !is_shared_image(graph, input, node, *perm))
            return false;
    }
    if (rank(node->output()) != static_cast<int64_t>(perm->size())) return false;
    const auto inverse = [&](Value* image) {
        Perm back(perm->size());
        for (size_t i = 0; i < back.size(); ++i) back[static_cast<size_t>((*perm)[i])] = static_cast<int64_t>(i);
        return graph.add_node("Transpose", {image}, {{"perm", back}}, 1, image->name + "_transpose", node)->output();
    };
    std::vector<Value*> operands;
    for (Value* input : node->inputs()) {
        const Node* transpose = producer(input, "Transpose");
        if (input != nullptr && input->is_constant()) {
            const Dims dims = *shape_before(*input->constant, *perm);
            const bool same = dims == input->constant->dims();
            operands.push_back(same ? input
                                    : graph.add_constant(input->name + "_moved", input->constant->reshaped(dims)));
        } else {
            operands.push_back(input == nullptr       ? nullptr
                               : transpose != nullptr ? transpose->input(0)
                                                      : inverse(input));
        }
    }
    Node* moved = graph.add_node(node->op().name, operands, node->attributes, 1, node->name, node);
    moved->origins = origins_of(*node);
    Node* transpose =
        graph.add_node("Transpose", {moved->output()}, {{"perm", *perm}}, 1, node->name + "_transpose", node);
    transpose->origins = moved->origins;
    replace(graph, node, transpose->output());
    return true;
}

/// MatMul(Transpose(x), W) = Transpose(MatMul(x, W)) for a matrix W and a perm that keeps the last axis.
bool move_below_product(Graph& graph, Node* node) {
    if (!node->is("MatMul") || !node->input(1)->is_constant() || node->input(1)->constant->rank() != 2) return false;
    const Node* transpose = producer(node->input(0), "Transpose");
    if (transpose == nullptr || !only_use(graph, node->input(0))) return false;
    const auto perm = perm_of(transpose);
    if (!perm || perm->size() < 3 || perm->back() != static_cast<int64_t>(perm->size()) - 1) return false;
    Node* product = graph.add_node("MatMul", {transpose->input(0), node->input(1)}, {}, 1, node->name, node);
    product->origins = origins_of(*node);
    Node* moved =
        graph.add_node("Transpose", {product->output()}, {{"perm", *perm}}, 1, node->name + "_transpose", node);
    moved->origins = product->origins;
    replace(graph, node, moved->output());
    return true;
}

}  // namespace

int simplify_transposes(Graph& graph) {
    int changes = 0;
    for (int round = -1; round != changes;) {
        round = changes;
        for (Node* node : graph.node_list())
            changes += compose(graph, node) || move_down(graph, node) || move_below_product(graph, node) ? 1 : 0;
    }
    return changes;
}

}  // namespace planish::passes
