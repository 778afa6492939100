// Generated matrix products against plain float64 loops: shapes with every kind of edge, every post-op, both ISAs.
#include "backends/cpu/jit/gemm.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/jit/gemm_kernel.hpp"
#include "base/thread_pool.hpp"
#include "cpu/product_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::GuardedFloats;
using testing::random_floats;
using testing::supported_isas;

struct Case {
    int64_t m, n, k;
    int64_t lda_extra = 0, ldc_extra = 0;
    bool transposed = false;
    PostOps post_ops = {};
    int nr = 0;
};

std::string describe(const Case& c, Isa isa) {
    return std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) + " nr " + std::to_string(c.nr) +
           " " + std::string(to_string(isa));
}

/// Operands 0 and 1 are a channel vector and a tensor laid out as C.
struct Problem {
    explicit Problem(const Case& c)
        : lda(c.k + c.lda_extra),
          ldc(c.n + c.ldc_extra),
          ldb(c.transposed ? c.k : c.n),
          a(random_floats(c.m * lda, 1)),
          b(random_floats(c.k * c.n, 2)),
          channel(random_floats(c.n, 3)),
          tensor(random_floats(c.m * ldc, 4)) {}

    std::array<const float*, 2> operands() const { return {channel.data(), tensor.data()}; }

    int64_t lda, ldc, ldb;
    std::vector<float> a, b, channel, tensor;
};

void check_case(const Case& c, Isa isa, int threads = 1) {
    SCOPED_TRACE(describe(c, isa));
    const Problem p(c);
    const auto operands = p.operands();
    const GemmPlan plan({c.m, c.n, c.k, p.lda, p.ldc}, c.post_ops, isa, {c.nr, c.nr == 0 ? 0 : vector_floats(isa)});
    AlignedFloats packed(plan.b_layout().size());
    pack_b(p.b.data(), p.ldb, c.transposed, plan.b_layout(), packed.data());
    constexpr float kUntouched = -777;
    std::vector<float> got(static_cast<size_t>(c.m * p.ldc), kUntouched);
    plan.run(p.a.data(), packed.data(), got.data(), operands, ThreadPool::process(), threads);

    for (int64_t i = 0; i < c.m; ++i) {
        for (int64_t j = 0; j < c.n; ++j) {
            Expected e;
            for (int64_t q = 0; q < c.k; ++q) {
                e.add_product(p.a[static_cast<size_t>(i * p.lda + q)],
                              p.b[static_cast<size_t>(c.transposed ? j * p.ldb + q : q * p.ldb + j)]);
            }
            e.apply(c.post_ops, operands, j, i * p.ldc + j);
            ASSERT_TRUE(e.matches(got[static_cast<size_t>(i * p.ldc + j)]))
                << "row " << i << " column " << j << e.text();
        }
        for (int64_t j = c.n; j < p.ldc; ++j) ASSERT_EQ(got[static_cast<size_t>(i * p.ldc + j)], kUntouched);
    }
}

class GemmTest : public ::testing::TestWithParam<Isa> {};

TEST_P(GemmTest, EveryEdge) {
    for (const int64_t m : {1, 2, 3, 7, 13, 14, 15, 29, 31}) {
        for (const int64_t n : {1, 3, 8, 13, 16, 31, 33, 48, 65, 100}) {
            for (const int64_t k : {0, 1, 3, 4, 7, 8, 31}) check_case({m, n, k, 3, 5}, GetParam());
        }
    }
}

TEST_P(GemmTest, TransposedSource) {
    for (const int64_t n : {1, 5, 16, 50}) {
        for (const int64_t k : {1, 6, 17}) check_case({9, n, k, 0, 0, true}, GetParam());
    }
}

TEST_P(GemmTest, EveryTile) {
    for (int vectors = 1; vectors <= kMaxTileVectors; ++vectors) {
        const int nr = vectors * vector_floats(GetParam());
        for (int rows = 1; rows <= max_tile_rows(GetParam(), vectors); ++rows) {
            check_case({rows, nr + nr - 1, 21, 1, 1, false, {{PostOp::Kind::add_channel, 0, 0, 0}}, nr}, GetParam());
        }
    }
}

// Long K runs in blocks: the later ones continue from C; what is added comes first, the rest of the post-ops last.
TEST_P(GemmTest, BlocksOfK) {
    const PostOps post_ops = {
        {PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::add_tensor, 0, 0, 1}, {PostOp::Kind::relu}};
    check_case({17, 37, 5000, 0, 0, false, post_ops}, GetParam());
    check_case({15, 96, 2049, 0, 3, false, post_ops}, GetParam());
    check_case({1, 130, 4100, 0, 0, true, post_ops}, GetParam());
}

TEST_P(GemmTest, EveryPostOp) {
    using Kind = PostOp::Kind;
    for (int kind = 0; kind <= static_cast<int>(Kind::min_tensor); ++kind) {
        PostOp op{static_cast<Kind>(kind), 0.3F, 0.7F, -1};
        SCOPED_TRACE("post-op kind " + std::to_string(kind));
        if (has_channel_operand(op.kind)) op.operand = 0;
        if (has_tensor_operand(op.kind)) op.operand = 1;
        PostOps post_ops = {op};
        // Keep the arguments of functions with a pole or an edge of their domain away from it.
        if (op.kind == Kind::sqrt || op.kind == Kind::log || op.kind == Kind::reciprocal || op.kind == Kind::rsqrt) {
            post_ops.insert(post_ops.begin(), {{Kind::abs}, {Kind::scale_shift, 1, 0.5F}});
        }
        check_case({15, 51, 9, 0, 2, false, post_ops}, GetParam());
        check_case({3, 5, 9, 0, 2, false, post_ops}, GetParam());
    }
}

TEST_P(GemmTest, ChainsKeepTheirOrder) {
    check_case({14,
                40,
                16,
                0,
                0,
                false,
                {{PostOp::Kind::mul_channel, 0, 0, 0},
                 {PostOp::Kind::add_tensor, 0, 0, 1},
                 {PostOp::Kind::gelu_erf},
                 {PostOp::Kind::scale_shift, -2, 0.25F},
                 {PostOp::Kind::clip, -0.5F, 0.5F}}},
               GetParam());
}

TEST_P(GemmTest, ReluKeepsNaN) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const PostOp& op : {PostOp{PostOp::Kind::relu}, PostOp{PostOp::Kind::clip, 0, 6},
                             PostOp{PostOp::Kind::leaky_relu, 0.1F}, PostOp{PostOp::Kind::hard_swish}}) {
        const GemmPlan plan({1, 1, 1}, {op}, GetParam());
        AlignedFloats packed(plan.b_layout().size());
        const float a = nan, b = 1;
        pack_b(&b, 1, false, plan.b_layout(), packed.data());
        float c = 0;
        plan.run_serial(&a, packed.data(), &c, {});
        EXPECT_TRUE(std::isnan(c)) << static_cast<int>(op.kind);
    }
}

TEST_P(GemmTest, TouchesNothingPastTheEnd) {
    const PostOps post_ops = {{PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::add_tensor, 0, 0, 1}};
    for (const int64_t m : {1, 4, 17}) {
        for (const int64_t n : {1, 7, 16, 21, 75}) {
            for (const int64_t k : {1, 6, 9, 3001}) {
                const Problem p({m, n, k});
                const GemmPlan plan({m, n, k}, post_ops, GetParam());
                GuardedFloats a(p.a), channel(p.channel), tensor(p.tensor), c(p.tensor);
                GuardedFloats packed(std::vector<float>(static_cast<size_t>(plan.b_layout().size())));
                pack_b(p.b.data(), n, false, plan.b_layout(), packed.data());
                const std::array<const float*, 2> operands = {channel.data(), tensor.data()};
                plan.run_serial(a.data(), packed.data(), c.data(), operands);
            }
        }
    }
}

// A residual may be added in place, also where K runs in blocks and where it is not a mere addition.
TEST_P(GemmTest, TensorOperandMayBeC) {
    for (const PostOp::Kind kind : {PostOp::Kind::add_tensor, PostOp::Kind::sub_tensor, PostOp::Kind::mul_tensor}) {
        const PostOps post_ops = {{PostOp::Kind::add_channel, 0, 0, 0}, {kind, 0, 0, 1}, {PostOp::Kind::relu}};
        const Problem p({19, 75, 4000});
        const GemmPlan plan({19, 75, 4000}, post_ops, GetParam());
        AlignedFloats packed(plan.b_layout().size());
        pack_b(p.b.data(), 75, false, plan.b_layout(), packed.data());
        std::vector<float> c(19 * 75), in_place = p.tensor;
        const auto operands = p.operands();
        const std::array<const float*, 2> aliased = {p.channel.data(), in_place.data()};
        plan.run_serial(p.a.data(), packed.data(), c.data(), operands);
        plan.run_serial(p.a.data(), packed.data(), in_place.data(), aliased);
        EXPECT_EQ(c, in_place) << static_cast<int>(kind);
    }
}

// However rows, columns and threads divide the work, each element is the same sum in the same order.
TEST_P(GemmTest, SameBitsForAnyDivision) {
    const int64_t m = 61, n = 200, k = 3000;
    const std::vector<float> a = random_floats(m * k, 5), b = random_floats(k * n, 6);
    const GemmPlan plan({m, n, k}, {}, GetParam());
    AlignedFloats packed(plan.b_layout().size());
    pack_b(b.data(), n, false, plan.b_layout(), packed.data());
    std::vector<float> first(static_cast<size_t>(m * n)), again(first.size());
    plan.run(a.data(), packed.data(), first.data(), {}, ThreadPool::process(), 1);
    ThreadPool pool(3);
    for (const int threads : {1, 2, 3}) {
        std::fill(again.begin(), again.end(), 0.0F);
        plan.run(a.data(), packed.data(), again.data(), {}, pool, threads);
        ASSERT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof(float)), 0) << threads << " threads";
    }
}

TEST_P(GemmTest, UnpackInvertsPack) {
    for (const int64_t n : {1, 16, 47, 129}) {
        for (const bool transposed : {false, true}) {
            const int64_t k = 11, ld = (transposed ? k : n) + 2, count = (transposed ? n : k) * ld;
            const std::vector<float> b = random_floats(count, 7);
            std::vector<float> back = b;
            const PackLayout layout = GemmPlan({20, n, k}, {}, GetParam()).b_layout();
            AlignedFloats packed(layout.size());
            pack_b(b.data(), ld, transposed, layout, packed.data());
            for (int64_t row = 0; row < k; ++row) {
                for (int64_t column = 0; column < n; ++column) {
                    float& value = back[static_cast<size_t>(transposed ? column * ld + row : row * ld + column)];
                    ASSERT_EQ(packed.data()[layout.index(row, column)], value);
                    value = 0;
                }
            }
            unpack_b(packed.data(), layout, back.data(), ld, transposed);
            EXPECT_EQ(b, back);
        }
    }
}

TEST_P(GemmTest, Batches) {
    for (const bool transposed : {false, true}) {
        for (const int threads : {1, 3}) {
            const int64_t batch = 5, m = 33, n = 70, k = 29;
            BatchedGemmShape shape{batch, m, n, k, k + 1, (transposed ? k : n) + 2, n + 3, transposed};
            const int64_t b_rows = transposed ? n : k;
            const std::vector<float> a = random_floats(batch * m * shape.lda, 8);
            const std::vector<float> b = random_floats(batch * b_rows * shape.ldb, 9);
            const std::vector<float> tensor = random_floats(batch * m * shape.ldc, 10);
            // Matrices of C in reverse order; all of them share the second A.
            std::vector<int64_t> a_at(batch, m * shape.lda), b_at(batch), c_at(batch);
            for (int64_t i = 0; i < batch; ++i) {
                b_at[static_cast<size_t>(i)] = i * b_rows * shape.ldb;
                c_at[static_cast<size_t>(i)] = (batch - 1 - i) * m * shape.ldc;
            }
            const PostOps post_ops = {{PostOp::Kind::scale_shift, 0.125F, 0}, {PostOp::Kind::add_tensor, 0, 0, 0}};
            const BatchedGemmPlan plan(shape, post_ops, GetParam());
            AlignedFloats workspace(static_cast<int64_t>(plan.workspace(threads) / sizeof(float)));
            std::vector<float> got(tensor.size());
            const std::array<const float*, 1> operands = {tensor.data()};
            ThreadPool pool(3);
            plan.run(a.data(), b.data(), got.data(), {a_at, b_at, c_at}, operands, workspace.data(), pool, threads);
            for (int64_t i = 0; i < batch; ++i) {
                for (int64_t row = 0; row < m; ++row) {
                    for (int64_t column = 0; column < n; ++column) {
                        const auto at = static_cast<size_t>(i);
                        Expected e;
                        for (int64_t q = 0; q < k; ++q) {
                            const int64_t in_b = transposed ? column * shape.ldb + q : q * shape.ldb + column;
                            e.add_product(a[static_cast<size_t>(a_at[at] + row * shape.lda + q)],
                                          b[static_cast<size_t>(b_at[at] + in_b)]);
                        }
                        const int64_t element = c_at[at] + row * shape.ldc + column;
                        e.apply(post_ops, operands, column, element);
                        ASSERT_TRUE(e.matches(got[static_cast<size_t>(element)]))
                            << i << " " << row << " " << column << e.text();
                    }
                }
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, GemmTest, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace planish::cpu
