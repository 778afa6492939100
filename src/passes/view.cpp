// The algebra of views: each data movement op is a change of axes and offset.
#include "passes/view.hpp"

#include <algorithm>
#include <numeric>

#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

using Factor = View::Factor;

View::Axis make_axis(const Dim& size, const Dim& stride) {
    View::Axis axis{size, {}};
    if (!(size == Dim(1))) axis.factors.push_back({size, stride});
    return axis;
}

View whole(Value* value) {
    View view{value, {}, 0};
    const Shape& shape = *value->type.shape;
    Dim stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        view.axes.insert(view.axes.begin(), make_axis(shape[i], stride));
        stride = stride * shape[i];
    }
    return view;
}

size_t axis_of(const Node& node, const View& view) {
    const int64_t axis = node.integer("axis");
    return static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(view.axes.size()) : axis);
}

/// The same elements in the same order under other dims: all factors in a row, neighbours that follow each other in
/// memory joined, then dealt out to the new axes, cut where an axis needs only a part.
std::optional<View> reshaped(const View& view, const Shape& dims) {
    std::vector<Factor> row;
    for (const View::Axis& axis : view.axes)
        for (const Factor& f : axis.factors) {
            if (!row.empty() && row.back().stride == f.stride * f.size)
                row.back() = {row.back().size * f.size, f.stride};
            else
                row.push_back(f);
        }
    View result{view.base, {}, view.offset};
    size_t next = 0;
    for (const Dim& size : dims) {
        View::Axis axis{size, {}};
        for (Dim rest = size; !(rest == Dim(1));) {
            if (next == row.size()) return std::nullopt;
            Factor& f = row[next];
            if (const auto more = Dim::exact_div(rest, f.size)) {
                axis.factors.push_back(f);
                rest = *more;
                ++next;
            } else if (const auto inner = Dim::exact_div(f.size, rest)) {
                axis.factors.push_back({rest, f.stride * *inner});
                f.size = *inner;
                rest = 1;
            } else {
                return std::nullopt;
            }
        }
        result.axes.push_back(std::move(axis));
    }
    return next == row.size() ? std::optional(result) : std::nullopt;
}

std::optional<View> transposed(const View& view, const Node& node) {
    std::vector<int64_t> perm = node.integers("perm");
    if (perm.empty()) {
        perm.resize(view.axes.size());
        std::iota(perm.rbegin(), perm.rend(), 0);
    }
    View result{view.base, {}, view.offset};
    for (int64_t axis : perm) result.axes.push_back(view.axes[static_cast<size_t>(axis)]);
    return result;
}

/// The part of an axis that starts at `start` and has `size` elements.
bool cut(View& view, size_t axis, const Dim& start, const Dim& size) {
    if (start == Dim(0) && size == view.axes[axis].size) return true;
    const auto stride = view.stride(axis);
    if (!stride) return false;
    view.offset = view.offset + start * *stride;
    view.axes[axis] = make_axis(size, *stride);
    return true;
}

std::optional<View> gathered(View view, const Node& node) {
    const Value* index = node.input(1);
    if (!index->is_constant() || index->constant->rank() != 0) return std::nullopt;
    const size_t axis = axis_of(node, view);
    const int64_t i = index->constant->at_int64(0);
    if (!cut(view, axis, i < 0 ? view.axes[axis].size + Dim(i) : Dim(i), 1)) return std::nullopt;
    view.axes.erase(view.axes.begin() + static_cast<int64_t>(axis));
    return view;
}

std::optional<View> sliced(View view, const Node& node) {
    const auto starts = integers(node.input(1)), axes = integers(node.input(3));
    if (!starts || !axes || axes->size() != starts->size() || !node.output()->type.shape) return std::nullopt;
    if (node.input(4) != nullptr) {
        const auto steps = integers(node.input(4));
        if (!steps || std::any_of(steps->begin(), steps->end(), [](int64_t s) { return s != 1; })) return std::nullopt;
    }
    for (size_t i = 0; i < axes->size(); ++i) {
        const auto r = static_cast<int64_t>(view.axes.size());
        const auto axis = static_cast<size_t>((*axes)[i] < 0 ? (*axes)[i] + r : (*axes)[i]);
        if ((*starts)[i] < 0 || !cut(view, axis, (*starts)[i], (*node.output()->type.shape)[axis])) return std::nullopt;
    }
    return view;
}

std::optional<View> split(View view, const Node& node, const Value* value) {
    const size_t axis = axis_of(node, view);
    Dim start = 0;
    for (const Value* part : node.outputs()) {
        if (part == nullptr || !part->type.shape) return std::nullopt;
        if (part == value) break;
        start = start + (*part->type.shape)[axis];
    }
    if (!cut(view, axis, start, (*value->type.shape)[axis])) return std::nullopt;
    return view;
}

}  // namespace

std::optional<Dim> View::stride(size_t axis) const {
    return axes[axis].factors.size() == 1 ? std::optional(axes[axis].factors[0].stride) : std::nullopt;
}

std::optional<View> view_of(Value* value) {
    if (!value->type.shape) return std::nullopt;
    const Node* node = value->producer;
    const bool reshapes =
        node != nullptr && (node->is("Reshape") || node->is("Squeeze") || node->is("Unsqueeze") || node->is("Flatten"));
    const bool moves =
        node != nullptr && (node->is("Transpose") || node->is("Gather") || node->is("Slice") || node->is("Split"));
    if (!reshapes && !moves) return whole(value);
    const std::optional<View> source = view_of(node->input(0));
    if (!source) return std::nullopt;
    std::optional<View> result;
    if (reshapes)
        result = reshaped(*source, *value->type.shape);
    else if (node->is("Transpose"))
        result = transposed(*source, *node);
    else if (node->is("Gather"))
        result = gathered(*source, *node);
    else if (node->is("Slice"))
        result = sliced(*source, *node);
    else
        result = split(*source, *node, value);
    return result ? result : whole(value);
}

}  // namespace planish::passes
