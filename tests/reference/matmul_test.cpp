// Matrix products: NumPy's shapes, Gemm's attributes, integers, quantised forms, Einsum.
#include <gmock/gmock.h>

#include "op_runner.hpp"
#include "planish/error.hpp"

namespace planish::testing {
namespace {

using ::testing::ElementsAre;

TEST(MatMul, VectorsMatricesAndBroadcastBatches) {
    const Tensor m = floats({2, 3}, {1, 2, 3, 4, 5, 6}), v = floats({3}, {1, 0, -1});
    const auto by_vector = run_op("MatMul", {m, v})[0];
    EXPECT_EQ(by_vector.dims(), (Dims{2}));
    EXPECT_THAT(by_vector.to_doubles(), ElementsAre(-2, -2));
    EXPECT_EQ(run_op("MatMul", {v, v})[0].dims(), (Dims{}));
    // [2, 1, 1, 2] x [3, 2, 1] -> [2, 3, 1, 1]
    const auto out = run_op("MatMul", {floats({2, 1, 1, 2}, {1, 2, 3, 4}), floats({3, 2, 1}, {1, 1, 10, 0, 0, 5})})[0];
    EXPECT_EQ(out.dims(), (Dims{2, 3, 1, 1}));
    EXPECT_THAT(out.to_doubles(), ElementsAre(3, 10, 10, 7, 30, 20));
}

TEST(MatMul, StackOfMatricesTimesOne) {
    const auto out = run_op("MatMul", {floats({3, 1, 2}, {1, 2, 3, 4, 5, 6}), floats({2, 2}, {1, 10, 100, 1000})})[0];
    EXPECT_EQ(out.dims(), (Dims{3, 1, 2}));
    EXPECT_THAT(out.to_doubles(), ElementsAre(201, 2010, 403, 4030, 605, 6050));
}

TEST(MatMul, InnerAxisOfNothingIsZero) {
    EXPECT_THAT(values_of("MatMul", {floats({2, 0}, {}), floats({0, 1}, {})}), ElementsAre(0, 0));
}

TEST(MatMul, IntegersAreExact) {
    const int64_t big = (int64_t{1} << 53) + 1;
    EXPECT_THAT(run_op("MatMul", {ints({1, 2}, {big, 1}), ints({2, 1}, {1, 1})})[0].to_int64s(), ElementsAre(big + 1));
}

TEST(MatMul, MismatchIsRefused) {
    EXPECT_THROW(run_op("MatMul", {floats({2, 3}, {1, 2, 3, 4, 5, 6}), floats({2, 1}, {1, 2})}), Error);
}

TEST(Gemm, TransposesScalesAndAddsABroadcastBias) {
    const Tensor a = floats({3, 2}, {1, 4, 2, 5, 3, 6}), b = floats({2, 3}, {1, 0, 1, 0, 1, 0});
    const auto out = values_of("Gemm", {a, b, floats({2}, {100, 200})},
                               {{"transA", int64_t{1}}, {"transB", int64_t{1}}, {"alpha", 2.0}, {"beta", 0.5}});
    EXPECT_THAT(out, ElementsAre(58, 104, 70, 110));  // A' B' = [[4, 2], [10, 5]]
}

TEST(MatMulInteger, SubtractsZeroPointsPerRowAndColumn) {
    const auto out =
        run_op("MatMulInteger", {typed(DType::u8, {2, 2}, {11, 12, 23, 24}), typed(DType::i8, {2, 2}, {1, -2, 3, -4}),
                                 typed(DType::u8, {2}, {10, 20}), typed(DType::i8, {2}, {1, -1})})[0];
    EXPECT_EQ(out.dtype(), DType::i32);
    // [[1, 2], [3, 4]] x [[0, -1], [2, -3]]
    EXPECT_THAT(out.to_int64s(), ElementsAre(4, -7, 8, -15));
}

TEST(Einsum, ContractsTransposesAndTraces) {
    const Tensor x = floats({2, 3}, {1, 2, 3, 4, 5, 6});
    EXPECT_THAT(values_of("Einsum", {x}, {{"equation", "ij->ji"}}), ElementsAre(1, 4, 2, 5, 3, 6));
    EXPECT_THAT(values_of("Einsum", {x, x}, {{"equation", "ij, kj -> ik"}}), ElementsAre(14, 32, 32, 77));
    EXPECT_THAT(values_of("Einsum", {floats({2, 2}, {1, 2, 3, 4})}, {{"equation", "ii"}}), ElementsAre(5));
    const auto batched = run_op("Einsum", {floats({2, 1, 2}, {1, 2, 3, 4}), floats({2, 1}, {1, 10})},
                                {{"equation", "...ij,jk->...ik"}})[0];
    EXPECT_EQ(batched.dims(), (Dims{2, 1, 1}));
    EXPECT_THAT(batched.to_doubles(), ElementsAre(21, 43));
    EXPECT_THROW(values_of("Einsum", {x}, {{"equation", "ijk->i"}}), Error);
}

}  // namespace
}  // namespace planish::testing
