// Resize: separable interpolation, one axis after the other.
#include <algorithm>
#include <cmath>

#include "base/checked.hpp"
#include "ir/infer_common.hpp"
#include "planish/error.hpp"
#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

/// One output position along an axis: which input positions it mixes with which weights.
struct Sample {
    std::vector<int64_t> at;
    std::vector<double> weights;
    bool extrapolated = false;
};

struct AxisResize {
    int64_t in, out;
    double scale;
    double roi_begin = 0, roi_end = 1;
};

struct Options {
    std::string mode, nearest, coordinates;
    double cubic_a;
    bool antialias, exclude_outside;
};

double source_coordinate(const Options& o, const AxisResize& a, int64_t i) {
    const double x = static_cast<double>(i), in = static_cast<double>(a.in);
    const double out = a.scale * in;  // may be fractional
    if (o.coordinates == "align_corners") return out == 1 ? 0 : x * (in - 1) / (out - 1);
    if (o.coordinates == "asymmetric") return x / a.scale;
    if (o.coordinates == "tf_crop_and_resize") {
        const double width = (a.roi_end - a.roi_begin) * (in - 1);
        // One position samples the middle of the region.
        return a.roi_begin * (in - 1) + (a.out == 1 ? width / 2 : x * width / (static_cast<double>(a.out) - 1));
    }
    if (o.coordinates == "pytorch_half_pixel") return out == 1 ? -0.5 : (x + 0.5) / a.scale - 0.5;
    if (o.coordinates == "half_pixel_symmetric") {
        const double adjustment = static_cast<double>(a.out) / out;
        return in / 2 * (1 - adjustment) + (x + 0.5) / a.scale - 0.5;
    }
    if (o.coordinates == "half_pixel") return (x + 0.5) / a.scale - 0.5;
    fail(ErrorCode::invalid_model,
         "Resize has coordinate_transformation_mode '" + o.coordinates + "', which ONNX does not define");
}

double cubic_kernel(double x, double a) {
    x = std::fabs(x);
    if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return 0;
}

Sample sample(const Options& o, const AxisResize& a, int64_t i) {
    Sample s;
    const double x = source_coordinate(o, a, i);
    if (o.coordinates == "tf_crop_and_resize" && (x < 0 || x > static_cast<double>(a.in - 1))) {
        s.extrapolated = true;
        return s;
    }
    if (o.mode == "nearest") {
        double at = std::floor(x);
        const double part = x - at;
        if (o.nearest == "round_prefer_floor")
            at += part > 0.5;
        else if (o.nearest == "round_prefer_ceil")
            at += part >= 0.5;
        else if (o.nearest == "ceil")
            at += part > 0;
        else if (o.nearest != "floor")
            fail(ErrorCode::invalid_model, "Resize has nearest_mode '" + o.nearest + "', which ONNX does not define");
        s.at = {std::clamp<int64_t>(saturating_int64(at), 0, a.in - 1)};
        s.weights = {1};
        return s;
    }
    // The kernel reaches `support` input pixels to either side, stretched by 1 / scale against aliasing.
    const bool cubic = o.mode == "cubic";
    const double shrink = o.antialias ? std::min(a.scale, 1.0) : 1.0;
    const double support = (cubic ? 2 : 1) / shrink;
    const auto first = saturating_int64(std::floor(x - support) + 1);
    const auto last = saturating_int64(std::ceil(x + support) - 1);
    double total = 0;
    for (int64_t k = first; k <= last; ++k) {
        const double distance = (static_cast<double>(k) - x) * shrink;
        double weight = cubic ? cubic_kernel(distance, o.cubic_a) : std::max(0.0, 1 - std::fabs(distance));
        if (o.exclude_outside && (k < 0 || k >= a.in)) weight = 0;
        s.at.push_back(std::clamp<int64_t>(k, 0, a.in - 1));
        s.weights.push_back(weight);
        total += weight;
    }
    if ((o.antialias || o.exclude_outside) && total != 0)
        for (double& w : s.weights) w /= total;
    return s;
}

/// Resizes one axis of x, whose shape `dims` is updated.
template <typename T>
std::vector<T> resize_axis(const std::vector<T>& x, Dims& dims, size_t axis, const Options& o, const AxisResize& a,
                           T extrapolation) {
    int64_t outer = 1, inner = 1;
    for (size_t d = 0; d < axis; ++d) outer *= dims[d];
    for (size_t d = axis + 1; d < dims.size(); ++d) inner *= dims[d];
    std::vector<T> y(static_cast<size_t>(outer * a.out * inner), T{});
    dims[axis] = a.out;
    for (int64_t i = 0; i < a.out; ++i) {
        const Sample s = sample(o, a, i);
        for (int64_t n = 0; n < outer; ++n) {
            T* to = y.data() + (n * a.out + i) * inner;
            if (s.extrapolated) std::fill_n(to, inner, extrapolation);
            for (size_t k = 0; k < s.at.size(); ++k) {
                const T* from = x.data() + (n * a.in + s.at[k]) * inner;
                if constexpr (std::is_same_v<T, double>)
                    for (int64_t j = 0; j < inner; ++j) to[j] += s.weights[k] * from[j];
                else
                    std::copy_n(from, inner, to);
            }
        }
    }
    return y;
}

/// What each axis becomes, from the inputs scales or sizes and the attributes.
std::vector<AxisResize> plan_axes(RefContext& ctx) {
    const Dims& in = ctx.input(0).dims();
    const auto rank = static_cast<int64_t>(in.size());
    std::vector<int64_t> axes = ctx.integers("axes");
    if (axes.empty())
        for (int64_t d = 0; d < rank; ++d) axes.push_back(d);
    for (int64_t& a : axes) {
        if (a < -rank || a >= rank)
            ctx.error("axis " + std::to_string(a) + " is out of range for rank " + std::to_string(rank));
        if (a < 0) a += rank;
    }
    std::vector<AxisResize> plan;
    for (int64_t size : in) plan.push_back({size, size, 1.0});
    const bool has_scales = ctx.has_input(2) && ctx.input(2).size() > 0;
    const bool has_sizes = ctx.has_input(3) && ctx.input(3).size() > 0;
    if (has_scales == has_sizes) ctx.error("needs exactly one of the inputs scales and sizes");
    const std::vector<double> given = read_all<double>(ctx.input(has_scales ? 2 : 3));
    if (given.size() != axes.size())
        ctx.error("has " + std::to_string(given.size()) + (has_scales ? " scales" : " sizes") + " for " +
                  std::to_string(axes.size()) + " axes");
    const std::string& policy = ctx.text("keep_aspect_ratio_policy");
    double common = policy == "not_larger" ? HUGE_VAL : 0;
    for (size_t i = 0; i < axes.size(); ++i) {
        AxisResize& a = plan[static_cast<size_t>(axes[i])];
        if (has_scales) {
            if (!(given[i] > 0)) ctx.error("has the scale " + std::to_string(given[i]) + ", which is not above 0");
            a.scale = given[i];
            a.out = infer::scaled_size(a.in, given[i]);
            continue;
        }
        a.out = static_cast<int64_t>(given[i]);
        a.scale = given[i] / static_cast<double>(a.in);
        common = policy == "not_larger" ? std::min(common, a.scale) : std::max(common, a.scale);
    }
    if (has_sizes && policy != "stretch")
        for (int64_t axis : axes) {
            AxisResize& a = plan[static_cast<size_t>(axis)];
            a.scale = common;
            a.out = static_cast<int64_t>(common * static_cast<double>(a.in) + 0.5);
        }
    if (ctx.text("coordinate_transformation_mode") == "tf_crop_and_resize") {
        if (!ctx.has_input(1) || ctx.input(1).size() != 2 * static_cast<int64_t>(axes.size()))
            ctx.error("tf_crop_and_resize needs an roi of a begin and an end for each axis");
        const std::vector<double> roi = read_all<double>(ctx.input(1));
        for (size_t i = 0; i < axes.size(); ++i) {
            plan[static_cast<size_t>(axes[i])].roi_begin = roi[i];
            plan[static_cast<size_t>(axes[i])].roi_end = roi[axes.size() + i];
        }
    }
    return plan;
}

}  // namespace

void resize(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const Options o{
        ctx.text("mode"),          ctx.text("nearest_mode"),      ctx.text("coordinate_transformation_mode"),
        ctx.real("cubic_coeff_a"), ctx.integer("antialias") != 0, ctx.integer("exclude_outside") != 0};
    if (o.mode != "nearest" && o.mode != "linear" && o.mode != "cubic")
        ctx.error("mode '" + o.mode + "' is none that ONNX defines");
    const std::vector<AxisResize> plan = plan_axes(ctx);
    const auto run = [&](auto t) {
        using T = decltype(t);
        Dims dims = x.dims();
        std::vector<T> values = read_all<T>(x);
        for (size_t d = 0; d < plan.size(); ++d) {
            const AxisResize& a = plan[d];
            if (a.in == a.out && a.scale == 1 && a.roi_begin == 0 && a.roi_end == 1) continue;
            if (a.in == 0 && a.out > 0) ctx.error("cannot resize an axis of size 0");
            values = resize_axis<T>(values, dims, d, o, a, static_cast<T>(ctx.real("extrapolation_value")));
        }
        Tensor& out = ctx.output(0, x.dtype(), dims);
        if constexpr (std::is_same_v<T, double>) {
            if (is_integer(x.dtype())) {
                const double low = is_signed(x.dtype()) ? -std::ldexp(1.0, bit_width(x.dtype()) - 1) : 0.0;
                const double high = std::ldexp(1.0, bit_width(x.dtype()) - (is_signed(x.dtype()) ? 1 : 0)) - 1;
                for (double& v : values) v = std::clamp(std::nearbyint(v), low, high);
            }
        }
        write_all(values, out);
    };
    // Taking the nearest element moves integers unchanged; interpolation is done in double and rounded.
    if (o.mode == "nearest" && arithmetic_of(x.dtype()) != Arithmetic::real)
        run(int64_t{});
    else
        run(double{});
}

}  // namespace planish::reference
