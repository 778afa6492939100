// Eliminate dead code: a node or constant that no output depends on is erased.
#include <algorithm>

#include "passes/pass.hpp"

namespace planish::passes {

int eliminate_dead_code(Graph& graph) {
    int changes = 0;
    const auto used = [&](const Value* v) { return v != nullptr && (!v->uses.empty() || graph.is_output(v)); };
    // Backwards, so that a producer is seen after its last reader has gone.
    std::vector<Node*> nodes = graph.node_list();
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
        const auto outputs = (*it)->outputs();
        if (std::any_of(outputs.begin(), outputs.end(), used)) continue;
        graph.erase(*it);
        ++changes;
    }
    for (Value* value : graph.values()) {
        if (!value->is_constant() || used(value)) continue;
        graph.erase_constant(value);
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
