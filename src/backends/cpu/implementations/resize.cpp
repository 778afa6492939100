// Resize of height and width of channels-last images: weighted sums of neighbours from tables made at compile time.
#include "backends/cpu/kernels/resize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/kernels/movement.hpp"
#include "backends/cpu/split.hpp"

namespace planish::cpu::families {
namespace {

template <typename E>
struct Named {
    std::string_view name;
    E value;
};
constexpr Named<ResizeMode> kModes[] = {
    {"nearest", ResizeMode::nearest}, {"linear", ResizeMode::linear}, {"cubic", ResizeMode::cubic}};
constexpr Named<ResizeCoordinates> kCoordinates[] = {
    {"half_pixel", ResizeCoordinates::half_pixel},
    {"half_pixel_symmetric", ResizeCoordinates::half_pixel_symmetric},
    {"pytorch_half_pixel", ResizeCoordinates::pytorch_half_pixel},
    {"align_corners", ResizeCoordinates::align_corners},
    {"asymmetric", ResizeCoordinates::asymmetric},
};
constexpr Named<ResizeNearest> kNearest[] = {{"round_prefer_floor", ResizeNearest::round_prefer_floor},
                                             {"round_prefer_ceil", ResizeNearest::round_prefer_ceil},
                                             {"floor", ResizeNearest::floor},
                                             {"ceil", ResizeNearest::ceil}};

template <typename E, size_t N>
std::optional<E> lookup(const Named<E> (&rows)[N], std::string_view name) {
    for (const Named<E>& row : rows)
        if (row.name == name) return row.value;
    return std::nullopt;
}

// The scale of each of the four axes: as given, or out / in.
std::optional<std::array<double, 4>> scales_of(const Node& node) {
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    std::array<double, 4> scales;
    for (size_t i = 0; i < 4; ++i) scales[i] = static_cast<double>(out[i]) / static_cast<double>(in[i]);
    const Value* given = node.input(2);
    if (given == nullptr || element_count(given->dims()) == 0) return scales;
    if (!given->is_constant()) return std::nullopt;
    const auto& axes = node.integers("axes");
    const std::vector<double> values = given->constant->to_doubles();
    for (size_t i = 0; i < values.size(); ++i) {
        const int64_t axis = axes.empty() ? static_cast<int64_t>(i) : axes[i] < 0 ? axes[i] + 4 : axes[i];
        scales[static_cast<size_t>(axis)] = values[i];
    }
    return scales;
}

std::optional<ResizeAxis> axis_of(const Node& node, size_t axis) {
    const auto mode = lookup(kModes, node.text("mode"));
    const auto coordinates = lookup(kCoordinates, node.text("coordinate_transformation_mode"));
    const auto nearest = lookup(kNearest, node.text("nearest_mode"));
    const auto scales = scales_of(node);
    if (!mode || !coordinates || !nearest || !scales) return std::nullopt;
    ResizeAxis result;
    result.in = node.input(0)->dims()[axis];
    result.out = node.output()->dims()[axis];
    result.scale = (*scales)[axis];
    result.mode = *mode;
    result.coordinates = *coordinates;
    result.nearest = *nearest;
    result.cubic_a = node.real("cubic_coeff_a");
    result.exclude_outside = node.integer("exclude_outside") != 0;
    result.antialias = node.integer("antialias") != 0;
    return result;
}

Refusal can_resize(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    const bool bytes = node.input(0)->type.dtype == DType::u8 && node.text("mode") == "nearest";
    if (!bytes && !is_f32(node.input(0))) return Refusal::dtype_not_handled;
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    if (in.size() != 4 || in[0] != out[0] || in[1] != out[1] || element_count(in) == 0 || element_count(out) == 0)
        return Refusal::shape_not_handled;
    if (node.integer("antialias") != 0 || node.text("keep_aspect_ratio_policy") != "stretch" || !axis_of(node, 2))
        return Refusal::attribute_not_handled;
    return Refusal::none;
}

Layouts layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[0] = result.outputs[0] = Layout::channels_last;
    return result;
}

// A table with its indices as distances in floats.
struct Axis {
    ResizeTable table;
    Axis(const ResizeAxis& axis, int64_t step) : table(resize_table(axis)) {
        for (int64_t& index : table.index) index *= step;
    }
};

// Nearest pixels of bytes: copies of the channels.
std::unique_ptr<Kernel> compile_bytes(const RegionView& region) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const int64_t steps[] = {in[1] * in[2] * in[3], in[3] * in[1], in[1], 1};
    const auto run_of = [](int64_t count) {
        std::vector<int64_t> indices(static_cast<size_t>(count));
        std::iota(indices.begin(), indices.end(), int64_t{0});
        return indices;
    };
    std::vector<std::vector<int64_t>> tables = {run_of(out[0]), resize_table(*axis_of(node, 2)).index,
                                                resize_table(*axis_of(node, 3)).index, run_of(out[1])};
    for (size_t axis = 0; axis < tables.size(); ++axis)
        for (int64_t& index : tables[axis]) index *= steps[axis];
    auto plan = std::make_shared<const GridCopyPlan>(std::move(tables), 1);
    const int64_t cost = element_count(out) / std::max<int64_t>(1, plan->items()) / 8;
    return make_kernel("resize_8bit", [plan, cost](const Launch& launch) {
        split_items(launch, plan->items(), cost,
                    [&](int64_t b, int64_t e, int) { plan->run(launch.in[0], nullptr, launch.out[0], b, e); });
    });
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.node();
    if (!is_f32(node.input(0))) return compile_bytes(region);
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const int64_t channels = in[1];
    auto rows = std::make_shared<const Axis>(*axis_of(node, 2), in[3] * channels);
    auto columns = std::make_shared<const Axis>(*axis_of(node, 3), channels);
    ResizeArgs args;
    args.channels = channels;
    args.out_height = out[2];
    args.out_width = out[3];
    args.in_image_stride = in[2] * in[3] * channels;
    args.out_row_stride = out[3] * channels;
    args.out_image_stride = out[2] * args.out_row_stride;
    args.taps_h = rows->table.taps;
    args.taps_w = columns->table.taps;
    args.offset_h = rows->table.index.data();
    args.offset_w = columns->table.index.data();
    args.weight_h = rows->table.weight.data();
    args.weight_w = columns->table.weight.data();
    auto kernel = make_kernel(fmt::format("resize_f32_{}", to_string(environment.isa)),
                              [args, rows, columns, items = out[0] * out[2],
                               function = kernels(environment.isa).resize](const Launch& launch) {
                                  ResizeArgs a = args;
                                  a.input = launch.f32(0);
                                  a.output = launch.out_f32();
                                  split_items(launch, items, a.out_row_stride / 4 * a.taps_h * a.taps_w,
                                              [&](int64_t b, int64_t e, int) { function(a, b, e); });
                              });
    kernel->flops = 2 * element_count(out) * args.taps_h * args.taps_w;
    return kernel;
}

}  // namespace

const Implementation kResize{"resize_image", can_resize, layouts, compile};

}  // namespace planish::cpu::families
