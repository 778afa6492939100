// Masks by score, all at once or while the weights are being adapted.
#include "sparsity/cut.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace planish::sparsity {
namespace {

using precision::Matrix;

/// Of four scores the places of the two least, ties to the first.
std::pair<int, int> least_two(const double (&scores)[4]) {
    int order[4] = {0, 1, 2, 3};
    std::stable_sort(order, order + 4, [&](int a, int b) { return scores[a] < scores[b]; });
    return {order[0], order[1]};
}

/// The `count` places of least score.
std::vector<size_t> least(const std::vector<double>& scores, size_t count) {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    count = std::min(count, order.size());
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                     [&](size_t a, size_t b) { return scores[a] != scores[b] ? scores[a] < scores[b] : a < b; });
    order.resize(count);
    return order;
}

size_t share_of(size_t count, double share) {
    return static_cast<size_t>(std::llround(static_cast<double>(count) * share));
}

/// zero(row, column) for the weights in rows [begin, end) that score least.
template <typename Zero>
void choose(const Matrix& w, const std::vector<double>& importance, int64_t begin, int64_t end,
            const ZeroPattern& pattern, Zero&& zero) {
    const auto score = [&](int64_t k, int64_t c) {
        return double{w.at(k, c)} * w.at(k, c) * importance[static_cast<size_t>(k)];
    };
    if (pattern.two_of_four) {
        for (int64_t k = begin; k + 4 <= end; k += 4)
            for (int64_t c = 0; c < w.columns; ++c) {
                const auto [a, b] = least_two({score(k, c), score(k + 1, c), score(k + 2, c), score(k + 3, c)});
                zero(k + a, c);
                zero(k + b, c);
            }
        return;
    }
    std::vector<double> scores;
    for (int64_t k = begin; k < end; ++k)
        for (int64_t c = 0; c < w.columns; ++c) scores.push_back(score(k, c));
    for (const size_t i : least(scores, share_of(scores.size(), pattern.share)))
        zero(begin + static_cast<int64_t>(i) / w.columns, static_cast<int64_t>(i) % w.columns);
}

}  // namespace

void cut_least(Matrix& weights, const std::vector<double>& importance, bool within_columns,
               const ZeroPattern& pattern) {
    if (pattern.two_of_four || !within_columns) {
        choose(weights, importance, 0, weights.rows, pattern, [&](int64_t k, int64_t c) { weights.at(k, c) = 0; });
        return;
    }
    std::vector<double> scores(static_cast<size_t>(weights.rows));
    for (int64_t c = 0; c < weights.columns; ++c) {
        for (int64_t k = 0; k < weights.rows; ++k)
            scores[static_cast<size_t>(k)] =
                double{weights.at(k, c)} * weights.at(k, c) * importance[static_cast<size_t>(k)];
        for (const size_t k : least(scores, share_of(scores.size(), pattern.share)))
            weights.at(static_cast<int64_t>(k), c) = 0;
    }
}

void cut_and_adapt(Matrix& weights, const Matrix& h, const ZeroPattern& pattern) {
    const precision::Factor factor(h);
    std::vector<double> cost(static_cast<size_t>(weights.rows));
    for (int64_t k = 0; k < weights.rows; ++k) cost[static_cast<size_t>(k)] = factor.diagonal(k);
    const int64_t step = pattern.two_of_four ? 4 : precision::kProjectedAtOnce;
    std::vector<char> zero(static_cast<size_t>(step * weights.columns));
    precision::project_weights(weights, factor, [&](int64_t k) {
        const int64_t begin = k / step * step;
        if (k == begin) {
            std::fill(zero.begin(), zero.end(), 0);
            choose(weights, cost, begin, std::min(begin + step, weights.rows), pattern,
                   [&](int64_t row, int64_t c) { zero[static_cast<size_t>((row - begin) * weights.columns + c)] = 1; });
        }
        float* w = weights.row(k);
        for (int64_t c = 0; c < weights.columns; ++c)
            if (zero[static_cast<size_t>((k - begin) * weights.columns + c)] != 0) w[c] = 0;
    });
}

}  // namespace planish::sparsity
