// Ops that only move elements: strided copies, tiles through shared memory, rows side by side.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "backends/cuda/implementations/strided.hpp"
#include "backends/cuda/kernels/movement_params.h"

namespace planish::cuda::families {
namespace {

constexpr int kThreads = 256;
constexpr std::string_view kInclude = "#include \"planish/movement.cuh\"\n";

int64_t element_bytes(const Format& format) {
    return byte_size(format.dtype, 1);
}

int64_t normal_axis(int64_t axis, size_t rank) {
    return axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
}

std::optional<std::vector<int64_t>> constant_list(const Node& node, int input) {
    const Value* value = node.input(input);
    if (value == nullptr || !value->is_constant()) return std::nullopt;
    return value->constant->to_int64s();
}

bool constant_or_absent(const Node& node, int first) {
    for (int i = first; i < node.input_count(); ++i)
        if (node.input(i) != nullptr && !node.input(i)->is_constant()) return false;
    return true;
}

Refusal can_move(const RegionView& region, const Environment&) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    for (const auto values : {region.node().inputs(), region.node().outputs()})
        for (const Value* value : values) {
            if (value == nullptr) continue;
            const int bits = bit_width(value->type.dtype);
            if (bits < 8 || bits > 64) return Refusal::dtype_not_handled;
            if (element_count(value->dims()) >= int64_t{1} << 31) return Refusal::shape_not_handled;
        }
    for (const Value* output : region.node().outputs())
        if (element_count(output->dims()) == 0) return Refusal::shape_not_handled;
    return Refusal::none;
}

CudaKernel kernel_of(Launch launch) {
    CudaKernel kernel;
    kernel.name = launch.spec.name;
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

template <typename Params>
Launch movement_launch(std::string name, const std::string& call, std::array<unsigned, 3> grid, const Params& params,
                       std::string_view params_type) {
    KernelSpec spec;
    spec.name = std::move(name);
    spec.source = kernel_source(kInclude, "", spec.name, kThreads, params_type, call);
    spec.threads = kThreads;
    spec.max_registers = 64;
    Launch launch = make_launch(std::move(spec), grid, params);
    launch.pdl = true;
    return launch;
}

// ---- One strided copy ----

/// `input` has a stride for each of the output's logical axes.
struct Copy {
    std::string name;
    std::vector<int64_t> strides;
    int64_t offset = 0;
};

/// Where the axis that neighbours in the input is not the output's last: tiles. nullopt: no such pair of axes, or too
/// few elements along one of them, or more than two axes beside them.
std::optional<Launch> transpose_launch(const Dims& extents, const std::vector<int64_t>& in,
                                       const std::vector<int64_t>& out, int64_t bytes, int64_t offset) {
    // Merge what stays together; outputs are dense, so that the output's order is that of `extents`.
    Dims merged;
    std::vector<int64_t> from, to;
    for (size_t i = 0; i < extents.size(); ++i) {
        if (extents[i] == 1) continue;
        if (!merged.empty() && from.back() == in[i] * extents[i] && to.back() == out[i] * extents[i]) {
            merged.back() *= extents[i];
            from.back() = in[i];
            to.back() = out[i];
            continue;
        }
        merged.push_back(extents[i]);
        from.push_back(in[i]);
        to.push_back(out[i]);
    }
    if (merged.size() < 2 || merged.size() > 4 || to.back() != 1 || from.back() == 1) return std::nullopt;
    const size_t rows = merged.size() - 1;  // neighbours in the output
    const auto unit = std::find(from.begin(), from.end(), int64_t{1});
    if (unit == from.end()) return std::nullopt;
    const auto columns = static_cast<size_t>(unit - from.begin());
    if (merged[rows] < 16 || merged[columns] < 16) return std::nullopt;
    TransposeParams params{};
    params.rows = static_cast<int>(merged[rows]);
    params.columns = static_cast<int>(merged[columns]);
    params.row_stride = static_cast<int>(from[rows]);
    params.column_stride = static_cast<int>(to[columns]);
    int64_t batches[2] = {1, 1};
    int slot = 1;
    for (size_t i = merged.size(); i-- > 0;) {
        if (i == rows || i == columns) continue;
        batches[slot] = merged[i];
        params.input_strides[slot] = static_cast<int>(from[i]);
        params.output_strides[slot] = static_cast<int>(to[i]);
        --slot;
    }
    params.inner_batches = make_divisor(static_cast<unsigned>(batches[1]));
    const int64_t tile = bytes >= 8 ? 32 : 64, count = batches[0] * batches[1];
    const unsigned down = blocks_for(merged[rows], tile);
    if (count > 65535 || down > 65535) return std::nullopt;
    return movement_launch(fmt::format("transpose_b{}", 8 * bytes),
                           fmt::format("planish::transpose<{}>(p)", moved_type(bytes)),
                           {blocks_for(merged[columns], tile), down, static_cast<unsigned>(count)}, params,
                           "planish::TransposeParams")
        .bind(offsetof(TransposeParams, input), input(0, offset * bytes))
        .bind(offsetof(TransposeParams, output), output(0));
}

CudaKernel copy_kernel(const RegionView& region, const Formats& formats, Copy copy) {
    const Dims out = region.output().dims();
    const Layout layout = formats.outputs[0].layout;
    const Dims extents = physical_order(out, layout);
    const std::vector<int64_t> from = physical_order(copy.strides, layout),
                               to = physical_order(logical_strides(out, layout), layout);
    const int64_t bytes = element_bytes(formats.outputs[0]);
    if (auto launch = transpose_launch(extents, from, to, bytes, copy.offset)) return kernel_of(std::move(*launch));
    return kernel_of(strided_launch(
        copy_problem(copy.name, extents, moved(bytes, from, copy.offset, input(0)), moved(bytes, to, 0, output(0)))));
}

/// The ranks that strided_launch takes, whatever the layout.
Refusal can_copy(const RegionView& region, const std::vector<int64_t>& strides) {
    const Dims out = region.output().dims();
    for (const Layout layout : {Layout::plain, Layout::channels_last}) {
        const StridedProblem problem =
            copy_problem("copy", physical_order(out, layout), moved(4, physical_order(strides, layout), 0, input(0)),
                         moved(4, physical_order(logical_strides(out, layout), layout), 0, output(0)));
        if (!can_launch(problem)) return Refusal::shape_not_handled;
    }
    return Refusal::none;
}

template <Copy (*copy_of)(const RegionView&, Layout)>
Refusal can_be_copied(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    if (!constant_or_absent(region.node(), 1)) return Refusal::weights_not_constant;
    return can_copy(region, copy_of(region, Layout::plain).strides);
}
template <Copy (*copy_of)(const RegionView&, Layout)>
CudaKernel compile_copy(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    return copy_kernel(region, formats, copy_of(region, formats.inputs[0].layout));
}

// ---- Transpose ----

Copy transposed(const RegionView& region, Layout layout) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims();
    std::vector<int64_t> perm = node.integers("perm");
    if (perm.empty()) {
        perm.resize(in.size());
        std::iota(perm.rbegin(), perm.rend(), int64_t{0});
    }
    const std::vector<int64_t> own = logical_strides(in, layout);
    Copy copy{"transpose", {}, 0};
    for (const int64_t p : perm) copy.strides.push_back(own[static_cast<size_t>(p)]);
    return copy;
}

// Reads its input as it lies; the result is plain.
Formats transpose_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats result = plain_formats(region, available, environment);
    result.inputs[0].layout = available[0].layout;
    return result;
}

// ---- Slice ----

Copy sliced(const RegionView& region, Layout layout) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims();
    Copy copy{"slice", logical_strides(in, layout), 0};
    const auto starts = *constant_list(node, 1);
    const auto axes = constant_list(node, 3), steps = constant_list(node, 4);
    for (size_t i = 0; i < starts.size(); ++i) {
        const auto axis = static_cast<size_t>(axes ? normal_axis((*axes)[i], in.size()) : static_cast<int64_t>(i));
        const int64_t step = steps ? (*steps)[i] : 1, length = in[axis];
        const int64_t start =
            std::clamp<int64_t>(starts[i] < 0 ? starts[i] + length : starts[i], 0, step < 0 ? length - 1 : length);
        copy.offset += start * copy.strides[axis];
        copy.strides[axis] *= step;
    }
    return copy;
}

// ---- Expand ----

Copy expanded(const RegionView& region, Layout layout) {
    return {"expand", broadcast_strides(region.input(0).dims(), layout, region.output().dims()), 0};
}

// ---- Concat, Split ----

/// [rows, width] with the pieces' shares of a row, in units that are as long as all of them allow.
struct Rows {
    int64_t rows = 1, width = 0, bytes = 1;
    std::vector<int64_t> widths;
};

Rows rows_of(const RegionView& region, std::span<Value* const> pieces, const Value& whole, Layout layout,
             int64_t bytes) {
    const Dims dims = whole.dims();
    const int64_t axis = normal_axis(region.node().integer("axis"), dims.size());
    const auto at = static_cast<size_t>(physical_axis(axis, static_cast<int64_t>(dims.size()), layout));
    const Dims physical = physical_dims(dims, layout);
    Rows rows;
    for (size_t i = 0; i < at; ++i) rows.rows *= physical[i];
    int64_t inner = bytes;
    for (size_t i = at + 1; i < physical.size(); ++i) inner *= physical[i];
    for (const Value* piece : pieces) rows.widths.push_back(piece->dims()[static_cast<size_t>(axis)] * inner);
    int64_t unit = 16;
    for (const int64_t width : rows.widths) unit = std::gcd(unit, width);
    rows.bytes = unit;
    for (int64_t& width : rows.widths) width /= unit;
    rows.width = std::accumulate(rows.widths.begin(), rows.widths.end(), int64_t{0});
    return rows;
}

Refusal can_join(const RegionView& region, const Environment& environment) {
    const bool split = region.node().is("Split");
    if ((split ? region.node().outputs().size() : region.node().inputs().size()) > kMaxPieces)
        return Refusal::shape_not_handled;
    if (split && !constant_or_absent(region.node(), 1)) return Refusal::weights_not_constant;
    return can_move(region, environment);
}

CudaKernel compile_pieces(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const bool split = region.node().is("Split");
    const Format& format = formats.outputs[0];
    const auto pieces = split ? region.node().outputs() : region.node().inputs();
    const Value& whole = split ? region.input(0) : region.output();
    const Rows rows = rows_of(region, pieces, whole, format.layout, element_bytes(format));
    PiecesParams params{};
    params.count = static_cast<unsigned>(rows.rows * rows.width);
    params.width = make_divisor(static_cast<unsigned>(rows.width));
    params.pieces_count = static_cast<int>(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) params.first[i + 1] = params.first[i] + static_cast<int>(rows.widths[i]);
    Launch launch =
        movement_launch(fmt::format("{}_b{}", split ? "split" : "concat", 8 * rows.bytes),
                        fmt::format("planish::pieces<{}, {}>(p)", split ? "false" : "true", moved_type(rows.bytes)),
                        {blocks_for(params.count, kThreads), 1, 1}, params, "planish::PiecesParams");
    for (size_t i = 0; i < pieces.size(); ++i) {
        const auto index = static_cast<int>(i);
        launch.bind(offsetof(PiecesParams, pieces) + i * sizeof(void*), split ? output(index) : input(index));
    }
    launch.bind(offsetof(PiecesParams, joined), split ? input(0) : output(0));
    return kernel_of(std::move(launch));
}

// ---- Pad ----

Refusal can_pad(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    const Node& node = region.node();
    if (node.text("mode") != "constant") return Refusal::attribute_not_handled;
    if (!constant_or_absent(node, 1)) return Refusal::weights_not_constant;
    return region.output().dims().size() <= kPadRank ? Refusal::none : Refusal::shape_not_handled;
}

CudaKernel compile_pad(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const Format& format = formats.outputs[0];
    const size_t rank = std::max<size_t>(out.size(), 1);
    Dims begin(out.size(), 0);
    const auto pads = *constant_list(node, 1);
    const auto axes = constant_list(node, 3);
    for (size_t i = 0; i < pads.size() / 2; ++i)
        begin[static_cast<size_t>(axes ? normal_axis((*axes)[i], out.size()) : static_cast<int64_t>(i))] = pads[i];
    const Dims extents = physical_order(out, format.layout), sizes = physical_order(in, format.layout),
               begins = physical_order(begin, format.layout),
               strides = physical_order(logical_strides(in, formats.inputs[0].layout), format.layout);
    int64_t bytes = element_bytes(format), vector = 1;
    if (!out.empty() && begins.back() == 0 && sizes.back() == extents.back())
        for (vector = 16 / bytes; extents.back() % vector != 0;) vector /= 2;
    PadParams params{};
    params.count = static_cast<unsigned>(element_count(out));
    for (size_t i = 0; i < out.size(); ++i) {
        const int64_t unit = i + 1 == out.size() ? vector : 1;
        params.extents[i] = make_divisor(static_cast<unsigned>(extents[i] / unit));
        params.begin[i] = static_cast<int>(begins[i] / unit);
        params.size[i] = static_cast<int>(sizes[i] / unit);
        params.strides[i] = static_cast<int>(strides[i] * unit);
    }
    if (const Value* value = node.input(2); value != nullptr && value->constant->size() == 1) {
        const Tensor converted = stored(*value->constant, {Layout::plain, format.dtype});
        std::memcpy(&params.value, converted.raw(), static_cast<size_t>(bytes));
    }
    return kernel_of(movement_launch(fmt::format("pad_b{}_v{}_r{}", 8 * bytes, vector, rank),
                                     fmt::format("planish::pad<{}, {}, {}>(p)", rank, vector, moved_type(bytes)),
                                     {blocks_for(params.count, vector * kThreads), 1, 1}, params, "planish::PadParams")
                         .bind(offsetof(PadParams, input), input(0))
                         .bind(offsetof(PadParams, output), output(0)));
}

// ---- Gather ----

Refusal can_gather(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    const DType index = region.input(1).type.dtype;
    return index == DType::i64 || index == DType::i32 ? Refusal::none : Refusal::dtype_not_handled;
}

CudaKernel compile_gather(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    const Node& node = region.node();
    const Dims table = node.input(0)->dims();
    const auto axis = static_cast<size_t>(normal_axis(node.integer("axis"), table.size()));
    int64_t outer = 1, inner = element_bytes(formats.outputs[0]);
    for (size_t i = 0; i < axis; ++i) outer *= table[i];
    for (size_t i = axis + 1; i < table.size(); ++i) inner *= table[i];
    const int64_t unit = std::gcd<int64_t>(16, inner), indices = element_count(node.input(1)->dims());
    GatherParams params{};
    params.count = static_cast<unsigned>(outer * indices * (inner / unit));
    params.inner = make_divisor(static_cast<unsigned>(inner / unit));
    params.index_count = make_divisor(static_cast<unsigned>(indices));
    params.axis = static_cast<int>(table[axis]);
    const bool wide = node.input(1)->type.dtype == DType::i64;
    return kernel_of(
        movement_launch(fmt::format("gather_b{}_i{}", 8 * unit, wide ? 64 : 32),
                        fmt::format("planish::gather<{}, {}>(p)", moved_type(unit), wide ? "long long" : "int"),
                        {blocks_for(params.count, kThreads), 1, 1}, params, "planish::GatherParams")
            .bind(offsetof(GatherParams, data), input(0))
            .bind(offsetof(GatherParams, indices), input(1))
            .bind(offsetof(GatherParams, output), output(0)));
}

}  // namespace

const Implementation kTranspose{"transpose", can_be_copied<transposed>, transpose_formats, compile_copy<transposed>};
const Implementation kSlice{"slice", can_be_copied<sliced>, following_formats, compile_copy<sliced>};
const Implementation kExpand{"expand", can_be_copied<expanded>, plain_formats, compile_copy<expanded>};
const Implementation kConcat{"concat", can_join, following_formats, compile_pieces};
const Implementation kSplit{"split", can_join, following_formats, compile_pieces};
const Implementation kPad{"pad", can_pad, following_formats, compile_pad};
const Implementation kGather{"gather", can_gather, plain_formats, compile_gather};

}  // namespace planish::cuda::families
