// Shape rules of attention, recurrent networks and quantisation.
#include "ir/infer_common.hpp"
#include "planish/error.hpp"

namespace planish::infer {

namespace {

/// size / parts where that is known to be whole.
Dim split(const Dim& size, int64_t parts) {
    if (parts < 1) return Dim::unknown();
    const auto exact = Dim::exact_div(size, Dim(parts));
    return exact ? *exact : Dim::floor_div(size, parts);
}

}  // namespace

void attention(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype, k_dtype = ctx.input(1).dtype, v_dtype = ctx.input(2).dtype;
    if (!ctx.has_shape(0) || !ctx.has_shape(1) || !ctx.has_shape(2)) {
        ctx.set_output(0, dtype, std::nullopt);
        ctx.set_output(1, k_dtype, Shape(4, Dim::unknown()));
        ctx.set_output(2, v_dtype, Shape(4, Dim::unknown()));
        return ctx.set_output(3, dtype, Shape(4, Dim::unknown()));
    }
    const Shape &q = ctx.shape(0), &k = ctx.shape(1), &v = ctx.shape(2);
    const bool packed = q.size() == 3;
    if ((!packed && q.size() != 4) || k.size() != q.size() || v.size() != q.size())
        ctx.error("needs queries, keys and values of rank 3 or 4, but has " + to_string(q) + ", " + to_string(k) +
                  " and " + to_string(v));
    if (packed && (!ctx.has("q_num_heads") || !ctx.has("kv_num_heads")))
        ctx.error("needs q_num_heads and kv_num_heads for inputs of rank 3");
    const int64_t q_heads = packed ? ctx.integer("q_num_heads") : 0,
                  kv_heads = packed ? ctx.integer("kv_num_heads") : 0;
    if (packed && (q_heads < 1 || kv_heads < 1)) ctx.error("needs at least one head");
    const Dim heads = packed ? Dim(q_heads) : q[1], key_heads = packed ? Dim(kv_heads) : k[1];
    const Dim length = packed ? q[1] : q[2], size = packed ? split(k[2], kv_heads) : k[3];
    const Dim v_size = packed ? split(v[2], kv_heads) : v[3];
    Dim keys = packed ? k[1] : k[2];
    require_equal(ctx, q[0], k[0], "batches (queries, keys)");
    require_equal(ctx, q[0], v[0], "batches (queries, values)");
    require_equal(ctx, key_heads, packed ? key_heads : v[1], "heads (keys, values)");
    require_equal(ctx, keys, packed ? v[1] : v[2], "lengths (keys, values)");
    require_equal(ctx, packed ? split(q[2], q_heads) : q[3], size, "head sizes (queries, keys)");
    if (heads.is_constant() && key_heads.is_constant() &&
        (*key_heads.value() == 0 || *heads.value() % *key_heads.value() != 0))
        ctx.error("cannot share " + key_heads.to_string() + " heads of keys among " + heads.to_string() +
                  " heads of queries");
    if (ctx.has_input(4)) keys = ctx.has_shape(4) && ctx.shape(4).size() == 4 ? keys + ctx.shape(4)[2] : Dim::unknown();
    ctx.set_output(0, dtype, packed ? Shape{q[0], length, heads * v_size} : Shape{q[0], heads, length, v_size});
    ctx.set_output(1, k_dtype, Shape{q[0], key_heads, keys, size});
    ctx.set_output(2, v_dtype, Shape{q[0], key_heads, keys, v_size});
    ctx.set_output(3, dtype, Shape{q[0], heads, length, keys});
}

namespace {

void recurrent(InferContext& ctx, bool has_cell) {
    const DType dtype = ctx.input(0).dtype;
    require_rank(ctx, 0, 3);
    require_rank(ctx, 1, 3);
    require_rank(ctx, 2, 3);
    const bool batch_first = ctx.integer("layout") != 0;
    const int64_t directions = ctx.text("direction") == "bidirectional" ? 2 : 1;
    Dim length = Dim::unknown(), batch = Dim::unknown(), hidden = Dim::unknown();
    if (ctx.has_shape(0)) {
        length = ctx.shape(0)[batch_first ? 1 : 0];
        batch = ctx.shape(0)[batch_first ? 0 : 1];
    }
    if (ctx.has("hidden_size"))
        hidden = ctx.integer("hidden_size");
    else if (ctx.has_shape(2))
        hidden = ctx.shape(2)[2];
    const Shape state = batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden};
    ctx.set_output(0, dtype,
                   batch_first ? Shape{batch, length, directions, hidden} : Shape{length, directions, batch, hidden});
    ctx.set_output(1, dtype, state);
    if (has_cell) ctx.set_output(2, dtype, state);
}

}  // namespace

void rnn(InferContext& ctx) {
    recurrent(ctx, false);
}
void lstm(InferContext& ctx) {
    recurrent(ctx, true);
}

void quantize_linear(InferContext& ctx) {
    DType dtype = static_cast<DType>(ctx.integer("output_dtype"));
    if (ctx.has_input(2)) {
        const DType zero = ctx.input(2).dtype;
        if (dtype != DType::undefined && zero != DType::undefined && dtype != zero)
            ctx.error("has output_dtype " + std::string(to_string(dtype)) + ", but its zero point is " +
                      std::string(to_string(zero)));
        dtype = zero;
    } else if (dtype == DType::undefined) {
        dtype = DType::u8;
    }
    ctx.set_output(0, dtype, ctx.input(0).shape);
}

void dequantize_linear(InferContext& ctx) {
    require_same_dtype(ctx, 0, 2);
    DType dtype = static_cast<DType>(ctx.integer("output_dtype"));
    if (dtype == DType::undefined) dtype = ctx.input(1).dtype;
    ctx.set_output(0, dtype, ctx.input(0).shape);
}

void dynamic_quantize_linear(InferContext& ctx) {
    ctx.set_output(0, DType::u8, ctx.input(0).shape);
    ctx.set_output(1, DType::f32, Shape{});
    ctx.set_output(2, DType::u8, Shape{});
}

}  // namespace planish::infer
