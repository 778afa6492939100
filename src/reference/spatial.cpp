// Sampling between pixels: GridSample, AffineGrid, RoiAlign, MaxRoiPool, DeformConv; and Col2Im.
#include <algorithm>
#include <cmath>

#include "base/checked.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"
#include "reference/codec.hpp"
#include "reference/conv.hpp"

namespace planish::reference {

namespace {

/// Mirrors x at the borders until it lies within [low, high].
double reflect(double x, double low, double high) {
    const double range = high - low;
    if (range <= 0) return low;
    if (x < low) {
        const double over = low - x, folds = std::floor(over / range), rest = over - folds * range;
        return std::fmod(folds, 2) == 0 ? low + rest : high - rest;
    }
    if (x > high) {
        const double over = x - high, folds = std::floor(over / range), rest = over - folds * range;
        return std::fmod(folds, 2) == 0 ? high - rest : low + rest;
    }
    return x;
}

/// One axis of a sampling point: pixels and their weights; -1 is a pixel outside, which is zero.
struct AxisSample {
    int64_t at[4];
    double weights[4];
    int count;
};

struct GridOptions {
    std::string mode, padding;
    bool align_corners;
};

AxisSample sample_axis(const GridOptions& o, double normalized, int64_t size) {
    const auto n = static_cast<double>(size);
    const double low = o.align_corners ? 0 : -0.5, high = o.align_corners ? n - 1 : n - 0.5;
    double x = o.align_corners ? (normalized + 1) / 2 * (n - 1) : ((normalized + 1) * n - 1) / 2;
    if (o.mode == "nearest") x = std::nearbyint(x);
    if (x < low || x > high) {
        if (o.padding == "border")
            x = std::clamp(x, 0.0, n - 1);
        else if (o.padding == "reflection")
            x = reflect(x, low, high);
    }
    const auto pixel = [&](double i) -> int64_t {
        if (o.padding == "border") return static_cast<int64_t>(std::clamp(i, 0.0, n - 1));
        if (o.padding == "reflection") return std::clamp<int64_t>(saturating_int64(reflect(i, low, high)), 0, size - 1);
        return i >= 0 && i < n ? static_cast<int64_t>(i) : -1;
    };
    if (!std::isfinite(x)) return {{-1}, {0}, 1};
    if (o.mode == "nearest") return {{pixel(std::trunc(x))}, {1}, 1};
    const double base = std::floor(x), t = x - base;
    if (o.mode == "linear") return {{pixel(base), pixel(base + 1)}, {1 - t, t}, 2};
    constexpr double a = -0.75;  // Keys' cubic convolution, https://ieeexplore.ieee.org/document/1163711
    const auto far = [](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
    const auto near = [](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    return {{pixel(base - 1), pixel(base), pixel(base + 1), pixel(base + 2)},
            {far(t + 1), near(t), near(1 - t), far(2 - t)},
            4};
}

}  // namespace

/// Inputs: x [N, C, spatial...], grid [N, out..., axes] of coordinates in [-1, 1], the last spatial axis first.
void grid_sample(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &grid = ctx.input(1);
    const size_t axes = x.dims().size() - 2;
    if (x.rank() < 3 || grid.rank() != x.rank() || grid.dim(-1) != static_cast<int64_t>(axes) ||
        grid.dim(0) != x.dim(0))
        ctx.error("a grid of shape " + to_string(grid.dims()) + " does not fit an input of shape " +
                  to_string(x.dims()));
    const GridOptions o{ctx.text("mode"), ctx.text("padding_mode"), ctx.integer("align_corners") != 0};
    const Dims in(x.dims().begin() + 2, x.dims().end());
    Dims out_dims{x.dim(0), x.dim(1)};
    out_dims.insert(out_dims.end(), grid.dims().begin() + 1, grid.dims().end() - 1);
    Tensor& out = ctx.output(0, x.dtype(), out_dims);
    if (out.size() == 0) return;
    const int64_t channels = x.dim(1), in_size = element_count(in), points = out.size() / (x.dim(0) * channels);
    const std::vector<double> values = read_all<double>(x), places = read_all<double>(grid);
    std::vector<double> y(static_cast<size_t>(out.size()), 0.0);
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(x.dim(0) * points, pool.size(), [&](int64_t task, int) {
        const int64_t n = task / points, point = task % points;
        std::vector<AxisSample> samples;
        int64_t combinations = 1;
        for (size_t d = 0; d < axes; ++d) {
            const auto at = static_cast<size_t>(task) * axes + (axes - 1 - d);
            samples.push_back(sample_axis(o, places[at], in[d]));
            combinations *= samples.back().count;
        }
        for (int64_t k = 0; k < combinations; ++k) {
            int64_t rest = k, offset = 0, step = 1;
            double weight = 1;
            bool inside = true;
            for (size_t d = axes; d-- > 0;) {
                const AxisSample& s = samples[d];
                const int64_t i = rest % s.count;
                rest /= s.count;
                inside = inside && s.at[i] >= 0;
                offset += s.at[i] * step;
                step *= in[d];
                weight *= s.weights[i];
            }
            if (!inside) continue;
            for (int64_t c = 0; c < channels; ++c)
                y[static_cast<size_t>((n * channels + c) * points + point)] +=
                    weight * values[static_cast<size_t>((n * channels + c) * in_size + offset)];
        }
    });
    write_all(y, out);
}

/// Inputs: theta [N, 2, 3] or [N, 3, 4], size (N, C, H, W) or (N, C, D, H, W). Output: [N, (D,) H, W, 2 or 3].
void affine_grid(RefContext& ctx) {
    const Tensor& theta = ctx.input(0);
    const Dims size = ctx.input(1).to_int64s();
    const auto axes = static_cast<int64_t>(size.size()) - 2;
    if ((axes != 2 && axes != 3) || theta.dims() != Dims{size[0], axes, axes + 1})
        ctx.error("theta of shape " + to_string(theta.dims()) + " does not fit size " + to_string(size));
    const bool align = ctx.integer("align_corners") != 0;
    const Dims spatial(size.begin() + 2, size.end());
    Dims out_dims{size[0]};
    out_dims.insert(out_dims.end(), spatial.begin(), spatial.end());
    out_dims.push_back(axes);
    Tensor& out = ctx.output(0, theta.dtype(), out_dims);
    const std::vector<double> t = read_all<double>(theta);
    std::vector<double> grid(static_cast<size_t>(out.size()));
    const int64_t points = element_count(spatial);
    Odometer position(spatial);
    for (int64_t p = 0; p < points; ++p, position.next()) {
        double point[4] = {0, 0, 0, 0};  // x, y, (z,) 1
        for (int64_t a = 0; a < axes; ++a) {
            const auto d = static_cast<size_t>(axes - 1 - a);
            const auto n = static_cast<double>(spatial[d]), i = static_cast<double>(position.at()[d]);
            point[a] = align ? (n == 1 ? -1 : -1 + 2 * i / (n - 1)) : (2 * i + 1) / n - 1;
        }
        point[axes] = 1;
        for (int64_t n = 0; n < size[0]; ++n)
            for (int64_t r = 0; r < axes; ++r) {
                double sum = 0;
                for (int64_t k = 0; k <= axes; ++k)
                    sum += t[static_cast<size_t>((n * axes + r) * (axes + 1) + k)] * point[k];
                grid[static_cast<size_t>((n * points + p) * axes + r)] = sum;
            }
    }
    write_all(grid, out);
}

/// Inputs: x [N, C, H, W], rois [R, 4] as x1, y1, x2, y2, batch_indices [R].
void roi_align(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &rois = ctx.input(1);
    const std::vector<int64_t> samples = ctx.input(2).to_int64s();
    const int64_t count = ctx.input(2).size();
    if (x.rank() != 4 || rois.dims() != Dims{count, 4})
        ctx.error("regions of shape " + to_string(rois.dims()) + " do not fit an input of shape " +
                  to_string(x.dims()) + " and " + std::to_string(count) + " batch indices");
    const int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3);
    const int64_t out_h = ctx.integer("output_height"), out_w = ctx.integer("output_width");
    const int64_t ratio = ctx.integer("sampling_ratio");
    const double scale = ctx.real("spatial_scale");
    const bool half_pixel = ctx.text("coordinate_transformation_mode") == "half_pixel",
               average = ctx.text("mode") == "avg";
    const std::vector<double> in = read_all<double>(x), boxes = read_all<double>(rois);
    Tensor& out = ctx.output(0, x.dtype(), {count, channels, out_h, out_w});
    std::vector<double> y(static_cast<size_t>(out.size()));
    for (int64_t r = 0; r < count; ++r) {
        const int64_t sample = samples[static_cast<size_t>(r)];
        if (sample < 0 || sample >= x.dim(0)) ctx.error("batch index " + std::to_string(sample) + " is out of range");
        const double* box = boxes.data() + r * 4;
        const double shift = half_pixel ? 0.5 : 0, left = box[0] * scale - shift, top = box[1] * scale - shift;
        double w = box[2] * scale - shift - left, h = box[3] * scale - shift - top;
        if (!half_pixel) {  // a region is at least one pixel
            w = std::fmax(w, 1);
            h = std::fmax(h, 1);
        }
        const double bin_h = h / static_cast<double>(out_h), bin_w = w / static_cast<double>(out_w);
        const int64_t grid_h = ratio > 0 ? ratio : saturating_int64(std::ceil(bin_h));
        const int64_t grid_w = ratio > 0 ? ratio : saturating_int64(std::ceil(bin_w));
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t p = 0; p < out_h * out_w; ++p) {
                const double* plane = in.data() + (sample * channels + c) * height * width;
                double sum = 0, best = 0;
                for (int64_t g = 0; g < grid_h * grid_w; ++g) {
                    const double gy = (static_cast<double>(g / grid_w) + 0.5) / static_cast<double>(grid_h);
                    const double gx = (static_cast<double>(g % grid_w) + 0.5) / static_cast<double>(grid_w);
                    double py = top + (static_cast<double>(p / out_w) + gy) * bin_h;
                    double px = left + (static_cast<double>(p % out_w) + gx) * bin_w;
                    double taps[4] = {0, 0, 0, 0};
                    if (py >= -1 && py <= static_cast<double>(height) && px >= -1 && px <= static_cast<double>(width)) {
                        py = std::clamp(py, 0.0, static_cast<double>(height - 1));
                        px = std::clamp(px, 0.0, static_cast<double>(width - 1));
                        const auto y0 = static_cast<int64_t>(py), x0 = static_cast<int64_t>(px);
                        const int64_t y1 = std::min(y0 + 1, height - 1), x1 = std::min(x0 + 1, width - 1);
                        const double ty = py - static_cast<double>(y0), tx = px - static_cast<double>(x0);
                        taps[0] = (1 - ty) * (1 - tx) * plane[y0 * width + x0];
                        taps[1] = (1 - ty) * tx * plane[y0 * width + x1];
                        taps[2] = ty * (1 - tx) * plane[y1 * width + x0];
                        taps[3] = ty * tx * plane[y1 * width + x1];
                    }
                    sum += taps[0] + taps[1] + taps[2] + taps[3];
                    const double largest = std::max({taps[0], taps[1], taps[2], taps[3]});
                    best = g == 0 ? largest : std::fmax(best, largest);
                }
                y[static_cast<size_t>((r * channels + c) * out_h * out_w + p)] =
                    average ? sum / static_cast<double>(std::max<int64_t>(grid_h * grid_w, 1)) : best;
            }
    }
    write_all(y, out);
}

/// Inputs: x [N, C, H, W], rois [R, 5] as batch index, x1, y1, x2, y2; corners are rounded to pixels and inclusive
/// (https://arxiv.org/abs/1504.08083).
void max_roi_pool(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &rois = ctx.input(1);
    const std::vector<int64_t>& shape = ctx.integers("pooled_shape");
    if (x.rank() != 4 || rois.rank() != 2 || rois.dim(1) != 5 || shape.size() != 2)
        ctx.error("regions of shape " + to_string(rois.dims()) + " do not fit an input of shape " +
                  to_string(x.dims()));
    const int64_t count = rois.dim(0), channels = x.dim(1), height = x.dim(2), width = x.dim(3);
    const double scale = ctx.real("spatial_scale");
    const std::vector<double> in = read_all<double>(x), boxes = read_all<double>(rois);
    Tensor& out = ctx.output(0, x.dtype(), {count, channels, shape[0], shape[1]});
    std::vector<double> y(static_cast<size_t>(out.size()));
    size_t to = 0;
    for (int64_t r = 0; r < count; ++r) {
        const double* box = boxes.data() + r * 5;
        const auto sample = static_cast<int64_t>(box[0]);
        if (sample < 0 || sample >= x.dim(0)) ctx.error("batch index " + std::to_string(sample) + " is out of range");
        // Beyond any image, yet sums of a few stay far from overflow.
        const auto corner = [&](int i) {
            return saturating_int64(std::clamp(std::round(box[i] * scale), -1e15, 1e15));
        };
        const int64_t left = corner(1), top = corner(2);
        const double bin_w =
            static_cast<double>(std::max<int64_t>(corner(3) - left + 1, 1)) / static_cast<double>(shape[1]);
        const double bin_h =
            static_cast<double>(std::max<int64_t>(corner(4) - top + 1, 1)) / static_cast<double>(shape[0]);
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t i = 0; i < shape[0]; ++i)
                for (int64_t j = 0; j < shape[1]; ++j) {
                    const auto bound = [](int64_t start, double at, int64_t limit) {
                        return std::clamp<int64_t>(start + static_cast<int64_t>(at), 0, limit);
                    };
                    const auto di = static_cast<double>(i), dj = static_cast<double>(j);
                    const int64_t y0 = bound(top, std::floor(di * bin_h), height);
                    const int64_t y1 = bound(top, std::ceil((di + 1) * bin_h), height);
                    const int64_t x0 = bound(left, std::floor(dj * bin_w), width);
                    const int64_t x1 = bound(left, std::ceil((dj + 1) * bin_w), width);
                    double best = y1 > y0 && x1 > x0 ? -HUGE_VAL : 0;  // an empty bin gives 0
                    for (int64_t py = y0; py < y1; ++py)
                        for (int64_t px = x0; px < x1; ++px)
                            best = std::fmax(
                                best, in[static_cast<size_t>(((sample * channels + c) * height + py) * width + px)]);
                    y[to++] = best;
                }
    }
    write_all(y, out);
}

/// Convolution that reads its taps at learned offsets, bilinearly, zero outside (https://arxiv.org/abs/1811.11168).
/// Inputs: x, w, offset [N, offset_group * taps * 2, out_h, out_w], bias, mask [N, offset_group * taps, out_h, out_w].
void deform_conv(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &w = ctx.input(1), &offset = ctx.input(2);
    if (x.rank() != 4 || w.rank() != 4) ctx.error("deforms two spatial axes, but its input is " + to_string(x.dims()));
    const ConvSizes s = conv_sizes(ctx, x.dims(), w.dims());
    const int64_t fields = ctx.integer("offset_group"), taps = s.kernel_size(), points = s.out_size();
    if (fields < 1 || s.channels % fields != 0 || offset.dims() != Dims{s.batch, fields * taps * 2, s.out[0], s.out[1]})
        ctx.error("offsets of shape " + to_string(offset.dims()) + " do not fit an output of " + to_string(s.out) +
                  " and " + std::to_string(taps) + " taps");
    const std::vector<double> in = read_all<double>(x), weights = read_all<double>(w);
    const std::vector<double> offsets = read_all<double>(offset);
    if (s.in.size() != 2 || (ctx.has_input(3) && ctx.input(3).size() != s.out_channels) ||
        (ctx.has_input(4) && ctx.input(4).size() != s.batch * fields * taps * points))
        ctx.error("its bias or mask does not fit an output of " + to_string(s.out_dims()));
    std::vector<double> masks, bias(static_cast<size_t>(s.out_channels), 0.0);
    if (ctx.has_input(3)) bias = read_all<double>(ctx.input(3));
    if (ctx.has_input(4)) masks = read_all<double>(ctx.input(4));
    const int64_t height = s.in[0], width = s.in[1], in_group = s.channels / s.groups;
    const int64_t out_group = s.out_channels / s.groups, field_channels = s.channels / fields;
    std::vector<double> y(static_cast<size_t>(s.batch * s.out_channels * points), 0.0);
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(s.batch * points, pool.size(), [&](int64_t task, int) {
        const int64_t n = task / points, p = task % points;
        std::vector<double> sampled(static_cast<size_t>(s.channels * taps));
        for (int64_t c = 0; c < s.channels; ++c)
            for (int64_t k = 0; k < taps; ++k) {
                const int64_t field = (n * fields + c / field_channels) * taps + k;
                const auto delta = [&](int64_t axis) {
                    return offsets[static_cast<size_t>((field * 2 + axis) * points + p)];
                };
                const auto start = [&](size_t axis, int64_t at, int64_t tap) {
                    return static_cast<double>(at * s.window.strides[axis] - s.window.pads_begin[axis] +
                                               tap * s.window.dilations[axis]);
                };
                const double py = start(0, p / s.out[1], k / s.window.kernel[1]) + delta(0);
                const double px = start(1, p % s.out[1], k % s.window.kernel[1]) + delta(1);
                const double* plane = in.data() + (n * s.channels + c) * height * width;
                const double y0 = std::floor(py), x0 = std::floor(px), ty = py - y0, tx = px - x0;
                const auto pixel = [&](double i, double j) {
                    if (!(i >= 0 && i < static_cast<double>(height) && j >= 0 && j < static_cast<double>(width)))
                        return 0.0;
                    return plane[static_cast<int64_t>(i) * width + static_cast<int64_t>(j)];
                };
                double v = (1 - ty) * ((1 - tx) * pixel(y0, x0) + tx * pixel(y0, x0 + 1)) +
                           ty * ((1 - tx) * pixel(y0 + 1, x0) + tx * pixel(y0 + 1, x0 + 1));
                if (!masks.empty()) v *= masks[static_cast<size_t>(field * points + p)];
                sampled[static_cast<size_t>(c * taps + k)] = v;
            }
        for (int64_t o = 0; o < s.out_channels; ++o) {
            double sum = bias[static_cast<size_t>(o)];
            const int64_t first = o / out_group * in_group * taps;
            for (int64_t i = 0; i < in_group * taps; ++i)
                sum += weights[static_cast<size_t>(o * in_group * taps + i)] * sampled[static_cast<size_t>(first + i)];
            y[static_cast<size_t>((n * s.out_channels + o) * points + p)] = sum;
        }
    });
    write_all(y, ctx.output(0, x.dtype(), s.out_dims()));
}

/// Adds up sliding blocks into an image. Inputs: x [N, C * block, blocks], image_shape, block_shape.
void col2im(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const Dims image = ctx.input(1).to_int64s(), block = ctx.input(2).to_int64s();
    infer::Window w = infer::window_of(ctx.node(), image.size(), block);
    const Dims positions = w.output_dims(image);
    const int64_t taps = element_count(block), count = element_count(positions), size = element_count(image);
    if (x.rank() != 3 || block.size() != image.size() || x.dim(1) % taps != 0 || x.dim(2) != count)
        ctx.error("blocks of shape " + to_string(x.dims()) + " do not tile an image of " + to_string(image) +
                  " by blocks of " + to_string(block));
    const int64_t planes = x.dim(0) * (x.dim(1) / taps);
    const std::vector<double> in = read_all<double>(x);
    Dims out_dims{x.dim(0), x.dim(1) / taps};
    out_dims.insert(out_dims.end(), image.begin(), image.end());
    std::vector<double> y(static_cast<size_t>(planes * size), 0.0);
    Odometer tap(block);
    for (int64_t k = 0; k < taps; ++k, tap.next()) {
        Odometer position(positions);
        for (int64_t p = 0; p < count; ++p, position.next()) {
            int64_t to = 0;
            bool inside = true;
            for (size_t d = 0; d < image.size(); ++d) {
                const int64_t at = position.at()[d] * w.strides[d] - w.pads_begin[d] + tap.at()[d] * w.dilations[d];
                inside = inside && at >= 0 && at < image[d];
                to = to * image[d] + at;
            }
            if (!inside) continue;
            for (int64_t plane = 0; plane < planes; ++plane)
                y[static_cast<size_t>(plane * size + to)] += in[static_cast<size_t>((plane * taps + k) * count + p)];
        }
    }
    write_all(y, ctx.output(0, x.dtype(), out_dims));
}

}  // namespace planish::reference
