// The sizes of a 2-D convolution of channels-last images.
#pragma once

#include <cstdint>

namespace planish::cpu {

/// x[n, h, w, c] -> y[n, oh, ow, oc], weights [oc, c/groups, kh, kw] as ONNX stores them.
/// A 1-D convolution is one with h = kh = 1.
struct ConvShape {
    int64_t n = 1, h = 1, w = 1, c = 1;
    int64_t oc = 1, kh = 1, kw = 1;
    int64_t stride_h = 1, stride_w = 1;
    int64_t dilation_h = 1, dilation_w = 1;
    int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
    int64_t groups = 1;
    int64_t x_pixel_stride = 0;  ///< elements between pixels of x (0 = c): a slice of a wider tensor
    int64_t y_pixel_stride = 0;  ///< elements between pixels of y and of every tensor operand (0 = oc)
    bool x_nchw = false;         ///< x is [n, c, h, w] (contiguous): reordered while it is padded; groups must be 1

    int64_t oh() const { return (h + pad_top + pad_bottom - dilation_h * (kh - 1) - 1) / stride_h + 1; }
    int64_t ow() const { return (w + pad_left + pad_right - dilation_w * (kw - 1) - 1) / stride_w + 1; }
};

}  // namespace planish::cpu
