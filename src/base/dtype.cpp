// Element types: names and sizes, from one table.
// Public API without a PLANISH_API on each declaration: the pragma exports what this file defines of it.
#pragma GCC visibility push(default)
#include "planish/dtype.hpp"
#pragma GCC visibility pop

#include <iterator>

namespace planish {
namespace {

struct Row {
    std::string_view name;
    int bits;
    enum Class : uint8_t { other, floating, signed_integer, unsigned_integer } kind;
};

constexpr Row kRows[] = {
    {"undefined", 0, Row::other},
    {"float32", 32, Row::floating},
    {"uint8", 8, Row::unsigned_integer},
    {"int8", 8, Row::signed_integer},
    {"uint16", 16, Row::unsigned_integer},
    {"int16", 16, Row::signed_integer},
    {"int32", 32, Row::signed_integer},
    {"int64", 64, Row::signed_integer},
    {"string", 0, Row::other},
    {"bool", 8, Row::other},
    {"float16", 16, Row::floating},
    {"float64", 64, Row::floating},
    {"uint32", 32, Row::unsigned_integer},
    {"uint64", 64, Row::unsigned_integer},
    {"complex64", 64, Row::other},
    {"complex128", 128, Row::other},
    {"bfloat16", 16, Row::floating},
    {"float8_e4m3fn", 8, Row::floating},
    {"float8_e4m3fnuz", 8, Row::floating},
    {"float8_e5m2", 8, Row::floating},
    {"float8_e5m2fnuz", 8, Row::floating},
    {"uint4", 4, Row::unsigned_integer},
    {"int4", 4, Row::signed_integer},
    {"float4_e2m1", 4, Row::floating},
    {"float8_e8m0", 8, Row::floating},
    {"uint2", 2, Row::unsigned_integer},
    {"int2", 2, Row::signed_integer},
};

const Row& row(DType dtype) {
    const auto i = static_cast<size_t>(dtype);
    return kRows[i < std::size(kRows) ? i : 0];
}

}  // namespace

int bit_width(DType dtype) {
    return row(dtype).bits;
}

int64_t byte_size(DType dtype, int64_t count) {
    return (count * row(dtype).bits + 7) / 8;
}

std::string_view to_string(DType dtype) {
    return row(dtype).name;
}

std::optional<DType> dtype_from_string(std::string_view name) {
    for (size_t i = 1; i < std::size(kRows); ++i)
        if (kRows[i].name == name) return static_cast<DType>(i);
    if (name == "float") return DType::f32;
    if (name == "double") return DType::f64;
    return std::nullopt;
}

bool is_float(DType dtype) {
    return row(dtype).kind == Row::floating;
}
bool is_integer(DType dtype) {
    return row(dtype).kind == Row::signed_integer || row(dtype).kind == Row::unsigned_integer;
}
bool is_signed(DType dtype) {
    return row(dtype).kind == Row::floating || row(dtype).kind == Row::signed_integer;
}

}  // namespace planish
