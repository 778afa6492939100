// Reference functions of sequences and optionals.
#include <algorithm>
#include <numeric>

#include "base/checked.hpp"
#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

const std::vector<Tensor>& sequence_input(RefContext& c, int i) {
    const RefValue& v = c.value(i);
    if (v.kind != Kind::sequence && !(v.kind == Kind::optional && v.holds_sequence))
        c.error("input 0 is not a sequence");
    return v.sequence;
}

RefValue make_sequence(std::vector<Tensor> elements) {
    RefValue v;
    v.kind = Kind::sequence;
    v.sequence = std::move(elements);
    return v;
}

/// Place in [0, limit]; negative counts from the end of `length` elements.
int64_t position(RefContext& c, int input, int64_t length, int64_t limit) {
    const int64_t given = c.input(input).at_int64(0);
    const int64_t place = given < 0 ? given + length : given;
    if (place < 0 || place > limit)
        c.error("position " + std::to_string(given) + " is out of range for a sequence of " + std::to_string(length));
    return place;
}

}  // namespace

void sequence_construct(RefContext& c) {
    std::vector<Tensor> elements;
    for (int i = 0; i < c.input_count(); ++i) elements.push_back(c.input(i));
    c.set_output(0, make_sequence(std::move(elements)));
}

void sequence_empty(RefContext& c) {
    c.set_output(0, make_sequence({}));
}

void sequence_at(RefContext& c) {
    const auto& s = sequence_input(c, 0);
    const auto length = static_cast<int64_t>(s.size());
    c.set_output(0, s[static_cast<size_t>(position(c, 1, length, length - 1))]);
}

void sequence_insert(RefContext& c) {
    std::vector<Tensor> s = sequence_input(c, 0);
    const auto length = static_cast<int64_t>(s.size());
    s.insert(s.begin() + (c.has_input(2) ? position(c, 2, length, length) : length), c.input(1));
    c.set_output(0, make_sequence(std::move(s)));
}

void sequence_erase(RefContext& c) {
    std::vector<Tensor> s = sequence_input(c, 0);
    const auto length = static_cast<int64_t>(s.size());
    if (length == 0) c.error("the sequence is empty");
    s.erase(s.begin() + (c.has_input(1) ? position(c, 1, length, length - 1) : length - 1));
    c.set_output(0, make_sequence(std::move(s)));
}

void sequence_length(RefContext& c) {
    c.set_output(0, Tensor::scalar(static_cast<int64_t>(sequence_input(c, 0).size())));
}

void split_to_sequence(RefContext& c) {
    const Tensor& x = c.input(0);
    const int64_t axis = c.axis("axis", x.rank());
    const int64_t extent = x.dim(axis);
    std::vector<int64_t> sizes;
    if (!c.has_input(1)) {
        sizes.assign(static_cast<size_t>(extent), 1);
    } else if (c.input(1).rank() == 0) {  // one number: parts of that size, the last one smaller
        const int64_t part = c.input(1).at_int64(0);
        if (part <= 0) c.error("the size of a part is " + std::to_string(part));
        for (int64_t start = 0; start < extent; start += part) sizes.push_back(std::min(part, extent - start));
    } else {
        sizes = c.input(1).to_int64s();
        if (!partitions(sizes, extent)) c.error("the sizes do not sum to " + std::to_string(extent));
    }
    const bool dropped = !c.has_input(1) && c.integer("keepdims") == 0;
    const Dims strides = row_major_strides(x.dims());
    std::vector<Tensor> parts;
    int64_t start = 0;
    for (int64_t size : sizes) {
        Dims dims = x.dims();
        dims[static_cast<size_t>(axis)] = size;
        Tensor part(x.dtype(), dims);
        copy_strided(part, {0, row_major_strides(dims)}, x, {start * strides[static_cast<size_t>(axis)], strides},
                     dims);
        if (dropped) {
            dims.erase(dims.begin() + axis);
            part = part.reshaped(dims);
        }
        parts.push_back(std::move(part));
        start += size;
    }
    c.set_output(0, make_sequence(std::move(parts)));
}

void concat_from_sequence(RefContext& c) {
    const auto& s = sequence_input(c, 0);
    if (s.empty()) c.error("the sequence is empty");
    const bool stacks = c.integer("new_axis") != 0;
    const int64_t axis = c.axis("axis", s[0].rank() + (stacks ? 1 : 0));
    std::vector<Dims> shapes;
    Dims dims;
    for (const Tensor& t : s) {
        Dims shape = t.dims();
        if (stacks) shape.insert(shape.begin() + axis, 1);
        if (dims.empty())
            dims = shape;
        else {
            for (size_t k = 0; k < dims.size(); ++k)
                if (static_cast<int64_t>(k) != axis && (shape.size() != dims.size() || shape[k] != dims[k]))
                    c.error("elements of shapes " + to_string(dims) + " and " + to_string(shape));
            dims[static_cast<size_t>(axis)] += shape[static_cast<size_t>(axis)];
        }
        shapes.push_back(std::move(shape));
    }
    Tensor& out = c.output(0, s[0].dtype(), dims);
    const Dims strides = row_major_strides(dims);
    int64_t start = 0;
    for (size_t i = 0; i < s.size(); ++i) {
        copy_strided(out, {start * strides[static_cast<size_t>(axis)], strides}, s[i],
                     {0, row_major_strides(shapes[i])}, shapes[i]);
        start += shapes[i][static_cast<size_t>(axis)];
    }
}

void optional(RefContext& c) {
    RefValue v;
    if (c.has_input(0)) v = c.value(0);
    if (v.kind != Kind::optional) {
        v.holds_sequence = v.kind == Kind::sequence;
        v.kind = Kind::optional;
        v.present = c.has_input(0);
    }
    if (!v.present) v.holds_sequence = c.text("element_kind") == "sequence";
    c.set_output(0, std::move(v));
}

void optional_get_element(RefContext& c) {
    RefValue v = c.value(0);
    if (v.kind == Kind::optional) {
        if (!v.present) c.error("the optional is empty");
        v.kind = v.holds_sequence ? Kind::sequence : Kind::tensor;
        v.holds_sequence = false;
    }
    c.set_output(0, std::move(v));
}

void optional_has_element(RefContext& c) {
    const bool present = c.has_input(0) && (c.value(0).kind != Kind::optional || c.value(0).present);
    c.set_output(0, Tensor::scalar(present));
}

}  // namespace planish::reference
