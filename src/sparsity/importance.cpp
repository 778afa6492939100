// The criteria.
#include "sparsity/importance.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "planish/error.hpp"
#include "sparsity/products.hpp"

namespace planish::sparsity {
namespace {

constexpr size_t kShown = 16;  // samples that losses are measured on
// Of a mean variance: directions that the data does not have cost something too, the more the fewer data there are.
constexpr double kRidge = 1e-3, kRidgeForFew = 0.03;

/// Sums of |w|^power over the slices of an axis, by channel of the group; 0 for channels that the axis does not have.
std::vector<double> slice_norms(const ChannelAxis& axis, const std::map<int, size_t>& place, int power) {
    std::vector<double> sums(place.size());
    const Tensor& tensor = *axis.value->constant;
    int64_t inner = 1;
    for (int64_t i = axis.axis + 1; i < tensor.rank(); ++i) inner *= tensor.dim(i);
    const int64_t size = tensor.dim(axis.axis);
    for (int64_t i = 0; i < tensor.size(); ++i) {
        const auto it = place.find(axis.channel[static_cast<size_t>(i / inner % size)]);
        if (it == place.end()) continue;
        const double w = std::fabs(tensor.at_double(i));
        sums[it->second] += power == 1 ? w : w * w;
    }
    return sums;
}

std::map<int, size_t> places_of(const ChannelGroup& group) {
    std::map<int, size_t> place;
    for (size_t i = 0; i < group.channels.size(); ++i) place[group.channels[i]] = i;
    return place;
}

bool is_scale(const Value& value) {
    return std::any_of(value.uses.begin(), value.uses.end(), [](const Use& use) {
        return use.index == 1 && (use.node->is("BatchNormalization") || use.node->is("InstanceNormalization"));
    });
}

/// Mean over the axes of the group, each relative to its own mean.
std::vector<double> norm_scores(const Channels& channels, const ChannelGroup& group, const std::string& criterion) {
    const std::map<int, size_t> place = places_of(group);
    const int power = criterion == "l2" ? 2 : 1;
    std::vector<const ChannelAxis*> weights, scales;
    for (const int a : group.axes) {
        const ChannelAxis& axis = channels.axes[static_cast<size_t>(a)];
        if (!axis.value->is_constant() || !is_float(axis.value->type.dtype)) continue;
        if (axis.value->constant->rank() > 1 && (criterion != "bn" || axis.axis == 0)) weights.push_back(&axis);
        if (criterion == "bn" && is_scale(*axis.value)) scales.push_back(&axis);
    }
    std::vector<double> scores(group.channels.size());
    for (const ChannelAxis* axis : scales.empty() ? weights : scales) {
        const std::vector<double> sums = slice_norms(*axis, place, power);
        const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(sums.size());
        if (mean > 0)
            for (size_t i = 0; i < sums.size(); ++i) scores[i] += sums[i] / mean;
    }
    return scores;
}

/// `whole`: what the loss of all channels counts.
Curve by_scores(const ChannelGroup& group, const std::vector<double>& scores, double whole) {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
    const double total = std::accumulate(scores.begin(), scores.end(), 0.0);
    Curve curve{{}, {0}};
    for (const size_t i : order) {
        curve.order.push_back(group.channels[i]);
        curve.loss.push_back(curve.loss.back() + (total > 0 ? whole * scores[i] / total : 0));
    }
    return curve;
}

/// A layer that reads the group's channels, while they are removed: its weights and the inverse covariance of its
/// input, both as they are without the channels that have gone.
class Reader {
  public:
    Reader(const Product& product, const ChannelAxis& axis, Matrix rows)
        : product_(product), axis_(axis), original_(read_weights(product)) {
        const Weights& w = original_;
        weights_ = Matrix(w.channels, w.outputs * w.kernel);  // a channel in a row
        for (int64_t o = 0; o < w.outputs; ++o)
            for (int64_t c = 0; c < w.channels; ++c)
                for (int64_t k = 0; k < w.kernel; ++k) weights_.at(c, o * w.kernel + k) = w.at(o, c, k);
        if (takes_bias(product, true)) mean_ = centre_columns(rows);
        Matrix covariance = transposed_product(rows, rows);
        double trace = 0;
        for (int64_t i = 0; i < covariance.rows; ++i) trace += covariance.at(i, i);
        energy_ = 0;
        for (int64_t i = 0; i < covariance.rows; ++i)
            for (int64_t j = 0; j <= i; ++j) {
                const double c = covariance.at(i, j);
                if (c == 0) continue;
                const double* a = weights_.row(i);
                const double* b = weights_.row(j);
                double dot = 0;
                for (int64_t o = 0; o < weights_.columns; ++o) dot += a[o] * b[o];
                energy_ += (i == j ? 1 : 2) * c * dot;
            }
        Matrix identity(covariance.rows, covariance.rows);
        for (int64_t i = 0; i < identity.rows; ++i) identity.at(i, i) = 1;
        const double ridge = kRidge + kRidgeForFew * static_cast<double>(rows.columns) /
                                          static_cast<double>(std::max<int64_t>(rows.rows, 1));
        const double lambda = ridge * trace / static_cast<double>(std::max<int64_t>(covariance.rows, 1));
        inverse_ = solve(std::move(covariance), std::move(identity), lambda > 0 ? lambda : 1e-30);
        for (int64_t i = 0; i < inverse_.rows; ++i) alive_.push_back(i);
        norms_.resize(static_cast<size_t>(weights_.rows));
        for (int64_t i = 0; i < weights_.rows; ++i) update_norm(i);
    }

    const std::string& weights_name() const { return product_.node->input(1)->name; }
    const ChannelAxis& axis() const { return axis_; }

    /// What removing the channel adds to the relative error.
    double cost(int channel) const {
        double sum = 0;
        for (const int64_t i : alive_)
            if (axis_.channel[static_cast<size_t>(i)] == channel)
                sum += norms_[static_cast<size_t>(i)] / std::max(inverse_.at(i, i), 1e-300);
        return energy_ > 0 ? sum / energy_ : 0;
    }

    void remove(int channel) {
        for (size_t at = 0; at < alive_.size();) {
            if (axis_.channel[static_cast<size_t>(alive_[at])] != channel) {
                ++at;
                continue;
            }
            const int64_t k = alive_[at];
            alive_.erase(alive_.begin() + static_cast<std::ptrdiff_t>(at));
            eliminate(k);
        }
    }

    /// Gives the same layer of `other`, a copy of the graph, the weights of the channels that are left, adapted, and
    /// zeros for those that have gone. A bias takes up the change of the mean.
    void apply(Graph& other) const {
        const std::optional<Product> product = as_product(*other.find_value(product_.node->output()->name)->producer);
        Weights w = original_;
        std::fill(w.values.begin(), w.values.end(), 0);
        for (const int64_t c : alive_)
            for (int64_t o = 0; o < w.outputs; ++o)
                for (int64_t k = 0; k < w.kernel; ++k) w.at(o, c, k) = weights_.at(c, o * w.kernel + k);
        write_weights(*product, w);
        if (mean_.empty()) return;
        std::vector<double> shift(static_cast<size_t>(w.outputs));
        for (int64_t o = 0; o < w.outputs; ++o)
            for (int64_t c = 0; c < w.channels; ++c)
                for (int64_t k = 0; k < w.kernel; ++k)
                    shift[static_cast<size_t>(o)] +=
                        (original_.at(o, c, k) - w.at(o, c, k)) * mean_[static_cast<size_t>(c)];
        add_to_bias(*product, shift);
    }

  private:
    // w_i -= w_k A_ik / A_kk, A -= a_k a_kᵀ / A_kk for what is left.
    void eliminate(int64_t k) {
        const double pivot = inverse_.at(k, k);
        if (pivot <= 0) return;
        const double* wk = weights_.row(k);
        const double* ak = inverse_.row(k);
        for (const int64_t i : alive_) {
            const double factor = inverse_.at(i, k) / pivot;
            if (factor == 0) continue;
            double* w = weights_.row(i);
            for (int64_t o = 0; o < weights_.columns; ++o) w[o] -= factor * wk[o];
            double* a = inverse_.row(i);
            for (const int64_t j : alive_) a[j] -= factor * ak[j];
            update_norm(i);
        }
    }
    void update_norm(int64_t i) {
        const double* w = weights_.row(i);
        double sum = 0;
        for (int64_t o = 0; o < weights_.columns; ++o) sum += w[o] * w[o];
        norms_[static_cast<size_t>(i)] = sum;
    }

    const Product& product_;
    const ChannelAxis& axis_;
    Weights original_;
    std::vector<double> mean_;  // empty: there is no bias to shift
    Matrix weights_, inverse_;
    std::vector<int64_t> alive_;
    std::vector<double> norms_;
    double energy_ = 0;
};

/// By channel; empty where a reader has no gradients.
std::map<int, double> taylor_scores(const ChannelGroup& group, const std::vector<Reader>& readers,
                                    const std::map<std::string, Tensor>& gradients) {
    std::map<int, std::vector<double>> changes;  // of each sample
    for (const int channel : group.channels) changes[channel];
    for (const Reader& reader : readers) {
        const std::vector<int>& channels = reader.axis().channel;
        const auto it = gradients.find(reader.weights_name());
        if (it == gradients.end() || it->second.rank() != 2 || it->second.dim(1) != std::ssize(channels)) return {};
        for (int64_t i = 0; i < it->second.size(); ++i) {
            const auto change = changes.find(channels[static_cast<size_t>(i % it->second.dim(1))]);
            if (change == changes.end()) continue;
            change->second.resize(static_cast<size_t>(it->second.dim(0)));
            change->second[static_cast<size_t>(i / it->second.dim(1))] += it->second.at_double(i);
        }
    }
    std::map<int, double> scores;
    for (const auto& [channel, values] : changes)
        scores[channel] = std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
    return scores;
}

/// Of the counts that may go some, the last among them: where the loss is measured.
std::vector<size_t> trials_of(const std::vector<size_t>& allowed) {
    std::vector<size_t> trials;
    const size_t last = allowed.size() - 1;
    for (const size_t place : {last / 8, last / 4, last / 2, last})
        if (allowed[place] > 0 && (trials.empty() || allowed[place] > trials.back())) trials.push_back(allowed[place]);
    return trials;
}

/// The order by what the readers lose; then that loss in units of what the network's outputs lose, as measured with
/// the readers adapted, at the trials, and in between by the readers' own measure. `scores`, unless empty, say the
/// order instead.
Curve by_activation(const Graph& graph, const ChannelGroup& group, std::vector<Reader>& readers,
                    const std::map<int, double>& scores, const std::vector<size_t>& allowed, const OutputError& error) {
    Curve curve{{}, {0}};
    std::vector<int> left = group.channels;
    const std::vector<size_t> trials = trials_of(allowed);
    std::vector<double> measured;
    while (!left.empty()) {
        size_t least = 0;
        double least_cost = 0;
        for (size_t i = 0; i < left.size(); ++i) {
            double cost = 0;
            if (scores.empty())
                for (const Reader& reader : readers) cost += reader.cost(left[i]);
            else
                cost = scores.at(left[i]);
            if (i == 0 || cost < least_cost) least = i, least_cost = cost;
        }
        const int channel = left[least];
        left.erase(left.begin() + static_cast<std::ptrdiff_t>(least));
        curve.order.push_back(channel);
        curve.loss.push_back(curve.loss.back() + std::max(least_cost, 0.0));
        if (!left.empty())
            for (Reader& reader : readers) reader.remove(channel);
        if (measured.size() < trials.size() && curve.order.size() == trials[measured.size()]) {
            auto trial = graph.clone();
            for (const Reader& reader : readers) reader.apply(*trial);
            const double before = measured.empty() ? 0 : measured.back();
            measured.push_back(std::max(error.of(*trial), before));
        }
    }
    const std::vector<double> own = curve.loss;
    size_t from = 0;
    for (size_t t = 0; t < trials.size(); ++t) {
        const double low = t == 0 ? 0 : measured[t - 1], span = own[trials[t]] - own[from];
        for (size_t n = from + 1; n <= trials[t]; ++n)
            curve.loss[n] = low + (measured[t] - low) * (span > 0 ? (own[n] - own[from]) / span : 1);
        from = trials[t];
    }
    return curve;
}

}  // namespace

std::vector<Curve> importance(const Graph& graph, const Channels& channels, const std::string& criterion,
                              const std::map<std::string, Tensor>& gradients, const Observer& observer,
                              const std::vector<std::vector<size_t>>& allowed,
                              const std::function<void(std::string_view, double)>& progress) {
    std::vector<Curve> curves(channels.groups.size());
    if (criterion != "activation" && criterion != "taylor") {
        for (size_t g = 0; g < curves.size(); ++g)
            curves[g] = by_scores(channels.groups[g], norm_scores(channels, channels.groups[g], criterion),
                                  static_cast<double>(channels.groups[g].channels.size()));
        return curves;
    }
    const std::vector<Product> products = products_of(graph);
    std::vector<Tap> taps;
    std::vector<const ChannelAxis*> axes;
    std::vector<const Product*> tapped;
    for (const Product& product : products) {
        const Value* x = product.node->input(0);
        const ChannelAxis* axis = channels.find(x, static_cast<int>(product.channel_axis));
        if (axis == nullptr || x->is_constant()) continue;
        taps.push_back({x->name, product.channel_axis});
        axes.push_back(axis);
        tapped.push_back(&product);
    }
    std::vector<Matrix> rows;
    if (!taps.empty()) rows = observer.observe(graph, taps);
    // What the readers are adapted with would flatter them: losses are measured on the last fifth.
    const std::vector<TensorMap>& samples = observer.samples();
    const size_t held_out = samples.size() < 2 ? 0 : std::max<size_t>(1, samples.size() / 5);
    for (Matrix& matrix : rows)
        matrix = rows_of(matrix, 0, matrix.rows - matrix.rows * static_cast<int64_t>(held_out) / std::ssize(samples));
    const size_t shown = std::min(std::max<size_t>(held_out, 1), kShown);
    const OutputError error(graph, {samples.end() - static_cast<std::ptrdiff_t>(shown), samples.end()},
                            observer.threads());
    for (size_t g = 0; g < curves.size(); ++g) {
        const ChannelGroup& group = channels.groups[g];
        progress(group.name, static_cast<double>(g) / static_cast<double>(curves.size()));
        std::vector<Reader> readers;
        for (size_t t = 0; t < taps.size(); ++t)
            if (std::any_of(group.axes.begin(), group.axes.end(),
                            [&](int a) { return &channels.axes[static_cast<size_t>(a)] == axes[t]; }))
                readers.emplace_back(*tapped[t], *axes[t], rows[t]);
        curves[g] = readers.empty() ? by_scores(group, norm_scores(channels, group, "l2"), 1)
                                    : by_activation(graph, group, readers,
                                                    criterion == "taylor" ? taylor_scores(group, readers, gradients)
                                                                          : std::map<int, double>{},
                                                    allowed[g], error);
    }
    return curves;
}

}  // namespace planish::sparsity
