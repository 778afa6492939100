// What each operator ties: one function a family.
#include <algorithm>
#include <map>
#include <numeric>

#include "passes/rewrite.hpp"
#include "sparsity/couplings.hpp"

namespace planish::sparsity {
namespace {

int64_t axis_of(const Node& node, int64_t rank) {
    const int64_t axis = node.integer("axis");
    return axis < 0 ? axis + rank : axis;
}

/// y = f(a, b, ...), element by element, shapes aligned at the last axis.
bool elementwise(const Node& node, Couplings& c) {
    for (const Value* y : node.outputs()) {
        const int64_t rank = rank_of(y);
        if (rank < 0) return false;
        for (const Value* x : node.inputs()) {
            if (x == nullptr) continue;
            const int64_t shift = rank - rank_of(x);
            if (rank_of(x) < 0 || shift < 0) return false;
            for (int64_t axis = 0; axis < rank_of(x); ++axis) c.tie(x, axis, y, axis + shift);
        }
    }
    return true;
}

/// Axes up to `count` carry over, the others are windows or means.
bool leading_axes(const Node& node, Couplings& c, int64_t count) {
    if (node.outputs().size() != 1) return false;  // the places that MaxPool found count through all channels
    for (const Value* y : node.outputs())
        for (int64_t axis = 0; axis < count; ++axis) c.tie(node.input(0), axis, y, axis);
    return true;
}

/// y[n, m] = sum over c, kernel of w[m, c, kernel] x[n, c]. With groups, a whole group with its inputs and outputs is
/// one channel where there are at least as many groups as inputs of one, as in a depthwise convolution; else the same
/// place of every group is, for inputs and outputs apart.
bool conv(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *w = node.input(1), *bias = node.input(2), *y = node.output();
    const int64_t groups = node.integer("group"), outputs = size_of(w, 0), in_group = size_of(w, 1);
    if (outputs < 0 || in_group < 0 || size_of(x, 1) != groups * in_group || size_of(y, 1) != outputs) return false;
    c.tie(x, 0, y, 0);
    c.tie(w, 0, y, 1);
    if (bias) c.tie(bias, 0, y, 1);
    if (groups == 1) {
        c.tie(x, 1, w, 1);
        return true;
    }
    const int64_t out_group = outputs / groups;
    if (groups >= in_group) {
        for (int64_t g = 0; g < groups; ++g) {
            for (int64_t i = 0; i < in_group; ++i) c.tie(x, 1, g * in_group, x, 1, g * in_group + i);
            for (int64_t o = 0; o < out_group; ++o) c.tie(x, 1, g * in_group, w, 0, g * out_group + o);
        }
        if (in_group > 1) c.keep(w, 1);
    } else {
        for (int64_t g = 0; g < groups; ++g) {
            for (int64_t i = 0; i < in_group; ++i) c.tie(x, 1, g * in_group + i, w, 1, i);
            for (int64_t o = 0; o < out_group; ++o) c.tie(y, 1, g * out_group + o, y, 1, o);
        }
    }
    return true;
}

bool conv_transpose(const Node& node, Couplings& c) {
    if (node.integer("group") != 1) return false;
    const Value *x = node.input(0), *w = node.input(1), *bias = node.input(2), *y = node.output();
    c.tie(x, 0, y, 0);
    c.tie(x, 1, w, 0);
    c.tie(w, 1, y, 1);
    if (bias) c.tie(bias, 0, y, 1);
    return true;
}

/// Batch and instance normalisation: every parameter has one number a channel.
bool channel_norm(const Node& node, Couplings& c, bool other_axes) {
    if (node.outputs().size() != 1) return false;
    const Value *x = node.input(0), *y = node.output();
    for (int64_t axis = 0; axis < (other_axes ? rank_of(x) : 2); ++axis) c.tie(x, axis, y, axis);
    for (int i = 1; i < node.input_count(); ++i) c.tie(node.input(i), 0, y, 1);
    return true;
}

/// Along one axis, or from it on, every element counts for every other.
bool normalisation(const Node& node, Couplings& c, bool to_the_end) {
    const Value *x = node.input(0), *y = node.output();
    const int64_t rank = rank_of(x), axis = axis_of(node, rank);
    if (node.outputs().size() != 1) return false;
    for (int64_t i = 0; i < rank; ++i)
        if (i < axis || (!to_the_end && i > axis)) c.tie(x, i, y, i);
    return true;
}

/// y[m, n] = sum over k of a[m, k] b[k, n] + bias[n]
bool gemm(const Node& node, Couplings& c) {
    const Value *a = node.input(0), *b = node.input(1), *bias = node.input(2), *y = node.output();
    const int64_t ta = node.integer("transA"), tb = node.integer("transB");
    c.tie(a, ta, y, 0);
    c.tie(b, 1 - tb, y, 1);
    c.tie(a, 1 - ta, b, tb);
    if (bias)
        for (int64_t axis = 0; axis < rank_of(bias); ++axis) c.tie(bias, axis, y, 2 - rank_of(bias) + axis);
    return true;
}

bool matmul(const Node& node, Couplings& c) {
    const Value *a = node.input(0), *b = node.input(1), *y = node.output();
    const int64_t ra = rank_of(a), rb = rank_of(b), ry = rank_of(y);
    if (ra < 2 || rb < 2) return false;
    c.tie(a, ra - 2, y, ry - 2);
    c.tie(b, rb - 1, y, ry - 1);
    c.tie(a, ra - 1, b, rb - 2);
    for (const Value* x : {a, b})
        for (int64_t axis = 0; axis + 2 < rank_of(x); ++axis) c.tie(x, axis, y, axis + ry - rank_of(x));
    return true;
}

bool transpose(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    const std::vector<int64_t>& perm = node.integers("perm");
    const int64_t rank = rank_of(x);
    for (int64_t i = 0; i < rank; ++i) c.tie(x, perm.empty() ? rank - 1 - i : perm[static_cast<size_t>(i)], y, i);
    return true;
}

/// An index f of one axis is (f / inner % size) of one of several that it is made of, the pivot; the others stay whole.
void split_axis(const Node& node, Couplings& c, const Value* flat, int64_t axis, const Value* parts,
                std::span<const int64_t> axes) {
    c.note_split(node, parts, axes);
    const size_t pivot = std::min(c.pivot(node), axes.size() - 1);
    const int64_t total = size_of(flat, axis), size = size_of(parts, axes[pivot]);
    int64_t inner = 1, product = 1;
    for (size_t i = 0; i < axes.size(); ++i) {
        const int64_t part = size_of(parts, axes[i]);
        if (i != pivot) c.keep(parts, axes[i]);
        product = part < 0 || product < 0 ? -1 : product * part;
        if (i > pivot) inner *= part;
    }
    if (total < 0 || product != total) {
        c.keep(flat, axis);
        c.keep(parts, axes[pivot]);
        return;
    }
    for (int64_t f = 0; f < total; ++f) c.tie(flat, axis, f, parts, axes[pivot], f / inner % size);
}

/// Reshape, Flatten, Squeeze, Unsqueeze: the shapes fall into blocks of equal products. Axes of size 1 come and go.
bool reshape(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    if (rank_of(x) < 0 || rank_of(y) < 0) return false;
    if (node.is("Reshape") && (!node.input(1)->is_constant() || node.integer("allowzero") != 0)) return false;
    const Shape &from = *x->type.shape, &to = *y->type.shape;
    const auto axes_of = [](const Shape& shape) {
        std::vector<int64_t> axes;
        for (size_t i = 0; i < shape.size(); ++i)
            if (!(shape[i] == Dim(1))) axes.push_back(static_cast<int64_t>(i));
        return axes;
    };
    const std::vector<int64_t> in = axes_of(from), out = axes_of(to);
    size_t i = 0, j = 0;
    while (i < in.size() && j < out.size()) {
        const size_t i0 = i, j0 = j;
        Dim a = from[static_cast<size_t>(in[i++])], b = to[static_cast<size_t>(out[j++])];
        while (!(a == b)) {
            const bool grow_b = a.value() && b.value() ? *a.value() > *b.value() : Dim::exact_div(a, b).has_value();
            if (grow_b && j < out.size())
                b = b * to[static_cast<size_t>(out[j++])];
            else if (!grow_b && i < in.size())
                a = a * from[static_cast<size_t>(in[i++])];
            else
                return false;
        }
        const auto left = std::span(in).subspan(i0, i - i0), right = std::span(out).subspan(j0, j - j0);
        if (left.size() == 1 && right.size() == 1)
            c.tie(x, left[0], y, right[0]);
        else if (left.size() == 1)
            split_axis(node, c, x, left[0], y, right);
        else if (right.size() == 1)
            split_axis(node, c, y, right[0], x, left);
    }
    if (node.input(1)) c.keep(node.input(1));
    return i == in.size() && j == out.size();
}

/// The parts of `whole` along `axis` in turn.
bool parts_of(const Value* whole, int64_t axis, std::span<Value* const> parts, Couplings& c) {
    int64_t offset = 0;
    for (const Value* part : parts) {
        for (int64_t i = 0; i < rank_of(whole); ++i)
            if (i != axis) c.tie(part, i, whole, i);
        const int64_t size = size_of(part, axis);
        if (size < 0) return false;
        if (size == 1) c.keep(whole, axis, offset);
        for (int64_t i = 0; i < size && size > 1; ++i) c.tie(part, axis, i, whole, axis, offset + i);
        offset += size;
    }
    return true;
}

bool slice(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    const auto starts = passes::integers(node.input(1)), ends = passes::integers(node.input(2));
    auto axes = passes::integers(node.input(3)), steps = passes::integers(node.input(4));
    if (!starts || !ends || (node.input(3) && !axes) || (node.input(4) && !steps)) return false;
    if (!axes) {
        axes.emplace(starts->size());
        std::iota(axes->begin(), axes->end(), 0);
    }
    std::map<int64_t, size_t> place;
    for (size_t i = 0; i < axes->size(); ++i) place[(*axes)[i] < 0 ? (*axes)[i] + rank_of(x) : (*axes)[i]] = i;
    for (int64_t axis = 0; axis < rank_of(x); ++axis) {
        const auto at = place.find(axis);
        if (at == place.end()) {
            c.tie(x, axis, y, axis);
            continue;
        }
        const int64_t size = size_of(x, axis), count = size_of(y, axis);
        if (size < 0 || count < 2 || (steps && (*steps)[at->second] != 1)) continue;
        int64_t start = (*starts)[at->second];
        start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
        for (int64_t i = 0; i < count; ++i) c.tie(x, axis, start + i, y, axis, i);
    }
    for (int i = 1; i < node.input_count(); ++i)
        if (node.input(i)) c.keep(node.input(i));
    return true;
}

bool pad(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    const auto pads = passes::integers(node.input(1));
    if (!pads || node.input(3)) return false;
    const auto rank = static_cast<size_t>(rank_of(x));
    if (pads->size() != 2 * rank) return false;
    for (size_t i = 0; i < rank; ++i)
        if ((*pads)[i] == 0 && (*pads)[i + rank] == 0) c.tie(x, static_cast<int64_t>(i), y, static_cast<int64_t>(i));
    return true;
}

bool gather(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *indices = node.input(1), *y = node.output();
    const int64_t axis = axis_of(node, rank_of(x));
    if (rank_of(indices) < 0) return false;
    for (int64_t i = 0; i < rank_of(x); ++i)
        if (i != axis) c.tie(x, i, y, i < axis ? i : i + rank_of(indices) - 1);
    return true;
}

bool expand(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    if (!node.input(1)->is_constant() || rank_of(y) < rank_of(x)) return false;
    const int64_t shift = rank_of(y) - rank_of(x);
    for (int64_t axis = 0; axis < rank_of(y); ++axis)
        if (axis >= shift && size_of(x, axis - shift) != 1)
            c.tie(x, axis - shift, y, axis);
        else
            c.mark_known(y, axis);
    c.keep(node.input(1));
    return true;
}

bool reduce(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    const auto axes = passes::integers(node.input(1));
    const int64_t rank = rank_of(x);
    if (!axes || rank < 0) return false;
    const bool keep = node.integer("keepdims") != 0;
    int64_t out = 0;
    for (int64_t axis = 0; axis < rank; ++axis) {
        const bool gone = std::any_of(axes->begin(), axes->end(), [&](int64_t a) { return (a + rank) % rank == axis; });
        if (!gone) c.tie(x, axis, y, out);
        out += keep || !gone;
    }
    return true;
}

bool resize(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    // `sizes` states the channels; scales leave them alone.
    if (node.input(3) || !node.integers("axes").empty() || rank_of(x) < 2) return false;
    return leading_axes(node, c, 2) && rank_of(y) == rank_of(x);
}

/// A head is one channel: its rows of the query's projection, those of the key and value heads that it shares with
/// other query heads, and its part of the output.
bool attention(const Node& node, Couplings& c) {
    const Value *q = node.input(0), *k = node.input(1), *v = node.input(2), *mask = node.input(3), *y = node.output();
    if (node.input_count() > 4 || node.outputs().size() != 1) return false;
    c.tie(q, 0, y, 0);
    c.tie(k, 0, y, 0);
    c.tie(v, 0, y, 0);
    if (rank_of(q) == 4) {
        const int64_t heads = size_of(q, 1), shared = size_of(k, 1);
        if (heads < 1 || shared < 1) return false;
        for (int64_t h = 0; h < heads; ++h) {
            const int64_t kv = h / (heads / shared);
            if (heads < 2 || shared < 2) return true;
            c.tie(q, 1, h, y, 1, h);
            c.tie(q, 1, h, k, 1, kv);
            c.tie(q, 1, h, v, 1, kv);
        }
        if (mask && rank_of(mask) == 4) c.tie(mask, 1, q, 1);
        return true;
    }
    if (rank_of(q) != 3 || node.find("q_num_heads") == nullptr || node.find("kv_num_heads") == nullptr) return false;
    const int64_t heads = node.integer("q_num_heads"), shared = node.integer("kv_num_heads");
    if (heads < 2 || shared < 2) return true;
    for (const auto& [value, count] :
         {std::pair(q, heads), std::pair(k, shared), std::pair(v, shared), std::pair(y, heads)}) {
        const int64_t size = size_of(value, 2);
        if (size < 0 || size % count != 0) return false;
        const int64_t width = size / count;
        for (int64_t i = 0; i < size; ++i) {
            const int64_t head = i / width, query = count == heads ? head : head * (heads / shared);
            c.tie(value, 2, i, q, 2, query * (size_of(q, 2) / heads));
        }
    }
    // Query heads that share a key head go together.
    const int64_t width = size_of(q, 2) / heads;
    for (int64_t h = 0; h < heads; ++h) c.tie(q, 2, h * width, q, 2, h / (heads / shared) * (heads / shared) * width);
    return mask == nullptr || rank_of(mask) < 4 || size_of(mask, 1) == 1;
}

/// The scale is one number, or one for each index of an axis.
bool quantise(const Node& node, Couplings& c) {
    const Value *x = node.input(0), *y = node.output();
    if (node.integer("block_size") != 0) return false;
    for (int64_t axis = 0; axis < rank_of(x); ++axis) c.tie(x, axis, y, axis);
    for (int i = 1; i < node.input_count(); ++i)
        if (rank_of(node.input(i)) == 1) c.tie(node.input(i), 0, x, axis_of(node, rank_of(x)));
    return true;
}

using Rule = bool (*)(const Node&, Couplings&);

const std::map<std::string_view, Rule>& rules() {
    static const auto two = [](const Node& n, Couplings& c) { return leading_axes(n, c, 2); };
    static const auto along = [](const Node& n, Couplings& c) { return normalisation(n, c, false); };
    static const auto from_axis = [](const Node& n, Couplings& c) { return normalisation(n, c, true); };
    static const std::map<std::string_view, Rule> table = {
        {"Attention", attention},
        {"AveragePool", two},
        {"BatchNormalization", [](const Node& n, Couplings& c) { return channel_norm(n, c, true); }},
        {"Concat", [](const Node& n,
                      Couplings& c) { return parts_of(n.output(), axis_of(n, rank_of(n.output())), n.inputs(), c); }},
        {"Conv", conv},
        {"ConvTranspose", conv_transpose},
        {"DequantizeLinear", quantise},
        {"Dropout", [](const Node& n, Couplings& c) { return n.outputs().size() == 1 && elementwise(n, c); }},
        {"Expand", expand},
        {"Flatten", reshape},
        {"Gather", gather},
        {"Gemm", gemm},
        {"GlobalAveragePool", two},
        {"GlobalLpPool", two},
        {"GlobalMaxPool", two},
        {"Identity", elementwise},
        {"InstanceNormalization", [](const Node& n, Couplings& c) { return channel_norm(n, c, false); }},
        {"LayerNormalization", from_axis},
        {"LogSoftmax", along},
        {"LpPool", two},
        {"MatMul", matmul},
        {"MaxPool", two},
        {"Pad", pad},
        {"QuantizeLinear", quantise},
        {"RMSNormalization", from_axis},
        {"ReduceL1", reduce},
        {"ReduceL2", reduce},
        {"ReduceMax", reduce},
        {"ReduceMean", reduce},
        {"ReduceMin", reduce},
        {"ReduceSum", reduce},
        {"ReduceSumSquare", reduce},
        {"Reshape", reshape},
        {"Resize", resize},
        {"Slice", slice},
        {"Softmax", along},
        {"Split",
         [](const Node& n, Couplings& c) {
             if (n.input(1)) c.keep(n.input(1));
             return (!n.input(1) || n.input(1)->is_constant()) &&
                    parts_of(n.input(0), axis_of(n, rank_of(n.input(0))), n.outputs(), c);
         }},
        {"Squeeze", reshape},
        {"Transpose", transpose},
        {"Unsqueeze", reshape},
    };
    return table;
}

}  // namespace

bool apply_rule(const Node& node, Couplings& couplings) {
    if (!node.op().domain.empty()) return false;
    if (const auto it = rules().find(node.op().name); it != rules().end()) return it->second(node, couplings);
    return has(node.op().traits, Trait::elementwise) && elementwise(node, couplings);
}

}  // namespace planish::sparsity
