// Shape rules of data movement, selection and creation. Rules carry shape arithmetic along (set_symbolic), so that
// Reshape, Expand, Slice and their like get exact symbolic output shapes.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/checked.hpp"
#include "ir/infer_common.hpp"
#include "planish/error.hpp"

namespace planish::infer {
namespace {

using Symbols = std::optional<std::vector<Dim>>;

constexpr int64_t kMaxSymbolic = 64;  // shape arithmetic is short; longer integer tensors are data

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

Dim product(std::span<const Dim> dims) {
    Dim result = 1;
    for (const Dim& d : dims) result = result * d;
    return result;
}

Shape unknown_shape(int64_t rank) {
    Shape shape;
    for (int64_t i = 0; i < rank; ++i) shape.push_back(Dim::unknown());
    return shape;
}

/// The shape that input i spells out as numbers: exact where they are known, of known rank where only their count is.
std::optional<Shape> shape_operand(InferContext& c, int i) {
    if (Symbols values = c.symbolic(i)) return values;
    if (c.has_shape(i) && c.shape(i).size() == 1 && c.shape(i)[0].is_constant())
        return unknown_shape(*c.shape(i)[0].value());
    return std::nullopt;
}

/// Constant integers of input i; nullopt when they are not known. An omitted input gives `otherwise`.
std::optional<std::vector<int64_t>> integers_of(InferContext& c, int i, std::vector<int64_t> otherwise = {}) {
    if (!c.has_input(i)) return otherwise;
    const Symbols values = c.symbolic(i);
    return values ? static_dims(*values) : std::nullopt;
}

std::vector<int64_t> all_axes(size_t count) {
    std::vector<int64_t> axes(count);
    std::iota(axes.begin(), axes.end(), 0);
    return axes;
}

/// axes in [0, rank), sorted, each once.
std::vector<int64_t> normalised(InferContext& c, std::vector<int64_t> axes, size_t rank) {
    for (int64_t& axis : axes) axis = normalize_axis(c, axis, rank);
    std::sort(axes.begin(), axes.end());
    if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) c.error("names an axis twice");
    return axes;
}

void pass_symbolic(InferContext& c) {
    if (Symbols values = c.symbolic(0)) c.set_symbolic(0, std::move(*values));
}

DType dtype_attribute(const InferContext& c, std::string_view name) {
    const int64_t value = c.integer(name);
    if (value <= 0 || value > static_cast<int64_t>(DType::i2))
        c.error("has attribute '" + std::string(name) + "' = " + std::to_string(value) + ", which is no element type");
    return static_cast<DType>(value);
}

void require_dtype(const InferContext& c, int i, DType dtype) {
    const DType given = c.has_input(i) ? c.input(i).dtype : dtype;
    if (given != dtype && given != DType::undefined)
        c.error("needs " + std::string(to_string(dtype)) + " for input " + std::to_string(i) + ", got " +
                std::string(to_string(given)));
}

}  // namespace

void identity(InferContext& c) {
    c.set_output(0, c.input(0));
    pass_symbolic(c);
}

// ---- Shapes ----

void shape(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, DType::i64, unknown_shape(1));
    const Shape& x = c.shape(0);
    const auto rank = static_cast<int64_t>(x.size());
    const auto clamped = [&](int64_t axis) { return std::clamp<int64_t>(axis < 0 ? axis + rank : axis, 0, rank); };
    const int64_t start = clamped(c.integer("start"));
    const int64_t end = std::max(start, c.has("end") ? clamped(c.integer("end")) : rank);
    c.set_output(0, DType::i64, Shape{end - start});
    c.set_symbolic(0, {x.begin() + start, x.begin() + end});
}

void size(InferContext& c) {
    c.set_output(0, DType::i64, Shape{});
    if (c.has_shape(0)) c.set_symbolic(0, {product(c.shape(0))});
}

// The -1 of a Reshape is Π input / Π other targets; equal sizes on both sides are cancelled first, so that unknown
// sizes that are only carried through do not hide it.
void reshape(InferContext& c) {
    const DType dtype = c.input(0).dtype;
    std::optional<Shape> target = shape_operand(c, 1);
    if (!target) return c.set_output(0, dtype, std::nullopt);
    const bool exact = c.symbolic(1).has_value();
    int inferred = -1;
    for (size_t i = 0; i < target->size(); ++i) {
        Dim& d = (*target)[i];
        if (d == Dim(0) && c.integer("allowzero") == 0) {
            if (!c.has_shape(0)) {
                d = Dim::unknown();
            } else {
                if (i >= c.shape(0).size())
                    c.error("copies axis " + std::to_string(i) + " of an input of shape " + to_string(c.shape(0)));
                d = c.shape(0)[i];
            }
        } else if (d == Dim(-1)) {
            if (inferred >= 0) c.error("has more than one -1 in its target shape");
            inferred = static_cast<int>(i);
        } else if (d.is_constant() && *d.value() < -1) {
            c.error("has a target shape with the size " + d.to_string());
        }
    }
    if (inferred >= 0) {
        Dim& hole = (*target)[at(inferred)];
        hole = Dim::unknown();
        if (c.has_shape(0)) {
            Shape numerator = c.shape(0), denominator;
            for (size_t i = 0; i < target->size(); ++i) {
                if (static_cast<int>(i) == inferred) continue;
                const Dim& d = (*target)[i];
                const auto same = std::find(numerator.begin(), numerator.end(), d);
                if (same != numerator.end() && !(d == Dim(0)))
                    numerator.erase(same);
                else
                    denominator.push_back(d);
            }
            const Dim top = product(numerator), bottom = product(denominator);
            if (const auto quotient = Dim::exact_div(top, bottom))
                hole = *quotient;
            else if (top.is_constant() && bottom.is_constant()) {
                if (!(bottom == Dim(0)))
                    c.error("cannot reshape " + to_string(c.shape(0)) + " to " + to_string(*c.symbolic(1)));
                hole = 0;
            }
        }
    } else if (exact && c.has_shape(0)) {
        const Dim from = product(c.shape(0)), to = product(*target);
        if (from.is_constant() && to.is_constant() && !(from == to))
            c.error("cannot reshape " + to_string(c.shape(0)) + " to " + to_string(*target));
    }
    c.set_output(0, dtype, std::move(target));
    pass_symbolic(c);
}

void flatten(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, unknown_shape(2));
    const Shape& x = c.shape(0);
    const auto rank = static_cast<int64_t>(x.size());
    int64_t axis = c.integer("axis");
    if (axis < -rank || axis > rank) c.error("has axis " + std::to_string(axis) + ", out of range for " + to_string(x));
    if (axis < 0) axis += rank;
    const std::span<const Dim> dims(x);
    c.set_output(0, c.input(0).dtype, Shape{product(dims.first(at(axis))), product(dims.subspan(at(axis)))});
}

void squeeze(InferContext& c) {
    std::optional<Shape> out;
    if (c.has_shape(0)) {
        const Shape& x = c.shape(0);
        std::optional<std::vector<int64_t>> axes;
        if (c.has_input(1)) {
            if (auto given = integers_of(c, 1)) axes = normalised(c, *given, x.size());
        } else if (static_dims(x)) {
            axes.emplace();
            for (size_t i = 0; i < x.size(); ++i)
                if (x[i] == Dim(1)) axes->push_back(static_cast<int64_t>(i));
        }
        if (axes) {
            out.emplace();
            for (size_t i = 0; i < x.size(); ++i) {
                if (!std::binary_search(axes->begin(), axes->end(), static_cast<int64_t>(i)))
                    out->push_back(x[i]);
                else if (x[i].is_constant() && !(x[i] == Dim(1)))
                    c.error("cannot squeeze axis " + std::to_string(i) + " of " + to_string(x));
            }
        }
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
    pass_symbolic(c);
}

void unsqueeze(InferContext& c) {
    std::optional<Shape> out;
    const auto axes = integers_of(c, 1);
    if (c.has_shape(0) && axes) {
        out = c.shape(0);
        for (int64_t axis : normalised(c, *axes, out->size() + axes->size())) out->insert(out->begin() + axis, Dim(1));
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
    pass_symbolic(c);
}

// ---- Movement ----

void transpose(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, std::nullopt);
    const Shape& x = c.shape(0);
    std::vector<int64_t> perm = c.integers("perm");
    if (!c.has("perm")) {
        perm = all_axes(x.size());
        std::reverse(perm.begin(), perm.end());
    }
    const bool negative = std::any_of(perm.begin(), perm.end(), [](int64_t axis) { return axis < 0; });
    if (negative || perm.size() != x.size() || normalised(c, perm, x.size()) != all_axes(x.size()))
        c.error("has a perm that is no permutation of the axes of " + to_string(x));
    Shape out;
    for (int64_t axis : perm) out.push_back(x[at(axis)]);
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void concat(InferContext& c) {
    const DType dtype = c.input(0).dtype;
    std::optional<Shape> out;
    for (int i = 0; i < c.input_count(); ++i) {
        require_same_dtype(c, 0, i);
        if (!c.has_shape(i)) return c.set_output(0, dtype, std::nullopt);
        const Shape& x = c.shape(i);
        const int64_t axis = c.axis("axis", static_cast<int64_t>(x.size()));
        if (!out) {
            out = x;
            continue;
        }
        if (x.size() != out->size()) c.error("has inputs of different rank");
        for (size_t k = 0; k < x.size(); ++k) {
            Dim& d = (*out)[k];
            if (k == at(axis))
                d = d + x[k];
            else if (d.is_constant() && x[k].is_constant() && !(d == x[k]))
                c.error("has inputs of shapes " + to_string(*out) + " and " + to_string(x) + " that differ on axis " +
                        std::to_string(k));
            else if (x[k].is_constant())
                d = x[k];
        }
    }
    const bool flat = out && out->size() == 1;
    c.set_output(0, dtype, std::move(out));
    if (!flat) return;
    std::vector<Dim> values;
    for (int i = 0; i < c.input_count(); ++i) {
        const Symbols part = c.symbolic(i);
        if (!part) return;
        values.insert(values.end(), part->begin(), part->end());
    }
    if (static_cast<int64_t>(values.size()) <= kMaxSymbolic) c.set_symbolic(0, std::move(values));
}

void split(InferContext& c) {
    const auto count = static_cast<int64_t>(c.outputs.size());
    if (!c.has_shape(0)) {
        for (int i = 0; i < count; ++i) c.set_output(i, c.input(0).dtype, std::nullopt);
        return;
    }
    const Shape& x = c.shape(0);
    const int64_t axis = c.axis("axis", static_cast<int64_t>(x.size()));
    const Dim& extent = x[at(axis)];
    std::vector<Dim> sizes;
    if (c.has_input(1)) {
        sizes = shape_operand(c, 1).value_or(unknown_shape(count));
        if (static_cast<int64_t>(sizes.size()) < count) c.error("has more outputs than split sizes");
        Dim sum = 0;
        for (const Dim& s : sizes) sum = sum + s;
        require_equal(c, sum, extent, "split sizes and an axis");
    } else {
        const int64_t parts = c.has("num_outputs") ? c.integer("num_outputs") : count;
        if (parts < count || parts < 1) c.error("has more outputs than parts");
        const Dim part = Dim::ceil_div(extent, parts);
        for (int64_t i = 0; i < parts; ++i) {
            if (extent.is_constant())
                sizes.push_back(std::clamp<int64_t>(*extent.value() - i * *part.value(), 0, *part.value()));
            else
                sizes.push_back(i + 1 < parts ? part : extent - part * Dim(parts - 1));
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        Shape out = x;
        out[at(axis)] = sizes[at(i)];
        c.set_output(static_cast<int>(i), c.input(0).dtype, std::move(out));
    }
    // A split of a shape: each part knows its numbers.
    const Symbols values = c.symbolic(0);
    if (!values || x.size() != 1) return;
    size_t start = 0;
    for (int64_t i = 0; i < count && sizes[at(i)].is_constant(); ++i) {
        const size_t end = start + at(*sizes[at(i)].value());
        if (end > values->size()) return;
        c.set_symbolic(static_cast<int>(i),
                       {values->begin() + static_cast<int64_t>(start), values->begin() + static_cast<int64_t>(end)});
        start = end;
    }
}

namespace {

/// Extent of x[start:end:step] by ONNX's clamping. Symbolic sizes are taken as within range where only a run can tell:
/// a table sliced to the sequence length has the sequence's length.
Dim sliced_extent(const Dim& extent, const Dim& start, const Dim& end, int64_t step) {
    if (extent.is_constant() && start.is_constant() && end.is_constant()) {
        const int64_t n = *extent.value();
        const auto bounded = [&](int64_t v) {
            if (v < 0) v = std::max(v, -n - 1) + n;
            return step > 0 ? std::clamp<int64_t>(v, 0, n) : std::clamp<int64_t>(v, -1, n - 1);
        };
        const int64_t a = bounded(*start.value()), b = bounded(*end.value());
        return std::max<int64_t>(0, step > 0 ? (b - a + step - 1) / step : (a - b - step - 1) / -step);
    }
    constexpr int64_t kFar = int64_t{1} << 30;  // exporters write "to the end" as 2^31-1, 2^63-1 or -2^63
    if (step < 0) {
        const bool whole = start.is_constant() && (*start.value() == -1 || *start.value() >= kFar) &&
                           end.is_constant() && *end.value() <= -kFar;
        return whole ? Dim::ceil_div(extent, -step) : Dim::unknown();
    }
    // A symbolic place that may be negative counts from the end, or not: only extent - k is known to lie inside.
    const auto unclear = [&](const Dim& v) {
        if (v.is_constant() || v.to_string().find('-') == std::string::npos) return false;
        const auto distance = (extent - v).value();
        return !distance || *distance < 0;
    };
    if (unclear(start) || unclear(end)) return Dim::unknown();
    const auto placed = [&](const Dim& v) {
        if (!v.is_constant()) return v;
        const int64_t k = *v.value();
        if (k >= kFar) return extent;
        if (k <= -kFar) return Dim(0);
        if (k < 0) return extent.is_constant() ? Dim(std::max<int64_t>(0, k + *extent.value())) : extent + v;
        return extent.is_constant() || k == 0 ? Dim::min(v, extent) : v;
    };
    const Dim from = start == Dim(0) ? Dim(0) : placed(start);
    Dim to = placed(end);
    if (!extent.is_constant() && end.is_constant() && to == end) to = Dim::min(to, extent);
    return Dim::ceil_div(to - from, step);
}

}  // namespace

void slice(InferContext& c) {
    const DType dtype = c.input(0).dtype;
    if (!c.has_shape(0)) return c.set_output(0, dtype, std::nullopt);
    const Shape& x = c.shape(0);
    const std::optional<Shape> starts = shape_operand(c, 1), ends = shape_operand(c, 2);
    const size_t count = starts ? starts->size() : ends ? ends->size() : 0;
    const auto axes = integers_of(c, 3, all_axes(count));
    const auto steps = integers_of(c, 4, std::vector<int64_t>(count, 1));
    if (!axes) return c.set_output(0, dtype, unknown_shape(static_cast<int64_t>(x.size())));
    if ((starts && starts->size() != axes->size()) || (ends && ends->size() != axes->size()) ||
        (steps && steps->size() != axes->size()))
        c.error("needs one start, end and step for each axis");
    normalised(c, *axes, x.size());
    Shape out = x;
    for (size_t i = 0; i < axes->size(); ++i) {
        const int64_t axis = normalize_axis(c, (*axes)[i], x.size());
        const bool known = starts && ends && steps;
        if (known && (*steps)[i] == 0) c.error("has a step of 0");
        out[at(axis)] = known ? sliced_extent(x[at(axis)], (*starts)[i], (*ends)[i], (*steps)[i]) : Dim::unknown();
    }
    c.set_output(0, dtype, std::move(out));
    // A slice of a shape.
    const Symbols values = c.symbolic(0);
    if (!values || x.size() != 1 || count != 1 || !steps) return;
    const auto first = integers_of(c, 1), last = integers_of(c, 2);
    if (!first || !last) return;
    const int64_t n = static_cast<int64_t>(values->size()), step = (*steps)[0];
    const int64_t length = *sliced_extent(n, (*first)[0], (*last)[0], step).value();
    int64_t from = (*first)[0];
    if (from < 0) from = std::max(from, -n - 1) + n;
    from = step > 0 ? std::clamp<int64_t>(from, 0, n) : std::clamp<int64_t>(from, -1, n - 1);
    std::vector<Dim> picked;
    for (int64_t i = 0; i < length; ++i) picked.push_back((*values)[at(from + i * step)]);
    c.set_symbolic(0, std::move(picked));
}

void expand(InferContext& c) {
    const std::optional<Shape> target = shape_operand(c, 1);
    std::optional<Shape> out;
    if (target && c.has_shape(0)) {
        out = broadcast_shapes(c.shape(0), *target);
        if (!out) c.error("cannot expand " + to_string(c.shape(0)) + " to " + to_string(*target));
    }
    const Symbols values = c.symbolic(0);
    const auto dims = out ? static_dims(*out) : std::nullopt;
    if (values && values->size() == 1 && dims) {
        int64_t count = 1;
        for (int64_t d : *dims) count *= d;
        if (count <= kMaxSymbolic) c.set_symbolic(0, std::vector<Dim>(at(count), values->front()));
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void tile(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, std::nullopt);
    Shape out = c.shape(0);
    const Symbols repeats = c.symbolic(1);
    if (repeats && repeats->size() != out.size()) c.error("needs one repeat an axis of " + to_string(out));
    for (size_t i = 0; i < out.size(); ++i) out[i] = repeats ? out[i] * (*repeats)[i] : Dim::unknown();
    c.set_output(0, c.input(0).dtype, std::move(out));
    const Symbols values = c.symbolic(0);
    if (!values || !repeats || repeats->size() != 1 || !(*repeats)[0].is_constant()) return;
    const int64_t n = *(*repeats)[0].value();
    if (n < 0 || n * static_cast<int64_t>(values->size()) > kMaxSymbolic) return;
    std::vector<Dim> tiled;
    for (int64_t i = 0; i < n; ++i) tiled.insert(tiled.end(), values->begin(), values->end());
    c.set_symbolic(0, std::move(tiled));
}

void pad(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, std::nullopt);
    Shape out = c.shape(0);
    const auto axes = integers_of(c, 3, all_axes(out.size()));
    const Symbols pads = c.symbolic(1);
    if (!axes || !pads) {
        c.set_output(0, c.input(0).dtype, unknown_shape(static_cast<int64_t>(out.size())));
        return;
    }
    if (pads->size() != 2 * axes->size()) c.error("needs two pads an axis");
    for (size_t i = 0; i < axes->size(); ++i) {
        Dim& d = out[at(normalize_axis(c, (*axes)[i], out.size()))];
        d = d + (*pads)[i] + (*pads)[axes->size() + i];
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void center_crop_pad(InferContext& c) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, std::nullopt);
    Shape out = c.shape(0);
    const std::vector<int64_t> axes = c.has("axes") ? c.integers("axes") : all_axes(out.size());
    const std::optional<Shape> target = shape_operand(c, 1);
    if (target && target->size() != axes.size()) c.error("needs one target size an axis");
    for (size_t i = 0; i < axes.size(); ++i)
        out[at(normalize_axis(c, axes[i], out.size()))] = target ? (*target)[i] : Dim::unknown();
    c.set_output(0, c.input(0).dtype, std::move(out));
}

namespace {

void blocks(InferContext& c, bool to_space) {
    if (!c.has_shape(0)) return c.set_output(0, c.input(0).dtype, unknown_shape(4));
    require_rank(c, 0, 4);
    const int64_t b = c.integer("blocksize");
    if (b <= 0 || b > (1 << 20)) c.error("has blocksize " + std::to_string(b));
    Shape out = c.shape(0);
    const auto divided = [&](const Dim& d, int64_t by) {
        if (d.is_constant() && *d.value() % by != 0)
            c.error("cannot rearrange " + to_string(c.shape(0)) + " by blocks of " + std::to_string(b));
        return Dim::floor_div(d, by);
    };
    out[1] = to_space ? divided(out[1], b * b) : out[1] * Dim(b * b);
    for (size_t k : {2, 3}) out[k] = to_space ? out[k] * Dim(b) : divided(out[k], b);
    c.set_output(0, c.input(0).dtype, std::move(out));
}

}  // namespace

void depth_to_space(InferContext& c) {
    blocks(c, true);
}
void space_to_depth(InferContext& c) {
    blocks(c, false);
}

// ---- Selection ----

void gather(InferContext& c) {
    std::optional<Shape> out;
    if (c.has_shape(0) && c.has_shape(1)) {
        const Shape &x = c.shape(0), &indices = c.shape(1);
        const int64_t axis = c.axis("axis", static_cast<int64_t>(x.size()));
        out.emplace(x.begin(), x.begin() + axis);
        out->insert(out->end(), indices.begin(), indices.end());
        out->insert(out->end(), x.begin() + axis + 1, x.end());
        const Symbols values = c.symbolic(0);
        const auto picks = integers_of(c, 1);
        if (values && picks && x.size() == 1) {
            std::vector<Dim> picked;
            const auto n = static_cast<int64_t>(values->size());
            for (int64_t i : *picks) {
                if (i < -n || i >= n)
                    c.error("picks index " + std::to_string(i) + " of " + std::to_string(n) + " numbers");
                picked.push_back((*values)[at(i < 0 ? i + n : i)]);
            }
            c.set_symbolic(0, std::move(picked));
        }
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void gather_elements(InferContext& c) {
    c.set_output(0, c.input(0).dtype, c.has_shape(1) ? std::optional(c.shape(1)) : std::nullopt);
}

void gather_nd(InferContext& c) {
    std::optional<Shape> out;
    if (c.has_shape(0) && c.has_shape(1)) {
        const Shape &x = c.shape(0), &indices = c.shape(1);
        if (indices.empty()) c.error("has scalar indices");
        if (const auto depth = indices.back().value()) {
            const int64_t batch_dims = c.integer("batch_dims"), rank = static_cast<int64_t>(x.size());
            if (batch_dims < 0 || batch_dims >= static_cast<int64_t>(indices.size()) || batch_dims > rank)
                c.error("has batch_dims " + std::to_string(batch_dims));
            const int64_t used = batch_dims + *depth;
            if (*depth > rank - batch_dims) c.error("has more coordinates than " + to_string(x) + " has axes");
            out.emplace(indices.begin(), indices.end() - 1);
            out->insert(out->end(), x.begin() + used, x.end());
        }
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void compress(InferContext& c) {
    std::optional<Shape> out;
    if (!c.has("axis")) {
        out = unknown_shape(1);
    } else if (c.has_shape(0)) {
        out = c.shape(0);
        (*out)[at(c.axis("axis", static_cast<int64_t>(out->size())))] = Dim::unknown();
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
}

void non_zero(InferContext& c) {
    Shape out = unknown_shape(2);
    if (c.has_shape(0)) out[0] = static_cast<int64_t>(c.shape(0).size());
    c.set_output(0, DType::i64, std::move(out));
}

void top_k(InferContext& c) {
    std::optional<Shape> out;
    if (c.has_shape(0)) {
        out = c.shape(0);
        const Symbols k = c.symbolic(1);
        (*out)[at(c.axis("axis", static_cast<int64_t>(out->size())))] =
            k && k->size() == 1 ? k->front() : Dim::unknown();
    }
    c.set_output(0, c.input(0).dtype, out);
    c.set_output(1, DType::i64, std::move(out));
}

void unique(InferContext& c) {
    const Dim count = Dim::unknown();
    std::optional<Shape> out;
    Dim inverse = Dim::unknown();
    if (!c.has("axis")) {
        out = Shape{count};
        if (c.has_shape(0)) inverse = product(c.shape(0));
    } else if (c.has_shape(0)) {
        out = c.shape(0);
        Dim& d = (*out)[at(c.axis("axis", static_cast<int64_t>(out->size())))];
        inverse = d;
        d = count;
    }
    c.set_output(0, c.input(0).dtype, std::move(out));
    c.set_output(1, DType::i64, Shape{count});
    c.set_output(2, DType::i64, Shape{inverse});
    c.set_output(3, DType::i64, Shape{count});
}

void non_max_suppression(InferContext& c) {
    c.set_output(0, DType::i64, Shape{Dim::unknown(), 3});
}

// ---- Types ----

void cast(InferContext& c) {
    const DType to = dtype_attribute(c, "to");
    c.set_output(0, to, c.input(0).shape);
    if (is_integer(to) && is_integer(c.input(0).dtype)) pass_symbolic(c);
}

void cast_like(InferContext& c) {
    c.set_output(0, c.input(1).dtype, c.input(0).shape);
}
void bit_cast(InferContext& c) {
    c.set_output(0, dtype_attribute(c, "to"), c.input(0).shape);
}

// ---- Creation ----

void constant(InferContext& c) {
    const auto list = [&](DType dtype, size_t count) { c.set_output(0, dtype, Shape{static_cast<int64_t>(count)}); };
    if (c.has("value")) {
        const Tensor& value = c.node().tensor("value");
        c.set_output(0, value.dtype(), to_shape(value.dims()));
        if (value.dtype() == DType::i64 && value.size() <= kMaxSymbolic) c.set_symbolic(0, to_shape(value.to_int64s()));
    } else if (c.has("value_float")) {
        c.set_output(0, DType::f32, Shape{});
    } else if (c.has("value_int")) {
        c.set_output(0, DType::i64, Shape{});
        c.set_symbolic(0, {c.integer("value_int")});
    } else if (c.has("value_string")) {
        c.set_output(0, DType::string, Shape{});
    } else if (c.has("value_floats")) {
        list(DType::f32, c.node().reals("value_floats").size());
    } else if (c.has("value_ints")) {
        list(DType::i64, c.integers("value_ints").size());
        c.set_symbolic(0, to_shape(c.integers("value_ints")));
    } else if (c.has("value_strings")) {
        list(DType::string, std::get<std::vector<std::string>>(*c.node().find("value_strings")).size());
    } else {
        c.error("has no value");
    }
}

void constant_of_shape(InferContext& c) {
    const bool given = c.has("value");
    const DType dtype = given ? c.node().tensor("value").dtype() : DType::f32;
    std::optional<Shape> out = shape_operand(c, 0);
    const auto dims = out ? static_dims(*out) : std::nullopt;
    if (dims && given && is_integer(dtype)) {
        const int64_t count = element_count(*dims);
        if (count <= kMaxSymbolic)
            c.set_symbolic(0, std::vector<Dim>(at(count), Dim(c.node().tensor("value").at_int64(0))));
    }
    c.set_output(0, dtype, std::move(out));
}

void range(InferContext& c) {
    const DType dtype = c.input(0).dtype;
    Dim count = Dim::unknown();
    if (is_float(dtype)) {
        const Tensor *start = c.constant(0), *limit = c.constant(1), *delta = c.constant(2);
        if (start && limit && delta && delta->at_double(0) != 0) {
            const double steps = (limit->at_double(0) - start->at_double(0)) / delta->at_double(0);
            if (!(std::fabs(steps) < 0x1p62)) c.error("spans more than 2^62 numbers");
            int64_t whole = steps > 0 ? static_cast<int64_t>(steps) : 0;
            if (static_cast<double>(whole) < steps) ++whole;
            count = whole;
        }
        return c.set_output(0, dtype, Shape{count});
    }
    const Symbols start = c.symbolic(0), limit = c.symbolic(1), delta = c.symbolic(2);
    for (int i = 0; i < 3; ++i)
        if (const Tensor* t = c.constant(i); t && t->size() != 1) c.error("needs three scalars");
    const bool scalars = start && limit && delta && start->size() == 1 && limit->size() == 1 && delta->size() == 1;
    if (scalars && (*delta)[0].is_constant() && !((*delta)[0] == Dim(0))) {
        const int64_t step = *(*delta)[0].value();
        count = step > 0 ? Dim::ceil_div((*limit)[0] - (*start)[0], step)
                         : Dim::ceil_div((*start)[0] - (*limit)[0], Dim(0) - (*delta)[0]);
        if (count.is_constant()) {
            count = std::max<int64_t>(0, *count.value());
            if (*count.value() <= kMaxSymbolic) {
                std::vector<Dim> values;
                for (int64_t i = 0; i < *count.value(); ++i) values.push_back((*start)[0] + Dim(i * step));
                c.set_symbolic(0, std::move(values));
            }
        }
    }
    c.set_output(0, dtype, Shape{count});
}

void one_hot(InferContext& c) {
    std::optional<Shape> out;
    if (c.has_shape(0)) {
        out = c.shape(0);
        const Tensor* number = c.constant(1);  // of any numeric type
        const Symbols depth = number && number->size() == 1 ? Symbols(Shape{number->at_int64(0)}) : c.symbolic(1);
        const int64_t axis = c.axis("axis", static_cast<int64_t>(out->size()) + 1);
        out->insert(out->begin() + axis, depth && depth->size() == 1 ? depth->front() : Dim::unknown());
    }
    c.set_output(0, c.input(2).dtype, std::move(out));
}

void like_input_as(InferContext& c) {
    c.set_output(0, c.has("dtype") ? dtype_attribute(c, "dtype") : c.input(0).dtype, c.input(0).shape);
}

void eye_like(InferContext& c) {
    require_rank(c, 0, 2);
    like_input_as(c);
}

void random(InferContext& c) {
    c.set_output(0, dtype_attribute(c, "dtype"), to_shape(c.integers("shape")));
}

void multinomial(InferContext& c) {
    c.set_output(
        0, dtype_attribute(c, "dtype"),
        Shape{c.has_shape(0) && !c.shape(0).empty() ? c.shape(0)[0] : Dim::unknown(), c.integer("sample_size")});
}

void dropout(InferContext& c) {
    c.set_output(0, c.input(0));
    c.set_output(1, DType::boolean, c.input(0).shape);
}

// ---- Text ----

void string_normalizer(InferContext& c) {
    require_dtype(c, 0, DType::string);
    std::optional<Shape> out;
    if (c.has_shape(0)) {
        out = c.shape(0);
        if (out->empty() || out->size() > 2) c.error("needs [strings] or [1, strings]");
        out->back() = Dim::unknown();  // stop words are dropped
    }
    c.set_output(0, DType::string, std::move(out));
}

void string_split(InferContext& c) {
    require_dtype(c, 0, DType::string);
    std::optional<Shape> parts = c.input(0).shape;
    if (parts) parts->push_back(Dim::unknown());
    c.set_output(0, DType::string, std::move(parts));
    c.set_output(1, DType::i64, c.input(0).shape);
}

void regex_full_match(InferContext& c) {
    require_dtype(c, 0, DType::string);
    c.set_output(0, DType::boolean, c.input(0).shape);
}

void tf_idf_vectorizer(InferContext& c) {
    const std::vector<int64_t>& places = c.integers("ngram_indexes");
    const int64_t width = places.empty() ? 0 : saturating_add(*std::max_element(places.begin(), places.end()), 1);
    std::optional<Shape> out;
    if (c.has_shape(0)) {
        if (c.shape(0).size() > 2) c.error("needs [C] or [N, C]");
        out.emplace();
        if (c.shape(0).size() == 2) out->push_back(c.shape(0)[0]);
        out->push_back(width);
    }
    c.set_output(0, DType::f32, std::move(out));
}

}  // namespace planish::infer
