// Runs the network with the values of interest as its outputs.
#include "sparsity/observe.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "passes/pass.hpp"
#include "plan/contents.hpp"
#include "planish/error.hpp"

namespace planish::sparsity {
namespace {

constexpr double kGolden = 0.6180339887498949;

/// Every place of `tensor` but for the channels' axis is a row; `count` of them are appended: all, or multiples of the
/// golden ratio, which spread evenly over both axes of an image; other ones in each `sample`.
void append_rows(const Tensor& tensor, int64_t axis, int64_t count, int64_t sample, std::vector<double>& rows) {
    const int64_t channels = tensor.dim(axis);
    int64_t inner = 1;
    for (int64_t i = axis + 1; i < tensor.rank(); ++i) inner *= tensor.dim(i);
    const int64_t places = channels == 0 ? 0 : tensor.size() / channels;
    count = std::min(count, places);
    const auto data = tensor.data<float>();
    for (int64_t r = 0; r < count; ++r) {
        const double spread = static_cast<double>(sample * count + r) * kGolden;
        const int64_t place =
            count == places ? r : static_cast<int64_t>((spread - std::floor(spread)) * static_cast<double>(places));
        const float* from = data.data() + place / inner * inner * channels + place % inner;
        for (int64_t c = 0; c < channels; ++c) rows.push_back(from[c * inner]);
    }
}

}  // namespace

Engine engine_of(std::unique_ptr<Graph> graph, int threads) {
    auto contents = std::make_shared<plan::PlanContents>();
    contents->graph = std::move(graph);
    LoadOptions options;
    options.device = "cpu";
    options.threads = threads;
    return load(Plan(std::move(contents), {}), options);
}

std::vector<Matrix> Observer::observe(const Graph& graph, const std::vector<Tap>& taps) const {
    auto watched = graph.clone();
    // Only what the taps need is computed: they take the outputs' places.
    std::map<std::string, std::string> output;  // value -> output that carries it
    const size_t places = watched->outputs().size();
    size_t place = 0;
    for (const Tap& tap : taps) {
        if (output.contains(tap.value)) continue;
        Value* value = watched->find_value(tap.value);
        if (value == nullptr) fail(ErrorCode::internal, "there is no value '" + tap.value + "' to observe");
        Value* copy = watched->add_node("Identity", {value}, {}, 1, watched->unique_name(tap.value + "_tap"))->output();
        if (place < places)
            watched->set_output(static_cast<int>(place++), copy);
        else
            watched->add_output(copy);
        output[tap.value] = copy->name;
    }
    passes::eliminate_dead_code(*watched);
    Context context = engine_of(std::move(watched), threads_).create_context();

    std::vector<std::vector<double>> rows(taps.size());
    const int64_t share = std::max<int64_t>(1, rows_ / static_cast<int64_t>(std::max<size_t>(samples_.size(), 1)));
    std::vector<int64_t> channels(taps.size());
    for (size_t s = 0; s < samples_.size(); ++s) {
        const TensorMap values = context.run(samples_[s]);
        for (size_t t = 0; t < taps.size(); ++t) {
            const Tensor& tensor = values.at(output.at(taps[t].value));
            channels[t] = tensor.dim(taps[t].axis);
            append_rows(tensor, taps[t].axis, share, static_cast<int64_t>(s), rows[t]);
        }
    }
    std::vector<Matrix> result(taps.size());
    for (size_t t = 0; t < taps.size(); ++t) {
        result[t].columns = channels[t];
        result[t].rows = channels[t] == 0 ? 0 : static_cast<int64_t>(rows[t].size()) / channels[t];
        result[t].data = std::move(rows[t]);
    }
    return result;
}

OutputError::OutputError(const Graph& graph, std::vector<TensorMap> samples, int threads)
    : samples_(std::move(samples)), threads_(threads) {
    Context context = engine_of(graph.clone(), threads).create_context();
    for (const TensorMap& sample : samples_) expected_.push_back(context.run(sample));
}

double OutputError::of(const Graph& other) const {
    Context context = engine_of(other.clone(), threads_).create_context();
    std::map<std::string, std::pair<double, double>> sums;  // of the outputs' squares, of the differences'
    for (size_t i = 0; i < samples_.size(); ++i) {
        const TensorMap actual = context.run(samples_[i]);
        for (const auto& [name, tensor] : expected_[i]) {
            if (tensor.dtype() != DType::f32) continue;
            auto& [energy, error] = sums[name];
            const auto x = tensor.data<float>(), y = actual.at(name).data<float>();
            for (size_t e = 0; e < x.size(); ++e) {
                const double d = double{y[e]} - x[e];
                energy += double{x[e]} * x[e];
                error += d * d;
            }
        }
    }
    double result = 0;
    for (const auto& [name, sum] : sums) result += sum.second / std::max(sum.first, 1e-30);
    return result;
}

}  // namespace planish::sparsity
