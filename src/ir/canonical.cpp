// Canonical text: the node copied into a graph whose names are numbers, printed.
#include "ir/canonical.hpp"

#include <unordered_map>

namespace planish {
namespace {

constexpr int64_t kMaxIntegers = 16;  // of a constant that steers (axes, pads): longer ones are data

/// Constants that decide what is computed rather than on what.
bool shows(const Tensor& constant) {
    return constant.size() == 1 || (!is_float(constant.dtype()) && constant.size() <= kMaxIntegers);
}

class Copier {
  public:
    explicit Copier(Graph& to) : to_(to) {}

    void read(const Value* value) {
        if (value == nullptr || map_.contains(value)) return;
        const std::string number = std::to_string(map_.size());
        if (!value->is_constant())
            map_[value] = to_.add_input("x" + number, value->type);
        else if (shows(*value->constant))
            map_[value] = to_.add_constant("c" + number, *value->constant);
        else
            map_[value] = to_.add_input("w" + number, value->type);
    }

    void copy(const Node& node);

    Value* at(const Value* value) const { return value ? map_.at(value) : nullptr; }

  private:
    Graph& to_;
    std::unordered_map<const Value*, Value*> map_;
};

GraphPtr canonical(const Graph& from) {
    auto result = std::make_shared<Graph>("");
    Copier copier(*result);
    for (const Value* input : from.inputs()) copier.read(input);
    for (const auto& node : from.nodes()) copier.copy(*node);
    for (const Value* output : from.outputs()) {
        copier.read(output);
        result->add_output(copier.at(output));
    }
    return result;
}

void Copier::copy(const Node& node) {
    std::vector<Value*> inputs;
    for (const Value* input : node.inputs()) {
        read(input);
        inputs.push_back(at(input));
    }
    Attributes attributes = node.attributes;
    for (auto& [_, attribute] : attributes)
        if (GraphPtr* body = std::get_if<GraphPtr>(&attribute)) attribute = canonical(**body);
    std::vector<std::string> names;
    for (size_t i = 0; i < node.outputs().size(); ++i) names.push_back("v" + std::to_string(map_.size() + i));
    const Node* made = to_.add_node(node.op().name, std::move(inputs), std::move(attributes),
                                    static_cast<int>(node.outputs().size()), {}, nullptr, node.op().domain, names);
    for (size_t i = 0; i < node.outputs().size(); ++i)
        if (node.outputs()[i]) map_[node.outputs()[i]] = made->output(static_cast<int>(i));
}

}  // namespace

std::string canonical_text(const Node& node) {
    Graph graph("");
    Copier copier(graph);
    copier.copy(node);
    for (const Value* output : node.outputs())
        if (output) graph.add_output(copier.at(output));
    return print(graph);
}

}  // namespace planish
