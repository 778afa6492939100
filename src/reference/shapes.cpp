// Reference functions of ops that read or change only shapes. Reshaped outputs share their input's memory.
#include <algorithm>

#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

/// Sorted axes in [0, rank) without repeats.
std::vector<int64_t> normalised_axes(RefContext& c, std::vector<int64_t> axes, int64_t rank) {
    for (int64_t& axis : axes) {
        if (axis < -rank || axis >= rank)
            c.error("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
        if (axis < 0) axis += rank;
    }
    std::sort(axes.begin(), axes.end());
    if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) c.error("an axis is given twice");
    return axes;
}

}  // namespace

void identity(RefContext& c) {
    c.set_output(0, c.value(0));
}

void shape(RefContext& c) {
    const Dims& dims = c.input(0).dims();
    const int64_t rank = c.input(0).rank();
    const auto clamped = [&](int64_t axis) { return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank); };
    const int64_t start = clamped(c.integer("start"));
    const int64_t end = std::max(start, c.has("end") ? clamped(c.integer("end")) : rank);
    Tensor& out = c.output(0, DType::i64, {end - start});
    std::copy(dims.begin() + start, dims.begin() + end, out.data<int64_t>().begin());
}

void size(RefContext& c) {
    c.output(0, DType::i64, {}).data<int64_t>()[0] = c.input(0).size();
}

void reshape(RefContext& c) {
    const Tensor& x = c.input(0);
    Dims target = c.input(1).to_int64s();
    int64_t known = 1;
    int inferred = -1;
    for (size_t i = 0; i < target.size(); ++i) {
        if (target[i] == 0 && c.integer("allowzero") == 0) {
            if (static_cast<int64_t>(i) >= x.rank())
                c.error("reshape target " + to_string(target) + " copies an axis that input " + to_string(x.dims()) +
                        " does not have");
            target[i] = x.dims()[i];
        }
        if (target[i] == -1) {
            if (inferred >= 0) c.error("reshape target " + to_string(target) + " has more than one -1");
            inferred = static_cast<int>(i);
        } else {
            known *= target[i];
        }
    }
    if (inferred >= 0) {
        if (known == 0 ? x.size() != 0 : x.size() % known != 0)
            c.error("cannot reshape " + to_string(x.dims()) + " to " + to_string(target));
        target[static_cast<size_t>(inferred)] = known == 0 ? 0 : x.size() / known;
    }
    if (element_count(target) != x.size())
        c.error("cannot reshape " + to_string(x.dims()) + " to " + to_string(target));
    c.set_output(0, x.reshaped(target));
}

void flatten(RefContext& c) {
    const Tensor& x = c.input(0);
    int64_t axis = c.integer("axis");  // [-rank, rank]: rank itself is allowed, so that all axes go to the left
    if (axis < -x.rank() || axis > x.rank()) c.error("axis " + std::to_string(axis) + " is out of range");
    if (axis < 0) axis += x.rank();
    int64_t left = 1, right = 1;
    for (int64_t i = 0; i < x.rank(); ++i) (i < axis ? left : right) *= x.dim(i);
    c.set_output(0, x.reshaped({left, right}));
}

void squeeze(RefContext& c) {
    const Tensor& x = c.input(0);
    std::vector<int64_t> axes;
    if (c.has_input(1)) {
        axes = normalised_axes(c, c.input(1).to_int64s(), x.rank());
    } else {
        for (int64_t i = 0; i < x.rank(); ++i)
            if (x.dim(i) == 1) axes.push_back(i);
    }
    Dims dims;
    for (int64_t i = 0; i < x.rank(); ++i) {
        if (!std::binary_search(axes.begin(), axes.end(), i)) {
            dims.push_back(x.dim(i));
        } else if (x.dim(i) != 1) {
            c.error("cannot squeeze axis " + std::to_string(i) + " of " + to_string(x.dims()));
        }
    }
    c.set_output(0, x.reshaped(dims));
}

void unsqueeze(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::vector<int64_t> given = c.input(1).to_int64s();
    const int64_t rank = x.rank() + static_cast<int64_t>(given.size());
    Dims dims = x.dims();
    for (int64_t axis : normalised_axes(c, given, rank)) dims.insert(dims.begin() + axis, 1);
    c.set_output(0, x.reshaped(dims));
}

}  // namespace planish::reference
