// Index and weight tables for ONNX's Resize, one axis at a time.
#pragma once

#include <cstdint>
#include <vector>

namespace planish::cpu {

enum class ResizeMode : uint8_t { nearest, linear, cubic };
enum class ResizeCoordinates : uint8_t {
    half_pixel,
    half_pixel_symmetric,
    pytorch_half_pixel,
    align_corners,
    asymmetric,
    tf_crop_and_resize,
};
enum class ResizeNearest : uint8_t { round_prefer_floor, round_prefer_ceil, floor, ceil };

/// One axis of a Resize node; names and meanings are those of ONNX's attributes.
struct ResizeAxis {
    int64_t in = 1, out = 1;
    double scale = 1;  ///< out / in where the node gives sizes; as given where it gives scales
    ResizeMode mode = ResizeMode::nearest;
    ResizeCoordinates coordinates = ResizeCoordinates::half_pixel;
    ResizeNearest nearest = ResizeNearest::round_prefer_floor;
    double cubic_a = -0.75;
    bool exclude_outside = false;
    bool antialias = false;
    double roi_begin = 0, roi_end = 1;  ///< tf_crop_and_resize
};

/// output[i] = sum over t < taps of weight[i * taps + t] * input[index[i * taps + t]]. Indices are inside the axis.
struct ResizeTable {
    int taps = 1;
    std::vector<int64_t> index;
    std::vector<float> weight;
    /// Where not empty: 1 for outputs outside the region of interest, which take extrapolation_value instead.
    std::vector<uint8_t> outside;
};

/// Formulas of ONNX's Resize (opset 19), coordinates in float64.
ResizeTable resize_table(const ResizeAxis& axis);

}  // namespace planish::cpu
