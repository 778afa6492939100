// Every way in which ONNX stores a tensor's elements, and every check that keeps a damaged one from being read.
#include "importers/onnx/tensor_proto.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <type_traits>

#include "planish/error.hpp"

namespace planish::onnx_import {
namespace {

static_assert(static_cast<int>(DType::i2) == pb::TensorProto::INT2, "DType follows ONNX's numbering");

constexpr int64_t kBorrowFrom = 1024;                 // bytes; smaller tensors are copied
constexpr int64_t kMaxDenseBytes = int64_t{1} << 30;  // of a sparse tensor made dense

[[noreturn]] void invalid(const std::string& name, const std::string& what) {
    fail(ErrorCode::invalid_model, "tensor '" + name + "' " + what,
         "the file is damaged or was written wrongly: export it again");
}

Dims read_dims(const google::protobuf::RepeatedField<int64_t>& proto, const std::string& name) {
    Dims dims(proto.begin(), proto.end());
    int64_t count = 1;
    for (int64_t d : dims)
        if (d < 0) invalid(name, "has a negative dimension");
    for (int64_t d : dims)
        if (d != 0 && __builtin_mul_overflow(count, d, &count))
            invalid(name, "has more elements than 64 bits can count");
    // A bound that keeps bytes and bits countable too, zero-sized tensors included.
    if (count > (int64_t{1} << 56)) invalid(name, "has more elements than any memory holds");
    return dims;
}

// The alignment that typed access to the dtype's elements needs.
size_t alignment_of(DType dtype) {
    switch (bit_width(dtype)) {
        case 16:
            return 2;
        case 32:
            return 4;
        case 64:
        case 128:
            return dtype == DType::c64 ? 4 : 8;
        default:
            return 1;
    }
}

bool is_aligned(const void* data, DType dtype) {
    return reinterpret_cast<uintptr_t>(data) % alignment_of(dtype) == 0;
}

// Any nonzero byte is true in a file, but only 1 is in memory.
void normalise_bools(Tensor& tensor) {
    if (tensor.dtype() != DType::boolean) return;
    auto* bytes = static_cast<uint8_t*>(tensor.raw());
    std::transform(bytes, bytes + tensor.size(), bytes, [](uint8_t b) { return b != 0; });
}

Tensor copy_bytes(DType dtype, Dims dims, const void* data, int64_t bytes) {
    Tensor result(dtype, std::move(dims));
    if (bytes > 0) std::memcpy(result.raw(), data, static_cast<size_t>(bytes));
    normalise_bools(result);
    return result;
}

Tensor from_external(const pb::TensorProto& proto, DType dtype, Dims dims, int64_t bytes, ExternalData& external) {
    const std::string& name = proto.name();
    std::string location;
    uint64_t offset = 0;
    std::optional<uint64_t> length;
    auto number = [&](const std::string& text, const char* key) {
        uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc{} || end != text.data() + text.size())
            invalid(name, std::string("has an external data ") + key + " that is not a number: '" + text + "'");
        return value;
    };
    for (const auto& entry : proto.external_data()) {
        if (entry.key() == "location") location = entry.value();
        if (entry.key() == "offset") offset = number(entry.value(), "offset");
        if (entry.key() == "length") length = number(entry.value(), "length");
    }
    const auto file = external.file(location, name);
    const size_t file_size = file->bytes().size();
    if (length && *length != static_cast<uint64_t>(bytes))
        invalid(name, "has " + std::to_string(*length) + " bytes of external data, but its shape and type need " +
                          std::to_string(bytes));
    if (offset > file_size || static_cast<uint64_t>(bytes) > file_size - offset)
        fail(ErrorCode::invalid_model,
             "tensor '" + name + "' needs " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                 " of '" + location + "', which has only " + std::to_string(file_size),
             "the external data file is truncated or belongs to another model: copy it again");
    const std::byte* data = file->bytes().data() + offset;
    if (bytes < kBorrowFrom || !is_aligned(data, dtype) || dtype == DType::boolean)
        return copy_bytes(dtype, std::move(dims), data, bytes);
    return Tensor(dtype, std::move(dims), data, file);
}

Tensor from_raw(const pb::TensorProto& proto, DType dtype, Dims dims, int64_t bytes, Ownership ownership) {
    const std::string& raw = proto.raw_data();
    if (static_cast<int64_t>(raw.size()) != bytes)
        invalid(proto.name(), "has " + std::to_string(raw.size()) + " bytes of data, but its shape and type need " +
                                  std::to_string(bytes));
    if (ownership == Ownership::take && bytes >= kBorrowFrom && is_aligned(raw.data(), dtype) &&
        dtype != DType::boolean) {
        auto owned = std::make_shared<std::string>(std::move(*const_cast<pb::TensorProto&>(proto).mutable_raw_data()));
        const void* data = owned->data();
        return Tensor(dtype, std::move(dims), data, std::move(owned));
    }
    return copy_bytes(dtype, std::move(dims), raw.data(), bytes);
}

// Elements stored as wider numbers, one field entry for each T-sized unit of memory.
template <typename T, typename Field>
Tensor from_field(const pb::TensorProto& proto, DType dtype, Dims dims, int64_t bytes, const Field& field) {
    const int64_t units = bytes / static_cast<int64_t>(sizeof(T));
    if (field.size() != units)
        invalid(proto.name(), "has " + std::to_string(field.size()) + " values, but its shape and type need " +
                                  std::to_string(units));
    Tensor result(dtype, std::move(dims));
    T* out = static_cast<T*>(result.raw());
    for (int i = 0; i < field.size(); ++i) out[i] = static_cast<T>(field.Get(i));
    normalise_bools(result);
    return result;
}

}  // namespace

DType to_dtype(int proto_type, const std::string& name) {
    if (proto_type > 0 && proto_type <= static_cast<int>(DType::i2)) return static_cast<DType>(proto_type);
    if (proto_type == pb::TensorProto::FLOAT6E2M3 || proto_type == pb::TensorProto::FLOAT6E3M2)
        fail(ErrorCode::unsupported, "'" + name + "' has a 6-bit float type, which Planish does not have",
             "use float8 or float4");
    fail(ErrorCode::invalid_model, "'" + name + "' has the unknown element type " + std::to_string(proto_type),
         "the file is damaged, or was written by a newer ONNX");
}

Tensor to_tensor(const pb::TensorProto& proto, ExternalData& external, Ownership ownership) {
    const std::string& name = proto.name();
    const DType dtype = to_dtype(proto.data_type(), name);
    Dims dims = read_dims(proto.dims(), name);
    if (proto.has_segment())
        fail(ErrorCode::unsupported, "tensor '" + name + "' is stored in segments",
             "save the model again with onnx.save");
    const int64_t count = element_count(dims);

    if (dtype == DType::string) {
        if (proto.string_data_size() != count)
            invalid(name, "has " + std::to_string(proto.string_data_size()) + " strings, but its shape needs " +
                              std::to_string(count));
        return Tensor::from_strings({proto.string_data().begin(), proto.string_data().end()}, std::move(dims));
    }
    const int64_t bytes = byte_size(dtype, count);
    if (proto.data_location() == pb::TensorProto::EXTERNAL)
        return from_external(proto, dtype, std::move(dims), bytes, external);
    if (proto.has_raw_data() && (count > 0 || !proto.raw_data().empty()))
        return from_raw(proto, dtype, std::move(dims), bytes, ownership);

    // Typed fields. Sub-byte types and booleans sit in int32_data, one byte of memory an entry.
    switch (dtype) {
        case DType::f32:
        case DType::c64:
            return from_field<float>(proto, dtype, std::move(dims), bytes, proto.float_data());
        case DType::f64:
        case DType::c128:
            return from_field<double>(proto, dtype, std::move(dims), bytes, proto.double_data());
        case DType::i64:
            return from_field<int64_t>(proto, dtype, std::move(dims), bytes, proto.int64_data());
        case DType::u64:
            return from_field<uint64_t>(proto, dtype, std::move(dims), bytes, proto.uint64_data());
        case DType::u32:
            return from_field<uint32_t>(proto, dtype, std::move(dims), bytes, proto.uint64_data());
        case DType::i32:
            return from_field<int32_t>(proto, dtype, std::move(dims), bytes, proto.int32_data());
        case DType::i16:
        case DType::u16:
        case DType::f16:
        case DType::bf16:
            return from_field<uint16_t>(proto, dtype, std::move(dims), bytes, proto.int32_data());
        default:
            return from_field<uint8_t>(proto, dtype, std::move(dims), bytes, proto.int32_data());
    }
}

Tensor to_tensor(const pb::SparseTensorProto& proto, ExternalData& external) {
    const std::string& name = proto.values().name();
    const Tensor values = to_tensor(proto.values(), external, Ownership::copy);
    Dims dims = read_dims(proto.dims(), name);
    const int64_t count = element_count(dims);
    if (values.rank() != 1) invalid(name, "is sparse, but its values are not a vector");
    if (values.dtype() == DType::string || bit_width(values.dtype()) < 8)
        fail(ErrorCode::unsupported,
             "sparse tensor '" + name + "' has elements of type " + std::string(to_string(values.dtype())),
             "store it dense");
    if (byte_size(values.dtype(), count) > kMaxDenseBytes)
        fail(ErrorCode::resource_exhausted, "sparse tensor '" + name + "' would take more than 1 GiB when made dense",
             "store it dense as external data");

    std::vector<int64_t> places;
    if (proto.has_indices()) {
        const Tensor indices = to_tensor(proto.indices(), external, Ownership::copy);
        const auto rank = static_cast<int64_t>(dims.size());
        if (indices.dtype() != DType::i64) invalid(name, "is sparse with indices that are not int64");
        const auto flat = indices.data<int64_t>();
        if (indices.rank() == 1) {
            places.assign(flat.begin(), flat.end());
        } else if (indices.rank() == 2 && indices.dim(1) == rank) {
            for (int64_t i = 0; i < indices.dim(0); ++i) {
                int64_t place = 0;
                for (int64_t axis = 0; axis < rank; ++axis) {
                    const int64_t index = flat[static_cast<size_t>(i * rank + axis)];
                    if (index < 0 || index >= dims[static_cast<size_t>(axis)])
                        invalid(name, "is sparse with an index outside its shape");
                    place = place * dims[static_cast<size_t>(axis)] + index;
                }
                places.push_back(place);
            }
        } else {
            invalid(name, "is sparse with indices of a wrong shape");
        }
    }
    if (static_cast<int64_t>(places.size()) != values.size())
        invalid(name, "is sparse with a different number of indices and values");

    Tensor dense(values.dtype(), std::move(dims));
    const auto width = static_cast<size_t>(bit_width(values.dtype()) / 8);
    for (size_t i = 0; i < places.size(); ++i) {
        if (places[i] < 0 || places[i] >= count) invalid(name, "is sparse with an index outside its shape");
        std::memcpy(static_cast<std::byte*>(dense.raw()) + static_cast<size_t>(places[i]) * width,
                    static_cast<const std::byte*>(values.raw()) + i * width, width);
    }
    return dense;
}

Dim named_dim(const std::string& param, const std::string& value_name, int axis) {
    // Exporters without names for their unknowns write these; two of them need not be equal.
    const bool unnamed = param.empty() || param == "?" || param == "None" || param == "-1" || param == "unk";
    if (!unnamed && param[0] != '?') return Dim::symbol(param);
    return Dim::symbol(value_name + "_dim" + std::to_string(axis));
}

Dim unknown_dim(const std::string&, const std::string&, int) {
    return Dim::unknown();
}

Type to_type(const pb::TypeProto& proto, const std::string& name, DimMaker make_dim) {
    Type type;
    switch (proto.value_case()) {
        case pb::TypeProto::kTensorType: {
            const auto& tensor = proto.tensor_type();
            if (tensor.elem_type() == 0) return type;
            type.dtype = to_dtype(tensor.elem_type(), name);
            if (!tensor.has_shape()) return type;
            type.shape.emplace();
            for (int axis = 0; axis < tensor.shape().dim_size(); ++axis) {
                const auto& dim = tensor.shape().dim(axis);
                if (dim.has_dim_value() && dim.dim_value() >= 0)
                    type.shape->push_back(Dim(dim.dim_value()));
                else
                    type.shape->push_back(make_dim(dim.dim_param(), name, axis));
            }
            return type;
        }
        case pb::TypeProto::kSequenceType: {
            if (!proto.sequence_type().elem_type().has_tensor_type())
                fail(ErrorCode::unsupported, "'" + name + "' is a sequence of something other than tensors",
                     "use a sequence of tensors");
            type = to_type(proto.sequence_type().elem_type(), name, unknown_dim);
            type.kind = Kind::sequence;
            return type;
        }
        case pb::TypeProto::kOptionalType: {
            const auto& element = proto.optional_type().elem_type();
            if (!element.has_tensor_type() && !element.has_sequence_type())
                fail(ErrorCode::unsupported,
                     "'" + name + "' is an optional of something other than tensors and sequences",
                     "use an optional tensor");
            type = to_type(element, name, unknown_dim);
            type.element_kind = type.kind;
            type.kind = Kind::optional;
            return type;
        }
        case pb::TypeProto::VALUE_NOT_SET:
            return type;
        default:
            fail(ErrorCode::unsupported,
                 "'" + name + "' is a map, a sparse tensor or opaque, which Planish does not have",
                 "export the model with tensors as inputs and outputs (for classifiers: without ZipMap)");
    }
}

pb::TypeProto to_proto(const Type& type) {
    pb::TypeProto proto;
    pb::TypeProto* place = &proto;
    if (type.kind == Kind::optional) place = place->mutable_optional_type()->mutable_elem_type();
    if (type.kind == Kind::sequence || (type.kind == Kind::optional && type.element_kind == Kind::sequence))
        place = place->mutable_sequence_type()->mutable_elem_type();
    auto* tensor = place->mutable_tensor_type();
    tensor->set_elem_type(static_cast<int>(type.dtype));
    if (type.shape) {
        auto* shape = tensor->mutable_shape();
        for (const Dim& dim : *type.shape) {
            auto* d = shape->add_dim();
            if (const auto value = dim.value())
                d->set_dim_value(*value);
            else if (!dim.contains_unknown())
                d->set_dim_param(dim.to_string());
        }
    }
    return proto;
}

}  // namespace planish::onnx_import
