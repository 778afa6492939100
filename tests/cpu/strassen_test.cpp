// Strassen's products against plain float64 loops: halves of every kind, chunks of K, groups of rows, post-ops.
#include "backends/cpu/jit/strassen.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::GuardedFloats;
using testing::random_floats;
using testing::strassen_tolerance;
using testing::supported_isas;

struct Case {
    int64_t m, n, k;
    int64_t lda_extra = 0, ldc_extra = 0;
    bool transposed = false;
    PostOps post_ops = {};
};

void check_case(const Case& c, Isa isa, int threads = 1) {
    SCOPED_TRACE(std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k));
    const int64_t lda = c.k + c.lda_extra, ldc = c.n + c.ldc_extra, ldb = c.transposed ? c.k : c.n;
    const std::vector<float> a = random_floats(c.m * lda, 1), b = random_floats(c.k * c.n, 2);
    const std::vector<float> channel = random_floats(c.n, 3), tensor = random_floats(c.m * ldc, 4);
    const std::array<const float*, 2> operands = {channel.data(), tensor.data()};
    const GemmShape shape{c.m, c.n, c.k, lda, ldc};
    ASSERT_TRUE(StrassenPlan::fits(shape, isa));
    const StrassenPlan plan(shape, c.post_ops, isa);
    AlignedFloats packed(plan.packed_size());
    plan.pack(b.data(), ldb, c.transposed, packed.data(), ThreadPool::process(), threads);
    AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
    constexpr float kUntouched = -777;
    std::vector<float> got(static_cast<size_t>(c.m * ldc), kUntouched);
    ThreadPool pool(threads);
    plan.run(a.data(), packed.data(), got.data(), operands, workspace.data(), pool, threads);
    for (int64_t i = 0; i < c.m; ++i) {
        std::vector<double> row(static_cast<size_t>(c.n));
        for (int64_t q = 0; q < c.k; ++q)
            for (int64_t j = 0; j < c.n; ++j)
                row[static_cast<size_t>(j)] += static_cast<double>(a[static_cast<size_t>(i * lda + q)]) *
                                               b[static_cast<size_t>(c.transposed ? j * ldb + q : q * ldb + j)];
        for (int64_t j = 0; j < c.n; ++j) {
            Expected e(row[static_cast<size_t>(j)], strassen_tolerance(c.k));
            e.apply(c.post_ops, operands, j, i * ldc + j);
            ASSERT_TRUE(e.matches(got[static_cast<size_t>(i * ldc + j)]))
                << "row " << i << " column " << j << ": " << got[static_cast<size_t>(i * ldc + j)] << e.text();
        }
        for (int64_t j = c.n; j < ldc; ++j) ASSERT_EQ(got[static_cast<size_t>(i * ldc + j)], kUntouched);
    }
}

class StrassenTest : public ::testing::TestWithParam<Isa> {};

TEST_P(StrassenTest, OddRowsAndColumnsWithoutANeighbour) {
    for (const int64_t m : {32, 33, 47, 65})
        for (const int64_t n : {128, 192, 226, 251}) check_case({m, n, 128, 3, 5}, GetParam());
}

TEST_P(StrassenTest, ChunksOfKAndGroupsOfRows) {
    check_case({37, 160, 1056}, GetParam());
    check_case({41, 200, 1600, 0, 7}, GetParam());
    check_case({259, 140, 192}, GetParam());
    check_case({515, 226, 960, 1, 0}, GetParam());
}

TEST_P(StrassenTest, TransposedSource) {
    check_case({50, 203, 256, 0, 0, true}, GetParam());
}

TEST_P(StrassenTest, PostOps) {
    using Kind = PostOp::Kind;
    check_case({37, 211, 128, 0, 3, false, {{Kind::add_channel, 0, 0, 0}, {Kind::gelu_erf}}}, GetParam());
    check_case({37,
                211,
                1600,
                0,
                3,
                false,
                {{Kind::add_channel, 0, 0, 0}, {Kind::add_tensor, 0, 0, 1}, {Kind::relu}, {Kind::mul_tensor, 0, 0, 1}}},
               GetParam(), 3);
}

TEST_P(StrassenTest, SameBitsForAnyNumberOfThreads) {
    const GemmShape shape{270, 650, 1600};
    const std::vector<float> a = random_floats(shape.m * shape.k, 5), b = random_floats(shape.k * shape.n, 6);
    const StrassenPlan plan(shape, {}, GetParam());
    AlignedFloats packed(plan.packed_size());
    plan.pack(b.data(), shape.n, false, packed.data(), ThreadPool::process(), 1);
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
        ThreadPool pool(threads);
        AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
        std::vector<float> c(static_cast<size_t>(shape.m * shape.n));
        plan.run(a.data(), packed.data(), c.data(), {}, workspace.data(), pool, threads);
        if (first.empty()) first = c;
        ASSERT_EQ(std::memcmp(first.data(), c.data(), c.size() * sizeof(float)), 0) << threads << " threads";
    }
}

TEST_P(StrassenTest, TouchesNothingPastTheEnd) {
    const PostOps post_ops = {{PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::add_tensor, 0, 0, 1}};
    for (const int64_t n : {128, 201}) {
        const GemmShape shape{67, n, 256};
        const StrassenPlan plan(shape, post_ops, GetParam());
        GuardedFloats a(random_floats(shape.m * shape.k, 7)), c(random_floats(shape.m * n, 8));
        GuardedFloats channel(random_floats(n, 9)), tensor(random_floats(shape.m * n, 10));
        const std::vector<float> b = random_floats(shape.k * n, 11);
        AlignedFloats packed(plan.packed_size());
        plan.pack(b.data(), n, false, packed.data(), ThreadPool::process(), 1);
        GuardedFloats guarded(std::vector<float>(packed.data(), packed.data() + plan.packed_size()));
        const std::vector<float> scratch(plan.workspace(1) / sizeof(float));
        GuardedFloats workspace(scratch);
        const std::array<const float*, 2> operands = {channel.data(), tensor.data()};
        plan.run(a.data(), guarded.data(), c.data(), operands, workspace.data(), ThreadPool::process(), 1);
    }
}

TEST_P(StrassenTest, TooSmallToHalve) {
    EXPECT_FALSE(StrassenPlan::fits({8, 256, 256}, GetParam()));    // rows
    EXPECT_FALSE(StrassenPlan::fits({64, 16, 256}, GetParam()));    // columns
    EXPECT_FALSE(StrassenPlan::fits({64, 256, 64}, GetParam()));    // K
    EXPECT_FALSE(StrassenPlan::fits({64, 256, 1031}, GetParam()));  // a prime K has no halves
    EXPECT_FALSE(StrassenPlan::fits({64, 256, 256}, Isa::baseline));
}

INSTANTIATE_TEST_SUITE_P(Isa, StrassenTest, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
