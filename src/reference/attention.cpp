// Attention (multi-head, grouped, cached, windowed) and RotaryEmbedding.
#include <algorithm>
#include <cmath>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"
#include "reference/blocked_gemm.hpp"
#include "reference/elementwise.hpp"

namespace planish::reference {

namespace {

/// [batch, heads, length, size] in float64.
struct Heads {
    int64_t batch = 0, heads = 0, length = 0, size = 0;
    std::vector<double> data;

    const double* head(int64_t n, int64_t h) const { return data.data() + (n * heads + h) * length * size; }
    double* head(int64_t n, int64_t h) { return data.data() + (n * heads + h) * length * size; }
    Dims dims() const { return {batch, heads, length, size}; }
};

/// Reads [batch, heads, length, size], or [batch, length, heads * size] split into `heads`.
Heads read_heads(RefContext& ctx, int i, int64_t heads) {
    const Tensor& t = ctx.input(i);
    Heads h;
    if (t.rank() == 4) {
        h = {t.dim(0), t.dim(1), t.dim(2), t.dim(3), read_all<double>(t)};
        return h;
    }
    if (t.rank() != 3 || heads < 1 || t.dim(2) % heads != 0)
        ctx.error("input " + std::to_string(i) + " of shape " + to_string(t.dims()) + " cannot be split into " +
                  std::to_string(heads) + " heads");
    h = {t.dim(0), heads, t.dim(1), t.dim(2) / heads, std::vector<double>(static_cast<size_t>(t.size()))};
    for (int64_t n = 0; n < h.batch; ++n)
        for (int64_t l = 0; l < h.length; ++l)
            for (int64_t k = 0; k < heads; ++k)
                read(t, ((n * h.length + l) * heads + k) * h.size, 1, h.size, h.head(n, k) + l * h.size);
    return h;
}

/// The cached rows followed by the incoming ones.
Heads append(RefContext& ctx, int past, const Heads& next) {
    if (!ctx.has_input(past)) return next;
    const Heads before = read_heads(ctx, past, 0);
    if (before.batch != next.batch || before.heads != next.heads || before.size != next.size)
        ctx.error("the past of shape " + to_string(before.dims()) + " does not continue in " + to_string(next.dims()));
    Heads all{next.batch, next.heads, before.length + next.length, next.size, {}};
    all.data.reserve(before.data.size() + next.data.size());
    for (int64_t n = 0; n < all.batch; ++n)
        for (int64_t h = 0; h < all.heads; ++h) {
            all.data.insert(all.data.end(), before.head(n, h), before.head(n, h) + before.length * before.size);
            all.data.insert(all.data.end(), next.head(n, h), next.head(n, h) + next.length * next.size);
        }
    return all;
}

/// What is added to the scores [batch, heads, queries, keys]: the mask, the causal frontier, the window, the padding;
/// -inf where a query may not see a key.
class Bias {
  public:
    Bias(RefContext& ctx, int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t past)
        : causal_(ctx.integer("is_causal") != 0),
          left_(ctx.integer("left_window_size")),
          right_(ctx.integer("right_window_size")),
          offsets_(static_cast<size_t>(batch), past) {
        if (ctx.has_input(6)) {
            valid_ = ctx.input(6).to_int64s();
            if (static_cast<int64_t>(valid_.size()) != batch) ctx.error("nonpad_kv_seqlen needs one length a sample");
            for (size_t n = 0; n < valid_.size(); ++n) offsets_[n] = valid_[n] - queries;
        }
        if (!ctx.has_input(3)) return;
        const Tensor& mask = ctx.input(3);
        Dims dims = mask.dims();
        mask_keys_ = dims.empty() ? 1 : dims.back();
        // A mask of one column broadcasts; any other that is short disallows the keys that it does not name.
        const int64_t columns = mask_keys_ == 1 ? keys : std::min(mask_keys_, keys);
        const Dims full{batch, heads, queries, columns};
        if (broadcast(full, dims) != full)
            ctx.error("the mask of shape " + to_string(dims) + " does not broadcast to " +
                      to_string(Dims{batch, heads, queries, keys}));
        if (mask_keys_ == 1) mask_keys_ = keys;
        mask_.resize(static_cast<size_t>(element_count(full)));
        const BroadcastWalk walk(full, {dims});
        walk.for_each_run([&](int64_t first, int64_t count, const int64_t* from) {
            double* out = mask_.data() + first;
            read(mask, from[0], walk.stride(0), count, out);
            if (mask.dtype() == DType::boolean)
                for (int64_t i = 0; i < count; ++i) out[i] = out[i] != 0 ? 0 : -HUGE_VAL;
        });
        rows_ = heads * queries;
        queries_ = queries;
    }

    double at(int64_t n, int64_t head, int64_t query, int64_t key) const {
        double bias = 0;
        if (!mask_.empty() || mask_keys_ > 0)
            bias = key < mask_keys_
                       ? mask_[static_cast<size_t>((n * rows_ + head * queries_ + query) * mask_keys_ + key)]
                       : -HUGE_VAL;
        const int64_t position = query + offsets_[static_cast<size_t>(n)];
        if ((causal_ && key > position) || (left_ >= 0 && position - key > left_) ||
            (right_ >= 0 && key - position > right_) || (!valid_.empty() && key >= valid_[static_cast<size_t>(n)]))
            bias = -HUGE_VAL;
        return bias;
    }

  private:
    bool causal_;
    int64_t left_, right_;
    std::vector<int64_t> offsets_;  // keys before the first query, for each sample
    std::vector<int64_t> valid_;    // keys that are no padding, for each sample; empty: all
    std::vector<double> mask_;
    int64_t mask_keys_ = 0, rows_ = 0, queries_ = 0;
};

void write_heads(const Heads& h, Tensor& out) {
    write_all(h.data, out);
}

}  // namespace

/// Inputs: Q, K, V, attn_mask, past_key, past_value, nonpad_kv_seqlen.
/// Outputs: Y, present_key, present_value, and the scores at the stage that qk_matmul_output_mode names.
void attention(RefContext& ctx) {
    const bool packed = ctx.input(0).rank() == 3;
    const auto heads_of = [&](const char* name) { return packed && ctx.has(name) ? ctx.integer(name) : 0; };
    const Heads q = read_heads(ctx, 0, heads_of("q_num_heads"));
    const Heads k = append(ctx, 4, read_heads(ctx, 1, heads_of("kv_num_heads")));
    const Heads v = append(ctx, 5, read_heads(ctx, 2, heads_of("kv_num_heads")));
    if (k.batch != q.batch || v.batch != q.batch || k.size != q.size || v.length != k.length || v.heads != k.heads ||
        k.heads == 0 || q.heads % k.heads != 0)
        ctx.error("queries " + to_string(q.dims()) + ", keys " + to_string(k.dims()) + " and values " +
                  to_string(v.dims()) + " do not fit together");
    const int64_t share = q.heads / k.heads;  // query heads that use one key head
    const double scale = ctx.has("scale") ? ctx.real("scale") : 1 / std::sqrt(static_cast<double>(q.size));
    const double softcap = ctx.real("softcap");
    const int64_t mode = ctx.integer("qk_matmul_output_mode"), keys = k.length;
    const int64_t past = ctx.has_input(4) ? ctx.input(4).dim(2) : 0;
    const Bias bias(ctx, q.batch, q.heads, q.length, keys, past);
    const bool wants_scores = ctx.wants_output(3);
    Heads shown{q.batch, q.heads, q.length, keys, {}};
    if (wants_scores) shown.data.resize(static_cast<size_t>(q.batch * q.heads * q.length * keys));
    Heads y{q.batch, q.heads, q.length, v.size,
            std::vector<double>(static_cast<size_t>(q.batch * q.heads * q.length * v.size), 0.0)};

    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for(q.batch * q.heads, pool.size(), [&](int64_t task, int) {
        const int64_t n = task / q.heads, head = task % q.heads;
        const double *queries = q.head(n, head), *from_keys = k.head(n, head / share);
        const double* values = v.head(n, head / share);
        std::vector<double> scores(static_cast<size_t>(q.length * keys), 0.0);
        blocked_gemm(
            q.length, keys, q.size,
            [&](int64_t line, int64_t first, int64_t count, double* out) {
                for (int64_t i = 0; i < count; ++i) out[i] = scale * queries[line * q.size + first + i];
            },
            [&](int64_t line, int64_t first, int64_t count, double* out) {
                for (int64_t i = 0; i < count; ++i) out[i] = from_keys[(first + i) * k.size + line];
            },
            scores.data());
        double* show = wants_scores ? shown.head(n, head) : nullptr;
        for (int64_t row = 0; row < q.length; ++row) {
            double* line = scores.data() + row * keys;
            const auto reveal = [&](int64_t stage) {
                if (show && mode == stage) std::copy_n(line, keys, show + row * keys);
            };
            reveal(0);
            if (softcap > 0)
                for (int64_t j = 0; j < keys; ++j) line[j] = softcap * std::tanh(line[j] / softcap);
            reveal(1);
            bool any = false;  // a key that this query may see
            double top = -HUGE_VAL;
            for (int64_t j = 0; j < keys; ++j) {
                const double b = bias.at(n, head, row, j);
                any = any || b != -HUGE_VAL;
                line[j] += b;
                top = line[j] > top || line[j] != line[j] ? line[j] : top;
            }
            reveal(2);
            double total = 0;
            for (int64_t j = 0; j < keys; ++j) total += line[j] = any && top != -HUGE_VAL ? std::exp(line[j] - top) : 0;
            if (total != 0)
                for (int64_t j = 0; j < keys; ++j) line[j] /= total;
            reveal(3);
        }
        blocked_gemm(
            q.length, v.size, keys,
            [&](int64_t line, int64_t first, int64_t count, double* out) {
                std::copy_n(scores.data() + line * keys + first, count, out);
            },
            [&](int64_t line, int64_t first, int64_t count, double* out) {
                std::copy_n(values + line * v.size + first, count, out);
            },
            y.head(n, head));
    });

    const DType dtype = ctx.input(0).dtype();
    if (packed) {
        Tensor& out = ctx.output(0, dtype, {q.batch, q.length, q.heads * v.size});
        for (int64_t n = 0; n < q.batch; ++n)
            for (int64_t head = 0; head < q.heads; ++head)
                for (int64_t l = 0; l < q.length; ++l)
                    write(y.head(n, head) + l * v.size, v.size, out, ((n * q.length + l) * q.heads + head) * v.size);
    } else {
        write_heads(y, ctx.output(0, dtype, y.dims()));
    }
    if (ctx.wants_output(1)) write_heads(k, ctx.output(1, ctx.input(1).dtype(), k.dims()));
    if (ctx.wants_output(2)) write_heads(v, ctx.output(2, ctx.input(2).dtype(), v.dims()));
    if (wants_scores) write_heads(shown, ctx.output(3, dtype, shown.dims()));
}

/// Rotates pairs of each head's features by the angle of their position (https://arxiv.org/abs/2104.09864).
/// Inputs: X, cos_cache, sin_cache, position_ids.
void rotary_embedding(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const bool packed = x.rank() == 3;
    if (!packed && x.rank() != 4) ctx.error("needs an input of rank 3 or 4, not " + to_string(x.dims()));
    const int64_t heads = packed ? (ctx.has("num_heads") ? ctx.integer("num_heads") : 0) : x.dim(1);
    if (heads < 1 || (packed && x.dim(2) % heads != 0))
        ctx.error("an input of shape " + to_string(x.dims()) + " cannot be split into " + std::to_string(heads) +
                  " heads");
    const int64_t batch = x.dim(0), length = packed ? x.dim(1) : x.dim(2), size = packed ? x.dim(2) / heads : x.dim(3);
    const int64_t given = ctx.integer("rotary_embedding_dim"), rotated = given == 0 ? size : given, half = rotated / 2;
    const bool interleaved = ctx.integer("interleaved") != 0;
    const std::vector<double> cosines = read_all<double>(ctx.input(1)), sines = read_all<double>(ctx.input(2));
    if (rotated < 0 || rotated > size || rotated % 2 != 0 || ctx.input(1).dims() != ctx.input(2).dims() ||
        ctx.input(1).rank() < 1 || ctx.input(1).dim(-1) != half)
        ctx.error("caches of shapes " + to_string(ctx.input(1).dims()) + " and " + to_string(ctx.input(2).dims()) +
                  " do not fit a rotation of " + std::to_string(rotated) + " features");
    std::vector<int64_t> positions;
    if (ctx.has_input(3)) {
        positions = ctx.input(3).to_int64s();
        if (ctx.input(3).size() != batch * length)
            ctx.error(std::to_string(ctx.input(3).size()) + " positions are given for " +
                      std::to_string(batch * length));
    }
    const auto rows = static_cast<int64_t>(cosines.size()) / std::max<int64_t>(half, 1);
    std::vector<double> values = read_all<double>(x);
    for (int64_t n = 0; n < batch; ++n)
        for (int64_t l = 0; l < length; ++l) {
            const int64_t row = positions.empty() ? n * length + l : positions[static_cast<size_t>(n * length + l)];
            if (row < 0 || row >= rows)
                ctx.error("position " + std::to_string(row) + " lies outside a cache of " + std::to_string(rows));
            for (int64_t h = 0; h < heads; ++h) {
                double* at =
                    values.data() + (packed ? (n * length + l) * heads + h : (n * heads + h) * length + l) * size;
                for (int64_t i = 0; i < half; ++i) {
                    double& a = at[interleaved ? 2 * i : i];
                    double& b = at[interleaved ? 2 * i + 1 : half + i];
                    const double c = cosines[static_cast<size_t>(row * half + i)];
                    const double s = sines[static_cast<size_t>(row * half + i)];
                    const double real = c * a - s * b;
                    b = s * a + c * b;
                    a = real;
                }
            }
        }
    write_all(values, ctx.output(0, x.dtype(), x.dims()));
}

}  // namespace planish::reference
