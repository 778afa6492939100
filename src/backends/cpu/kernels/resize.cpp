// Coordinates, then coefficients around them, then clamping to the axis.
#include "backends/cpu/kernels/resize.hpp"

#include <algorithm>
#include <cmath>

namespace planish::cpu {
namespace {

// The coordinate in the input that output position i shows.
double input_coordinate(const ResizeAxis& axis, int64_t i) {
    const double in = static_cast<double>(axis.in), x = static_cast<double>(i);
    const double out = axis.scale * in;  // may have a fraction where the node gives scales
    switch (axis.coordinates) {
        case ResizeCoordinates::align_corners:
            return out == 1 ? 0 : x * (in - 1) / (out - 1);
        case ResizeCoordinates::asymmetric:
            return x / axis.scale;
        case ResizeCoordinates::tf_crop_and_resize: {
            const double extent = (axis.roi_end - axis.roi_begin) * (in - 1);
            return (out == 1 ? extent / 2 : x * extent / (out - 1)) + axis.roi_begin * (in - 1);
        }
        case ResizeCoordinates::pytorch_half_pixel:
            return out == 1 ? -0.5 : (x + 0.5) / axis.scale - 0.5;
        case ResizeCoordinates::half_pixel:
            return (x + 0.5) / axis.scale - 0.5;
        case ResizeCoordinates::half_pixel_symmetric:
            return in / 2 * (1 - static_cast<double>(axis.out) / out) + (x + 0.5) / axis.scale - 0.5;
    }
    return 0;
}

double cubic(double x, double a) {
    x = std::abs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

// Coefficients of the positions floor + 1 - size / 2, ..., floor + size / 2, for a coordinate of floor + ratio,
// 0 < ratio <= 1. Antialiasing stretches the filter by 1 / scale when it shrinks the image.
std::vector<double> coefficients(const ResizeAxis& axis, double ratio) {
    if (axis.mode == ResizeMode::nearest) {
        bool left = false;
        switch (axis.nearest) {
            case ResizeNearest::round_prefer_floor:
                left = ratio <= 0.5;
                break;
            case ResizeNearest::round_prefer_ceil:
                left = ratio < 0.5;
                break;
            case ResizeNearest::floor:
                left = ratio < 1;
                break;
            case ResizeNearest::ceil:
                left = false;
                break;
        }
        return {left ? 1.0 : 0.0, left ? 0.0 : 1.0};
    }
    const double stretch = axis.antialias ? std::min(axis.scale, 1.0) : 1.0;
    const double radius = axis.mode == ResizeMode::linear ? 1 : 2;
    const auto first = static_cast<int64_t>(std::floor(-radius / stretch)) + 1;
    std::vector<double> result;
    double sum = 0;
    for (int64_t i = first; i < 2 - first; ++i) {
        const double x = (static_cast<double>(i) - ratio) * stretch;
        result.push_back(axis.mode == ResizeMode::linear ? std::clamp(1 - std::abs(x), 0.0, 1.0)
                                                         : cubic(x, axis.cubic_a));
        sum += result.back();
    }
    if (axis.antialias)
        for (double& c : result) c /= sum;
    return result;
}

}  // namespace

ResizeTable resize_table(const ResizeAxis& axis) {
    ResizeTable table;
    for (int64_t i = 0; i < axis.out; ++i) {
        const double x = input_coordinate(axis, i);
        if (axis.coordinates == ResizeCoordinates::tf_crop_and_resize &&
            (x < 0 || x > static_cast<double>(axis.in - 1))) {
            table.outside.resize(static_cast<size_t>(axis.out));
            table.outside[static_cast<size_t>(i)] = 1;
        }
        // The ratio lies in (0, 1]: a whole coordinate is the right one of its pair, as in ONNX's reference.
        double floor = std::floor(x);
        if (floor == x) floor -= 1;
        std::vector<double> weights = coefficients(axis, x - floor);
        const auto half = static_cast<int64_t>(weights.size() / 2);
        const int64_t first = static_cast<int64_t>(floor) + 1 - half;
        if (axis.exclude_outside) {
            double sum = 0;
            for (size_t t = 0; t < weights.size(); ++t) {
                const int64_t position = first + static_cast<int64_t>(t);
                if (position < 0 || position >= axis.in) weights[t] = 0;
                sum += weights[t];
            }
            for (double& w : weights) w /= sum;
        }
        if (axis.mode == ResizeMode::nearest) {
            const int64_t position = weights[0] != 0 ? first : first + 1;
            table.index.push_back(std::clamp<int64_t>(position, 0, axis.in - 1));
            table.weight.push_back(1);
            continue;
        }
        table.taps = static_cast<int>(weights.size());
        for (size_t t = 0; t < weights.size(); ++t) {
            table.index.push_back(std::clamp<int64_t>(first + static_cast<int64_t>(t), 0, axis.in - 1));
            table.weight.push_back(static_cast<float>(weights[t]));
        }
    }
    return table;
}

}  // namespace planish::cpu
