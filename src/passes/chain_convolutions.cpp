// Chain convolutions: expand -> depthwise -> project becomes one Region node, whose body is the convolutions' nodes.
//
//   P = Conv(x), D = Conv(P) {group = channels}, y = Conv1x1(D)   ->   y = Region(x) { P, D, Conv1x1 }
//
// A depthwise convolution does little with much memory, so a backend that computes the three by bands of rows saves
// the writing and reading of two images. P may be any ungrouped convolution; P or the last convolution may be absent.
// A backend that does not gain by it dissolves the region and finds the convolutions' own regions again.
#include "passes/convolution_link.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
int chain_convolutions(Graph& graph) {
    using Kind = ConvolutionLink::Kind;
    std::vector<Node*> anchors = graph.node_list();
    std::erase_if(anchors, [](const Node* node) { return convolution_link(*node).kind != Kind::depthwise; });
    int changes = 0;
    for (Node* node : anchors) {
        const ConvolutionLink depthwise = convolution_link(*node);
        std::vector<Node*> chain{node};
        if (Node* before = depthwise.carried->producer; before != nullptr && only_use(graph, depthwise.carried)) {
            const Kind kind = convolution_link(*before).kind;
            if (kind == Kind::pointwise || kind == Kind::ungrouped) chain.insert(chain.begin(), before);
        }
        if (const Value* result = node->output(); only_use(graph, result)) {
            Node* after = result->uses[0].node;
            const ConvolutionLink link = convolution_link(*after);
            if (link.kind == Kind::pointwise && link.carried == result) chain.push_back(after);
        }
        if (chain.size() < 2) continue;
        make_region(graph, chain, *node, "conv_chain");
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
