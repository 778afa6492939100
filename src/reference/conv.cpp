// Convolutions: Conv, ConvTranspose, ConvInteger, QLinearConv, over any number of spatial axes.
#include "reference/conv.hpp"

#include <algorithm>

#include "base/thread_pool.hpp"
#include "reference/blocked_gemm.hpp"
#include "reference/codec.hpp"
#include "reference/quantize.hpp"

namespace planish::reference {

Odometer::Odometer(const Dims& dims, int64_t start) : dims_(dims), at_(dims.size(), 0) {
    for (size_t d = dims.size(); d-- > 0 && start > 0; start /= dims[d]) at_[d] = start % dims[d];
}

void Odometer::next() {
    for (size_t d = dims_.size(); d-- > 0;) {
        if (++at_[d] < dims_[d]) return;
        at_[d] = 0;
    }
}

Dims ConvSizes::out_dims() const {
    Dims dims{batch, out_channels};
    dims.insert(dims.end(), out.begin(), out.end());
    return dims;
}

ConvSizes conv_sizes(RefContext& ctx, const Dims& x, const Dims& w) {
    if (x.size() < 3 || w.size() != x.size())
        ctx.error("an input of shape " + to_string(x) + " cannot be convolved with weights of shape " + to_string(w));
    const Dims kernel(w.begin() + 2, w.end());
    ConvSizes s{infer::window_of(ctx.node(), kernel.size(), kernel),
                x[0],
                x[1],
                w[0],
                ctx.integer("group"),
                Dims(x.begin() + 2, x.end()),
                {}};
    if (s.groups < 1 || s.channels != w[1] * s.groups || s.out_channels % s.groups != 0)
        ctx.error("weights of shape " + to_string(w) + " in " + std::to_string(s.groups) +
                  " groups do not fit an input of shape " + to_string(x));
    s.window.resolve_pads(s.in);
    s.out = s.window.output_dims(s.in);
    return s;
}

namespace {

/// The inputs that meet one kernel position, for output positions [first, first + count) in row-major order: zero where
/// the window hangs over the edge. `plane` is one channel of the input, `tap` the position within the kernel.
void read_tap(const ConvSizes& s, const double* plane, const Dims& tap, int64_t first, int64_t count, double* out) {
    const size_t last = s.in.size() - 1;
    const int64_t stride = s.window.strides[last], width = s.in[last];
    const int64_t shift = tap[last] * s.window.dilations[last] - s.window.pads_begin[last];
    Odometer position(s.out, first);
    Dims at = position.at();
    while (count > 0) {
        const int64_t begin = at[last], run = std::min(count, s.out[last] - begin);
        int64_t base = 0;
        bool inside = true;
        for (size_t d = 0; d < last; ++d) {
            const int64_t i = at[d] * s.window.strides[d] + tap[d] * s.window.dilations[d] - s.window.pads_begin[d];
            inside = inside && i >= 0 && i < s.in[d];
            base = (base + i) * s.in[d + 1];
        }
        if (!inside) {
            std::fill_n(out, run, 0.0);
        } else {
            // Columns [from, to) of the run lie inside the row.
            const int64_t x0 = begin * stride + shift;
            const int64_t from = std::clamp<int64_t>(x0 >= 0 ? 0 : (-x0 + stride - 1) / stride, 0, run);
            const int64_t to = std::clamp<int64_t>(x0 >= width ? 0 : (width - 1 - x0) / stride + 1, from, run);
            const double* row = plane + base + x0;
            std::fill_n(out, from, 0.0);
            if (stride == 1)
                std::copy(row + from, row + to, out + from);
            else
                for (int64_t i = from; i < to; ++i) out[i] = row[i * stride];
            std::fill(out + to, out + run, 0.0);
        }
        out += run;
        count -= run;
        at[last] = 0;
        for (size_t d = last; d-- > 0;) {
            if (++at[d] < s.out[d]) break;
            at[d] = 0;
        }
    }
}

std::vector<Dims> kernel_taps(const ConvSizes& s) {
    std::vector<Dims> taps;
    Odometer tap(s.window.kernel);
    for (int64_t i = 0; i < s.kernel_size(); ++i, tap.next()) taps.push_back(tap.at());
    return taps;
}

/// Few output channels a group (depthwise): each output plane is a sum of shifted input planes.
void convolve_planes(const ConvSizes& s, const std::vector<double>& x, const std::vector<double>& w,
                     std::vector<double>& y) {
    const auto taps = kernel_taps(s);
    const auto kernel = static_cast<int64_t>(taps.size());
    const int64_t in_group = s.channels / s.groups, out_group = s.out_channels / s.groups;
    const int64_t in_size = s.in_size(), out_size = s.out_size();
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(s.batch * s.out_channels, pool.size(), [&](int64_t plane, int) {
        constexpr int64_t kTile = 1024;
        double line[kTile];
        const int64_t n = plane / s.out_channels, o = plane % s.out_channels, group = o / out_group;
        double* to = y.data() + plane * out_size;
        for (int64_t first = 0; first < out_size; first += kTile) {
            const int64_t count = std::min(kTile, out_size - first);
            for (int64_t c = 0; c < in_group; ++c) {
                const double* from = x.data() + (n * s.channels + group * in_group + c) * in_size;
                for (int64_t k = 0; k < kernel; ++k) {
                    const double weight = w[static_cast<size_t>((o * in_group + c) * kernel + k)];
                    read_tap(s, from, taps[static_cast<size_t>(k)], first, count, line);
                    for (int64_t i = 0; i < count; ++i) to[first + i] += weight * line[i];
                }
            }
        }
    });
}

}  // namespace

std::vector<double> convolve(const ConvSizes& s, const std::vector<double>& x, const std::vector<double>& w) {
    std::vector<double> y(static_cast<size_t>(s.batch * s.out_channels * s.out_size()), 0.0);
    const int64_t in_group = s.channels / s.groups, out_group = s.out_channels / s.groups;
    if (y.empty() || x.empty()) return y;
    if (out_group < 4) {
        convolve_planes(s, x, w, y);
        return y;
    }
    // The product of the weights, [out_group, in_group * kernel], and the matrix of window contents, [in_group *
    // kernel, out_size], whose lines are read from the image as they are needed.
    const auto taps = kernel_taps(s);
    const auto kernel = static_cast<int64_t>(taps.size());
    const int64_t depth = in_group * kernel, in_size = s.in_size(), out_size = s.out_size();
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t g = 0; g < s.groups; ++g) {
            const double* image = x.data() + (n * s.channels + g * in_group) * in_size;
            const double* weights = w.data() + g * out_group * depth;
            blocked_gemm(
                out_group, out_size, depth,
                [&](int64_t line, int64_t first, int64_t count, double* out) {
                    std::copy_n(weights + line * depth + first, count, out);
                },
                [&](int64_t line, int64_t first, int64_t count, double* out) {
                    read_tap(s, image + line / kernel * in_size, taps[static_cast<size_t>(line % kernel)], first, count,
                             out);
                },
                y.data() + (n * s.out_channels + g * out_group) * out_size);
        }
    return y;
}

namespace {

/// y[n, c, ...] += bias[c]
void add_bias(std::vector<double>& y, int64_t batch, const std::vector<double>& bias) {
    if (y.empty()) return;
    const size_t plane = y.size() / (static_cast<size_t>(batch) * bias.size());
    if (plane == 0) return;
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(static_cast<int64_t>(y.size() / plane), pool.size(), [&](int64_t p, int) {
        const auto index = static_cast<size_t>(p);
        const double b = bias[index % bias.size()];
        double* values = y.data() + index * plane;
        for (size_t i = 0; i < plane; ++i) values[i] += b;
    });
}

std::vector<double> bias_of(RefContext& ctx, int i, int64_t channels) {
    std::vector<double> bias = read_all<double>(ctx.input(i));
    if (static_cast<int64_t>(bias.size()) != channels)
        ctx.error("the bias has " + std::to_string(bias.size()) + " values for " + std::to_string(channels) +
                  " output channels");
    return bias;
}

/// Operand `x` minus its zero point: a scalar, or one value per first axis for weights.
std::vector<double> centered(RefContext& ctx, int x, int zero) {
    std::vector<double> values = read_all<double>(ctx.input(x));
    if (!ctx.has_input(zero) || values.empty()) return values;
    const std::vector<double> zeros = read_all<double>(ctx.input(zero));
    const int64_t lines = zeros.size() == 1 ? 1 : ctx.input(x).dim(0);
    if (static_cast<int64_t>(zeros.size()) != lines)
        ctx.error("has " + std::to_string(zeros.size()) + " zero points for " + std::to_string(lines) + " channels");
    const size_t run = values.size() / zeros.size();
    for (size_t i = 0; i < values.size(); ++i) values[i] -= zeros[i / run];
    return values;
}

}  // namespace

void conv(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &w = ctx.input(1);
    const ConvSizes s = conv_sizes(ctx, x.dims(), w.dims());
    std::vector<double> y = convolve(s, read_all<double>(x), read_all<double>(w));
    if (ctx.has_input(2)) add_bias(y, s.batch, bias_of(ctx, 2, s.out_channels));
    write_all(y, ctx.output(0, x.dtype(), s.out_dims()));
}

void conv_integer(RefContext& ctx) {
    const ConvSizes s = conv_sizes(ctx, ctx.input(0).dims(), ctx.input(1).dims());
    const auto y = convolve(s, centered(ctx, 0, 2), centered(ctx, 1, 3));
    write_all(y, ctx.output(0, DType::i32, s.out_dims()));
}

/// Inputs: x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias (int32, at x_scale *
/// w_scale).
void qlinear_conv(RefContext& ctx) {
    const ConvSizes s = conv_sizes(ctx, ctx.input(0).dims(), ctx.input(3).dims());
    std::vector<double> y = convolve(s, centered(ctx, 0, 2), centered(ctx, 3, 5));
    if (ctx.has_input(8)) add_bias(y, s.batch, bias_of(ctx, 8, s.out_channels));
    const double x_scale = ctx.input(1).at_double(0), y_scale = ctx.input(6).at_double(0);
    const double y_zero = ctx.input(7).at_double(0);
    const std::vector<double> w_scale = read_all<double>(ctx.input(4));
    Tensor& out = ctx.output(0, ctx.input(7).dtype(), s.out_dims());
    const IntegerRange range(out.dtype());
    for (size_t i = 0; i < y.size(); ++i) {
        const auto channel = static_cast<int64_t>(i) / s.out_size() % s.out_channels;
        const double scale = x_scale * w_scale[w_scale.size() == 1 ? 0 : static_cast<size_t>(channel)] / y_scale;
        y[i] = range.quantize(y[i] * scale, y_zero);
    }
    write_all(y, out);
}

/// The adjoint of Conv: input position i adds w[k] * x[i] to output position i * stride + k * dilation - pad.
/// Weights are [channels, out_channels / groups, kernel...].
void conv_transpose(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &w = ctx.input(1);
    if (x.rank() < 3 || w.rank() != x.rank() || w.dim(0) != x.dim(1))
        ctx.error("an input of shape " + to_string(x.dims()) + " cannot meet weights of shape " + to_string(w.dims()));
    const Dims kernel(w.dims().begin() + 2, w.dims().end()), in(x.dims().begin() + 2, x.dims().end());
    const int64_t batch = x.dim(0), channels = x.dim(1), groups = ctx.integer("group");
    if (groups < 1 || channels % groups != 0)
        ctx.error(std::to_string(channels) + " channels cannot be split into " + std::to_string(groups) + " groups");
    auto sizes = infer::transposed_window_of(ctx.node(), kernel.size(), kernel);
    const Dims out = infer::resolve_transposed(sizes, ctx.node(), in);
    const infer::Window& window = sizes.window;
    const int64_t in_group = channels / groups, out_group = w.dim(1), out_channels = out_group * groups;
    Dims y_dims{batch, out_channels};
    y_dims.insert(y_dims.end(), out.begin(), out.end());
    Tensor& result = ctx.output(0, x.dtype(), y_dims);
    const int64_t in_size = element_count(in), out_size = element_count(out), kernel_size = element_count(kernel);
    std::vector<double> y(static_cast<size_t>(result.size()), 0.0);

    ThreadPool& pool = ThreadPool::process();
    std::vector<double> columns(static_cast<size_t>(out_group * kernel_size * in_size));
    for (int64_t n = 0; n < batch; ++n)
        for (int64_t g = 0; g < groups; ++g) {
            std::fill(columns.begin(), columns.end(), 0.0);
            const int64_t rows = out_group * kernel_size, first_channel = g * in_group;
            blocked_gemm(
                rows, in_size, in_group,
                [&](int64_t line, int64_t first, int64_t count, double* to) {
                    read(w, (first_channel + first) * rows + line, rows, count, to);
                },
                [&](int64_t line, int64_t first, int64_t count, double* to) {
                    read(x, (n * channels + first_channel + line) * in_size + first, 1, count, to);
                },
                columns.data());
            pool.parallel_for(out_group, pool.size(), [&](int64_t o, int) {
                double* plane = y.data() + (n * out_channels + g * out_group + o) * out_size;
                Odometer tap(kernel);
                for (int64_t k = 0; k < kernel_size; ++k, tap.next()) {
                    const double* from = columns.data() + (o * kernel_size + k) * in_size;
                    Odometer position(in);
                    for (int64_t i = 0; i < in_size; ++i, position.next()) {
                        int64_t to = 0;
                        bool inside = true;
                        for (size_t d = 0; d < in.size(); ++d) {
                            const int64_t at = position.at()[d] * window.strides[d] +
                                               tap.at()[d] * window.dilations[d] - window.pads_begin[d];
                            inside = inside && at >= 0 && at < out[d];
                            to = to * out[d] + at;
                        }
                        if (inside) plane[to] += from[i];
                    }
                }
            });
        }
    if (ctx.has_input(2)) add_bias(y, batch, bias_of(ctx, 2, out_channels));
    write_all(y, result);
}

}  // namespace planish::reference
