// Element movement by width: 1, 2, 4, 8, 16 bytes, packed nibbles and crumbs, strings.
#include "reference/elements.hpp"

#include <cstring>
#include <string>

#include "planish/error.hpp"

namespace planish::reference {
namespace {

struct Wide {
    uint64_t low, high;
};

uint32_t get_packed(const void* data, int64_t i, int bits) {
    const int64_t bit = i * bits;
    return (static_cast<const uint8_t*>(data)[bit / 8] >> (bit % 8)) & ((1u << bits) - 1);
}

void set_packed(void* data, int64_t i, int bits, uint32_t value) {
    const int64_t bit = i * bits;
    uint8_t& byte = static_cast<uint8_t*>(data)[bit / 8];
    const uint32_t mask = ((1u << bits) - 1) << (bit % 8);
    byte = static_cast<uint8_t>((byte & ~mask) | ((value << (bit % 8)) & mask));
}

// Drops axes of extent 1 and joins neighbours that are contiguous in both walks, so that the inner loop is long.
void simplify(Dims& dims, Dims& a, Dims& b) {
    Dims new_dims, new_a, new_b;
    for (size_t i = 0; i < dims.size(); ++i) {
        if (dims[i] == 1) continue;
        if (!new_dims.empty() && new_a.back() == a[i] * dims[i] && new_b.back() == b[i] * dims[i]) {
            new_dims.back() *= dims[i];
            new_a.back() = a[i];
            new_b.back() = b[i];
        } else {
            new_dims.push_back(dims[i]);
            new_a.push_back(a[i]);
            new_b.push_back(b[i]);
        }
    }
    dims = std::move(new_dims);
    a = std::move(new_a);
    b = std::move(new_b);
}

template <typename T>
void copy_row(void* to, int64_t to_offset, int64_t to_stride, const void* from, int64_t from_offset,
              int64_t from_stride, int64_t count) {
    T* t = static_cast<T*>(to) + to_offset;
    const T* f = static_cast<const T*>(from) + from_offset;
    for (int64_t i = 0; i < count; ++i) t[i * to_stride] = f[i * from_stride];
}

/// Offsets come from a model's own indices and shapes: every walk is checked against the memory it walks over.
void require_within(const Tensor& tensor, int64_t first, int64_t last) {
    if (first < 0 || last >= tensor.size())
        fail(ErrorCode::invalid_argument, "elements " + std::to_string(first) + " to " + std::to_string(last) +
                                              " of a tensor of shape " + to_string(tensor.dims()) + " do not exist");
}

void require_within(const Tensor& tensor, const Walk& walk, const Dims& dims) {
    int64_t first = walk.offset, last = walk.offset;
    for (size_t k = 0; k < dims.size(); ++k) {
        int64_t reach = 0;
        const bool overflows = __builtin_mul_overflow(dims[k] - 1, walk.strides[k], &reach) ||
                               __builtin_add_overflow(reach < 0 ? first : last, reach, reach < 0 ? &first : &last);
        if (overflows) fail(ErrorCode::invalid_argument, "a walk over " + to_string(dims) + " overflows 64 bits");
    }
    require_within(tensor, first, last);
}

}  // namespace

void copy_elements(Tensor& to, int64_t to_index, const Tensor& from, int64_t from_index, int64_t count) {
    if (to.dtype() != from.dtype()) fail(ErrorCode::internal, "copy_elements between different dtypes");
    if (count <= 0) return;
    require_within(to, to_index, to_index + (count - 1));
    require_within(from, from_index, from_index + (count - 1));
    if (to.dtype() == DType::string) {
        for (int64_t i = 0; i < count; ++i)
            to.strings()[static_cast<size_t>(to_index + i)] = from.strings()[static_cast<size_t>(from_index + i)];
        return;
    }
    const int bits = bit_width(to.dtype());
    if (bits < 8) {
        for (int64_t i = 0; i < count; ++i)
            set_packed(to.raw(), to_index + i, bits, get_packed(from.raw(), from_index + i, bits));
        return;
    }
    const int64_t width = bits / 8;
    std::memmove(static_cast<char*>(to.raw()) + to_index * width,
                 static_cast<const char*>(from.raw()) + from_index * width, static_cast<size_t>(count * width));
}

Dims row_major_strides(const Dims& dims) {
    Dims strides(dims.size());
    int64_t stride = 1;
    for (size_t i = dims.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= dims[i];
    }
    return strides;
}

int64_t count_range(const Dims& dims, int64_t begin, int64_t end) {
    int64_t count = 1;
    for (int64_t i = begin; i < end; ++i) count *= dims[static_cast<size_t>(i)];
    return count;
}

void copy_strided(Tensor& to, Walk to_walk, const Tensor& from, Walk from_walk, Dims dims) {
    for (int64_t d : dims)
        if (d == 0) return;
    if (to.dtype() != from.dtype()) fail(ErrorCode::internal, "copy_strided between different dtypes");
    require_within(to, to_walk, dims);
    require_within(from, from_walk, dims);
    simplify(dims, to_walk.strides, from_walk.strides);
    if (dims.empty()) return copy_elements(to, to_walk.offset, from, from_walk.offset);
    const int64_t count = dims.back();
    const int64_t to_stride = to_walk.strides.back();
    const int64_t from_stride = from_walk.strides.back();
    const Dims outer(dims.begin(), dims.end() - 1);
    const int bits = to.dtype() == DType::string ? 0 : bit_width(to.dtype());
    const bool contiguous = to_stride == 1 && from_stride == 1;
    for_each_index(outer, [&](const Dims& index) {
        int64_t t = to_walk.offset;
        int64_t f = from_walk.offset;
        for (size_t k = 0; k < index.size(); ++k) {
            t += index[k] * to_walk.strides[k];
            f += index[k] * from_walk.strides[k];
        }
        if (contiguous) return copy_elements(to, t, from, f, count);
        switch (bits) {
            case 8:
                return copy_row<uint8_t>(to.raw(), t, to_stride, from.raw(), f, from_stride, count);
            case 16:
                return copy_row<uint16_t>(to.raw(), t, to_stride, from.raw(), f, from_stride, count);
            case 32:
                return copy_row<uint32_t>(to.raw(), t, to_stride, from.raw(), f, from_stride, count);
            case 64:
                return copy_row<uint64_t>(to.raw(), t, to_stride, from.raw(), f, from_stride, count);
            case 128:
                return copy_row<Wide>(to.raw(), t, to_stride, from.raw(), f, from_stride, count);
            default:
                for (int64_t i = 0; i < count; ++i) copy_elements(to, t + i * to_stride, from, f + i * from_stride);
        }
    });
}

void store_int64(Tensor& to, int64_t index, int64_t value) {
    require_within(to, index, index);
    void* p = to.raw();
    switch (to.dtype()) {
        case DType::i64:
        case DType::u64:
            static_cast<int64_t*>(p)[index] = value;
            return;
        case DType::i32:
        case DType::u32:
            static_cast<int32_t*>(p)[index] = static_cast<int32_t>(value);
            return;
        case DType::i16:
        case DType::u16:
            static_cast<int16_t*>(p)[index] = static_cast<int16_t>(value);
            return;
        case DType::i8:
        case DType::u8:
            static_cast<int8_t*>(p)[index] = static_cast<int8_t>(value);
            return;
        case DType::boolean:
            static_cast<uint8_t*>(p)[index] = value != 0;
            return;
        case DType::i4:
        case DType::u4:
            set_packed(p, index, 4, static_cast<uint32_t>(value));
            return;
        case DType::i2:
        case DType::u2:
            set_packed(p, index, 2, static_cast<uint32_t>(value));
            return;
        default:
            to.set_double(index, static_cast<double>(value));
            return;
    }
}

}  // namespace planish::reference
