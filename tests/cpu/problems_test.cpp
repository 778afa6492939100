// The problems that bench/kernels.cpp times, checked: the same lines of bench/problems/*.txt, at their full size, with
// one thread and with all. A sample of the outputs, with every column and row position of a tile among them, is
// compared with float64.
#include "bench/problems.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backends/cpu/jit/strassen.hpp"
#include "backends/cpu/jit/winograd.hpp"
#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::random_floats;
using testing::strassen_tolerance;
using testing::supported_isas;

const PostOps kBiasRelu = {{PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::relu}};

/// Calls check(i) for some of [0, count): the first, the last, and others a prime apart, so that they meet every
/// residue.
template <typename Check>
void sample(int64_t count, const Check& check) {
    constexpr int64_t kMost = 600;
    int64_t step = std::max<int64_t>(1, count / kMost);
    const auto is_prime = [](int64_t n) {
        for (int64_t d = 2; d * d <= n; ++d)
            if (n % d == 0) return false;
        return true;
    };
    while (step > 1 && !is_prime(step)) ++step;
    for (int64_t i = 0; i < count; i += step) check(i);
    check(count - 1);
}

/// The same run with one thread and with three: equal bits. Returns the result.
std::vector<float> run_both(int64_t outputs, const std::function<void(float*, ThreadPool&, int)>& run) {
    static ThreadPool pool(3);
    std::vector<float> one(static_cast<size_t>(outputs), -777), three(one);
    run(one.data(), pool, 1);
    run(three.data(), pool, 3);
    EXPECT_EQ(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)), 0) << "depends on the threads";
    return one;
}

class Problems : public ::testing::TestWithParam<Isa> {};

TEST_P(Problems, Gemm) {
    for (const auto& [name, s] : problems::load<GemmShape>("gemm")) {
        SCOPED_TRACE(name);
        const auto a = random_floats(s.m * s.k, 1), b = random_floats(s.k * s.n, 2), bias = random_floats(s.n, 3);
        const std::array<const float*, 1> operands = {bias.data()};
        const GemmPlan plan(s, kBiasRelu, GetParam());
        AlignedFloats packed(plan.b_layout().size());
        pack_b(b.data(), s.n, false, plan.b_layout(), packed.data());
        const auto got = run_both(s.m * s.n, [&](float* c, ThreadPool& pool, int threads) {
            plan.run(a.data(), packed.data(), c, operands, pool, threads);
        });
        std::vector<float> halves;
        if (StrassenPlan::fits(s, GetParam())) {
            const StrassenPlan strassen(s, kBiasRelu, GetParam());
            AlignedFloats sums(strassen.packed_size());
            strassen.pack(b.data(), s.n, false, sums.data(), ThreadPool::process(), 1);
            AlignedFloats workspace(static_cast<int64_t>(strassen.workspace(3) / sizeof(float)));
            halves = run_both(s.m * s.n, [&](float* c, ThreadPool& pool, int threads) {
                strassen.run(a.data(), sums.data(), c, operands, workspace.data(), pool, threads);
            });
        }
        sample(s.m * s.n, [&, k = s.k, n = s.n](int64_t at) {
            const int64_t row = at / n, column = at % n;
            Expected e;
            for (int64_t q = 0; q < k; ++q)
                e.add_product(a[static_cast<size_t>(row * k + q)], b[static_cast<size_t>(q * n + column)]);
            if (!halves.empty()) {
                Expected within(e.value(), strassen_tolerance(k));
                within.apply(kBiasRelu, operands, column, at);
                ASSERT_TRUE(within.matches(halves[static_cast<size_t>(at)])) << row << ", " << column << within.text();
            }
            e.apply(kBiasRelu, operands, column, at);
            ASSERT_TRUE(e.matches(got[static_cast<size_t>(at)])) << row << ", " << column << e.text();
        });
    }
}

TEST_P(Problems, Conv) {
    for (const auto& [name, s] : problems::load<ConvShape>("conv")) {
        SCOPED_TRACE(name);
        const int64_t taps = s.c * s.kh * s.kw, outputs = s.oh() * s.ow() * s.oc;
        const auto x = random_floats(s.h * s.w * s.c, 1), weights = random_floats(s.oc * taps, 2),
                   bias = random_floats(s.oc, 3);
        const std::array<const float*, 1> operands = {bias.data()};
        const auto result = [&](const auto& plan) {
            AlignedFloats packed(plan.packed_weight_size());
            plan.pack_weights(weights.data(), packed.data());
            AlignedFloats workspace(static_cast<int64_t>(plan.workspace(3) / sizeof(float)));
            return run_both(outputs, [&](float* y, ThreadPool& pool, int threads) {
                plan.run(x.data(), packed.data(), y, operands, workspace.data(), pool, threads);
            });
        };
        const std::vector<float> direct = result(ConvPlan(s, kBiasRelu, GetParam()));
        std::vector<std::vector<float>> winograd;
        for (const WinogradTile tile : {WinogradTile::f4x4, WinogradTile::f2x2, WinogradTile::f2x2_stride2})
            if (WinogradPlan::refusal(s, GetParam(), tile).empty())
                winograd.push_back(result(WinogradPlan(s, kBiasRelu, GetParam(), tile)));
        sample(outputs, [&, &s = s](int64_t at) {
            const int64_t o = at % s.oc, i = at / s.oc / s.ow(), j = at / s.oc % s.ow();
            Expected e;
            double weight_sum = 0;
            for (int64_t c = 0; c < s.c; ++c)
                for (int64_t p = 0; p < s.kh; ++p)
                    for (int64_t q = 0; q < s.kw; ++q) {
                        const int64_t h = i * s.stride_h + p - s.pad_top, w = j * s.stride_w + q - s.pad_left;
                        const float weight = weights[static_cast<size_t>(((o * s.c + c) * s.kh + p) * s.kw + q)];
                        weight_sum += std::fabs(weight);
                        if (h >= 0 && h < s.h && w >= 0 && w < s.w)
                            e.add_product(x[static_cast<size_t>((h * s.w + w) * s.c + c)], weight);
                    }
            e.apply(kBiasRelu, operands, o, at);
            ASSERT_TRUE(e.matches(direct[static_cast<size_t>(at)])) << at << e.text();
            // Both stay within their bounds of the exact sum, so they lie no further apart than these together.
            const double tolerance =
                kWinogradErrorFactor * std::sqrt(static_cast<double>(9 * s.c + 40)) * 0x1p-24 * weight_sum +
                static_cast<double>(taps + 8) * 0x1p-24 * weight_sum;
            for (const std::vector<float>& other : winograd)
                ASSERT_NEAR(other[static_cast<size_t>(at)], direct[static_cast<size_t>(at)], tolerance) << at;
        });
    }
}

TEST_P(Problems, Depthwise) {
    for (const auto& [name, s] : problems::load<DepthwiseShape>("depthwise")) {
        SCOPED_TRACE(name);
        const int64_t taps = s.kernel_h * s.kernel_w, outputs = s.out_height() * s.out_width() * s.channels;
        const auto x = random_floats(s.height * s.width * s.channels, 1), w = random_floats(s.channels * taps, 2),
                   bias = random_floats(s.channels, 3);
        const std::array<const float*, 1> operands = {bias.data()};
        AlignedFloats packed(static_cast<int64_t>(depthwise_packed_size(s)));
        pack_depthwise_weights(s, w.data(), packed.data());
        const DepthwisePlan plan(s, kBiasRelu, GetParam());
        const auto got = run_both(outputs, [&](float* y, ThreadPool& pool, int threads) {
            plan.run(x.data(), packed.data(), y, operands, pool, threads);
        });
        sample(outputs, [&, &s = s](int64_t at) {
            const int64_t c = at % s.channels, i = at / s.channels / s.out_width(), j = at / s.channels % s.out_width();
            Expected e;
            for (int64_t p = 0; p < s.kernel_h; ++p)
                for (int64_t q = 0; q < s.kernel_w; ++q) {
                    const int64_t row = i * s.stride_h + p - s.pad_top, column = j * s.stride_w + q - s.pad_left;
                    if (row >= 0 && row < s.height && column >= 0 && column < s.width)
                        e.add_product(x[static_cast<size_t>((row * s.width + column) * s.channels + c)],
                                      w[static_cast<size_t>((c * s.kernel_h + p) * s.kernel_w + q)]);
                }
            e.apply(kBiasRelu, operands, c, at);
            ASSERT_TRUE(e.matches(got[static_cast<size_t>(at)])) << at << e.text();
        });
    }
}

// Scores lie within +-head_dim * scale, so the error of a weight is about (head_dim + 8) eps of it, and the sums over
// the keys add 2 eps a key at most; the weights sum to 1 and values are at most 1.
TEST_P(Problems, Attention) {
    for (const auto& [name, problem] : problems::load<AttentionArgs>("attention")) {
        SCOPED_TRACE(name);
        AttentionArgs args = problem;
        const int64_t width = args.heads * args.head_dim;
        const auto q = random_floats(args.queries * width, 1), k = random_floats(args.keys * width, 2),
                   v = random_floats(args.keys * width, 3);
        args.query = q.data(), args.key = k.data(), args.value = v.data();
        const int64_t scratch = (attention_scratch(args) + 15) / 16 * 16;
        AlignedFloats workspace(3 * scratch);
        const auto got = run_both(args.queries * width, [&](float* y, ThreadPool& pool, int threads) {
            args.output = y;
            pool.parallel_for(attention_items(args), threads, [&](int64_t item, int thread) {
                kernels(GetParam()).attention(args, item, item + 1, workspace.data() + thread * scratch);
            });
        });
        const double tolerance = 0x1p-23 * static_cast<double>(2 * (args.head_dim + 8) + 2 * args.keys);
        sample(args.queries * width, [&](int64_t at) {
            const int64_t row = at / width, column = at % width, head = column / args.head_dim * args.head_dim;
            double sum = 0, out = 0;
            for (int64_t j = 0; j < args.keys; ++j) {
                double score = 0;
                for (int64_t d = 0; d < args.head_dim; ++d)
                    score += static_cast<double>(q[static_cast<size_t>(row * width + head + d)]) *
                             k[static_cast<size_t>(j * width + head + d)];
                const double weight = std::exp(score * args.scale);
                sum += weight;
                out += weight * v[static_cast<size_t>(j * width + column)];
            }
            ASSERT_NEAR(got[static_cast<size_t>(at)], out / sum, tolerance) << at;
        });
    }
}

// Errors in units of eps: a sum of n terms, however ordered, n of its terms' magnitudes (which are at most 1); the
// division and the functions some more.
TEST_P(Problems, Rows) {
    for (const auto& [name, s] : problems::load<problems::Rows>("rows")) {
        SCOPED_TRACE(name);
        const auto x = random_floats(s.rows * s.columns, 1);
        const auto run = [&, &s = s](auto args, auto kernel) {
            args.input = x.data(), args.n = s.columns;
            return run_both(s.rows * s.columns, [&](float* y, ThreadPool& pool, int threads) {
                args.output = y;
                pool.parallel_for(s.rows, threads, [&](int64_t row, int) { kernel(args, row, row + 1); });
            });
        };
        const auto softmax = run(SoftmaxArgs{}, kernels(GetParam()).softmax);
        const auto norm = run(NormArgs{}, kernels(GetParam()).layer_norm);
        const double n = static_cast<double>(s.columns), eps = 0x1p-23;
        for (int64_t row = 0; row < s.rows; ++row) {
            const float* begin = x.data() + row * s.columns;
            double sum = 0, exponentials = 0, squares = 0;
            for (int64_t i = 0; i < s.columns; ++i) sum += begin[i], exponentials += std::exp(double{begin[i]});
            for (int64_t i = 0; i < s.columns; ++i) squares += (begin[i] - sum / n) * (begin[i] - sum / n);
            const double deviation = std::sqrt(squares / n + NormArgs{}.eps);
            for (int64_t i = 0; i < s.columns; ++i) {
                const auto at = static_cast<size_t>(row * s.columns + i);
                const double weight = std::exp(double{begin[i]}) / exponentials;
                ASSERT_NEAR(softmax[at], weight, (n + 16) * eps * weight) << at;
                ASSERT_NEAR(norm[at], (begin[i] - sum / n) / deviation, (n + 16) * eps / deviation) << at;
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, Problems, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
