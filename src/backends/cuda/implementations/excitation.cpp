// The convolutions of squeeze-and-excitation blocks and the product with the image: kernels/excitation.cuh.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/implementations/depthwise.hpp"
#include "backends/cuda/kernels/excitation_params.h"

namespace planish::cuda {
namespace {

constexpr int kMostUnits = 8;
constexpr int64_t kMostHidden = 256, kMostChannels = 4096;  // what a block's shared memory and registers take

/// One of the two convolutions. Inputs are the region's.
struct Layer {
    ConvShape shape;
    EpilogueCode epilogue;
    std::vector<int> operands;  // of the epilogue
    int weights = -1, carried = -1;
};

struct Excitation {
    Layer first, second;
    int image = -1;
};

std::optional<Layer> read_layer(const RegionView& region, const Node& node, const Environment& environment) {
    const RegionView view(node, &region);
    const auto shape = conv_shape(view.root());
    if (!shape || !shape->is_pointwise()) return std::nullopt;
    const auto outer = [&](int inner) { return region.input_index(node.input(inner)); };
    const auto bias = optional_input(view, view.root().input(2));
    if (!bias) return std::nullopt;
    auto epilogue = read_epilogue(view, 1, environment, *bias >= 0 ? bias : std::nullopt);
    if (!epilogue || epilogue->tensors() > 0) return std::nullopt;
    Layer layer{*shape, std::move(*epilogue), {}, outer(view.input_index(view.root().input(1))), -1};
    if (const int x = view.input_index(view.root().input(0)); x >= 0) layer.carried = outer(x);
    for (const auto& operand : layer.epilogue.operands) layer.operands.push_back(outer(operand.input));
    const bool known = std::all_of(layer.operands.begin(), layer.operands.end(), [](int input) { return input >= 0; });
    return known && layer.weights >= 0 ? std::optional(std::move(layer)) : std::nullopt;
}

/// As passes/chain_excitations.cpp makes it.
std::optional<Excitation> read(const RegionView& region, const Environment& environment) {
    std::vector<const Node*> nodes;
    for (const auto& node : region.body().nodes()) nodes.push_back(node.get());
    auto first = read_layer(region, *nodes[0], environment), second = read_layer(region, *nodes[1], environment);
    if (!first || !second || first->carried < 0) return std::nullopt;
    const Node& product = *nodes[2];
    const int image = region.input_index(product.input(product.input(0) == nodes[1]->output() ? 1 : 0));
    if (image < 0 || image == first->carried) return std::nullopt;
    return Excitation{std::move(*first), std::move(*second), image};
}

int64_t vector_of(const Environment& environment) {
    return 16 / byte_size(environment.storage, 1);
}
/// Eight for each channel of a block: twice the registers for a thread where elements are twice as large.
int threads_of(const Environment& environment) {
    return static_cast<int>(8 * kMostUnits * vector_of(environment));
}
int64_t units_of(const Excitation& e, const Environment& environment) {
    const int64_t vectors = e.first.shape.channels / vector_of(environment);
    for (const int64_t units : {kMostUnits, 6, 4, 7, 5, 3, 2})
        if (vectors % units == 0) return units;
    return 1;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    const auto e = read(region, environment);
    if (!e) return Refusal::post_op_not_handled;
    const ConvShape& s = e->first.shape;
    if (s.channels % vector_of(environment) != 0 || s.channels > kMostChannels || s.out_channels > kMostHidden ||
        s.n > 65535)
        return Refusal::shape_not_handled;
    return Refusal::none;
}

/// Every block reads the first layer's weights.
bool pays(const RegionView& region, const Environment& environment) {
    const Excitation e = *read(region, environment);
    const ConvShape& s = e.first.shape;
    const int64_t blocks = s.n * (s.channels / vector_of(environment) / units_of(e, environment));
    return blocks * byte_size(environment.storage, s.channels * s.out_channels) <= int64_t{8} << 20;
}

Formats formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats formats = plain_formats(region, available, environment);
    const Excitation e = *read(region, environment);
    formats.inputs[static_cast<size_t>(e.image)].layout = Layout::channels_last;
    formats.outputs[0].layout = Layout::channels_last;
    for (const Layer* layer : {&e.first, &e.second})
        for (const int operand : layer->operands)
            formats.inputs[static_cast<size_t>(operand)] = {Layout::plain, DType::f32};
    return formats;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view, const Environment& environment) {
    const Excitation e = *read(region, environment);
    const ConvShape& s = e.first.shape;
    const DType dtype = formats.outputs[0].dtype;
    const int64_t units = units_of(e, environment), blocks = s.channels / vector_of(environment) / units;
    const Dims dims = region.output().dims();
    const int threads = threads_of(environment);

    ExcitationParams p{};
    p.pixels = static_cast<int>(dims[2] * dims[3]);
    // Enough blocks for the device, and at least one pixel for each of a block's threads.
    const int64_t parts = std::clamp<int64_t>(environment.device.multiprocessors / (blocks * s.n), 1,
                                              std::max<int64_t>(1, p.pixels * units / threads));
    p.pixels_per_block = static_cast<int>(divide_up(p.pixels, parts));

    KernelSpec spec;
    spec.name = fmt::format("excitation_{}_c{}h{}u{}", short_name(dtype), s.channels, s.out_channels, units);
    spec.threads = threads;
    spec.max_registers = dtype == DType::f32 ? 168 : 128;
    spec.source = fmt::format(
        "#include \"planish/excitation.cuh\"\n#include \"planish/math.cuh\"\n{}{}"
        "struct Traits {{\n"
        "    using T = {};\n"
        "    using First = first::Epilogue;\n"
        "    using Second = second::Epilogue;\n"
        "    static constexpr int kChannels = {}, kHidden = {}, kUnits = {}, kThreads = {};\n"
        "}};\n"
        "extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ planish::ExcitationParams p) "
        "{{\n    planish::excitation<Traits>(p);\n}}\n",
        e.first.epilogue.in_namespace("first"), e.second.epilogue.in_namespace("second"), memory_type(dtype),
        s.channels, s.out_channels, units, threads, threads, spec.name);

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = 4 * s.n * s.channels * s.out_channels + element_count(dims);
    Launch launch =
        make_launch(std::move(spec),
                    {static_cast<unsigned>(blocks), static_cast<unsigned>(divide_up(p.pixels, p.pixels_per_block)),
                     static_cast<unsigned>(s.n)},
                    p);
    launch.pdl = true;
    launch.bind(offsetof(ExcitationParams, means), input(e.first.carried))
        .bind(offsetof(ExcitationParams, first), input(e.first.weights))
        .bind(offsetof(ExcitationParams, second), input(e.second.weights))
        .bind(offsetof(ExcitationParams, image), input(e.image))
        .bind(offsetof(ExcitationParams, output), output());
    for (size_t i = 0; i < e.first.operands.size(); ++i)
        launch.bind(offsetof(ExcitationParams, first_operands) + i * sizeof(void*), input(e.first.operands[i]));
    for (size_t i = 0; i < e.second.operands.size(); ++i)
        launch.bind(offsetof(ExcitationParams, second_operands) + i * sizeof(void*), input(e.second.operands[i]));
    kernel.launches.push_back(std::move(launch));
    kernel.in_place = {e.image};
    return kernel;
}

}  // namespace

namespace families {
const Implementation kExcitation{"excitation", can_implement, formats, compile, nullptr, pays};
}  // namespace families

}  // namespace planish::cuda
