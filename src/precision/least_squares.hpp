// Least squares for one layer: products of samples, and rounding that makes up for itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/function_ref.hpp"
#include "base/matrix.hpp"

namespace planish::precision {

using Matrix = planish::Matrix<float>;

/// a b, by the CPU's kernels where large.
Matrix product(const Matrix& a, const Matrix& b, int threads);

/// H = U D U^T of a symmetric positive definite H, U unit upper triangular.
class Factor {
  public:
    explicit Factor(const Matrix& h);
    int64_t size() const { return n_; }
    /// U(i, j) for i < j.
    double upper(int64_t i, int64_t j) const { return lower_[static_cast<size_t>(j * n_ + i)]; }
    /// U(0..j-1, j), contiguous.
    const double* column(int64_t j) const { return lower_.data() + j * n_; }
    double diagonal(int64_t j) const { return d_[static_cast<size_t>(j)]; }
    /// X with X H = B, in B's place. B is transposed: row k holds column k of B.
    void solve(Matrix& transposed_b) const;

  private:
    int64_t n_;
    std::vector<double> lower_, d_;
};

/// Rows that `project_weights` has brought up to date when it comes to the first of them: all errors before are in.
constexpr int64_t kProjectedAtOnce = 32;

/// Goes through the rows of `transposed_weights` (row k: the weights that input k has in each channel) and lets
/// `project(k)` change row k to what it may hold. The rows behind it make up for the change, as seen through
/// H = U D U^T: row j becomes w_j - sum over k < j of U_kj (change of k). Once a row's turn comes, changing a weight of
/// it by d costs d^2 D_k for good, whatever the rows behind it do.
void project_weights(Matrix& transposed_weights, const Factor& factor, FunctionRef<void(int64_t)> project);

/// The nearest integer within +-127, ties to even.
float nearest_int8(float x);

/// Rounds weights to what `nearest` makes of them, in units of their channel's scale, such that the error seen through
/// H, tr((Q - W) H (Q - W)^T), is small: a column's rounding errors are made up for by the columns after it (GPTQ,
/// Frantar et al., ICLR 2023, in the form of LDLQ, Chee et al., NeurIPS 2023, which needs no inverse). Columns that
/// matter most come first. `weights` is transposed: row k holds the weights that input k has in each channel; it
/// receives the rounded numbers in those units.
void round_weights(Matrix& transposed_weights, const std::vector<float>& scales, const Matrix& h,
                   float (*nearest)(float) = nearest_int8);

}  // namespace planish::precision
