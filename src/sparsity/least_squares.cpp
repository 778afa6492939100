// Products and the factorisation.
#include "sparsity/least_squares.hpp"

#include <algorithm>
#include <cmath>

#include "base/thread_pool.hpp"
#include "reference/blocked_gemm.hpp"

namespace planish::sparsity {

Matrix transposed_product(const Matrix& a, const Matrix& b) {
    Matrix result(a.columns, b.columns);
    reference::blocked_gemm(
        a.columns, b.columns, a.rows,
        [&](int64_t line, int64_t first, int64_t count, double* out) {
            for (int64_t i = 0; i < count; ++i) out[i] = a.at(first + i, line);
        },
        [&](int64_t line, int64_t first, int64_t count, double* out) { std::copy_n(b.row(line) + first, count, out); },
        result.data.data());
    return result;
}

// A = UᵀU with an upper U, whose rows are walked along memory throughout.
Matrix solve(Matrix a, Matrix b, double lambda) {
    const int64_t n = a.rows;
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        a.at(i, i) += lambda;
        largest = std::max(largest, a.at(i, i));
    }
    // Directions without data have a pivot of rounding errors only: they take no part.
    const double least = largest * static_cast<double>(n) * 0x1p-52;
    std::vector<double> inverse(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        double* u = a.row(i);
        if (u[i] <= least) continue;
        const double pivot = 1 / std::sqrt(u[i]);
        inverse[static_cast<size_t>(i)] = pivot;
        for (int64_t j = i; j < n; ++j) u[j] *= pivot;
        for (int64_t r = i + 1; r < n; ++r) {
            const double factor = u[r];
            if (factor == 0) continue;
            double* to = a.row(r);
            for (int64_t j = r; j < n; ++j) to[j] -= factor * u[j];
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        double* x = b.row(i);
        for (int64_t c = 0; c < b.columns; ++c) x[c] *= inverse[static_cast<size_t>(i)];
        if (inverse[static_cast<size_t>(i)] == 0) continue;
        for (int64_t r = i + 1; r < n; ++r) {
            const double factor = a.at(i, r);
            if (factor == 0) continue;
            double* to = b.row(r);
            for (int64_t c = 0; c < b.columns; ++c) to[c] -= factor * x[c];
        }
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        double* x = b.row(i);
        if (inverse[static_cast<size_t>(i)] != 0)
            for (int64_t r = i + 1; r < n; ++r) {
                const double factor = a.at(i, r);
                const double* from = b.row(r);
                for (int64_t c = 0; c < b.columns; ++c) x[c] -= factor * from[c];
            }
        for (int64_t c = 0; c < b.columns; ++c) x[c] *= inverse[static_cast<size_t>(i)];
    }
    return b;
}

NormalEquations::NormalEquations(const Matrix& inputs, const Matrix& targets)
    : gram(transposed_product(inputs, inputs)), right(transposed_product(inputs, targets)) {}

NormalEquations& NormalEquations::operator+=(const NormalEquations& other) {
    for (size_t i = 0; i < gram.data.size(); ++i) gram.data[i] += other.gram.data[i];
    for (size_t i = 0; i < right.data.size(); ++i) right.data[i] += other.right.data[i];
    return *this;
}

Matrix NormalEquations::solve(const Matrix& prior, double ridge) const {
    double trace = 0;
    for (int64_t i = 0; i < gram.rows; ++i) trace += gram.at(i, i);
    if (trace <= 0) return prior;
    const double lambda = ridge * trace / static_cast<double>(gram.rows);
    Matrix b = right;
    for (int64_t i = 0; i < b.rows; ++i)
        for (int64_t t = 0; t < b.columns; ++t) b.at(i, t) += lambda * prior.at(t, i);
    return transposed(sparsity::solve(gram, std::move(b), lambda));
}

Matrix rows_of(const Matrix& m, int64_t first, int64_t last) {
    Matrix part(last - first, m.columns);
    std::copy(m.row(first), m.row(last), part.data.begin());
    return part;
}

double squared_error(const Matrix& inputs, const Matrix& targets, const Matrix& b) {
    // X Bᵀ as a product of transposes, whose inner axis is the channels.
    const Matrix made = transposed_product(transposed(inputs), transposed(b));
    double error = 0;
    for (size_t i = 0; i < made.data.size(); ++i) {
        const double d = made.data[i] - targets.data[i];
        error += d * d;
    }
    return error;
}

}  // namespace planish::sparsity
