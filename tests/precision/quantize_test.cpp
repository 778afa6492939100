// Quantisation end to end on small graphs: where the borders go, what becomes of weights and biases, what is left
// alone.
#include "precision/quantize.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "passes/pass.hpp"
#include "planish/error.hpp"
#include "precision/equalise.hpp"
#include "precision/places.hpp"
#include "reference/interpreter.hpp"

namespace planish::precision {
namespace {

/// Parsed weights are zeros: normal ones, of the size that keeps signals as large as they are.
void fill(Graph& graph, uint32_t seed) {
    std::mt19937 generator(seed);
    for (Value* value : graph.values()) {
        if (!value->is_constant() || value->constant->dtype() != DType::f32 || value->constant->size() == 1) continue;
        const Dims& dims = value->constant->dims();
        const int64_t terms = dims.size() == 4 ? value->constant->size() / dims[0] : dims.size() == 2 ? dims[0] : 9;
        std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(terms)));
        Tensor t(DType::f32, dims);
        for (float& v : t.data<float>()) v = normal(generator);
        value->constant = std::make_shared<const Tensor>(std::move(t));
    }
}

std::vector<TensorMap> samples_for(const Graph& graph, int count, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<TensorMap> samples(static_cast<size_t>(count));
    for (TensorMap& sample : samples)
        for (const Value* input : graph.inputs()) {
            Dims dims;
            for (const Dim& d : *input->type.shape) dims.push_back(d.value().value_or(1));
            Tensor t(input->type.dtype, dims);
            for (int64_t i = 0; i < t.size(); ++i) t.set_double(i, is_float(t.dtype()) ? normal(generator) : 1.0);
            sample[input->name] = std::move(t);
        }
    return samples;
}

/// SQNR in dB of the first output over the samples, by the interpreter on both sides.
double sqnr(const Graph& exact, const Graph& quantised, const std::vector<TensorMap>& samples) {
    double signal = 0, noise = 0;
    for (const TensorMap& sample : samples) {
        const auto a = reference::run_graph(exact, sample), b = reference::run_graph(quantised, sample);
        const Tensor &x = a.begin()->second, &y = b.begin()->second;
        for (int64_t i = 0; i < x.size(); ++i) {
            signal += x.at_double(i) * x.at_double(i);
            noise += std::pow(x.at_double(i) - y.at_double(i), 2);
        }
    }
    return 10 * std::log10(signal / noise);
}

/// OP(inputs) of every node, in order, weights and scales left out.
std::vector<std::string> outline(const Graph& graph) {
    std::vector<std::string> lines;
    for (const auto& node : graph.nodes()) {
        std::string line = std::string(node->op().name) + "(";
        for (const Value* input : node->inputs())
            if (input != nullptr && !input->is_constant()) line += (line.back() == '(' ? "" : ", ") + input->name;
        lines.push_back(line + ") -> " + node->output()->name);
    }
    return lines;
}

constexpr const char* kResidual = R"(graph "g" { input %x : float32[N, 4, 8, 8]
    const %w1 : float32[6, 4, 3, 3] = dense<0> const %b1 : float32[6] = dense<0>
    const %w2 : float32[6, 6, 1, 1] = dense<0> const %w3 : float32[6, 1, 3, 3] = dense<0>
    const %w4 : float32[5, 6] = dense<0> const %b4 : float32[5] = dense<0>
    const %shape : int64[2] = [0, -1]
    %c1 = Conv(%x, %w1, %b1) {pads = [1, 1, 1, 1]} %r1 = Relu(%c1)
    %c2 = Conv(%r1, %w2) %s = Add(%c2, %r1)
    %d = Conv(%s, %w3) {group = 6, pads = [1, 1, 1, 1]} %r2 = Relu(%d)
    %p = GlobalAveragePool(%r2) %f = Reshape(%p, %shape)
    %y = Gemm(%f, %w4, %b4) {transB = 1} output %y })";

std::unique_ptr<Graph> residual() {
    auto graph = parse_graph(kResidual);
    fill(*graph, 1);
    return graph;
}

TEST(Quantize, BordersOfAResidualNetwork) {
    const auto graph = residual();
    QuantizeOptions options;
    options.equalise = false;
    quantize(*graph, samples_for(*graph, 4, 2), options);
    check(*graph);
    // The sum is stored, the convolution that adds it is not; weights are decoded in front of their layers.
    const std::vector<std::string> expected = {
        "QuantizeLinear(x) -> x_quantized",
        "DequantizeLinear(x_quantized) -> x_dequantized",
        "DequantizeLinear() -> w1_dequantized",
        "Conv(x_dequantized, w1_dequantized) -> c1",
        "Relu(c1) -> r1",
        "QuantizeLinear(r1) -> r1_quantized",
        "DequantizeLinear(r1_quantized) -> r1_dequantized",
        "DequantizeLinear() -> w2_dequantized",
        "Conv(r1_dequantized, w2_dequantized) -> c2",
        "Add(c2, r1_dequantized) -> s",
        "QuantizeLinear(s) -> s_quantized",
        "DequantizeLinear(s_quantized) -> s_dequantized",
        "DequantizeLinear() -> w3_dequantized",
        "Conv(s_dequantized, w3_dequantized) -> d",
        "Relu(d) -> r2",
        "QuantizeLinear(r2) -> r2_quantized",
        "DequantizeLinear(r2_quantized) -> r2_dequantized",
        "GlobalAveragePool(r2_dequantized) -> p",
        "Reshape(p) -> f",
        "QuantizeLinear(f) -> f_quantized",
        "DequantizeLinear(f_quantized) -> f_dequantized",
        "DequantizeLinear() -> w4_dequantized",
        "Gemm(f_dequantized, w4_dequantized) -> y",
    };
    EXPECT_THAT(outline(*graph), ::testing::ElementsAreArray(expected));
}

TEST(Quantize, StoresWhatTheContractSays) {
    const auto graph = residual();
    quantize(*graph, samples_for(*graph, 4, 2), {});
    int weights = 0;
    for (const auto& node : graph->nodes()) {
        if (node->is("QuantizeLinear")) {
            EXPECT_EQ(node->output()->type.dtype, DType::u8);
            EXPECT_EQ(node->input(1)->constant->rank(), 0);
        }
        if (!node->is("DequantizeLinear") || !node->input(0)->is_constant()) continue;
        ++weights;
        const Tensor& w = *node->input(0)->constant;
        EXPECT_EQ(w.dtype(), DType::i8);
        EXPECT_EQ(node->input(1)->constant->size(), w.dims()[0]);
        EXPECT_EQ(node->integer("axis"), 0);
        for (const int8_t v : w.data<int8_t>()) EXPECT_GE(v, -127);
    }
    EXPECT_EQ(weights, 4);
}

TEST(Quantize, KeepsTheSignalAndReportsEveryLayer) {
    const auto graph = residual(), exact = graph->clone();
    const QuantizeResult result = quantize(*graph, samples_for(*graph, 16, 2), {});
    // Five tensors of 8 bits, each some 40 dB above its noise.
    EXPECT_GT(sqnr(*exact, *graph, samples_for(*exact, 8, 3)), 28);
    ASSERT_EQ(result.layers.size(), 4u);
    for (const PrecisionRow& row : result.layers) {
        EXPECT_EQ(row.after, "int8");
        EXPECT_GT(row.sqnr, 28) << row.layer;
    }
    ASSERT_EQ(result.outputs.size(), 1u);
    EXPECT_GT(result.outputs[0].cosine, 0.999);
    EXPECT_TRUE(result.table.contains("x"));
}

// An e4m3 in [1, 2) is off by (1/8)^2 / 12 in the mean square; with numbers spread evenly over the logarithm that is
// 0.54 / 768 of their square, 31.5 dB. Nine tensors of the network are rounded: 22 dB, and what the pool averages.
TEST(Quantize, FloatsOfEightBitsKeepTheSignal) {
    const auto graph = parse_graph(kResidual);
    fill(*graph, 2);
    const auto exact = graph->clone();
    QuantizeOptions options;
    options.floats = true;
    const QuantizeResult result = quantize(*graph, samples_for(*graph, 16, 2), options);
    check(*graph);
    EXPECT_GT(sqnr(*exact, *graph, samples_for(*exact, 8, 3)), 22);
    ASSERT_EQ(result.layers.size(), 4u);
    for (const PrecisionRow& row : result.layers) {
        EXPECT_EQ(row.after, "fp8");
        EXPECT_GT(row.sqnr, 22) << row.layer;
    }
    int weights = 0;
    for (const auto& node : graph->nodes()) {
        if (node->is("QuantizeLinear")) {
            EXPECT_EQ(node->output()->type.dtype, DType::f8e4m3fn);
        }
        if (!node->is("DequantizeLinear") || !node->input(0)->is_constant()) continue;
        ++weights;
        const Tensor& w = *node->input(0)->constant;
        EXPECT_EQ(w.dtype(), DType::f8e4m3fn);
        // Each channel's largest weight is the largest number; none is NaN.
        const int64_t terms = w.size() / w.dims()[0];
        for (int64_t n = 0; n < w.dims()[0]; ++n) {
            double largest = 0;
            for (int64_t k = 0; k < terms; ++k) largest = std::max(largest, std::fabs(w.at_double(n * terms + k)));
            EXPECT_LE(largest, 448);
            EXPECT_GE(largest, 384);  // rounding for others' errors may cost a step
        }
    }
    EXPECT_EQ(weights, 4);
}

TEST(Quantize, ForGpusDepthwiseConvolutionsStayFloats) {
    const auto graph = residual();
    QuantizeOptions options;
    options.gpu = true;
    const QuantizeResult result = quantize(*graph, samples_for(*graph, 4, 2), options);
    std::map<std::string, std::string> after;
    for (const PrecisionRow& row : result.layers) after[row.layer] = row.after;
    ASSERT_EQ(after.size(), 4u);
    EXPECT_EQ(std::count_if(after.begin(), after.end(), [](const auto& row) { return row.second == "fp32"; }), 1);
    for (const auto& node : graph->nodes())
        if (node->is("Conv") && node->integer("group") > 1) {
            EXPECT_TRUE(node->input(1)->is_constant());
        }
}

TEST(Quantize, BatchesOfSamplesDoNotMatter) {
    const auto whole = residual(), pieces = whole->clone();
    const auto samples = samples_for(*whole, 6, 2);
    QuantizeOptions small;
    small.memory = 1;  // one sample at a time
    small.compensate = small.round_jointly = small.correct_bias = false;
    QuantizeOptions large = small;
    large.memory = 1 << 28;
    EXPECT_EQ(quantize(*whole, samples, large).table, quantize(*pieces, samples, small).table);
}

TEST(Quantize, PinnedLayersStayFloat) {
    const auto graph = residual();
    for (const auto& node : graph->nodes())
        if (node->is("Gemm")) node->name = "head";
    QuantizeOptions options;
    options.layer_precision = {{"*", "int8"}, {"he?d", "fp32"}};
    const QuantizeResult result = quantize(*graph, samples_for(*graph, 4, 2), options);
    for (const auto& node : graph->nodes()) {
        if (node->is("Gemm")) {
            EXPECT_TRUE(node->input(1)->is_constant());
        }
    }
    EXPECT_EQ(result.layers.front().after, "fp32");
    EXPECT_EQ(result.layers.front().layer, "head");
}

TEST(Quantize, GridsOfATableAreTaken) {
    const auto graph = residual();
    const CalibrationTable table = {{"s", grid_of(-100, 155)}};
    QuantizeOptions options;
    options.table = &table;
    EXPECT_EQ(quantize(*graph, samples_for(*graph, 4, 2), options).table.at("s"), (Grid{1, 100}));
}

TEST(Quantize, SamplesAreChecked) {
    const auto graph = residual();
    EXPECT_THROW(quantize(*graph, {}, {}), Error);
    EXPECT_THROW(quantize(*graph, std::vector<TensorMap>{{{"z", Tensor::scalar(1.0f)}}}, {}), Error);
    EXPECT_THROW(quantize(*graph, std::vector<TensorMap>{{{"x", Tensor(DType::i64, {1, 4, 8, 8})}}}, {}), Error);
}

// Scores, softmax, masks and the normalisation with the residual stream that it ends stay float; so does a layer whose
// input is filled with -3.4e38.
TEST(Quantize, LeavesAttentionAndMasksAlone) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 3, 8] input %m : float32[N, 3, 8]
        const %w1 : float32[8, 8] = dense<0> const %b1 : float32[8] = dense<0> const %w2 : float32[8, 8] = dense<0>
        const %g : float32[8] = dense<0> const %h : float32[8] = dense<0> const %wm : float32[8, 8] = dense<0>
        const %least : float32[] = [-3.4028234663852886e+38]
        %q = MatMul(%x, %w1) %qb = Add(%q, %b1) %t = Transpose(%x) {perm = [0, 2, 1]}
        %scores = MatMul(%qb, %t) %p = Softmax(%scores) %v = MatMul(%p, %x)
        %o = MatMul(%v, %w2) %r = Add(%o, %x) %n = LayerNormalization(%r, %g, %h)
        %masked = Min(%m, %least) %mw = MatMul(%masked, %wm) %y = Add(%n, %mw) output %y })");
    fill(*graph, 3);
    const QuantizeResult result = quantize(*graph, samples_for(*graph, 8, 4), {});
    check(*graph);
    for (const auto& node : graph->nodes()) {
        const auto reads_bytes = [&](int i) {
            return node->input(i)->producer != nullptr && node->input(i)->producer->is("DequantizeLinear");
        };
        const std::string& name = node->output()->name;
        const bool plain = node->is("Softmax") || node->is("Transpose") || node->is("LayerNormalization");
        if (plain || name == "scores" || name == "r" || name == "mw") {
            EXPECT_FALSE(reads_bytes(0)) << name;
        }
        if (name == "scores" || name == "r") {
            EXPECT_FALSE(reads_bytes(1)) << name;
        }
        if (name == "q" || name == "o") {
            EXPECT_TRUE(reads_bytes(0) && reads_bytes(1)) << name;
        }
    }
    for (const PrecisionRow& row : result.layers) {
        if (row.after != "int8") {
            EXPECT_NE(row.note.find("3.4e+38"), std::string::npos) << row.note;
        }
    }
    EXPECT_EQ(result.layers.size(), 3u);
}

TEST(Quantize, ConcatenatedTensorsShareAGrid) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 4, 4, 4]
        const %w1 : float32[4, 4, 1, 1] = dense<0> const %w2 : float32[4, 4, 1, 1] = dense<0>
        const %w3 : float32[4, 8, 1, 1] = dense<0> const %three : float32[] = [3.0]
        %a = Conv(%x, %w1) %c = Conv(%x, %w2) %b = Mul(%c, %three)
        %k = Concat(%a, %b) {axis = 1} %y = Conv(%k, %w3) output %y })");
    fill(*graph, 5);
    const auto table = quantize(*graph, samples_for(*graph, 4, 6), {}).table;
    EXPECT_EQ(table.at("a"), table.at("k"));
    EXPECT_EQ(table.at("b"), table.at("k"));
    EXPECT_NE(table.at("x"), table.at("k"));
}

// Channels of very different size behind a normalisation: one grid for all of them drowns the small ones.
TEST(Equalise, ChangesNothingInFloatAndSavesSmallChannels) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 16, 32]
        const %g : float32[32] = dense<0> const %h : float32[32] = dense<0> const %w : float32[32, 24] = dense<0>
        const %b : float32[24] = dense<0>
        %n = LayerNormalization(%x, %g, %h) %m = MatMul(%n, %w) %y = Add(%m, %b) output %y })");
    fill(*graph, 7);
    Tensor gamma(DType::f32, {32}), weights = graph->find_value("w")->constant->clone();
    for (int64_t c = 0; c < 32; ++c) {
        gamma.data<float>()[static_cast<size_t>(c)] = c < 2 ? 64.0f : 1.0f;
        for (int64_t n = 0; n < 24; ++n) weights.data<float>()[static_cast<size_t>(c * 24 + n)] /= c < 2 ? 64.0f : 1.0f;
    }
    graph->find_value("g")->constant = std::make_shared<const Tensor>(std::move(gamma));
    graph->find_value("w")->constant = std::make_shared<const Tensor>(std::move(weights));
    const auto exact = graph->clone(), without = graph->clone();
    QuantizeOptions options;
    options.equalise = false;
    quantize(*without, samples_for(*graph, 16, 8), options);
    quantize(*graph, samples_for(*graph, 16, 8), {});
    const auto test = samples_for(*exact, 8, 9);
    EXPECT_GT(sqnr(*exact, *graph, test), sqnr(*exact, *without, test) + 6);
    // The factors went into the normalisation: no node more.
    EXPECT_EQ(graph->nodes().size(), without->nodes().size());
}

// A depthwise filter's weights lose nothing by scaling its channel up, whatever is in front of it; channels that grow
// on other data are not cut off.
TEST(Equalise, SmallChannelsOfDepthwiseConvolutions) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 8, 8, 8] const %w1 : float32[32, 8, 1, 1] = dense<0>
        const %w2 : float32[32, 1, 3, 3] = dense<0>
        %a = Conv(%x, %w1) %h = HardSwish(%a) %y = Conv(%h, %w2) {group = 32, pads = [1, 1, 1, 1]} output %y })");
    fill(*graph, 21);
    Tensor weights = graph->find_value("w1")->constant->clone(), filters = graph->find_value("w2")->constant->clone();
    for (size_t i = 2 * 8; i < 32 * 8; ++i) weights.data<float>()[i] /= 20;
    for (size_t i = 2 * 9; i < 32 * 9; ++i) filters.data<float>()[i] *= 20;
    graph->find_value("w1")->constant = std::make_shared<const Tensor>(std::move(weights));
    graph->find_value("w2")->constant = std::make_shared<const Tensor>(std::move(filters));
    const auto exact = graph->clone(), without = graph->clone();
    QuantizeOptions options;
    options.equalise = false;
    quantize(*without, samples_for(*graph, 8, 22), options);
    quantize(*graph, samples_for(*graph, 8, 22), {});
    check(*graph);
    auto test = samples_for(*exact, 8, 23);
    EXPECT_GT(sqnr(*exact, *graph, test), sqnr(*exact, *without, test) + 9);
    for (TensorMap& sample : test)
        for (float& v : sample["x"].data<float>()) v *= 1.5f;
    EXPECT_GT(sqnr(*exact, *graph, test), sqnr(*exact, *without, test));
    // Behind a clip the factors go into the convolution before it, at no cost.
    auto clipped = parse_graph(R"(graph "g" { input %x : float32[N, 8, 8, 8] const %w1 : float32[32, 8, 1, 1] = dense<0>
        const %w2 : float32[32, 1, 3, 3] = dense<0> const %lo : float32[] = [0.0] const %hi : float32[] = [1.5]
        %a = Conv(%x, %w1) %h = Clip(%a, %lo, %hi) %y = Conv(%h, %w2) {group = 32, pads = [1, 1, 1, 1]} output %y })");
    for (const char* name : {"w1", "w2"}) clipped->find_value(name)->constant = exact->find_value(name)->constant;
    const auto exactly = clipped->clone(), plainly = clipped->clone();
    quantize(*plainly, samples_for(*exactly, 8, 22), options);
    quantize(*clipped, samples_for(*exactly, 8, 22), {});
    EXPECT_EQ(clipped->nodes().size(), plainly->nodes().size());
    EXPECT_GT(sqnr(*exactly, *clipped, samples_for(*exactly, 8, 23)),
              sqnr(*exactly, *plainly, samples_for(*exactly, 8, 23)) + 4);
    // Channels alike are left alone.
    auto even = parse_graph(R"(graph "g" { input %x : float32[N, 8, 8, 8] const %w : float32[8, 1, 3, 3] = dense<0>
        %h = HardSwish(%x) %y = Conv(%h, %w) {group = 8, pads = [1, 1, 1, 1]} output %y })");
    fill(*even, 24);
    quantize(*even, samples_for(*even, 8, 25), {});
    for (const auto& node : even->nodes()) EXPECT_FALSE(node->is("Mul"));
}

constexpr const char* kAttention = R"(graph "g" { input %x : float32[N, 20, 32]
    const %w : float32[32, 96] = dense<0> const %b : float32[96] = dense<0>
    const %wo : float32[32, 32] = dense<0> const %bo : float32[32] = dense<0>
    const %c0 : int64[1] = [0] const %c1 : int64[1] = [32] const %c2 : int64[1] = [64] const %c3 : int64[1] = [96]
    const %axis : int64[1] = [2]
    %m = MatMul(%x, %w) %p = Add(%m, %b)
    %q = Slice(%p, %c0, %c1, %axis) %k = Slice(%p, %c1, %c2, %axis) %v = Slice(%p, %c2, %c3, %axis)
    %a = Attention(%q, %k, %v) {q_num_heads = 4, kv_num_heads = 4} name "attention"
    %o = MatMul(%a, %wo) %y = Add(%o, %bo) output %y })";

/// Values far smaller than keys, and one key channel far larger than the others, its query channel far smaller.
std::unique_ptr<Graph> uneven_attention() {
    auto graph = parse_graph(kAttention);
    fill(*graph, 20);
    Tensor w = graph->find_value("w")->constant->clone(), b = graph->find_value("b")->constant->clone();
    for (int64_t c = 0; c < 96; ++c) {
        const float factor = c >= 64 ? 0.05f : c == 3 ? 0.05f : c == 35 ? 20.0f : 1.0f;
        for (int64_t k = 0; k < 32; ++k) w.data<float>()[static_cast<size_t>(k * 96 + c)] *= factor;
        b.data<float>()[static_cast<size_t>(c)] *= factor;
    }
    graph->find_value("w")->constant = std::make_shared<const Tensor>(std::move(w));
    graph->find_value("b")->constant = std::make_shared<const Tensor>(std::move(b));
    return graph;
}

TEST(Equalise, QueriesKeysAndValuesOfAnAttentionShareAGridWithoutLoss) {
    auto graph = uneven_attention();
    const auto exact = graph->clone(), without = graph->clone();
    QuantizeOptions options;
    options.equalise = false;
    quantize(*without, samples_for(*graph, 16, 21), options);
    quantize(*graph, samples_for(*graph, 16, 21), {});
    for (const Graph* g : {graph.get(), without.get()})
        for (const auto& node : g->nodes())
            if (node->is("Slice")) {
                EXPECT_TRUE(node->input(0)->producer->is("DequantizeLinear"));
            }
    for (const auto& node : graph->nodes()) {
        EXPECT_TRUE(!node->is("Mul") || node->input(0)->name == "x") << "the other factors went into weights";
    }
    const auto test = samples_for(*exact, 8, 22);
    EXPECT_GT(sqnr(*exact, *graph, test), sqnr(*exact, *without, test) + 6);
    EXPECT_GT(sqnr(*exact, *graph, test), 30);
}

TEST(Quantize, PinnedAttentionReadsFloats) {
    auto graph = uneven_attention();
    QuantizeOptions options;
    options.layer_precision = {{"attention", "fp32"}};
    quantize(*graph, samples_for(*graph, 4, 21), options);
    for (const auto& node : graph->nodes())
        if (node->is("Slice")) {
            EXPECT_FALSE(node->input(0)->producer->is("DequantizeLinear"));
        }
}

// A layer's rounding moves the mean of its channels; the bias takes that back, and the layer gets one if it has none.
TEST(Quantize, BiasesKeepTheMeans) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 64] const %w : float32[64, 4] = dense<0>
        const %b : float32[4] = dense<0> %m = MatMul(%x, %w) %y = Add(%m, %b) output %y })");
    fill(*graph, 10);
    const auto exact = graph->clone();
    auto samples = samples_for(*graph, 64, 11);
    for (TensorMap& sample : samples)
        for (float& v : sample["x"].data<float>()) v += 3;
    QuantizeOptions options;
    options.round_jointly = options.compensate = options.equalise = false;
    quantize(*graph, samples, options);
    std::vector<double> shift(4);
    double noise = 0;
    for (const TensorMap& sample : samples) {
        const Tensor a = reference::run_graph(*exact, sample).at("y"), b = reference::run_graph(*graph, sample).at("y");
        for (size_t c = 0; c < 4; ++c) {
            const double d = double{b.data<float>()[c]} - a.data<float>()[c];
            shift[c] += d / 64;
            noise += d * d / 256;
        }
    }
    // What is left is the rounding of means to float32.
    for (const double s : shift) EXPECT_LT(std::fabs(s), 1e-3 * std::sqrt(noise));
}

/// A channel of large constants, which nothing reads, takes up the grid of a tensor: the layer that reads the others is
/// the sensitive one.
TEST(Quantize, SensitivitiesFindTheLayerThatLosesItsSignal) {
    auto graph = parse_graph(R"(graph "g" { input %x : float32[N, 4, 8, 8]
        const %w1 : float32[6, 4, 3, 3] = dense<0> const %b1 : float32[6] = dense<0>
        const %w2 : float32[6, 6, 1, 1] = dense<0>
        const %w3 : float32[5, 6, 1, 1] = dense<0> const %w4 : float32[5, 6, 1, 1] = dense<0>
        %c1 = Conv(%x, %w1, %b1) %r1 = Relu(%c1)
        %c2 = Conv(%r1, %w2) %r2 = Relu(%c2)
        %c3 = Conv(%r2, %w3) %c4 = Conv(%r2, %w4) %y = Add(%c3, %c4) output %y })");
    fill(*graph, 1);
    Tensor offset = graph->find_value("b1")->constant->clone(), weights = graph->find_value("w2")->constant->clone();
    offset.data<float>()[0] = 1000;
    for (int64_t n = 0; n < 6; ++n) weights.data<float>()[static_cast<size_t>(6 * n)] = 0;
    graph->find_value("b1")->constant = std::make_shared<const Tensor>(std::move(offset));
    graph->find_value("w2")->constant = std::make_shared<const Tensor>(std::move(weights));
    QuantizeOptions options;
    options.sensitivities = true;
    const auto result = quantize(*graph, samples_for(*graph, 4, 2), options);
    ASSERT_EQ(result.groups.size(), 3u) << "layers that read one tensor are one group";
    EXPECT_EQ(result.groups[2].members.size(), 2u);
    EXPECT_GT(result.groups[1].noise, 0.1);
    EXPECT_LT(result.groups[0].noise, 1e-3);
    EXPECT_LT(result.groups[2].noise, 1e-3);
    EXPECT_GT(result.groups[2].noise, 0);
    EXPECT_EQ(result.groups[0].members[0].products, 36 * 36 * 6);
    EXPECT_TRUE(result.groups[0].borders.empty());
    ASSERT_EQ(result.groups[2].borders.size(), 1u);
    EXPECT_EQ(result.groups[2].borders[0].group, 1u);
    EXPECT_EQ(result.groups[2].borders[0].elements, 6 * 6 * 6);
}

}  // namespace
}  // namespace planish::precision
