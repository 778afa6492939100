// Ops that only move elements, each stated as strided copies.
#include <cstring>
#include <numeric>

#include "backends/cpu/split.hpp"
#include "backends/cpu/strided_copy.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

std::unique_ptr<Kernel> make_reorder_kernel(const Dims& dims, int64_t element, Layout from, Layout to, Isa isa) {
    StridedCopy copy(dims, logical_strides(dims, from), logical_strides(dims, to), 0, 0, element, isa);
    return make_kernel(
        from == to ? "copy" : "reorder_" + std::to_string(8 * element) + "bit",
        [copy = std::move(copy)](const Launch& launch) { copy.run(launch.in[0], launch.out[0], launch); });
}

namespace families {
namespace {

// Whole-byte elements, a single op, something to move.
Refusal can_move(const RegionView& region, const Environment&) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    for (const Value* output : region.node().outputs()) {
        if (bit_width(output->type.dtype) < 8) return Refusal::dtype_not_handled;
        if (output->dims().size() > 12) return Refusal::shape_not_handled;
    }
    return Refusal::none;
}

int64_t element_bytes(const Value& value) {
    return byte_size(value.type.dtype, 1);
}

bool constant_or_absent(const Node& node, int first) {
    for (int i = first; i < node.input_count(); ++i)
        if (node.input(i) && !node.input(i)->is_constant()) return false;
    return true;
}

std::optional<std::vector<int64_t>> constant_list(const Node& node, int input) {
    const Value* value = node.input(input);
    if (value == nullptr || !value->is_constant()) return std::nullopt;
    return value->constant->to_int64s();
}

int64_t normal_axis(int64_t axis, int64_t rank) {
    return axis < 0 ? axis + rank : axis;
}

// ---- Transpose ----

std::vector<int64_t> permutation(const Node& node) {
    std::vector<int64_t> perm = node.integers("perm");
    if (perm.empty()) {
        perm.resize(node.input(0)->dims().size());
        std::iota(perm.rbegin(), perm.rend(), int64_t{0});
    }
    return perm;
}

// Reads its input as it lies; the result is plain.
Layouts transpose_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[0] = available[0];
    return result;
}

std::unique_ptr<Kernel> compile_transpose(const RegionView& region, const Layouts& layouts,
                                          const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const std::vector<int64_t> own = logical_strides(in, layouts.inputs[0]), perm = permutation(node);
    std::vector<int64_t> strides;
    for (const int64_t p : perm) strides.push_back(own[static_cast<size_t>(p)]);
    StridedCopy copy(out, strides, dense_strides(out), 0, 0, element_bytes(*node.output()), environment.isa);
    return make_kernel(
        "transpose_" + std::to_string(8 * element_bytes(*node.output())) + "bit",
        [copy = std::move(copy)](const Launch& launch) { copy.run(launch.in[0], launch.out[0], launch); });
}

// ---- Concat, Split ----

std::unique_ptr<Kernel> compile_concat(const RegionView& region, const Layouts& layouts,
                                       const Environment& environment) {
    const Node& node = region.node();
    const Dims out = node.output()->dims();
    const auto rank = static_cast<int64_t>(out.size());
    const auto axis = static_cast<size_t>(normal_axis(node.integer("axis"), rank));
    const std::vector<int64_t> out_strides = logical_strides(out, layouts.outputs[0]);
    std::vector<StridedCopy> copies;
    int64_t at = 0;
    for (int i = 0; i < node.input_count(); ++i) {
        const Dims in = node.input(i)->dims();
        copies.emplace_back(in, logical_strides(in, layouts.inputs[static_cast<size_t>(i)]), out_strides, 0,
                            at * out_strides[axis], element_bytes(*node.output()), environment.isa);
        at += in[axis];
    }
    return make_kernel("concat", [copies = std::move(copies)](const Launch& launch) {
        for (size_t i = 0; i < copies.size(); ++i) copies[i].run(launch.in[i], launch.out[0], launch);
    });
}

std::unique_ptr<Kernel> compile_split(const RegionView& region, const Layouts& layouts,
                                      const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims();
    const auto axis = static_cast<size_t>(normal_axis(node.integer("axis"), static_cast<int64_t>(in.size())));
    const std::vector<int64_t> in_strides = logical_strides(in, layouts.inputs[0]);
    std::vector<StridedCopy> copies;
    int64_t at = 0;
    for (size_t i = 0; i < node.outputs().size(); ++i) {
        const Dims out = node.outputs()[i]->dims();
        copies.emplace_back(out, in_strides, logical_strides(out, layouts.outputs[i]), at * in_strides[axis], 0,
                            element_bytes(*node.outputs()[i]), environment.isa);
        at += out[axis];
    }
    return make_kernel("split", [copies = std::move(copies)](const Launch& launch) {
        for (size_t i = 0; i < copies.size(); ++i) copies[i].run(launch.in[0], launch.out[i], launch);
    });
}

// ---- Slice ----

Refusal can_slice(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    return constant_or_absent(region.node(), 1) ? Refusal::none : Refusal::weights_not_constant;
}

std::unique_ptr<Kernel> compile_slice(const RegionView& region, const Layouts& layouts,
                                      const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const auto rank = static_cast<int64_t>(in.size());
    std::vector<int64_t> strides = logical_strides(in, layouts.inputs[0]);
    const auto starts = *constant_list(node, 1);
    const auto axes = constant_list(node, 3), steps = constant_list(node, 4);
    int64_t offset = 0;
    for (size_t i = 0; i < starts.size(); ++i) {
        const auto axis = static_cast<size_t>(axes ? normal_axis((*axes)[i], rank) : static_cast<int64_t>(i));
        const int64_t step = steps ? (*steps)[i] : 1, length = in[axis];
        int64_t start = starts[i] < 0 ? starts[i] + length : starts[i];
        start = std::clamp<int64_t>(start, 0, step < 0 ? length - 1 : length);
        offset += start * strides[axis];
        strides[axis] *= step;
    }
    StridedCopy copy(out, strides, logical_strides(out, layouts.outputs[0]), offset, 0, element_bytes(*node.output()),
                     environment.isa);
    return make_kernel(
        "slice", [copy = std::move(copy)](const Launch& launch) { copy.run(launch.in[0], launch.out[0], launch); });
}

// ---- Expand, Tile ----

std::unique_ptr<Kernel> compile_expand(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const std::vector<int64_t> own = dense_strides(in);
    std::vector<int64_t> strides(out.size(), 0);
    for (size_t i = 0; i < in.size(); ++i)
        if (in[i] != 1) strides[out.size() - in.size() + i] = own[i];
    StridedCopy copy(out, strides, dense_strides(out), 0, 0, element_bytes(*node.output()), environment.isa);
    return make_kernel(
        "expand", [copy = std::move(copy)](const Launch& launch) { copy.run(launch.in[0], launch.out[0], launch); });
}

// ---- Pad ----

Refusal can_pad(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    const Node& node = region.node();
    if (node.text("mode") != "constant") return Refusal::attribute_not_handled;
    if (!constant_or_absent(node, 1)) return Refusal::weights_not_constant;
    const std::vector<int64_t> pads = *constant_list(node, 1);
    for (const int64_t p : pads)
        if (p < 0) return Refusal::shape_not_handled;
    return Refusal::none;
}

std::unique_ptr<Kernel> compile_pad(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    const Node& node = region.node();
    const Dims in = node.input(0)->dims(), out = node.output()->dims();
    const auto rank = static_cast<int64_t>(in.size());
    const auto pads = *constant_list(node, 1);
    const auto axes = constant_list(node, 3);
    const std::vector<int64_t> out_strides = logical_strides(out, layouts.outputs[0]);
    int64_t offset = 0;
    const size_t count = pads.size() / 2;
    for (size_t i = 0; i < count; ++i)
        offset +=
            pads[i] * out_strides[static_cast<size_t>(axes ? normal_axis((*axes)[i], rank) : static_cast<int64_t>(i))];
    const int64_t element = element_bytes(*node.output());
    StridedCopy interior(in, logical_strides(in, layouts.inputs[0]), out_strides, 0, offset, element, environment.isa);
    StridedCopy fill({element_count(out)}, {0}, {1}, 0, 0, element, environment.isa);
    Tensor value(node.output()->type.dtype, {1});
    if (node.input(2) && node.input(2)->constant->size() == 1)
        std::memcpy(value.raw(), node.input(2)->constant->raw(), static_cast<size_t>(element));
    return make_kernel("pad", [=](const Launch& launch) {
        fill.run(static_cast<const std::byte*>(value.raw()), launch.out[0], launch);
        interior.run(launch.in[0], launch.out[0], launch);
    });
}

// ---- Gather ----

Refusal can_gather(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_move(region, environment); r != Refusal::none) return r;
    const DType index = region.input(1).type.dtype;
    return index == DType::i64 || index == DType::i32 ? Refusal::none : Refusal::dtype_not_handled;
}

std::unique_ptr<Kernel> compile_gather(const RegionView& region, const Layouts&, const Environment&) {
    const Node& node = region.node();
    const Dims table = node.input(0)->dims();
    const auto axis = static_cast<size_t>(normal_axis(node.integer("axis"), static_cast<int64_t>(table.size())));
    int64_t outer = 1, inner = element_bytes(*node.output());
    for (size_t i = 0; i < axis; ++i) outer *= table[i];
    for (size_t i = axis + 1; i < table.size(); ++i) inner *= table[i];
    GatherArgs args;
    args.axis = table[axis];
    args.count = element_count(node.input(1)->dims());
    args.row_bytes = inner;
    args.narrow_indices = node.input(1)->type.dtype == DType::i32;
    return make_kernel("gather", [args, outer, name = node.name](const Launch& launch) {
        GatherArgs a = args;
        a.data = launch.in[0];
        a.indices = launch.in[1];
        a.output = launch.out[0];
        split_items(launch, outer * a.count, 4 + a.row_bytes / 16, [&](int64_t begin, int64_t end, int) {
            if (const int64_t bad = gather(a, begin, end); bad >= 0)
                fail(ErrorCode::invalid_argument, "node '" + name + "' (Gather): index " + std::to_string(bad) +
                                                      " of its indices is out of range for an axis of " +
                                                      std::to_string(a.axis) + " entries");
        });
    });
}

}  // namespace

const Implementation kTranspose{"transpose", can_move, transpose_layouts, compile_transpose};
const Implementation kConcat{"concat", can_move, following_layouts, compile_concat};
const Implementation kSplit{"split", can_move, following_layouts, compile_split};
const Implementation kSlice{"slice", can_slice, following_layouts, compile_slice};
const Implementation kExpand{"expand", can_move, plain_layouts, compile_expand};
const Implementation kPad{"pad", can_pad, following_layouts, compile_pad};
const Implementation kGather{"gather", can_gather, plain_layouts, compile_gather};

}  // namespace families
}  // namespace planish::cpu
