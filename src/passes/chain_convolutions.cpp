// Chain convolutions: expand -> depthwise -> project becomes one Region node, whose body is the convolutions' nodes.
//
//   P = Conv(x), D = Conv(P) {group = channels}, y = Conv1x1(D)   ->   y = Region(x) { P, D, Conv1x1 }
//
// A depthwise convolution does little with much memory, so a backend that computes the three by bands of rows saves
// the writing and reading of two images. P may be any ungrouped convolution; P or the last convolution may be absent.
// A backend that does not gain by it dissolves the region and finds the convolutions' own regions again.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

enum class Kind : uint8_t { other, ungrouped, pointwise, depthwise };

struct Link {
    Kind kind = Kind::other;
    const Value* carried = nullptr;  // what the convolution reads, as the node's own input
};

/// A Conv, alone or with its epilogue, of float32 images of known sizes.
Link link_of(const Node& node) {
    const Node* conv = &node;
    const Graph* body = nullptr;
    if (node.is("Region", "planish")) {
        if (node.text("kind") != "conv") return {};
        body = node.subgraph("body").get();
        conv = body->nodes().front().get();
    }
    if (!conv->is("Conv") || node.outputs().size() != 1) return {};
    const Value *x = conv->input(0), *w = conv->input(1);
    if (x->type.dtype != DType::f32 || !x->has_static_shape() || !w->has_static_shape()) return {};
    Link link;
    link.carried = x;
    if (body != nullptr) {
        const auto& inputs = body->inputs();
        const auto at = std::find(inputs.begin(), inputs.end(), x);
        if (at == inputs.end()) return {};
        link.carried = node.input(static_cast<int>(at - inputs.begin()));
    }
    const Dims weights = w->dims(), image = x->dims();
    const int64_t groups = conv->integer("group");
    const auto ones = [](const auto& values) {
        return std::all_of(values.begin(), values.end(), [](int64_t v) { return v == 1; });
    };
    if (groups == image[1] && groups == weights[0] && groups > 1)
        link.kind = Kind::depthwise;
    else if (groups == 1)
        link.kind = ones(Dims(weights.begin() + 2, weights.end())) && ones(conv->integers("strides")) ? Kind::pointwise
                                                                                                      : Kind::ungrouped;
    return link;
}

}  // namespace

int chain_convolutions(Graph& graph) {
    std::vector<Node*> anchors = graph.node_list();
    std::erase_if(anchors, [](const Node* node) { return link_of(*node).kind != Kind::depthwise; });
    int changes = 0;
    for (Node* node : anchors) {
        const Link depthwise = link_of(*node);
        std::vector<Node*> chain{node};
        if (Node* before = depthwise.carried->producer; before != nullptr && only_use(graph, depthwise.carried)) {
            const Kind kind = link_of(*before).kind;
            if (kind == Kind::pointwise || kind == Kind::ungrouped) chain.insert(chain.begin(), before);
        }
        if (const Value* result = node->output(); only_use(graph, result)) {
            Node* after = result->uses[0].node;
            const Link link = link_of(*after);
            if (link.kind == Kind::pointwise && link.carried == result) chain.push_back(after);
        }
        if (chain.size() < 2) continue;
        make_region(graph, chain, *node, "conv_chain");
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
