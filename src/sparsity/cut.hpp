// Which weights of one layer become zero, and what the others become.
#pragma once

#include <vector>

#include "precision/least_squares.hpp"

namespace planish::sparsity {

/// Where zeros may be. Weights are transposed, as precision::Layer gives them: row k holds what input k is multiplied
/// with in each output.
struct ZeroPattern {
    bool two_of_four = true;  ///< two zeros in each four rows of a column, rows counting from 0; else anywhere
    double share = 0.5;       ///< anywhere: how many of the weights are zeros
};

/// The share of w_kc^2 importance[k] that is least becomes zero. `importance` 1: magnitudes; |x_k|^2: Wanda (Sun et
/// al., ICLR 2024), which compares within one column.
void cut_least(precision::Matrix& weights, const std::vector<double>& importance, bool within_columns,
               const ZeroPattern& pattern);

/// Row by row; what a zero costs, w_kc^2 D_k of H = U D U^T, is known when the row's turn comes, and the rows behind
/// make up for it (SparseGPT, Frantar and Alistarh, ICML 2023, in the form of precision::project_weights). Zeros
/// anywhere are shared out evenly over every precision::kProjectedAtOnce rows.
void cut_and_adapt(precision::Matrix& weights, const precision::Matrix& h, const ZeroPattern& pattern);

}  // namespace planish::sparsity
