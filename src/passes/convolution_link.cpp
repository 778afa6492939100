// Reads a convolution through its region's border.
#include "passes/convolution_link.hpp"

#include <algorithm>

namespace planish::passes {

ConvolutionLink convolution_link(const Node& node) {
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
    using Kind = ConvolutionLink::Kind;
    ConvolutionLink link;
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

}  // namespace planish::passes
