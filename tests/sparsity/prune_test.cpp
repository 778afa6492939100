// planish::prune end to end: counts, multiples, what least squares recovers, options refused.
#include "planish/prune.hpp"

#include <gmock/gmock.h>

#include <cmath>

#include "exporters/onnx/exporter.hpp"
#include "ir/graph.hpp"
#include "plan/contents.hpp"
#include "reference/interpreter.hpp"
#include "sparsity/least_squares.hpp"
#include "sparsity/products.hpp"

namespace planish {
namespace {

double noise(uint32_t& seed) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) * 0x1p-24 - 0.5;
}

Tensor random_tensor(Dims dims, uint32_t seed) {
    Tensor t(DType::f32, std::move(dims));
    for (int64_t i = 0; i < t.size(); ++i) t.set_double(i, noise(seed));
    return t;
}

/// x[N, 4, 6, 6] -> 3×3 to `hidden` channels -> Relu -> 1×1 to `hidden` -> Relu -> 1×1 to 4. In each hidden layer the
/// second half of the channels repeats the first, scaled by two.
std::unique_ptr<Graph> repeating_network(int64_t hidden) {
    auto graph = std::make_unique<Graph>("net");
    Value* x = graph->add_input("x", {Kind::tensor, DType::f32, Shape{Dim::symbol("N"), Dim(4), Dim(6), Dim(6)}});
    const auto repeat = [&](Tensor w) {
        const int64_t half = w.size() / 2;
        for (int64_t i = 0; i < half; ++i) w.set_double(half + i, 2 * w.at_double(i));
        return w;
    };
    const Attributes same{{"pads", std::vector<int64_t>{1, 1, 1, 1}}};
    Value* w1 = graph->add_constant("w1", repeat(random_tensor({hidden, 4, 3, 3}, 1)));
    Value* w2 = graph->add_constant("w2", repeat(random_tensor({hidden, hidden, 1, 1}, 2)));
    Value* w3 = graph->add_constant("w3", random_tensor({4, hidden, 1, 1}, 3));
    Value* a = graph->add_node("Relu", {graph->add_node("Conv", {x, w1}, same, 1, "conv1")->output()})->output();
    Value* b = graph->add_node("Relu", {graph->add_node("Conv", {a, w2}, {}, 1, "conv2")->output()})->output();
    graph->add_output(graph->add_node("Conv", {b, w3}, {}, 1, "conv3", nullptr, "", {"y"})->output());
    return graph;
}

std::vector<TensorMap> samples(int count, uint32_t seed) {
    std::vector<TensorMap> result;
    for (int i = 0; i < count; ++i)
        result.push_back({{"x", random_tensor({1, 4, 6, 6}, seed + static_cast<uint32_t>(i))}});
    return result;
}

double relative_error(const Graph& expected, const Graph& actual, const TensorMap& input) {
    const Tensor a = reference::run_graph(expected, input).at("y"), b = reference::run_graph(actual, input).at("y");
    double error = 0, size = 0;
    for (int64_t i = 0; i < a.size(); ++i) {
        error += std::pow(a.at_double(i) - b.at_double(i), 2);
        size += std::pow(a.at_double(i), 2);
    }
    return std::sqrt(error / size);
}

PruneOptions half() {
    PruneOptions options;
    options.ratio = 0.5;
    options.global = false;
    options.measure = false;
    return options;
}

TEST(Prune, LeastSquaresTakesOverWhatTheLostChannelsDid) {
    const auto graph = repeating_network(16);
    PruneOptions options = half();
    options.calibration = samples(16, 100);
    options.ridge = 1e-6;
    const Pruned pruned = prune(onnx_export::to_bytes(*graph), options);
    EXPECT_EQ(pruned.report().channels, 16);
    EXPECT_EQ(pruned.report().channels_before, 32);
    // Half of the channels say what the others say: nothing is lost, up to the ridges. The error of a layer is relative
    // to how its output varies, which is less than its size.
    for (const TensorMap& input : samples(3, 900)) EXPECT_LT(relative_error(*graph, pruned.graph(), input), 1e-3);
    for (const PruneRow& row : pruned.report().layers) EXPECT_LT(row.error, 1e-2) << row.layer;

    options.reconstruct = false;
    const Pruned cut = prune(onnx_export::to_bytes(*graph), options);
    EXPECT_GT(relative_error(*graph, cut.graph(), samples(1, 900)[0]), 0.05);
}

TEST(Prune, FewDataMakeNoLayerWorse) {
    // One place of one sample: fitting it exactly would ruin all others.
    const auto graph = repeating_network(16);
    PruneOptions options = half();
    options.calibration = samples(8, 100);
    options.rows = 8;
    options.criterion = "l2";
    const TensorMap input = samples(1, 900)[0];
    const double adapted = relative_error(*graph, prune(onnx_export::to_bytes(*graph), options).graph(), input);
    options.reconstruct = false;
    EXPECT_LT(adapted, 1.25 * relative_error(*graph, prune(onnx_export::to_bytes(*graph), options).graph(), input));
}

TEST(Prune, ActivationsTellWhichChannelsMatter) {
    // Large weights on channels that are always zero: norms keep them, data does not.
    auto graph = repeating_network(16);
    Value* w1 = graph->find_value("w1");
    Tensor bias(DType::f32, {16});
    for (int64_t c = 8; c < 16; ++c) bias.set_double(c, -1000);
    graph->set_input(w1->uses[0].node, 2, graph->add_constant("b1", bias));
    PruneOptions options = half();
    options.keep = {"conv2"};
    options.calibration = samples(16, 100);
    options.reconstruct = false;
    const TensorMap input = samples(1, 900)[0];
    EXPECT_LT(relative_error(*graph, prune(onnx_export::to_bytes(*graph), options).graph(), input), 1e-6);
    options.criterion = "l2";
    EXPECT_GT(relative_error(*graph, prune(onnx_export::to_bytes(*graph), options).graph(), input), 0.1);
}

TEST(Prune, ChannelsGoWhereTheNetworkLosesLeast) {
    // Two branches that are alike, but that one adds a thousandth of what the other does.
    Graph graph("net");
    Value* x = graph.add_input("x", {Kind::tensor, DType::f32, Shape{Dim::symbol("N"), Dim(4), Dim(6), Dim(6)}});
    std::vector<Value*> branches;
    for (const uint32_t seed : {1u, 2u}) {
        const std::string name = seed == 1 ? "large" : "small";
        Tensor last = random_tensor({4, 16, 1, 1}, seed + 10);
        if (seed == 2)
            for (float& w : last.data<float>()) w *= 1e-3f;
        Value* first = graph.add_constant(name + "_w1", random_tensor({16, 4, 1, 1}, seed));
        Value* second = graph.add_constant(name + "_w2", std::move(last));
        Value* a = graph.add_node("Relu", {graph.add_node("Conv", {x, first}, {}, 1, name)->output()})->output();
        branches.push_back(graph.add_node("Conv", {a, second}, {}, 1, name + "_out")->output());
    }
    graph.add_output(graph.add_node("Add", branches, {}, 1, "sum", nullptr, "", {"y"})->output());
    PruneOptions options;
    options.ratio = 0.25;
    options.measure = false;
    options.calibration = samples(20, 5);
    const Pruned pruned = prune(onnx_export::to_bytes(graph), options);
    for (const PruneRow& row : pruned.report().layers)
        if (row.channels_before == 16) {
            EXPECT_EQ(row.channels, row.layer == "small" ? 8 : 16) << row.layer;
        }
}

TEST(Products, ANormalisationTakesUpWhatABiasWould) {
    Graph graph("net");
    Value* x = graph.add_input("x", {Kind::tensor, DType::f32, Shape{Dim(1), Dim(4), Dim(2), Dim(2)}});
    Value* w = graph.add_constant("w", random_tensor({3, 4, 1, 1}, 1));
    Value* y = graph.add_node("Conv", {x, w}, {}, 1, "conv")->output();
    std::vector<Value*> inputs{y};
    for (const uint32_t seed : {2u, 3u, 4u})
        inputs.push_back(graph.add_constant("p" + std::to_string(seed), random_tensor({3}, seed)));
    inputs.push_back(graph.add_constant("variance", Tensor::from<float>(std::vector<float>{1, 4, 0.25f}, {3})));
    graph.add_output(graph.add_node("BatchNormalization", inputs, {}, 1, "bn", nullptr, "", {"y"})->output());
    const auto shifted = graph.clone();
    const sparsity::Product product = sparsity::products_of(*shifted).front();
    ASSERT_TRUE(sparsity::takes_bias(product, false));
    const std::vector<double> shift{1, -2, 3};
    sparsity::add_to_bias(product, shift);
    const TensorMap feeds{{"x", random_tensor({1, 4, 2, 2}, 5)}};
    const Tensor a = reference::run_graph(graph, feeds).at("y"), b = reference::run_graph(*shifted, feeds).at("y");
    const Tensor& scale = *graph.find_value("p2")->constant;
    const double deviation[] = {1, 2, 0.5};
    for (int64_t i = 0; i < a.size(); ++i) {
        const int64_t c = i / 4;
        // float32 results of a few operations on numbers below 10.
        EXPECT_NEAR(b.at_double(i) - a.at_double(i), shift[static_cast<size_t>(c)] * scale.at_double(c) / deviation[c],
                    1e-4);
    }
}

TEST(Prune, WhatIsLeftIsAMultiple) {
    const auto graph = repeating_network(40);
    for (const double ratio : {0.1, 0.3, 0.6}) {
        PruneOptions options = half();
        options.ratio = ratio;
        options.multiple = 16;
        const Pruned pruned = prune(onnx_export::to_bytes(*graph), options);
        for (const PruneRow& row : pruned.report().layers)
            EXPECT_TRUE(row.layer == "conv3" || row.channels % 16 == 0 || row.channels == 40) << row.channels;
    }
}

TEST(Prune, APlanIsPrunedFromItsPortableGraph) {
    const auto graph = repeating_network(16);
    const std::vector<std::byte> model = onnx_export::to_bytes(*graph);
    BuildOptions build_options;
    build_options.optimization_level = 1;
    build_options.shapes["x"] = {{1, 4, 6, 6}, {1, 4, 6, 6}, {1, 4, 6, 6}};
    const Plan plan = build(model, build_options);
    const Pruned from_plan = prune(plan.bytes(), half()), from_model = prune(model, half());
    EXPECT_EQ(from_plan.report().channels, from_model.report().channels);
    EXPECT_EQ(from_plan.build(build_options).contents()->graph->inputs().size(), 1U);
}

TEST(Prune, RefusesWhatCannotBe) {
    const std::vector<std::byte> model = onnx_export::to_bytes(*repeating_network(16));
    const auto message = [&](auto&& change) {
        PruneOptions options = half();
        change(options);
        try {
            prune(model, options);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
            return error.message();
        }
        return std::string("no error");
    };
    using testing::HasSubstr;
    EXPECT_THAT(message([](PruneOptions& o) { o.ratio = 1; }), HasSubstr("the ratio is 1"));
    EXPECT_THAT(message([](PruneOptions& o) { o.speedup = 0.5; }), HasSubstr("the speed-up is 0.5"));
    EXPECT_THAT(message([](PruneOptions& o) { o.criterion = "luck"; }), HasSubstr("unknown criterion 'luck'"));
    EXPECT_THAT(message([](PruneOptions& o) { o.criterion = "activation"; }), HasSubstr("needs calibration data"));
    EXPECT_THAT(message([](PruneOptions& o) { o.keep = {"conv9"}; }), HasSubstr("no layer is called 'conv9'"));
    EXPECT_THAT(message([](PruneOptions& o) { o.keep = {"conv*"}; }), HasSubstr("no channel"));
    EXPECT_THAT(message([](PruneOptions& o) { o.speedup = 1e6; }), HasSubstr("out of reach"));
}

TEST(LeastSquares, RegressionFindsTheMatrixThatMadeTheData) {
    uint32_t seed = 5;
    sparsity::Matrix x(200, 6), truth(3, 6), targets(200, 3), prior(3, 6);
    for (double& v : x.data) v = noise(seed);
    for (double& v : truth.data) v = noise(seed);
    for (int64_t r = 0; r < 200; ++r)
        for (int64_t t = 0; t < 3; ++t)
            for (int64_t i = 0; i < 6; ++i) targets.at(r, t) += truth.at(t, i) * x.at(r, i);
    const sparsity::Matrix found = sparsity::NormalEquations(x, targets).solve(prior, 0);
    // The condition of a random Gram matrix of 200 rows is below 10: a few roundings of sums of 200 terms.
    for (size_t i = 0; i < truth.data.size(); ++i) EXPECT_NEAR(found.data[i], truth.data[i], 1e-12);
    // Without data the prior stands.
    for (double& v : prior.data) v = 2;
    EXPECT_EQ(sparsity::NormalEquations(sparsity::Matrix(200, 6), targets).solve(prior, 1e-3).data, prior.data);
    // Parts add up to the whole.
    sparsity::NormalEquations parts(sparsity::rows_of(x, 0, 70), sparsity::rows_of(targets, 0, 70));
    parts += sparsity::NormalEquations(sparsity::rows_of(x, 70, 200), sparsity::rows_of(targets, 70, 200));
    EXPECT_LT(sparsity::squared_error(x, targets, parts.solve(prior, 0)), 1e-20);
}

}  // namespace
}  // namespace planish
