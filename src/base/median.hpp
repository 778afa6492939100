// The median of measurements.
#pragma once

#include <algorithm>
#include <vector>

namespace planish {

/// The upper one of the two in the middle where the count is even. There must be at least one sample.
inline double median(std::vector<double> samples) {
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
    std::nth_element(samples.begin(), middle, samples.end());
    return *middle;
}

}  // namespace planish
