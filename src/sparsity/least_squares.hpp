// Dense symmetric systems, in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace planish::sparsity {

/// A row-major matrix.
struct Matrix {
    int64_t rows = 0, columns = 0;
    std::vector<double> values;

    Matrix() = default;
    Matrix(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<std::size_t>(r * c)) {}
    double* row(int64_t r) { return values.data() + r * columns; }
    const double* row(int64_t r) const { return values.data() + r * columns; }
    double& at(int64_t r, int64_t c) { return row(r)[c]; }
    double at(int64_t r, int64_t c) const { return row(r)[c]; }
};

/// AᵀB: the covariance of two sets of observations, one in a row.
Matrix transposed_product(const Matrix& a, const Matrix& b);

/// Subtracts each column's mean and returns the means.
std::vector<double> centre(Matrix& m);

/// X of (A + λI) X = B for a symmetric positive semidefinite A, by Cholesky's factorisation.
Matrix solve(Matrix a, Matrix b, double lambda);

/// The B (targets × inputs) that minimises |T - X Bᵀ|² + λ|B - prior|², where λ is `ridge` times the mean square of a
/// column of X times its length: the normal equations (XᵀX + λI) Bᵀ = XᵀT + λ priorᵀ.
Matrix regress(const Matrix& inputs, const Matrix& targets, const Matrix& prior, double ridge);

}  // namespace planish::sparsity
