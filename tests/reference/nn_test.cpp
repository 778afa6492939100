// Normalisation, attention, recurrent networks, quantisation.
#include <gmock/gmock.h>

#include <cmath>

#include "op_runner.hpp"

namespace planish::testing {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Pointwise;

TEST(Norm, LayerNormalizationGivesMeanZeroAndVarianceOne) {
    const Tensor x = floats({2, 4}, {1, 2, 3, 4, -10, 0, 10, 20});
    const auto out =
        run_op("LayerNormalization", {x, floats({4}, {1, 1, 1, 1}), floats({4}, {0, 0, 0, 0})}, {{"epsilon", 0.0}}, 3);
    EXPECT_EQ(out[1].dims(), (Dims{2, 1}));
    EXPECT_THAT(out[1].to_doubles(), ElementsAre(2.5, 5));
    for (int row = 0; row < 2; ++row) {
        double sum = 0, squares = 0;
        for (int i = 0; i < 4; ++i) {
            const double v = out[0].at_double(row * 4 + i);
            sum += v;
            squares += v * v;
        }
        EXPECT_NEAR(sum, 0, 1e-6);
        EXPECT_NEAR(squares / 4, 1, 1e-6);
    }
}

TEST(Norm, GroupsAreNormalisedTogether) {
    const Tensor x = floats({1, 4, 1}, {1, 3, 10, 30});
    const Tensor one = floats({4}, {1, 1, 1, 1}), zero = floats({4}, {0, 0, 0, 0});
    EXPECT_THAT(values_of("GroupNormalization", {x, one, zero}, {{"num_groups", int64_t{2}}, {"epsilon", 0.0}}),
                ElementsAre(-1, 1, -1, 1));
}

TEST(Attention, OfOneKeyIsItsValue) {
    const Tensor q = floats({1, 2, 1, 2}, {1, 2, 3, 4}), k = floats({1, 1, 1, 2}, {5, 6}),
                 v = floats({1, 1, 1, 3}, {7, 8, 9});
    const auto y = run_op("Attention", {q, k, v})[0];
    EXPECT_EQ(y.dims(), (Dims{1, 2, 1, 3}));
    EXPECT_THAT(y.to_doubles(), ElementsAre(7, 8, 9, 7, 8, 9));
}

TEST(Attention, CausalQueriesSeeThePastOnlyAndFullyMaskedRowsAreZero) {
    const Tensor q = floats({1, 1, 2, 1}, {0, 0}), v = floats({1, 1, 2, 1}, {2, 4});
    EXPECT_THAT(values_of("Attention", {q, q, v}, {{"is_causal", int64_t{1}}}), ElementsAre(2, 3));
    const Tensor mask = typed(DType::boolean, {2, 2}, {0, 0, 0, 1});
    EXPECT_THAT(values_of("Attention", {q, q, v, mask}), ElementsAre(0, 4));
    EXPECT_THAT(values_of("Attention", {q, q, v}, {{"left_window_size", int64_t{0}}}), ElementsAre(3, 4));
}

TEST(Attention, CacheInTwoStepsEqualsOneStep) {
    const Tensor q = floats({1, 1, 3, 2}, {1, 0, 0, 1, 2, -1}), k = floats({1, 1, 3, 2}, {1, 1, -1, 0.5f, 0, 2});
    const Tensor v = floats({1, 1, 3, 1}, {1, 10, 100});
    const Attributes causal{{"is_causal", int64_t{1}}};
    const auto whole = values_of("Attention", {q, k, v}, causal);
    const auto part = [](const Tensor& t, int64_t from, int64_t count) {
        const int64_t size = t.dim(3);
        std::vector<float> values;
        for (int64_t i = from * size; i < (from + count) * size; ++i)
            values.push_back(t.data<float>()[static_cast<size_t>(i)]);
        return floats({1, 1, count, size}, values);
    };
    const Tensor none;
    const auto second = run_op(
        "Attention", {part(q, 2, 1), part(k, 2, 1), part(v, 2, 1), none, part(k, 0, 2), part(v, 0, 2)}, causal, 3);
    EXPECT_EQ(second[0].at_double(0), whole[2]);
    EXPECT_EQ(second[1].dims(), (Dims{1, 1, 3, 2}));
    EXPECT_THAT(second[2].to_doubles(), ElementsAre(1, 10, 100));
}

TEST(Recurrent, LstmStopsAtEachSequencesEnd) {
    // One unit, W = 1 for all gates, R = 0: the state of the short sequence stays after its end.
    const Tensor x = floats({3, 2, 1}, {1, 1, 1, 1, 1, 1}), w = floats({1, 4, 1}, {1, 1, 1, 1}),
                 r = floats({1, 4, 1}, {0, 0, 0, 0});
    const Tensor none, lengths = typed(DType::i32, {2}, {1, 3});
    const auto out = run_op("LSTM", {x, w, r, none, lengths}, {{"hidden_size", int64_t{1}}}, 3);
    const double gate = 1 / (1 + std::exp(-1.0)), c1 = gate * std::tanh(1.0), h1 = gate * std::tanh(c1);
    const double c2 = gate * c1 + c1, c3 = gate * c2 + c1;
    EXPECT_NEAR(out[1].at_double(0), h1, 1e-7);
    EXPECT_NEAR(out[2].at_double(0), c1, 1e-7);
    EXPECT_NEAR(out[2].at_double(1), c3, 1e-7);
    EXPECT_EQ(out[0].at_double(2), 0);  // step 1 of the short sequence
}

TEST(Recurrent, ReverseIsForwardOnTheReversedSequence) {
    const Tensor x = floats({3, 1, 1}, {0.5f, -1, 2}), reversed = floats({3, 1, 1}, {2, -1, 0.5f});
    const Tensor w = floats({1, 3, 1}, {0.3f, -0.7f, 1.1f}), r = floats({1, 3, 1}, {0.9f, 0.2f, -0.4f});
    const auto forward = values_of("GRU", {x, w, r}, {{"hidden_size", int64_t{1}}});
    auto backward = values_of("GRU", {reversed, w, r}, {{"hidden_size", int64_t{1}}, {"direction", "reverse"}});
    std::reverse(backward.begin(), backward.end());
    EXPECT_THAT(backward, Pointwise(DoubleNear(0), forward));
}

TEST(Quantize, RoundsHalvesToEvenAndSaturates) {
    const Tensor x = floats({6}, {0.5f, 1.5f, -1, 300, -300, 2.5f}), scale = floats({}, {1});
    EXPECT_THAT(values_of("QuantizeLinear", {x, scale, typed(DType::u8, {}, {1})}), ElementsAre(1, 3, 0, 255, 0, 3));
    EXPECT_THAT(values_of("QuantizeLinear", {x, scale, typed(DType::i8, {}, {0})}),
                ElementsAre(0, 2, -1, 127, -128, 2));
    EXPECT_THAT(values_of("QuantizeLinear", {x, scale}, {{"output_dtype", static_cast<int64_t>(DType::i4)}}),
                ElementsAre(0, 2, -1, 7, -8, 2));
}

TEST(Quantize, PerAxisAndBlockedScales) {
    const Tensor x = typed(DType::i8, {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8});
    EXPECT_THAT(values_of("DequantizeLinear", {x, floats({2}, {1, 10})}, {{"axis", int64_t{0}}}),
                ElementsAre(1, 2, 3, 4, 50, 60, 70, 80));
    EXPECT_THAT(values_of("DequantizeLinear", {x, floats({2, 2}, {1, 2, 3, 4})}, {{"block_size", int64_t{3}}}),
                ElementsAre(1, 2, 3, 8, 15, 18, 21, 32));
}

TEST(Signal, InverseTransformGivesTheSignalBack) {
    for (const int64_t n : {1, 2, 6, 7, 16}) {
        std::vector<float> signal;
        for (int64_t i = 0; i < 2 * n; ++i) signal.push_back(static_cast<float>(std::sin(static_cast<double>(3 * i))));
        const Tensor x = floats({1, n, 2}, signal);
        const auto back = values_of("DFT", {run_op("DFT", {x})[0]}, {{"inverse", int64_t{1}}});
        EXPECT_THAT(back, Pointwise(DoubleNear(1e-6), x.to_doubles()));
    }
}

}  // namespace
}  // namespace planish::testing
