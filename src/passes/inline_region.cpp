// Dissolving a region into its ops.
#include "passes/inline_region.hpp"

#include <unordered_map>

#include "planish/error.hpp"

namespace planish::passes {

std::vector<Node*> inline_region(Graph& graph, Node* region) {
    if (!region->is("Region", "planish")) fail(ErrorCode::internal, "node '" + region->name + "' is not a region");
    const GraphPtr body = region->subgraph("body");
    std::unordered_map<const Value*, Value*> map;
    for (size_t i = 0; i < body->inputs().size(); ++i) map[body->inputs()[i]] = region->input(static_cast<int>(i));
    for (const Value* value : body->values())
        if (value->is_constant()) map[value] = graph.add_constant(value->name, *value->constant);
    std::vector<Node*> made;
    for (const auto& node : body->nodes()) {
        std::vector<Value*> inputs;
        for (const Value* input : node->inputs()) inputs.push_back(input ? map.at(input) : nullptr);
        std::vector<std::string> names;
        for (const Value* output : node->outputs()) names.push_back(output ? output->name : "");
        Node* copy =
            graph.add_node(node->op().name, std::move(inputs), node->attributes,
                           static_cast<int>(node->outputs().size()), node->name, region, node->op().domain, names);
        copy->origins = node->origins;
        for (size_t i = 0; i < node->outputs().size(); ++i)
            if (node->outputs()[i]) map[node->outputs()[i]] = copy->output(static_cast<int>(i));
        made.push_back(copy);
    }
    for (size_t i = 0; i < body->outputs().size(); ++i)
        graph.replace_all_uses(region->output(static_cast<int>(i)), map.at(body->outputs()[i]));
    graph.erase(region);
    return made;
}

std::unique_ptr<Graph> flat_body(const Node& region) {
    std::unique_ptr<Graph> body = region.subgraph("body")->clone();
    for (Node* node : body->node_list())
        if (node->is("Region", "planish")) inline_region(*body, node);
    return body;
}

}  // namespace planish::passes
