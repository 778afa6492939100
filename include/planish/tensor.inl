// Template members of Tensor.
#pragma once

#include <cstring>
#include <type_traits>

namespace planish {

template <typename T>
constexpr DType dtype_of() {
    if constexpr (std::is_same_v<T, float>)
        return DType::f32;
    else if constexpr (std::is_same_v<T, double>)
        return DType::f64;
    else if constexpr (std::is_same_v<T, bool>)
        return DType::boolean;
    else if constexpr (std::is_same_v<T, int8_t>)
        return DType::i8;
    else if constexpr (std::is_same_v<T, uint8_t>)
        return DType::u8;
    else if constexpr (std::is_same_v<T, int16_t>)
        return DType::i16;
    else if constexpr (std::is_same_v<T, uint16_t>)
        return DType::u16;
    else if constexpr (std::is_same_v<T, int32_t>)
        return DType::i32;
    else if constexpr (std::is_same_v<T, uint32_t>)
        return DType::u32;
    else if constexpr (std::is_same_v<T, int64_t>)
        return DType::i64;
    else if constexpr (std::is_same_v<T, uint64_t>)
        return DType::u64;
    else
        static_assert(sizeof(T) == 0, "no DType for this C++ type");
}

template <typename T>
Tensor Tensor::from(std::span<const T> values, Dims dims) {
    Tensor result(dtype_of<T>(), std::move(dims));
    if (!values.empty()) std::memcpy(result.raw(), values.data(), values.size_bytes());
    return result;
}

}  // namespace planish
