// Softmax and the normalisations.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "backends/cuda/implementations/strided.hpp"
#include "backends/cuda/kernels/rows_params.h"

namespace planish::cuda::families {
namespace {

constexpr std::string_view kInclude = "#include \"planish/rows.cuh\"\n";

int64_t product(const Dims& dims, size_t from, size_t to) {
    return std::accumulate(dims.begin() + static_cast<long>(from), dims.begin() + static_cast<long>(to), int64_t{1},
                           std::multiplies<>());
}

// Common to all rows of this file: a single op on float32.
Refusal single_f32(const RegionView& region) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    for (const Value* value : region.node().inputs())
        if (!is_f32(value)) return Refusal::dtype_not_handled;
    if (region.output().type.dtype != DType::f32) return Refusal::dtype_not_handled;
    const int64_t count = element_count(region.output().dims());
    return count == 0 || count >= int64_t{1} << 31 ? Refusal::shape_not_handled : Refusal::none;
}

/// How a row is spread over threads.
struct Spread {
    int threads = 32, block = 128, vector = 1, packs = 0;
};
Spread spread_of(int64_t rows, int64_t n, int64_t bytes, const Environment& environment) {
    constexpr int64_t kRegisters = 32;  // elements of a thread
    Spread spread;
    spread.vector = static_cast<int>(std::min<int64_t>(8, 16 / bytes));
    while (n % spread.vector != 0) spread.vector /= 2;
    // More threads than memory needs where rows are too few to fill the device.
    const int64_t wanted = int64_t{environment.device.multiprocessors} * 512;
    while (spread.threads < 1024 && (n > spread.threads * kRegisters ||
                                     (rows * spread.threads < wanted &&
                                      n >= int64_t{2} * spread.threads * spread.vector && spread.threads < 256)))
        spread.threads *= 2;
    spread.block = spread.threads > 32 ? spread.threads : 128;
    const int64_t packs = (n + int64_t{spread.threads} * spread.vector - 1) / (int64_t{spread.threads} * spread.vector);
    spread.packs = packs * spread.vector <= kRegisters ? static_cast<int>(packs) : 0;
    return spread;
}

// ---- Softmax ----

struct Lines {
    int64_t outer = 1, n = 1, inner = 1;
};
Lines lines_of(const Node& node, Layout layout) {
    const Dims dims = node.input(0)->dims();
    const auto rank = static_cast<int64_t>(dims.size());
    const int64_t axis = node.integer("axis");
    const auto at = static_cast<size_t>(physical_axis(axis < 0 ? axis + rank : axis, rank, layout));
    const Dims physical = physical_dims(dims, layout);
    return {product(physical, 0, at), physical[at], product(physical, at + 1, physical.size())};
}

Refusal can_softmax(const RegionView& region, const Environment&) {
    if (region.output().dims().empty()) return Refusal::shape_not_handled;
    return single_f32(region);
}

template <bool kLog>
CudaKernel compile_softmax(const RegionView& region, const Formats& formats, std::string_view,
                           const Environment& environment) {
    const Lines lines = lines_of(region.node(), formats.inputs[0].layout);
    const DType in = formats.inputs[0].dtype, out = formats.outputs[0].dtype;
    RowsParams params{};
    params.rows = static_cast<int>(lines.outer * lines.inner);
    params.n = static_cast<int>(lines.n);
    params.inner = make_divisor(static_cast<unsigned>(lines.inner));
    std::string name = fmt::format("{}_{}", kLog ? "log_softmax" : "softmax", short_name(in)), call;
    KernelSpec spec;
    unsigned grid = 0;
    if (lines.inner == 1) {
        const Spread s = spread_of(params.rows, params.n, byte_size(in, 1), environment);
        name += fmt::format("_t{}_v{}_p{}", s.threads, s.vector, s.packs);
        call = fmt::format("planish::softmax<{}, {}, {}, {}, {}, {}>(p)", memory_type(in), memory_type(out), kLog,
                           s.threads, s.vector, s.packs);
        spec.threads = s.block;
        grid = blocks_for(params.rows, s.block / s.threads);
    } else {
        name += "_columns";
        call = fmt::format("planish::softmax_columns<{}, {}, {}>(p)", memory_type(in), memory_type(out), kLog);
        spec.threads = 128;
        grid = blocks_for(params.rows, spec.threads);
    }
    spec.name = name;
    spec.source = kernel_source(kInclude, "", name, spec.threads, "planish::RowsParams", call);
    spec.max_registers = 64;
    CudaKernel kernel;
    kernel.name = name;
    kernel.launches.push_back(make_launch(std::move(spec), {grid, 1, 1}, params)
                                  .bind(offsetof(RowsParams, input), input(0))
                                  .bind(offsetof(RowsParams, output), output(0)));
    kernel.launches.back().pdl = true;
    kernel.in_place = {0};
    kernel.flops = 5 * element_count(region.output().dims());
    return kernel;
}

// ---- Layer and RMS normalisation ----

// Scale and bias must be dense over the normalised axes.
Refusal can_normalize(const RegionView& region, const Environment&) {
    if (const Refusal r = single_f32(region); r != Refusal::none) return r;
    const Node& node = region.node();
    if (uses_later_outputs(node)) return Refusal::attribute_not_handled;
    const Dims dims = node.input(0)->dims();
    const int64_t axis = node.integer("axis"), rank = static_cast<int64_t>(dims.size());
    const int64_t n = product(dims, static_cast<size_t>(axis < 0 ? axis + rank : axis), dims.size());
    for (int i = 1; i < node.input_count(); ++i)
        if (node.input(i) != nullptr && element_count(node.input(i)->dims()) != n) return Refusal::shape_not_handled;
    return Refusal::none;
}

// Scale and bias are read in float32 where they are constants.
Formats with_constants_in_f32(const RegionView& region, Formats formats) {
    const Node& node = region.node();
    bool constants = true;
    for (int i = 1; i < node.input_count(); ++i)
        constants = constants && (node.input(i) == nullptr || node.input(i)->is_constant());
    for (int i = 1; i < node.input_count() && constants; ++i)
        if (node.input(i) != nullptr) formats.inputs[static_cast<size_t>(i)].dtype = DType::f32;
    return formats;
}

Formats row_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    return with_constants_in_f32(region, plain_formats(region, available, environment));
}

/// `input_of`: the region's input that an operand of the node is.
template <bool kRms>
CudaKernel normalization(const Node& node, const std::function<int(int)>& input_of,
                         const std::optional<Quantization>& result, const Formats& formats,
                         const Environment& environment) {
    const auto format_of = [&](int i) { return formats.inputs[static_cast<size_t>(input_of(i))]; };
    const Dims dims = node.input(0)->dims();
    const int64_t axis = node.integer("axis"), rank = static_cast<int64_t>(dims.size());
    const auto at = static_cast<size_t>(axis < 0 ? axis + rank : axis);
    RowsParams params{};
    params.rows = static_cast<int>(product(dims, 0, at));
    params.n = static_cast<int>(product(dims, at, dims.size()));
    params.eps = static_cast<float>(node.real("epsilon"));
    if (result) {
        params.encode = 1 / result->scale();
        params.zero = static_cast<float>(result->zero());
    }
    const bool bias = !kRms && node.input(2) != nullptr;
    const DType in = format_of(0).dtype, out = formats.outputs[0].dtype, scale = format_of(1).dtype;
    const Spread s = spread_of(params.rows, params.n, byte_size(in, 1), environment);
    KernelSpec spec;
    spec.name = fmt::format("{}_norm{}_{}{}_t{}_v{}_p{}", kRms ? "rms" : "layer", bias ? "_bias" : "", short_name(in),
                            result ? fmt::format("_{}", short_name(out)) : "", s.threads, s.vector, s.packs);
    spec.threads = s.block;
    spec.max_registers = 96;
    spec.source =
        kernel_source(kInclude, "", spec.name, spec.threads, "planish::RowsParams",
                      fmt::format("planish::normalize<{}, {}, {}, {}, {}, {}, {}, {}>(p)", memory_type(in),
                                  element_type(out), memory_type(scale), kRms, bias, s.threads, s.vector, s.packs));
    CudaKernel kernel;
    kernel.name = spec.name;
    Launch launch = make_launch(std::move(spec), {blocks_for(params.rows, s.block / s.threads), 1, 1}, params);
    launch.bind(offsetof(RowsParams, input), input(input_of(0)))
        .bind(offsetof(RowsParams, output), output(0))
        .bind(offsetof(RowsParams, scale), input(input_of(1)));
    if (bias) launch.bind(offsetof(RowsParams, bias), input(input_of(2)));
    launch.pdl = true;
    kernel.launches.push_back(std::move(launch));
    kernel.in_place = {input_of(0)};
    kernel.flops = 8 * element_count(dims);
    return kernel;
}

template <bool kRms>
CudaKernel compile_normalize(const RegionView& region, const Formats& formats, std::string_view,
                             const Environment& environment) {
    return normalization<kRms>(
        region.node(), [](int i) { return i; }, std::nullopt, formats, environment);
}

// Of a quantised region: floats whose result alone is stored in 8 bits.
Refusal can_normalize_to_bytes(const RegionView& region, const Environment& environment) {
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized || !quantized->result()) return Refusal::attribute_not_handled;
    const Quantization& result = *quantized->result();
    const bool float8 = result.dtype == DType::f8e4m3fn && result.symmetric() && environment.arch.at_least(89);
    if (!result.is_bytes() && !float8) return Refusal::dtype_not_handled;
    for (const QuantizedRegion::Operand& operand : quantized->operands())
        if (operand.quantization || operand.input < 0) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    if (inner.has_body()) return Refusal::post_op_not_handled;
    if (!inner.node().is("LayerNormalization") && !inner.node().is("RMSNormalization")) return Refusal::op_not_handled;
    return can_normalize(inner, environment);
}

CudaKernel compile_normalize_to_bytes(const RegionView& region, const Formats& formats, std::string_view,
                                      const Environment& environment) {
    const auto quantized = QuantizedRegion::read(region);
    const bool rms = quantized->inner().node().is("RMSNormalization");
    const auto compile = rms ? normalization<true> : normalization<false>;
    return compile(
        quantized->inner().node(), [&](int i) { return quantized->operand(i).input; }, quantized->result(), formats,
        environment);
}

// ---- Group and instance normalisation ----

int64_t groups_of(const Node& node) {
    return node.is("GroupNormalization") ? node.integer("num_groups") : node.input(0)->dims()[1];
}

Refusal can_group(const RegionView& region, const Environment&) {
    if (const Refusal r = single_f32(region); r != Refusal::none) return r;
    const Dims dims = region.output().dims();
    if (dims.size() < 3 || dims[0] * groups_of(region.node()) > 65535) return Refusal::shape_not_handled;
    for (int i = 1; i <= 2; ++i)
        if (element_count(region.input(i).dims()) != dims[1]) return Refusal::shape_not_handled;
    return Refusal::none;
}

Formats group_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    return with_constants_in_f32(region, image_formats(region, available, environment));
}

CudaKernel compile_group(const RegionView& region, const Formats& formats, std::string_view,
                         const Environment& environment) {
    constexpr int kThreads = 256;
    const Node& node = region.node();
    const Dims dims = region.output().dims();
    const DType in = formats.inputs[0].dtype, out = formats.outputs[0].dtype, scale = formats.inputs[1].dtype;
    GroupNormParams params{};
    params.pixels = static_cast<int>(product(dims, 2, dims.size()));
    params.channels = static_cast<int>(dims[1]);
    params.groups = static_cast<int>(groups_of(node));
    params.eps = static_cast<float>(node.real("epsilon"));
    const int64_t width = params.channels / params.groups, blocks = dims[0] * params.groups;
    int64_t vector = std::min<int64_t>(8, 16 / byte_size(in, 1));
    while (width % vector != 0) vector /= 2;
    params.vectors = make_divisor(static_cast<unsigned>(width / vector));
    // Several blocks for a group where one would be slow and the device has more; a block has 8 vectors a thread at
    // least.
    const int64_t packs = params.pixels * (width / vector);
    int64_t splits = 1;
    if (packs > int64_t{kThreads} * 16)
        splits = std::clamp<int64_t>(int64_t{environment.device.multiprocessors} * 4 / blocks, 1,
                                     std::min<int64_t>(64, packs / (kThreads * 8)));
    if (environment.batch_invariant) splits = std::clamp<int64_t>(packs / (kThreads * 32), 1, 64);
    params.pixels_per_split = static_cast<int>((params.pixels + splits - 1) / splits);
    params.splits = (params.pixels + params.pixels_per_split - 1) / params.pixels_per_split;
    CudaKernel kernel;
    const auto add = [&](bool moments, bool apply) {
        KernelSpec spec;
        spec.name = fmt::format("group_norm{}_{}_v{}",
                                moments && apply ? ""
                                : moments        ? "_moments"
                                                 : "_apply",
                                short_name(in), vector);
        spec.threads = kThreads;
        spec.max_registers = 64;
        spec.source =
            kernel_source(kInclude, "", spec.name, kThreads, "planish::GroupNormParams",
                          fmt::format("planish::group_norm<{}, {}, {}, {}, {}, {}, {}>(p)", memory_type(in),
                                      memory_type(out), memory_type(scale), kThreads, vector, moments, apply));
        kernel.name = spec.name;
        Launch launch = make_launch(std::move(spec),
                                    {static_cast<unsigned>(params.splits), static_cast<unsigned>(blocks), 1}, params);
        launch.bind(offsetof(GroupNormParams, input), input(0))
            .bind(offsetof(GroupNormParams, output), output(0))
            .bind(offsetof(GroupNormParams, scale), input(1))
            .bind(offsetof(GroupNormParams, bias), input(2));
        if (params.splits > 1) launch.bind(offsetof(GroupNormParams, moments), workspace());
        launch.pdl = true;
        kernel.launches.push_back(std::move(launch));
    };
    if (params.splits > 1) {
        add(true, false);
        add(false, true);
        kernel.workspace = (blocks * params.splits * 8 + 255) / 256 * 256;
    } else {
        add(true, true);
    }
    kernel.in_place = {0};
    kernel.flops = 8 * element_count(dims);
    return kernel;
}

}  // namespace

const Implementation kSoftmax{"softmax_rows", can_softmax, following_formats, compile_softmax<false>};
const Implementation kLogSoftmax{"log_softmax_rows", can_softmax, following_formats, compile_softmax<true>};
const Implementation kLayerNorm{"layer_norm_rows", can_normalize, row_formats, compile_normalize<false>};
const Implementation kRmsNorm{"rms_norm_rows", can_normalize, row_formats, compile_normalize<true>};
const Implementation kByteNorm{"norm_rows_u8", can_normalize_to_bytes, row_formats, compile_normalize_to_bytes};
const Implementation kGroupNorm{"group_norm", can_group, group_formats, compile_group};

}  // namespace planish::cuda::families
