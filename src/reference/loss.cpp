// Losses: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss.
#include <algorithm>
#include <cmath>

#include "reference/codec.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {

namespace {

/// -weight[target] * log_probability[target] over [batch, classes, positions], reduced. Targets equal to ignore_index
/// count nothing; the mean is over the weights.
void reduce_loss(RefContext& ctx, const std::vector<double>& log_probability) {
    const Tensor &x = ctx.input(0), &target = ctx.input(1);
    const int64_t classes = x.dim(1);
    const int64_t positions = x.size() == 0 ? 0 : x.size() / (x.dim(0) * classes);
    const std::vector<int64_t> targets = target.to_int64s();
    std::vector<double> weights(static_cast<size_t>(classes), 1.0);
    if (ctx.has_input(2)) {
        if (ctx.input(2).size() != classes) ctx.error("needs one weight a class");
        weights = read_all<double>(ctx.input(2));
    }
    const bool ignores = ctx.has("ignore_index");
    const int64_t ignored = ignores ? ctx.integer("ignore_index") : 0;
    std::vector<double> loss(targets.size(), 0.0);
    double total = 0, mass = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
        const int64_t t = targets[i];
        if (ignores && t == ignored) continue;
        if (t < 0 || t >= classes)
            ctx.error("target " + std::to_string(t) + " is none of " + std::to_string(classes) + " classes");
        const auto at = static_cast<int64_t>(i);
        const double weight = weights[static_cast<size_t>(t)];
        loss[i] =
            -weight * log_probability[static_cast<size_t>((at / positions * classes + t) * positions + at % positions)];
        total += loss[i];
        mass += weight;
    }
    const std::string& reduction = ctx.text("reduction");
    if (reduction == "none")
        write_all(loss, ctx.output(0, x.dtype(), target.dims()));
    else
        write_all(std::vector<double>{reduction == "mean" ? total / mass : total}, ctx.output(0, x.dtype(), {}));
}

void require_shapes(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &target = ctx.input(1);
    Dims expected = x.dims();
    if (expected.size() >= 2) expected.erase(expected.begin() + 1);
    if (x.rank() < 2 || target.dims() != expected)
        ctx.error("targets of shape " + to_string(target.dims()) + " do not fit scores of shape " +
                  to_string(x.dims()) + ", whose second axis are the classes");
}

}  // namespace

void negative_log_likelihood_loss(RefContext& ctx) {
    require_shapes(ctx);
    reduce_loss(ctx, read_all<double>(ctx.input(0)));
}

/// Outputs: the loss of log_softmax(scores), and log_softmax(scores).
void softmax_cross_entropy_loss(RefContext& ctx) {
    require_shapes(ctx);
    const Tensor& x = ctx.input(0);
    std::vector<double> values = read_all<double>(x);
    const int64_t classes = x.dim(1);
    const int64_t positions = x.size() == 0 ? 1 : x.size() / (x.dim(0) * classes);
    for (int64_t line = 0; line < x.size() / std::max<int64_t>(classes, 1); ++line) {
        double* at = values.data() + line / positions * classes * positions + line % positions;
        double top = -HUGE_VAL, total = 0;
        for (int64_t c = 0; c < classes; ++c) top = std::fmax(top, at[c * positions]);
        for (int64_t c = 0; c < classes; ++c) total += std::exp(at[c * positions] - top);
        for (int64_t c = 0; c < classes; ++c) at[c * positions] -= top + std::log(total);
    }
    reduce_loss(ctx, values);
    if (ctx.wants_output(1)) write_all(values, ctx.output(1, x.dtype(), x.dims()));
}

}  // namespace planish::reference
