// Rounding to quantised integers, shared by the quantised operators.
#pragma once

#include <cmath>
#include <vector>

#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

/// The values that an integer type holds.
struct IntegerRange {
    double low, high;
    explicit IntegerRange(DType dtype) {
        const int bits = bit_width(dtype);
        low = is_signed(dtype) ? -std::ldexp(1.0, bits - 1) : 0.0;
        high = std::ldexp(1.0, is_signed(dtype) ? bits - 1 : bits) - 1;
    }
    /// round(x), halves to even, + zero, saturated. NaN gives the zero point's clamp of 0.
    double quantize(double x, double zero) const {
        const double q = std::nearbyint(x) + zero;
        return q < low ? low : q > high ? high : q == q ? q : zero;
    }
};

/// values[..., row, column] -= zeros[row] (`per_row`) or zeros[column], or the only zero. Zero points may also be given
/// batch by batch, in the shape of the lines that they belong to.
void subtract_per_line(std::vector<double>& values, const Dims& dims, const std::vector<double>& zeros, bool per_row,
                       const RefContext& ctx);

}  // namespace planish::reference
