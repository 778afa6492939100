// Decoding and encoding of the floating-point formats that C++20 has no type for: f16, bf16, f8, f4, e8m0.
#pragma once

#include <cstdint>

#include "planish/dtype.hpp"

namespace planish {

/// The value of `bits` (low bit_width(dtype) bits) in one of the small float formats.
double decode_small_float(DType dtype, uint32_t bits);

/// Rounds to nearest, ties to even. Out of range: the largest finite value when `saturate` or the format has no
/// infinity and no NaN, else infinity (f16, bf16, f8e5m2) or NaN (the other f8).
uint32_t encode_small_float(DType dtype, double value, bool saturate = true);

}  // namespace planish
