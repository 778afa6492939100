// Shape rules of the nn family: convolution, pooling, normalisation, resize.
#include <algorithm>
#include <cmath>

#include "base/checked.hpp"
#include "ir/infer_common.hpp"
#include "planish/error.hpp"

namespace planish::infer {

namespace {

Dims constant_tail(const InferContext& ctx, int input, size_t from) {
    Dims dims;
    const Shape& shape = ctx.shape(input);
    for (size_t d = from; d < shape.size(); ++d) {
        const auto v = shape[d].value();
        if (!v) return {};
        dims.push_back(*v);
    }
    return dims;
}

/// Output of a convolution whose data is input `x` and whose weights are input `w`.
std::optional<Shape> conv_shape(InferContext& ctx, int x, int w) {
    if (!ctx.has_shape(x) || !ctx.has_shape(w)) return std::nullopt;
    const Shape &in = ctx.shape(x), &weights = ctx.shape(w);
    if (in.size() < 3 || weights.size() != in.size())
        ctx.error("cannot convolve an input of shape " + to_string(in) + " with weights of shape " +
                  to_string(weights));
    require_equal(ctx, in[1], weights[1] * ctx.integer("group"), "channels (input, weights times groups)");
    Shape out{in[0], weights[0]};
    const Dims kernel = constant_tail(ctx, w, 2);
    if (kernel.empty() && ctx.integers("kernel_shape").empty()) {
        out.resize(in.size(), Dim::unknown());
        return out;
    }
    const Window window = window_of(ctx.node(), in.size() - 2, kernel);
    for (size_t d = 0; d < window.rank(); ++d) {
        Dim size = window.output_dim(d, in[d + 2]);
        if (size.is_constant() && *size.value() < 0)
            ctx.error("has a kernel that reaches past its padded input of shape " + to_string(in));
        out.push_back(std::move(size));
    }
    return out;
}

}  // namespace

void conv(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    require_same_dtype(ctx, 0, 2);
    ctx.set_output(0, ctx.input(0).dtype, conv_shape(ctx, 0, 1));
}
void conv_integer(InferContext& ctx) {
    ctx.set_output(0, DType::i32, conv_shape(ctx, 0, 1));
}
void qlinear_conv(InferContext& ctx) {
    ctx.set_output(0, ctx.input(7).dtype, conv_shape(ctx, 0, 3));
}

void conv_transpose(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    const DType dtype = ctx.input(0).dtype;
    if (!ctx.has_shape(0) || !ctx.has_shape(1)) return ctx.set_output(0, dtype, std::nullopt);
    const Shape &in = ctx.shape(0), &weights = ctx.shape(1);
    if (in.size() < 3 || weights.size() != in.size())
        ctx.error("cannot meet an input of shape " + to_string(in) + " with weights of shape " + to_string(weights));
    require_equal(ctx, in[1], weights[0], "channels (input, weights)");
    Shape out{in[0], weights[1] * ctx.integer("group")};
    const Dims kernel = constant_tail(ctx, 1, 2);
    const Dims& wanted = ctx.integers("output_shape");
    const size_t spatial = in.size() - 2;
    if (wanted.size() >= spatial && !wanted.empty()) {
        for (size_t d = 0; d < spatial; ++d) out.push_back(wanted[wanted.size() - spatial + d]);
    } else if (kernel.empty() && ctx.integers("kernel_shape").empty()) {
        out.resize(in.size(), Dim::unknown());
    } else {
        for (Dim& d : transposed_window_of(ctx.node(), spatial, kernel).output(Shape(in.begin() + 2, in.end())))
            out.push_back(std::move(d));
    }
    ctx.set_output(0, dtype, std::move(out));
}

void pool(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    std::optional<Shape> out;
    if (ctx.has_shape(0)) {
        const Shape& in = ctx.shape(0);
        if (in.size() < 3) ctx.error("pools over spatial axes, but its input is " + to_string(in));
        const Window window = window_of(ctx.node(), in.size() - 2);
        out = Shape{in[0], in[1]};
        for (size_t d = 0; d < window.rank(); ++d) {
            Dim size = window.output_dim(d, in[d + 2]);
            if (size.is_constant() && *size.value() < 0)
                ctx.error("has a kernel that reaches past its padded input of shape " + to_string(in));
            out->push_back(std::move(size));
        }
    }
    ctx.set_output(0, dtype, out);
    ctx.set_output(1, DType::i64, out);
}

void global_pool(InferContext& ctx) {
    if (!ctx.has_shape(0)) return ctx.set_output(0, ctx.input(0).dtype, std::nullopt);
    const Shape& in = ctx.shape(0);
    if (in.size() < 2) ctx.error("pools over spatial axes, but its input is " + to_string(in));
    Shape out(in.size(), 1);
    out[0] = in[0];
    out[1] = in[1];
    ctx.set_output(0, ctx.input(0).dtype, std::move(out));
}

void max_unpool(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, std::nullopt);
    const Shape& in = ctx.shape(0);
    if (ctx.has_input(2)) {
        auto given = ctx.symbolic(2);
        return ctx.set_output(0, dtype, given ? Shape(*given) : Shape(in.size(), Dim::unknown()));
    }
    const Window w = window_of(ctx.node(), in.size() - 2);
    Shape out{in[0], in[1]};
    for (size_t d = 0; d < w.rank(); ++d)
        out.push_back((in[d + 2] - 1) * w.strides[d] - w.pads_begin[d] - w.pads_end[d] + w.kernel[d]);
    ctx.set_output(0, dtype, std::move(out));
}

/// Outputs: the input's shape; in training also the running mean and variance.
void batch_normalization(InferContext& ctx) {
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
    ctx.set_output(1, ctx.input(3).dtype, ctx.input(3).shape);
    ctx.set_output(2, ctx.input(4).dtype, ctx.input(4).shape);
}

void instance_normalization(InferContext& ctx) {
    if (ctx.has_shape(0)) {
        if (ctx.shape(0).size() < 2)
            ctx.error("needs [batch, channels, ...], but its input is " + to_string(ctx.shape(0)));
        for (int i = 1; i <= 2; ++i) {
            require_rank(ctx, i, 1);
            if (ctx.has_shape(i))
                require_equal(ctx, ctx.shape(0)[1], ctx.shape(i)[0], "channels (input, scale or bias)");
        }
    }
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
}

void group_normalization(InferContext& ctx) {
    const int64_t groups = ctx.integer("num_groups");
    if (groups < 1) ctx.error("has num_groups " + std::to_string(groups));
    instance_normalization(ctx);
    if (!ctx.has_shape(0)) return;
    const Dim& channels = ctx.shape(0)[1];
    if (channels.is_constant() && *channels.value() % groups != 0)
        ctx.error("cannot split " + channels.to_string() + " channels into " + std::to_string(groups) + " groups");
}

void layer_normalization(InferContext& ctx) {
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
    std::optional<Shape> kept;
    if (ctx.has_shape(0)) {
        kept = ctx.shape(0);
        const int64_t axis = ctx.axis("axis", static_cast<int64_t>(kept->size()));
        std::fill(kept->begin() + axis, kept->end(), Dim(1));
    }
    const auto stash = static_cast<DType>(ctx.integer("stash_type"));
    ctx.set_output(1, stash, kept);
    ctx.set_output(2, stash, kept);
}

/// Softmax and other functions along an "axis": the input's shape, the axis within its rank.
void along_axis(InferContext& ctx) {
    if (ctx.has_shape(0)) ctx.axis("axis", static_cast<int64_t>(ctx.shape(0).size()));
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
}

void resize(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, std::nullopt);
    const Shape& in = ctx.shape(0);
    Shape out = in;
    std::vector<size_t> axes;
    for (int64_t a : ctx.integers("axes")) axes.push_back(static_cast<size_t>(normalize_axis(ctx, a, in.size())));
    if (axes.empty())
        for (size_t d = 0; d < in.size(); ++d) axes.push_back(d);
    const bool by_size = ctx.has_input(3);
    if (by_size) {
        const auto sizes = ctx.symbolic(3);
        const bool known = sizes && sizes->size() == axes.size();
        const std::string& policy = ctx.text("keep_aspect_ratio_policy");
        double scale = policy == "not_larger" ? HUGE_VAL : 0;
        bool constant = known;
        for (size_t i = 0; i < axes.size(); ++i) {
            out[axes[i]] = known ? (*sizes)[i] : Dim::unknown();
            constant = constant && (*sizes)[i].is_constant() && in[axes[i]].is_constant();
            if (!constant) continue;
            const double s = static_cast<double>(*(*sizes)[i].value()) / static_cast<double>(*in[axes[i]].value());
            scale = policy == "not_larger" ? std::min(scale, s) : std::max(scale, s);
        }
        if (policy != "stretch")
            for (size_t a : axes)
                out[a] = constant ? Dim(saturating_int64(scale * static_cast<double>(*in[a].value()) + 0.5))
                                  : Dim::unknown();
    } else {
        const Tensor* scales = ctx.constant(2);
        if (scales && scales->size() != static_cast<int64_t>(axes.size()))
            ctx.error("has " + std::to_string(scales->size()) + " scales for " + std::to_string(axes.size()) + " axes");
        for (size_t i = 0; i < axes.size(); ++i) {
            Dim& d = out[axes[i]];
            if (!scales) {
                d = Dim::unknown();
                continue;
            }
            const double s = scales->at_double(static_cast<int64_t>(i));
            if (d.is_constant())
                d = scaled_size(*d.value(), s);
            else if (s == std::floor(s))
                d = d * static_cast<int64_t>(s);
            else if (1 / s == std::floor(1 / s))
                d = Dim::floor_div(d, static_cast<int64_t>(1 / s));
            else
                d = Dim::unknown();
        }
    }
    ctx.set_output(0, dtype, std::move(out));
}

}  // namespace planish::infer
