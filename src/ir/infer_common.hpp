// Shape arithmetic that several shape rules and reference functions share.
#pragma once

#include <string>

#include "ir/graph.hpp"

namespace planish::infer {

/// NumPy's broadcast of two shapes aligned at the last axis; nullopt when sizes that are known differ and neither is 1.
/// Where only run time can tell, the result is a fresh unknown.
std::optional<Shape> broadcast_shapes(const Shape& a, const Shape& b);
/// The broadcast of inputs [first, last) that are present; nullopt when a rank is unknown. Throws naming the node.
std::optional<Shape> broadcast_inputs(InferContext& ctx, int first, int last);

/// Throws when inputs i and j both have a known dtype and these differ.
void require_same_dtype(const InferContext& ctx, int i, int j);
/// Throws when input i has a known rank other than `rank`.
void require_rank(const InferContext& ctx, int i, size_t rank);
/// Throws when both sizes are known and differ.
void require_equal(const InferContext& ctx, const Dim& a, const Dim& b, const std::string& what);
/// `axis` in [-rank, rank) as [0, rank).
int64_t normalize_axis(const InferContext& ctx, int64_t axis, size_t rank);

/// A sliding window over the spatial axes, as convolution and pooling describe it, with ONNX's defaults filled in.
struct Window {
    Dims kernel, strides, dilations;
    Dims pads_begin, pads_end;  // of auto_pad other than NOTSET: filled by resolve_pads
    std::string auto_pad = "NOTSET";
    bool ceil_mode = false;

    size_t rank() const { return kernel.size(); }
    /// Reach of the dilated kernel along an axis.
    int64_t extent(size_t axis) const { return (kernel[axis] - 1) * dilations[axis] + 1; }
    /// Number of window positions over an input of size `in`.
    Dim output_dim(size_t axis, const Dim& in) const;
    /// Turns auto_pad into explicit pads for these input sizes.
    void resolve_pads(const Dims& in);
    Dims output_dims(const Dims& in) const;
};

/// Reads kernel_shape (or `kernel` where the node leaves it to the weights), strides, dilations, pads, auto_pad and
/// ceil_mode. Throws invalid_model on lists of a wrong length, strides or kernels below 1, or an unknown auto_pad.
Window window_of(const Node& node, size_t spatial_rank, const Dims& kernel = {});

/// An axis of `size` scaled as Resize does: the floor of the product in float32, as ONNX's own shape inference has it.
int64_t scaled_size(int64_t size, double scale);

/// Sizes that ConvTranspose gives: spatial output sizes, and pads resolved from output_shape or auto_pad.
struct TransposedWindow {
    Window window;
    Dims output_padding;
    std::vector<Dim> output(const Shape& in) const;
};
TransposedWindow transposed_window_of(const Node& node, size_t spatial_rank, const Dims& kernel);
/// The same with concrete sizes: explicit pads in `window`, output sizes returned.
Dims resolve_transposed(TransposedWindow& t, const Node& node, const Dims& in);

}  // namespace planish::infer
