// Feeds in, NumPy arrays out, without copying elements.
#include "convert.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace planish::python {
namespace {

Dims shape_of(nb::handle shape) {
    return nb::cast<std::vector<int64_t>>(shape);
}

/// The NumPy element type whose bits carry `dtype`.
nb::dlpack::dtype carrier(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return nb::dtype<float>();
        case DType::f64:
            return nb::dtype<double>();
        case DType::boolean:
            return nb::dtype<bool>();
        case DType::i8:
            return nb::dtype<int8_t>();
        case DType::i16:
            return nb::dtype<int16_t>();
        case DType::i32:
            return nb::dtype<int32_t>();
        case DType::i64:
            return nb::dtype<int64_t>();
        case DType::u16:
        case DType::bf16:
            return nb::dtype<uint16_t>();
        case DType::u32:
            return nb::dtype<uint32_t>();
        case DType::u64:
            return nb::dtype<uint64_t>();
        case DType::f16:
            return {static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
        case DType::c64:
            return {static_cast<uint8_t>(nb::dlpack::dtype_code::Complex), 64, 1};
        case DType::c128:
            return {static_cast<uint8_t>(nb::dlpack::dtype_code::Complex), 128, 1};
        default:
            return nb::dtype<uint8_t>();
    }
}

nb::object array_of(Tensor tensor) {
    const DType dtype = tensor.dtype();
    const bool packed = bit_width(dtype) < 8;
    std::vector<size_t> shape(tensor.dims().begin(), tensor.dims().end());
    if (packed) shape.assign(1, static_cast<size_t>(tensor.bytes()));
    auto* owner = new Tensor(std::move(tensor));
    nb::capsule capsule(owner, [](void* p) noexcept { delete static_cast<Tensor*>(p); });
    nb::ndarray<nb::numpy> array(owner->raw(), shape.size(), shape.data(), capsule, nullptr, carrier(dtype));
    return nb::cast(array, nb::rv_policy::reference);
}

nb::object tensor_to_python(Tensor tensor) {
    const std::string name(to_string(tensor.dtype()));
    const nb::tuple shape = nb::tuple(nb::cast(tensor.dims()));
    if (tensor.dtype() == DType::string) {
        nb::list items;
        for (const std::string& text : tensor.strings())
            items.append(
                nb::steal(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape")));
        return nb::make_tuple(name, shape, items);
    }
    return nb::make_tuple(name, shape, array_of(std::move(tensor)));
}

}  // namespace

RefValue from_feed(nb::handle feed) {
    const auto tuple = nb::cast<nb::tuple>(feed);
    const auto kind = nb::cast<std::string>(tuple[0]);
    RefValue value;
    if (kind == "sequence") {
        value.kind = Kind::sequence;
        for (nb::handle item : nb::cast<nb::list>(tuple[1])) value.sequence.push_back(from_feed(item).tensor);
        return value;
    }
    if (kind == "optional") {
        value.present = !tuple[1].is_none();
        if (value.present) value = from_feed(tuple[1]);
        value.holds_sequence = value.kind == Kind::sequence;
        value.kind = Kind::optional;
        return value;
    }
    const Dims dims = shape_of(tuple[1]);
    if (kind == "string") {
        std::vector<std::string> texts;
        for (nb::handle item : nb::cast<nb::list>(tuple[2])) texts.push_back(nb::cast<std::string>(item));
        return Tensor::from_strings(std::move(texts), dims);
    }
    const auto dtype = dtype_from_string(kind);
    if (!dtype) fail(ErrorCode::invalid_argument, "arrays of type " + kind + " cannot be fed");
    return Tensor(*dtype, dims, reinterpret_cast<const void*>(nb::cast<uintptr_t>(tuple[2])), nullptr);
}

std::map<std::string, RefValue> from_feeds(nb::dict feeds) {
    std::map<std::string, RefValue> result;
    for (auto [name, feed] : feeds) result.emplace(nb::cast<std::string>(name), from_feed(feed));
    return result;
}

nb::object to_python(RefValue value) {
    if (value.kind == Kind::optional && !value.present) return nb::none();
    if (value.kind == Kind::sequence || (value.kind == Kind::optional && value.holds_sequence)) {
        nb::list items;
        for (Tensor& item : value.sequence) items.append(tensor_to_python(std::move(item)));
        return items;
    }
    return tensor_to_python(std::move(value.tensor));
}

std::vector<TensorMap> samples_of(nb::handle list) {
    std::vector<TensorMap> samples;
    for (nb::handle sample : nb::cast<nb::list>(list)) {
        TensorMap map;
        for (auto& [name, value] : from_feeds(nb::cast<nb::dict>(sample))) map[name] = value.tensor;
        samples.push_back(std::move(map));
    }
    return samples;
}

std::map<std::string, ShapeRange> shapes_of(nb::handle ranges) {
    std::map<std::string, ShapeRange> shapes;
    for (auto& [name, range] : nb::cast<std::map<std::string, std::vector<Dims>>>(ranges))
        shapes[name] = {range.at(0), range.at(1), range.at(2)};
    return shapes;
}

std::function<bool(const Progress&)> progress_of(nb::object function) {
    return [function](const Progress& p) {
        const nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (function.is_none()) return true;
        const nb::object answer = function(std::string(p.stage), std::string(p.detail), p.fraction);
        return !answer.is(nb::handle(Py_False));
    };
}

}  // namespace planish::python
