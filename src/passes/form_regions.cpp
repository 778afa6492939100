// Form regions: a convolution or matrix product with the point-wise chain behind it, and point-wise expressions, become
// one Region node each: what a backend runs as one kernel.
//
// Inside a body, constants of one element are constants of the body; every other value that the ops read is an input
// of the region, weights included.
#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

constexpr size_t kMaxNodes = 24;    // of a point-wise expression: beyond it registers run out, not memory traffic
constexpr size_t kMaxOperands = 8;  // tensors that one kernel reads beside its main input

constexpr std::string_view kUnary[] = {
    "Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid",  "Swish", "Gelu", "Tanh",
    "Elu",  "Celu", "Selu",      "Softplus",    "Mish",      "Softsign", "Exp",   "Log",  "Sqrt",
    "Erf",  "Abs",  "Neg",       "Reciprocal",  "Floor",     "Ceil",     "Round",
};
constexpr std::string_view kBinary[] = {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"};
constexpr std::string_view kOthers[] = {"Pow", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
                                        "And", "Or",    "Xor",  "Not",         "Where",   "Cast",
                                        "Sum"};

bool is_one_of(const Node& node, std::span<const std::string_view> ops) {
    return node.op().domain.empty() && std::find(ops.begin(), ops.end(), node.op().name) != ops.end();
}

bool is_float32(const Value* value) {
    return value != nullptr && value->type.dtype == DType::f32;
}

/// float32 arithmetic is exact on these.
bool is_plain(const Value* value) {
    return value == nullptr || value->type.dtype == DType::f32 || value->type.dtype == DType::boolean;
}

/// The nodes of one region, in topological order. The last one's output is the region's.
struct Group {
    std::vector<Node*> nodes;
    const Node* root = nullptr;  // names the region
    std::string_view kind;
};

// ---- A product and its epilogue ----

/// The axis along which a per-channel operand of the root's result runs; nullopt: not a root.
std::optional<int64_t> channel_axis(const Node& node) {
    if (!is_float32(node.output()) || !node.output()->has_static_shape()) return std::nullopt;
    const auto axes = static_cast<int64_t>(node.output()->type.shape->size());
    if (node.is("Conv") || node.is("ConvTranspose")) return 1;
    if (node.is("Gemm") || node.is("MatMul")) return axes - 1;
    return std::nullopt;
}

enum class Operand : uint8_t { scalar, channel, tensor, other };

Operand operand_of(const Value* value, const Dims& out, int64_t channel) {
    if (!is_float32(value) || !value->has_static_shape()) return Operand::other;
    const Dims dims = value->dims();
    if (value->is_constant() && value->constant->size() == 1 && dims.size() <= out.size()) return Operand::scalar;
    if (dims == out) return Operand::tensor;
    if (dims.size() > out.size()) return Operand::other;
    const size_t lead = out.size() - dims.size();
    for (size_t i = 0; i < out.size(); ++i) {
        const int64_t d = i < lead ? 1 : dims[i - lead];
        if (d != (static_cast<int64_t>(i) == channel ? out[i] : 1)) return Operand::other;
    }
    return Operand::channel;
}

/// Whether `node` can follow in the epilogue of a result `current` of dims `out`.
bool extends_epilogue(const Node& node, const Value* current, const Dims& out, int64_t channel, size_t& operands) {
    if (node.outputs().size() != 1 || !is_float32(node.output()) || !node.output()->has_static_shape() ||
        node.output()->dims() != out)
        return false;
    if (is_one_of(node, kUnary)) {
        for (int i = 1; i < node.input_count(); ++i)  // Clip's bounds
            if (node.input(i) != nullptr && !scalar(node.input(i))) return false;
        return node.input(0) == current;
    }
    if (!is_one_of(node, kBinary) || node.input_count() != 2) return false;
    const bool first = node.input(0) == current;
    const std::string_view op = node.op().name;
    switch (operand_of(node.input(first ? 1 : 0), out, channel)) {
        case Operand::scalar:
            return op == "Add" || op == "Sub" || op == "Mul" || (op == "Div" && first);
        case Operand::channel:
            if (op != "Add" && op != "Mul" && !(op == "PRelu" && first)) return false;
            break;
        case Operand::tensor:
            if (op == "PRelu" || (op == "Div" && !first)) return false;
            break;
        case Operand::other:
            return false;
    }
    return ++operands <= kMaxOperands;
}

/// root -> f1 -> f2 ... while each result is read once.
Group grow_epilogue(const Graph& graph, Node* root, int64_t channel) {
    Group group{{root}, root, root->is("Conv") || root->is("ConvTranspose") ? "conv" : "matmul"};
    const Dims out = root->output()->dims();
    size_t operands = 1;
    for (const Value* current = root->output(); only_use(graph, current);) {
        Node* next = current->uses[0].node;
        if (!extends_epilogue(*next, current, out, channel, operands)) break;
        group.nodes.push_back(next);
        current = next->output();
    }
    return group;
}

// ---- Point-wise expressions ----

bool is_pointwise(const Node& node) {
    if (!is_one_of(node, kUnary) && !is_one_of(node, kBinary) && !is_one_of(node, kOthers)) return false;
    if (node.outputs().size() != 1 || !is_plain(node.output()) || !node.output()->has_static_shape()) return false;
    if (node.is("Cast")) return is_float32(node.output());  // converts while it loads
    return std::all_of(node.inputs().begin(), node.inputs().end(), is_plain);
}

/// The largest expression ending in `sink` of which every other result is read only inside it. Results smaller than
/// the sink's would be computed again for each element that they broadcast to: they stay outside.
Group grow_pointwise(const Graph& graph, Node* sink, const std::unordered_map<const Node*, size_t>& order,
                     const std::unordered_set<const Node*>& taken) {
    std::unordered_set<const Node*> inside{sink};
    std::vector<Node*> members{sink};
    const Dims out = sink->output()->dims();
    for (bool grew = true; grew && members.size() < kMaxNodes;) {
        grew = false;
        for (size_t m = 0; m < members.size() && members.size() < kMaxNodes; ++m) {
            if (members[m]->is("Cast")) continue;
            for (const Value* input : members[m]->inputs()) {
                Node* p = input != nullptr ? input->producer : nullptr;
                if (p == nullptr || inside.contains(p) || taken.contains(p) || !is_pointwise(*p) ||
                    graph.is_output(input) || input->dims() != out || members.size() == kMaxNodes)
                    continue;
                if (!std::all_of(input->uses.begin(), input->uses.end(),
                                 [&](const Use& u) { return inside.contains(u.node); }))
                    continue;
                // Each new member may bring tensors of its own.
                std::unordered_set<const Value*> operands;
                inside.insert(p);
                members.push_back(p);
                for (const Node* n : members)
                    for (const Value* v : n->inputs())
                        if (v != nullptr && !(v->is_constant() && v->constant->size() == 1) &&
                            !inside.contains(v->producer))
                            operands.insert(v);
                if (operands.size() > kMaxOperands) {
                    inside.erase(p);
                    members.pop_back();
                    continue;
                }
                grew = true;
            }
        }
    }
    std::sort(members.begin(), members.end(), [&](const Node* a, const Node* b) { return order.at(a) < order.at(b); });
    return {members, sink, "pointwise"};
}

}  // namespace

int form_regions(Graph& graph) {
    int changes = 0;
    // The later of two convolutions that meet in an Add takes it: the other's result is there by then.
    std::vector<Node*> nodes = graph.node_list();
    std::unordered_set<const Node*> taken;
    std::vector<Group> groups;
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
        const auto channel = channel_axis(**it);
        if (!channel) continue;
        Group group = grow_epilogue(graph, *it, *channel);
        for (size_t i = 1; i < group.nodes.size(); ++i)
            if (taken.contains(group.nodes[i])) group.nodes.resize(i);
        taken.insert(group.nodes.begin(), group.nodes.end());
        if (group.nodes.size() > 1) groups.push_back(std::move(group));
    }
    std::unordered_map<const Node*, size_t> order;
    for (size_t i = 0; i < nodes.size(); ++i) order[nodes[i]] = i;
    for (auto it = nodes.rbegin(); it != nodes.rend(); ++it) {
        if (taken.contains(*it) || !is_pointwise(**it)) continue;
        Group group = grow_pointwise(graph, *it, order, taken);
        taken.insert(group.nodes.begin(), group.nodes.end());
        if (group.nodes.size() > 1) groups.push_back(std::move(group));
    }
    for (const Group& group : groups) {
        make_region(graph, group.nodes, *group.root, group.kind);
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
