// Recurrent networks: RNN, GRU, LSTM with sequence lengths, both directions and all of ONNX's activations.
#include <algorithm>
#include <cmath>
#include <functional>

#include "planish/error.hpp"
#include "reference/blocked_gemm.hpp"
#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

using Activation = std::function<double(double)>;

/// The named activation with its constants; alpha and beta are taken from the front of the node's lists as needed.
class ActivationReader {
  public:
    explicit ActivationReader(RefContext& ctx) : ctx_(ctx) {
        for (std::string_view name : {"activation_alpha", "activation_beta"})
            if (const Attribute* a = ctx.node().find(name))
                (name == "activation_alpha" ? alphas_ : betas_) = std::get<std::vector<double>>(*a);
    }

    Activation make(const std::string& given) {
        std::string name = given;
        std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
        if (name == "relu") return [](double x) { return std::fmax(x, 0.0); };
        if (name == "tanh") return [](double x) { return std::tanh(x); };
        if (name == "sigmoid") return [](double x) { return 1 / (1 + std::exp(-x)); };
        if (name == "softsign") return [](double x) { return x / (1 + std::fabs(x)); };
        if (name == "softplus") return [](double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); };
        if (name == "affine") {
            const double a = alpha(1), b = beta(0);
            return [=](double x) { return a * x + b; };
        }
        if (name == "leakyrelu") {
            const double a = alpha(0.01);
            return [=](double x) { return x >= 0 ? x : a * x; };
        }
        if (name == "thresholdedrelu") {
            const double a = alpha(1);
            return [=](double x) { return x >= a ? x : 0; };
        }
        if (name == "scaledtanh") {
            const double a = alpha(1), b = beta(1);
            return [=](double x) { return a * std::tanh(b * x); };
        }
        if (name == "hardsigmoid") {
            const double a = alpha(0.2), b = beta(0.5);
            return [=](double x) { return std::fmin(std::fmax(a * x + b, 0.0), 1.0); };
        }
        if (name == "elu") {
            const double a = alpha(1);
            return [=](double x) { return x >= 0 ? x : a * std::expm1(x); };
        }
        ctx_.error("activation '" + given + "' is none that ONNX defines");
    }

  private:
    static double take(std::vector<double>& from, double fallback) {
        if (from.empty()) return fallback;
        const double value = from.front();
        from.erase(from.begin());
        return value;
    }
    double alpha(double fallback) { return take(alphas_, fallback); }
    double beta(double fallback) { return take(betas_, fallback); }

    RefContext& ctx_;
    std::vector<double> alphas_, betas_;
};

/// One direction's weights, and the state of one step. Matrices are [gates * hidden, in] row-major.
struct Cell {
    int64_t batch, input, hidden, gates;
    const double *w, *r;
    std::vector<double> w_bias, r_bias;  // [gates * hidden]
    const double* peephole = nullptr;    // [3 * hidden] or null
    std::vector<Activation> f;           // activations in the op's order
    double clip = HUGE_VAL;

    double bounded(double x) const { return std::clamp(x, -clip, clip); }

    /// rows [from, from + count) of `matrix` times each sample of `x`, plus bias: [batch, count].
    std::vector<double> product(const double* matrix, int64_t columns, const std::vector<double>& bias, const double* x,
                                int64_t from, int64_t count) const {
        std::vector<double> out(static_cast<size_t>(batch * count));
        for (int64_t n = 0; n < batch; ++n) std::copy_n(bias.data() + from, count, out.data() + n * count);
        blocked_gemm(
            batch, count, columns,
            [&](int64_t line, int64_t first, int64_t length, double* to) {
                std::copy_n(x + line * columns + first, length, to);
            },
            [&](int64_t line, int64_t first, int64_t length, double* to) {
                for (int64_t i = 0; i < length; ++i) to[i] = matrix[(from + first + i) * columns + line];
            },
            out.data());
        return out;
    }
};

/// Advances h (and c) of all samples by one step; `x` is [batch, input].
using Step = void (*)(const Cell& cell, const double* x, const std::vector<double>& h, std::vector<double>& next_h,
                      std::vector<double>& c, bool flag);

/// H = f(W x + R h + b)
void rnn_step(const Cell& cell, const double* x, const std::vector<double>& h, std::vector<double>& next_h,
              std::vector<double>&, bool) {
    const auto a = cell.product(cell.w, cell.input, cell.w_bias, x, 0, cell.hidden);
    const auto b = cell.product(cell.r, cell.hidden, cell.r_bias, h.data(), 0, cell.hidden);
    for (size_t i = 0; i < a.size(); ++i) next_h[i] = cell.f[0](cell.bounded(a[i] + b[i]));
}

/// Gates z, r, h. `linear_before_reset`: the reset gate multiplies the recurrent product, not the state.
void gru_step(const Cell& cell, const double* x, const std::vector<double>& h, std::vector<double>& next_h,
              std::vector<double>&, bool linear_before_reset) {
    const int64_t hidden = cell.hidden, all = 3 * hidden;
    const auto a = cell.product(cell.w, cell.input, cell.w_bias, x, 0, all);
    const auto b = cell.product(cell.r, hidden, cell.r_bias, h.data(), 0, 2 * hidden);
    const auto size = static_cast<size_t>(cell.batch * hidden);
    std::vector<double> z(size), reset(size), scaled(size);
    for (int64_t n = 0; n < cell.batch; ++n)
        for (int64_t i = 0; i < hidden; ++i) {
            const auto at = static_cast<size_t>(n * hidden + i);
            const auto gate = [&](int64_t g) {
                return cell.f[0](cell.bounded(a[static_cast<size_t>(n * all + g * hidden + i)] +
                                              b[static_cast<size_t>(n * 2 * hidden + g * hidden + i)]));
            };
            z[at] = gate(0);
            reset[at] = gate(1);
            scaled[at] = reset[at] * h[at];
        }
    const auto recurrent =
        cell.product(cell.r, hidden, cell.r_bias, linear_before_reset ? h.data() : scaled.data(), 2 * hidden, hidden);
    for (int64_t n = 0; n < cell.batch; ++n)
        for (int64_t i = 0; i < hidden; ++i) {
            const auto at = static_cast<size_t>(n * hidden + i);
            const double r = linear_before_reset ? reset[at] * recurrent[at] : recurrent[at];
            const double candidate = cell.f[1](cell.bounded(a[static_cast<size_t>(n * all + 2 * hidden + i)] + r));
            next_h[at] = (1 - z[at]) * candidate + z[at] * h[at];
        }
}

/// Gates i, o, f, c. `coupled`: the forget gate is 1 - the input gate.
void lstm_step(const Cell& cell, const double* x, const std::vector<double>& h, std::vector<double>& next_h,
               std::vector<double>& c, bool coupled) {
    const int64_t hidden = cell.hidden, all = 4 * hidden;
    const auto a = cell.product(cell.w, cell.input, cell.w_bias, x, 0, all);
    const auto b = cell.product(cell.r, hidden, cell.r_bias, h.data(), 0, all);
    const auto peep = [&](int64_t gate, int64_t i) { return cell.peephole ? cell.peephole[gate * hidden + i] : 0.0; };
    for (int64_t n = 0; n < cell.batch; ++n)
        for (int64_t i = 0; i < hidden; ++i) {
            const auto at = static_cast<size_t>(n * hidden + i);
            const auto sum = [&](int64_t g) {
                const auto k = static_cast<size_t>(n * all + g * hidden + i);
                return a[k] + b[k];
            };
            const double in = cell.f[0](cell.bounded(sum(0) + peep(0, i) * c[at]));
            const double forget = coupled ? 1 - in : cell.f[0](cell.bounded(sum(2) + peep(2, i) * c[at]));
            const double candidate = cell.f[1](cell.bounded(sum(3)));
            c[at] = forget * c[at] + in * candidate;
            const double out = cell.f[0](cell.bounded(sum(1) + peep(1, i) * c[at]));
            next_h[at] = out * cell.f[2](cell.bounded(c[at]));
        }
}

/// A [directions, batch, hidden] state, or the same with batch first, as [directions][batch * hidden].
std::vector<std::vector<double>> read_state(RefContext& ctx, int i, int64_t directions, int64_t batch, int64_t hidden,
                                            bool batch_first) {
    std::vector<std::vector<double>> state(static_cast<size_t>(directions),
                                           std::vector<double>(static_cast<size_t>(batch * hidden), 0.0));
    if (!ctx.has_input(i)) return state;
    if (ctx.input(i).size() != directions * batch * hidden)
        ctx.error("the initial state of shape " + to_string(ctx.input(i).dims()) + " must hold " +
                  std::to_string(directions * batch * hidden) + " values");
    const std::vector<double> given = read_all<double>(ctx.input(i));
    for (int64_t d = 0; d < directions; ++d)
        for (int64_t n = 0; n < batch; ++n)
            std::copy_n(given.data() + (batch_first ? n * directions + d : d * batch + n) * hidden, hidden,
                        state[static_cast<size_t>(d)].data() + n * hidden);
    return state;
}

/// Inputs: X, W, R, B, sequence_lens, initial_h, and for LSTM initial_c, P. Outputs: Y, Y_h, and for LSTM Y_c.
void recur(RefContext& ctx, int64_t gates, const std::vector<std::string>& default_activations, bool flag, Step step) {
    const Tensor &x = ctx.input(0), &w = ctx.input(1), &r = ctx.input(2);
    const bool batch_first = ctx.integer("layout") != 0, has_cell = gates == 4;
    if (x.rank() != 3 || w.rank() != 3 || r.rank() != 3) ctx.error("X, W and R must have rank 3");
    const int64_t length = x.dim(batch_first ? 1 : 0), batch = x.dim(batch_first ? 0 : 1), input = x.dim(2);
    const int64_t directions = w.dim(0), hidden = r.dim(2);
    const std::string& direction = ctx.text("direction");
    if (directions != (direction == "bidirectional" ? 2 : 1) || w.dim(1) != gates * hidden || w.dim(2) != input ||
        r.dim(0) != directions || r.dim(1) != gates * hidden)
        ctx.error("weights of shapes " + to_string(w.dims()) + " and " + to_string(r.dims()) + " do not fit input " +
                  to_string(x.dims()) + " in direction '" + direction + "'");
    const std::vector<double> weights = read_all<double>(w), recurrent = read_all<double>(r);
    const std::vector<double> bias = ctx.has_input(3) ? read_all<double>(ctx.input(3)) : std::vector<double>{};
    const std::vector<double> peepholes =
        has_cell && ctx.has_input(7) ? read_all<double>(ctx.input(7)) : std::vector<double>{};
    if (!bias.empty() && static_cast<int64_t>(bias.size()) != directions * 2 * gates * hidden)
        ctx.error("the bias of shape " + to_string(ctx.input(3).dims()) + " does not fit the weights");
    std::vector<int64_t> lengths(static_cast<size_t>(batch), length);
    if (ctx.has_input(4)) lengths = ctx.input(4).to_int64s();
    if (static_cast<int64_t>(lengths.size()) != batch) ctx.error("sequence_lens must have one length a sample");
    auto h = read_state(ctx, 5, directions, batch, hidden, batch_first);
    auto c = has_cell ? read_state(ctx, 6, directions, batch, hidden, batch_first) : h;

    const std::vector<double> in = read_all<double>(x);
    std::vector<double> y(static_cast<size_t>(length * directions * batch * hidden), 0.0),
        step_x(static_cast<size_t>(batch * input));
    std::vector<std::string> names = default_activations;
    if (const Attribute* a = ctx.node().find("activations")) names = std::get<std::vector<std::string>>(*a);
    const size_t per_direction = default_activations.size();
    if (names.size() < per_direction) ctx.error("names too few activations");
    ActivationReader activations(ctx);
    for (int64_t d = 0; d < directions; ++d) {
        Cell cell{batch,
                  input,
                  hidden,
                  gates,
                  weights.data() + d * gates * hidden * input,
                  recurrent.data() + d * gates * hidden * hidden,
                  {},
                  {},
                  nullptr,
                  {}};
        const auto rows = static_cast<size_t>(gates * hidden);
        cell.w_bias.assign(rows, 0.0);
        cell.r_bias.assign(rows, 0.0);
        if (!bias.empty()) {
            const double* from = bias.data() + d * 2 * gates * hidden;
            std::copy_n(from, rows, cell.w_bias.data());
            std::copy_n(from + rows, rows, cell.r_bias.data());
        }
        if (!peepholes.empty()) cell.peephole = peepholes.data() + d * 3 * hidden;
        if (ctx.has("clip")) cell.clip = ctx.real("clip");
        for (size_t i = 0; i < per_direction; ++i) {
            const size_t at = static_cast<size_t>(d) * per_direction + i;
            cell.f.push_back(activations.make(names[at < names.size() ? at : i]));
        }
        const bool backward = direction == "reverse" || d == 1;
        auto &state = h[static_cast<size_t>(d)], &memory = c[static_cast<size_t>(d)];
        auto next = state, previous = memory;
        for (int64_t t = 0; t < length; ++t) {
            // Sample n takes its step t of its own length; going backward it starts at its own end.
            for (int64_t n = 0; n < batch; ++n) {
                const int64_t size = lengths[static_cast<size_t>(n)], at = backward && t < size ? size - 1 - t : t;
                const int64_t row = batch_first ? n * length + at : at * batch + n;
                std::copy_n(in.data() + row * input, input, step_x.data() + n * input);
            }
            previous = memory;
            step(cell, step_x.data(), state, next, memory, flag);
            for (int64_t n = 0; n < batch; ++n) {
                const int64_t size = lengths[static_cast<size_t>(n)];
                if (t >= size) {  // past the end: the state stays
                    std::copy_n(previous.data() + n * hidden, hidden, memory.data() + n * hidden);
                    continue;
                }
                std::copy_n(next.data() + n * hidden, hidden, state.data() + n * hidden);
                const int64_t at = backward ? size - 1 - t : t;
                const int64_t row =
                    batch_first ? (n * length + at) * directions + d : (at * directions + d) * batch + n;
                std::copy_n(next.data() + n * hidden, hidden, y.data() + row * hidden);
            }
        }
    }
    if (ctx.wants_output(0))
        write_all(y, ctx.output(0, x.dtype(),
                                batch_first ? Dims{batch, length, directions, hidden}
                                            : Dims{length, directions, batch, hidden}));
    const auto put_state = [&](int i, const std::vector<std::vector<double>>& state) {
        if (!ctx.wants_output(i)) return;
        Tensor& out =
            ctx.output(i, x.dtype(), batch_first ? Dims{batch, directions, hidden} : Dims{directions, batch, hidden});
        for (int64_t d = 0; d < directions; ++d)
            for (int64_t n = 0; n < batch; ++n)
                write(state[static_cast<size_t>(d)].data() + n * hidden, hidden, out,
                      (batch_first ? n * directions + d : d * batch + n) * hidden);
    };
    put_state(1, h);
    if (has_cell) put_state(2, c);
}

}  // namespace

void rnn(RefContext& ctx) {
    recur(ctx, 1, {"Tanh"}, false, rnn_step);
}
void gru(RefContext& ctx) {
    recur(ctx, 3, {"Sigmoid", "Tanh"}, ctx.integer("linear_before_reset") != 0, gru_step);
}
void lstm(RefContext& ctx) {
    recur(ctx, 4, {"Sigmoid", "Tanh", "Tanh"}, ctx.integer("input_forget") != 0, lstm_step);
}

}  // namespace planish::reference
