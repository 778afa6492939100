// Small dense linear algebra, blocked where it is cubic.
#include "precision/least_squares.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/thread_pool.hpp"
#include "ir/graph.hpp"
#include "precision/rehearsal.hpp"

namespace planish::precision {
namespace {

constexpr int64_t kBlock = 32;

/// Calls fn(i) for i in [0, count), spread over the pool where there is enough to do.
void for_rows(int64_t count, int64_t work, FunctionRef<void(int64_t)> fn) {
    ThreadPool& pool = ThreadPool::process();
    if (count * work < (1 << 16)) {
        for (int64_t i = 0; i < count; ++i) fn(i);
        return;
    }
    pool.parallel_for(count, pool.size(), [&](int64_t i, int) { fn(i); });
}

}  // namespace

Matrix product(const Matrix& a, const Matrix& b, int threads) {
    Matrix c(a.rows, b.columns);
    if (a.rows * a.columns * b.columns < (1 << 16)) {
        for (int64_t i = 0; i < a.rows; ++i)
            for (int64_t k = 0; k < a.columns; ++k)
                for (int64_t j = 0; j < b.columns; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
        return c;
    }
    Graph graph("product");
    Value* left = graph.add_input("a", {Kind::tensor, DType::f32, to_shape({a.rows, a.columns})});
    Value* right = graph.add_input("b", {Kind::tensor, DType::f32, to_shape({b.rows, b.columns})});
    const Node* node = graph.add_node("MatMul", {left, right});
    const RefValue x(Tensor(DType::f32, {a.rows, a.columns}, a.data.data(), nullptr)),
        y(Tensor(DType::f32, {b.rows, b.columns}, b.data.data(), nullptr));
    const std::vector<RefValue> result = NodeRunner(*node, {}, threads).run({&x, &y});
    const auto values = result[0].tensor.data<float>();
    std::copy(values.begin(), values.end(), c.data.begin());
    return c;
}

// From the last row up: D_k = H_kk, U_ik = H_ik / D_k, H_ij -= U_ik D_k U_jk for i, j < k. Rows of the lower triangle
// stand for columns of U. A block of rows is finished before the rows above it are touched, once for all of it.
Factor::Factor(const Matrix& h) : n_(h.rows), lower_(static_cast<size_t>(n_ * n_)), d_(static_cast<size_t>(n_)) {
    for (int64_t i = 0; i < n_; ++i)
        for (int64_t j = 0; j <= i; ++j) lower_[static_cast<size_t>(i * n_ + j)] = h.at(i, j);
    double largest = 0;
    for (int64_t i = 0; i < n_; ++i) largest = std::max(largest, lower_[static_cast<size_t>(i * n_ + i)]);
    const double floor = std::max(largest * 1e-12, 1e-300);
    const auto row = [&](int64_t i) { return lower_.data() + i * n_; };
    for (int64_t end = n_; end > 0; end -= std::min(end, kBlock)) {
        const int64_t begin = std::max<int64_t>(0, end - kBlock);
        for (int64_t k = end - 1; k >= begin; --k) {
            double* u = row(k);
            const double d = d_[static_cast<size_t>(k)] = std::max(u[k], floor);
            for (int64_t j = 0; j < k; ++j) u[j] /= d;
            u[k] = 1;
            for (int64_t i = begin; i < k; ++i) {
                double* x = row(i);
                const double factor = u[i] * d;
                for (int64_t j = 0; j <= i; ++j) x[j] -= factor * u[j];
            }
        }
        for_rows(begin, begin * (end - begin) / 2, [&](int64_t i) {
            double* x = row(i);
            int64_t k = begin;
            for (; k + 4 <= end; k += 4) {
                const double *a = row(k), *b = row(k + 1), *c = row(k + 2), *e = row(k + 3);
                const double fa = a[i] * d_[static_cast<size_t>(k)], fb = b[i] * d_[static_cast<size_t>(k + 1)],
                             fc = c[i] * d_[static_cast<size_t>(k + 2)], fe = e[i] * d_[static_cast<size_t>(k + 3)];
                for (int64_t j = 0; j <= i; ++j) x[j] -= fa * a[j] + fb * b[j] + fc * c[j] + fe * e[j];
            }
            for (; k < end; ++k) {
                const double factor = row(k)[i] * d_[static_cast<size_t>(k)];
                for (int64_t j = 0; j <= i; ++j) x[j] -= factor * row(k)[j];
            }
        });
    }
}

// X U D U^T = B: Z = X U D from Z U^T = B backwards, then X from X U = Z D^-1 forwards.
void Factor::solve(Matrix& b) const {
    const int64_t width = b.columns;
    const auto subtract = [&](int64_t to, int64_t from, double factor) {
        float *x = b.row(to), *y = b.row(from);
        const auto f = static_cast<float>(factor);
        for (int64_t c = 0; c < width; ++c) x[c] -= f * y[c];
    };
    for (int64_t end = n_; end > 0; end -= std::min(end, kBlock)) {
        const int64_t begin = std::max<int64_t>(0, end - kBlock);
        for (int64_t j = end - 1; j >= begin; --j)
            for (int64_t k = begin; k < j; ++k) subtract(k, j, upper(k, j));
        for_rows(begin, width * (end - begin), [&](int64_t k) {
            for (int64_t j = begin; j < end; ++j) subtract(k, j, upper(k, j));
        });
    }
    for (int64_t k = 0; k < n_; ++k)
        for (int64_t c = 0; c < width; ++c) b.at(k, c) /= static_cast<float>(diagonal(k));
    for (int64_t begin = 0; begin < n_; begin += kBlock) {
        const int64_t end = std::min(n_, begin + kBlock);
        for (int64_t j = begin; j < end; ++j)
            for (int64_t k = j + 1; k < end; ++k) subtract(k, j, upper(j, k));
        for_rows(n_ - end, width * (end - begin), [&](int64_t i) {
            for (int64_t j = begin; j < end; ++j) subtract(end + i, j, upper(j, end + i));
        });
    }
}

void project_weights(Matrix& weights, const Factor& factor, FunctionRef<void(int64_t)> project) {
    const int64_t n = weights.rows, width = weights.columns;
    const Matrix wanted = weights;
    Matrix error(n, width);
    const auto subtract = [&](int64_t to, int64_t from) {
        float* t = weights.row(to);
        const float* e = error.row(from);
        const auto u = static_cast<float>(factor.upper(from, to));
        for (int64_t c = 0; c < width; ++c) t[c] -= u * e[c];
    };
    for (int64_t begin = 0; begin < n; begin += kProjectedAtOnce) {
        const int64_t end = std::min(n, begin + kProjectedAtOnce);
        for (int64_t k = begin; k < end; ++k) {
            project(k);
            for (int64_t c = 0; c < width; ++c) error.at(k, c) = weights.at(k, c) - wanted.at(k, c);
            for (int64_t later = k + 1; later < end; ++later) subtract(later, k);
        }
        for_rows(n - end, width * (end - begin), [&](int64_t i) {
            for (int64_t k = begin; k < end; ++k) subtract(end + i, k);
        });
    }
}

float nearest_int8(float x) {
    return std::clamp(std::nearbyint(x), -127.0f, 127.0f);
}

void round_weights(Matrix& weights, const std::vector<float>& scales, const Matrix& h, float (*nearest)(float)) {
    const int64_t n = h.rows, width = weights.columns;
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return h.at(a, a) > h.at(b, b); });
    Matrix sorted(n, n);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
            sorted.at(i, j) = h.at(order[static_cast<size_t>(i)], order[static_cast<size_t>(j)]);
    Matrix target(n, width);  // in units of the scale
    for (int64_t k = 0; k < n; ++k)
        for (int64_t c = 0; c < width; ++c)
            target.at(k, c) = weights.at(order[static_cast<size_t>(k)], c) / scales[static_cast<size_t>(c)];
    project_weights(target, Factor(sorted), [&](int64_t k) {
        float* t = target.row(k);
        std::transform(t, t + width, t, nearest);
    });
    for (int64_t k = 0; k < n; ++k)
        std::copy(target.row(k), target.row(k) + width, weights.row(order[static_cast<size_t>(k)]));
}

}  // namespace planish::precision
