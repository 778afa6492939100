// The blocked product against the triple loop that defines it.
#include "reference/blocked_gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace planish::reference {
namespace {

struct Problem {
    int64_t m, n, k;
};

class BlockedGemm : public ::testing::TestWithParam<Problem> {};

TEST_P(BlockedGemm, AgreesWithTheTripleLoop) {
    const auto [m, n, k] = GetParam();
    std::mt19937 random(static_cast<uint32_t>(m * 1000003 + n * 1009 + k));
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<double> a(static_cast<size_t>(m * k)), b(static_cast<size_t>(k * n)), c(static_cast<size_t>(m * n));
    for (auto* v : {&a, &b, &c})
        for (double& x : *v) x = uniform(random);
    std::vector<double> expected = c;
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t p = 0; p < k; ++p)
                sum += a[static_cast<size_t>(i * k + p)] * b[static_cast<size_t>(p * n + j)];
            expected[static_cast<size_t>(i * n + j)] += sum;
        }
    blocked_gemm(
        m, n, k,
        [&](int64_t line, int64_t first, int64_t count, double* out) {
            std::copy_n(a.data() + line * k + first, count, out);
        },
        [&](int64_t line, int64_t first, int64_t count, double* out) {
            std::copy_n(b.data() + line * n + first, count, out);
        },
        c.data());
    // |products| <= 1: both sums err by at most (k + 1) eps k / 2 each, contraction and blocking included.
    const double depth = static_cast<double>(k);
    const double tolerance = (depth + 2) * std::max(depth, 1.0) * std::numeric_limits<double>::epsilon();
    for (size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], expected[i], tolerance) << "element " << i;
}

// Sizes around the register tile (6 x 8), the panel depth (256), the row block (96) and the column block (512).
INSTANTIATE_TEST_SUITE_P(Sizes, BlockedGemm,
                         ::testing::Values(Problem{1, 1, 1}, Problem{6, 8, 4}, Problem{7, 9, 5}, Problem{5, 7, 257},
                                           Problem{96, 512, 256}, Problem{97, 513, 258}, Problem{200, 3, 31},
                                           Problem{2, 1030, 17}, Problem{13, 40, 700}, Problem{1, 77, 300},
                                           Problem{4, 4, 0}, Problem{0, 4, 4}, Problem{4, 0, 4}));

TEST(BlockedGemm, DoesNotDependOnHowWorkIsSharedOut) {
    // Sums run over ascending k within fixed blocks: two runs agree bit for bit.
    constexpr int64_t m = 130, n = 90, k = 600;
    const auto line = [](int64_t row, int64_t first, int64_t count, double* out) {
        for (int64_t i = 0; i < count; ++i) out[i] = std::sin(static_cast<double>(row * 31 + first + i));
    };
    std::vector<double> once(m * n, 0.0), again(m * n, 0.0);
    blocked_gemm(m, n, k, line, line, once.data());
    blocked_gemm(m, n, k, line, line, again.data());
    EXPECT_EQ(once, again);
}

}  // namespace
}  // namespace planish::reference
