// RegionView: roots, and values seen through the region's boundary.
#include "backends/region.hpp"

#include <algorithm>

namespace planish {

RegionView::RegionView(const Node& node, const RegionView* outer) : node_(&node), root_(&node), outer_(outer) {
    if (!node.is("Region", "planish")) return;
    body_ = node.subgraph("body").get();
    // The root is the op that is more than point-wise, or the attention behind its slices; a purely point-wise region
    // is rooted at its first op.
    root_ = body_->nodes().front().get();
    if (node.text("kind") == "attention") {
        root_ = body_->nodes().back().get();
        return;
    }
    for (const auto& inner : body_->nodes()) {
        if (has(inner->op().traits, Trait::elementwise)) continue;
        root_ = inner.get();
        break;
    }
}

int RegionView::input_index(const Value* value) const {
    if (body_ == nullptr) {
        const auto inputs = node_->inputs();
        const auto it = std::find(inputs.begin(), inputs.end(), value);
        return it == inputs.end() ? -1 : static_cast<int>(it - inputs.begin());
    }
    const auto& inputs = body_->inputs();
    const auto it = std::find(inputs.begin(), inputs.end(), value);
    return it == inputs.end() ? -1 : static_cast<int>(it - inputs.begin());
}

std::shared_ptr<const Tensor> RegionView::constant(const Value* value) const {
    if (value == nullptr) return nullptr;
    if (value->is_constant()) return value->constant;
    const int i = input_index(value);
    const Value* input = i >= 0 ? node_->input(i) : nullptr;
    if (input == nullptr || input->is_constant()) return input ? input->constant : nullptr;
    return outer_ ? outer_->constant(input) : nullptr;
}

bool is_f32(const Value* value) {
    return value == nullptr || value->type.dtype == DType::f32;
}

bool uses_later_outputs(const Node& node) {
    for (size_t i = 1; i < node.outputs().size(); ++i) {
        const Value* output = node.outputs()[i];
        if (output && (!output->uses.empty() || node.graph().is_output(output))) return true;
    }
    return false;
}

Layouts plain_layouts(const RegionView& region, std::span<const Layout>) {
    return {std::vector<Layout>(region.node().inputs().size(), Layout::plain),
            std::vector<Layout>(region.node().outputs().size(), Layout::plain)};
}

Layouts following_layouts(const RegionView& region, std::span<const Layout> available) {
    const Node& node = region.node();
    const size_t rank = region.output().dims().size();
    bool last = false;
    for (size_t i = 0; i < available.size(); ++i) {
        const Value* input = node.inputs()[i];
        if (input == nullptr || input->is_constant() || layouts_coincide(input->dims())) continue;
        last = last || (available[i] == Layout::channels_last && input->dims().size() == rank);
    }
    const Layout layout = last && rank >= 3 ? Layout::channels_last : Layout::plain;
    Layouts result = plain_layouts(region, available);
    for (size_t i = 0; i < available.size(); ++i)
        if (node.inputs()[i] != nullptr && node.inputs()[i]->dims().size() == rank) result.inputs[i] = layout;
    for (size_t i = 0; i < result.outputs.size(); ++i)
        if (node.outputs()[i]->dims().size() == rank) result.outputs[i] = layout;
    return result;
}

bool is_alias(const Node& node) {
    if (!node.op().domain.empty()) return false;
    for (std::string_view op : {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
        if (node.op().name == op) return true;
    return false;
}

std::optional<Layout> transpose_alias(const Node& node, Layout input) {
    if (!node.is("Transpose")) return std::nullopt;
    std::vector<int64_t> perm = node.integers("perm");
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const auto rank = static_cast<int64_t>(in.size());
    if (perm.empty())
        for (int64_t i = rank; i-- > 0;) perm.push_back(i);
    // Axes of length 1 lie anywhere: compare the order of the others in memory.
    auto order = [&](Layout layout, bool result) {
        std::vector<int64_t> axes(in.size());
        for (int64_t i = 0; i < rank; ++i)
            axes[static_cast<size_t>(physical_axis(i, rank, layout))] = result ? perm[static_cast<size_t>(i)] : i;
        std::erase_if(axes, [&](int64_t a) { return in[static_cast<size_t>(a)] == 1; });
        return axes;
    };
    const auto lies = order(input, false);
    for (const Layout layout : {Layout::plain, Layout::channels_last})
        if (order(layout, true) == lies) return layout;
    return std::nullopt;
}

std::vector<std::string> layers_of(const Node& node) {
    return node.origins.empty() ? std::vector<std::string>{node.name} : node.origins;
}

namespace {

void append_ops(const Graph& body, std::string& op) {
    for (const auto& node : body.nodes()) {
        if (const RegionView inner(*node); inner.has_body())
            append_ops(inner.body(), op);
        else
            op += (op.empty() ? "" : "+") + std::string(node->op().name);
    }
}

}  // namespace

std::string op_of(const RegionView& region) {
    if (!region.has_body()) return std::string(region.node().op().name);
    std::string op;
    if (region.node().text("kind") == "quantized") {
        // What is computed, and not how it is stored at its borders.
        bool floats = false;
        for (const auto& node : region.body().nodes()) {
            const bool decodes = node->is("DequantizeLinear");
            if (!decodes && !node->is("QuantizeLinear"))
                op += op_of(RegionView(*node, &region));
            else
                floats = (decodes ? node->input(0) : node->output())->type.dtype == DType::f8e4m3fn || floats;
        }
        return op + (floats ? " fp8" : " int8");
    }
    append_ops(region.body(), op);
    return op;
}

}  // namespace planish
