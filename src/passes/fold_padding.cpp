// Fold padding: Conv(Pad(x, p), q) = Conv(x, p + q) for zeros around the spatial axes.
#include <algorithm>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

/// Pads of the spatial axes, begins then ends, when that is all that `pad` does.
std::optional<std::vector<int64_t>> spatial_zeros(const Node* pad) {
    const auto given = integers(pad->input(1));
    const auto r = rank(pad->input(0));
    if (!given || !r || *r < 3 || pad->text("mode") != "constant") return std::nullopt;
    if (pad->input(2) != nullptr && scalar(pad->input(2)) != 0.0) return std::nullopt;
    std::vector<int64_t> axes;
    if (pad->input(3) != nullptr) {
        const auto list = integers(pad->input(3));
        if (!list) return std::nullopt;
        axes = *list;
    } else {
        for (int64_t i = 0; i < *r; ++i) axes.push_back(i);
    }
    if (given->size() != 2 * axes.size()) return std::nullopt;
    const int64_t spatial = *r - 2;
    std::vector<int64_t> pads(static_cast<size_t>(2 * spatial), 0);
    for (size_t i = 0; i < axes.size(); ++i) {
        const int64_t axis = axes[i] < 0 ? axes[i] + *r : axes[i];
        const int64_t before = (*given)[i], after = (*given)[axes.size() + i];
        if (before < 0 || after < 0 || (axis < 2 && (before != 0 || after != 0))) return std::nullopt;
        if (axis < 2) continue;
        pads[static_cast<size_t>(axis - 2)] = before;
        pads[static_cast<size_t>(axis - 2 + spatial)] = after;
    }
    return pads;
}

}  // namespace

int fold_padding(Graph& graph) {
    int changes = 0;
    for (Node* conv : nodes_of(graph, {"Conv"})) {
        Node* pad = producer(conv->input(0), "Pad");
        if (pad == nullptr) continue;
        auto pads = spatial_zeros(pad);
        const std::string& auto_pad = conv->text("auto_pad");
        if (!pads || (auto_pad != "NOTSET" && auto_pad != "VALID")) continue;
        const std::vector<int64_t>& own = conv->integers("pads");
        if (auto_pad == "NOTSET" && !own.empty()) {
            if (own.size() != pads->size()) continue;
            std::transform(own.begin(), own.end(), pads->begin(), pads->begin(), std::plus<>());
        }
        conv->attributes.erase("auto_pad");
        conv->attributes["pads"] = *pads;
        conv->origins = origins_of(*conv);
        add_origins(conv, {pad});
        graph.set_input(conv, 0, pad->input(0));
        erase_unused(graph, pad);
        graph.infer(conv);
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
