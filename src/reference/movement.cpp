// Reference functions of ops that move whole blocks of elements: each is one or a few strided walks.
#include <algorithm>
#include <numeric>

#include "base/checked.hpp"
#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

/// `x` read through a walk, as a dense tensor.
void output_view(RefContext& c, int output, const Tensor& x, const Dims& dims, Walk from) {
    Tensor& out = c.output(output, x.dtype(), dims);
    copy_strided(out, {0, row_major_strides(dims)}, x, std::move(from), dims);
}

}  // namespace

void transpose(RefContext& c) {
    const Tensor& x = c.input(0);
    std::vector<int64_t> perm = c.integers("perm");
    if (!c.has("perm")) {
        perm.resize(x.dims().size());
        std::iota(perm.rbegin(), perm.rend(), 0);
    }
    if (static_cast<int64_t>(perm.size()) != x.rank())
        c.error("perm has " + std::to_string(perm.size()) + " axes, the input " + std::to_string(x.rank()));
    const Dims strides = row_major_strides(x.dims());
    Dims dims, permuted;
    for (int64_t axis : perm) {
        dims.push_back(x.dims().at(at(axis)));
        permuted.push_back(strides[at(axis)]);
    }
    output_view(c, 0, x, dims, {0, permuted});
}

void concat(RefContext& c) {
    const Tensor& first = c.input(0);
    const int64_t axis = c.axis("axis", first.rank());
    Dims dims = first.dims();
    dims[at(axis)] = 0;
    for (int i = 0; i < c.input_count(); ++i) {
        const Tensor& x = c.input(i);
        if (x.rank() != first.rank()) c.error("inputs of different rank");
        for (int64_t k = 0; k < x.rank(); ++k)
            if (k != axis && x.dim(k) != dims[at(k)])
                c.error("input " + std::to_string(i) + " has shape " + to_string(x.dims()) + ", which differs from " +
                        to_string(first.dims()) + " on axis " + std::to_string(k));
        dims[at(axis)] += x.dim(axis);
    }
    Tensor& out = c.output(0, first.dtype(), dims);
    const Dims strides = row_major_strides(dims);
    int64_t offset = 0;
    for (int i = 0; i < c.input_count(); ++i) {
        const Tensor& x = c.input(i);
        copy_strided(out, {offset, strides}, x, {0, row_major_strides(x.dims())}, x.dims());
        offset += x.dim(axis) * strides[at(axis)];
    }
}

void split(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t axis = c.axis("axis", x.rank());
    const int64_t extent = x.dim(axis);
    std::vector<int64_t> sizes;
    if (c.has_input(1)) {
        sizes = c.input(1).to_int64s();
    } else {
        // Equal parts; the last is smaller where they do not fit.
        const int64_t parts = c.has("num_outputs") ? c.integer("num_outputs") : c.output_count();
        const int64_t part = (extent + parts - 1) / parts;
        for (int64_t i = 0; i < parts; ++i) sizes.push_back(std::clamp<int64_t>(extent - i * part, 0, part));
    }
    if (!partitions(sizes, extent)) c.error("the split sizes do not sum to the axis' extent " + std::to_string(extent));
    const Dims strides = row_major_strides(x.dims());
    int64_t start = 0;
    for (int i = 0; i < static_cast<int>(sizes.size()); ++i) {
        Dims dims = x.dims();
        dims[at(axis)] = sizes[at(i)];
        if (c.wants_output(i)) output_view(c, i, x, dims, {start * strides[at(axis)], strides});
        start += sizes[at(i)];
    }
}

void slice(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::vector<int64_t> starts = c.input(1).to_int64s();
    const std::vector<int64_t> ends = c.input(2).to_int64s();
    std::vector<int64_t> axes(starts.size());
    std::iota(axes.begin(), axes.end(), 0);
    if (c.has_input(3)) axes = c.input(3).to_int64s();
    std::vector<int64_t> steps(starts.size(), 1);
    if (c.has_input(4)) steps = c.input(4).to_int64s();
    if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size())
        c.error("starts, ends, axes and steps differ in length");
    Dims dims = x.dims();
    Walk from{0, row_major_strides(dims)};
    for (size_t i = 0; i < starts.size(); ++i) {
        const int64_t axis = axes[i] < 0 ? axes[i] + x.rank() : axes[i];
        if (axis < 0 || axis >= x.rank()) c.error("axis " + std::to_string(axes[i]) + " is out of range");
        const int64_t extent = x.dim(axis);
        const int64_t step = steps[i];
        if (step == 0) c.error("a step of 0");
        // Backward slices may stop before element 0, which is -1 after normalisation.
        const auto bounded = [&](int64_t v) {
            if (v < 0) v = std::max(v, -extent - 1) + extent;
            return step > 0 ? std::clamp<int64_t>(v, 0, extent) : std::clamp<int64_t>(v, -1, extent - 1);
        };
        const int64_t start = bounded(starts[i]);
        const int64_t end = bounded(ends[i]);
        dims[at(axis)] =
            std::max<int64_t>(0, step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step);
        from.offset += start * from.strides[at(axis)];
        from.strides[at(axis)] *= step;
    }
    output_view(c, 0, x, dims, std::move(from));
}

void expand(RefContext& c) {
    const Tensor& x = c.input(0);
    Dims dims = c.input(1).to_int64s();
    while (static_cast<int64_t>(dims.size()) < x.rank()) dims.insert(dims.begin(), 1);
    const Dims strides = row_major_strides(x.dims());
    Walk from{0, Dims(dims.size(), 0)};
    const size_t lead = dims.size() - x.dims().size();
    for (size_t i = 0; i < x.dims().size(); ++i) {
        const int64_t extent = x.dims()[i];
        int64_t& target = dims[lead + i];
        if (target == 1) target = extent;
        if (extent != 1 && extent != target)
            c.error("cannot expand " + to_string(x.dims()) + " to " + to_string(c.input(1).to_int64s()));
        if (extent != 1) from.strides[lead + i] = strides[i];
    }
    output_view(c, 0, x, dims, std::move(from));
}

void tile(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::vector<int64_t> repeats = c.input(1).to_int64s();
    if (static_cast<int64_t>(repeats.size()) != x.rank()) c.error("repeats needs one number an axis");
    // Seen as [r0, d0, r1, d1, ...] the output repeats along the r axes.
    const Dims strides = row_major_strides(x.dims());
    Dims dims, walked;
    Walk from;
    for (size_t i = 0; i < repeats.size(); ++i) {
        dims.push_back(x.dims()[i] * repeats[i]);
        walked.insert(walked.end(), {repeats[i], x.dims()[i]});
        from.strides.insert(from.strides.end(), {0, strides[i]});
    }
    Tensor& out = c.output(0, x.dtype(), dims);
    copy_strided(out, {0, row_major_strides(walked)}, x, std::move(from), walked);
}

void pad(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t rank = x.rank();
    const std::vector<int64_t> pads = c.input(1).to_int64s();
    std::vector<int64_t> axes(at(rank));
    std::iota(axes.begin(), axes.end(), 0);
    if (c.has_input(3)) axes = c.input(3).to_int64s();
    if (pads.size() != 2 * axes.size()) c.error("pads needs two numbers an axis");
    Dims before(at(rank), 0), dims = x.dims();
    for (size_t i = 0; i < axes.size(); ++i) {
        const int64_t axis = axes[i] < 0 ? axes[i] + rank : axes[i];
        if (axis < 0 || axis >= rank) c.error("axis " + std::to_string(axes[i]) + " is out of range");
        before[at(axis)] = pads[i];
        dims[at(axis)] += pads[i] + pads[axes.size() + i];
    }
    const std::string& mode = c.text("mode");
    if (mode != "constant" && mode != "edge" && mode != "reflect" && mode != "wrap")
        c.error("unknown mode '" + mode + "'");
    // Source place of each output place along each axis; -1: padding. Negative pads crop.
    std::vector<std::vector<int64_t>> source(at(rank));
    for (int64_t k = 0; k < rank; ++k) {
        const int64_t extent = x.dim(k);
        for (int64_t i = 0; i < dims[at(k)]; ++i) {
            int64_t s = i - before[at(k)];
            if (s < 0 || s >= extent) {
                if (mode == "constant" || extent == 0)
                    s = -1;
                else if (mode == "edge")
                    s = std::clamp<int64_t>(s, 0, extent - 1);
                else if (mode == "wrap")
                    s = (s % extent + extent) % extent;
                else if (extent == 1)
                    s = 0;
                else {
                    const int64_t period = 2 * (extent - 1);
                    s = (s % period + period) % period;
                    s = std::min(s, period - s);
                }
            }
            source[at(k)].push_back(s);
        }
    }
    Tensor& out = c.output(0, x.dtype(), dims);
    const bool fills = mode == "constant" && c.has_input(2) && c.input(2).size() > 0;
    const Dims strides = row_major_strides(x.dims());
    int64_t o = 0;
    for_each_index(dims, [&](const Dims& index) {
        int64_t f = 0;
        for (size_t k = 0; k < index.size() && f >= 0; ++k) {
            const int64_t s = source[k][at(index[k])];
            f = s < 0 ? -1 : f + s * strides[k];
        }
        if (f >= 0)
            copy_elements(out, o, x, f);
        else if (fills)
            copy_elements(out, o, c.input(2), 0);
        ++o;
    });
}

void center_crop_pad(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::vector<int64_t> target = c.input(1).to_int64s();
    std::vector<int64_t> axes = c.integers("axes");
    if (!c.has("axes")) {
        axes.resize(x.dims().size());
        std::iota(axes.begin(), axes.end(), 0);
    }
    if (axes.size() != target.size()) c.error("shape needs one number an axis");
    Dims dims = x.dims(), moved = x.dims();
    const Dims strides = row_major_strides(x.dims());
    Walk from{0, strides};
    std::vector<int64_t> to_start(dims.size(), 0);
    for (size_t i = 0; i < axes.size(); ++i) {
        const size_t axis = at(axes[i] < 0 ? axes[i] + x.rank() : axes[i]);
        if (axis >= dims.size()) c.error("axis " + std::to_string(axes[i]) + " is out of range");
        const int64_t extent = dims[axis];
        dims[axis] = target[i];
        moved[axis] = std::min(extent, target[i]);
        if (target[i] < extent)
            from.offset += (extent - target[i]) / 2 * strides[axis];
        else
            to_start[axis] = (target[i] - extent) / 2;
    }
    Tensor& out = c.output(0, x.dtype(), dims);
    Walk to{0, row_major_strides(dims)};
    for (size_t k = 0; k < dims.size(); ++k) to.offset += to_start[k] * to.strides[k];
    copy_strided(out, std::move(to), x, std::move(from), moved);
}

// DCR: [n, b, b, c, h, w] -> [n, c, h, b, w, b]; CRD: [n, c, b, b, h, w] -> the same.
void depth_to_space(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t b = c.integer("blocksize");
    if (x.rank() != 4 || b <= 0 || x.dim(1) % (b * b) != 0)
        c.error("cannot rearrange " + to_string(x.dims()) + " by blocks of " + std::to_string(b));
    const int64_t n = x.dim(0), d = x.dim(1) / (b * b), h = x.dim(2), w = x.dim(3);
    const bool dcr = c.text("mode") == "DCR";
    const int64_t plane = h * w;
    const int64_t channel = dcr ? plane : b * b * plane;
    const int64_t row = dcr ? b * d * plane : b * plane;
    const int64_t column = dcr ? d * plane : plane;
    const Dims walked{n, d, h, b, w, b};
    Tensor& out = c.output(0, x.dtype(), {n, d, h * b, w * b});
    copy_strided(out, {0, row_major_strides(walked)}, x, {0, {b * b * d * plane, channel, w, row, 1, column}}, walked);
}

// DCR: [n, c, h, b, w, b] -> [n, b, b, c, h, w]; CRD: -> [n, c, b, b, h, w].
void space_to_depth(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t b = c.integer("blocksize");
    if (x.rank() != 4 || b <= 0 || x.dim(2) % b != 0 || x.dim(3) % b != 0)
        c.error("cannot rearrange " + to_string(x.dims()) + " by blocks of " + std::to_string(b));
    const int64_t n = x.dim(0), d = x.dim(1), h = x.dim(2) / b, w = x.dim(3) / b;
    const int64_t row = w * b;
    const int64_t channel = h * b * row;
    Tensor& out = c.output(0, x.dtype(), {n, d * b * b, h, w});
    if (c.text("mode") == "DCR") {
        const Dims walked{n, b, b, d, h, w};
        copy_strided(out, {0, row_major_strides(walked)}, x, {0, {d * channel, row, 1, channel, b * row, b}}, walked);
    } else {
        const Dims walked{n, d, b, b, h, w};
        copy_strided(out, {0, row_major_strides(walked)}, x, {0, {d * channel, channel, row, 1, b * row, b}}, walked);
    }
}

void reverse_sequence(RefContext& c) {
    const Tensor& x = c.input(0);
    const std::vector<int64_t> lengths = c.input(1).to_int64s();
    const int64_t batch_axis = c.axis("batch_axis", x.rank());
    const int64_t time_axis = c.axis("time_axis", x.rank());
    if (static_cast<int64_t>(lengths.size()) != x.dim(batch_axis)) c.error("sequence_lens needs one length a batch");
    const Dims strides = row_major_strides(x.dims());
    Tensor& out = c.output(0, x.dtype(), x.dims());
    int64_t o = 0;
    for_each_index(x.dims(), [&](const Dims& index) {
        const int64_t length = lengths[at(index[at(batch_axis)])];
        const int64_t t = index[at(time_axis)];
        const int64_t from = t < length ? length - 1 - t : t;
        copy_elements(out, o, x, o + (from - t) * strides[at(time_axis)]);
        ++o;
    });
}

void trilu(RefContext& c) {
    const Tensor& x = c.input(0);
    if (x.rank() < 2) c.error("needs a matrix, got " + to_string(x.dims()));
    const int64_t k = c.has_input(1) ? c.input(1).at_int64(0) : 0;
    const bool upper = c.integer("upper") != 0;
    const int64_t columns = x.dim(-1);
    const int64_t rows = x.dim(-2);
    Tensor& out = c.output(0, x.dtype(), x.dims());
    for (int64_t start = 0; start < x.size(); start += columns) {
        const int64_t edge = std::clamp<int64_t>((start / columns) % rows + k + (upper ? 0 : 1), 0, columns);
        if (upper)
            copy_elements(out, start + edge, x, start + edge, columns - edge);
        else
            copy_elements(out, start, x, start, edge);
    }
}

}  // namespace planish::reference
