// planish::prune end to end: counts, multiples, what least squares recovers, options refused.
#include "planish/prune.hpp"

#include <gmock/gmock.h>

#include <cmath>

#include "exporters/onnx/exporter.hpp"
#include "ir/graph.hpp"
#include "plan/contents.hpp"
#include "reference/interpreter.hpp"
#include "sparsity/least_squares.hpp"

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
