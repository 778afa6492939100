// Layer-wise least squares.
#include "sparsity/reconstruct.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "sparsity/products.hpp"

namespace planish::sparsity {
namespace {

constexpr int64_t kMostChannels = 4096;  // beyond, normal equations take minutes

/// Products of `pruned` whose input is not what it was, in order.
std::vector<Product> disturbed_products(const Graph& pruned, const Graph& original) {
    std::set<const Value*> changed;
    std::vector<Product> result;
    for (const Value* value : pruned.values())
        if (value->is_constant()) {
            const Value* before = original.find_value(value->name);
            if (before == nullptr || !before->is_constant() || before->constant->dims() != value->constant->dims())
                changed.insert(value);
        }
    for (const auto& node : pruned.nodes()) {
        const auto product = as_product(*node);
        if (product && changed.contains(node->input(0))) result.push_back(*product);
        if (std::any_of(node->inputs().begin(), node->inputs().end(),
                        [&](const Value* v) { return v != nullptr && changed.contains(v); }))
            changed.insert(node->outputs().begin(), node->outputs().end());
    }
    return result;
}

/// rows · weightsᵀ, outputs of all kernel places side by side.
Matrix apply(const Matrix& rows, const Weights& w, const std::vector<int64_t>& channels) {
    Matrix transposed(static_cast<int64_t>(channels.size()), rows.rows), matrix(transposed.rows, w.outputs * w.kernel);
    for (int64_t r = 0; r < rows.rows; ++r)
        for (size_t c = 0; c < channels.size(); ++c)
            transposed.at(static_cast<int64_t>(c), r) = rows.at(r, channels[c]);
    for (size_t c = 0; c < channels.size(); ++c)
        for (int64_t o = 0; o < w.outputs; ++o)
            for (int64_t k = 0; k < w.kernel; ++k)
                matrix.at(static_cast<int64_t>(c), o * w.kernel + k) = w.at(o, channels[c], k);
    return transposed_product(transposed, matrix);
}

double relative_distance(const Matrix& a, const Matrix& b, bool centred) {
    Matrix reference = b;
    if (centred) centre_columns(reference);
    double distance = 0, size = 0;
    for (size_t i = 0; i < a.data.size(); ++i) {
        distance += (a.data[i] - b.data[i]) * (a.data[i] - b.data[i]);
        size += reference.data[i] * reference.data[i];
    }
    return size > 0 ? std::sqrt(distance / size) : 0;
}

std::vector<int64_t> all(int64_t count) {
    std::vector<int64_t> indices(static_cast<size_t>(count));
    std::iota(indices.begin(), indices.end(), int64_t{0});
    return indices;
}

/// Data that the fit has not seen decides how far it may go: the last fifth of the samples chooses between ridges, and
/// the prior itself, so that few data seldom make a layer worse. Then all of the data is fitted.
Matrix fit(const Matrix& x, const Matrix& t, const Matrix& prior, double ridge) {
    const int64_t seen = x.rows - x.rows / 5;
    const Matrix held_x = rows_of(x, seen, x.rows), held_t = rows_of(t, seen, t.rows);
    NormalEquations equations(rows_of(x, 0, seen), rows_of(t, 0, seen));
    double best = squared_error(held_x, held_t, prior), chosen = -1;
    for (const double candidate : {ridge, 10 * ridge, 100 * ridge}) {
        const double error = squared_error(held_x, held_t, equations.solve(prior, candidate));
        if (error >= best) continue;
        best = error;
        chosen = candidate;
    }
    if (chosen < 0) return prior;
    equations += NormalEquations(held_x, held_t);
    return equations.solve(prior, chosen);
}

/// The outputs' weights themselves are fitted: W' = argmin |W x - W' x'|.
void fit_product(const Product& product, const Weights& now, const Matrix& target, const Matrix& inputs, bool shifts,
                 double ridge) {
    Matrix x = inputs, t = target, prior(now.outputs, now.channels);
    std::vector<double> mean_x, mean_t;
    if (shifts) {
        mean_x = centre_columns(x);
        mean_t = centre_columns(t);
    }
    for (int64_t o = 0; o < now.outputs; ++o)
        for (int64_t c = 0; c < now.channels; ++c) prior.at(o, c) = now.at(o, c, 0);
    const Matrix fitted = fit(x, t, prior, ridge);
    Weights weights = now;
    for (int64_t o = 0; o < now.outputs; ++o)
        for (int64_t c = 0; c < now.channels; ++c) weights.at(o, c, 0) = fitted.at(o, c);
    write_weights(product, weights);
    if (!shifts) return;
    std::vector<double> shift = mean_t;
    for (int64_t o = 0; o < now.outputs; ++o)
        for (int64_t c = 0; c < now.channels; ++c)
            shift[static_cast<size_t>(o)] -= fitted.at(o, c) * mean_x[static_cast<size_t>(c)];
    add_to_bias(product, shift);
}

/// x ≈ M x' for all original channels, so W'[:, s, k] = sum over c of W[:, c, k] M[c, s]. No constant term: where the
/// kernel reaches over the border it reads zeros.
void fit_kernel(const Product& product, const Weights& before, const std::vector<int64_t>& kept, const Matrix& original,
                const Matrix& inputs, double ridge) {
    Matrix prior(before.channels, inputs.columns);
    for (size_t s = 0; s < kept.size(); ++s) prior.at(kept[s], static_cast<int64_t>(s)) = 1;
    const Matrix mix = fit(inputs, original, prior, ridge);
    Weights weights{before.outputs, inputs.columns, before.kernel, {}};
    weights.values.resize(static_cast<size_t>(weights.outputs * weights.channels * weights.kernel));
    for (int64_t o = 0; o < before.outputs; ++o)
        for (int64_t c = 0; c < before.channels; ++c)
            for (int64_t s = 0; s < weights.channels; ++s)
                for (int64_t k = 0; k < before.kernel; ++k) weights.at(o, s, k) += before.at(o, c, k) * mix.at(c, s);
    write_weights(product, weights);
}

}  // namespace

std::vector<Repair> reconstruct(const Graph& original, Graph& pruned, const Channels& channels,
                                const std::vector<bool>& removed, const Observer& observer,
                                const ReconstructOptions& options) {
    std::vector<Product> work = disturbed_products(pruned, original), before;
    std::vector<Tap> taps;
    std::erase_if(work, [&](const Product& product) {
        const Value* y = original.find_value(product.node->output()->name);
        const auto source = y && y->producer ? as_product(*y->producer) : std::nullopt;
        if (!source || read_weights(product).channels > kMostChannels) return true;
        before.push_back(*source);
        taps.push_back({source->node->input(0)->name, source->channel_axis});
        return false;
    });
    std::vector<Repair> result;
    if (work.empty() || observer.empty()) return result;
    const std::vector<Matrix> originals = observer.observe(original, taps);
    // Layers that read the same value are adapted together.
    for (size_t first = 0; first < work.size();) {
        size_t last = first + 1;
        const Value* x = work[first].node->input(0);
        while (last < work.size() && work[last].node->input(0) == x) ++last;
        const Matrix inputs = observer.observe(pruned, {{x->name, work[first].channel_axis}})[0];
        for (; first < last; ++first) {
            const Product& product = work[first];
            if (options.progress)
                options.progress(product.layer(), static_cast<double>(first) / static_cast<double>(work.size()));
            const Weights old = read_weights(before[first]);
            const ChannelAxis* axis =
                channels.find(before[first].node->input(0), static_cast<int>(before[first].channel_axis));
            const std::vector<int64_t> kept = axis ? kept_indices(*axis, removed) : all(old.channels);
            const ChannelAxis* rows =
                channels.find(before[first].node->input(1),
                              before[first].node->is("Conv") ||
                                      (before[first].node->is("Gemm") && before[first].node->integer("transB") != 0)
                                  ? 0
                                  : 1);
            // Of the original layer only the outputs that are left.
            Weights wanted = old;
            if (rows != nullptr) {
                const std::vector<int64_t> outputs = kept_indices(*rows, removed);
                wanted = {static_cast<int64_t>(outputs.size()), old.channels, old.kernel, {}};
                const int64_t row = old.channels * old.kernel;
                for (const int64_t o : outputs)
                    wanted.values.insert(wanted.values.end(), old.values.begin() + o * row,
                                         old.values.begin() + (o + 1) * row);
            }
            const Weights now = read_weights(product);
            const Matrix target = apply(originals[first], wanted, all(wanted.channels));
            const bool shifts = now.kernel == 1 && takes_bias(product, options.add_biases);
            Repair repair{product.layer(), relative_distance(apply(inputs, now, all(now.channels)), target, shifts), 0};
            if (options.apply) {
                if (now.kernel == 1)
                    fit_product(product, now, target, inputs, shifts, options.ridge);
                else
                    fit_kernel(product, wanted, kept, originals[first], inputs, options.ridge);
                Matrix made = apply(inputs, read_weights(product), all(now.channels));
                Matrix reference = target;
                if (shifts) {
                    centre_columns(made);
                    centre_columns(reference);
                }
                repair.error = relative_distance(made, reference, false);
            } else {
                repair.error = repair.error_before;
            }
            result.push_back(std::move(repair));
        }
    }
    return result;
}

}  // namespace planish::sparsity
