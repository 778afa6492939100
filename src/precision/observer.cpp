// Histograms and what grids they ask for.
#include "precision/observer.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "planish/error.hpp"

namespace planish::precision {
namespace {

constexpr int kLevels = 255;
constexpr std::array<std::string_view, 4> kNames = {"min_max", "percentile", "entropy", "mse"};

}  // namespace

std::string_view to_string(Method method) {
    return kNames[static_cast<size_t>(method)];
}

Method parse_method(std::string_view name) {
    for (size_t i = 0; i < kNames.size(); ++i)
        if (kNames[i] == name) return static_cast<Method>(i);
    fail(ErrorCode::invalid_argument, "unknown calibration method '" + std::string(name) + "'",
         "methods are min_max, percentile, entropy, mse");
}

Grid grid_of(double low, double high) {
    low = std::min(low, 0.0);
    high = std::max(high, 0.0);
    const double scale = (high - low) / kLevels;
    // Below the least normal number the division by the scale is not one any more.
    if (!(scale >= std::numeric_limits<float>::min())) return {1, 0};
    return {static_cast<float>(scale), static_cast<int>(std::lround(-low / scale))};
}

Grid float_grid_of(double low, double high) {
    const double scale = std::max(std::fabs(low), std::fabs(high)) / kLargestFloat8;
    if (!(scale >= std::numeric_limits<float>::min())) return {1, 0, true};
    return {static_cast<float>(scale), 0, true};
}

float nearest_float8(float x) {
    x = std::min(std::max(-kLargestFloat8, x), kLargestFloat8);
    // Multiples of 2^(exponent - 3), of 2^-9 at least: adding and subtracting 1.5 * 2^23 of these rounds to one.
    constexpr uint32_t kExponent = 0x7f800000, kLeast = (127 - 6) << 23, kToSteps = 20 << 23, kHalf = 1 << 22;
    const uint32_t exponent = std::max(std::bit_cast<uint32_t>(x) & kExponent, kLeast);
    const auto round = std::bit_cast<float>(exponent + kToSteps + kHalf);
    return (x + round) - round;
}

Tensor rounded_to(const Tensor& x, const Grid& grid) {
    if (grid.floats) {
        Tensor result(x.dtype(), x.dims());
        const auto from = x.data<float>();
        std::transform(from.begin(), from.end(), result.data<float>().begin(),
                       [&](float v) { return nearest_float8(v / grid.scale) * grid.scale; });
        return result;
    }
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, while |v| < 2^22: which the clamp
    // beforehand sees to, as it does to NaN.
    constexpr float kRound = 0x1.8p23f;
    Tensor result(x.dtype(), x.dims());
    const float* from = x.data<float>().data();
    float* to = result.data<float>().data();
    const float scale = grid.scale, low = static_cast<float>(-grid.zero), high = static_cast<float>(255 - grid.zero);
    for (int64_t i = 0; i < x.size(); ++i) {
        const float v = std::min(std::max(low, from[i] / scale), high);
        to[i] = ((v + kRound) - kRound) * scale;
    }
    return result;
}

double Histogram::width() const {
    return std::ldexp(2.0 / kBins, exponent_);
}

int Histogram::bin_of(double v) const {
    return static_cast<int>(std::clamp(std::floor(v / width()) + kBins / 2, 0.0, double{kBins - 1}));
}

// Twice the span: two bins become one, and the middle stays the middle.
void Histogram::widen(int exponent) {
    for (; exponent_ < exponent; ++exponent_) {
        if (std::all_of(bins_.begin(), bins_.end(), [](int64_t n) { return n == 0; })) {
            exponent_ = exponent;
            return;
        }
        std::vector<int64_t> halved(kBins);
        for (int b = 0; b < kBins; ++b) halved[static_cast<size_t>(kBins / 4 + b / 2)] += bins_[static_cast<size_t>(b)];
        bins_ = std::move(halved);
    }
}

void Histogram::add(std::span<const float> values) {
    float low = 0, high = 0;
    for (const float v : values) {
        if (!(std::fabs(v) <= std::numeric_limits<float>::max())) continue;
        low = std::min(low, v);
        high = std::max(high, v);
    }
    low_ = std::min(low_, double{low});
    high_ = std::max(high_, double{high});
    int exponent = 0;
    std::frexp(std::max(-low, high), &exponent);
    widen(std::max(exponent, exponent_));
    const double per_bin = 1 / width();
    for (const float v : values) {
        if (!(std::fabs(v) <= std::numeric_limits<float>::max())) continue;
        ++count_;
        if (v != 0) ++bins_[static_cast<size_t>(std::floor(v * per_bin) + kBins / 2)];
    }
}

void Histogram::add(const Histogram& other) {
    Histogram copy = other;
    low_ = std::min(low_, copy.low_);
    high_ = std::max(high_, copy.high_);
    count_ += copy.count_;
    widen(copy.exponent_);
    copy.widen(exponent_);
    for (size_t b = 0; b < bins_.size(); ++b) bins_[b] += copy.bins_[b];
}

Grid Histogram::choose(Method method, double percentile) const {
    switch (method) {
        case Method::mse:
            return least_square_error();
        case Method::entropy:
            return least_divergence();
        case Method::percentile: {
            const double tail = (1 - percentile / 100) / 2 * static_cast<double>(count_);
            int first = 0, last = kBins - 1;
            for (double seen = 0; first < last && seen + static_cast<double>(bins_[static_cast<size_t>(first)]) <= tail;
                 ++first)
                seen += static_cast<double>(bins_[static_cast<size_t>(first)]);
            for (double seen = 0; last > first && seen + static_cast<double>(bins_[static_cast<size_t>(last)]) <= tail;
                 --last)
                seen += static_cast<double>(bins_[static_cast<size_t>(last)]);
            return grid_of(std::max(low_, centre(first) - width() / 2), std::min(high_, centre(last) + width() / 2));
        }
        default:
            return grid_of(low_, high_);
    }
}

// The error of a value inside is uniform over one step (scale^2 / 12 in the mean square), that of a value outside its
// distance from the grid's end. Sums over the bins below any place make each candidate constant work.
Grid Histogram::least_square_error() const {
    std::vector<double> n(kBins + 1), first(kBins + 1), second(kBins + 1);  // moments of the bins before
    for (int b = 0; b < kBins; ++b) {
        const auto count = static_cast<double>(bins_[static_cast<size_t>(b)]);
        const auto at = static_cast<size_t>(b);
        n[at + 1] = n[at] + count;
        first[at + 1] = first[at] + count * centre(b);
        second[at + 1] = second[at] + count * centre(b) * centre(b);
    }
    const auto bin = [&](double v) {
        return static_cast<size_t>(std::clamp(std::lround(v / width()) + kBins / 2, 0L, long{kBins}));
    };
    constexpr int kSteps = 128;
    Grid best = grid_of(low_, high_);
    double least = std::numeric_limits<double>::infinity();
    for (int i = low_ < 0 ? 1 : kSteps; i <= kSteps; ++i) {
        for (int j = high_ > 0 ? 1 : kSteps; j <= kSteps; ++j) {
            const Grid grid = grid_of(low_ * i / kSteps, high_ * j / kSteps);
            const double l = grid.low(), h = grid.high();
            const size_t a = bin(l), b = std::max(a, bin(h));
            const double inside = (n[b] - n[a]) * grid.scale * grid.scale / 12;
            const double below = second[a] - 2 * l * first[a] + l * l * n[a];
            const double n_above = n[kBins] - n[b], first_above = first[kBins] - first[b];
            const double above = second[kBins] - second[b] - 2 * h * first_above + h * h * n_above;
            // Where one span is as good as another, the wider one: data to come may need it.
            if (const double error = inside + below + above; error <= least) {
                least = error;
                best = grid;
            }
        }
    }
    return best;
}

// After the entropy calibration of TensorRT (Migacz, GTC 2017): P is the distribution with what the span cuts off added
// to its ends, Q the same in 256 steps, each spread over those of its bins that are not empty.
Grid Histogram::least_divergence() const {
    constexpr int kSteps = 24, kFirst = 2;
    Grid best = grid_of(low_, high_);
    double least = std::numeric_limits<double>::infinity();
    for (int i = low_ < 0 ? kFirst : kSteps; i <= kSteps; ++i) {
        for (int j = high_ > 0 ? kFirst : kSteps; j <= kSteps; ++j) {
            const Grid grid = grid_of(low_ * i / kSteps, high_ * j / kSteps);
            if (const double d = divergence(grid); d < least) {
                least = d;
                best = grid;
            }
        }
    }
    return best;
}

double Histogram::divergence(const Grid& grid) const {
    const int a = bin_of(grid.low()), b = bin_of(grid.high());
    std::vector<double> p(bins_.begin() + a, bins_.begin() + b + 1);
    std::vector<double> sums(kLevels + 1), filled(kLevels + 1);
    const auto level = [&](size_t i) {
        const double v = centre(a + static_cast<int>(i)) / grid.scale + grid.zero;
        return static_cast<size_t>(std::clamp(std::lround(v), 0L, long{kLevels}));
    };
    for (size_t i = 0; i < p.size(); ++i) {
        sums[level(i)] += p[i];
        filled[level(i)] += p[i] > 0;
    }
    const std::vector<double> inside = p;
    for (int i = 0; i < a; ++i) p.front() += static_cast<double>(bins_[static_cast<size_t>(i)]);
    for (int i = b + 1; i < kBins; ++i) p.back() += static_cast<double>(bins_[static_cast<size_t>(i)]);
    double total_p = 0, total_q = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        total_p += p[i];
        total_q += inside[i];
    }
    if (total_p == 0 || total_q == 0) return std::numeric_limits<double>::infinity();
    double divergence = 0;
    for (size_t i = 0; i < p.size(); ++i) {
        if (p[i] == 0) continue;
        const double q = inside[i] > 0 ? sums[level(i)] / filled[level(i)] : 0;
        // A bin that Q gives nothing is as wrong as one count in all.
        divergence += p[i] / total_p * std::log((p[i] / total_p) / (std::max(q, 1.0) / total_q));
    }
    return divergence;
}

}  // namespace planish::precision
