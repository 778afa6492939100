// Pooling: MaxPool, AveragePool, LpPool, MaxUnpool, and their global forms.
#include <algorithm>
#include <cmath>

#include "base/thread_pool.hpp"
#include "reference/codec.hpp"
#include "reference/conv.hpp"

namespace planish::reference {

namespace {

struct PoolSizes {
    infer::Window window;  // pads resolved
    Dims in, out;          // spatial
    int64_t planes;        // batch * channels
    Dims out_dims;
};

PoolSizes pool_sizes(RefContext& ctx) {
    const Dims& x = ctx.input(0).dims();
    if (x.size() < 3) ctx.error("pools over spatial axes, but its input has shape " + to_string(x));
    PoolSizes s{infer::window_of(ctx.node(), x.size() - 2), Dims(x.begin() + 2, x.end()), {}, x[0] * x[1], {}};
    s.window.resolve_pads(s.in);
    s.out = s.window.output_dims(s.in);
    s.out_dims = {x[0], x[1]};
    s.out_dims.insert(s.out_dims.end(), s.out.begin(), s.out.end());
    return s;
}

/// The input positions that one window covers, with how many positions it has within the padded input.
struct Coverage {
    std::vector<int64_t> offsets;  // flat, of the positions inside the input
    int64_t padded = 0;
};

void cover(const PoolSizes& s, const Dims& at, Coverage& c) {
    const infer::Window& w = s.window;
    c.offsets.assign(1, 0);
    c.padded = 1;
    for (size_t d = 0; d < s.in.size(); ++d) {
        const int64_t start = at[d] * w.strides[d] - w.pads_begin[d];
        std::vector<int64_t> next;
        int64_t padded = 0;
        for (int64_t k = 0; k < w.kernel[d]; ++k) {
            const int64_t i = start + k * w.dilations[d];
            padded += i < s.in[d] + w.pads_end[d];  // a rounded-up last window may reach past the padding
            if (i >= 0 && i < s.in[d]) next.push_back(i);
        }
        c.padded *= padded;
        std::vector<int64_t> grown;
        for (int64_t base : c.offsets)
            for (int64_t i : next) grown.push_back(base * s.in[d] + i);
        c.offsets = std::move(grown);
    }
}

/// Calls fn(plane of the input, coverage, output index, plane number) for each window.
template <typename Fn>
void for_each_window(const PoolSizes& s, const std::vector<double>& x, Fn fn) {
    const int64_t in_size = element_count(s.in), out_size = element_count(s.out);
    ThreadPool& pool = ThreadPool::process();
    // A window's coverage is the same in every plane: positions outside, planes inside.
    const int64_t tasks = std::min<int64_t>(out_size, 64);
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        const int64_t begin = out_size * task / tasks, end = out_size * (task + 1) / tasks;
        Odometer position(s.out, begin);
        Coverage coverage;
        for (int64_t o = begin; o < end; ++o, position.next()) {
            cover(s, position.at(), coverage);
            for (int64_t plane = 0; plane < s.planes; ++plane)
                fn(x.data() + plane * in_size, coverage, plane * out_size + o, plane);
        }
    });
}

}  // namespace

/// Outputs: the largest element of each window, and its flat index in the input (of all axes; with storage_order 1 the
/// spatial axes are counted column-major).
void max_pool(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const PoolSizes s = pool_sizes(ctx);
    const std::vector<double> in = read_all<double>(x);
    const bool column_major = ctx.integer("storage_order") != 0;
    const int64_t in_size = element_count(s.in);
    std::vector<double> y(static_cast<size_t>(element_count(s.out_dims)));
    std::vector<int64_t> indices(y.size());
    const double lowest = arithmetic_of(x.dtype()) == Arithmetic::unsigned_integer ? 0
                          : arithmetic_of(x.dtype()) == Arithmetic::real           ? -HUGE_VAL
                                                                         : -std::ldexp(1.0, bit_width(x.dtype()) - 1);
    for_each_window(s, in, [&](const double* from, const Coverage& c, int64_t at, int64_t plane) {
        double best = lowest;
        int64_t index = c.offsets.empty() ? 0 : c.offsets[0];
        for (int64_t offset : c.offsets) {
            const double v = from[offset];
            if (v > best || (v != v && best == best)) {
                best = v;
                index = offset;
            }
        }
        if (column_major) {
            int64_t rest = index, swapped = 0, step = in_size;
            for (size_t d = s.in.size(); d-- > 0; rest /= s.in[d]) {
                step /= s.in[d];
                swapped += rest % s.in[d] * step;
            }
            index = swapped;
        }
        y[static_cast<size_t>(at)] = best;
        indices[static_cast<size_t>(at)] = plane * in_size + index;
    });
    write_all(y, ctx.output(0, x.dtype(), s.out_dims));
    if (ctx.wants_output(1)) write_all(indices, ctx.output(1, DType::i64, s.out_dims));
}

void average_pool(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const PoolSizes s = pool_sizes(ctx);
    const bool with_padding = ctx.integer("count_include_pad") != 0;
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> y(static_cast<size_t>(element_count(s.out_dims)));
    for_each_window(s, in, [&](const double* from, const Coverage& c, int64_t at, int64_t) {
        double sum = 0;
        for (int64_t offset : c.offsets) sum += from[offset];
        const auto count = with_padding ? c.padded : static_cast<int64_t>(c.offsets.size());
        y[static_cast<size_t>(at)] = sum / static_cast<double>(count);
    });
    write_all(y, ctx.output(0, x.dtype(), s.out_dims));
}

/// (sum |x|^p)^(1/p) over each window; padding is zero.
void lp_pool(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const PoolSizes s = pool_sizes(ctx);
    const auto p = static_cast<double>(ctx.integer("p"));
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> y(static_cast<size_t>(element_count(s.out_dims)));
    for_each_window(s, in, [&](const double* from, const Coverage& c, int64_t at, int64_t) {
        double sum = 0;
        for (int64_t offset : c.offsets) sum += std::pow(std::fabs(from[offset]), p);
        y[static_cast<size_t>(at)] = std::pow(sum, 1 / p);
    });
    write_all(y, ctx.output(0, x.dtype(), s.out_dims));
}

namespace {

/// output[n, c, 1, 1, ...] = fn(plane, its size)
template <typename Fn>
void pool_planes(RefContext& ctx, Fn fn) {
    const Tensor& x = ctx.input(0);
    if (x.rank() < 2) ctx.error("pools over spatial axes, but its input has shape " + to_string(x.dims()));
    Dims out_dims(x.dims().size(), 1);
    std::copy_n(x.dims().begin(), 2, out_dims.begin());
    const int64_t planes = x.dim(0) * x.dim(1);
    const int64_t size = element_count(Dims(x.dims().begin() + 2, x.dims().end()));
    const std::vector<double> in = read_all<double>(x);
    std::vector<double> y(static_cast<size_t>(planes));
    for (int64_t i = 0; i < planes; ++i) y[static_cast<size_t>(i)] = fn(in.data() + i * size, size);
    write_all(y, ctx.output(0, x.dtype(), out_dims));
}

}  // namespace

void global_average_pool(RefContext& ctx) {
    pool_planes(ctx, [](const double* x, int64_t n) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += x[i];
        return sum / static_cast<double>(n);
    });
}
void global_max_pool(RefContext& ctx) {
    pool_planes(ctx, [](const double* x, int64_t n) {
        double best = -HUGE_VAL;
        for (int64_t i = 0; i < n; ++i) best = best != best || best > x[i] ? best : x[i];
        return best;
    });
}
void global_lp_pool(RefContext& ctx) {
    const auto p = static_cast<double>(ctx.integer("p"));
    pool_planes(ctx, [p](const double* x, int64_t n) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += std::pow(std::fabs(x[i]), p);
        return std::pow(sum, 1 / p);
    });
}

/// Puts each element where MaxPool took it from: at its index in the smallest input that gives x's shape, which is then
/// the corner of an output of shape `output_shape` where that is given.
void max_unpool(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &indices = ctx.input(1);
    if (x.rank() < 3 || indices.dims() != x.dims())
        ctx.error("the indices of shape " + to_string(indices.dims()) + " do not match the input's " +
                  to_string(x.dims()));
    const infer::Window w = infer::window_of(ctx.node(), x.dims().size() - 2);
    Dims inner{x.dim(0), x.dim(1)};
    for (size_t d = 0; d < w.rank(); ++d)
        inner.push_back((x.dims()[d + 2] - 1) * w.strides[d] - w.pads_begin[d] - w.pads_end[d] + w.kernel[d]);
    const Dims out_dims = ctx.has_input(2) ? ctx.input(2).to_int64s() : inner;
    if (out_dims.size() != inner.size())
        ctx.error("output_shape must name all " + std::to_string(inner.size()) + " axes");
    const std::vector<double> in = read_all<double>(x);
    const std::vector<int64_t> at = indices.to_int64s();
    Tensor& out = ctx.output(0, x.dtype(), out_dims);
    std::vector<double> y(static_cast<size_t>(out.size()), 0.0);
    const int64_t inner_size = element_count(inner);
    for (size_t i = 0; i < in.size(); ++i) {
        if (at[i] < 0 || at[i] >= inner_size)
            ctx.error("index " + std::to_string(at[i]) + " lies outside the unpooled shape " + to_string(inner));
        const Odometer position(inner, at[i]);
        int64_t to = 0;
        bool inside = true;
        for (size_t d = 0; d < inner.size(); ++d) {
            inside = inside && position.at()[d] < out_dims[d];
            to = to * out_dims[d] + position.at()[d];
        }
        if (inside) y[static_cast<size_t>(to)] = in[i];
    }
    write_all(y, out);
}

}  // namespace planish::reference
