// planish::sparsify: layer by layer, each as its input is with all layers before it sparse.
#include "planish/sparsify.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "base/glob.hpp"
#include "base/sparse_tensor.hpp"
#include "build/model.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "precision/places.hpp"
#include "precision/samples.hpp"
#include "sparsity/cut.hpp"
#include "sparsity/latency.hpp"

namespace planish {
namespace sparsity {
namespace {

using precision::Layer;
using precision::Matrix;
using precision::Rehearsal;

constexpr int64_t kLeastRows = 4096, kMostRows = 16384, kRowsATerm = 4;  // of samples, that a layer is looked at with

void check_options(const SparsifyOptions& options) {
    const auto invalid = [](std::string message, std::string hint) {
        fail(ErrorCode::invalid_argument, std::move(message), std::move(hint));
    };
    if (options.pattern != "2:4" && options.pattern != "unstructured")
        invalid("unknown pattern '" + options.pattern + "'", "patterns are 2:4, unstructured");
    if (options.pattern == "unstructured" && !(options.sparsity > 0 && options.sparsity < 1))
        invalid(fmt::format("the sparsity is {}", options.sparsity), "give the share of zeros, between 0 and 1");
    const auto criteria = {"auto", "magnitude", "wanda", "sparsegpt"};
    if (std::none_of(criteria.begin(), criteria.end(), [&](const char* c) { return options.criterion == c; }))
        invalid("unknown criterion '" + options.criterion + "'", "criteria are auto, magnitude, wanda, sparsegpt");
    if (options.calibration.empty() && options.criterion != "auto" && options.criterion != "magnitude")
        invalid("the criterion '" + options.criterion + "' needs calibration data",
                "give 100 or so of the network's inputs");
}

int64_t zeros_of(const Tensor& tensor) {
    const auto values = tensor.data<float>();
    return std::count(values.begin(), values.end(), 0.0f);
}

int64_t stored_bytes(const Tensor& tensor) {
    const Tensor small = compressed(tensor);
    const SparseSource* source = sparse_source(small);
    return source ? source->stored().bytes() : tensor.bytes();
}

/// Row i of the result is row order[i] of `rows`.
Matrix reordered(const Matrix& rows, const std::vector<int64_t>& order) {
    Matrix result(rows.rows, rows.columns);
    for (int64_t i = 0; i < rows.rows; ++i)
        std::copy_n(rows.row(order[static_cast<size_t>(i)]), rows.columns, result.row(i));
    return result;
}

class Sparsifier {
  public:
    Sparsifier(std::unique_ptr<Graph> graph, const SparsifyOptions& options)
        : graph_(std::move(graph)), options_(options) {
        pattern_ = {options.pattern == "2:4", options.sparsity};
        report_.pattern = options.pattern;
        report_.criterion = options.criterion != "auto"   ? options.criterion
                            : options.calibration.empty() ? "magnitude"
                                                          : "sparsegpt";
        calibration_ = named(options.calibration, *graph_);
        test_ = named(options.test, *graph_);
        seen_ = calibration_;
        if (const size_t count = calibration_.size(); test_.empty() && count > 1) {
            seen_ = seen_.first(count - std::max<size_t>(1, count / 5));
            test_.assign(calibration_.begin() + static_cast<std::ptrdiff_t>(seen_.size()), calibration_.end());
        }
    }

    Sparsified run() {
        progress("optimise", "", 0);
        passes::run(*graph_, passes::portable_pipeline());
        original_ = graph_->clone();
        find_layers();
        if (seen_.empty())
            for (const Layer& layer : layers_) sparsify_layer(layer, nullptr);
        else
            walk();
        for (Value* value : graph_->values())
            if (value->is_constant() && value->uses.empty() && !graph_->is_output(value)) graph_->erase_constant(value);
        describe();
        return Sparsified(std::move(graph_), std::move(report_));
    }

  private:
    void progress(std::string_view stage, std::string_view detail, double fraction) const {
        if (options_.progress && !options_.progress({stage, detail, fraction}))
            fail(ErrorCode::invalid_argument, "the sparsification was cancelled");
    }

    /// Why the layer stays dense; empty: it does not.
    std::string reason_against(const Layer& layer) const {
        for (const std::string& name : passes::origins_of(layer.node()))
            for (const std::string& pattern : options_.keep)
                if (matches(pattern, name)) return "kept";
        if (layer.is_depthwise()) return "depthwise: few weights";
        if (pattern_.two_of_four && layer.inputs() / layer.groups() % 4 != 0) return "input channels not in fours";
        return {};
    }

    void find_layers() {
        layers_ = precision::find_layers(*graph_, [](const Node&) { return true; });
        for (const std::string& pattern : options_.keep)
            if (std::none_of(layers_.begin(), layers_.end(), [&](const Layer& layer) {
                    const auto names = passes::origins_of(layer.node());
                    return std::any_of(names.begin(), names.end(), [&](const auto& n) { return matches(pattern, n); });
                }))
                fail(ErrorCode::invalid_argument, "no layer with weights is called '" + pattern + "'",
                     "planish inspect MODEL.plan --layers lists them");
        bool any = false;
        for (const Layer& layer : layers_) {
            const Tensor& w = *layer.weight()->constant;
            SparsifyRow row{passes::origins_of(layer.node()).front(), std::string(layer.node().op().name)};
            row.weights = w.size();
            row.zeros_before = row.zeros = zeros_of(w);
            row.bytes_before = row.bytes = w.bytes();
            row.note = reason_against(layer);
            any = any || row.note.empty();
            rows_[&layer.node()] = report_.layers.size();
            report_.layers.push_back(std::move(row));
        }
        if (!any)
            fail(ErrorCode::invalid_argument, "no layer of this network can have sparse weights",
                 "layers are Conv, Gemm and MatMul with constant float32 weights: sparsify before you quantise");
    }

    /// All samples side by side through the network, which becomes sparse on the way.
    void walk() {
        int64_t peak = 0;
        {
            Rehearsal one(*graph_, seen_.first(1), options_.threads);
            for (const auto& node : graph_->nodes()) one.run(*node);
            peak = std::max<int64_t>(one.peak_bytes(), 1);
        }
        seen_ = seen_.first(std::min(seen_.size(), static_cast<size_t>(std::max<int64_t>(options_.memory / peak, 1))));
        const precision::Padding padding(seen_);
        Rehearsal values(*graph_, seen_, options_.threads);
        std::unordered_map<const Node*, const Layer*> by_node;
        for (const Layer& layer : layers_) by_node[&layer.node()] = &layer;
        size_t done = 0;
        for (const auto& node : graph_->nodes()) {
            progress("sparsify", node->name,
                     0.05 + 0.8 * static_cast<double>(done++) / static_cast<double>(graph_->nodes().size()));
            if (const auto it = by_node.find(node.get()); it != by_node.end()) {
                const Inputs inputs{values, padding};
                sparsify_layer(*it->second, &inputs);
            }
            values.run(*node);
        }
        report_.samples = static_cast<int>(seen_.size());
    }

    struct Inputs {
        Rehearsal& values;
        const precision::Padding& padding;
    };

    /// Rows in the order in which zeros are shared out: a convolution's input channels of one place of the kernel are
    /// neighbours, as they are in channels-last memory and for sparse tensor cores.
    static std::vector<int64_t> order_of(const Layer& layer) {
        const int64_t channels = layer.inputs() / layer.groups(), taps = layer.terms() / channels;
        std::vector<int64_t> order;
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < channels; ++c) order.push_back(c * taps + tap);
        return order;
    }

    void sparsify_layer(const Layer& layer, const Inputs* inputs) {
        SparsifyRow& row = report_.layers[rows_.at(&layer.node())];
        if (!row.note.empty()) return;
        const std::vector<int64_t> order = order_of(layer);
        std::vector<std::vector<int64_t>> places;
        std::optional<Layer::Bias> bias;
        if (inputs != nullptr) {
            places = precision::choose_places(layer, inputs->values, layer.input(),
                                              std::clamp(kRowsATerm * layer.terms(), kLeastRows, kMostRows),
                                              inputs->padding);
            bias = layer.bias(*graph_);
        }
        Tensor tensor(DType::f32, layer.weight()->constant->dims());
        std::vector<double> shift(static_cast<size_t>(layer.channels()));
        double error = 0, energy = 0;
        for (int64_t group = 0; group < layer.groups(); ++group) {
            const Matrix before = reordered(layer.weights(group), order);
            Matrix w = before;
            if (inputs == nullptr) {
                cut_least(w, std::vector<double>(static_cast<size_t>(w.rows), 1), false, pattern_);
            } else {
                Matrix x = precision::gather(layer, inputs->values, layer.input(), group, places);
                std::vector<double> mean(static_cast<size_t>(x.columns));
                if (bias) mean = centre_columns(x);  // the bias takes up the rest
                const Matrix xt = reordered(transposed(x), order);
                const Matrix h = precision::product(xt, transposed(xt), options_.threads);
                cut(w, h);
                for (int64_t k = 0; k < w.rows; ++k)
                    for (int64_t n = 0; n < w.columns; ++n)
                        shift[static_cast<size_t>(group * w.columns + n)] +=
                            (double{before.at(k, n)} - w.at(k, n)) *
                            mean[static_cast<size_t>(order[static_cast<size_t>(k)])];
                error += seen_through(h, before, &w);
                energy += seen_through(h, before, nullptr);
            }
            if (inputs == nullptr)
                for (size_t i = 0; i < w.data.size(); ++i) {
                    const double d = double{w.data[i]} - before.data[i];
                    error += d * d;
                    energy += double{before.data[i]} * before.data[i];
                }
            Matrix back(w.rows, w.columns);
            for (int64_t i = 0; i < w.rows; ++i)
                std::copy_n(w.row(i), w.columns, back.row(order[static_cast<size_t>(i)]));
            layer.put_weights(tensor, group, back);
        }
        row.zeros = zeros_of(tensor);
        row.bytes = stored_bytes(tensor);
        row.error = energy > 0 ? std::sqrt(std::max(error, 0.0) / energy) : 0;
        Node& node = layer.node();
        const std::string name = layer.weight()->name;
        graph_->set_input(&node, 1, graph_->add_constant(graph_->unique_name(name + "_sparse"), std::move(tensor)));
        if (bias) add_to_bias(*bias, shift);
    }

    void cut(Matrix& w, const Matrix& h) const {
        std::vector<double> importance(static_cast<size_t>(w.rows), 1);
        double trace = 0;
        for (int64_t k = 0; k < w.rows; ++k) trace += h.at(k, k);
        if (report_.criterion == "sparsegpt" && trace > 0) {
            Matrix damped = h;
            const auto lambda = static_cast<float>(options_.damping * trace / static_cast<double>(w.rows));
            for (int64_t k = 0; k < w.rows; ++k) damped.at(k, k) += lambda;
            cut_and_adapt(w, damped, pattern_);
            return;
        }
        const bool wanda = report_.criterion == "wanda" && trace > 0;
        if (wanda)
            for (int64_t k = 0; k < w.rows; ++k) importance[static_cast<size_t>(k)] = h.at(k, k);
        cut_least(w, importance, wanda, pattern_);
    }

    /// tr(D' H D) of D = a - b, or of a.
    double seen_through(const Matrix& h, const Matrix& a, const Matrix* b) const {
        Matrix d = a;
        if (b != nullptr)
            for (size_t i = 0; i < d.data.size(); ++i) d.data[i] -= b->data[i];
        const Matrix hd = precision::product(h, d, options_.threads);
        double sum = 0;
        for (size_t i = 0; i < d.data.size(); ++i) sum += double{d.data[i]} * hd.data[i];
        return sum;
    }

    void add_to_bias(const Layer::Bias& bias, const std::vector<double>& shift) {
        const Value* old = bias.node->input(bias.input);
        Tensor tensor = old ? old->constant->clone() : Tensor(DType::f32, {static_cast<int64_t>(shift.size())});
        for (size_t n = 0; n < shift.size(); ++n) tensor.data<float>()[n] += static_cast<float>(shift[n]);
        const std::string name = graph_->unique_name((old ? old->name : bias.node->name) + "_shifted");
        graph_->set_input(bias.node, bias.input, graph_->add_constant(name, std::move(tensor)));
    }

    void describe() {
        for (const SparsifyRow& row : report_.layers) {
            report_.weights += row.weights;
            report_.zeros_before += row.zeros_before;
            report_.zeros += row.zeros;
        }
        for (const Value* value : original_->values())
            if (value->is_constant()) report_.bytes_before += value->constant->bytes();
        for (const Value* value : graph_->values())
            if (value->is_constant()) report_.bytes += stored_bytes(*value->constant);
        progress("measure", "", 0.9);
        Context whole = engine_of(original_->clone(), options_.threads).create_context();
        Context sparse = engine_of(graph_->clone(), options_.threads).create_context();
        compare(whole, sparse);
        if (options_.measure)
            std::tie(report_.seconds_before, report_.seconds) =
                time_both(whole, sparse, timing_sample(*graph_, calibration_, options_.shapes));
    }

    void compare(Context& whole, Context& sparse) {
        struct Sums {
            double signal = 0, noise = 0, cosines = 0;
            int64_t rows = 0, agreeing = 0;
        };
        std::map<std::string, Sums> sums;
        for (const TensorMap& sample : test_) {
            const TensorMap expected = whole.run(sample), actual = sparse.run(sample);
            for (const auto& [name, x] : expected) {
                if (x.dtype() != DType::f32 || x.size() == 0) continue;
                Sums& s = sums[name];
                const auto a = x.data<float>(), b = actual.at(name).data<float>();
                double aa = 0, ab = 0, bb = 0;
                for (size_t i = 0; i < a.size(); ++i) {
                    const double d = double{a[i]} - b[i];
                    aa += double{a[i]} * a[i];
                    ab += double{a[i]} * b[i];
                    bb += double{b[i]} * b[i];
                    s.noise += d * d;
                }
                s.signal += aa;
                s.cosines += aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : aa == bb;
                const auto width = static_cast<size_t>(x.rank() == 0 ? 1 : x.dim(-1));
                for (size_t at = 0; at < a.size(); at += width, ++s.rows) {
                    const auto largest = [&](std::span<const float> v) {
                        const auto row = v.subspan(at, width);
                        return std::max_element(row.begin(), row.end()) - row.begin();
                    };
                    s.agreeing += largest(a) == largest(b);
                }
            }
        }
        report_.tests = static_cast<int>(test_.size());
        for (const auto& [name, s] : sums)
            report_.outputs.push_back({name, s.noise > 0 ? 10 * std::log10(std::max(s.signal, 1e-300) / s.noise) : 300,
                                       s.cosines / static_cast<double>(test_.size()),
                                       static_cast<double>(s.agreeing) / static_cast<double>(s.rows)});
    }

    std::unique_ptr<Graph> graph_, original_;
    const SparsifyOptions& options_;
    ZeroPattern pattern_;
    std::vector<TensorMap> calibration_, test_;
    std::span<const TensorMap> seen_;  // what weights are fitted to
    std::vector<Layer> layers_;
    std::unordered_map<const Node*, size_t> rows_;  // of the report
    SparsifyReport report_;
};

}  // namespace
}  // namespace sparsity

Sparsified::Sparsified(std::shared_ptr<const Graph> graph, SparsifyReport report)
    : Optimised(std::move(graph)), report_(std::make_shared<const SparsifyReport>(std::move(report))) {}

Sparsified sparsify(const std::filesystem::path& model, const SparsifyOptions& options) {
    sparsity::check_options(options);
    return sparsity::Sparsifier(read_model(model).graph, options).run();
}

Sparsified sparsify(std::span<const std::byte> model, const SparsifyOptions& options,
                    const std::filesystem::path& external_data_folder) {
    sparsity::check_options(options);
    return sparsity::Sparsifier(read_model(model, external_data_folder).graph, options).run();
}

}  // namespace planish
