// Softmax and the normalisations, by rows.
#include <fmt/format.h>

#include <numeric>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"

namespace planish::cpu::families {
namespace {

int64_t product(const Dims& dims, size_t from, size_t to) {
    return std::accumulate(dims.begin() + static_cast<long>(from), dims.begin() + static_cast<long>(to), int64_t{1},
                           std::multiplies<>());
}

int64_t axis_of(const Node& node) {
    const auto rank = static_cast<int64_t>(node.input(0)->dims().size());
    const int64_t axis = node.integer("axis");
    return axis < 0 ? axis + rank : axis;
}

std::string kernel_name(std::string_view operation, const Environment& environment) {
    return fmt::format("{}_f32_{}", operation, to_string(environment.isa));
}

// Common to all rows of this file: a single op on float32.
Refusal single_f32(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body()) return Refusal::post_op_not_handled;
    for (const Value* input : region.node().inputs())
        if (!is_f32(input)) return Refusal::dtype_not_handled;
    if (region.output().type.dtype != DType::f32) return Refusal::dtype_not_handled;
    if (element_count(region.output().dims()) == 0) return Refusal::shape_not_handled;
    return Refusal::none;
}

// ---- softmax ----

Refusal can_softmax(const RegionView& region, const Environment& environment) {
    return single_f32(region, environment);
}

template <bool log>
std::unique_ptr<Kernel> compile_softmax(const RegionView& region, const Layouts&, const Environment& environment) {
    const Dims dims = region.output().dims();
    const auto axis = static_cast<size_t>(axis_of(region.node()));
    SoftmaxArgs args;
    args.n = dims[axis];
    args.inner = product(dims, axis + 1, dims.size());
    args.log = log;
    const int64_t rows = product(dims, 0, axis) * args.inner;
    auto kernel = make_kernel(kernel_name(log ? "log_softmax" : "softmax", environment),
                              [args, rows, function = kernels(environment.isa).softmax](const Launch& launch) {
                                  SoftmaxArgs a = args;
                                  a.input = launch.f32(0);
                                  a.output = launch.out_f32();
                                  split_items(launch, rows, a.n, [&](int64_t b, int64_t e, int) { function(a, b, e); });
                              });
    kernel->in_place = {0};
    kernel->flops = 5 * rows * args.n;
    return kernel;
}

// ---- layer and RMS normalisation ----

// Scale and bias must be dense over the normalised axes.
Refusal can_row_norm(const RegionView& region, const Environment& environment) {
    if (const Refusal r = single_f32(region, environment); r != Refusal::none) return r;
    const Node& node = region.node();
    if (uses_later_outputs(node)) return Refusal::attribute_not_handled;
    const Dims dims = node.input(0)->dims();
    const int64_t n = product(dims, static_cast<size_t>(axis_of(node)), dims.size());
    for (int i = 1; i < node.input_count(); ++i)
        if (node.input(i) && element_count(node.input(i)->dims()) != n) return Refusal::shape_not_handled;
    return Refusal::none;
}

template <bool rms>
std::unique_ptr<Kernel> compile_row_norm(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.node();
    const Dims dims = node.input(0)->dims();
    const auto axis = static_cast<size_t>(axis_of(node));
    NormArgs args;
    args.n = product(dims, axis, dims.size());
    args.eps = static_cast<float>(node.real("epsilon"));
    const int64_t rows = product(dims, 0, axis);
    const bool bias = !rms && node.input(2) != nullptr;
    const KernelTable& table = kernels(environment.isa);
    auto kernel =
        make_kernel(kernel_name(rms ? "rms_norm" : "layer_norm", environment),
                    [args, rows, bias, function = rms ? table.rms_norm : table.layer_norm](const Launch& launch) {
                        NormArgs a = args;
                        a.input = launch.f32(0);
                        a.scale = launch.f32(1);
                        a.bias = bias ? launch.f32(2) : nullptr;
                        a.output = launch.out_f32();
                        split_items(launch, rows, a.n, [&](int64_t b, int64_t e, int) { function(a, b, e); });
                    });
    kernel->in_place = {0};
    kernel->flops = 8 * rows * args.n;
    return kernel;
}

// ---- group and instance normalisation, channels-last ----

Refusal can_group_norm(const RegionView& region, const Environment& environment) {
    if (const Refusal r = single_f32(region, environment); r != Refusal::none) return r;
    const Dims dims = region.output().dims();
    if (dims.size() < 3) return Refusal::shape_not_handled;
    for (int i = 1; i <= 2; ++i)
        if (element_count(region.input(i).dims()) != dims[1]) return Refusal::shape_not_handled;
    return Refusal::none;
}

Layouts channels_last_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[0] = result.outputs[0] = Layout::channels_last;
    return result;
}

std::unique_ptr<Kernel> compile_group_norm(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.node();
    const Dims dims = region.output().dims();
    GroupNormArgs args;
    args.batch = dims[0];
    args.channels = dims[1];
    args.pixels = product(dims, 2, dims.size());
    args.groups = node.is("GroupNormalization") ? node.integer("num_groups") : dims[1];
    args.eps = static_cast<float>(node.real("epsilon"));
    const int64_t items = group_norm_items(args), scratch = (group_norm_scratch(args) + 15) / 16 * 16;
    auto kernel =
        make_kernel(kernel_name("group_norm", environment),
                    [args, items, scratch, function = kernels(environment.isa).group_norm](const Launch& launch) {
                        GroupNormArgs a = args;
                        a.input = launch.f32(0);
                        a.scale = launch.f32(1);
                        a.bias = launch.f32(2);
                        a.output = launch.out_f32();
                        auto* memory = reinterpret_cast<float*>(launch.workspace);
                        split_items(launch, items, a.pixels * a.channels / std::max<int64_t>(items, 1),
                                    [&](int64_t b, int64_t e, int t) { function(a, b, e, memory + t * scratch); });
                    });
    kernel->workspace = static_cast<size_t>(scratch * environment.threads) * sizeof(float);
    kernel->in_place = {0};
    kernel->flops = 8 * element_count(dims);
    return kernel;
}

}  // namespace

const Implementation kSoftmax{"softmax_rows", can_softmax, plain_layouts, compile_softmax<false>};
const Implementation kLogSoftmax{"log_softmax_rows", can_softmax, plain_layouts, compile_softmax<true>};
const Implementation kLayerNorm{"layer_norm_rows", can_row_norm, plain_layouts, compile_row_norm<false>};
const Implementation kRmsNorm{"rms_norm_rows", can_row_norm, plain_layouts, compile_row_norm<true>};
const Implementation kGroupNorm{"group_norm", can_group_norm, channels_last_layouts, compile_group_norm};

}  // namespace planish::cpu::families
