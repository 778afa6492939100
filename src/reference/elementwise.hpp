// Element-wise functions over broadcast inputs: runs of constant stride are read into a small buffer of the type that
// is computed in, mapped by a plain loop, and written back.
#pragma once

#include <array>
#include <vector>

#include "base/function_ref.hpp"
#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

/// NumPy's broadcast of the shapes of inputs [first, last) of the node.
Dims broadcast_inputs(RefContext& ctx, int first, int last);
/// NumPy's broadcast of two shapes; throws invalid_argument naming both.
Dims broadcast(const Dims& a, const Dims& b);

/// Walks a tensor of shape `out` in runs of at most kMaxRun elements along which each operand, broadcast to `out`,
/// advances by a stride of its own (0: repeats one element).
class BroadcastWalk {
  public:
    static constexpr int64_t kMaxRun = 512;
    BroadcastWalk(const Dims& out, const std::vector<Dims>& operands);

    int64_t stride(size_t operand) const { return inner_strides_[operand]; }
    /// fn(first element of the output, count, first element of each operand); runs are spread over threads.
    void for_each_run(FunctionRef<void(int64_t first, int64_t count, const int64_t* operand_firsts)> fn) const;

  private:
    int64_t inner_ = 1;                   // length of the innermost merged axis
    Dims outer_;                          // lengths of the other merged axes, outermost first
    std::vector<Dims> outer_strides_;     // for each operand, along outer_
    std::vector<int64_t> inner_strides_;  // for each operand, along the innermost axis
};

/// output 0 = fn(a), computed in T.
template <typename T, typename Fn>
void map_unary(RefContext& ctx, DType out_dtype, Fn fn) {
    const Tensor& a = ctx.input(0);
    Tensor& out = ctx.output(0, out_dtype, a.dims());
    BroadcastWalk({a.size()}, {{a.size()}}).for_each_run([&](int64_t first, int64_t count, const int64_t*) {
        T x[BroadcastWalk::kMaxRun];
        using Result = decltype(fn(x[0]));
        Result y[BroadcastWalk::kMaxRun];
        read(a, first, 1, count, x);
        for (int64_t i = 0; i < count; ++i) y[i] = fn(x[i]);
        write(y, count, out, first);
    });
}

/// output 0 = fn(a, b), computed in T, with NumPy's broadcasting.
template <typename T, typename Fn>
void map_binary(RefContext& ctx, DType out_dtype, Fn fn) {
    const Tensor &a = ctx.input(0), &b = ctx.input(1);
    Tensor& out = ctx.output(0, out_dtype, broadcast(a.dims(), b.dims()));
    const BroadcastWalk walk(out.dims(), {a.dims(), b.dims()});
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        T x[BroadcastWalk::kMaxRun], y[BroadcastWalk::kMaxRun];
        using Result = decltype(fn(x[0], y[0]));
        Result z[BroadcastWalk::kMaxRun];
        read(a, from[0], walk.stride(0), count, x);
        read(b, from[1], walk.stride(1), count, y);
        for (int64_t i = 0; i < count; ++i) z[i] = fn(x[i], y[i]);
        write(z, count, out, first);
    });
}

/// output 0 = finish(fold of fn over all inputs from left to right), computed in T, with NumPy's broadcasting.
template <typename T, typename Fn, typename Finish>
void map_fold(RefContext& ctx, Fn fn, Finish finish) {
    const int n = ctx.input_count();
    std::vector<Dims> operands;
    for (int i = 0; i < n; ++i) operands.push_back(ctx.input(i).dims());
    Tensor& out = ctx.output(0, ctx.input(0).dtype(), broadcast_inputs(ctx, 0, n));
    const BroadcastWalk walk(out.dims(), operands);
    walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
        T acc[BroadcastWalk::kMaxRun], x[BroadcastWalk::kMaxRun];
        read(ctx.input(0), from[0], walk.stride(0), count, acc);
        for (int k = 1; k < n; ++k) {
            const auto operand = static_cast<size_t>(k);
            read(ctx.input(k), from[operand], walk.stride(operand), count, x);
            for (int64_t i = 0; i < count; ++i) acc[i] = fn(acc[i], x[i]);
        }
        for (int64_t i = 0; i < count; ++i) acc[i] = finish(acc[i]);
        write(acc, count, out, first);
    });
}

/// Calls body(T{}) for the arithmetic type T of input 0; all integers go to uint64_t when `wraps`, for which sums and
/// products modulo 2^64 have the right low bits whatever the sign.
template <typename Fn>
void with_modular_arithmetic(DType dtype, Fn&& fn) {
    if (arithmetic_of(dtype) == Arithmetic::real) return fn(double{});
    fn(uint64_t{});
}

}  // namespace planish::reference
