// Generated integer matrix products against plain loops: shapes with every kind of edge, every post-op, every ISA.
#include "backends/cpu/jit/gemm_i8.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.hpp"
#include "cpu/i8_testing.hpp"

namespace planish::cpu {
namespace {

using testing::AlignedFloats;
using testing::Expected;
using testing::Guarded;
using testing::random_bytes;
using testing::random_floats;

struct Case {
    int64_t m, n, k;
    int64_t lda_extra = 0, ldc_extra = 0;
    bool transposed = false;
    PostOps post_ops = {};
    PanelWidth width = {};
};

constexpr ByteFormat kA{0.02F, 117};

/// Operands 0, 1 and 2 are a channel vector and tensors of floats and of bytes laid out as C.
struct Problem {
    explicit Problem(const Case& c)
        : shape{c.m, c.n, c.k, c.k + c.lda_extra, c.n + c.ldc_extra},
          ldb(c.transposed ? c.k : c.n),
          a(random_bytes<uint8_t>((c.m - 1) * shape.lda + c.k, 1)),
          b(random_bytes<int8_t>(c.k * c.n, 2)),
          tensor_bytes(random_bytes<uint8_t>((c.m - 1) * shape.ldc + c.n, 3)),
          scales(random_floats(c.n, 4)),
          bias(random_floats(c.n, 5)),
          channel(random_floats(c.n, 6)),
          tensor(random_floats((c.m - 1) * shape.ldc + c.n, 7)) {
        // About as large as the sums are, so that results spread over what a byte holds.
        for (float& s : scales) s = (s + 2) / (3000 * std::sqrt(static_cast<float>(c.k)) * kA.scale);
    }

    std::array<const float*, 3> operands() const {
        return {channel.data(), tensor.data(), reinterpret_cast<const float*>(tensor_bytes.data())};
    }
    int64_t sum(const Case& c, int64_t i, int64_t j) const {
        int64_t result = 0;
        for (int64_t q = 0; q < c.k; ++q)
            result += int64_t{a[static_cast<size_t>(i * shape.lda + q)] - kA.zero} *
                      b[static_cast<size_t>(c.transposed ? j * ldb + q : q * ldb + j)];
        return result;
    }
    Expected expected(const Case& c, int64_t i, int64_t j) const {
        const auto at = static_cast<size_t>(j);
        Expected e = testing::rescaled(sum(c, i, j), double{scales[at]} * kA.scale, bias[at]);
        e.apply(c.post_ops, operands(), j, i * shape.ldc + j);
        return e;
    }

    GemmShape shape;
    int64_t ldb;
    std::vector<uint8_t> a;
    std::vector<int8_t> b;
    std::vector<uint8_t> tensor_bytes;
    std::vector<float> scales, bias, channel, tensor;
};

/// Memory for packed bytes.
struct Packed {
    explicit Packed(const GemmI8Plan& plan) : floats(plan.b_layout().size()) {}
    int8_t* data() { return reinterpret_cast<int8_t*>(floats.data()); }
    AlignedFloats floats;
};

/// The result with float32 or bytes in C, from memory that ends where it must.
template <typename T>
std::vector<T> run(const Case& c, const Problem& p, const std::optional<ByteFormat>& format, Isa isa, int threads) {
    const GemmI8Plan plan(p.shape, c.post_ops, format, isa, c.width);
    Packed packed(plan);
    plan.pack(p.b.data(), p.ldb, c.transposed, packed.data());
    const ColumnTerms terms = plan.terms(packed.data(), kA, p.scales, p.bias);
    Guarded<uint8_t> a(p.a), bytes(p.tensor_bytes);
    Guarded<float> channel(p.channel), tensor(p.tensor);
    const std::array<const float*, 3> operands = {channel.data(), tensor.data(),
                                                  reinterpret_cast<const float*>(bytes.data())};
    const size_t size = p.tensor.size();
    Guarded<T> result(std::vector<T>(size, T{77}));
    static ThreadPool pool(3);
    plan.run(a.data(), packed.data(), terms, result.data(), operands, pool, threads);
    return {result.data(), result.data() + size};
}

void check_case(const Case& c, Isa isa, const ByteFormat& format = {0.011F, 101}) {
    SCOPED_TRACE(std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) + " nr " +
                 std::to_string(c.width.nr));
    const Problem p(c);
    const auto floats = run<float>(c, p, std::nullopt, isa, 1);
    const auto bytes = run<uint8_t>(c, p, format, isa, 1);
    for (size_t at = 0; at < floats.size(); ++at) {
        const auto i = static_cast<int64_t>(at) / p.shape.ldc, j = static_cast<int64_t>(at) % p.shape.ldc;
        if (j >= c.n) {
            ASSERT_EQ(floats[at], 77);
            ASSERT_EQ(bytes[at], 77);
            continue;
        }
        const Expected e = p.expected(c, i, j);
        ASSERT_TRUE(e.matches(floats[at])) << i << ", " << j << ": " << floats[at] << e.text();
        ASSERT_TRUE(testing::matches_byte(e, format, bytes[at])) << i << ", " << j << ": " << +bytes[at] << e.text();
    }
}

class GemmI8Test : public ::testing::TestWithParam<Isa> {};

TEST_P(GemmI8Test, EveryEdge) {
    for (const int64_t m : {1, 2, 3, 13, 14, 15, 31})
        for (const int64_t n : {1, 3, 8, 15, 16, 24, 33, 48, 100})
            for (const int64_t k : {1, 2, 3, 4, 5, 7, 8, 17, 31, 34}) check_case({m, n, k, 3, 5}, GetParam());
}

TEST_P(GemmI8Test, EveryTail) {
    for (int64_t n = 1; n <= 33; ++n)
        check_case({5, n, 11, 0, 0, true, {{PostOp::Kind::add_tensor, 0.01F, -1, 2, true}}}, GetParam());
}

TEST_P(GemmI8Test, TransposedSource) {
    for (const int64_t n : {1, 5, 16, 50})
        for (const int64_t k : {1, 6, 17, 3072}) check_case({9, n, k, 0, 0, true}, GetParam());
}

TEST_P(GemmI8Test, EveryTile) {
    for (const int vector : {8, 16}) {
        if (vector > vector_floats(GetParam())) continue;
        const Isa kernel = vector == 16 ? Isa::avx512 : Isa::avx2;
        for (int vectors = 1; vectors <= kMaxTileVectors; ++vectors) {
            const int nr = vectors * vector;
            for (int rows = 1; rows <= max_i8_tile_rows(kernel, GetParam() == Isa::avx512_vnni, vectors); ++rows)
                check_case({rows, nr + nr - 1, 22, 1, 1, false, {{PostOp::Kind::gelu_erf}}, {nr, vector}}, GetParam());
        }
    }
}

// In bytes the end of the list may be merged with the rounding: each kind also stands alone and before a clip.
TEST_P(GemmI8Test, EveryPostOp) {
    using Kind = PostOp::Kind;
    for (int kind = 0; kind <= static_cast<int>(Kind::min_tensor); ++kind) {
        PostOp op{static_cast<Kind>(kind), 0.3F, 0.7F, -1};
        SCOPED_TRACE("post-op kind " + std::to_string(kind));
        if (has_channel_operand(op.kind)) op.operand = 0;
        if (has_tensor_operand(op.kind)) op.operand = 1;
        PostOps post_ops = {op};
        // Keep the arguments of functions with a pole or an edge of their domain away from it.
        if (op.kind == Kind::sqrt || op.kind == Kind::log || op.kind == Kind::reciprocal || op.kind == Kind::rsqrt)
            post_ops.insert(post_ops.begin(), {{Kind::abs}, {Kind::scale_shift, 1, 0.5F}});
        check_case({15, 51, 9, 0, 2, false, post_ops}, GetParam());
        if (has_tensor_operand(op.kind)) {
            if (op.kind == Kind::div_tensor) continue;  // 0.3 * byte + 0.7 below divides by no zero
            check_case({15, 51, 9, 0, 2, false, {{op.kind, 0.0078F, -1.1F, 2, true}}}, GetParam());
        }
        post_ops.push_back({Kind::clip, -0.4F, 0.9F});
        check_case({3, 5, 9, 0, 2, false, post_ops}, GetParam());
    }
    check_case({15, 51, 9, 0, 2, false, {{Kind::div_tensor, 0.3F, 0.7F, 2, true}}}, GetParam());
}

TEST_P(GemmI8Test, ChainsKeepTheirOrder) {
    using Kind = PostOp::Kind;
    const PostOp residual{Kind::add_tensor, 0.01F, -1.28F, 2, true};
    for (const PostOps& post_ops :
         {PostOps{{Kind::mul_channel, 0, 0, 0}, {Kind::add_tensor, 0, 0, 1}, residual, {Kind::gelu_erf}},
          PostOps{residual, {Kind::relu}}, PostOps{residual, residual, {Kind::clip, 0, 1}, {Kind::relu}},
          PostOps{{Kind::clip, -0.5F, 0.5F}, residual}, PostOps{{Kind::relu}, {Kind::clip, -2, -1}},
          PostOps{{Kind::clip, 1, 0.5F}}, PostOps{{Kind::hard_swish}, {Kind::relu}}}) {
        check_case({14, 40, 16, 0, 0, false, post_ops}, GetParam());
        check_case({14, 40, 16, 0, 0, false, post_ops}, GetParam(), {0.02F, 0});
    }
}

// A scale of one and sums that float32 holds, of the largest factors: every bit counts.
TEST_P(GemmI8Test, SumsAreExact) {
    for (const auto& [k, w] : {std::pair<int64_t, int>{513, -128}, {512, 127}, {kMostByteProducts, -128}}) {
        const int64_t m = 5, n = 37;
        const GemmI8Plan plan({m, n, k}, {}, std::nullopt, GetParam());
        const std::vector<uint8_t> a(static_cast<size_t>(m * k), 255);
        const std::vector<int8_t> b(static_cast<size_t>(k * n), static_cast<int8_t>(w));
        Packed packed(plan);
        plan.pack(b.data(), n, false, packed.data());
        const std::vector<float> one = {1};
        const ColumnTerms terms = plan.terms(packed.data(), {1, 0}, one, {});
        std::vector<float> c(static_cast<size_t>(m * n));
        plan.run(a.data(), packed.data(), terms, c.data(), {}, ThreadPool::process(), 1);
        for (const float x : c) ASSERT_EQ(x, static_cast<float>(255 * w * k));
    }
}

TEST_P(GemmI8Test, SaturatesWhatIsFarOutside) {
    using Kind = PostOp::Kind;
    for (const float bias : {1e9F, 1e30F, -1e9F, -1e30F}) {
        for (const PostOps& post_ops : {PostOps{}, PostOps{{Kind::scale_shift, 2, 0}}}) {
            const GemmI8Plan plan({3, 21, 8}, post_ops, ByteFormat{0.5F, 3}, GetParam());
            const std::vector<uint8_t> a(3 * 8, 1);
            const std::vector<int8_t> b(8 * 21, 1);
            Packed packed(plan);
            plan.pack(b.data(), 21, false, packed.data());
            const std::vector<float> scale = {1}, shift = {bias};
            std::vector<uint8_t> c(3 * 21);
            plan.run(a.data(), packed.data(), plan.terms(packed.data(), {1, 0}, scale, shift), c.data(), {},
                     ThreadPool::process(), 1);
            for (const uint8_t x : c) ASSERT_EQ(x, bias > 0 ? 255 : 0) << bias;
        }
    }
}

TEST_P(GemmI8Test, TensorOperandMayBeC) {
    const Case c{19, 75, 40, 0, 0, false, {{PostOp::Kind::add_tensor, 0.01F, -1, 2, true}, {PostOp::Kind::relu}}};
    const Problem p(c);
    const ByteFormat format{0.011F, 101};
    const auto apart = run<uint8_t>(c, p, format, GetParam(), 1);
    const GemmI8Plan plan(p.shape, c.post_ops, format, GetParam());
    Packed packed(plan);
    plan.pack(p.b.data(), p.ldb, false, packed.data());
    std::vector<uint8_t> in_place = p.tensor_bytes;
    const std::array<const float*, 3> operands = {nullptr, nullptr, reinterpret_cast<const float*>(in_place.data())};
    plan.run(p.a.data(), packed.data(), plan.terms(packed.data(), kA, p.scales, p.bias), in_place.data(), operands,
             ThreadPool::process(), 1);
    EXPECT_EQ(apart, in_place);
}

TEST_P(GemmI8Test, SameBitsForAnyDivision) {
    const Case c{61, 200, 900, 0, 0, false, {{PostOp::Kind::gelu_tanh}}};
    const Problem p(c);
    const auto floats = run<float>(c, p, std::nullopt, GetParam(), 1);
    const auto bytes = run<uint8_t>(c, p, ByteFormat{0.011F, 101}, GetParam(), 1);
    for (const int threads : {2, 3}) {
        const auto again = run<float>(c, p, std::nullopt, GetParam(), threads);
        ASSERT_EQ(std::memcmp(floats.data(), again.data(), floats.size() * sizeof(float)), 0) << threads << " threads";
        ASSERT_EQ(bytes, run<uint8_t>(c, p, ByteFormat{0.011F, 101}, GetParam(), threads)) << threads << " threads";
    }
}

INSTANTIATE_TEST_SUITE_P(Isa, GemmI8Test, ::testing::ValuesIn(testing::integer_isas()), testing::isa_name);

}  // namespace
}  // namespace planish::cpu
