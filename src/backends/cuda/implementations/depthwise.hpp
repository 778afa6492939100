// A depthwise Conv node as kernels/depthwise.cuh and kernels/conv_chain.cuh take it.
#pragma once

#include <optional>

#include "backends/cuda/expression.hpp"
#include "backends/cuda/implementation.hpp"

namespace planish::cuda {

/// ONNX's Conv attributes with [0] for the height, [1] for the width; an image of one spatial axis has height 1.
struct ConvShape {
    int64_t n = 0, channels = 0, out_channels = 0, groups = 1;
    int64_t in[2] = {}, out[2] = {}, kernel[2] = {}, stride[2] = {}, dilation[2] = {}, begin[2] = {}, end[2] = {};

    bool is_depthwise() const { return groups == channels && out_channels == channels && channels > 1; }
    bool is_pointwise() const;  ///< 1x1, stride 1, no padding, no groups
    int64_t outputs() const { return n * out_channels * out[0] * out[1]; }
};

/// Of a Conv of float32 images with one or two spatial axes, no negative padding and something to compute.
std::optional<ConvShape> conv_shape(const Node& conv);

}  // namespace planish::cuda
