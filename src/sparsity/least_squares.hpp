// Dense symmetric systems, in float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/matrix.hpp"

namespace planish::sparsity {

using Matrix = planish::Matrix<double>;

/// AᵀB: the covariance of two sets of observations, one in a row.
Matrix transposed_product(const Matrix& a, const Matrix& b);

/// X of (A + λI) X = B for a symmetric positive semidefinite A, by Cholesky's factorisation.
Matrix solve(Matrix a, Matrix b, double lambda);

/// What a regression of targets T on inputs X needs of the data: XᵀX and XᵀT. Data in parts adds up.
struct NormalEquations {
    Matrix gram, right;

    NormalEquations(const Matrix& inputs, const Matrix& targets);
    NormalEquations& operator+=(const NormalEquations& other);

    /// The B (targets × inputs) that minimises |T - X Bᵀ|² + λ|B - prior|², where λ is `ridge` times the mean of the
    /// gram matrix's diagonal: (XᵀX + λI) Bᵀ = XᵀT + λ priorᵀ.
    Matrix solve(const Matrix& prior, double ridge) const;
};

/// The rows from `first` to before `last`.
Matrix rows_of(const Matrix& m, int64_t first, int64_t last);
/// |T - X Bᵀ|²
double squared_error(const Matrix& inputs, const Matrix& targets, const Matrix& b);

}  // namespace planish::sparsity
