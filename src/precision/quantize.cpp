// Calibration, grids, weights, and the QuantizeLinear and DequantizeLinear nodes that say so.
#include "precision/quantize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/glob.hpp"
#include "passes/rewrite.hpp"
#include "planish/error.hpp"
#include "precision/comparison.hpp"
#include "precision/equalise.hpp"
#include "precision/places.hpp"
#include "precision/samples.hpp"

namespace planish::precision {
namespace {

// A value beyond is no signal: masks are filled with -3.4e38 and the like, and no grid holds them and a signal.
constexpr double kLargestSignal = 1e9;
// Of a product matrix, against its mean diagonal. GPTQ's 0.01 fits the calibration data far better and other data
// worse: EfficientNet-Lite0 on photographs unlike those of its calibration 17.8 dB, with this 21.6 dB.
constexpr double kDamping = 0.2;
// Places that each unknown weight of compensation must have: with fewer it learns the calibration data by heart.
constexpr int64_t kLeastRows = 4;
// Every channel of an equalised tensor ends near the grid's end, so that any of them may leave it on other data: beyond
// what was seen there is room for as much again as this.
constexpr double kHeadroom = 1.4;

Tensor floats(const std::vector<float>& values) {
    return Tensor::from(std::span<const float>(values), {static_cast<int64_t>(values.size())});
}

/// The scales by which each channel's largest weight is the largest e4m3.
std::vector<float> float_scales(const Matrix& weights) {
    std::vector<float> scales;
    for (int64_t n = 0; n < weights.columns; ++n) {
        float largest = 0;
        for (int64_t k = 0; k < weights.rows; ++k) largest = std::max(largest, std::fabs(weights.at(k, n)));
        scales.push_back(float_grid_of(0, largest).scale);
    }
    return scales;
}

/// For each channel the scale of least square error after rounding, the squares weighted with what the inputs are.
std::vector<float> weight_scales(const Matrix& weights, const std::vector<double>& importance) {
    constexpr int kSteps = 40, kFirst = 16;
    std::vector<float> scales(static_cast<size_t>(weights.columns), 1);
    std::vector<float> column(static_cast<size_t>(weights.rows));
    for (int64_t n = 0; n < weights.columns; ++n) {
        float largest = 0;
        for (int64_t k = 0; k < weights.rows; ++k) {
            column[static_cast<size_t>(k)] = weights.at(k, n);
            largest = std::max(largest, std::fabs(weights.at(k, n)));
        }
        if (largest / 127 < std::numeric_limits<float>::min()) continue;
        double least = INFINITY;
        for (int step = kFirst; step <= kSteps; ++step) {
            const float scale = largest / 127 * static_cast<float>(step) / kSteps;
            double error = 0;
            for (size_t k = 0; k < column.size(); ++k) {
                const float q = std::clamp(std::nearbyint(column[k] / scale), -127.0f, 127.0f);
                const double d = double{column[k]} - double{q} * scale;
                error += importance[k] * d * d;
            }
            if (error < least) {
                least = error;
                scales[static_cast<size_t>(n)] = scale;
            }
        }
    }
    return scales;
}

void round_nearest(Matrix& weights, const std::vector<float>& scales, float (*nearest)(float)) {
    for (int64_t k = 0; k < weights.rows; ++k)
        for (int64_t n = 0; n < weights.columns; ++n)
            weights.at(k, n) = nearest(weights.at(k, n) / scales[static_cast<size_t>(n)]);
}

class Quantizer {
  public:
    Quantizer(Graph& graph, std::span<const TensorMap> samples, const QuantizeOptions& options)
        : graph_(graph), samples_(samples), options_(options), padding_(samples) {}

    QuantizeResult run() {
        if (samples_.empty())
            fail(ErrorCode::invalid_argument, "quantisation needs calibration data, and got none",
                 "give samples of real inputs: 100 or so are enough");
        layers_ = find_layers(graph_, [&](const Node& node) { return wanted(node) && has_kernel(node); });
        places_ = find_places(graph_, layers_, [&](const Node& node) { return !options_.gpu && wanted(node); });
        result_.samples = static_cast<int>(samples_.size());
        measure_memory();
        // Floats are as precise for a tensor's small channels as for its large ones.
        if (options_.equalise && !options_.floats) {
            measure_channels();
            equalise(graph_, places_, layers_, channels_, options_.threads);
            channels_.clear();
        }
        choose_grids();
        if (options_.sensitivities) measure_sensitivities();
        insert_activations();
        if (options_.correct_bias) add_biases();
        quantize_weights();
        insert_weights();
        return std::move(result_);
    }

  private:
    void progress(std::string_view detail, double fraction) const {
        if (options_.progress) options_.progress(detail, fraction);
    }

    std::string name() const { return options_.floats ? "fp8" : "int8"; }

    /// A layer whose product tensor cores have nothing for is slower with borders around it.
    bool has_kernel(const Node& node) {
        const bool depthwise = node.is("Conv") && node.integer("group") > 1 && node.input(1)->is_constant() &&
                               node.input(1)->constant->dims()[1] == 1;
        if (!options_.gpu || !depthwise) return true;
        result_.layers.push_back(
            {node.name, std::string(node.op().name), "fp32", "fp32", 300, "depthwise: as fast in floats on a GPU"});
        return false;
    }

    bool wanted(const Node& node) {
        std::string precision = name();
        for (const std::string& name : passes::origins_of(node))
            for (const auto& [pattern, value] : options_.layer_precision)
                if (matches(pattern, name, '?')) precision = value;
        if (precision != name())
            result_.layers.push_back({node.name, std::string(node.op().name), "fp32", precision, 300, "pinned"});
        return precision == name();
    }

    void measure_memory() {
        Rehearsal one(graph_, samples_.first(1), options_.threads);
        for (const auto& node : graph_.nodes()) one.run(*node);
        at_once_ = static_cast<size_t>(std::max<int64_t>(options_.memory / std::max<int64_t>(one.peak_bytes(), 1), 1));
    }

    /// Shows each place's values, of some samples at a time.
    void walk(std::string_view what, double from, double to,
              const std::function<void(const Place&, const Tensor&)>& see) {
        std::unordered_map<const Value*, const Place*> by_value;
        for (const Place& place : places_) by_value[place.value] = &place;
        for (size_t first = 0; first < samples_.size(); first += at_once_) {
            Rehearsal values(graph_, samples_.subspan(first, std::min(at_once_, samples_.size() - first)),
                             options_.threads);
            const auto look = [&](const Value* value) {
                const auto it = by_value.find(value);
                if (it == by_value.end()) return;
                for (size_t s = 0; s < values.samples(); ++s)
                    see(*it->second, padding_.strip(values.tensor(value, s), first + s));
            };
            for (const Value* input : graph_.inputs()) look(input);
            size_t done = 0;
            for (const auto& node : graph_.nodes()) {
                values.run(*node);
                for (const Value* output : node->outputs()) look(output);
                const double part =
                    (static_cast<double>(first) + static_cast<double>(values.samples()) * static_cast<double>(++done) /
                                                      static_cast<double>(graph_.nodes().size())) /
                    static_cast<double>(samples_.size());
                progress(what, from + (to - from) * part);
            }
        }
    }

    void measure_channels() {
        // Enough to tell one exponent from another, spread over all samples.
        constexpr int64_t kRows = 1024;
        const auto samples = static_cast<int64_t>(samples_.size());
        std::unordered_map<const Value*, int64_t> seen;
        walk("channels", 0, 0.15, [&](const Place& place, const Tensor& x) {
            const auto axis = channel_axis(place, layers_);
            if (!axis || x.rank() < 2 || x.size() == 0) return;
            ChannelStatistics& statistics = channels_[place.value];
            const auto at = static_cast<size_t>(*axis < 0 ? *axis + x.rank() : *axis);
            const int64_t channels = x.dims()[at];
            int64_t inner = 1;
            for (size_t d = at + 1; d < x.dims().size(); ++d) inner *= x.dims()[d];
            statistics.maxima.resize(static_cast<size_t>(channels));
            const float* v = x.data<float>().data();
            for (int64_t i = 0; i < x.size(); i += inner) {
                float most = 0;
                for (int64_t j = 0; j < inner; ++j) most = std::max(most, std::fabs(v[i + j]));
                float& m = statistics.maxima[static_cast<size_t>(i / inner % channels)];
                m = std::max(m, most);
            }
            Matrix& rows = statistics.rows;
            const int64_t turn = seen[place.value]++, places = x.size() / channels;
            const int64_t share = std::min(places, (turn + 1) * kRows / samples - turn * kRows / samples);
            rows.columns = channels;
            const auto keep = [&](int64_t place_at) {
                const float* from = v + place_at / inner * channels * inner + place_at % inner;
                for (int64_t c = 0; c < channels; ++c) rows.data.push_back(from[c * inner]);
                ++rows.rows;
            };
            for (int64_t i = 0; i < share; ++i) keep((2 * i + 1) * places / (2 * share));
            // Rare and large values decide on a grid: a few tokens of transformers have values of their own kind.
            const int64_t largest =
                std::max_element(v, v + x.size(), [](float a, float b) { return std::fabs(a) < std::fabs(b); }) - v;
            keep(largest / (channels * inner) * inner + largest % inner);
        });
    }

    void choose_grids() {
        std::unordered_map<const Value*, Histogram> histograms;
        walk("ranges", 0.15, 0.4,
             [&](const Place& place, const Tensor& x) { histograms[place.value].add(x.data<float>()); });
        std::map<int, Histogram> groups;
        for (const Place& place : places_) groups[place.group].add(histograms[place.value]);
        std::map<int, Grid> grids;
        for (const auto& [group, histogram] : groups)
            grids[group] = options_.floats ? float_grid_of(histogram.low(), histogram.high())
                                           : histogram.choose(options_.method, options_.percentile);
        for (const Place& place : places_)
            if (place.equalised) {
                const Histogram& h = groups.at(place.group);
                grids[place.group] = grid_of(kHeadroom * h.low(), kHeadroom * h.high());
            }
        // A grid that the user gives holds for all that share it.
        if (options_.table != nullptr)
            for (const Place& place : places_)
                if (const auto it = options_.table->find(place.value->name); it != options_.table->end())
                    grids[place.group] =
                        options_.floats ? float_grid_of(it->second.low(), it->second.high()) : it->second;
        std::unordered_map<const Node*, std::string> left_out;
        std::erase_if(places_, [&](const Place& place) {
            const Histogram& h = groups.at(place.group);
            const double largest = std::max(-h.low(), h.high());
            if (largest <= kLargestSignal && h.count() > 0) return false;
            for (const Use& use : place.uses)
                left_out[use.node] = fmt::format("'{}' takes values up to {:.3g}", place.value->name, largest);
            return true;
        });
        std::erase_if(layers_, [&](const Layer& layer) {
            const auto it = left_out.find(&layer.node());
            if (it == left_out.end()) return false;
            result_.layers.push_back(
                {layer.node().name, std::string(layer.node().op().name), "fp32", "fp32", 300, it->second});
            return true;
        });
        for (const Place& place : places_)
            result_.table[place.value->name] = grids_[place.value] = grids.at(place.group);
    }

    void measure_sensitivities() {
        // Outputs average over many values, so that few samples tell one layer from another.
        constexpr size_t kSamples = 8;
        std::vector<TensorMap> chosen;
        const size_t count = std::min(samples_.size(), kSamples);
        for (size_t i = 0; i < count; ++i) chosen.push_back(samples_[i * samples_.size() / count]);
        const Rounding rounding = {[&](const Layer& layer, const Tensor& x) {
                                       const auto grid = grids_.find(layer.input());
                                       return grid == grids_.end() ? x : rounded_to(x, grid->second);
                                   },
                                   [&](const Layer& layer) {
                                       Tensor weights(DType::f32, layer.weight()->constant->dims());
                                       for (int64_t g = 0; g < layer.groups(); ++g) {
                                           Matrix rounded = layer.weights(g);
                                           const std::vector<double> equal(static_cast<size_t>(layer.terms()), 1);
                                           const std::vector<float> scales = weight_scales(rounded, equal);
                                           round_nearest(rounded, scales, nearest_int8);
                                           for (int64_t k = 0; k < rounded.rows; ++k)
                                               for (int64_t n = 0; n < rounded.columns; ++n)
                                                   rounded.at(k, n) *= scales[static_cast<size_t>(n)];
                                           layer.put_weights(weights, g, rounded);
                                       }
                                       return weights;
                                   }};
        result_.groups = sensitivities(graph_, layers_, chosen, rounding, options_.threads,
                                       [&](double fraction) { progress("sensitivities", 0.4 * fraction); });
    }

    void insert_activations() {
        for (const Place& place : places_) {
            const Grid& grid = grids_.at(place.value);
            Node* before = passes::after(graph_, place.value);
            const std::string& name = place.value->name;
            Value* scale = graph_.add_constant(name + "_scale", Tensor::scalar(grid.scale));
            const Tensor zeros =
                grid.floats ? Tensor(DType::f8e4m3fn, {}) : Tensor::scalar(static_cast<uint8_t>(grid.zero));
            Value* zero = graph_.add_constant(name + "_zero_point", zeros);
            const Node* q = graph_.add_node("QuantizeLinear", {place.value, scale, zero}, {}, 1, name + "_quantize",
                                            before, "", {name + "_quantized"});
            const Node* dq = graph_.add_node("DequantizeLinear", {q->output(), scale, zero}, {}, 1,
                                             name + "_dequantize", before, "", {name + "_dequantized"});
            for (const Use& use : place.uses) graph_.set_input(use.node, use.index, dq->output());
            stored_[q] = grid;
        }
    }

    void add_biases() {
        for (const Layer& layer : layers_)
            if (const auto bias = layer.bias(graph_); bias && bias->node->input(bias->input) == nullptr)
                graph_.set_input(
                    bias->node, bias->input,
                    graph_.add_constant(bias->node->name + "_bias", Tensor(DType::f32, {layer.channels()})));
    }

    /// The float network and the quantised one side by side, node by node: each layer's weights see inputs that carry
    /// the errors of all layers before it.
    void quantize_weights() {
        const size_t count = std::max<size_t>(1, std::min(samples_.size(), at_once_ / 2));
        Rehearsal exact(graph_, samples_.first(count), options_.threads),
            rounded(graph_, samples_.first(count), options_.threads);
        std::unordered_map<const Node*, const Layer*> layers;
        for (const Layer& layer : layers_) layers[&layer.node()] = &layer;
        size_t done = 0;
        for (const auto& node : graph_.nodes()) {
            progress("weights", 0.4 + 0.6 * static_cast<double>(done++) / static_cast<double>(graph_.nodes().size()));
            if (const auto it = stored_.find(node.get()); it != stored_.end()) {
                exact.map(*node, [](const Tensor& x) { return x; });
                rounded.map(*node, [&](const Tensor& x) { return rounded_to(x, it->second); });
                continue;
            }
            if (node->is("DequantizeLinear") && node->input(0)->producer != nullptr &&
                stored_.contains(node->input(0)->producer)) {
                for (Rehearsal* values : {&exact, &rounded}) values->map(*node, [](const Tensor& x) { return x; });
                continue;
            }
            if (const auto it = layers.find(node.get()); it != layers.end())
                quantize_layer(*it->second, exact, rounded);
            exact.run(*node);
            const auto replaced = replaced_.find(node.get());
            rounded.run(*node, replaced == replaced_.end() ? std::map<int, Tensor>{} : replaced->second);
            if (layers.contains(node.get()) && exact.has(node->output())) {
                Comparison c;
                for (size_t s = 0; s < count; ++s) add(c, exact, rounded, node->output(), s);
                result_.layers.push_back({node->name, std::string(node->op().name), "fp32", name(), c.sqnr(), ""});
            }
        }
        for (const Value* output : graph_.outputs()) {
            if (output->type.dtype != DType::f32 || output->is_constant()) continue;
            Comparison c;
            for (size_t s = 0; s < count; ++s) add(c, exact, rounded, output, s);
            result_.outputs.push_back({output->name, c.sqnr(), c.cosine()});
        }
    }

    void add(Comparison& to, Rehearsal& exact, Rehearsal& rounded, const Value* value, size_t sample) const {
        to.add(padding_.strip(exact.tensor(value, sample), sample),
               padding_.strip(rounded.tensor(value, sample), sample));
    }

    void quantize_layer(const Layer& layer, Rehearsal& exact, Rehearsal& rounded) {
        const Value* input = layer.input();
        const int64_t k = layer.terms(), per_group = layer.channels() / layer.groups();
        const auto places = choose_places(layer, exact, input, std::clamp<int64_t>(8 * k, 2048, 16384), padding_);
        const std::optional<Layer::Bias> bias = options_.correct_bias ? layer.bias(graph_) : std::nullopt;
        Stored& stored = weights_[&layer.node()];
        stored.numbers = Tensor(options_.floats ? DType::f8e4m3fn : DType::i8, layer.weight()->constant->dims());
        Tensor floats(DType::f32, layer.weight()->constant->dims());
        std::vector<double> shift(static_cast<size_t>(layer.channels()));
        for (int64_t g = 0; g < layer.groups(); ++g) {
            Matrix x = gather(layer, exact, input, g, places), z = gather(layer, rounded, input, g, places);
            const Matrix original = layer.weights(g);
            std::vector<double> mean_x(static_cast<size_t>(k)), mean_z(static_cast<size_t>(k));
            // With a bias to put them in, means need no fitting.
            if (bias) {
                mean_x = centre_columns(x);
                mean_z = centre_columns(z);
            }
            const Matrix zt = transposed(z);
            Matrix h = product(zt, z, options_.threads);
            double trace = 0;
            for (int64_t i = 0; i < k; ++i) trace += h.at(i, i);
            const double damping = std::max(kDamping * trace / static_cast<double>(k), 1e-30);
            for (int64_t i = 0; i < k; ++i) h.at(i, i) += static_cast<float>(damping);
            Matrix wanted = original;
            if (options_.compensate && x.rows >= kLeastRows * k) {
                // min over V of |W x - V z|^2: V = W + W (x - z)^T z (z^T z)^-1, with samples as rows.
                for (size_t i = 0; i < x.data.size(); ++i) x.data[i] -= z.data[i];
                Matrix correction = product(zt, product(x, original, options_.threads), options_.threads);
                Factor(h).solve(correction);
                for (size_t i = 0; i < wanted.data.size(); ++i) wanted.data[i] += correction.data[i];
            }
            std::vector<double> importance(static_cast<size_t>(k));
            for (int64_t i = 0; i < k; ++i) importance[static_cast<size_t>(i)] = h.at(i, i);
            const std::vector<float> scales =
                options_.floats ? float_scales(wanted) : weight_scales(wanted, importance);
            const auto nearest = options_.floats ? nearest_float8 : nearest_int8;
            Matrix numbers = wanted;
            if (options_.round_jointly)
                round_weights(numbers, scales, h, nearest);
            else
                round_nearest(numbers, scales, nearest);
            layer.put_weights(stored.numbers, g, numbers);
            stored.scales.insert(stored.scales.end(), scales.begin(), scales.end());
            for (int64_t i = 0; i < k; ++i)
                for (int64_t n = 0; n < per_group; ++n) {
                    float& w = numbers.at(i, n);
                    w *= scales[static_cast<size_t>(n)];
                    shift[static_cast<size_t>(g * per_group + n)] +=
                        original.at(i, n) * mean_x[static_cast<size_t>(i)] - w * mean_z[static_cast<size_t>(i)];
                }
            layer.put_weights(floats, g, numbers);
        }
        replaced_[&layer.node()][1] = std::move(floats);
        if (bias) replace_bias(*bias, shift);
    }

    void replace_bias(const Layer::Bias& bias, const std::vector<double>& shift) {
        Tensor b = bias.node->input(bias.input)->constant->clone();
        for (size_t n = 0; n < shift.size(); ++n) b.data<float>()[n] += static_cast<float>(shift[n]);
        biases_.push_back({bias, b});
        replaced_[bias.node][bias.input] = std::move(b);
    }

    void insert_weights() {
        for (const Layer& layer : layers_) {
            Node& node = layer.node();
            const Stored& stored = weights_.at(&node);
            const std::string name = layer.weight()->name;
            Value* w = graph_.add_constant(name + "_quantized", stored.numbers);
            Value* scale = graph_.add_constant(name + "_scale", floats(stored.scales));
            const Node* dq = graph_.add_node("DequantizeLinear", {w, scale}, {{"axis", layer.weight_axis()}}, 1,
                                             name + "_dequantize", &node, "", {name + "_dequantized"});
            graph_.set_input(&node, 1, dq->output());
        }
        for (const auto& [bias, tensor] : biases_)
            graph_.set_input(bias.node, bias.input, graph_.add_constant(bias.node->input(bias.input)->name, tensor));
        for (Value* value : graph_.values())
            if (value->is_constant() && value->uses.empty() && !graph_.is_output(value)) graph_.erase_constant(value);
    }

    struct Stored {
        Tensor numbers;
        std::vector<float> scales;
    };

    Graph& graph_;
    std::span<const TensorMap> samples_;
    const QuantizeOptions& options_;
    Padding padding_;
    QuantizeResult result_;
    std::vector<Layer> layers_;
    std::vector<Place> places_;
    ChannelTable channels_;
    size_t at_once_ = 1;  // samples whose values fit into the memory
    std::unordered_map<const Value*, Grid> grids_;
    std::unordered_map<const Node*, Grid> stored_;  // by QuantizeLinear
    std::unordered_map<const Node*, Stored> weights_;
    std::unordered_map<const Node*, std::map<int, Tensor>> replaced_;
    std::vector<std::pair<Layer::Bias, Tensor>> biases_;
};

}  // namespace

QuantizeResult quantize(Graph& graph, std::span<const TensorMap> samples, const QuantizeOptions& options) {
    return Quantizer(graph, samples, options).run();
}

}  // namespace planish::precision
