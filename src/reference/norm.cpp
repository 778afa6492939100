// Normalisations: batch, instance, group, layer, RMS, local response, mean-variance, Lp.
#include <algorithm>
#include <cmath>

#include "base/thread_pool.hpp"
#include "reference/elementwise.hpp"

namespace planish::reference {

namespace {

struct Moments {
    double mean, variance;  // the variance of the whole population: divided by n
};

Moments moments(const double* x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += x[i];
    const double mean = sum / static_cast<double>(count);
    double squares = 0;
    for (int64_t i = 0; i < count; ++i) squares += (x[i] - mean) * (x[i] - mean);
    return {mean, squares / static_cast<double>(count)};
}

/// Calls fn(row) for each of `rows`, spread over threads.
template <typename Fn>
void for_rows(int64_t rows, int64_t row_size, Fn fn) {
    ThreadPool& pool = ThreadPool::process();
    const int64_t tasks = std::clamp<int64_t>(rows * row_size / 16384, 1, std::max<int64_t>(rows, 1));
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        for (int64_t row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row) fn(row);
    });
}

/// The elements of input `i` broadcast to `dims`.
std::vector<double> broadcast_to(RefContext& ctx, int i, const Dims& dims) {
    const Tensor& t = ctx.input(i);
    if (broadcast(dims, t.dims()) != dims)
        ctx.error("input " + std::to_string(i) + " of shape " + to_string(t.dims()) + " does not broadcast to " +
                  to_string(dims));
    std::vector<double> values(static_cast<size_t>(element_count(dims)));
    const BroadcastWalk walk(dims, {t.dims()});
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        read(t, from[0], walk.stride(0), count, values.data() + first);
    });
    return values;
}

/// One value for each of `count` channels.
std::vector<double> per_channel(RefContext& ctx, int i, int64_t count) {
    if (ctx.input(i).size() != count)
        ctx.error("input " + std::to_string(i) + " of shape " + to_string(ctx.input(i).dims()) + " must have " +
                  std::to_string(count) + " values, one a channel");
    return read_all<double>(ctx.input(i));
}

void require_channels(RefContext& ctx, const Tensor& x) {
    if (x.rank() < 2) ctx.error("needs a channel axis, but its input has shape " + to_string(x.dims()));
}

}  // namespace

/// y = scale * (x - mean) / sqrt(var + epsilon) + bias; in training the moments are the batch's own, and outputs 1 and
/// 2 are the running moments, momentum * old + (1 - momentum) * batch.
void batch_normalization(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const double epsilon = ctx.real("epsilon"), momentum = ctx.real("momentum");
    const int64_t batch = x.rank() > 0 ? x.dim(0) : 1, channels = x.rank() > 1 ? x.dim(1) : 1;
    const int64_t plane = x.size() == 0 ? 0 : x.size() / (batch * channels);
    const auto scale = per_channel(ctx, 1, channels), bias = per_channel(ctx, 2, channels);
    auto mean = per_channel(ctx, 3, channels), variance = per_channel(ctx, 4, channels);
    std::vector<double> values = read_all<double>(x);
    if (ctx.integer("training_mode")) {
        std::vector<double> line(static_cast<size_t>(batch * plane));
        auto running_mean = mean, running_variance = variance;
        for (int64_t c = 0; c < channels; ++c) {
            for (int64_t n = 0; n < batch; ++n)
                std::copy_n(values.data() + (n * channels + c) * plane, plane, line.data() + n * plane);
            const Moments m = moments(line.data(), batch * plane);
            const auto at = static_cast<size_t>(c);
            running_mean[at] = momentum * mean[at] + (1 - momentum) * m.mean;
            running_variance[at] = momentum * variance[at] + (1 - momentum) * m.variance;
            mean[at] = m.mean;
            variance[at] = m.variance;
        }
        if (ctx.wants_output(1)) write_all(running_mean, ctx.output(1, ctx.input(3).dtype(), {channels}));
        if (ctx.wants_output(2)) write_all(running_variance, ctx.output(2, ctx.input(4).dtype(), {channels}));
    }
    for_rows(batch * channels, plane, [&](int64_t row) {
        const auto c = static_cast<size_t>(row % channels);
        const double factor = scale[c] / std::sqrt(variance[c] + epsilon);
        double* at = values.data() + row * plane;
        for (int64_t i = 0; i < plane; ++i) at[i] = (at[i] - mean[c]) * factor + bias[c];
    });
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
}

/// Outputs: y, and in `stash_type` the mean and the inverse standard deviation.
void layer_normalization(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const int64_t axis = ctx.axis("axis", x.rank());
    const double epsilon = ctx.real("epsilon");
    const Dims normalized(x.dims().begin() + axis, x.dims().end());
    const int64_t size = element_count(normalized), rows = size == 0 ? 0 : x.size() / size;
    std::vector<double> values = read_all<double>(x);
    // Scale and bias usually have the normalised axes only, but may broadcast against all of x.
    const Dims& full =
        ctx.input(1).rank() > x.rank() - axis || (ctx.has_input(2) && ctx.input(2).rank() > x.rank() - axis)
            ? x.dims()
            : normalized;
    const int64_t period = element_count(full);
    const auto scale = broadcast_to(ctx, 1, full);
    const auto bias = ctx.has_input(2) ? broadcast_to(ctx, 2, full) : std::vector<double>(scale.size(), 0.0);
    std::vector<double> means(static_cast<size_t>(rows)), inverses(static_cast<size_t>(rows));
    for_rows(rows, size, [&](int64_t row) {
        double* at = values.data() + row * size;
        const Moments m = moments(at, size);
        const double inverse = 1 / std::sqrt(m.variance + epsilon);
        const int64_t shift = row * size % period;
        for (int64_t i = 0; i < size; ++i) {
            const auto k = static_cast<size_t>(shift + i);
            at[i] = (at[i] - m.mean) * inverse * scale[k] + bias[k];
        }
        means[static_cast<size_t>(row)] = m.mean;
        inverses[static_cast<size_t>(row)] = inverse;
    });
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
    Dims kept(x.dims().begin(), x.dims().begin() + axis);
    kept.resize(x.dims().size(), 1);
    const auto stash = static_cast<DType>(ctx.integer("stash_type"));
    if (ctx.wants_output(1)) write_all(means, ctx.output(1, stash, kept));
    if (ctx.wants_output(2)) write_all(inverses, ctx.output(2, stash, kept));
}

/// y = scale * x / sqrt(mean(x^2) + epsilon) over the axes from `axis` on (https://arxiv.org/abs/1910.07467).
void rms_normalization(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const int64_t axis = ctx.axis("axis", x.rank());
    const double epsilon = ctx.real("epsilon");
    const int64_t size = element_count(Dims(x.dims().begin() + axis, x.dims().end()));
    std::vector<double> values = read_all<double>(x);
    const auto scale = broadcast_to(ctx, 1, x.dims());
    for_rows(size == 0 ? 0 : x.size() / size, size, [&](int64_t row) {
        double* at = values.data() + row * size;
        double squares = 0;
        for (int64_t i = 0; i < size; ++i) squares += at[i] * at[i];
        const double root = std::sqrt(squares / static_cast<double>(size) + epsilon);
        for (int64_t i = 0; i < size; ++i) at[i] = at[i] / root * scale[static_cast<size_t>(row * size + i)];
    });
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
}

namespace {

/// Groups of consecutive channels are normalised together, then each channel is scaled and shifted.
void normalize_groups(RefContext& ctx, int64_t groups) {
    const Tensor& x = ctx.input(0);
    require_channels(ctx, x);
    const int64_t batch = x.dim(0), channels = x.dim(1);
    if (groups < 1 || channels % groups != 0)
        ctx.error(std::to_string(channels) + " channels cannot be split into " + std::to_string(groups) + " groups");
    const double epsilon = ctx.real("epsilon");
    const auto scale = per_channel(ctx, 1, channels), bias = per_channel(ctx, 2, channels);
    std::vector<double> values = read_all<double>(x);
    const int64_t size = x.size() == 0 ? 0 : x.size() / (batch * groups), plane = size / (channels / groups);
    for_rows(x.size() == 0 ? 0 : batch * groups, size, [&](int64_t row) {
        double* at = values.data() + row * size;
        const Moments m = moments(at, size);
        const double inverse = 1 / std::sqrt(m.variance + epsilon);
        for (int64_t i = 0; i < size; ++i) {
            const auto c = static_cast<size_t>(row % groups * (channels / groups) + i / plane);
            at[i] = (at[i] - m.mean) * inverse * scale[c] + bias[c];
        }
    });
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
}

}  // namespace

void instance_normalization(RefContext& ctx) {
    require_channels(ctx, ctx.input(0));
    normalize_groups(ctx, ctx.input(0).dim(1));
}
void group_normalization(RefContext& ctx) {
    normalize_groups(ctx, ctx.integer("num_groups"));
}

/// y[c] = x[c] / (bias + alpha / size * sum of x^2 over `size` channels around c)^beta
void lrn(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    require_channels(ctx, x);
    const double alpha = ctx.real("alpha"), beta = ctx.real("beta"), bias = ctx.real("bias");
    const int64_t size = ctx.integer("size"), channels = x.dim(1);
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> out(in.size());
    const int64_t plane = x.size() == 0 ? 1 : x.size() / (x.dim(0) * channels);
    for_rows(x.size() / plane, plane, [&](int64_t row) {
        const int64_t c = row % channels;
        const int64_t from = std::max<int64_t>(c - (size - 1) / 2, 0), to = std::min(c + size / 2, channels - 1);
        for (int64_t i = 0; i < plane; ++i) {
            double squares = 0;
            for (int64_t k = from; k <= to; ++k) {
                const double v = in[static_cast<size_t>((row - c + k) * plane + i)];
                squares += v * v;
            }
            const auto at = static_cast<size_t>(row * plane + i);
            out[at] = in[at] / std::pow(bias + alpha / static_cast<double>(size) * squares, beta);
        }
    });
    write_all(out, ctx.output(0, x.dtype(), x.dims()));
}

namespace {

/// Applies fn to each set of elements that differ along `axes` only; the function gets a copy to change.
template <typename Fn>
void over_axes(RefContext& ctx, const std::vector<int64_t>& axes, Fn fn) {
    const Tensor& x = ctx.input(0);
    std::vector<bool> chosen(x.dims().size(), false);
    for (int64_t a : axes) {
        if (a < -x.rank() || a >= x.rank())
            ctx.error("axis " + std::to_string(a) + " is out of range for rank " + std::to_string(x.rank()));
        chosen[static_cast<size_t>(a < 0 ? a + x.rank() : a)] = true;
    }
    std::vector<int64_t> kept{0}, along{0};
    int64_t step = x.size();
    for (size_t d = 0; d < chosen.size(); ++d) {
        if (x.size() == 0) break;
        step /= x.dims()[d];
        std::vector<int64_t>& grown = chosen[d] ? along : kept;
        std::vector<int64_t> next;
        for (int64_t base : grown)
            for (int64_t i = 0; i < x.dims()[d]; ++i) next.push_back(base + i * step);
        grown = std::move(next);
    }
    std::vector<double> values = read_all<double>(x), set(along.size());
    if (x.size() > 0)
        for (int64_t base : kept) {
            for (size_t i = 0; i < along.size(); ++i) set[i] = values[static_cast<size_t>(base + along[i])];
            fn(set);
            for (size_t i = 0; i < along.size(); ++i) values[static_cast<size_t>(base + along[i])] = set[i];
        }
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
}

}  // namespace

/// (x - mean) / (standard deviation + 1e-9) over `axes`, by default all but the channels.
void mean_variance_normalization(RefContext& ctx) {
    std::vector<int64_t> axes = ctx.integers("axes");
    if (axes.empty()) axes = {0, 2, 3};
    over_axes(ctx, axes, [](std::vector<double>& set) {
        const Moments m = moments(set.data(), static_cast<int64_t>(set.size()));
        const double deviation = std::sqrt(m.variance) + 1e-9;
        for (double& v : set) v = (v - m.mean) / deviation;
    });
}

/// x / (sum |x|^p)^(1/p) along an axis, 0 where the norm is 0.
void lp_normalization(RefContext& ctx) {
    const int64_t p = ctx.integer("p");
    over_axes(ctx, {ctx.integer("axis")}, [p](std::vector<double>& set) {
        double norm = 0;
        for (double v : set) norm += p == 1 ? std::fabs(v) : v * v;
        if (p != 1) norm = std::sqrt(norm);
        for (double& v : set) v = norm == 0 ? 0 : v / norm;
    });
}

}  // namespace planish::reference
