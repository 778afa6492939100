// Sliding windows over dense arrays of doubles, shared by the convolutions.
#pragma once

#include <vector>

#include "ir/infer_common.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

/// Steps through the coordinates of `dims` in row-major order.
class Odometer {
  public:
    explicit Odometer(const Dims& dims, int64_t start = 0);
    const Dims& at() const { return at_; }
    void next();

  private:
    const Dims& dims_;
    Dims at_;
};

/// A convolution's sizes. Data is [batch, channels, spatial...], weights [out_channels, channels / groups, kernel...].
struct ConvSizes {
    infer::Window window;  // pads resolved
    int64_t batch, channels, out_channels, groups;
    Dims in, out;  // spatial

    int64_t in_size() const { return element_count(in); }
    int64_t out_size() const { return element_count(out); }
    int64_t kernel_size() const { return element_count(window.kernel); }
    Dims out_dims() const;
};

/// Reads the sizes from the node and its operands' shapes; throws invalid_argument when they do not fit.
ConvSizes conv_sizes(RefContext& ctx, const Dims& x, const Dims& w);

/// y[n, o, ...] = sum of x * w in float64, zero-padded.
std::vector<double> convolve(const ConvSizes& s, const std::vector<double>& x, const std::vector<double>& w);

}  // namespace planish::reference
