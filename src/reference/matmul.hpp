// Matrix products over tensors with NumPy's batch broadcasting, shared by MatMul, its integer forms and attention.
#pragma once

#include <vector>

#include "reference/ref_context.hpp"

namespace planish::reference {

/// Shapes of a product in NumPy's matmul convention (a rank-1 operand is a row or a column).
struct MatMulShape {
    int64_t m = 1, n = 1, k = 1;
    Dims batch;                       // broadcast batch axes
    std::vector<int64_t> a_at, b_at;  // for each batch index, which matrix of each operand it takes
    Dims out;                         // result dims

    /// Throws invalid_argument naming both shapes when they do not fit.
    MatMulShape(const Dims& a, const Dims& b);
};

/// The product in float64, batch after batch, [batch, m, n]. `a` and `b` hold the operands' elements row-major.
std::vector<double> matmul_doubles(const MatMulShape& shape, const std::vector<double>& a,
                                   const std::vector<double>& b);

}  // namespace planish::reference
