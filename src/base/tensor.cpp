// Tensor: memory and element access.
// Public API without a PLANISH_API on each declaration: the pragma exports what this file defines of it.
#pragma GCC visibility push(default)
#include "planish/tensor.hpp"
#pragma GCC visibility pop

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "base/checked.hpp"
#include "base/memory_limit.hpp"
#include "base/small_float.hpp"
#include "base/tensor_source.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

constexpr size_t kAlignment = 64;

uint32_t get_packed(const void* data, int64_t i, int bits) {
    const int per_byte = 8 / bits;
    const uint8_t byte = static_cast<const uint8_t*>(data)[i / per_byte];
    return (byte >> ((i % per_byte) * bits)) & ((1u << bits) - 1);
}

void set_packed(void* data, int64_t i, int bits, uint32_t value) {
    const int per_byte = 8 / bits;
    uint8_t& byte = static_cast<uint8_t*>(data)[i / per_byte];
    const int shift = static_cast<int>(i % per_byte) * bits;
    const uint32_t mask = ((1u << bits) - 1) << shift;
    byte = static_cast<uint8_t>((byte & ~mask) | ((value << shift) & mask));
}

int64_t sign_extend(uint32_t value, int bits) {
    const uint32_t sign = 1u << (bits - 1);
    return static_cast<int64_t>(value ^ sign) - static_cast<int64_t>(sign);
}

/// Element access is what the reference interpreter rests on, and its indices come from models: it is always checked.
void require_element(const Tensor& tensor, int64_t i) {
    if (static_cast<uint64_t>(i) >= static_cast<uint64_t>(tensor.size())) [[unlikely]]
        fail(ErrorCode::invalid_argument, "element " + std::to_string(i) + " of a tensor of " +
                                              std::to_string(tensor.size()) + " elements does not exist");
}

}  // namespace

int64_t element_count(std::span<const int64_t> dims) {
    int64_t count = 1;
    for (int64_t d : dims) {
        if (d < 0) fail(ErrorCode::invalid_argument, "negative dimension in shape " + to_string(dims));
        if (__builtin_mul_overflow(count, d, &count))
            fail(ErrorCode::invalid_argument, "shape " + to_string(dims) + " has more than 2^63 elements");
    }
    return count;
}

std::string to_string(std::span<const int64_t> dims) {
    if (dims.empty()) return "scalar";
    std::string text;
    for (int64_t d : dims) {
        if (!text.empty()) text += 'x';
        text += std::to_string(d);
    }
    return text;
}

Tensor::Tensor(DType dtype, Dims dims) : dtype_(dtype), dims_(std::move(dims)), size_(element_count(dims_)) {
    if (dtype != DType::string && bit_width(dtype) == 0) fail(ErrorCode::internal, "a tensor needs a dtype");
    const int64_t limit = memory_limit();
    if (dtype == DType::string) {
        if (size_ > limit / static_cast<int64_t>(sizeof(std::string)))
            fail(ErrorCode::resource_exhausted, "a tensor of shape " + to_string(dims_) + " does not fit in memory");
        strings_ = std::make_shared<std::vector<std::string>>(static_cast<size_t>(size_));
        return;
    }
    if (size_ > std::numeric_limits<int64_t>::max() / 16 || byte_size(dtype, size_) > limit)
        fail(ErrorCode::resource_exhausted, "a tensor of shape " + to_string(dims_) + " does not fit in memory");
    const size_t bytes = static_cast<size_t>(byte_size(dtype, size_));
    if (bytes == 0) return;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    // calloc knows which memory comes from the system as zeros already; it aligns to 16 bytes only.
    void* const block = std::calloc(1, rounded + kAlignment);
    void* memory = block;
    size_t room = rounded + kAlignment;
    if (block == nullptr || std::align(kAlignment, rounded, memory, room) == nullptr)
        fail(ErrorCode::resource_exhausted,
             "out of memory for a tensor of shape " + to_string(dims_) + " (" + std::to_string(bytes) + " bytes)");
    data_ = memory;
    owner_ = std::shared_ptr<const void>(memory, [block](const void*) { std::free(block); });
}

Tensor::Tensor(DType dtype, Dims dims, const void* data, std::shared_ptr<const void> keep_alive)
    : dtype_(dtype), dims_(std::move(dims)), size_(element_count(dims_)), data_(data), owner_(std::move(keep_alive)) {
    if (dtype == DType::undefined || dtype == DType::string)
        fail(ErrorCode::internal, "only numeric memory can be borrowed");
}

Tensor::Tensor(DType dtype, Dims dims, std::shared_ptr<const TensorSource> source)
    : dtype_(dtype), dims_(std::move(dims)), size_(element_count(dims_)), source_(std::move(source)) {
    if (dtype == DType::undefined || dtype == DType::string)
        fail(ErrorCode::internal, "only numeric elements can be made on demand");
}

const void* Tensor::source_elements() const {
    return source_->elements();
}

Tensor Tensor::from_strings(std::vector<std::string> values, Dims dims) {
    Tensor result;
    result.dtype_ = DType::string;
    result.dims_ = std::move(dims);
    result.size_ = element_count(result.dims_);
    if (result.size_ != static_cast<int64_t>(values.size()))
        fail(ErrorCode::invalid_argument, "a string tensor of shape " + to_string(result.dims_) + " got " +
                                              std::to_string(values.size()) + " values");
    result.strings_ = std::make_shared<std::vector<std::string>>(std::move(values));
    return result;
}

Tensor Tensor::reshaped(Dims dims) const {
    Tensor result = *this;
    if (element_count(dims) != size_)
        fail(ErrorCode::invalid_argument, "cannot reshape " + to_string(dims_) + " to " + to_string(dims));
    result.dims_ = std::move(dims);
    return result;
}

Tensor Tensor::clone() const {
    if (dtype_ == DType::undefined) return {};
    if (dtype_ == DType::string) return from_strings(*strings_, dims_);
    Tensor result(dtype_, dims_);
    if (size_ > 0) std::memcpy(result.raw(), raw(), static_cast<size_t>(bytes()));
    return result;
}

double Tensor::at_double(int64_t i) const {
    require_element(*this, i);
    switch (dtype_) {
        case DType::f32:
            return static_cast<const float*>(raw())[i];
        case DType::f64:
            return static_cast<const double*>(raw())[i];
        case DType::f16:
        case DType::bf16:
            return decode_small_float(dtype_, static_cast<const uint16_t*>(raw())[i]);
        case DType::f8e4m3fn:
        case DType::f8e4m3fnuz:
        case DType::f8e5m2:
        case DType::f8e5m2fnuz:
        case DType::f8e8m0:
            return decode_small_float(dtype_, static_cast<const uint8_t*>(raw())[i]);
        case DType::f4e2m1:
            return decode_small_float(dtype_, get_packed(data_, i, 4));
        case DType::u64:
            return static_cast<double>(static_cast<const uint64_t*>(raw())[i]);
        default:
            return static_cast<double>(at_int64(i));
    }
}

int64_t Tensor::at_int64(int64_t i) const {
    require_element(*this, i);
    switch (dtype_) {
        case DType::boolean:
        case DType::u8:
            return static_cast<const uint8_t*>(raw())[i];
        case DType::i8:
            return static_cast<const int8_t*>(raw())[i];
        case DType::u16:
            return static_cast<const uint16_t*>(raw())[i];
        case DType::i16:
            return static_cast<const int16_t*>(raw())[i];
        case DType::u32:
            return static_cast<const uint32_t*>(raw())[i];
        case DType::i32:
            return static_cast<const int32_t*>(raw())[i];
        case DType::u64:
            return static_cast<int64_t>(static_cast<const uint64_t*>(raw())[i]);
        case DType::i64:
            return static_cast<const int64_t*>(raw())[i];
        case DType::u4:
            return get_packed(data_, i, 4);
        case DType::i4:
            return sign_extend(get_packed(data_, i, 4), 4);
        case DType::u2:
            return get_packed(data_, i, 2);
        case DType::i2:
            return sign_extend(get_packed(data_, i, 2), 2);
        case DType::undefined:
        case DType::string:
        case DType::c64:
        case DType::c128:
            fail(ErrorCode::internal, "a " + std::string(to_string(dtype_)) + " element is not a number");
        default:
            return saturating_int64(at_double(i));
    }
}

void Tensor::set_double(int64_t i, double value) {
    require_element(*this, i);
    void* p = raw();
    switch (dtype_) {
        case DType::f32:
            static_cast<float*>(p)[i] = static_cast<float>(value);
            return;
        case DType::f64:
            static_cast<double*>(p)[i] = value;
            return;
        case DType::f16:
        case DType::bf16:
            static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>(encode_small_float(dtype_, value));
            return;
        case DType::f8e4m3fn:
        case DType::f8e4m3fnuz:
        case DType::f8e5m2:
        case DType::f8e5m2fnuz:
        case DType::f8e8m0:
            static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(encode_small_float(dtype_, value));
            return;
        case DType::f4e2m1:
            set_packed(p, i, 4, encode_small_float(dtype_, value));
            return;
        case DType::boolean:
            static_cast<uint8_t*>(p)[i] = value != 0;
            return;
        case DType::u64:
            static_cast<uint64_t*>(p)[i] = value >= 9223372036854775808.0
                                               ? static_cast<uint64_t>(value)
                                               : static_cast<uint64_t>(saturating_int64(value));
            return;
        default:
            break;
    }
    const int64_t integer = saturating_int64(value);
    switch (dtype_) {
        case DType::u8:
            static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(integer);
            return;
        case DType::i8:
            static_cast<int8_t*>(p)[i] = static_cast<int8_t>(integer);
            return;
        case DType::u16:
            static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>(integer);
            return;
        case DType::i16:
            static_cast<int16_t*>(p)[i] = static_cast<int16_t>(integer);
            return;
        case DType::u32:
            static_cast<uint32_t*>(p)[i] = static_cast<uint32_t>(integer);
            return;
        case DType::i32:
            static_cast<int32_t*>(p)[i] = static_cast<int32_t>(integer);
            return;
        case DType::i64:
            static_cast<int64_t*>(p)[i] = integer;
            return;
        case DType::u4:
        case DType::i4:
            set_packed(p, i, 4, static_cast<uint32_t>(integer));
            return;
        case DType::u2:
        case DType::i2:
            set_packed(p, i, 2, static_cast<uint32_t>(integer));
            return;
        default:
            fail(ErrorCode::internal, "cannot store a number in a " + std::string(to_string(dtype_)) + " tensor");
    }
}

std::vector<int64_t> Tensor::to_int64s() const {
    std::vector<int64_t> result(static_cast<size_t>(size_));
    for (int64_t i = 0; i < size_; ++i) result[static_cast<size_t>(i)] = at_int64(i);
    return result;
}

std::vector<double> Tensor::to_doubles() const {
    std::vector<double> result(static_cast<size_t>(size_));
    for (int64_t i = 0; i < size_; ++i) result[static_cast<size_t>(i)] = at_double(i);
    return result;
}

bool identical(const Tensor& a, const Tensor& b) {
    if (a.dtype() != b.dtype() || a.dims() != b.dims()) return false;
    if (a.dtype() == DType::string) return a.strings() == b.strings();
    return a.size() == 0 || a.raw() == b.raw() || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace planish
