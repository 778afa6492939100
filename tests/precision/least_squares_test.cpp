// Factorisation, least squares and rounding against plain loops.
#include "precision/least_squares.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace planish::precision {
namespace {

Matrix random_matrix(int64_t rows, int64_t columns, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    Matrix m(rows, columns);
    for (float& v : m.data) v = normal(generator);
    return m;
}

/// Of samples whose columns are correlated: what rounding one weight does another can take back.
Matrix correlated(int64_t n, uint32_t seed) {
    Matrix x = random_matrix(4 * n, n, seed);
    for (int64_t i = 0; i < x.rows; ++i)
        for (int64_t j = 1; j < n; ++j) x.at(i, j) = 0.9f * x.at(i, j - 1) + 0.3f * x.at(i, j);
    Matrix h = product(transposed(x), x, 1);
    for (int64_t i = 0; i < n; ++i) h.at(i, i) += 0.01f * static_cast<float>(x.rows);
    return h;
}

// Sizes below, at and beyond the block of 32 rows.
class Sizes : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(All, Sizes, ::testing::Values(1, 2, 31, 32, 33, 100));

TEST_P(Sizes, FactorsMultiplyToTheMatrix) {
    const int64_t n = GetParam();
    const Matrix h = correlated(n, 1);
    const Factor factor(h);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0, magnitude = 0;
            for (int64_t k = std::max(i, j); k < n; ++k) {
                const double a = k == i ? 1 : factor.upper(i, k), b = k == j ? 1 : factor.upper(j, k);
                sum += a * factor.diagonal(k) * b;
                magnitude += std::fabs(a * factor.diagonal(k) * b);
            }
            // n roundings of float64 on sums of that magnitude.
            EXPECT_NEAR(sum, h.at(i, j), static_cast<double>(n + 2) * 0x1p-52 * magnitude + 1e-12) << i << ", " << j;
        }
}

TEST_P(Sizes, SolutionsSolve) {
    const int64_t n = GetParam();
    const Matrix h = correlated(n, 2), b = random_matrix(n, 5, 3);
    Matrix x = b;
    Factor(h).solve(x);
    for (int64_t k = 0; k < n; ++k)
        for (int64_t c = 0; c < 5; ++c) {
            double sum = 0, magnitude = 0;
            for (int64_t j = 0; j < n; ++j) {
                sum += double{h.at(k, j)} * x.at(j, c);
                magnitude += std::fabs(double{h.at(k, j)} * x.at(j, c));
            }
            // The backward error of a triangular solve in float32: n eps of the products.
            EXPECT_NEAR(sum, b.at(k, c), 4 * static_cast<double>(n + 2) * 0x1p-24 * magnitude + 1e-6) << k;
        }
}

double error_through(const Matrix& rounded, const Matrix& weights, const std::vector<float>& scales, const Matrix& h) {
    double sum = 0;
    for (int64_t c = 0; c < weights.columns; ++c)
        for (int64_t i = 0; i < h.rows; ++i)
            for (int64_t j = 0; j < h.rows; ++j) {
                const auto e = [&](int64_t k) {
                    return double{rounded.at(k, c)} * scales[static_cast<size_t>(c)] - weights.at(k, c);
                };
                sum += e(i) * h.at(i, j) * e(j);
            }
    return sum;
}

TEST(RoundWeights, JointlyBeatsToTheNearest) {
    const Matrix h = correlated(70, 4), weights = random_matrix(70, 6, 5);
    const std::vector<float> scales(6, 0.1f);
    Matrix jointly = weights, nearest = weights;
    round_weights(jointly, scales, h);
    for (float& w : nearest.data) w = std::nearbyint(w / 0.1f);
    for (const float q : jointly.data) {
        EXPECT_EQ(q, std::nearbyint(q));
        EXPECT_LE(std::fabs(q), 127);
    }
    EXPECT_LT(error_through(jointly, weights, scales, h), 0.5 * error_through(nearest, weights, scales, h));
}

TEST(RoundWeights, OfUncorrelatedInputsIsToTheNearest) {
    Matrix h(3, 3), weights = random_matrix(3, 4, 6);
    for (int64_t i = 0; i < 3; ++i) h.at(i, i) = static_cast<float>(i + 1);
    const Matrix before = weights;
    round_weights(weights, std::vector<float>(4, 0.5f), h);
    for (size_t i = 0; i < weights.data.size(); ++i) EXPECT_EQ(weights.data[i], std::nearbyint(before.data[i] / 0.5f));
}

TEST(Product, AgreesWithLoops) {
    const Matrix a = random_matrix(70, 90, 7), b = random_matrix(90, 40, 8);
    const Matrix c = product(a, b, 2);
    for (int64_t i = 0; i < 70; ++i)
        for (int64_t j = 0; j < 40; ++j) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < 90; ++k) {
                sum += double{a.at(i, k)} * b.at(k, j);
                magnitude += std::fabs(double{a.at(i, k)} * b.at(k, j));
            }
            EXPECT_NEAR(c.at(i, j), sum, 90 * 0x1p-24 * magnitude);
        }
}

}  // namespace
}  // namespace planish::precision
