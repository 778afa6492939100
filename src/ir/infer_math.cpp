// Shape rules of the math family: element-wise functions, reductions, products.
#include <algorithm>
#include <functional>

#include "ir/infer_common.hpp"
#include "planish/error.hpp"

namespace planish::infer {

namespace {

/// One integer of a shape computation: a op b over symbolic sizes, where it has a symbolic form.
std::optional<Dim> combine(std::string_view op, const Dim& a, const Dim& b) {
    const auto x = a.value(), y = b.value();
    const auto truth = [](bool v) { return Dim(v ? 1 : 0); };
    if (op == "Add" || op == "Sum") return a + b;
    if (op == "Sub") return a - b;
    if (op == "Mul") return a * b;
    if (op == "Div") {
        if (y && *y == 0) return std::nullopt;
        if (auto exact = Dim::exact_div(a, b)) return exact;
        // Truncation is the floor where nothing is negative, which sizes are; constants are divided as they are.
        if (x && y) return *y == -1 ? Dim(0) - a : Dim(*x / *y);
        return Dim::floor_div(a, b);
    }
    if (op == "Mod" && x && y && *x >= 0 && *y > 0) return Dim(*x % *y);
    if (op == "Max") return Dim::max(a, b);
    if (op == "Min") return Dim::min(a, b);
    if (op == "And" && x && y) return truth(*x && *y);
    if (op == "Or" && x && y) return truth(*x || *y);
    if (op == "Equal") {
        if (a == b) return truth(true);
        if (x && y) return truth(false);
        // A size that is not known now is not negative (the -1 of "keep this axis").
        if ((x && *x < 0 && b.is_symbol()) || (y && *y < 0 && a.is_symbol())) return truth(false);
        return std::nullopt;
    }
    if (x && y) {
        if (op == "Less") return truth(*x < *y);
        if (op == "LessOrEqual") return truth(*x <= *y);
        if (op == "Greater") return truth(*x > *y);
        if (op == "GreaterOrEqual") return truth(*x >= *y);
    }
    return std::nullopt;
}

/// Shape arithmetic: output 0 = fold of the op over its inputs' known integers; scalars repeat.
void propagate_values(InferContext& ctx, size_t out_rank) {
    if (out_rank > 1) return;
    const DType in = ctx.input(0).dtype;
    if (!is_integer(in) && in != DType::boolean) return;
    std::vector<Dim> acc;
    for (int i = 0; i < ctx.input_count(); ++i) {
        auto next = ctx.symbolic(i);
        if (!next) return;
        if (i == 0) {
            acc = std::move(*next);
            continue;
        }
        if (acc.size() != next->size() && acc.size() != 1 && next->size() != 1) return;
        std::vector<Dim> result(acc.size() == 1 ? next->size() : acc.size());
        for (size_t k = 0; k < result.size(); ++k) {
            auto value =
                combine(ctx.node().op().name, acc[acc.size() == 1 ? 0 : k], (*next)[next->size() == 1 ? 0 : k]);
            if (!value) return;
            result[k] = std::move(*value);
        }
        acc = std::move(result);
    }
    ctx.set_symbolic(0, std::move(acc));
}

void broadcast_to(InferContext& ctx, DType dtype) {
    auto shape = broadcast_inputs(ctx, 0, ctx.input_count());
    const size_t rank = shape ? shape->size() : 2;
    ctx.set_output(0, dtype, std::move(shape));
    propagate_values(ctx, rank);
}

}  // namespace

void same(InferContext& ctx) {
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
    auto values = ctx.symbolic(0);
    if (!values || !is_integer(ctx.input(0).dtype)) return;
    if (ctx.node().is("Neg")) {
        for (Dim& v : *values) v = Dim(0) - v;
        ctx.set_symbolic(0, std::move(*values));
    } else if (ctx.node().is("Abs") || ctx.node().is("Relu")) {
        for (Dim& v : *values)
            if (!v.is_constant()) return;
        for (Dim& v : *values)
            if (*v.value() < 0) v = ctx.node().is("Abs") ? Dim(0) - v : Dim(0);
        ctx.set_symbolic(0, std::move(*values));
    }
}

void predicate(InferContext& ctx) {
    ctx.set_output(0, DType::boolean, ctx.input(0).shape);
}

void broadcast(InferContext& ctx) {
    for (int i = 1; i < ctx.input_count(); ++i) require_same_dtype(ctx, 0, i);
    broadcast_to(ctx, ctx.input(0).dtype);
}

void power(InferContext& ctx) {
    ctx.set_output(0, ctx.input(0).dtype, broadcast_inputs(ctx, 0, 2));
}

void compare(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    broadcast_to(ctx, DType::boolean);
}

void where(InferContext& ctx) {
    require_same_dtype(ctx, 1, 2);
    auto shape = broadcast_inputs(ctx, 0, 3);
    const size_t rank = shape ? shape->size() : 2;
    ctx.set_output(0, ctx.input(1).dtype, std::move(shape));
    if (rank > 1) return;
    const auto c = ctx.symbolic(0), x = ctx.symbolic(1), y = ctx.symbolic(2);
    if (!c || !x || !y || !is_integer(ctx.input(1).dtype)) return;
    std::vector<Dim> out(std::max({c->size(), x->size(), y->size()}));
    for (const auto* list : {&*c, &*x, &*y})
        if (list->size() != 1 && list->size() != out.size()) return;
    const auto at = [](const std::vector<Dim>& v, size_t k) { return v.size() == 1 ? v[0] : v[k]; };
    for (size_t k = 0; k < out.size(); ++k) {
        const auto chosen = at(*c, k).value();
        if (!chosen) return;
        out[k] = *chosen ? at(*x, k) : at(*y, k);
    }
    ctx.set_symbolic(0, std::move(out));
}

/// The slope (PRelu) or the bounds (Clip) follow the first input's shape.
void like_first(InferContext& ctx) {
    for (int i = 1; i < ctx.input_count(); ++i) require_same_dtype(ctx, 0, i);
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
}

/// Limits are scalars.
void clip(InferContext& ctx) {
    for (int i = 1; i <= 2; ++i) {
        if (!ctx.has_input(i) || !ctx.has_shape(i)) continue;
        for (const Dim& d : ctx.shape(i)) require_equal(ctx, d, 1, "sizes (of a limit, which is a scalar)");
    }
    like_first(ctx);
}

/// The slope broadcasts to the input, never the input to the slope.
void prelu(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    if (const auto both = broadcast_inputs(ctx, 0, 2); both && ctx.has_shape(0)) {
        const Shape& x = ctx.shape(0);
        bool fits = both->size() == x.size();
        for (size_t d = 0; fits && d < x.size(); ++d)
            fits = !x[d].is_constant() || !(*both)[d].is_constant() || x[d] == (*both)[d];
        if (!fits) ctx.error("has a slope of shape " + to_string(ctx.shape(1)) + " for an input of " + to_string(x));
    }
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
}

/// Cumulative sums and the like: the first input's shape, whatever the others are.
void like_input(InferContext& ctx) {
    ctx.set_output(0, ctx.input(0).dtype, ctx.input(0).shape);
}

void reduce(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    const bool keep = ctx.integer("keepdims") != 0, noop = ctx.integer("noop_with_empty_axes") != 0;
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, std::nullopt);
    const Shape& in = ctx.shape(0);
    std::optional<Dims> axes;
    if (!ctx.has_input(1))
        axes = Dims{};
    else if (ctx.constant(1))
        axes = ctx.constant(1)->to_int64s();
    else if (auto values = ctx.symbolic(1)) {
        axes = Dims{};
        for (const Dim& v : *values) {
            if (!v.is_constant()) {
                axes.reset();
                break;
            }
            axes->push_back(*v.value());
        }
    } else if (ctx.has_shape(1) && ctx.shape(1).size() == 1 && ctx.shape(1)[0] == Dim(0)) {
        axes = Dims{};
    }
    if (!axes) {  // which axes is known at run time only
        if (keep) return ctx.set_output(0, dtype, Shape(in.size(), Dim::unknown()));
        return ctx.set_output(0, dtype, std::nullopt);
    }
    if (axes->empty() && noop) return ctx.set_output(0, dtype, in);
    std::vector<bool> reduced(in.size(), axes->empty());
    for (int64_t a : *axes) reduced[static_cast<size_t>(normalize_axis(ctx, a, in.size()))] = true;
    Shape out;
    for (size_t d = 0; d < in.size(); ++d) {
        if (!reduced[d])
            out.push_back(in[d]);
        else if (keep)
            out.push_back(1);
    }
    ctx.set_output(0, dtype, std::move(out));
    // The number of elements of a shape, its largest axis, ...
    const auto values = ctx.symbolic(0);
    if (!values || values->empty() || in.size() != 1 || !reduced[0] || !is_integer(dtype)) return;
    const std::string_view op = ctx.node().op().name;
    Dim acc = (*values)[0];
    for (size_t k = 1; k < values->size(); ++k) {
        const Dim& v = (*values)[k];
        if (op == "ReduceProd")
            acc = acc * v;
        else if (op == "ReduceSum")
            acc = acc + v;
        else if (op == "ReduceMax")
            acc = Dim::max(acc, v);
        else if (op == "ReduceMin")
            acc = Dim::min(acc, v);
        else
            return;
    }
    if (op == "ReduceProd" || op == "ReduceSum" || op == "ReduceMax" || op == "ReduceMin") ctx.set_symbolic(0, {acc});
}

void arg_reduce(InferContext& ctx) {
    if (!ctx.has_shape(0)) return ctx.set_output(0, DType::i64, std::nullopt);
    Shape out = ctx.shape(0);
    const int64_t axis = ctx.axis("axis", static_cast<int64_t>(out.size()));
    if (ctx.integer("keepdims"))
        out[static_cast<size_t>(axis)] = 1;
    else
        out.erase(out.begin() + axis);
    ctx.set_output(0, DType::i64, std::move(out));
}

namespace {

/// NumPy's matmul of shapes a and b.
Shape matmul_shape(InferContext& ctx, Shape a, Shape b) {
    if (a.empty() || b.empty()) ctx.error("cannot multiply a scalar: use Mul");
    const bool vector_a = a.size() == 1, vector_b = b.size() == 1;
    if (vector_a) a.insert(a.begin(), Dim(1));
    if (vector_b) b.push_back(1);
    require_equal(ctx, a.back(), b[b.size() - 2], "inner sizes");
    auto batch = broadcast_shapes(Shape(a.begin(), a.end() - 2), Shape(b.begin(), b.end() - 2));
    if (!batch) ctx.error("cannot broadcast the batch axes of " + to_string(a) + " and " + to_string(b));
    if (!vector_a) batch->push_back(a[a.size() - 2]);
    if (!vector_b) batch->push_back(b.back());
    return *batch;
}

void matmul_of(InferContext& ctx, int a, int b, DType dtype) {
    if (!ctx.has_shape(a) || !ctx.has_shape(b)) return ctx.set_output(0, dtype, std::nullopt);
    ctx.set_output(0, dtype, matmul_shape(ctx, ctx.shape(a), ctx.shape(b)));
}

}  // namespace

void matmul(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    matmul_of(ctx, 0, 1, ctx.input(0).dtype);
}
void matmul_integer(InferContext& ctx) {
    matmul_of(ctx, 0, 1, DType::i32);
}
void qlinear_matmul(InferContext& ctx) {
    matmul_of(ctx, 0, 3, ctx.input(7).dtype);
}

void gemm(InferContext& ctx) {
    require_same_dtype(ctx, 0, 1);
    require_same_dtype(ctx, 0, 2);
    require_rank(ctx, 0, 2);
    require_rank(ctx, 1, 2);
    const bool ta = ctx.integer("transA") != 0, tb = ctx.integer("transB") != 0;
    Shape out(2, Dim::unknown());
    if (ctx.has_shape(0)) out[0] = ctx.shape(0)[ta ? 1 : 0];
    if (ctx.has_shape(1)) out[1] = ctx.shape(1)[tb ? 0 : 1];
    if (ctx.has_shape(0) && ctx.has_shape(1))
        require_equal(ctx, ctx.shape(0)[ta ? 0 : 1], ctx.shape(1)[tb ? 1 : 0], "inner sizes");
    if (ctx.has_shape(2)) {
        const auto with_c = broadcast_shapes(out, ctx.shape(2));
        if (!with_c || with_c->size() != 2)
            ctx.error("cannot add C of shape " + to_string(ctx.shape(2)) + " to a product of shape " + to_string(out));
    }
    ctx.set_output(0, ctx.input(0).dtype, std::move(out));
}

void det(InferContext& ctx) {
    if (!ctx.has_shape(0)) return ctx.set_output(0, ctx.input(0).dtype, std::nullopt);
    Shape out = ctx.shape(0);
    if (out.size() < 2) ctx.error("needs square matrices, but its input is " + to_string(out));
    require_equal(ctx, out[out.size() - 1], out[out.size() - 2], "rows and columns");
    out.resize(out.size() - 2);
    ctx.set_output(0, ctx.input(0).dtype, std::move(out));
}

}  // namespace planish::infer
