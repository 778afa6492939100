// Bulk conversion between a tensor's elements and the types that reference functions compute in. Floats are computed
// in double (exact for every float type; + - * / sqrt of f32 rounded once more to f32 are still correctly rounded),
// integers in int64_t or uint64_t modulo 2^64, of which the narrow result is the low bits.
#pragma once

#include <cstdint>
#include <vector>

#include "planish/tensor.hpp"

namespace planish::reference {

/// out[i] = t[first + i * stride] for i < count. Integer reads of floats truncate; uint64_t reads sign-extend.
void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, double* out);
void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, int64_t* out);
void read(const Tensor& t, int64_t first, int64_t stride, int64_t count, uint64_t* out);

/// t[first + i] = in[i]: floats round to nearest even, integers keep the low bits, bool is "not zero".
/// A double written to an integer type is truncated toward zero first.
void write(const double* in, int64_t count, Tensor& t, int64_t first);
void write(const int64_t* in, int64_t count, Tensor& t, int64_t first);
void write(const uint64_t* in, int64_t count, Tensor& t, int64_t first);

/// All elements.
template <typename T>
std::vector<T> read_all(const Tensor& t) {
    std::vector<T> result(static_cast<size_t>(t.size()));
    read(t, 0, 1, t.size(), result.data());
    return result;
}
template <typename T>
void write_all(const std::vector<T>& in, Tensor& t) {
    write(in.data(), t.size(), t, 0);
}

/// Which of the three types an element type is computed in.
enum class Arithmetic { real, signed_integer, unsigned_integer };
Arithmetic arithmetic_of(DType dtype);

/// Calls fn with a value of the type that `dtype` is computed in: double, int64_t (bool included) or uint64_t.
template <typename Fn>
void with_arithmetic(DType dtype, Fn&& fn) {
    switch (arithmetic_of(dtype)) {
        case Arithmetic::real:
            return fn(double{});
        case Arithmetic::signed_integer:
            return fn(int64_t{});
        case Arithmetic::unsigned_integer:
            return fn(uint64_t{});
    }
}

}  // namespace planish::reference
