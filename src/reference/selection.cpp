// Reference functions of ops that pick elements by index, condition or rank.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

/// Index into an axis of `extent`; negative counts from the end.
int64_t checked_index(RefContext& c, int64_t index, int64_t extent) {
    const int64_t i = index < 0 ? index + extent : index;
    if (i < 0 || i >= extent)
        c.error("index " + std::to_string(index) + " is out of range for an axis of " + std::to_string(extent));
    return i;
}

/// to[i] = reduce(to[i], from[j]) for reduction none, add, mul, min, max.
void combine(RefContext& c, const std::string& reduction, Tensor& to, int64_t i, const Tensor& from, int64_t j) {
    if (reduction == "none") return copy_elements(to, i, from, j);
    const auto reduced = [&](auto a, auto b) {
        if (reduction == "add") return static_cast<decltype(a)>(a + b);
        if (reduction == "mul") return static_cast<decltype(a)>(a * b);
        if (reduction == "min") return std::min(a, b);
        if (reduction == "max") return std::max(a, b);
        c.error("unknown reduction '" + reduction + "'");
    };
    if (is_float(to.dtype()))
        to.set_double(i, reduced(to.at_double(i), from.at_double(j)));
    else if (to.dtype() == DType::u64)
        store_int64(to, i,
                    static_cast<int64_t>(
                        reduced(static_cast<uint64_t>(to.at_int64(i)), static_cast<uint64_t>(from.at_int64(j)))));
    else
        store_int64(to, i, reduced(to.at_int64(i), from.at_int64(j)));
}

/// Three-way order of two elements of one tensor; strings by bytes, NaN above all numbers.
int compare(const Tensor& x, int64_t i, int64_t j) {
    if (x.dtype() == DType::string) return x.strings()[at(i)].compare(x.strings()[at(j)]);
    if (is_float(x.dtype())) {
        const double a = x.at_double(i), b = x.at_double(j);
        if (std::isnan(a) || std::isnan(b)) return static_cast<int>(std::isnan(a)) - static_cast<int>(std::isnan(b));
        return a < b ? -1 : a > b ? 1 : 0;
    }
    if (x.dtype() == DType::u64) {
        const uint64_t a = static_cast<uint64_t>(x.at_int64(i)), b = static_cast<uint64_t>(x.at_int64(j));
        return a < b ? -1 : a > b ? 1 : 0;
    }
    const int64_t a = x.at_int64(i), b = x.at_int64(j);
    return a < b ? -1 : a > b ? 1 : 0;
}

}  // namespace

void gather(RefContext& c) {
    const Tensor& x = c.input(0);
    const Tensor& indices = c.input(1);
    const int64_t axis = c.axis("axis", x.rank());
    Dims dims(x.dims().begin(), x.dims().begin() + axis);
    dims.insert(dims.end(), indices.dims().begin(), indices.dims().end());
    dims.insert(dims.end(), x.dims().begin() + axis + 1, x.dims().end());
    Tensor& out = c.output(0, x.dtype(), dims);
    const int64_t outer = count_range(x.dims(), 0, axis);
    const int64_t inner = count_range(x.dims(), axis + 1, x.rank());
    int64_t o = 0;
    for (int64_t i = 0; i < outer; ++i)
        for (int64_t j = 0; j < indices.size(); ++j, o += inner)
            copy_elements(out, o, x, (i * x.dim(axis) + checked_index(c, indices.at_int64(j), x.dim(axis))) * inner,
                          inner);
}

void gather_elements(RefContext& c) {
    const Tensor& x = c.input(0);
    const Tensor& indices = c.input(1);
    const int64_t axis = c.axis("axis", x.rank());
    if (indices.rank() != x.rank()) c.error("data and indices differ in rank");
    const Dims strides = row_major_strides(x.dims());
    Tensor& out = c.output(0, x.dtype(), indices.dims());
    int64_t o = 0;
    for_each_index(indices.dims(), [&](const Dims& index) {
        int64_t from = checked_index(c, indices.at_int64(o), x.dim(axis)) * strides[at(axis)];
        for (int64_t k = 0; k < x.rank(); ++k)
            if (k != axis) from += checked_index(c, index[at(k)], x.dim(k)) * strides[at(k)];
        copy_elements(out, o++, x, from);
    });
}

void gather_nd(RefContext& c) {
    const Tensor& x = c.input(0);
    const Tensor& indices = c.input(1);
    const int64_t batch_dims = c.integer("batch_dims");
    if (indices.rank() < 1) c.error("indices is a scalar");
    const int64_t depth = indices.dim(-1);
    if (batch_dims < 0 || batch_dims >= indices.rank() || depth < 0 || depth > x.rank() - batch_dims)
        c.error("indices have more coordinates than the data has axes");
    Dims dims(indices.dims().begin(), indices.dims().end() - 1);
    dims.insert(dims.end(), x.dims().begin() + batch_dims + depth, x.dims().end());
    const int64_t batches = count_range(x.dims(), 0, batch_dims);
    const int64_t inner = count_range(x.dims(), batch_dims + depth, x.rank());
    const int64_t picks = count_range(indices.dims(), batch_dims, indices.rank() - 1);
    const Dims strides = row_major_strides(x.dims());
    Tensor& out = c.output(0, x.dtype(), dims);
    const int64_t batch_size = batches == 0 ? 0 : x.size() / batches;
    for (int64_t b = 0; b < batches; ++b)
        for (int64_t p = 0; p < picks; ++p) {
            int64_t from = b * batch_size;
            for (int64_t k = 0; k < depth; ++k)
                from += checked_index(c, indices.at_int64((b * picks + p) * depth + k), x.dim(batch_dims + k)) *
                        strides[at(batch_dims + k)];
            copy_elements(out, (b * picks + p) * inner, x, from, inner);
        }
}

void scatter_elements(RefContext& c) {
    const Tensor& x = c.input(0);
    const Tensor& indices = c.input(1);
    const int64_t axis = c.axis("axis", x.rank());
    if (indices.rank() != x.rank()) c.error("data and indices differ in rank");
    const Dims strides = row_major_strides(x.dims());
    Tensor& out = c.output(0, x.dtype(), x.dims());
    copy_elements(out, 0, x, 0, x.size());
    int64_t j = 0;
    for_each_index(indices.dims(), [&](const Dims& index) {
        int64_t to = checked_index(c, indices.at_int64(j), x.dim(axis)) * strides[at(axis)];
        for (int64_t k = 0; k < x.rank(); ++k)
            if (k != axis) to += checked_index(c, index[at(k)], x.dim(k)) * strides[at(k)];
        combine(c, c.text("reduction"), out, to, c.input(2), j++);
    });
}

void scatter_nd(RefContext& c) {
    const Tensor& x = c.input(0);
    const Tensor& indices = c.input(1);
    const Tensor& updates = c.input(2);
    if (indices.rank() < 1) c.error("indices is a scalar");
    const int64_t depth = indices.dim(-1);
    if (depth > x.rank()) c.error("indices have more coordinates than the data has axes");
    const int64_t inner = count_range(x.dims(), depth, x.rank());
    const int64_t picks = count_range(indices.dims(), 0, indices.rank() - 1);
    if (updates.size() != picks * inner) c.error("updates has shape " + to_string(updates.dims()));
    const Dims strides = row_major_strides(x.dims());
    Tensor& out = c.output(0, x.dtype(), x.dims());
    copy_elements(out, 0, x, 0, x.size());
    for (int64_t p = 0; p < picks; ++p) {
        int64_t to = 0;
        for (int64_t k = 0; k < depth; ++k)
            to += checked_index(c, indices.at_int64(p * depth + k), x.dim(k)) * strides[at(k)];
        for (int64_t i = 0; i < inner; ++i) combine(c, c.text("reduction"), out, to + i, updates, p * inner + i);
    }
}

void tensor_scatter(RefContext& c) {
    const Tensor& cache = c.input(0);
    const Tensor& update = c.input(1);
    const int64_t axis = c.axis("axis", cache.rank());
    if (axis == 0) c.error("the axis is the batch axis");
    Dims expected = cache.dims();
    if (update.rank() == cache.rank()) expected[at(axis)] = update.dim(axis);
    if (update.dims() != expected || update.dtype() != cache.dtype())
        c.error("an update of shape " + to_string(update.dims()) + " does not fit a cache of " +
                to_string(cache.dims()));
    const bool circular = c.text("mode") == "circular";
    const int64_t extent = cache.dim(axis), steps = update.dim(axis);
    const int64_t inner = count_range(cache.dims(), axis + 1, cache.rank());
    const int64_t between = count_range(cache.dims(), 1, axis);
    Tensor& out = c.output(0, cache.dtype(), cache.dims());
    copy_elements(out, 0, cache, 0, cache.size());
    for (int64_t b = 0; b < cache.dim(0); ++b) {
        const int64_t start = c.has_input(2) ? c.input(2).at_int64(b) : 0;
        for (int64_t o = b * between; o < (b + 1) * between; ++o)
            for (int64_t t = 0; t < steps; ++t) {
                const int64_t place = circular ? (start % extent + t) % extent : start + t;
                copy_elements(out, (o * extent + checked_index(c, place, extent)) * inner, update,
                              (o * steps + t) * inner, inner);
            }
    }
}

void compress(RefContext& c) {
    const Tensor& condition = c.input(1);
    const bool flat = !c.has("axis");
    const Tensor x = flat ? c.input(0).reshaped({c.input(0).size()}) : c.input(0);
    const int64_t axis = flat ? 0 : c.axis("axis", x.rank());
    std::vector<int64_t> kept;
    for (int64_t i = 0; i < std::min(condition.size(), x.dim(axis)); ++i)
        if (condition.at_int64(i) != 0) kept.push_back(i);
    Dims dims = x.dims();
    dims[at(axis)] = static_cast<int64_t>(kept.size());
    Tensor& out = c.output(0, x.dtype(), dims);
    const int64_t inner = count_range(x.dims(), axis + 1, x.rank());
    int64_t to = 0;
    for (int64_t o = 0; o < count_range(x.dims(), 0, axis); ++o)
        for (int64_t i : kept) {
            copy_elements(out, to, x, (o * x.dim(axis) + i) * inner, inner);
            to += inner;
        }
}

void non_zero(RefContext& c) {
    const Tensor& x = c.input(0);
    std::vector<int64_t> found;
    for (int64_t i = 0; i < x.size(); ++i)
        if (x.dtype() == DType::string ? !x.strings()[at(i)].empty()
            : is_float(x.dtype())      ? x.at_double(i) != 0
                                       : x.at_int64(i) != 0)
            found.push_back(i);
    const int64_t count = static_cast<int64_t>(found.size());
    std::span<int64_t> out = c.output(0, DType::i64, {x.rank(), count}).data<int64_t>();
    const Dims strides = row_major_strides(x.dims());
    for (int64_t k = 0; k < x.rank(); ++k)
        for (int64_t i = 0; i < count; ++i) out[at(k * count + i)] = found[at(i)] / strides[at(k)] % x.dim(k);
}

void top_k(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t axis = c.axis("axis", x.rank());
    const int64_t k = c.input(1).at_int64(0);
    const int64_t extent = x.dim(axis);
    if (k < 0 || k > extent) c.error("k is " + std::to_string(k) + " of " + std::to_string(extent) + " elements");
    const bool largest = c.integer("largest") != 0;
    Dims dims = x.dims();
    dims[at(axis)] = k;
    Tensor& values = c.output(0, x.dtype(), dims);
    std::span<int64_t> indices = c.output(1, DType::i64, dims).data<int64_t>();
    const int64_t outer = count_range(x.dims(), 0, axis);
    const int64_t inner = count_range(x.dims(), axis + 1, x.rank());
    std::vector<int64_t> order(at(extent));
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < inner; ++i) {
            const auto place = [&](int64_t e) { return (o * extent + e) * inner + i; };
            std::iota(order.begin(), order.end(), 0);
            // Ties go to the lower index.
            std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
                const int sign = compare(x, place(a), place(b));
                return largest ? sign > 0 : sign < 0;
            });
            for (int64_t j = 0; j < k; ++j) {
                const int64_t to = (o * k + j) * inner + i;
                copy_elements(values, to, x, place(order[at(j)]));
                indices[at(to)] = order[at(j)];
            }
        }
}

void unique(RefContext& c) {
    const bool flat = !c.has("axis");
    const Tensor x = flat ? c.input(0).reshaped({c.input(0).size()}) : c.input(0);
    const int64_t axis = flat ? 0 : c.axis("axis", x.rank());
    const int64_t extent = x.dim(axis);
    const int64_t outer = count_range(x.dims(), 0, axis);
    const int64_t inner = count_range(x.dims(), axis + 1, x.rank());
    // Sub-tensors along the axis compare lexicographically.
    const auto compare_slices = [&](int64_t a, int64_t b) {
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t i = 0; i < inner; ++i)
                if (const int sign = compare(x, (o * extent + a) * inner + i, (o * extent + b) * inner + i))
                    return sign;
        return 0;
    };
    std::vector<int64_t> order(at(extent));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return compare_slices(a, b) < 0; });
    std::vector<std::vector<int64_t>> groups;  // equal slices, each in order of appearance
    for (int64_t i : order) {
        if (groups.empty() || compare_slices(groups.back().front(), i) != 0) groups.emplace_back();
        groups.back().push_back(i);
    }
    if (c.integer("sorted") == 0)
        std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.front() < b.front(); });
    const int64_t count = static_cast<int64_t>(groups.size());
    Dims dims = x.dims();
    dims[at(axis)] = count;
    Tensor& y = c.output(0, x.dtype(), dims);
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t g = 0; g < count; ++g)
            copy_elements(y, (o * count + g) * inner, x, (o * extent + groups[at(g)].front()) * inner, inner);
    if (c.wants_output(1)) {
        std::span<int64_t> first = c.output(1, DType::i64, {count}).data<int64_t>();
        for (int64_t g = 0; g < count; ++g) first[at(g)] = groups[at(g)].front();
    }
    if (c.wants_output(2)) {
        std::span<int64_t> inverse = c.output(2, DType::i64, {extent}).data<int64_t>();
        for (int64_t g = 0; g < count; ++g)
            for (int64_t i : groups[at(g)]) inverse[at(i)] = g;
    }
    if (c.wants_output(3)) {
        std::span<int64_t> counts = c.output(3, DType::i64, {count}).data<int64_t>();
        for (int64_t g = 0; g < count; ++g) counts[at(g)] = static_cast<int64_t>(groups[at(g)].size());
    }
}

void non_max_suppression(RefContext& c) {
    const Tensor& boxes = c.input(0);
    const Tensor& scores = c.input(1);
    if (boxes.rank() != 3 || boxes.dim(2) != 4 || scores.rank() != 3)
        c.error("boxes are [N, boxes, 4], scores [N, classes, boxes]");
    const auto scalar = [&](int i, double otherwise) {
        return c.has_input(i) && c.input(i).size() > 0 ? c.input(i).at_double(0) : otherwise;
    };
    const int64_t limit = c.has_input(2) && c.input(2).size() > 0 ? c.input(2).at_int64(0) : 0;
    const double iou_threshold = scalar(3, 0);
    const double score_threshold = scalar(4, -HUGE_VAL);
    const bool centred = c.integer("center_point_box") != 0;
    struct Box {
        double y0, x0, y1, x1;
    };
    const auto box_at = [&](int64_t n, int64_t i) {
        const int64_t p = (n * boxes.dim(1) + i) * 4;
        const double v[4] = {boxes.at_double(p), boxes.at_double(p + 1), boxes.at_double(p + 2),
                             boxes.at_double(p + 3)};
        if (centred)  // x, y, width, height
            return Box{v[1] - v[3] / 2, v[0] - v[2] / 2, v[1] + v[3] / 2, v[0] + v[2] / 2};
        return Box{std::min(v[0], v[2]), std::min(v[1], v[3]), std::max(v[0], v[2]), std::max(v[1], v[3])};
    };
    const auto iou = [](const Box& a, const Box& b) {
        const double height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
        const double width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
        const double area_a = (a.y1 - a.y0) * (a.x1 - a.x0), area_b = (b.y1 - b.y0) * (b.x1 - b.x0);
        if (height <= 0 || width <= 0 || area_a <= 0 || area_b <= 0) return 0.0;
        const double overlap = height * width;
        return overlap / (area_a + area_b - overlap);
    };
    std::vector<int64_t> selected;
    const int64_t count = boxes.dim(1);
    for (int64_t n = 0; n < scores.dim(0); ++n)
        for (int64_t k = 0; k < scores.dim(1); ++k) {
            const auto score = [&](int64_t i) { return scores.at_double((n * scores.dim(1) + k) * count + i); };
            std::vector<int64_t> order;
            for (int64_t i = 0; i < count; ++i)
                if (score(i) > score_threshold) order.push_back(i);
            std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score(a) > score(b); });
            std::vector<Box> kept;
            for (int64_t i : order) {
                if (static_cast<int64_t>(kept.size()) >= limit) break;
                const Box box = box_at(n, i);
                if (std::any_of(kept.begin(), kept.end(), [&](const Box& b) { return iou(b, box) > iou_threshold; }))
                    continue;
                kept.push_back(box);
                selected.insert(selected.end(), {n, k, i});
            }
        }
    Tensor& out = c.output(0, DType::i64, {static_cast<int64_t>(selected.size()) / 3, 3});
    std::copy(selected.begin(), selected.end(), out.data<int64_t>().begin());
}

}  // namespace planish::reference
