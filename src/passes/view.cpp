// The algebra of views: each data movement op is a change of dims, strides and offset.
#include "passes/view.hpp"

#include <algorithm>
#include <numeric>

#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

View whole(Value* value) {
    View view{value, *value->type.shape, {}, 0};
    Dim stride = 1;
    for (size_t i = view.dims.size(); i-- > 0;) {
        view.strides.insert(view.strides.begin(), stride);
        stride = stride * view.dims[i];
    }
    return view;
}

/// The view with other dims over the same elements in the same order. Neighbouring axes that follow each other in
/// memory are joined first, then cut at the places that `dims` asks for.
std::optional<View> reshaped(const View& view, const Shape& dims) {
    Shape sizes;
    std::vector<Dim> strides;
    for (size_t i = 0; i < view.dims.size(); ++i) {
        if (view.dims[i] == Dim(1)) continue;
        if (!sizes.empty() && strides.back() == view.strides[i] * view.dims[i]) {
            sizes.back() = sizes.back() * view.dims[i];
            strides.back() = view.strides[i];
        } else {
            sizes.push_back(view.dims[i]);
            strides.push_back(view.strides[i]);
        }
    }
    View result{view.base, dims, std::vector<Dim>(dims.size(), Dim(0)), view.offset};
    size_t next = 0;
    for (size_t group = 0; group < sizes.size(); ++group) {
        const size_t first = next;
        Dim product = 1;
        while (next < dims.size() && !(product == sizes[group])) product = product * dims[next++];
        if (!(product == sizes[group])) return std::nullopt;
        Dim stride = strides[group];
        for (size_t i = next; i-- > first;) {
            result.strides[i] = stride;
            stride = stride * dims[i];
        }
    }
    return std::all_of(dims.begin() + static_cast<int64_t>(next), dims.end(), [](const Dim& d) { return d == Dim(1); })
               ? std::optional(result)
               : std::nullopt;
}

std::optional<View> transposed(const View& view, const Node& node) {
    std::vector<int64_t> perm = node.integers("perm");
    if (perm.empty()) {
        perm.resize(view.dims.size());
        std::iota(perm.rbegin(), perm.rend(), 0);
    }
    View result{view.base, {}, {}, view.offset};
    for (int64_t axis : perm) {
        result.dims.push_back(view.dims[at(axis)]);
        result.strides.push_back(view.strides[at(axis)]);
    }
    return result;
}

std::optional<View> gathered(View view, const Node& node) {
    const Value* index = node.input(1);
    if (!index->is_constant() || index->constant->rank() != 0) return std::nullopt;
    const auto r = static_cast<int64_t>(view.dims.size());
    const size_t axis = at(node.integer("axis") < 0 ? node.integer("axis") + r : node.integer("axis"));
    const int64_t i = index->constant->at_int64(0);
    view.offset = view.offset + (i < 0 ? view.dims[axis] + Dim(i) : Dim(i)) * view.strides[axis];
    view.dims.erase(view.dims.begin() + static_cast<int64_t>(axis));
    view.strides.erase(view.strides.begin() + static_cast<int64_t>(axis));
    return view;
}

std::optional<View> sliced(View view, const Node& node) {
    const auto starts = integers(node.input(1)), axes = integers(node.input(3));
    if (!starts || !axes || axes->size() != starts->size()) return std::nullopt;
    if (node.input(4) != nullptr) {
        const auto steps = integers(node.input(4));
        if (!steps || std::any_of(steps->begin(), steps->end(), [](int64_t s) { return s != 1; })) return std::nullopt;
    }
    const auto r = static_cast<int64_t>(view.dims.size());
    for (size_t i = 0; i < axes->size(); ++i) {
        if ((*starts)[i] < 0) return std::nullopt;
        view.offset = view.offset + Dim((*starts)[i]) * view.strides[at((*axes)[i] < 0 ? (*axes)[i] + r : (*axes)[i])];
    }
    view.dims = *node.output()->type.shape;
    return view;
}

std::optional<View> split(View view, const Node& node, const Value* value) {
    const auto r = static_cast<int64_t>(view.dims.size());
    const size_t axis = at(node.integer("axis") < 0 ? node.integer("axis") + r : node.integer("axis"));
    for (const Value* part : node.outputs()) {
        if (part == nullptr || !part->type.shape) return std::nullopt;
        if (part == value) break;
        view.offset = view.offset + (*part->type.shape)[axis] * view.strides[axis];
    }
    view.dims = *value->type.shape;
    return view;
}

}  // namespace

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
