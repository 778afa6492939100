// What a network's results lose: signal to noise, cosine.
#pragma once

#include <cstdint>

#include "planish/tensor.hpp"

namespace planish::precision {

/// Of float32 tensors against those that are right, over many samples.
struct Comparison {
    double signal = 0, noise = 0, cosines = 0;
    int64_t samples = 0;

    void add(const Tensor& wanted, const Tensor& actual);
    double sqnr() const;  ///< in dB, from -300 to 300
    double cosine() const { return samples > 0 ? cosines / static_cast<double>(samples) : 1; }
    /// Root of noise over signal.
    double relative_error() const;
};

}  // namespace planish::precision
