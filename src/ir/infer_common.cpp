// Shape arithmetic that several shape rules and reference functions share.
#include "ir/infer_common.hpp"

#include <algorithm>
#include <cmath>

#include "base/checked.hpp"
#include "planish/error.hpp"

namespace planish::infer {

namespace {

std::optional<Dim> broadcast_dim(const Dim& a, const Dim& b) {
    if (a == b || b == Dim(1)) return a;
    if (a == Dim(1)) return b;
    if (a.is_constant() && b.is_constant()) return std::nullopt;
    // A known size other than 1 wins: the other must turn out equal or 1.
    if (a.is_constant()) return a;
    if (b.is_constant()) return b;
    return Dim::unknown();
}

[[noreturn]] void window_error(const Node& node, const std::string& what) {
    fail(ErrorCode::invalid_model, "node '" + node.name + "' (" + std::string(node.op().name) + ") " + what);
}

/// Kernel sizes, strides, dilations and pads above this are damage, and their products would overflow.
constexpr int64_t kLargestWindow = INT32_MAX;

/// The named list, `fallback` repeated when absent; checked for length and for values of at least `least`.
Dims list_of(const Node& node, std::string_view name, size_t length, int64_t fallback, int64_t least) {
    Dims values = node.op().attribute(name) ? node.integers(name) : Dims{};
    if (values.empty()) values.assign(length, fallback);
    if (values.size() != length)
        window_error(node, "has " + std::to_string(values.size()) + " values in '" + std::string(name) + "', but " +
                               std::to_string(length) + " are needed");
    for (int64_t v : values)
        if (v < least || v > kLargestWindow)
            window_error(node, "has the value " + std::to_string(v) + " in '" + std::string(name) +
                                   "', which must lie between " + std::to_string(least) + " and " +
                                   std::to_string(kLargestWindow));
    return values;
}

}  // namespace

std::optional<Shape> broadcast_shapes(const Shape& a, const Shape& b) {
    Shape out(std::max(a.size(), b.size()));
    for (size_t i = 0; i < out.size(); ++i) {
        const Dim x = i < a.size() ? a[a.size() - 1 - i] : Dim(1);
        const Dim y = i < b.size() ? b[b.size() - 1 - i] : Dim(1);
        std::optional<Dim> d = broadcast_dim(x, y);
        if (!d) return std::nullopt;
        out[out.size() - 1 - i] = std::move(*d);
    }
    return out;
}

std::optional<Shape> broadcast_inputs(InferContext& ctx, int first, int last) {
    Shape out;
    for (int i = first; i < last; ++i) {
        if (!ctx.has_input(i)) continue;
        if (!ctx.has_shape(i)) return std::nullopt;
        std::optional<Shape> next = broadcast_shapes(out, ctx.shape(i));
        if (!next)
            ctx.error("cannot broadcast " + to_string(ctx.shape(i)) + " of input " + std::to_string(i) + " with " +
                      to_string(out));
        out = std::move(*next);
    }
    return out;
}

void require_same_dtype(const InferContext& ctx, int i, int j) {
    if (!ctx.has_input(i) || !ctx.has_input(j)) return;
    const DType a = ctx.input(i).dtype, b = ctx.input(j).dtype;
    if (a != b && a != DType::undefined && b != DType::undefined)
        ctx.error("has inputs " + std::to_string(i) + " and " + std::to_string(j) + " of different types, " +
                  std::string(to_string(a)) + " and " + std::string(to_string(b)));
}

void require_rank(const InferContext& ctx, int i, size_t rank) {
    if (ctx.has_shape(i) && ctx.shape(i).size() != rank)
        ctx.error("needs rank " + std::to_string(rank) + " for input " + std::to_string(i) + ", which is " +
                  to_string(ctx.shape(i)));
}

void require_equal(const InferContext& ctx, const Dim& a, const Dim& b, const std::string& what) {
    if (a.is_constant() && b.is_constant() && !(a == b))
        ctx.error("has " + what + " of " + a.to_string() + " and " + b.to_string() + ", which must be equal");
}

int64_t normalize_axis(const InferContext& ctx, int64_t axis, size_t rank) {
    const auto r = static_cast<int64_t>(rank);
    if (axis < -r || axis >= r)
        ctx.error("has axis " + std::to_string(axis) + ", out of range for rank " + std::to_string(r));
    return axis < 0 ? axis + r : axis;
}

Window window_of(const Node& node, size_t spatial_rank, const Dims& kernel) {
    Window w;
    w.kernel = node.op().attribute("kernel_shape") ? node.integers("kernel_shape") : Dims{};
    if (w.kernel.empty()) w.kernel = kernel;
    if (w.kernel.size() != spatial_rank)
        window_error(node, "has a kernel of " + std::to_string(w.kernel.size()) + " axes over an input of " +
                               std::to_string(spatial_rank) + " spatial axes");
    if (!kernel.empty() && w.kernel != kernel)
        window_error(node, "has kernel_shape " + to_string(w.kernel) + ", but its weights are " + to_string(kernel));
    for (int64_t k : w.kernel)
        if (k < 1 || k > kLargestWindow) window_error(node, "has a kernel of size " + std::to_string(k));
    w.strides = list_of(node, "strides", spatial_rank, 1, 1);
    w.dilations = list_of(node, "dilations", spatial_rank, 1, 1);
    const Dims pads = list_of(node, "pads", 2 * spatial_rank, 0, -kLargestWindow);
    w.pads_begin.assign(pads.begin(), pads.begin() + static_cast<int64_t>(spatial_rank));
    w.pads_end.assign(pads.begin() + static_cast<int64_t>(spatial_rank), pads.end());
    if (node.op().attribute("auto_pad")) w.auto_pad = node.text("auto_pad");
    if (w.auto_pad.empty()) w.auto_pad = "NOTSET";
    if (w.auto_pad != "NOTSET") {
        if (w.auto_pad != "VALID" && w.auto_pad != "SAME_UPPER" && w.auto_pad != "SAME_LOWER")
            window_error(node, "has auto_pad '" + w.auto_pad + "', which ONNX does not define");
        w.pads_begin.assign(spatial_rank, 0);
        w.pads_end.assign(spatial_rank, 0);
    }
    w.ceil_mode = node.op().attribute("ceil_mode") && node.integer("ceil_mode") != 0;
    return w;
}

Dim Window::output_dim(size_t axis, const Dim& in) const {
    const Dim stride = strides[axis];
    if (auto_pad.starts_with("SAME")) return Dim::ceil_div(in, stride);
    const Dim room = in + pads_begin[axis] + pads_end[axis] - extent(axis);
    if (!ceil_mode) return Dim::floor_div(room, stride) + 1;
    // A window must start inside the input or its left padding: (out - 1) * stride < in + pad.
    return Dim::min(Dim::ceil_div(room, stride) + 1, Dim::ceil_div(in + pads_begin[axis], stride));
}

void Window::resolve_pads(const Dims& in) {
    if (auto_pad.starts_with("SAME")) {
        for (size_t d = 0; d < rank(); ++d) {
            const int64_t out = (in[d] + strides[d] - 1) / strides[d];
            const int64_t total = std::max<int64_t>((out - 1) * strides[d] + extent(d) - in[d], 0);
            pads_begin[d] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
            pads_end[d] = total - pads_begin[d];
        }
    }
    if (auto_pad != "NOTSET") ceil_mode = false;
    auto_pad = "NOTSET";
}

Dims Window::output_dims(const Dims& in) const {
    Dims out(rank());
    for (size_t d = 0; d < rank(); ++d) out[d] = std::max<int64_t>(*output_dim(d, in[d]).value(), 0);
    return out;
}

int64_t scaled_size(int64_t size, double scale) {
    return saturating_int64(std::floor(static_cast<float>(size) * static_cast<float>(scale)));
}

TransposedWindow transposed_window_of(const Node& node, size_t spatial_rank, const Dims& kernel) {
    TransposedWindow t{window_of(node, spatial_rank, kernel), list_of(node, "output_padding", spatial_rank, 0, 0)};
    return t;
}

std::vector<Dim> TransposedWindow::output(const Shape& in) const {
    std::vector<Dim> out;
    for (size_t d = 0; d < window.rank(); ++d) {
        const Dim stride = window.strides[d];
        if (window.auto_pad.starts_with("SAME"))
            out.push_back(in[d] * stride);
        else
            out.push_back((in[d] - 1) * stride + output_padding[d] + window.extent(d) - window.pads_begin[d] -
                          window.pads_end[d]);
    }
    return out;
}

Dims resolve_transposed(TransposedWindow& t, const Node& node, const Dims& in) {
    Window& w = t.window;
    const Dims& wanted = node.integers("output_shape");
    if (!wanted.empty() && wanted.size() < w.rank()) window_error(node, "has an output_shape of too few axes");
    Dims out(w.rank());
    for (size_t d = 0; d < w.rank(); ++d) {
        const int64_t full = (in[d] - 1) * w.strides[d] + t.output_padding[d] + w.extent(d);
        const bool same = w.auto_pad.starts_with("SAME");
        if (wanted.empty() && !same) {
            out[d] = full - w.pads_begin[d] - w.pads_end[d];
            continue;
        }
        // output_shape may or may not name the batch and channel axes too: its last axes are the spatial ones.
        out[d] = wanted.empty() ? in[d] * w.strides[d] : wanted[wanted.size() - w.rank() + d];
        const int64_t total = std::max<int64_t>(full - out[d], 0);
        w.pads_begin[d] = w.auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
        w.pads_end[d] = total - w.pads_begin[d];
    }
    w.auto_pad = "NOTSET";
    return out;
}

}  // namespace planish::infer
