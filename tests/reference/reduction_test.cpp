// Reductions: axes, empty sets, NaN, exact integers.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "op_runner.hpp"

namespace planish::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsNan;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(Reduction, OverInnerOuterAndNegativeAxes) {
    const Tensor x = floats({2, 3}, {1, 2, 3, 4, 5, 6});
    EXPECT_THAT(values_of("ReduceSum", {x, ints({1}, {0})}), ElementsAre(5, 7, 9));
    EXPECT_THAT(values_of("ReduceMean", {x, ints({1}, {-1})}), ElementsAre(2, 5));
    EXPECT_THAT(values_of("ReduceProd", {x}), ElementsAre(720));
    EXPECT_EQ(run_op("ReduceSum", {x, ints({1}, {1})}, {{"keepdims", int64_t{0}}})[0].dims(), (Dims{2}));
    EXPECT_THAT(values_of("ReduceSumSquare", {x, ints({0}, {})}, {{"noop_with_empty_axes", int64_t{1}}}),
                ElementsAre(1, 4, 9, 16, 25, 36));  // no axis is reduced, but elements are still squared
}

TEST(Reduction, OfNothing) {
    const Tensor none = floats({2, 0}, {});
    const Tensor axis = ints({1}, {1});
    EXPECT_THAT(values_of("ReduceSum", {none, axis}), ElementsAre(0, 0));
    EXPECT_THAT(values_of("ReduceProd", {none, axis}), ElementsAre(1, 1));
    EXPECT_THAT(values_of("ReduceMax", {none, axis}), ElementsAre(-kInf, -kInf));
    EXPECT_THAT(values_of("ReduceMin", {none, axis}), ElementsAre(kInf, kInf));
    EXPECT_THAT(values_of("ReduceLogSumExp", {none, axis}), ElementsAre(-kInf, -kInf));
    EXPECT_THAT(values_of("ReduceMean", {none, axis}), ElementsAre(IsNan(), IsNan()));
    EXPECT_THAT(values_of("ReduceMax", {typed(DType::i8, {0}, {})}), ElementsAre(-128));
    EXPECT_THAT(values_of("ReduceMin", {typed(DType::u8, {0}, {})}), ElementsAre(255));
}

TEST(Reduction, NanIsContagious) {
    EXPECT_THAT(values_of("ReduceMax", {floats({3}, {1, kNan, 2})}), ElementsAre(IsNan()));
    EXPECT_THAT(values_of("ReduceMin", {floats({3}, {kNan, 1, 2})}), ElementsAre(IsNan()));
}

TEST(Reduction, LogSumExpDoesNotOverflow) {
    EXPECT_NEAR(values_of("ReduceLogSumExp", {floats({2}, {1000, 1000})})[0], 1000 + std::log(2.0), 1e-4);
    EXPECT_THAT(values_of("ReduceLogSumExp", {floats({2}, {-kInf, -kInf})}), ElementsAre(-kInf));
}

TEST(Reduction, IntegersAreExact) {
    const int64_t big = (int64_t{1} << 53) + 1;
    EXPECT_THAT(run_op("ReduceSum", {ints({2}, {big, 2})})[0].to_int64s(), ElementsAre(big + 2));
    EXPECT_THAT(run_op("ReduceMax", {ints({2}, {big - 1, big})})[0].to_int64s(), ElementsAre(big));
}

TEST(Reduction, ArgMaxTiesAndNan) {
    const Tensor x = floats({1, 4}, {3, 7, 7, 1});
    EXPECT_THAT(values_of("ArgMax", {x}, {{"axis", int64_t{1}}}), ElementsAre(1));
    EXPECT_THAT(values_of("ArgMax", {x}, {{"axis", int64_t{-1}}, {"select_last_index", int64_t{1}}}), ElementsAre(2));
    EXPECT_THAT(values_of("ArgMin", {floats({3}, {1, kNan, kNan})}), ElementsAre(1));
}

TEST(Reduction, CumulativeSums) {
    const Tensor x = floats({4}, {1, 2, 3, 4}), axis = ints({}, {0});
    EXPECT_THAT(values_of("CumSum", {x, axis}), ElementsAre(1, 3, 6, 10));
    EXPECT_THAT(values_of("CumSum", {x, axis}, {{"exclusive", int64_t{1}}, {"reverse", int64_t{1}}}),
                ElementsAre(9, 7, 4, 0));
    EXPECT_THAT(values_of("CumProd", {x, axis}, {{"exclusive", int64_t{1}}}), ElementsAre(1, 1, 2, 6));
}

TEST(Softmax, OfLargeAndInfiniteScores) {
    EXPECT_THAT(values_of("Softmax", {floats({2}, {1e30f, -1e30f})}), ElementsAre(1, 0));
    EXPECT_THAT(values_of("Softmax", {floats({2}, {0, -kInf})}), ElementsAre(1, 0));
    EXPECT_THAT(values_of("LogSoftmax", {floats({2}, {0, -1000})}), ElementsAre(0, -1000));
    EXPECT_THAT(values_of("Hardmax", {floats({2, 2}, {1, 1, 0, 5})}), ElementsAre(1, 0, 0, 1));
    EXPECT_THAT(values_of("Softmax", {floats({2, 1}, {3, 3})}, {{"axis", int64_t{0}}}), ElementsAre(0.5, 0.5));
}

}  // namespace
}  // namespace planish::testing
