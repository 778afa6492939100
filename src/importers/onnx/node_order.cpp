// Free names by recursion over subgraphs; order by depth-first search.
#include "importers/onnx/node_order.hpp"

#include <unordered_map>
#include <unordered_set>

#include "planish/error.hpp"

namespace planish::onnx_import {
namespace {

template <typename F>
void for_each_graph(const pb::NodeProto& node, F&& visit) {
    for (const auto& attribute : node.attribute()) {
        if (attribute.has_g()) visit(attribute.g());
        for (const auto& graph : attribute.graphs()) visit(graph);
    }
}

}  // namespace

std::vector<std::string> free_names(const pb::GraphProto& graph) {
    std::unordered_set<std::string> known;  // defined here, or listed already
    for (const auto& input : graph.input()) known.insert(input.name());
    for (const auto& tensor : graph.initializer()) known.insert(tensor.name());
    for (const auto& tensor : graph.sparse_initializer()) known.insert(tensor.values().name());
    for (const auto& node : graph.node())
        for (const auto& output : node.output()) known.insert(output);
    known.insert("");

    std::vector<std::string> names;
    auto use = [&](const std::string& name) {
        if (known.insert(name).second) names.push_back(name);
    };
    for (const auto& node : graph.node()) {
        for (const auto& input : node.input()) use(input);
        for_each_graph(node, [&](const pb::GraphProto& body) {
            for (const auto& name : free_names(body)) use(name);
        });
    }
    for (const auto& output : graph.output()) use(output.name());
    return names;
}

std::vector<const pb::NodeProto*> in_order(const google::protobuf::RepeatedPtrField<pb::NodeProto>& nodes) {
    const int count = nodes.size();
    std::unordered_map<std::string, int> producer;
    for (int i = 0; i < count; ++i)
        for (const auto& output : nodes.Get(i).output())
            if (!output.empty()) producer.emplace(output, i);

    std::vector<std::vector<int>> needs(static_cast<size_t>(count));
    bool sorted = true;
    for (int i = 0; i < count; ++i) {
        auto need = [&](const std::string& name) {
            const auto it = producer.find(name);
            if (it == producer.end()) return;
            needs[static_cast<size_t>(i)].push_back(it->second);
            sorted = sorted && it->second < i;
        };
        for (const auto& input : nodes.Get(i).input()) need(input);
        for_each_graph(nodes.Get(i), [&](const pb::GraphProto& body) {
            for (const auto& name : free_names(body)) need(name);
        });
    }
    std::vector<const pb::NodeProto*> order;
    order.reserve(static_cast<size_t>(count));
    if (sorted) {
        for (const auto& node : nodes) order.push_back(&node);
        return order;
    }
    enum class Mark : uint8_t { unseen, open, done };
    std::vector<Mark> marks(static_cast<size_t>(count), Mark::unseen);
    std::vector<std::pair<int, size_t>> stack;  // node and its next need
    for (int seed = 0; seed < count; ++seed) {
        if (marks[static_cast<size_t>(seed)] != Mark::unseen) continue;
        stack.emplace_back(seed, 0);
        marks[static_cast<size_t>(seed)] = Mark::open;
        while (!stack.empty()) {
            auto& [node, next] = stack.back();
            const auto& list = needs[static_cast<size_t>(node)];
            if (next == list.size()) {
                marks[static_cast<size_t>(node)] = Mark::done;
                order.push_back(&nodes.Get(node));
                stack.pop_back();
                continue;
            }
            const int needed = list[next++];
            Mark& mark = marks[static_cast<size_t>(needed)];
            if (mark == Mark::open) {
                const auto& n = nodes.Get(needed);
                fail(ErrorCode::invalid_model,
                     "node '" + (n.name().empty() && n.output_size() > 0 ? n.output(0) : n.name()) + "' (" +
                         n.op_type() + ") needs its own result",
                     "the model has a circle: export it again");
            }
            if (mark == Mark::unseen) {
                mark = Mark::open;
                stack.emplace_back(needed, 0);
            }
        }
    }
    return order;
}

}  // namespace planish::onnx_import
