// Reductions over any axes, pooling of whole images, index of the extreme.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "backends/cuda/implementations/strided.hpp"
#include "backends/cuda/kernels/reduce_params.h"

namespace planish::cuda::families {
namespace {

constexpr std::string_view kInclude = "#include \"planish/reduce.cuh\"\n";

struct KindRow {
    std::string_view op, reduction;
};
constexpr KindRow kKinds[] = {
    {"ReduceSum", "sum"},
    {"ReduceMean", "mean"},
    {"ReduceMax", "max"},
    {"ReduceMin", "min"},
    {"ReduceProd", "prod"},
    {"ReduceL1", "l1"},
    {"ReduceL2", "l2"},
    {"ReduceSumSquare", "sum_square"},
    {"ReduceLogSum", "log_sum"},
    {"ReduceLogSumExp", "log_sum_exp"},
    {"GlobalAveragePool", "mean"},
    {"GlobalMaxPool", "max"},
};

std::string_view reduction_of(const Node& node) {
    for (const KindRow& row : kKinds)
        if (node.is(row.op)) return row.reduction;
    return {};
}

// The reduced axes, sorted, logical; nullopt: not known, or none.
std::optional<std::vector<int64_t>> reduced_axes(const Node& node) {
    const auto rank = static_cast<int64_t>(node.input(0)->dims().size());
    std::vector<int64_t> axes;
    if (node.op().name.starts_with("Global")) {
        for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
        return axes;
    }
    if (node.op().name.starts_with("Arg")) {
        const int64_t axis = node.integer("axis");
        return std::vector{axis < 0 ? axis + rank : axis};
    }
    if (const Value* given = node.input(1)) {
        if (!given->is_constant()) return std::nullopt;
        axes = given->constant->to_int64s();
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

/// The axes in physical order, neighbours of one kind merged.
struct Axis {
    int64_t extent, stride;
    bool reduced;
};
std::vector<Axis> axes_of(const Dims& dims, const std::vector<int64_t>& axes, Layout layout) {
    const Dims physical = physical_dims(dims, layout);
    std::vector<bool> reduced(dims.size(), false);
    for (const int64_t a : axes)
        reduced[static_cast<size_t>(physical_axis(a, static_cast<int64_t>(dims.size()), layout))] = true;
    std::vector<Axis> result;
    int64_t stride = 1;
    for (size_t i = physical.size(); i-- > 0; stride *= physical[i]) {
        if (physical[i] == 1) continue;
        if (!result.empty() && result.back().reduced == reduced[i])
            result.back().extent *= physical[i];
        else
            result.push_back({physical[i], stride, reduced[i]});
    }
    std::reverse(result.begin(), result.end());
    return result;
}

Formats reduce_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats result = plain_formats(region, available, environment);
    const Dims in = region.input(0).dims(), out = region.output().dims();
    if (available[0].layout != Layout::channels_last || layouts_coincide(in)) return result;
    const auto axes = reduced_axes(region.node());
    // A kept rank keeps the layout. Otherwise the result is plain when channels are all that remains of the image, or
    // do not remain.
    if (out.size() == in.size()) {
        result.inputs[0].layout = result.outputs[0].layout = Layout::channels_last;
        return result;
    }
    int64_t spatial = 1;
    for (size_t i = 2; i < in.size(); ++i)
        if (std::find(axes->begin(), axes->end(), static_cast<int64_t>(i)) == axes->end()) spatial *= in[i];
    const bool channels = std::find(axes->begin(), axes->end(), int64_t{1}) == axes->end() && in[1] > 1;
    if (spatial == 1 || !channels) result.inputs[0].layout = Layout::channels_last;
    return result;
}

bool is_integer_kind(std::string_view reduction) {
    return reduction == "sum" || reduction == "max" || reduction == "min" || reduction == "prod";
}

Refusal can_reduce(const RegionView& region, const Environment&) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    const DType dtype = node.input(0)->type.dtype;
    const bool arg = node.op().name.starts_with("Arg");
    const bool integer = dtype == DType::i32 || dtype == DType::i64;
    if (dtype != DType::f32 && !(integer && (arg || is_integer_kind(reduction_of(node)))))
        return Refusal::dtype_not_handled;
    const Dims dims = node.input(0)->dims();
    const int64_t count = element_count(dims);
    if (count == 0 || count >= int64_t{1} << 31) return Refusal::shape_not_handled;
    const auto axes = reduced_axes(node);
    if (!axes) return Refusal::weights_not_constant;
    for (const Layout layout : {Layout::plain, Layout::channels_last})
        if (axes_of(dims, *axes, layout).size() > kReduceRank) return Refusal::shape_not_handled;
    return Refusal::none;
}

// A block's share: threads of a row (inner == 1), or columns of vectors and threads of each.
struct Shape {
    int64_t outer = 1, n = 1, inner = 1;
};
std::optional<Shape> neighbours(const std::vector<Axis>& axes) {
    Shape shape;
    enum { before, inside, after } state = before;
    for (const Axis& axis : axes) {
        if (axis.reduced) {
            if (state == after) return std::nullopt;
            state = inside;
            shape.n *= axis.extent;
        } else {
            if (state == inside) state = after;
            (state == before ? shape.outer : shape.inner) *= axis.extent;
        }
    }
    // Nothing is reduced: rows of one element.
    if (state == before) shape.inner = 1;
    return shape;
}

CudaKernel compile_reduce(const RegionView& region, const Formats& formats, std::string_view,
                          const Environment& environment) {
    const Node& node = region.node();
    const bool arg = node.op().name.starts_with("Arg");
    const DType in = formats.inputs[0].dtype, out = formats.outputs[0].dtype;
    const std::vector<Axis> axes = axes_of(node.input(0)->dims(), *reduced_axes(node), formats.inputs[0].layout);
    std::string accumulator, kind;
    if (arg) {
        const bool last = node.integer("select_last_index") != 0;
        kind = node.is("ArgMin") ? "arg_min" : "arg_max";
        accumulator = fmt::format("planish::Extreme<{}, {}, {}>", node.is("ArgMin"), last, register_type(in));
    } else {
        kind = "reduce_" + std::string(reduction_of(node));
        accumulator =
            fmt::format("planish::Accumulator<planish::Reduction::{}, {}>", reduction_of(node), register_type(in));
    }
    const std::string types = fmt::format("{}, {}, {}", accumulator, memory_type(in), memory_type(out));
    const int64_t accumulator_bytes = arg                            ? 16
                                      : kind == "reduce_log_sum_exp" ? 8
                                      : byte_size(in, 1) < 4         ? 4
                                                                     : byte_size(in, 1);

    CudaKernel kernel;
    kernel.flops = element_count(node.input(0)->dims());
    ReduceParams params{};
    const auto add = [&](std::string name, int threads, std::array<unsigned, 3> grid, const std::string& call) {
        KernelSpec spec;
        spec.name = std::move(name);
        spec.threads = threads;
        spec.max_registers = 96;
        spec.source = kernel_source(kInclude, "", spec.name, threads, "planish::ReduceParams", call);
        if (kernel.name.empty()) kernel.name = spec.name;
        Launch launch = make_launch(std::move(spec), grid, params);
        launch.bind(offsetof(ReduceParams, input), input(0)).bind(offsetof(ReduceParams, output), output(0));
        if (kernel.workspace > 0) launch.bind(offsetof(ReduceParams, partial), workspace());
        launch.pdl = true;
        kernel.launches.push_back(std::move(launch));
    };
    const std::string prefix = fmt::format("{}_{}", kind, short_name(in));

    const auto shape = neighbours(axes);
    if (!shape) {
        int64_t outputs = 1, n = 1;
        int kept = 0, reduced = 0;
        for (const Axis& axis : axes) {
            int& slot = axis.reduced ? reduced : kept;
            (axis.reduced ? params.reduced : params.kept)[slot] = make_divisor(static_cast<unsigned>(axis.extent));
            (axis.reduced ? params.reduced_strides : params.kept_strides)[slot] = static_cast<int>(axis.stride);
            ++slot;
            (axis.reduced ? n : outputs) *= axis.extent;
        }
        params.n = static_cast<int>(n);
        params.outputs = static_cast<unsigned>(outputs);
        add(fmt::format("{}_scattered", prefix), 256, {blocks_for(outputs, 8), 1, 1},
            fmt::format("planish::reduce_scattered<{}, {}, {}>(p)", types, kept, reduced));
        return kernel;
    }

    params.n = static_cast<int>(shape->n);
    params.inner = static_cast<int>(shape->inner);
    params.outputs = static_cast<unsigned>(shape->outer * shape->inner);
    int64_t vector = std::min<int64_t>(8, 16 / byte_size(in, 1));
    while ((shape->inner == 1 ? shape->n : shape->inner) % vector != 0) vector /= 2;
    // Enough threads to hide memory's latency, with several vectors each.
    const int64_t wanted = int64_t{environment.device.multiprocessors} * 1024;
    const bool rows = shape->inner == 1;
    int threads = 32, columns = 32;
    int64_t per_output = 0;  // blocks of one split
    if (rows) {
        while (threads < 512 && shape->n >= int64_t{2} * threads * vector * 2 &&
               params.outputs * int64_t{threads} < wanted)
            threads *= 2;
        per_output = blocks_for(params.outputs, threads > 32 ? 1 : 8);
    } else {
        while (columns > 4 && shape->outer * shape->inner / vector / columns * 2 < environment.device.multiprocessors &&
               shape->n >= 256 / columns * 2)
            columns /= 2;
        // Shared memory holds the accumulators of a block: at most 48 KiB.
        while (vector > 1 && 256 * vector * accumulator_bytes > 48 * 1024) vector /= 2;
        per_output = blocks_for(params.outputs, columns * vector);
    }
    params.columns = make_divisor(static_cast<unsigned>(std::max<int64_t>(1, shape->inner / vector)));
    // Splits: where the outputs give too few blocks and each has much to do.
    const int64_t step = rows ? threads * vector : 256 / columns;
    int64_t splits = 1;
    if (!environment.batch_invariant && per_output < environment.device.multiprocessors && shape->n > step * 16)
        splits = std::clamp<int64_t>(2 * environment.device.multiprocessors / per_output, 1,
                                     std::min<int64_t>(256, shape->n / (step * 8)));
    params.length = static_cast<int>((shape->n + splits * step - 1) / (splits * step) * step);
    splits = (shape->n + params.length - 1) / params.length;
    const bool last = splits == 1;
    if (!last) kernel.workspace = (splits * params.outputs * accumulator_bytes + 255) / 256 * 256;
    const std::array<unsigned, 3> grid{static_cast<unsigned>(per_output), static_cast<unsigned>(splits), 1};
    if (rows)
        add(fmt::format("{}_rows_t{}_v{}{}", prefix, threads, vector, last ? "" : "_split"),
            threads > 32 ? threads : 256, grid,
            fmt::format("planish::reduce_rows<{}, {}, {}, {}>(p)", types, threads, vector, last));
    else
        add(fmt::format("{}_columns_{}x{}_v{}{}", prefix, columns, 256 / columns, vector, last ? "" : "_split"), 256,
            grid,
            fmt::format("planish::reduce_columns<{}, {}, {}, {}, {}>(p)", types, columns, 256 / columns, vector, last));
    if (!last)
        add(fmt::format("{}_splits", prefix), 128, {blocks_for(params.outputs, 128), 1, 1},
            fmt::format("planish::reduce_splits<{}, {}>(p, {})", accumulator, memory_type(out), splits));
    return kernel;
}

}  // namespace

const Implementation kReduce{"reduce_axes", can_reduce, reduce_formats, compile_reduce};

}  // namespace planish::cuda::families
