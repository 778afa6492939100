// The window of a convolution or pooling over images, for kernels that know heights and widths.
#pragma once

#include "ir/infer_common.hpp"

namespace planish {

/// [0] is the height, [1] the width; a single spatial axis is the width of an image of height 1.
struct ImageWindow {
    int64_t in[2] = {1, 1}, kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1};
    int64_t begin[2] = {0, 0}, end[2] = {0, 0};  ///< padding
};

/// Of a node whose input 0 is [N, C, W] or [N, C, H, W]; `kernel` as in infer::window_of.
inline ImageWindow image_window(const Node& node, const Dims& kernel = {}) {
    const Dims x = node.input(0)->dims();
    const Dims sizes(x.begin() + 2, x.end());
    infer::Window window = infer::window_of(node, sizes.size(), kernel);
    window.resolve_pads(sizes);
    ImageWindow image;
    for (size_t i = 0; i < sizes.size(); ++i) {
        const size_t a = 2 - sizes.size() + i;
        image.in[a] = sizes[i];
        image.kernel[a] = window.kernel[i];
        image.stride[a] = window.strides[i];
        image.dilation[a] = window.dilations[i];
        image.begin[a] = window.pads_begin[i];
        image.end[a] = window.pads_end[i];
    }
    return image;
}

}  // namespace planish
