// From the values that a tensor took to the 8-bit grid that stores them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "planish/tensor.hpp"

namespace planish::precision {

/// The largest number of e4m3, floats of 8 bits with three fraction bits.
inline constexpr float kLargestFloat8 = 448;

/// real = scale * (q - zero), q in 0..255; or scale * q, q an e4m3.
struct Grid {
    float scale = 1;
    int zero = 0;
    bool floats = false;
    float low() const { return floats ? -kLargestFloat8 * scale : scale * static_cast<float>(-zero); }
    float high() const { return floats ? kLargestFloat8 * scale : scale * static_cast<float>(255 - zero); }
    friend bool operator==(const Grid&, const Grid&) = default;
};

/// The nearest e4m3, ties to even; beyond 448 the largest, of NaN the lowest.
float nearest_float8(float x);

/// The grid that spans [low, high], widened to hold 0, which is exact: padding and ReLU make it.
Grid grid_of(double low, double high);

/// The floats whose largest is the larger of |low| and |high|. Small values lose nothing by large ones down to the
/// 2^-15th part of these, so that there is no better span to look for.
Grid float_grid_of(double low, double high);

/// How the span is chosen.
enum class Method : uint8_t {
    min_max,     ///< everything that was seen
    percentile,  ///< all but a share of the values, half of it at either end
    entropy,     ///< least Kullback-Leibler divergence of the stored distribution from the seen one
    mse,         ///< least mean square error
};
std::string_view to_string(Method method);
/// Error(invalid_argument) for an unknown name.
Method parse_method(std::string_view name);

/// x -> the nearest element of the grid. Into a tensor of its own.
Tensor rounded_to(const Tensor& x, const Grid& grid);

/// Values by size, over a span of a power of two to either side of zero that grows with them: neither the order of the
/// data nor how it is cut into batches changes the result.
class Histogram {
  public:
    /// NaN and infinities are left out.
    void add(std::span<const float> values);
    void add(const Histogram& other);

    double low() const { return low_; }    ///< least value, at most 0
    double high() const { return high_; }  ///< largest value, at least 0
    int64_t count() const { return count_; }
    Grid choose(Method method, double percentile) const;

  private:
    static constexpr int kBins = 8192;

    void widen(int exponent);
    double width() const;
    double centre(int bin) const { return (bin - kBins / 2 + 0.5) * width(); }
    int bin_of(double v) const;
    Grid least_square_error() const;
    Grid least_divergence() const;
    double divergence(const Grid& grid) const;

    double low_ = 0, high_ = 0;
    int exponent_ = -126;  // of the span: -2^exponent to 2^exponent
    int64_t count_ = 0;    // zeros, too: they are exact on every grid, so they are in no bin
    std::vector<int64_t> bins_ = std::vector<int64_t>(kBins);
};

}  // namespace planish::precision
