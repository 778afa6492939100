// Simplify identities: an op that returns its input unchanged is removed; chains of reshapes become one.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// Equal shapes of which every size is certain (fresh unknowns never compare equal).
bool keeps_shape(const Node& node) {
    return same_shape(node.input(0), node.output());
}

bool is_zero_list(const Value* value) {
    const auto list = integers(value);
    return list && std::all_of(list->begin(), list->end(), [](int64_t v) { return v == 0; });
}

bool is_one_list(const Value* value) {
    const auto list = integers(value);
    return list && std::all_of(list->begin(), list->end(), [](int64_t v) { return v == 1; });
}

/// The input that a node's only output equals, else null.
Value* equals_input(const Graph& graph, const Node& node) {
    const std::string_view op = node.op().name;
    Value* x = node.input(0);
    if (!node.op().domain.empty() || node.output() == nullptr) return nullptr;
    if (op == "Dropout") {
        // Inference: y = x. The mask, when somebody reads it, keeps the node.
        const Value* mask = node.output(1);
        if (mask != nullptr && (!mask->uses.empty() || graph.is_output(mask))) return nullptr;
        const Value* training = node.input(2);
        return training == nullptr || (training->is_constant() && training->constant->at_int64(0) == 0) ? x : nullptr;
    }
    if (node.outputs().size() != 1) return nullptr;
    if (op == "Identity") return x;
    if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Expand")
        return keeps_shape(node) ? x : nullptr;
    if (op == "Transpose") {
        const std::vector<int64_t>& perm = node.integers("perm");
        if (perm.empty()) return nullptr;
        return std::is_sorted(perm.begin(), perm.end()) ? x : nullptr;
    }
    if (op == "Cast") return static_cast<int64_t>(x->type.dtype) == node.integer("to") ? x : nullptr;
    if (op == "CastLike") return x->type.dtype == node.output()->type.dtype ? x : nullptr;
    if (op == "Slice")
        return keeps_shape(node) && (node.input(4) == nullptr || is_one_list(node.input(4))) ? x : nullptr;
    if (op == "Pad") return is_zero_list(node.input(1)) ? x : nullptr;
    if (op == "Tile") return is_one_list(node.input(1)) ? x : nullptr;
    if (op == "Concat" || op == "Sum" || op == "Max" || op == "Min" || op == "Mean")
        return node.input_count() == 1 ? x : nullptr;
    if (op == "Split") return x;
    // x + 0, x - 0, x * 1, x / 1, x ^ 1 where the other side does not broadcast x.
    const double neutral = op == "Add" || op == "Sub" ? 0 : 1;
    if (op == "Add" || op == "Mul" || op == "Sub" || op == "Div" || op == "Pow") {
        if (is_float(x->type.dtype) || is_integer(x->type.dtype)) {
            if (uniform(node.input(1)) == neutral && keeps_shape(node)) return x;
            if ((op == "Add" || op == "Mul") && uniform(x) == neutral && same_shape(node.input(1), node.output()))
                return node.input(1);
        }
    }
    return nullptr;
}

bool only_reshapes(const Node& node) {
    return node.is("Reshape") || node.is("Flatten") || node.is("Squeeze") || node.is("Unsqueeze");
}

/// Reshape(Reshape(x)) = Reshape(x), the target written with numbers and at most one -1.
bool merge_reshapes(Graph& graph, Node* node) {
    if (!only_reshapes(*node)) return false;
    Node* first = node->input(0)->producer;
    if (first == nullptr || !only_reshapes(*first) || !node->output()->type.shape) return false;
    std::vector<int64_t> target;
    int inferred = 0;
    for (const Dim& d : *node->output()->type.shape) {
        const auto number = d.value();
        if (number && *number <= 0) return false;
        inferred += number ? 0 : 1;
        target.push_back(number.value_or(-1));
    }
    if (inferred > 1) return false;
    Node* merged = graph.add_node("Reshape", {first->input(0), make_integers(graph, target, node->name + "_shape")}, {},
                                  1, node->name, node);
    merged->origins = origins_of(*node);
    add_origins(merged, {first});
    replace(graph, node, merged->output());
    return true;
}

}  // namespace

int simplify_identities(Graph& graph) {
    int changes = 0;
    for (Node* node : graph.node_list()) {
        if (Value* same = equals_input(graph, *node)) {
            // Between an input or constant and a graph output one node has to stay.
            const bool needed = graph.is_output(node->output()) && (same->producer == nullptr || graph.is_output(same));
            if (needed && node->is("Identity")) continue;
            if (needed) {
                Node* copy = graph.add_node("Identity", {same}, {}, 1, node->name, node);
                copy->origins = origins_of(*node);
                same = copy->output();
            }
            replace(graph, node, same);
            ++changes;
        } else if (merge_reshapes(graph, node)) {
            ++changes;
        }
    }
    return changes;
}

}  // namespace planish::passes
