// Softmax, LogSoftmax, Hardmax along an axis.
#include <algorithm>
#include <cmath>

#include "base/thread_pool.hpp"
#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

/// Applies fn(line, size) to each line of the tensor along its "axis".
template <typename Fn>
void for_each_line(RefContext& ctx, Fn fn) {
    const Tensor& x = ctx.input(0);
    Tensor& out = ctx.output(0, x.dtype(), x.dims());
    const int64_t axis = ctx.axis("axis", x.rank());
    if (x.size() == 0) return;
    const int64_t size = x.dim(axis), lines = x.size() / size;
    int64_t inner = 1;
    for (int64_t d = axis + 1; d < x.rank(); ++d) inner *= x.dim(d);
    std::vector<double> values = read_all<double>(x);
    ThreadPool& pool = ThreadPool::process();
    const int64_t tasks = std::min(lines, x.size() / 8192 + 1);
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        std::vector<double> line(static_cast<size_t>(size));
        for (int64_t k = lines * task / tasks; k < lines * (task + 1) / tasks; ++k) {
            double* at = values.data() + k / inner * inner * size + k % inner;
            for (int64_t i = 0; i < size; ++i) line[static_cast<size_t>(i)] = at[i * inner];
            fn(line);
            for (int64_t i = 0; i < size; ++i) at[i * inner] = line[static_cast<size_t>(i)];
        }
    });
    write_all(values, out);
}

double largest(const std::vector<double>& line) {
    double top = line[0];
    for (double v : line) top = v > top || v != v ? v : top;
    return top;
}

}  // namespace

void softmax(RefContext& ctx) {
    for_each_line(ctx, [](std::vector<double>& line) {
        const double top = largest(line);
        double total = 0;
        for (double& v : line) total += v = std::exp(v - top);
        for (double& v : line) v /= total;
    });
}

void log_softmax(RefContext& ctx) {
    for_each_line(ctx, [](std::vector<double>& line) {
        const double top = largest(line);
        double total = 0;
        for (double v : line) total += std::exp(v - top);
        for (double& v : line) v = v - top - std::log(total);
    });
}

/// 1 at the first largest element, 0 elsewhere.
void hardmax(RefContext& ctx) {
    for_each_line(ctx, [](std::vector<double>& line) {
        size_t best = 0;
        for (size_t i = 1; i < line.size(); ++i)
            if (line[i] > line[best]) best = i;
        for (size_t i = 0; i < line.size(); ++i) line[i] = i == best;
    });
}

}  // namespace planish::reference
