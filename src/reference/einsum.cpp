// Einsum and Det.
#include "ir/einsum.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/thread_pool.hpp"
#include "reference/codec.hpp"
#include "reference/conv.hpp"

namespace planish::reference {

namespace {

/// Sums the product of the operands over every label that the output lacks.
template <typename T>
void contract(RefContext& ctx, const EinsumEquation& equation, const std::map<int, int64_t>& sizes) {
    const size_t operands = equation.inputs.size();
    Dims out_dims, sum_dims;
    std::vector<int> sum_labels;
    for (int label : equation.output) out_dims.push_back(sizes.at(label));
    for (const auto& [label, size] : sizes)
        if (std::find(equation.output.begin(), equation.output.end(), label) == equation.output.end()) {
            sum_labels.push_back(label);
            sum_dims.push_back(size);
        }
    // How far each operand moves along each output and summed axis; a repeated label walks the diagonal, a broadcast
    // axis stands still.
    std::vector<std::vector<T>> data(operands);
    std::vector<Dims> out_steps(operands, Dims(out_dims.size(), 0)), sum_steps(operands, Dims(sum_dims.size(), 0));
    for (size_t k = 0; k < operands; ++k) {
        const Tensor& t = ctx.input(static_cast<int>(k));
        data[k] = read_all<T>(t);
        int64_t step = 1;
        for (size_t d = t.dims().size(); d-- > 0; step *= t.dims()[d]) {
            if (t.dims()[d] == 1) continue;
            const int label = equation.inputs[k][d];
            for (size_t i = 0; i < equation.output.size(); ++i)
                if (equation.output[i] == label) out_steps[k][i] += step;
            for (size_t i = 0; i < sum_labels.size(); ++i)
                if (sum_labels[i] == label) sum_steps[k][i] += step;
        }
    }
    const int64_t terms = element_count(sum_dims);
    std::vector<Dims> walks(operands, Dims(static_cast<size_t>(terms), 0));  // offset of each term in each operand
    Odometer term(sum_dims);
    for (int64_t i = 0; i < terms; ++i, term.next())
        for (size_t k = 0; k < operands; ++k)
            for (size_t d = 0; d < sum_dims.size(); ++d)
                walks[k][static_cast<size_t>(i)] += term.at()[d] * sum_steps[k][d];

    Tensor& out = ctx.output(0, ctx.input(0).dtype(), out_dims);
    std::vector<T> result(static_cast<size_t>(out.size()));
    ThreadPool& pool = ThreadPool::process();
    const int64_t tasks = std::min<int64_t>(out.size(), 64);
    pool.parallel_for(tasks, pool.size(), [&](int64_t task, int) {
        const int64_t begin = out.size() * task / tasks, end = out.size() * (task + 1) / tasks;
        Odometer position(out_dims, begin);
        for (int64_t o = begin; o < end; ++o, position.next()) {
            std::vector<const T*> at(operands);
            for (size_t k = 0; k < operands; ++k) {
                at[k] = data[k].data();
                for (size_t d = 0; d < out_dims.size(); ++d) at[k] += position.at()[d] * out_steps[k][d];
            }
            T sum{};
            for (size_t i = 0; i < static_cast<size_t>(terms); ++i) {
                T product{1};
                for (size_t k = 0; k < operands; ++k) product *= at[k][walks[k][i]];
                sum += product;
            }
            result[static_cast<size_t>(o)] = sum;
        }
    });
    write_all(result, out);
}

}  // namespace

void einsum(RefContext& ctx) {
    std::vector<size_t> ranks;
    for (int i = 0; i < ctx.input_count(); ++i) ranks.push_back(ctx.input(i).dims().size());
    const EinsumEquation equation = parse_einsum(ctx.text("equation"), ranks);
    std::map<int, int64_t> sizes;
    for (size_t k = 0; k < ranks.size(); ++k)
        for (size_t d = 0; d < ranks[k]; ++d) {
            const int64_t size = ctx.input(static_cast<int>(k)).dims()[d];
            int64_t& known = sizes.try_emplace(equation.inputs[k][d], 1).first->second;
            if (known != 1 && size != 1 && known != size)
                ctx.error("equation '" + ctx.text("equation") + "' gives one label the sizes " + std::to_string(known) +
                          " and " + std::to_string(size));
            if (known == 1) known = size;
        }
    if (arithmetic_of(ctx.input(0).dtype()) == Arithmetic::real)
        contract<double>(ctx, equation, sizes);
    else
        contract<uint64_t>(ctx, equation, sizes);
}

/// Determinants of square matrices by elimination with partial pivoting.
void det(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    if (x.rank() < 2 || x.dim(-1) != x.dim(-2))
        ctx.error("needs square matrices, but its input is " + to_string(x.dims()));
    const int64_t n = x.dim(-1);
    Tensor& out = ctx.output(0, x.dtype(), Dims(x.dims().begin(), x.dims().end() - 2));
    std::vector<double> all = read_all<double>(x), result(static_cast<size_t>(out.size()));
    for (size_t m = 0; m < result.size(); ++m) {
        double* a = all.data() + static_cast<int64_t>(m) * n * n;
        double product = 1;
        for (int64_t k = 0; k < n; ++k) {
            int64_t pivot = k;
            for (int64_t i = k + 1; i < n; ++i)
                if (std::fabs(a[i * n + k]) > std::fabs(a[pivot * n + k])) pivot = i;
            if (pivot != k) {
                std::swap_ranges(a + k * n, a + k * n + n, a + pivot * n);
                product = -product;
            }
            product *= a[k * n + k];
            if (a[k * n + k] == 0) break;
            for (int64_t i = k + 1; i < n; ++i) {
                const double factor = a[i * n + k] / a[k * n + k];
                for (int64_t j = k; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
            }
        }
        result[m] = product;
    }
    write_all(result, out);
}

}  // namespace planish::reference
