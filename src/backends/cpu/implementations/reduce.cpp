// Reductions over neighbouring axes, pooling over windows and over whole images, index of the extreme.
#include "backends/cpu/implementations/reduce.hpp"

#include <fmt/format.h>

#include <numeric>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"
#include "backends/image_window.hpp"

namespace planish::cpu::families {
namespace {

struct KindRow {
    std::string_view op;
    ReduceKind kind;
};
constexpr KindRow kKinds[] = {
    {"ReduceSum", ReduceKind::sum},
    {"ReduceMean", ReduceKind::mean},
    {"ReduceMax", ReduceKind::max},
    {"ReduceMin", ReduceKind::min},
    {"ReduceProd", ReduceKind::prod},
    {"ReduceL1", ReduceKind::l1},
    {"ReduceL2", ReduceKind::l2},
    {"ReduceSumSquare", ReduceKind::sum_square},
    {"ReduceLogSum", ReduceKind::log_sum},
    {"ReduceLogSumExp", ReduceKind::log_sum_exp},
    {"GlobalAveragePool", ReduceKind::mean},
    {"GlobalMaxPool", ReduceKind::max},
};

}  // namespace

std::optional<ReduceKind> reduce_kind(const Node& node) {
    for (const KindRow& row : kKinds)
        if (node.is(row.op)) return row.kind;
    return std::nullopt;
}

std::optional<std::vector<int64_t>> reduced_axes(const RegionView& region, const Node& node) {
    const auto rank = static_cast<int64_t>(node.input(0)->dims().size());
    std::vector<int64_t> axes;
    if (node.op().name.starts_with("Global")) {
        for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
        return axes;
    }
    if (node.input(1) != nullptr) {
        const auto given = region.constant(node.input(1));
        if (given == nullptr) return std::nullopt;
        axes = given->to_int64s();
    }
    if (axes.empty()) {
        if (node.integer("noop_with_empty_axes") != 0) return std::nullopt;
        axes.resize(static_cast<size_t>(rank));
        std::iota(axes.begin(), axes.end(), int64_t{0});
    }
    for (int64_t& a : axes) a = a < 0 ? a + rank : a;
    std::sort(axes.begin(), axes.end());
    return axes;
}

std::optional<Collapsed> collapse(const Dims& dims, const std::vector<int64_t>& axes, Layout layout) {
    const Dims physical = physical_dims(dims, layout);
    std::vector<bool> reduced(dims.size(), false);
    for (const int64_t a : axes)
        reduced[static_cast<size_t>(physical_axis(a, static_cast<int64_t>(dims.size()), layout))] = true;
    Collapsed result;
    enum { before, inside, after } state = before;
    for (size_t i = 0; i < physical.size(); ++i) {
        if (physical[i] == 1) continue;
        if (reduced[i]) {
            if (state == after) return std::nullopt;
            state = inside;
            result.n *= physical[i];
        } else {
            if (state == inside) state = after;
            (state == before ? result.outer : result.inner) *= physical[i];
        }
    }
    return result;
}

namespace {

Layouts reduce_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    const Dims in = region.input(0).dims(), out = region.output().dims();
    // A kept rank keeps the layout; without keepdims the result must be plain, which it is when channels are all
    // that remains, or when nothing of the layout's order survives.
    const auto axes = reduced_axes(region, region.node());
    if (available[0] != Layout::channels_last || layouts_coincide(in) || !collapse(in, *axes, Layout::channels_last))
        return result;
    if (out.size() == in.size()) {
        result.inputs[0] = result.outputs[0] = Layout::channels_last;
        return result;
    }
    int64_t spatial_left = 1;
    for (size_t i = 2; i < in.size(); ++i)
        if (std::find(axes->begin(), axes->end(), static_cast<int64_t>(i)) == axes->end()) spatial_left *= in[i];
    const bool channels_left = std::find(axes->begin(), axes->end(), int64_t{1}) == axes->end() && in[1] > 1;
    if (spatial_left == 1 || !channels_left) result.inputs[0] = Layout::channels_last;
    return result;
}

Refusal can_reduce(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    if (!reduce_kind(node)) return Refusal::op_not_handled;
    if (!is_f32(node.input(0))) return Refusal::dtype_not_handled;
    const Dims dims = node.input(0)->dims();
    if (element_count(dims) == 0) return Refusal::shape_not_handled;
    const auto axes = reduced_axes(region, node);
    if (!axes) return Refusal::weights_not_constant;
    if (!collapse(dims, *axes, Layout::plain)) return Refusal::shape_not_handled;
    return Refusal::none;
}

std::unique_ptr<Kernel> compile_reduce(const RegionView& region, const Layouts& layouts,
                                       const Environment& environment) {
    const Node& node = region.node();
    const Collapsed c = *collapse(node.input(0)->dims(), *reduced_axes(region, node), layouts.inputs[0]);
    ReduceArgs args;
    args.n = c.n;
    args.inner = c.inner;
    args.kind = *reduce_kind(node);
    auto kernel = make_kernel(
        fmt::format("reduce_f32_{}", to_string(environment.isa)),
        [args, items = c.outer * c.inner, function = kernels(environment.isa).reduce](const Launch& launch) {
            ReduceArgs a = args;
            a.input = launch.f32(0);
            a.output = launch.out_f32();
            split_items(launch, items, a.n, [&](int64_t b, int64_t e, int) { function(a, b, e); });
        });
    kernel->flops = c.outer * c.n * c.inner;
    return kernel;
}

// ---- index of the extreme ----

Refusal can_arg(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body() || !is_f32(region.node().input(0))) return Refusal::dtype_not_handled;
    return element_count(region.input(0).dims()) == 0 ? Refusal::shape_not_handled : Refusal::none;
}

std::unique_ptr<Kernel> compile_arg(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.node();
    const Dims dims = node.input(0)->dims();
    const auto rank = static_cast<int64_t>(dims.size());
    int64_t axis = node.integer("axis");
    if (axis < 0) axis += rank;
    const Collapsed c = *collapse(dims, {axis}, Layout::plain);
    ArgExtremeArgs args;
    args.n = c.n;
    args.inner = c.inner;
    args.smallest = node.is("ArgMin");
    args.last_index = node.integer("select_last_index") != 0;
    return make_kernel(
        fmt::format("arg_extreme_f32_{}", to_string(environment.isa)),
        [args, items = c.outer * c.inner, function = kernels(environment.isa).arg_extreme](const Launch& launch) {
            ArgExtremeArgs a = args;
            a.input = launch.f32(0);
            a.output = reinterpret_cast<int64_t*>(launch.out[0]);
            split_items(launch, items, a.n, [&](int64_t b, int64_t e, int) { function(a, b, e); });
        });
}

// ---- windows ----

Refusal can_pool(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    if (!is_f32(node.input(0))) return Refusal::dtype_not_handled;
    const Dims dims = node.input(0)->dims();
    if ((dims.size() != 4 && dims.size() != 3) || element_count(node.output()->dims()) == 0 || element_count(dims) == 0)
        return Refusal::shape_not_handled;
    if (node.outputs().size() > 1 && node.outputs()[1]) return Refusal::attribute_not_handled;
    return Refusal::none;
}

Layouts pool_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[0] = result.outputs[0] = Layout::channels_last;
    return result;
}

}  // namespace

PoolArgs pool_args(const Node& node) {
    const ImageWindow window = image_window(node);
    const Dims y = node.output()->dims();
    PoolArgs args;
    args.channels = y[1];
    args.in_height = window.in[0];
    args.in_width = window.in[1];
    args.out_height = y.size() == 4 ? y[2] : 1;
    args.out_width = y.back();
    args.kernel_h = window.kernel[0];
    args.kernel_w = window.kernel[1];
    args.stride_h = window.stride[0];
    args.stride_w = window.stride[1];
    args.dilation_h = window.dilation[0];
    args.dilation_w = window.dilation[1];
    args.pad_top = window.begin[0];
    args.pad_left = window.begin[1];
    args.pad_bottom = window.end[0];
    args.pad_right = window.end[1];
    args.average = node.is("AveragePool");
    args.count_include_pad = args.average && node.integer("count_include_pad") != 0;
    args.set_dense_strides();
    return args;
}

namespace {

std::unique_ptr<Kernel> compile_pool(const RegionView& region, const Layouts&, const Environment& environment) {
    const PoolArgs args = pool_args(region.node());
    const int64_t items = region.output().dims()[0] * args.out_height;
    auto kernel = make_kernel(
        fmt::format("{}_pool_f32_{}", args.average ? "average" : "max", to_string(environment.isa)),
        [args, items, function = kernels(environment.isa).pool](const Launch& launch) {
            PoolArgs a = args;
            a.input = launch.f32(0);
            a.output = launch.out_f32();
            split_items(launch, items, a.out_width * a.channels, [&](int64_t b, int64_t e, int) { function(a, b, e); });
        });
    kernel->flops = element_count(region.output().dims()) * args.kernel_h * args.kernel_w;
    return kernel;
}

}  // namespace

const Implementation kReduce{"reduce_axes", can_reduce, reduce_layouts, compile_reduce};
const Implementation kArgExtreme{"arg_extreme", can_arg, plain_layouts, compile_arg};
const Implementation kPool{"pool_window", can_pool, pool_layouts, compile_pool};

}  // namespace planish::cpu::families
