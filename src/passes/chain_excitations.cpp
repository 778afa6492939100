// Chain excitations: the two 1x1 convolutions of a squeeze-and-excitation block (Hu, Shen, Sun, "Squeeze-and-Excitation
// Networks", 2018) and the product with the image become one Region node, whose body is the three.
//
//   h = Conv1x1(s), g = Conv1x1(h), y = Mul(x, g)   ->   y = Region(s, x) { h, g, y }     s: [N, C, 1, 1]
//
// Each of the convolutions has next to nothing to do; what they cost on a GPU is their launch. A backend that does not
// gain by it dissolves the region and finds the three again.
#include "passes/convolution_link.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// A 1x1 convolution of a single pixel that nobody else reads.
Node* layer(const Graph& graph, const Value* value) {
    Node* node = value->producer;
    if (node == nullptr || !only_use(graph, value)) return nullptr;
    const ConvolutionLink link = convolution_link(*node);
    if (link.kind != ConvolutionLink::Kind::pointwise) return nullptr;
    const Dims dims = value->dims();
    return dims.size() == 4 && dims[2] * dims[3] == 1 ? node : nullptr;
}

}  // namespace

int chain_excitations(Graph& graph) {
    int changes = 0;
    for (Node* product : graph.node_list()) {
        if (!product->is("Mul") || !product->output()->has_static_shape()) continue;
        for (const int side : {1, 0}) {
            const Value* gate = product->input(side);
            if (!gate->has_static_shape() || product->input(1 - side)->type != product->output()->type) continue;
            Node* second = layer(graph, gate);
            Node* first = second != nullptr ? layer(graph, convolution_link(*second).carried) : nullptr;
            if (first == nullptr) continue;
            make_region(graph, std::array{first, second, product}, *product, "excitation");
            ++changes;
            break;
        }
    }
    return changes;
}

}  // namespace planish::passes
