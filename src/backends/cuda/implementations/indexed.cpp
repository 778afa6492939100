// Gathering and scattering by several indices, running sums, the largest elements of rows: kernels/indexed.cuh.
#include "backends/cuda/implementations/indexed.hpp"

#include <fmt/format.h>

#include <bit>
#include <numeric>

#include "backends/cuda/expression.hpp"
#include "backends/cuda/implementations/strided.hpp"
#include "backends/cuda/kernels/indexed_params.h"

namespace planish::cuda::families {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMost = int64_t{1} << 31;
constexpr int64_t kLongestSorted = 8192;  // 64 KiB of shared memory

int64_t normal_axis(int64_t axis, const Dims& dims) {
    return axis < 0 ? axis + static_cast<int64_t>(dims.size()) : axis;
}

template <typename Params>
Launch launch_of(std::string name, std::string_view call, unsigned blocks, const Params& params,
                 std::string_view params_type) {
    KernelSpec spec;
    spec.name = std::move(name);
    spec.source = kernel_source("#include \"planish/indexed.cuh\"\n", "", spec.name, kThreads, params_type, call);
    spec.threads = kThreads;
    spec.max_registers = 64;
    Launch launch = make_launch(std::move(spec), {blocks, 1, 1}, params);
    launch.pdl = true;
    return launch;
}

/// Data and indices of a size and type that the kernels count and read.
Refusal check(const RegionView& region) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    const int bits = bit_width(node.input(0)->type.dtype);
    const DType index = node.input(1)->type.dtype;
    if (bits < 8 || bits > 64 || (index != DType::i64 && index != DType::i32)) return Refusal::dtype_not_handled;
    for (const auto values : {node.inputs(), node.outputs()})
        for (const Value* value : values)
            if (const int64_t count = element_count(value->dims()); count == 0 || count >= kMost)
                return Refusal::shape_not_handled;
    return Refusal::none;
}

bool scatters(const Node& node) {
    return node.is("ScatterElements") || node.is("ScatterND");
}
std::string_view index_type(const Node& node) {
    return node.input(1)->type.dtype == DType::i64 ? "long long" : "int";
}

/// The launch that gathers or scatters; a scattering one behind a copy of the data.
template <typename Params>
CudaKernel finish(const RegionView& region, Launch launch, int64_t bytes) {
    const bool scatter = scatters(region.node());
    launch.bind(offsetof(Params, from), input(scatter ? 2 : 0))
        .bind(offsetof(Params, indices), input(1))
        .bind(offsetof(Params, to), output(0));
    CudaKernel kernel;
    kernel.name = launch.spec.name;
    if (scatter) {
        const int64_t count = element_count(region.output().dims());
        kernel.launches.push_back(strided_launch(
            copy_problem("copy", {count}, moved(bytes, {1}, 0, input(0)), moved(bytes, {1}, 0, output(0)))));
    }
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

// ---- GatherElements, ScatterElements ----

Refusal can_take_elements(const RegionView& region, const Environment&) {
    if (const Refusal r = check(region); r != Refusal::none) return r;
    const Node& node = region.node();
    if (scatters(node) && node.text("reduction") != "none") return Refusal::attribute_not_handled;
    return node.input(0)->dims().size() <= kIndexedRank ? Refusal::none : Refusal::shape_not_handled;
}

CudaKernel compile_elements(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims data = node.input(0)->dims(), indices = node.input(1)->dims();
    const auto strides = logical_strides(data, Layout::plain);
    const auto axis = static_cast<size_t>(normal_axis(node.integer("axis"), data));
    const int64_t bytes = byte_size(formats.outputs[0].dtype, 1);
    ElementsParams params{};
    params.count = static_cast<unsigned>(element_count(indices));
    for (size_t i = 0; i < data.size(); ++i) {
        params.extents[i] = make_divisor(static_cast<unsigned>(indices[i]));
        params.strides[i] = i == axis ? 0 : static_cast<int>(strides[i]);
    }
    params.axis = static_cast<int>(data[axis]);
    params.axis_stride = static_cast<int>(strides[axis]);
    const bool scatter = scatters(node);
    return finish<ElementsParams>(region,
                                  launch_of(fmt::format("{}_elements_b{}_r{}_{}", scatter ? "scatter" : "gather",
                                                        8 * bytes, data.size(), short_name(node.input(1)->type.dtype)),
                                            fmt::format("planish::elements<{}, {}, {}, {}>(p)", scatter, data.size(),
                                                        moved_type(bytes), index_type(node)),
                                            blocks_for(params.count, kThreads), params, "planish::ElementsParams"),
                                  bytes);
}

// ---- GatherND, ScatterND ----

Refusal can_take_tuples(const RegionView& region, const Environment&) {
    if (const Refusal r = check(region); r != Refusal::none) return r;
    const Node& node = region.node();
    if (scatters(node) ? node.text("reduction") != "none" : node.integer("batch_dims") != 0)
        return Refusal::attribute_not_handled;
    return node.input(1)->dims().back() <= kIndexedRank ? Refusal::none : Refusal::shape_not_handled;
}

CudaKernel compile_tuples(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims data = node.input(0)->dims(), indices = node.input(1)->dims();
    const auto strides = logical_strides(data, Layout::plain);
    const int64_t bytes = byte_size(formats.outputs[0].dtype, 1), tuple = indices.back();
    int64_t inner = bytes;
    for (auto i = static_cast<size_t>(tuple); i < data.size(); ++i) inner *= data[i];
    const int64_t unit = std::gcd<int64_t>(16, inner);
    TuplesParams params{};
    params.count = static_cast<unsigned>(element_count(indices) / tuple * (inner / unit));
    params.inner = make_divisor(static_cast<unsigned>(inner / unit));
    params.tuple = static_cast<int>(tuple);
    for (size_t i = 0; i < static_cast<size_t>(tuple); ++i) {
        params.lengths[i] = static_cast<int>(data[i]);
        params.strides[i] = static_cast<int>(strides[i] * bytes / unit);
    }
    const bool scatter = scatters(node);
    return finish<TuplesParams>(
        region,
        launch_of(fmt::format("{}_nd_b{}_{}", scatter ? "scatter" : "gather", 8 * unit,
                              short_name(node.input(1)->type.dtype)),
                  fmt::format("planish::tuples<{}, {}, {}>(p)", scatter, moved_type(unit), index_type(node)),
                  blocks_for(params.count, kThreads), params, "planish::TuplesParams"),
        bytes);
}

// ---- CumSum ----

Refusal can_sum(const RegionView& region, const Environment&) {
    const Node& node = region.node();
    const DType dtype = node.input(0)->type.dtype;
    if (dtype != DType::f32 && dtype != DType::i32 && dtype != DType::i64) return Refusal::dtype_not_handled;
    if (!node.input(1)->is_constant()) return Refusal::weights_not_constant;
    const int64_t count = element_count(region.output().dims());
    return count == 0 || count >= kMost ? Refusal::shape_not_handled : Refusal::none;
}

CudaKernel compile_sum(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims dims = region.output().dims();
    const auto axis = static_cast<size_t>(normal_axis(node.input(1)->constant->at_int64(0), dims));
    const int64_t inner = logical_strides(dims, Layout::plain)[axis];
    const DType dtype = formats.outputs[0].dtype;
    LinesParams params{};
    params.n = static_cast<int>(dims[axis]);
    params.lines = static_cast<unsigned>(element_count(dims) / dims[axis]);
    params.inner = make_divisor(static_cast<unsigned>(inner));
    const bool exclusive = node.integer("exclusive") != 0, reverse = node.integer("reverse") != 0;
    CudaKernel kernel;
    kernel.launches.push_back(
        launch_of(
            fmt::format("cum_sum_{}{}{}", short_name(dtype), exclusive ? "_exclusive" : "", reverse ? "_reverse" : ""),
            fmt::format("planish::running_sum<{}, {}, {}>(p)", memory_type(dtype), exclusive, reverse),
            blocks_for(params.lines, kThreads), params, "planish::LinesParams")
            .bind(offsetof(LinesParams, input), input(0))
            .bind(offsetof(LinesParams, output), output(0)));
    kernel.name = kernel.launches[0].spec.name;
    kernel.flops = element_count(dims);
    return kernel;
}

// ---- TopK ----

Refusal can_select(const RegionView& region, const Environment&) {
    const Node& node = region.node();
    if (node.input(0)->type.dtype != DType::f32) return Refusal::dtype_not_handled;
    const Dims dims = node.input(0)->dims();
    const bool rows = !dims.empty() && normal_axis(node.integer("axis"), dims) + 1 == static_cast<int64_t>(dims.size());
    if (!rows || dims.back() > kLongestSorted || element_count(region.output().dims()) == 0 ||
        element_count(dims) / dims.back() >= kMost)
        return Refusal::shape_not_handled;
    return Refusal::none;
}

CudaKernel compile_top_k(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims dims = node.input(0)->dims();
    const DType dtype = formats.inputs[0].dtype;
    TopKParams params{};
    params.n = static_cast<int>(dims.back());
    params.k = static_cast<int>(region.output().dims().back());
    const auto size = std::bit_ceil(static_cast<unsigned>(std::max(params.n, 2)));
    const bool largest = node.integer("largest") != 0;
    Launch launch =
        launch_of(fmt::format("top_k_{}_{}{}", short_name(dtype), size, largest ? "" : "_smallest"),
                  fmt::format("planish::top_k<{}, {}, {}, {}>(p)", memory_type(dtype), largest, size, kThreads),
                  static_cast<unsigned>(element_count(dims) / dims.back()), params, "planish::TopKParams");
    launch.spec.shared_bytes = static_cast<int>(size * 8);
    launch.bind(offsetof(TopKParams, input), input(0))
        .bind(offsetof(TopKParams, values), output(0))
        .bind(offsetof(TopKParams, indices), output(1));
    CudaKernel kernel;
    kernel.name = launch.spec.name;
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

const Implementation kElements{"elements", can_take_elements, plain_formats, compile_elements};
const Implementation kTuples{"tuples", can_take_tuples, plain_formats, compile_tuples};
const Implementation kCumSum{"cum_sum", can_sum, plain_formats, compile_sum};
const Implementation kTopK{"top_k", can_select, plain_formats, compile_top_k};

}  // namespace planish::cuda::families
