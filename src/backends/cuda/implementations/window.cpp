// Pooling over windows and resizing, channels last.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/cpu/kernels/resize.hpp"
#include "backends/cuda/implementations/strided.hpp"
#include "backends/cuda/kernels/reduce_params.h"
#include "backends/image_window.hpp"

namespace planish::cuda::families {
namespace {

constexpr int kThreads = 128;
constexpr std::string_view kInclude = "#include \"planish/window.cuh\"\n";

/// As many channels as 16 bytes hold; fewer where that leaves the device without work.
int64_t vector_of(int64_t channels, int64_t count, DType dtype, const Environment& environment) {
    int64_t vector = std::min<int64_t>(8, 16 / byte_size(dtype, 1));
    while (channels % vector != 0) vector /= 2;
    while (vector > 2 && count / vector < int64_t{environment.device.multiprocessors} * 128) vector /= 2;
    return vector;
}

CudaKernel window_kernel(KernelSpec spec, Launch launch, int64_t flops) {
    CudaKernel kernel;
    kernel.name = spec.name;
    launch.pdl = true;
    kernel.launches.push_back(std::move(launch));
    kernel.flops = flops;
    return kernel;
}

// ---- Pooling ----

Refusal can_pool(const RegionView& region, const Environment& environment) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    const DType dtype = node.input(0)->type.dtype;
    const bool bytes = dtype == DType::u8 || (dtype == DType::f8e4m3fn && environment.arch.at_least(89));
    if (dtype != DType::f32 && !(bytes && node.is("MaxPool"))) return Refusal::dtype_not_handled;
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const int64_t largest = std::max(element_count(in), element_count(out));
    if ((in.size() != 4 && in.size() != 3) || element_count(in) == 0 || element_count(out) == 0 ||
        largest >= int64_t{1} << 31)
        return Refusal::shape_not_handled;
    return uses_later_outputs(node) ? Refusal::attribute_not_handled : Refusal::none;
}

Formats pool_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    return image_formats(region, available, environment);
}

CudaKernel compile_pool(const RegionView& region, const Formats& formats, std::string_view,
                        const Environment& environment) {
    const Node& node = region.node();
    const ImageWindow window = image_window(node);
    const Dims y = node.output()->dims();
    const DType in = formats.inputs[0].dtype, out = formats.outputs[0].dtype;
    const bool average = node.is("AveragePool");
    const std::string kind = !average                                 ? "max"
                             : node.integer("count_include_pad") != 0 ? "average_with_padding"
                                                                      : "average";
    const int64_t count = element_count(y), vector = vector_of(y[1], count, in, environment);
    PoolParams params{};
    params.count = static_cast<unsigned>(count / vector);
    params.vectors = make_divisor(static_cast<unsigned>(y[1] / vector));
    params.out_w = make_divisor(static_cast<unsigned>(y.back()));
    params.out_h = make_divisor(static_cast<unsigned>(y.size() == 4 ? y[2] : 1));
    params.channels = static_cast<int>(y[1]);
    const auto at = [](const int64_t(&values)[2], int axis) { return static_cast<int>(values[axis]); };
    params.h = at(window.in, 0), params.w = at(window.in, 1);
    params.kernel_h = at(window.kernel, 0), params.kernel_w = at(window.kernel, 1);
    params.stride_h = at(window.stride, 0), params.stride_w = at(window.stride, 1);
    params.dilation_h = at(window.dilation, 0), params.dilation_w = at(window.dilation, 1);
    params.pad_top = at(window.begin, 0), params.pad_left = at(window.begin, 1);
    params.pad_bottom = at(window.end, 0), params.pad_right = at(window.end, 1);
    const bool small = params.kernel_h * params.kernel_w <= 9;
    KernelSpec spec;
    spec.name = fmt::format("{}_pool_{}_v{}", kind, short_name(in), vector);
    if (small) spec.name += fmt::format("_{}x{}", params.kernel_h, params.kernel_w);
    spec.threads = kThreads;
    spec.max_registers = 96;
    spec.source = kernel_source(
        kInclude, "", spec.name, kThreads, "planish::PoolParams",
        fmt::format("planish::pool<{}, {}, planish::Pooling::{}, {}, {}, {}>(p)", element_type(in), element_type(out),
                    kind, vector, small ? params.kernel_h : 0, small ? params.kernel_w : 0));
    Launch launch = make_launch(spec, {blocks_for(params.count, kThreads), 1, 1}, params)
                        .bind(offsetof(PoolParams, input), input(0))
                        .bind(offsetof(PoolParams, output), output(0));
    return window_kernel(std::move(spec), std::move(launch), count * params.kernel_h * params.kernel_w);
}

// ---- Resize ----

template <typename E>
struct Named {
    std::string_view name;
    E value;
};
constexpr Named<cpu::ResizeMode> kModes[] = {
    {"nearest", cpu::ResizeMode::nearest}, {"linear", cpu::ResizeMode::linear}, {"cubic", cpu::ResizeMode::cubic}};
constexpr Named<cpu::ResizeCoordinates> kCoordinates[] = {
    {"half_pixel", cpu::ResizeCoordinates::half_pixel},
    {"half_pixel_symmetric", cpu::ResizeCoordinates::half_pixel_symmetric},
    {"pytorch_half_pixel", cpu::ResizeCoordinates::pytorch_half_pixel},
    {"align_corners", cpu::ResizeCoordinates::align_corners},
    {"asymmetric", cpu::ResizeCoordinates::asymmetric},
};
constexpr Named<cpu::ResizeNearest> kNearest[] = {{"round_prefer_floor", cpu::ResizeNearest::round_prefer_floor},
                                                  {"round_prefer_ceil", cpu::ResizeNearest::round_prefer_ceil},
                                                  {"floor", cpu::ResizeNearest::floor},
                                                  {"ceil", cpu::ResizeNearest::ceil}};

template <typename E, size_t N>
std::optional<E> lookup(const Named<E> (&rows)[N], std::string_view name) {
    for (const Named<E>& row : rows)
        if (row.name == name) return row.value;
    return std::nullopt;
}

std::optional<cpu::ResizeAxis> axis_of(const Node& node, size_t axis) {
    const auto mode = lookup(kModes, node.text("mode"));
    const auto coordinates = lookup(kCoordinates, node.text("coordinate_transformation_mode"));
    const auto nearest = lookup(kNearest, node.text("nearest_mode"));
    if (!mode || !coordinates || !nearest) return std::nullopt;
    cpu::ResizeAxis result;
    result.in = node.input(0)->dims()[axis];
    result.out = node.output()->dims()[axis];
    result.scale = static_cast<double>(result.out) / static_cast<double>(result.in);
    if (const Value* given = node.input(2); given != nullptr && element_count(given->dims()) > 0) {
        if (!given->is_constant()) return std::nullopt;
        const auto& axes = node.integers("axes");
        const std::vector<double> values = given->constant->to_doubles();
        for (size_t i = 0; i < values.size(); ++i) {
            const int64_t a = axes.empty() ? static_cast<int64_t>(i) : axes[i] < 0 ? axes[i] + 4 : axes[i];
            if (static_cast<size_t>(a) == axis) result.scale = values[i];
        }
    }
    result.mode = *mode;
    result.coordinates = *coordinates;
    result.nearest = *nearest;
    result.cubic_a = node.real("cubic_coeff_a");
    result.exclude_outside = node.integer("exclude_outside") != 0;
    return result;
}

Refusal can_resize(const RegionView& region, const Environment&) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    if (!is_f32(node.input(0))) return Refusal::dtype_not_handled;
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    if (in.size() != 4 || in[0] != out[0] || in[1] != out[1] || element_count(in) == 0 || element_count(out) == 0 ||
        std::max(element_count(in), element_count(out)) >= int64_t{1} << 31)
        return Refusal::shape_not_handled;
    if (node.integer("antialias") != 0 || node.text("keep_aspect_ratio_policy") != "stretch" || !axis_of(node, 2))
        return Refusal::attribute_not_handled;
    return Refusal::none;
}

/// int [out, taps] of indices, then float [out, taps] of weights.
Tensor table_of(const cpu::ResizeTable& table) {
    const size_t count = table.index.size();
    Tensor tensor(DType::i32, {static_cast<int64_t>(2 * count)});
    auto* to = static_cast<int32_t*>(tensor.raw());
    for (size_t i = 0; i < count; ++i) to[i] = static_cast<int32_t>(table.index[i]);
    std::memcpy(to + count, table.weight.data(), count * sizeof(float));
    return tensor;
}

CudaKernel compile_resize(const RegionView& region, const Formats& formats, std::string_view,
                          const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const DType from = formats.inputs[0].dtype, to = formats.outputs[0].dtype;
    const cpu::ResizeTable rows = cpu::resize_table(*axis_of(node, 2)), columns = cpu::resize_table(*axis_of(node, 3));
    const int64_t count = element_count(out), vector = vector_of(in[1], count, from, environment);
    ResizeParams params{};
    params.count = static_cast<unsigned>(count / vector);
    params.vectors = make_divisor(static_cast<unsigned>(in[1] / vector));
    params.out_w = make_divisor(static_cast<unsigned>(out[3]));
    params.out_h = make_divisor(static_cast<unsigned>(out[2]));
    params.h = static_cast<int>(in[2]);
    params.w = static_cast<int>(in[3]);
    params.channels = static_cast<int>(in[1]);
    KernelSpec spec;
    spec.name = fmt::format("resize_{}_{}x{}_v{}", short_name(from), rows.taps, columns.taps, vector);
    spec.threads = kThreads;
    spec.max_registers = 128;
    spec.source = kernel_source(kInclude, "", spec.name, kThreads, "planish::ResizeParams",
                                fmt::format("planish::resize<{}, {}, {}, {}, {}>(p)", memory_type(from),
                                            memory_type(to), vector, rows.taps, columns.taps));
    Launch launch = make_launch(spec, {blocks_for(params.count, kThreads), 1, 1}, params)
                        .bind(offsetof(ResizeParams, input), input(0))
                        .bind(offsetof(ResizeParams, output), output(0))
                        .bind(offsetof(ResizeParams, rows), constant(0))
                        .bind(offsetof(ResizeParams, columns), constant(1));
    CudaKernel kernel = window_kernel(std::move(spec), std::move(launch), 2 * count * rows.taps * columns.taps);
    kernel.add_constant(table_of(rows));
    kernel.add_constant(table_of(columns));
    return kernel;
}

}  // namespace

const Implementation kPool{"pool_window", can_pool, pool_formats, compile_pool};
const Implementation kResize{"resize_image", can_resize, image_formats, compile_resize};

}  // namespace planish::cuda::families
