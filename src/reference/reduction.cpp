// Reductions over axes: Reduce*, ArgMax, ArgMin, CumSum, CumProd.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/thread_pool.hpp"
#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

/// Flat offsets of the positions along some axes of a row-major tensor.
std::vector<int64_t> offsets_along(const Dims& dims, const std::vector<bool>& chosen, bool value) {
    std::vector<int64_t> offsets{0};
    int64_t step = 1;
    std::vector<int64_t> steps(dims.size());
    for (size_t d = dims.size(); d-- > 0; step *= dims[d]) steps[d] = step;
    for (size_t d = 0; d < dims.size(); ++d) {
        if (chosen[d] != value) continue;
        std::vector<int64_t> next;
        next.reserve(offsets.size() * static_cast<size_t>(dims[d]));
        for (int64_t base : offsets)
            for (int64_t i = 0; i < dims[d]; ++i) next.push_back(base + i * steps[d]);
        offsets = std::move(next);
    }
    return offsets;
}

/// Which axes are reduced, and the output's shape. `reduced` all false: the op passes its input through the map.
struct Reduction {
    std::vector<bool> reduced;
    Dims out;
    bool noop = false;

    explicit Reduction(RefContext& ctx) {
        const Dims& in = ctx.input(0).dims();
        std::vector<int64_t> axes;
        if (ctx.has_input(1)) axes = ctx.input(1).to_int64s();
        noop = axes.empty() && ctx.integer("noop_with_empty_axes") != 0;
        reduced.assign(in.size(), axes.empty() && !noop);
        const auto rank = static_cast<int64_t>(in.size());
        for (int64_t axis : axes) {
            if (axis < -rank || axis >= rank)
                ctx.error("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
            reduced[static_cast<size_t>(axis < 0 ? axis + rank : axis)] = true;
        }
        for (size_t d = 0; d < in.size(); ++d) {
            if (!reduced[d])
                out.push_back(in[d]);
            else if (ctx.integer("keepdims"))
                out.push_back(1);
        }
    }
};

/// output = finish(fold of step over the reduced elements from `start`, how many), computed in T.
template <typename T, typename Step, typename Finish>
void reduce(RefContext& ctx, T start, Step step, Finish finish) {
    const Tensor& x = ctx.input(0);
    const Reduction r(ctx);
    Tensor& out = ctx.output(0, x.dtype(), r.out);
    const std::vector<T> in = read_all<T>(x);
    const auto kept = offsets_along(x.dims(), r.reduced, false), along = offsets_along(x.dims(), r.reduced, true);
    std::vector<T> result(kept.size());
    ThreadPool& pool = ThreadPool::process();
    const auto tasks = static_cast<int64_t>(in.size() / 32768 + 1), count = static_cast<int64_t>(kept.size());
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        for (int64_t k = count * task / tasks; k < count * (task + 1) / tasks; ++k) {
            const T* from = in.data() + kept[static_cast<size_t>(k)];
            T acc = start;
            for (int64_t offset : along) acc = step(acc, from[offset]);
            result[static_cast<size_t>(k)] = finish(acc, static_cast<int64_t>(along.size()));
        }
    });
    write_all(result, out);
}

/// As reduce, in the input's own arithmetic; integers modulo 2^64.
template <typename Step>
void reduce_modular(RefContext& ctx, int start, Step step) {
    const auto as_is = [](auto acc, int64_t) { return acc; };
    if (arithmetic_of(ctx.input(0).dtype()) == Arithmetic::real)
        reduce<double>(ctx, start, step, as_is);
    else
        reduce<uint64_t>(ctx, static_cast<uint64_t>(start), step, as_is);
}

template <typename Step, typename Finish>
void reduce_real(RefContext& ctx, Step step, Finish finish) {
    reduce<double>(ctx, 0.0, step, finish);
}

/// The largest (or smallest) element. Of nothing: the type's own lowest (highest) value, -inf (inf) for floats.
template <bool Largest>
void reduce_extreme(RefContext& ctx) {
    const DType dtype = ctx.input(0).dtype();
    with_arithmetic(dtype, [&](auto t) {
        using T = decltype(t);
        T start{};
        if constexpr (std::is_floating_point_v<T>) {
            start = Largest ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
        } else if (dtype == DType::boolean) {
            start = Largest ? 0 : 1;
        } else if (std::is_signed_v<T>) {
            const int64_t lowest = std::numeric_limits<int64_t>::min() >> (64 - bit_width(dtype));
            start = static_cast<T>(Largest ? lowest : -(lowest + 1));
        } else {
            start = static_cast<T>(Largest ? 0 : std::numeric_limits<uint64_t>::max() >> (64 - bit_width(dtype)));
        }
        reduce<T>(
            ctx, start,
            [](T a, T b) {
                if (a != a) return a;  // NaN stays
                return Largest ? (a > b ? a : b) : (a < b ? a : b);
            },
            [](T acc, int64_t) { return acc; });
    });
}

}  // namespace

void reduce_sum(RefContext& ctx) {
    reduce_modular(ctx, 0, [](auto a, auto b) { return a + b; });
}
void reduce_prod(RefContext& ctx) {
    reduce_modular(ctx, 1, [](auto a, auto b) { return a * b; });
}
void reduce_sum_square(RefContext& ctx) {
    reduce_modular(ctx, 0, [](auto a, auto b) { return a + b * b; });
}
void reduce_l1(RefContext& ctx) {
    if (arithmetic_of(ctx.input(0).dtype()) == Arithmetic::real)
        return reduce_real(
            ctx, [](double a, double b) { return a + std::fabs(b); }, [](double a, int64_t) { return a; });
    reduce<int64_t>(
        ctx, 0, [](int64_t a, int64_t b) { return a + (b < 0 ? -b : b); }, [](int64_t a, int64_t) { return a; });
}
void reduce_l2(RefContext& ctx) {
    reduce_real(
        ctx, [](double a, double b) { return a + b * b; }, [](double a, int64_t) { return std::sqrt(a); });
}
void reduce_mean(RefContext& ctx) {
    reduce_real(
        ctx, [](double a, double b) { return a + b; }, [](double a, int64_t n) { return a / static_cast<double>(n); });
}
void reduce_log_sum(RefContext& ctx) {
    reduce_real(
        ctx, [](double a, double b) { return a + b; }, [](double a, int64_t) { return std::log(a); });
}
void reduce_max(RefContext& ctx) {
    reduce_extreme<true>(ctx);
}
void reduce_min(RefContext& ctx) {
    reduce_extreme<false>(ctx);
}

/// log(sum(exp(x))), with the largest element taken out of the sum so that nothing overflows.
void reduce_log_sum_exp(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const Reduction r(ctx);
    Tensor& out = ctx.output(0, x.dtype(), r.out);
    const std::vector<double> in = read_all<double>(x);
    const auto kept = offsets_along(x.dims(), r.reduced, false), along = offsets_along(x.dims(), r.reduced, true);
    std::vector<double> result;
    for (int64_t base : kept) {
        double top = -HUGE_VAL, total = 0;
        for (int64_t offset : along) top = std::fmax(top, in[static_cast<size_t>(base + offset)]);
        const double shift = std::isfinite(top) ? top : 0;
        for (int64_t offset : along) total += std::exp(in[static_cast<size_t>(base + offset)] - shift);
        result.push_back(std::log(total) + shift);
    }
    write_all(result, out);
}

namespace {

/// Position of the extreme along an axis; a NaN is taken as the extreme, as NumPy does.
template <bool Largest>
void arg_extreme(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const auto axis = static_cast<size_t>(ctx.axis("axis", x.rank()));
    const bool last = ctx.integer("select_last_index") != 0;
    Dims out_dims = x.dims();
    if (ctx.integer("keepdims"))
        out_dims[axis] = 1;
    else
        out_dims.erase(out_dims.begin() + static_cast<int64_t>(axis));
    Tensor& out = ctx.output(0, DType::i64, out_dims);
    const int64_t size = x.dims()[axis];
    if (size == 0 && out.size() > 0) ctx.error("the axis has no elements");
    int64_t inner = 1;
    for (size_t d = axis + 1; d < x.dims().size(); ++d) inner *= x.dims()[d];
    with_arithmetic(x.dtype(), [&](auto t) {
        using T = decltype(t);
        const std::vector<T> in = read_all<T>(x);
        for (int64_t i = 0; i < out.size(); ++i) {
            const T* from = in.data() + i / inner * inner * size + i % inner;
            int64_t best = 0;
            for (int64_t k = 1; k < size; ++k) {
                const T a = from[best * inner], b = from[k * inner];
                const bool a_nan = a != a, b_nan = b != b;
                const bool better = Largest ? b > a : b < a;
                const bool equal = b == a || (a_nan && b_nan);
                if ((better && !a_nan) || (b_nan && !a_nan) || (last && equal)) best = k;
            }
            out.data<int64_t>()[static_cast<size_t>(i)] = best;
        }
    });
}

template <typename Fn>
void cumulate(RefContext& ctx, int start, Fn fn) {
    const Tensor& x = ctx.input(0);
    Tensor& out = ctx.output(0, x.dtype(), x.dims());
    if (ctx.input(1).size() != 1) ctx.error("the axis must be one integer");
    int64_t axis = ctx.input(1).at_int64(0);
    if (axis < -x.rank() || axis >= x.rank())
        ctx.error("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(x.rank()));
    if (axis < 0) axis += x.rank();
    if (x.size() == 0) return;
    const int64_t size = x.dim(axis);
    int64_t inner = 1;
    for (int64_t d = axis + 1; d < x.rank(); ++d) inner *= x.dim(d);
    const bool exclusive = ctx.integer("exclusive") != 0, reverse = ctx.integer("reverse") != 0;
    const auto run = [&](auto t) {
        using T = decltype(t);
        std::vector<T> values = read_all<T>(x);
        for (int64_t line = 0; line < x.size() / size; ++line) {
            T* at = values.data() + line / inner * inner * size + line % inner;
            T acc = static_cast<T>(start);
            for (int64_t i = 0; i < size; ++i) {
                T& v = at[(reverse ? size - 1 - i : i) * inner];
                const T before = acc;
                acc = fn(acc, v);
                v = exclusive ? before : acc;
            }
        }
        write_all(values, out);
    };
    if (arithmetic_of(x.dtype()) == Arithmetic::real)
        run(double{});
    else
        run(uint64_t{});
}

}  // namespace

void arg_max(RefContext& ctx) {
    arg_extreme<true>(ctx);
}
void arg_min(RefContext& ctx) {
    arg_extreme<false>(ctx);
}
void cum_sum(RefContext& ctx) {
    cumulate(ctx, 0, [](auto a, auto b) { return a + b; });
}
void cum_prod(RefContext& ctx) {
    cumulate(ctx, 1, [](auto a, auto b) { return a * b; });
}

}  // namespace planish::reference
