// Element types. Values are those of ONNX's TensorProto.DataType, so files and IR never need a translation table.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace planish {

enum class DType : uint8_t {
    undefined = 0,
    f32 = 1,
    u8 = 2,
    i8 = 3,
    u16 = 4,
    i16 = 5,
    i32 = 6,
    i64 = 7,
    string = 8,
    boolean = 9,
    f16 = 10,
    f64 = 11,
    u32 = 12,
    u64 = 13,
    c64 = 14,
    c128 = 15,
    bf16 = 16,
    f8e4m3fn = 17,
    f8e4m3fnuz = 18,
    f8e5m2 = 19,
    f8e5m2fnuz = 20,
    u4 = 21,
    i4 = 22,
    f4e2m1 = 23,
    f8e8m0 = 24,
    u2 = 25,
    i2 = 26,
};

/// Bits of one element in memory (4 and 2 for the packed sub-byte types, 0 for string and undefined).
int bit_width(DType dtype);
/// Bytes of `count` elements, packed types rounded up to a whole byte.
int64_t byte_size(DType dtype, int64_t count);
/// NumPy-like name: "float32", "int64", "bool", "bfloat16", ...
std::string_view to_string(DType dtype);
std::optional<DType> dtype_from_string(std::string_view name);
bool is_float(DType dtype);
bool is_integer(DType dtype);  ///< signed or unsigned, not bool
bool is_signed(DType dtype);

}  // namespace planish
