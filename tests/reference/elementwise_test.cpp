// Element-wise functions: broadcasting, NaN, integer corners, small types.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "op_runner.hpp"
#include "planish/error.hpp"

namespace planish::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsNan;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(Elementwise, BroadcastsInBothDirections) {
    const auto out = run_op("Sub", {floats({2, 1}, {10, 20}), floats({1, 3}, {1, 2, 3})});
    EXPECT_EQ(out[0].dims(), (Dims{2, 3}));
    EXPECT_THAT(out[0].to_doubles(), ElementsAre(9, 8, 7, 19, 18, 17));
}

TEST(Elementwise, BroadcastsLongRunsAsShortOnes) {
    // 3 x 1000 against 3 x 1 and against 1000: runs are longer than the walk's buffer.
    std::vector<float> big(3000);
    for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<float>(i % 1000);
    std::vector<float> row(big.begin(), big.begin() + 1000);
    const auto by_column = values_of("Add", {floats({3, 1000}, big), floats({3, 1}, {1000, 2000, 3000})});
    const auto by_row = values_of("Sub", {floats({3, 1000}, big), floats({1000}, row)});
    for (size_t i = 0; i < big.size(); ++i) {
        ASSERT_EQ(by_column[i], static_cast<double>(i % 1000 + 1000 * (i / 1000 + 1)));
        ASSERT_EQ(by_row[i], 0);
    }
}

TEST(Elementwise, ShapesThatDoNotBroadcastAreNamed) {
    try {
        run_op("Add", {floats({2, 3}, {1, 2, 3, 4, 5, 6}), floats({2}, {1, 2})});
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_THAT(e.message(), ::testing::HasSubstr("[2, 3]"));
        EXPECT_THAT(e.message(), ::testing::HasSubstr("[2]"));
    }
}

TEST(Elementwise, EmptyTensorsStayEmpty) {
    EXPECT_EQ(run_op("Add", {floats({0, 3}, {}), floats({1, 3}, {1, 2, 3})})[0].dims(), (Dims{0, 3}));
    EXPECT_EQ(run_op("Exp", {floats({2, 0}, {})})[0].size(), 0);
}

TEST(Elementwise, MaxMinClipKeepNan) {
    const Tensor x = floats({3}, {static_cast<float>(kNan), 1, 2}), y = floats({3}, {0, static_cast<float>(kNan), 3});
    EXPECT_THAT(values_of("Max", {x, y}), ElementsAre(IsNan(), IsNan(), 3));
    EXPECT_THAT(values_of("Min", {y, x}), ElementsAre(IsNan(), IsNan(), 2));
    EXPECT_THAT(values_of("Clip", {x, floats({}, {0}), floats({}, {1})}), ElementsAre(IsNan(), 1, 1));
    EXPECT_THAT(values_of("Relu", {x}), ElementsAre(IsNan(), 1, 2));
}

TEST(Elementwise, ClipLetsTheUpperBoundWin) {
    EXPECT_THAT(values_of("Clip", {floats({2}, {-9, 9}), floats({}, {5}), floats({}, {1})}), ElementsAre(1, 1));
}

TEST(Elementwise, IntegerDivisionTruncatesAndNeverTraps) {
    const int64_t lowest = std::numeric_limits<int64_t>::min();
    const auto out = run_op("Div", {ints({5}, {-7, 7, 5, lowest, -8}), ints({5}, {2, -2, 0, -1, 3})})[0];
    EXPECT_THAT(out.to_int64s(), ElementsAre(-3, -3, 0, lowest, -2));
}

TEST(Elementwise, ModTakesTheSignOfDivisorOrDividend) {
    const Tensor a = ints({4}, {-7, 7, -7, 7}), b = ints({4}, {3, -3, -3, 3});
    EXPECT_THAT(run_op("Mod", {a, b})[0].to_int64s(), ElementsAre(2, -2, -1, 1));
    EXPECT_THAT(run_op("Mod", {a, b}, {{"fmod", int64_t{1}}})[0].to_int64s(), ElementsAre(-1, 1, -1, 1));
    const auto reals = values_of("Mod", {floats({3}, {-5.5f, 5.5f, 1}), floats({3}, {2, -2, 0})});
    EXPECT_THAT(reals, ElementsAre(0.5, -0.5, IsNan()));
}

TEST(Elementwise, SmallIntegersWrap) {
    EXPECT_THAT(values_of("Add", {typed(DType::u8, {2}, {250, 3}), typed(DType::u8, {2}, {10, 4})}), ElementsAre(4, 7));
    EXPECT_THAT(values_of("Neg", {typed(DType::i8, {2}, {-128, 5})}), ElementsAre(-128, -5));
    EXPECT_THAT(values_of("Mul", {typed(DType::i16, {1}, {300}), typed(DType::i16, {1}, {300})}), ElementsAre(24464));
}

TEST(Elementwise, LargeIntegersAreExact) {
    const int64_t big = (int64_t{1} << 53) + 1;  // not a double
    EXPECT_THAT(run_op("Add", {ints({1}, {big}), ints({1}, {2})})[0].to_int64s(), ElementsAre(big + 2));
    EXPECT_THAT(run_op("Pow", {ints({2}, {3, -2}), ints({2}, {39, 63})})[0].to_int64s(),
                ElementsAre(4052555153018976267, std::numeric_limits<int64_t>::min()));
    EXPECT_THAT(values_of("Greater", {ints({1}, {big}), ints({1}, {big - 1})}), ElementsAre(1));
}

TEST(Elementwise, HalfOverflowsToInfinity) {
    EXPECT_THAT(values_of("Add", {typed(DType::f16, {2}, {60000, 1}), typed(DType::f16, {2}, {60000, 2})}),
                ElementsAre(kInf, 3));
    EXPECT_THAT(values_of("Mul", {typed(DType::bf16, {1}, {1.0078125}), typed(DType::bf16, {1}, {1.0078125})}),
                ElementsAre(1.015625));  // 1.01568... to 8 bits
}

TEST(Elementwise, BitShiftBeyondTheWidth) {
    EXPECT_THAT(
        run_op("BitShift", {ints({3}, {-8, -8, 5}), ints({3}, {1, 64, 70})}, {{"direction", "RIGHT"}})[0].to_int64s(),
        ElementsAre(-4, -1, 0));
    EXPECT_THAT(values_of("BitShift", {typed(DType::u8, {2}, {0x81, 1}), typed(DType::u8, {2}, {1, 9})},
                          {{"direction", "LEFT"}}),
                ElementsAre(2, 0));
}

TEST(Elementwise, ActivationsAtTheirFarEnds) {
    const Tensor far = floats({3}, {-1000, 0, 1000});
    EXPECT_THAT(values_of("Sigmoid", {far}), ElementsAre(0, 0.5, 1));
    EXPECT_THAT(values_of("Softplus", {far}), ElementsAre(0, static_cast<float>(std::log(2.0)), 1000));
    EXPECT_THAT(values_of("HardSwish", {far}), ElementsAre(0, 0, 1000));
    EXPECT_THAT(values_of("Gelu", {far}), ElementsAre(0, 0, 1000));
    EXPECT_THAT(values_of("Round", {floats({4}, {0.5f, 1.5f, -2.5f, 2.6f})}), ElementsAre(0, 2, -2, 3));
}

TEST(Elementwise, WhereSelectsAnyType) {
    const Tensor condition = typed(DType::boolean, {2, 1}, {1, 0});
    const auto out = run_op("Where", {condition, ints({2}, {1, 2}), ints({}, {9})})[0];
    EXPECT_EQ(out.dims(), (Dims{2, 2}));
    EXPECT_THAT(out.to_int64s(), ElementsAre(1, 2, 9, 9));
    const auto text = run_op("Where", {condition, Tensor::from_strings({"a"}, {1}), Tensor::from_strings({"b"}, {1})});
    EXPECT_THAT(text[0].strings(), ElementsAre("a", "b"));
}

}  // namespace
}  // namespace planish::testing
