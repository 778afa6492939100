// Convolutions one behind the other as one step: an inverted residual without its expanded image in memory.
#include <fmt/format.h>

#include "backends/cpu/implementations/conv.hpp"
#include "backends/cpu/jit/row_chain.hpp"

namespace planish::cpu::families {
namespace {

// What lies between the links for one image, below which L2 holds it anyway.
constexpr int64_t kLeastBytesBetween = 1024 * 1024;

// A link as the region's own values see it.
struct LinkView {
    RegionView view;
    int input = -1;  // the link's input that carries the chain
};

std::vector<LinkView> links_of(const RegionView& region) {
    std::vector<LinkView> links;
    for (const auto& node : region.body().nodes()) {
        RegionView view(*node, &region);
        const int input = view.input_index(view.root().input(0));
        links.push_back({std::move(view), input});
    }
    return links;
}

/// The region's input behind a link's input, or -1.
int outer_input(const RegionView& region, const LinkView& link, int input) {
    return region.input_index(link.view.node().input(input));
}

Refusal can_chain(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (!region.has_body() || region.node().text("kind") != "conv_chain") return Refusal::op_not_handled;
    const auto links = links_of(region);
    if (links.size() > RowChain::kMaxLinks) return Refusal::shape_not_handled;
    const Value* carried = nullptr;
    for (const LinkView& link : links) {
        if (const Refusal r = can_convolve(link.view, environment); r != Refusal::none) return r;
        const ConvShape s = *conv_shape(link.view.root());
        if (!is_depthwise(s) && s.groups != 1) return Refusal::shape_not_handled;
        if (carried != nullptr && link.view.node().input(link.input) != carried) return Refusal::op_not_handled;
        const std::vector<int> operands = conv_epilogue(link.view)->operands;
        for (const int operand : operands)
            if (outer_input(region, link, operand) < 0) return Refusal::post_op_not_handled;
        carried = link.view.node().output();
    }
    return Refusal::none;
}

bool chain_pays(const RegionView& region) {
    int64_t between = 0;
    const auto& nodes = region.body().nodes();
    for (const auto& node : nodes) {
        if (node == nodes.back()) break;
        const Dims dims = node->output()->dims();
        between += byte_size(DType::f32, element_count(dims) / dims[0]);
    }
    return between >= kLeastBytesBetween;
}

Layouts chain_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.outputs[0] = Layout::channels_last;
    bool first = true;
    for (const LinkView& link : links_of(region)) {
        std::vector<Layout> own;
        for (int i = 0; i < link.view.node().input_count(); ++i) {
            const int outer = outer_input(region, link, i);
            own.push_back(outer < 0 ? Layout::channels_last : available[static_cast<size_t>(outer)]);
        }
        const Layouts wanted = conv_layouts(link.view, own);
        for (size_t i = 0; i < own.size(); ++i) {
            const int outer = outer_input(region, link, static_cast<int>(i));
            if (outer >= 0) result.inputs[static_cast<size_t>(outer)] = wanted.inputs[i];
        }
        const auto x = static_cast<size_t>(outer_input(region, link, link.input));
        if (first && is_depthwise(*conv_shape(link.view.root()))) result.inputs[x] = Layout::channels_last;
        first = false;
    }
    return result;
}

std::unique_ptr<Kernel> compile_chain(const RegionView& region, const Layouts& layouts,
                                      const Environment& environment) {
    struct Part {
        Tensor weights;
        std::vector<int> operands;  // PostOp::operand -> input of the region
    };
    std::vector<Part> parts;
    std::vector<ChainLink> links;
    std::vector<int> consumed;
    int x = -1;
    int64_t images = 1, flops = 0;
    std::string names;
    for (const LinkView& link : links_of(region)) {
        const Node& conv = link.view.root();
        ConvShape shape = *conv_shape(conv);
        Epilogue epilogue = *conv_epilogue(link.view);
        if (x < 0) {
            x = outer_input(region, link, link.input);
            shape.x_nchw =
                layouts.inputs[static_cast<size_t>(x)] == Layout::plain && !layouts_coincide(conv.input(0)->dims());
            images = shape.n;
        }
        shape.n = 1;
        flops += 2 * element_count(conv.output()->dims()) * shape.kh * shape.kw * (shape.c / shape.groups);
        names +=
            fmt::format("{}{}{}x{}", names.empty() ? "" : "_", is_depthwise(shape) ? "dw" : "", shape.kh, shape.kw);
        Part part;
        if (is_depthwise(shape)) {
            auto plan = std::make_shared<const DepthwisePlan>(depthwise_shape(shape), epilogue.ops, environment.isa);
            part.weights = packed_weights(link.view, *plan, environment);
            links.push_back({std::move(plan), epilogue.ops});
        } else {
            auto plan = std::make_shared<const ConvPlan>(shape, epilogue.ops, environment.isa, PanelWidth{},
                                                         ConvPlan::Order::rows);
            part.weights = packed_weights(link.view, *plan, environment);
            links.push_back({std::move(plan), epilogue.ops});
        }
        for (const int operand : epilogue.operands) part.operands.push_back(outer_input(region, link, operand));
        consumed.push_back(outer_input(region, link, link.view.input_index(conv.input(1))));
        parts.push_back(std::move(part));
    }
    auto chain = std::make_shared<const RowChain>(std::move(links));
    auto kernel =
        make_kernel(fmt::format("chain_f32_{}_r{}_{}", names, chain->band_rows(), to_string(environment.isa)),
                    [chain, parts, x, images](const Launch& launch) {
                        const float* operands[RowChain::kMaxLinks][RowChain::kMaxOperands];
                        LinkArgs args[RowChain::kMaxLinks];
                        for (size_t i = 0; i < parts.size(); ++i) {
                            for (size_t o = 0; o < parts[i].operands.size(); ++o)
                                operands[i][o] = launch.f32(parts[i].operands[o]);
                            args[i] = {parts[i].weights.data<float>().data(), {operands[i], parts[i].operands.size()}};
                        }
                        chain->run(launch.f32(x), launch.out_f32(), images, {args, parts.size()}, launch.workspace,
                                   *launch.pool, launch.threads);
                    });
    kernel->workspace = chain->workspace(environment.threads);
    kernel->flops = flops;
    kernel->consumed = std::move(consumed);
    return kernel;
}

}  // namespace

const Implementation kConvChain{"conv_chain", can_chain, chain_layouts, compile_chain, chain_pays};

}  // namespace planish::cpu::families
