// Matrix products: MatMul, Gemm, MatMulInteger, QLinearMatMul.
#include "reference/matmul.hpp"

#include <algorithm>

#include "planish/error.hpp"
#include "reference/blocked_gemm.hpp"
#include "reference/elementwise.hpp"
#include "reference/quantize.hpp"

namespace planish::reference {

MatMulShape::MatMulShape(const Dims& a_dims, const Dims& b_dims) {
    Dims a = a_dims, b = b_dims;
    const auto mismatch = [&](const std::string& hint) {
        fail(ErrorCode::invalid_argument,
             "cannot multiply matrices of shapes " + to_string(a_dims) + " and " + to_string(b_dims), hint);
    };
    if (a.empty() || b.empty()) mismatch("scalars are multiplied by Mul");
    const bool vector_a = a.size() == 1, vector_b = b.size() == 1;
    if (vector_a) a.insert(a.begin(), 1);
    if (vector_b) b.push_back(1);
    m = a[a.size() - 2];
    k = a.back();
    n = b.back();
    if (b[b.size() - 2] != k) mismatch("the last axis of the first must equal the last but one of the second");
    const Dims batch_a(a.begin(), a.end() - 2), batch_b(b.begin(), b.end() - 2);
    batch = broadcast(batch_a, batch_b);
    out = batch;
    if (!vector_a) out.push_back(m);
    if (!vector_b) out.push_back(n);
    const auto count = static_cast<size_t>(element_count(batch));
    a_at.resize(count);
    b_at.resize(count);
    const BroadcastWalk walk(batch, {batch_a, batch_b});
    walk.for_each_run([&](int64_t first, int64_t length, const int64_t* from) {
        for (int64_t i = 0; i < length; ++i) {
            a_at[static_cast<size_t>(first + i)] = from[0] + i * walk.stride(0);
            b_at[static_cast<size_t>(first + i)] = from[1] + i * walk.stride(1);
        }
    });
}

namespace {

/// c += a * b for each batch; `read_a` and `read_b` read the operands' elements by flat index.
void multiply_batches(const MatMulShape& s, FunctionRef<void(int64_t first, int64_t count, double* out)> read_a,
                      FunctionRef<void(int64_t first, int64_t count, double* out)> read_b, double* c) {
    const auto batches = static_cast<int64_t>(s.a_at.size());
    // One matrix for all batches and a stack of matrices on the left: the stack is one tall matrix.
    const bool tall = batches > 1 && std::all_of(s.b_at.begin(), s.b_at.end(), [](int64_t i) { return i == 0; }) &&
                      s.a_at.back() == batches - 1;
    const int64_t calls = tall ? 1 : batches;
    const int64_t rows = tall ? batches * s.m : s.m;
    for (int64_t i = 0; i < calls; ++i) {
        const int64_t a0 = s.a_at[static_cast<size_t>(i)] * s.m * s.k, b0 = s.b_at[static_cast<size_t>(i)] * s.k * s.n;
        const auto line_a = [&](int64_t line, int64_t first, int64_t count, double* out) {
            read_a(a0 + line * s.k + first, count, out);
        };
        const auto line_b = [&](int64_t line, int64_t first, int64_t count, double* out) {
            read_b(b0 + line * s.n + first, count, out);
        };
        blocked_gemm(rows, s.n, s.k, line_a, line_b, c + i * s.m * s.n);
    }
}

/// Integer product modulo 2^64.
void integer_matmul(RefContext& ctx, const MatMulShape& s) {
    const auto a = read_all<uint64_t>(ctx.input(0)), b = read_all<uint64_t>(ctx.input(1));
    Tensor& out = ctx.output(0, ctx.input(0).dtype(), s.out);
    std::vector<uint64_t> c(static_cast<size_t>(out.size()), 0);
    for (size_t i = 0; i < s.a_at.size(); ++i) {
        const uint64_t* a0 = a.data() + s.a_at[i] * s.m * s.k;
        const uint64_t* b0 = b.data() + s.b_at[i] * s.k * s.n;
        uint64_t* c0 = c.data() + static_cast<int64_t>(i) * s.m * s.n;
        for (int64_t row = 0; row < s.m; ++row)
            for (int64_t p = 0; p < s.k; ++p)
                for (int64_t col = 0; col < s.n; ++col) c0[row * s.n + col] += a0[row * s.k + p] * b0[p * s.n + col];
    }
    write_all(c, out);
}

/// The elements of quantised operand `x` minus its zero point, which is a scalar or has one value per row (of the left
/// operand, `per_row`) or per column.
std::vector<double> centered(RefContext& ctx, int x, int zero, bool per_row) {
    const Tensor& t = ctx.input(x);
    std::vector<double> values = read_all<double>(t);
    if (!ctx.has_input(zero)) return values;
    const std::vector<double> zeros = read_all<double>(ctx.input(zero));
    subtract_per_line(values, t.dims(), zeros, per_row, ctx);
    return values;
}

}  // namespace

std::vector<double> matmul_doubles(const MatMulShape& s, const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> c(s.a_at.size() * static_cast<size_t>(s.m * s.n), 0.0);
    multiply_batches(
        s, [&](int64_t first, int64_t count, double* out) { std::copy_n(a.data() + first, count, out); },
        [&](int64_t first, int64_t count, double* out) { std::copy_n(b.data() + first, count, out); }, c.data());
    return c;
}

void matmul(RefContext& ctx) {
    const Tensor &a = ctx.input(0), &b = ctx.input(1);
    const MatMulShape s(a.dims(), b.dims());
    if (arithmetic_of(a.dtype()) != Arithmetic::real) return integer_matmul(ctx, s);
    Tensor& out = ctx.output(0, a.dtype(), s.out);
    std::vector<double> c(static_cast<size_t>(out.size()), 0.0);
    multiply_batches(
        s, [&](int64_t first, int64_t count, double* to) { read(a, first, 1, count, to); },
        [&](int64_t first, int64_t count, double* to) { read(b, first, 1, count, to); }, c.data());
    write_all(c, out);
}

/// alpha * A' * B' + beta * C
void gemm(RefContext& ctx) {
    const Tensor &a = ctx.input(0), &b = ctx.input(1);
    if (a.rank() != 2 || b.rank() != 2)
        ctx.error("Gemm multiplies matrices, but its inputs have shapes " + to_string(a.dims()) + " and " +
                  to_string(b.dims()));
    const bool ta = ctx.integer("transA") != 0, tb = ctx.integer("transB") != 0;
    const double alpha = ctx.real("alpha"), beta = ctx.real("beta");
    const int64_t m = a.dim(ta ? 1 : 0), k = a.dim(ta ? 0 : 1), n = b.dim(tb ? 0 : 1);
    if (b.dim(tb ? 1 : 0) != k)
        ctx.error("inner sizes of A " + to_string(a.dims()) + " and B " + to_string(b.dims()) + " differ");
    const int64_t a_row = ta ? 1 : k, a_column = ta ? m : 1, b_row = tb ? 1 : n, b_column = tb ? k : 1;
    std::vector<double> c(static_cast<size_t>(m * n), 0.0);
    blocked_gemm(
        m, n, k,
        [&](int64_t line, int64_t first, int64_t count, double* out) {
            read(a, line * a_row + first * a_column, a_column, count, out);
        },
        [&](int64_t line, int64_t first, int64_t count, double* out) {
            read(b, line * b_row + first * b_column, b_column, count, out);
        },
        c.data());
    for (double& v : c) v *= alpha;
    if (ctx.has_input(2)) {
        const Tensor& bias = ctx.input(2);
        const Dims full{m, n};
        if (broadcast(full, bias.dims()) != full)
            ctx.error("C of shape " + to_string(bias.dims()) + " does not broadcast to " + to_string(full));
        const BroadcastWalk walk(full, {bias.dims()});
        walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
            double x[BroadcastWalk::kMaxRun];
            read(bias, from[0], walk.stride(0), count, x);
            for (int64_t i = 0; i < count; ++i) c[static_cast<size_t>(first + i)] += beta * x[i];
        });
    }
    Tensor& out = ctx.output(0, a.dtype(), {m, n});
    write_all(c, out);
}

void matmul_integer(RefContext& ctx) {
    const MatMulShape s(ctx.input(0).dims(), ctx.input(1).dims());
    const auto c = matmul_doubles(s, centered(ctx, 0, 2, true), centered(ctx, 1, 3, false));
    write_all(c, ctx.output(0, DType::i32, s.out));
}

/// Inputs: a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point.
void qlinear_matmul(RefContext& ctx) {
    const MatMulShape s(ctx.input(0).dims(), ctx.input(3).dims());
    std::vector<double> c = matmul_doubles(s, centered(ctx, 0, 2, true), centered(ctx, 3, 5, false));
    const auto a_scale = read_all<double>(ctx.input(1)), b_scale = read_all<double>(ctx.input(4));
    const auto y_scale = read_all<double>(ctx.input(6)), y_zero = read_all<double>(ctx.input(7));
    const auto pick = [](const std::vector<double>& v, int64_t i) {
        return v[v.size() == 1 ? 0 : static_cast<size_t>(i)];
    };
    Tensor& out = ctx.output(0, ctx.input(7).dtype(), s.out);
    const IntegerRange range(out.dtype());
    for (size_t i = 0; i < c.size(); ++i) {
        const auto row = static_cast<int64_t>(i) / s.n % s.m, column = static_cast<int64_t>(i) % s.n;
        const double scale = pick(a_scale, row) * pick(b_scale, column) / pick(y_scale, row);
        c[i] = range.quantize(c[i] * scale, pick(y_zero, row));
    }
    write_all(c, out);
}

}  // namespace planish::reference
