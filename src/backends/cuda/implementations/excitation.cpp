// The convolutions of squeeze-and-excitation blocks and the product with the image: kernels/excitation.cuh; on Hopper
// with the pool before them: kernels/pooled_excitation.cuh.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/implementations/depthwise.hpp"
#include "backends/cuda/kernels/excitation_params.h"

namespace planish::cuda {
namespace {

constexpr int kMostUnits = 8;
constexpr int64_t kMostHidden = 256, kMostChannels = 4096;  // what a block's shared memory and registers take
constexpr int64_t kMostBlocks = 8;                          // of a cluster that every GPU runs

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

Formats formats_of(const Excitation& e, const RegionView& region, std::span<const Format> available,
                   const Environment& environment) {
    Formats formats = plain_formats(region, available, environment);
    formats.inputs[static_cast<size_t>(e.image)].layout = Layout::channels_last;
    formats.outputs[0].layout = Layout::channels_last;
    for (const Layer* layer : {&e.first, &e.second})
        for (const int operand : layer->operands)
            formats.inputs[static_cast<size_t>(operand)] = {Layout::plain, DType::f32};
    return formats;
}

Formats formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    return formats_of(*read(region, environment), region, available, environment);
}

/// What the kernels' translation units have in common; `traits`: the rest of their traits.
std::string source_of(const Excitation& e, const KernelSpec& spec, DType dtype, std::string_view function,
                      const std::string& traits, int cluster = 1) {
    return fmt::format(
        "#include \"planish/{0}.cuh\"\n#include \"planish/math.cuh\"\n{1}{2}"
        "struct Traits {{\n"
        "    using T = {3};\n"
        "    using First = first::Epilogue;\n"
        "    using Second = second::Epilogue;\n"
        "    static constexpr int kChannels = {4}, kHidden = {5}, kThreads = {6};\n"
        "{7}}};\n"
        "extern \"C\" __global__ void {8}__launch_bounds__({6}) {9}(const __grid_constant__ planish::ExcitationParams "
        "p) "
        "{{\n    planish::{0}<Traits>(p);\n}}\n",
        function, e.first.epilogue.in_namespace("first"), e.second.epilogue.in_namespace("second"), memory_type(dtype),
        e.first.shape.channels, e.first.shape.out_channels, spec.threads, traits,
        cluster > 1 ? fmt::format("__cluster_dims__({}, 1, 1) ", cluster) : "", spec.name);
}

CudaKernel kernel_of(const Excitation& e, Launch launch, const RegionView& region) {
    CudaKernel kernel;
    kernel.name = launch.spec.name;
    kernel.flops = 4 * e.first.shape.n * e.first.shape.channels * e.first.shape.out_channels +
                   element_count(region.output().dims());
    launch.pdl = true;
    if (e.first.carried >= 0) launch.bind(offsetof(ExcitationParams, means), input(e.first.carried));
    launch.bind(offsetof(ExcitationParams, first), input(e.first.weights))
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
    spec.source =
        source_of(e, spec, dtype, "excitation", fmt::format("    static constexpr int kUnits = {};\n", units));
    return kernel_of(
        e,
        make_launch(std::move(spec),
                    {static_cast<unsigned>(blocks), static_cast<unsigned>(divide_up(p.pixels, p.pixels_per_block)),
                     static_cast<unsigned>(s.n)},
                    p),
        region);
}

// ---- With the pool --------------------------------------------------------------------------------------------------

/// As passes/chain_excitations.cpp makes it: the pool and a region as above.
std::optional<Excitation> read_pooled(const RegionView& region, const Environment& environment) {
    const Node &pool = *region.body().nodes().front(), &node = *region.body().nodes().back();
    auto e = read(RegionView(node, &region), environment);
    if (!e || node.input(e->first.carried) != pool.output()) return std::nullopt;
    const auto outer = [&](int& input) { return (input = region.input_index(node.input(input))) >= 0; };
    bool known = outer(e->image) && pool.input(0) == region.body().inputs()[static_cast<size_t>(e->image)];
    for (Layer* layer : {&e->first, &e->second}) {
        known = known && outer(layer->weights);
        for (int& operand : layer->operands) known = known && outer(operand);
    }
    e->first.carried = -1;
    return known ? e : std::nullopt;
}

/// The blocks of an image, their threads and shared memory: mirrors PooledExcitation.
struct Cluster {
    int64_t blocks = 0, threads = 0, shared = 0;
};
std::optional<Cluster> cluster_of(const Excitation& e, const RegionView& region, const Environment& environment) {
    const ConvShape& s = e.first.shape;
    const int64_t vector = vector_of(environment), element = byte_size(environment.storage, 1);
    if (s.channels % vector != 0) return std::nullopt;
    const Dims dims = region.output().dims();
    Cluster c;
    for (c.blocks = kMostBlocks; s.channels / vector % c.blocks != 0;) --c.blocks;
    const int64_t own = s.channels / c.blocks, units = own / vector, pixels = dims[2] * dims[3];
    c.threads = std::clamp<int64_t>(divide_up(pixels * units, 256) * 32, 128, 512);
    const int64_t lanes = c.threads / units;
    c.shared = pixels * units * 16 + 2 * s.out_channels * own * element + divide_up(lanes * (own + 1), 4) * 16 +
               8 * (own + s.out_channels);
    if (lanes == 0 || c.blocks == 1 || c.shared > environment.device.shared_per_block) return std::nullopt;
    return c;
}

Refusal can_implement_pooled(const RegionView& region, const Environment& environment) {
    if (!environment.arch.is_hopper()) return Refusal::isa_missing;
    const auto e = read_pooled(region, environment);
    if (!e) return Refusal::post_op_not_handled;
    return cluster_of(*e, region, environment) ? Refusal::none : Refusal::shape_not_handled;
}

/// A block that has a multiprocessor for itself loads, then stores; with two of them one loads while the other stores.
bool pooled_pays(const RegionView& region, const Environment& environment) {
    const Excitation e = *read_pooled(region, environment);
    const Cluster c = *cluster_of(e, region, environment);
    return 2 * c.shared <= environment.device.shared_per_block ||
           e.first.shape.n * c.blocks <= environment.device.multiprocessors;
}

Formats pooled_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    return formats_of(*read_pooled(region, environment), region, available, environment);
}

CudaKernel compile_pooled(const RegionView& region, const Formats& formats, std::string_view,
                          const Environment& environment) {
    const Excitation e = *read_pooled(region, environment);
    const Cluster c = *cluster_of(e, region, environment);
    const ConvShape& s = e.first.shape;
    const DType dtype = formats.outputs[0].dtype;
    const Dims dims = region.output().dims();

    ExcitationParams p{};
    p.pixels = static_cast<int>(dims[2] * dims[3]);
    KernelSpec spec;
    spec.name = fmt::format("pooled_excitation_{}_c{}h{}p{}x{}", short_name(dtype), s.channels, s.out_channels,
                            p.pixels, c.blocks);
    spec.threads = static_cast<int>(c.threads);
    spec.shared_bytes = static_cast<int>(c.shared);
    spec.cluster = static_cast<int>(c.blocks);
    spec.max_registers = 128;
    spec.source = source_of(e, spec, dtype, "pooled_excitation",
                            fmt::format("    static constexpr int kPixels = {}, kBlocks = {};\n", p.pixels, c.blocks),
                            spec.cluster);
    spec.source += fmt::format("static_assert(planish::PooledExcitation<Traits>::kShared == {});\n", c.shared);
    return kernel_of(e, make_launch(std::move(spec), {static_cast<unsigned>(c.blocks * s.n), 1, 1}, p), region);
}

}  // namespace

namespace families {
const Implementation kExcitation{"excitation", can_implement, formats, compile, nullptr, pays};
const Implementation kPooledExcitation{
    "pooled_excitation", can_implement_pooled, pooled_formats, compile_pooled, nullptr, pooled_pays};
}  // namespace families

}  // namespace planish::cuda
