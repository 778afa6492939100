// Channel scales into weights.
#include "precision/equalise.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "passes/rewrite.hpp"
#include "precision/observer.hpp"

namespace planish::precision {
namespace {

// Channels that calibration showed smaller than this share of the largest are taken to be as large: what is scaled up
// by more than it has to be cut off when it grows.
constexpr double kLeastMaximum = 0.07;
// Small channels that are read by a filter of their own are scaled up to this share of the largest: on other data they
// may double before they are cut off.
constexpr double kFilterReach = 0.5;
// Three bits: what is rounded finer adds nothing to the noise of the larger channels.
constexpr double kLargestFactor = 8;
// Bits that the channels of a tensor must win on average: the product with the factors takes time.
constexpr double kLeastBits = 0.5;

const Layer* layer_of(const Node* node, std::span<const Layer> layers) {
    for (const Layer& layer : layers)
        if (&layer.node() == node) return &layer;
    return nullptr;
}

/// What makes a tensor and can scale its channels.
struct Source {
    const Layer* layer = nullptr;
    Layer::Bias bias;
    Node* norm = nullptr;  // LayerNormalization
    // Of a tensor that an attention makes: its values are the channels from `first` on of `values`.
    const Value* values = nullptr;
    int64_t first = 0;
};

/// Channels [first, end) of a value [B, S, C] that are one operand of an attention.
struct Columns {
    const Value* whole = nullptr;
    int64_t first = 0, end = 0;
};

/// Nullopt: not the 3-D form with a key for each query head, or something else reads them, too.
std::optional<Columns> columns_of(const Graph& graph, const Node& attention, int operand) {
    const Node* slice = passes::producer(attention.input(operand), "Slice");
    if (slice == nullptr || slice->input_count() < 4 || passes::rank(slice->output()) != 3 ||
        attention.integer("q_num_heads") != attention.integer("kv_num_heads") ||
        !passes::only_use(graph, slice->output()))
        return std::nullopt;
    const auto first = passes::scalar(slice->input(1)), end = passes::scalar(slice->input(2)),
               axis = passes::scalar(slice->input(3));
    if (!first || *first < 0 || !end || *end <= *first || !axis || (*axis != 2 && *axis != -1)) return std::nullopt;
    return Columns{slice->input(0), static_cast<int64_t>(*first), static_cast<int64_t>(*end)};
}

/// Queries, keys and values of an attention that lie side by side in one value; nullopt: not so.
std::optional<std::array<Columns, 3>> joint_operands(const Graph& graph, const Node& attention) {
    std::array<Columns, 3> operands;
    for (size_t i = 0; i < 3; ++i) {
        const auto columns = columns_of(graph, attention, static_cast<int>(i));
        if (!columns) return std::nullopt;
        operands[i] = *columns;
        if (columns->whole != operands[0].whole || (i > 0 && columns->first < operands[i - 1].end)) return std::nullopt;
    }
    return operands[0].whole->uses.size() == 3 ? std::optional(operands) : std::nullopt;
}

/// Cut off below 0 and above: a grid that ends where it does cuts off as well.
bool is_clip_from_zero(const Node& node) {
    const Value* low = node.is("Clip") ? node.input(1) : nullptr;
    return low != nullptr && low->is_constant() && low->constant->size() == 1 && low->constant->at_double(0) == 0;
}

/// `raised`: channels are scaled up only, and no further than to what the largest one takes. Those that a Clip would
/// cut off behind their factors, the grid cuts off at the same value: the factors may go in front of it.
std::optional<Source> source_of(const Graph& graph, const Value* value, std::span<const Layer> layers, bool raised) {
    Source source;
    bool summed = false;
    const Value* at = value;
    for (;;) {
        Node* node = at->producer;
        if (node == nullptr) return std::nullopt;
        if (node->is("LayerNormalization") && at == value) {
            const Value *gamma = node->input(1), *beta = node->input(2);
            if (node->integer("axis") != -1 || node->output(1) != nullptr || gamma == nullptr ||
                !gamma->is_constant() || gamma->constant->rank() != 1 || (beta != nullptr && !beta->is_constant()))
                return std::nullopt;
            source.norm = node;
            return source;
        }
        if (node->is("Attention") && at == value) {
            const auto operands = joint_operands(graph, *node);
            if (!operands) return std::nullopt;
            source.values = at = (*operands)[2].whole;
            source.first = (*operands)[2].first;
            continue;
        }
        if (const Layer* layer = layer_of(node, layers)) {
            const auto bias = layer->bias(graph);
            if (!bias && (summed || !node->is("MatMul"))) return std::nullopt;
            source.layer = layer;
            source.bias = bias.value_or(Layer::Bias{});
            return source;
        }
        const Value* before = node->input(0);
        if (node->is("Add")) {
            // The bias of a MatMul is the only sum that is scaled with its layer.
            const int other = node->input(0)->is_constant() ? 1 : 0;
            before = node->input(other);
            const Layer* layer = layer_of(before->producer, layers);
            if (layer == nullptr || !layer->node().is("MatMul")) return std::nullopt;
            summed = true;
        } else if (!node->is("Relu") && !node->is("LeakyRelu") && !(raised && is_clip_from_zero(*node))) {
            return std::nullopt;
        }
        if (!passes::only_use(graph, before)) return std::nullopt;
        at = before;
    }
}

Value* scaled_vector(Graph& graph, const Value* value, const std::vector<double>& scales) {
    Tensor t = value->constant->clone();
    for (size_t c = 0; c < scales.size(); ++c) t.data<float>()[c] = static_cast<float>(t.data<float>()[c] * scales[c]);
    return graph.add_constant(value->name, std::move(t));
}

void scale_outputs(Graph& graph, const Source& source, std::vector<double> scales) {
    if (source.norm != nullptr) {
        for (int i = 1; i < source.norm->input_count(); ++i)
            if (source.norm->input(i) != nullptr)
                graph.set_input(source.norm, i, scaled_vector(graph, source.norm->input(i), scales));
        return;
    }
    const Layer& layer = *source.layer;
    scales.insert(scales.begin(), static_cast<size_t>(source.first), 1);
    scales.resize(static_cast<size_t>(layer.channels()), 1);
    Tensor t = layer.weight()->constant->clone();
    for (int64_t g = 0; g < layer.groups(); ++g) {
        Matrix w = layer.weights(g);
        for (int64_t k = 0; k < w.rows; ++k)
            for (int64_t n = 0; n < w.columns; ++n)
                w.at(k, n) = static_cast<float>(w.at(k, n) * scales[static_cast<size_t>(g * w.columns + n)]);
        layer.put_weights(t, g, w);
    }
    graph.set_input(&layer.node(), 1, graph.add_constant(layer.weight()->name, std::move(t)));
    if (const Value* b = source.bias.node != nullptr ? source.bias.node->input(source.bias.input) : nullptr)
        graph.set_input(source.bias.node, source.bias.input, scaled_vector(graph, b, scales));
}

/// Input channel of row `k` of a group's weights.
int64_t channel_of(const Layer& layer, int64_t group, int64_t k) {
    const int64_t per_group = layer.inputs() / layer.groups();
    return group * per_group + k / (layer.terms() / per_group);
}

void divide_inputs(Graph& graph, const Layer& layer, const std::vector<double>& scales) {
    Tensor t = layer.weight()->constant->clone();
    for (int64_t g = 0; g < layer.groups(); ++g) {
        Matrix w = layer.weights(g);
        for (int64_t k = 0; k < w.rows; ++k)
            for (int64_t n = 0; n < w.columns; ++n)
                w.at(k, n) = static_cast<float>(w.at(k, n) / scales[static_cast<size_t>(channel_of(layer, g, k))]);
        layer.put_weights(t, g, w);
    }
    graph.set_input(&layer.node(), 1, graph.add_constant(layer.weight()->name, std::move(t)));
}

/// The place becomes the product of its tensor and the scales.
void multiply(Graph& graph, Place& place, int64_t axis, const std::vector<double>& scales) {
    const size_t rank = place.value->type.shape->size();
    Dims dims(axis < 0 ? 1 : rank - static_cast<size_t>(axis), 1);
    dims[0] = static_cast<int64_t>(scales.size());
    Tensor factors(DType::f32, dims);
    for (size_t c = 0; c < scales.size(); ++c) factors.data<float>()[c] = static_cast<float>(scales[c]);
    Value* constant = graph.add_constant(place.value->name + "_channel_scales", std::move(factors));
    Node* product = graph.add_node("Mul", {place.value, constant}, {}, 1, place.value->name + "_scaled",
                                   passes::after(graph, place.value), "", {place.value->name + "_scaled"});
    if (place.value->producer != nullptr) product->origins = passes::origins_of(*place.value->producer);
    for (const Use& use : place.uses) graph.set_input(use.node, use.index, product->output());
    place.value = product->output();
}

/// The error of the readers' results, on the rows that were seen, when channels are scaled so and everything is rounded
/// to the nearest. `results` are the exact ones.
double error_of(const std::vector<double>& scales, const ChannelStatistics& seen, std::span<const Layer* const> readers,
                const std::vector<Matrix>& results, int threads) {
    double low = 0, high = 0;
    Matrix x = seen.rows;
    for (int64_t i = 0; i < x.rows; ++i)
        for (int64_t c = 0; c < x.columns; ++c) {
            x.at(i, c) *= static_cast<float>(scales[static_cast<size_t>(c)]);
            low = std::min(low, double{x.at(i, c)});
            high = std::max(high, double{x.at(i, c)});
        }
    for (size_t c = 0; c < scales.size(); ++c) {
        const double most = seen.maxima[c] * scales[c];
        if (low < -0.5 * high) low = std::min(low, -most);
        high = std::max(high, most);
    }
    const Grid grid = grid_of(low, high);
    const Tensor rounded = rounded_to(Tensor(DType::f32, {x.rows, x.columns}, x.data.data(), nullptr), grid);
    std::copy_n(rounded.data<float>().data(), x.data.size(), x.data.data());
    double error = 0;
    for (size_t r = 0; r < readers.size(); ++r) {
        Matrix w = readers[r]->weights(0);
        for (int64_t k = 0; k < w.rows; ++k)
            for (int64_t n = 0; n < w.columns; ++n)
                w.at(k, n) /= static_cast<float>(scales[static_cast<size_t>(channel_of(*readers[r], 0, k))]);
        for (int64_t n = 0; n < w.columns; ++n) {
            float most = 0;
            for (int64_t k = 0; k < w.rows; ++k) most = std::max(most, std::fabs(w.at(k, n)));
            const float scale = std::max(most / 127, 1e-30f);
            for (int64_t k = 0; k < w.rows; ++k) w.at(k, n) = std::nearbyint(w.at(k, n) / scale) * scale;
        }
        const Matrix y = product(x, w, threads);
        for (size_t i = 0; i < y.data.size(); ++i) {
            const double d = double{y.data[i]} - results[r].data[i];
            error += d * d;
        }
    }
    return error;
}

/// For depthwise convolutions. Nullopt: not worth it.
std::optional<std::vector<double>> scales_for_filters(const std::vector<float>& maxima) {
    double largest = 0, bits = 0;
    for (const float m : maxima) largest = std::max(largest, double{m});
    std::vector<double> scales(maxima.size(), 1);
    for (size_t c = 0; c < maxima.size(); ++c) {
        if (maxima[c] > 0) scales[c] = std::clamp(kFilterReach * largest / double{maxima[c]}, 1.0, kLargestFactor);
        bits += std::log2(scales[c]);
    }
    return bits >= kLeastBits * static_cast<double>(maxima.size()) ? std::optional(scales) : std::nullopt;
}

/// Nullopt: as they are.
std::optional<std::vector<double>> scales_for(const ChannelStatistics& seen, std::span<const Layer* const> readers,
                                              int threads) {
    const std::vector<float>& maxima = seen.maxima;
    const size_t channels = maxima.size();
    double largest = 0;
    for (const float m : maxima) largest = std::max(largest, double{m});
    if (largest == 0) return std::nullopt;
    std::vector<double> scales(channels, 1);
    // The search looks at products of all channels at one place, and needs more than a few of them.
    for (const Layer* layer : readers)
        if (layer->node().is("Conv")) return std::nullopt;
    if (seen.rows.rows * 4 < static_cast<int64_t>(channels)) return std::nullopt;
    std::vector<double> weights(channels);
    std::vector<Matrix> results;
    for (const Layer* layer : readers) {
        const Matrix w = layer->weights(0);
        for (int64_t k = 0; k < w.rows; ++k)
            for (int64_t n = 0; n < w.columns; ++n)
                weights[static_cast<size_t>(k)] =
                    std::max(weights[static_cast<size_t>(k)], std::fabs(double{w.at(k, n)}));
        results.push_back(product(seen.rows, w, threads));
    }
    double least = error_of(scales, seen, readers, results, threads);
    bool better = false;
    for (const double a : {0.2, 0.35, 0.5, 0.65, 0.8, 1.0}) {
        std::vector<double> candidate(channels);
        double reach = 0;
        for (size_t c = 0; c < channels; ++c) {
            const double x = std::max(double{maxima[c]}, kLeastMaximum * largest), w = std::max(weights[c], 1e-30);
            candidate[c] = std::pow(w, 1 - a) / std::pow(x, a);
            reach = std::max(reach, maxima[c] * candidate[c]);
        }
        for (double& s : candidate) s *= largest / reach;
        if (const double error = error_of(candidate, seen, readers, results, threads); error < least) {
            least = error;
            scales = candidate;
            better = true;
        }
    }
    return better ? std::optional(scales) : std::nullopt;
}

/// Makes queries, keys and values of one attention equally large.
bool balance(Graph& graph, const Place& place, std::span<const Layer> layers, const ChannelStatistics& seen) {
    const auto operands = joint_operands(graph, *place.attention);
    const auto source = source_of(graph, place.value, layers, false);
    if (!operands || !source || source->layer == nullptr || (*operands)[0].whole != place.value) return false;
    const auto& [q, k, v] = *operands;
    if (v.end > static_cast<int64_t>(seen.maxima.size())) return false;
    const auto largest = [&](const Columns& columns) {
        return double{*std::max_element(seen.maxima.begin() + columns.first, seen.maxima.begin() + columns.end)};
    };
    const double largest_q = largest(q), largest_k = largest(k), largest_v = largest(v);
    if (largest_q == 0 || largest_k == 0 || largest_v == 0 || q.end - q.first != k.end - k.first) return false;
    std::vector<double> scales(seen.maxima.size(), 1);
    double reach = 0;
    for (int64_t c = 0; c < q.end - q.first; ++c) {
        const auto at_q = static_cast<size_t>(q.first + c), at_k = static_cast<size_t>(k.first + c);
        const double most_q = std::max(double{seen.maxima[at_q]}, kLeastMaximum * largest_q);
        const double most_k = std::max(double{seen.maxima[at_k]}, kLeastMaximum * largest_k);
        scales[at_q] = std::sqrt(most_k / most_q);
        scales[at_k] = 1 / scales[at_q];
        reach = std::max(reach, std::sqrt(most_q * most_k));
    }
    std::vector<const Layer*> readers;
    for (const Use& use : place.attention->output()->uses)
        readers.push_back(use.index == 0 ? layer_of(use.node, layers) : nullptr);
    if (std::find(readers.begin(), readers.end(), nullptr) == readers.end() &&
        !graph.is_output(place.attention->output())) {
        const double factor = reach / largest_v;
        std::fill(scales.begin() + v.first, scales.begin() + v.end, factor);
        for (const Layer* layer : readers)
            divide_inputs(graph, *layer, std::vector<double>(static_cast<size_t>(layer->inputs()), factor));
    }
    scale_outputs(graph, *source, scales);
    return true;
}

}  // namespace

std::optional<int64_t> channel_axis(const Place& place, std::span<const Layer> layers) {
    if (place.attention != nullptr) return -1;
    std::optional<int64_t> axis;
    for (const Use& use : place.uses) {
        const Layer* layer = layer_of(use.node, layers);
        if (layer == nullptr || (axis && *axis != layer->channel_axis())) return std::nullopt;
        axis = layer->channel_axis();
    }
    return axis;
}

int equalise(Graph& graph, std::span<Place> places, std::span<const Layer> layers, ChannelTable& table, int threads) {
    int changes = 0;
    for (Place& place : places) {
        if (place.attention != nullptr) continue;
        const auto found = table.find(place.value);
        const auto axis = channel_axis(place, layers);
        if (found == table.end() || !axis || !place.value->type.shape) continue;
        const auto channels = static_cast<int64_t>(found->second.maxima.size());
        std::vector<const Layer*> readers;
        for (const Use& use : place.uses) readers.push_back(layer_of(use.node, layers));
        if (std::any_of(readers.begin(), readers.end(), [&](const Layer* l) { return l->inputs() != channels; }))
            continue;
        const bool alone = place.uses.size() == place.value->uses.size() && !graph.is_output(place.value);
        const bool filters = std::all_of(readers.begin(), readers.end(), [&](const Layer* l) {
            return l->is_depthwise() && l->channels() == channels;
        });
        if (filters && !alone) continue;
        const auto scales =
            filters ? scales_for_filters(found->second.maxima) : scales_for(found->second, readers, threads);
        if (!scales) continue;
        const auto source = alone ? source_of(graph, place.value, layers, filters) : std::nullopt;
        const bool folds = source && (source->layer == nullptr || source->layer->channel_axis() == *axis);
        if (folds) {
            scale_outputs(graph, *source, *scales);
            if (const auto values = table.find(source->values); values != table.end())
                for (size_t c = 0; c < scales->size(); ++c)
                    values->second.maxima[static_cast<size_t>(source->first) + c] *= static_cast<float>((*scales)[c]);
        } else {
            multiply(graph, place, *axis, *scales);
        }
        for (const Layer* layer : readers) divide_inputs(graph, *layer, *scales);
        place.equalised = !filters;
        ++changes;
    }
    for (const Place& place : places)
        if (const auto found = table.find(place.value); place.attention != nullptr && found != table.end())
            changes += balance(graph, place, layers, found->second) ? 1 : 0;
    return changes;
}

}  // namespace planish::precision
