// planish::sparsify: patterns kept, what adaptation recovers, compressed plans, options refused.
#include "planish/sparsify.hpp"

#include <gmock/gmock.h>

#include <cmath>
#include <random>

#include "exporters/onnx/exporter.hpp"
#include "ir/graph.hpp"
#include "plan/contents.hpp"
#include "sparsity/cut.hpp"

namespace planish {
namespace {

using testing::HasSubstr;

Tensor random_tensor(Dims dims, uint32_t seed) {
    Tensor t(DType::f32, std::move(dims));
    std::mt19937 generator(seed);
    for (float& v : t.data<float>()) v = static_cast<float>(generator()) * 0x1p-32f - 0.5f;
    return t;
}

/// x[N, 3, 8, 8] -> 3x3 to 16 -> Relu -> depthwise -> 3x3 in two groups to 16 -> mean -> 10 by a product.
std::vector<std::byte> network() {
    Graph graph("net");
    Value* x = graph.add_input("x", {Kind::tensor, DType::f32, Shape{Dim::symbol("N"), Dim(3), Dim(8), Dim(8)}});
    const std::vector<int64_t> pads{1, 1, 1, 1};
    const auto conv = [&](Value* in, Dims dims, int64_t groups, const std::string& name) {
        Value* w = graph.add_constant(name + "_w", random_tensor(std::move(dims), static_cast<uint32_t>(name.size())));
        return graph.add_node("Conv", {in, w}, {{"pads", pads}, {"group", groups}}, 1, name)->output();
    };
    Value* a = graph.add_node("Relu", {conv(x, {16, 3, 3, 3}, 1, "stem")})->output();
    Value* b = conv(a, {16, 1, 3, 3}, 16, "depthwise");
    Value* c = graph.add_node("Relu", {conv(b, {16, 8, 3, 3}, 2, "grouped")})->output();
    Value* d = graph.add_node("Flatten", {graph.add_node("GlobalAveragePool", {c})->output()})->output();
    Value* w = graph.add_constant("fc_w", random_tensor({10, 16}, 9));
    graph.add_output(graph.add_node("Gemm", {d, w}, {{"transB", int64_t{1}}}, 1, "fc", nullptr, "", {"y"})->output());
    return onnx_export::to_bytes(graph);
}

std::vector<TensorMap> samples(int count, const char* name = "x") {
    std::vector<TensorMap> result;
    for (int i = 0; i < count; ++i)
        result.push_back({{name, random_tensor({1, 3, 8, 8}, 100 + static_cast<uint32_t>(i))}});
    return result;
}

const SparsifyRow& row(const SparsifyReport& report, std::string_view layer) {
    for (const SparsifyRow& r : report.layers)
        if (r.layer == layer) return r;
    ADD_FAILURE() << "no layer " << layer;
    return report.layers.front();
}

const Tensor& weights_of(const Sparsified& sparse, std::string_view op, int64_t output_channels, int64_t depth) {
    for (const auto& node : sparse.graph().nodes())
        if (node->is(op) && node->input(1)->constant->dim(0) == output_channels &&
            node->input(1)->constant->dim(1) == depth)
            return *node->input(1)->constant;
    ADD_FAILURE() << "no such layer";
    throw std::logic_error("no such layer");
}

TEST(Sparsify, TwoOfFourNeighbouringInputChannelsAreZero) {
    for (const char* criterion : {"magnitude", "wanda", "sparsegpt"}) {
        SparsifyOptions options;
        options.criterion = criterion;
        options.calibration = samples(10);
        options.measure = false;
        const Sparsified sparse = sparsify(network(), options);
        const Tensor& w = weights_of(sparse, "Conv", 16, 8);
        const auto values = w.data<float>();
        for (int64_t o = 0; o < 16; ++o)
            for (int64_t tap = 0; tap < 9; ++tap)
                for (int64_t c = 0; c < 8; c += 4) {
                    int zeros = 0;
                    for (int64_t i = c; i < c + 4; ++i)
                        zeros += values[static_cast<size_t>((o * 8 + i) * 9 + tap)] == 0;
                    EXPECT_EQ(zeros, 2) << criterion << " " << o << " " << tap << " " << c;
                }
        EXPECT_EQ(row(sparse.report(), "grouped").zeros, 16 * 8 * 9 / 2);
        EXPECT_EQ(row(sparse.report(), "fc").zeros, 80);
        EXPECT_THAT(row(sparse.report(), "stem").note, HasSubstr("fours"));
        EXPECT_EQ(row(sparse.report(), "stem").zeros, 0);
        EXPECT_THAT(row(sparse.report(), "depthwise").note, HasSubstr("depthwise"));
        EXPECT_EQ(sparse.report().samples, 8);
        ASSERT_EQ(sparse.report().outputs.size(), 1u);
        EXPECT_GT(sparse.report().outputs[0].sqnr, 0);
    }
}

TEST(Sparsify, AnywhereMeansTheShareThatWasAskedFor) {
    SparsifyOptions options;
    options.pattern = "unstructured";
    options.sparsity = 0.75;
    options.measure = false;
    const Sparsified sparse = sparsify(network(), options);
    EXPECT_EQ(sparse.report().criterion, "magnitude");
    EXPECT_EQ(row(sparse.report(), "stem").zeros, 324);
    EXPECT_EQ(row(sparse.report(), "fc").zeros, 120);
    EXPECT_TRUE(sparse.report().outputs.empty());
    // The smallest went.
    float largest_gone = 0, least_left = 1;
    const Tensor before = random_tensor({10, 16}, 9);
    const Tensor& after = weights_of(sparse, "Gemm", 10, 16);
    for (size_t i = 0; i < 160; ++i) {
        const float w = std::fabs(before.data<float>()[i]);
        if (after.data<float>()[i] == 0)
            largest_gone = std::max(largest_gone, w);
        else
            least_left = std::min(least_left, w);
    }
    EXPECT_LE(largest_gone, least_left);
}

/// |(A - B)' X| over |A' X| for X'X = H.
double error_of(const precision::Matrix& h, const precision::Matrix& a, const precision::Matrix& b) {
    double error = 0, energy = 0;
    for (int64_t c = 0; c < a.columns; ++c)
        for (int64_t i = 0; i < a.rows; ++i)
            for (int64_t j = 0; j < a.rows; ++j) {
                error += double{h.at(i, j)} * (a.at(i, c) - b.at(i, c)) * (a.at(j, c) - b.at(j, c));
                energy += double{h.at(i, j)} * a.at(i, c) * a.at(j, c);
            }
    return std::sqrt(error / energy);
}

TEST(Cut, AdaptedWeightsMakeUpForThoseThatWent) {
    constexpr int64_t kTerms = 64, kOutputs = 16, kRows = 500;
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    precision::Matrix w(kTerms, kOutputs), x(kRows, kTerms), mix(8, kTerms);
    for (float& v : w.data) v = normal(generator);
    for (float& v : mix.data) v = normal(generator);
    for (int64_t r = 0; r < kRows; ++r) {  // inputs that depend on each other
        for (int64_t i = 0; i < 8; ++i) {
            const float s = normal(generator);
            for (int64_t k = 0; k < kTerms; ++k) x.at(r, k) += s * mix.at(i, k);
        }
        for (int64_t k = 0; k < kTerms; ++k) x.at(r, k) += 0.3f * normal(generator);
    }
    const precision::Matrix h = precision::product(transposed(x), x, 1);
    precision::Matrix damped = h;
    for (int64_t k = 0; k < kTerms; ++k) damped.at(k, k) *= 1.01f;
    for (const sparsity::ZeroPattern& pattern : {sparsity::ZeroPattern{true, 0.5}, sparsity::ZeroPattern{false, 0.5}}) {
        precision::Matrix cut = w, adapted = w;
        sparsity::cut_least(cut, std::vector<double>(kTerms, 1), false, pattern);
        sparsity::cut_and_adapt(adapted, damped, pattern);
        EXPECT_EQ(std::count(adapted.data.begin(), adapted.data.end(), 0.0f), kTerms * kOutputs / 2);
        EXPECT_LT(error_of(h, w, adapted), 0.5 * error_of(h, w, cut));
    }
}

TEST(Sparsify, PlansAreSmallerAndComputeTheSame) {
    SparsifyOptions options;
    options.pattern = "unstructured";
    options.sparsity = 0.9;
    options.calibration = samples(10, "");  // the only input need not be named
    const Sparsified sparse = sparsify(network(), options);
    EXPECT_GT(sparse.report().seconds, 0);
    BuildOptions build;
    build.optimization_level = 1;
    const Plan plan = sparse.build(build), small = compress_weights(plan);
    EXPECT_LT(small.bytes().size() + 2000, plan.bytes().size());
    const TensorMap feeds = samples(1)[0];
    LoadOptions cpu;
    cpu.device = "cpu";
    const Tensor expected = load(plan, cpu).create_context().run(feeds).at("y");
    const Tensor actual = load(small.bytes(), cpu).create_context().run(feeds).at("y");
    EXPECT_TRUE(identical(expected, actual));
    // A plan can be optimised again.
    SparsifyOptions again;
    again.keep = {"fc"};
    again.measure = false;
    const SparsifyReport report = sparsify(small.bytes(), again).report();
    EXPECT_EQ(row(report, "fc").note, "kept");
    EXPECT_GE(row(report, "grouped").zeros, row(report, "grouped").zeros_before);
}

TEST(Sparsify, OptionsThatMeanNothingAreRefused) {
    const auto message = [](const std::function<void(SparsifyOptions&)>& change) -> std::string {
        SparsifyOptions options;
        options.measure = false;
        change(options);
        try {
            sparsify(network(), options);
        } catch (const Error& error) {
            return error.message();
        }
        return "taken";
    };
    EXPECT_THAT(message([](auto& o) { o.pattern = "1:2"; }), HasSubstr("unknown pattern '1:2'"));
    EXPECT_THAT(message([](auto& o) { o.criterion = "wanda"; }), HasSubstr("needs calibration data"));
    EXPECT_THAT(message([](auto& o) { o.pattern = "unstructured", o.sparsity = 1; }), HasSubstr("the sparsity is 1"));
    EXPECT_THAT(message([](auto& o) { o.keep = {"conv9"}; }), HasSubstr("'conv9'"));
    EXPECT_THAT(message([](auto& o) { o.keep = {"*"}; }), HasSubstr("no layer of this network"));
}

}  // namespace
}  // namespace planish
