// Attention against a float64 softmax(Q K^T) V, on every ISA: strides, masks, causal, grouped heads, many key blocks.
#include <algorithm>
#include <limits>

#include "base/aligned_buffer.hpp"
#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
    int64_t batch = 2, heads = 2, kv_heads = 2, queries = 0, keys = 0, head_dim = 64, value_dim = 64;
    int mask = 0;  // 0 none, 1 [B,1,1,K] lowest, 2 [1,H,Q,K] with -inf
    bool causal = false;
    int64_t causal_offset = 0, query_block = 0;
    float softcap = 0;
};

class AttentionKernel : public testing::TestWithParam<Isa> {
  protected:
    void check(const Case& c) {
        SCOPED_TRACE(testing::Message() << "B" << c.batch << " H" << c.heads << "/" << c.kv_heads << " Q" << c.queries
                                        << " K" << c.keys << " D" << c.head_dim << "/" << c.value_dim << " mask "
                                        << c.mask << " causal " << c.causal << c.causal_offset << " block "
                                        << c.query_block << " softcap " << c.softcap);
        // [B, S, H * D], as projections give them.
        const Floats q = Floats::random(c.batch * c.queries * c.heads * c.head_dim, 40, -2, 2);
        const Floats k = Floats::random(c.batch * c.keys * c.kv_heads * c.head_dim, 41, -2, 2);
        const Floats v = Floats::random(c.batch * c.keys * c.kv_heads * c.value_dim, 42, -2, 2);
        Floats mask = Floats::random(c.mask == 1 ? c.batch * c.keys : c.heads * c.queries * c.keys, 43, -1, 1);
        for (int64_t i = 0; i < mask.size(); i += 4)
            mask[i] = c.mask == 1 ? std::numeric_limits<float>::lowest() : -kInf;
        Floats y(c.batch * c.queries * c.heads * c.value_dim);
        AttentionArgs args;
        args.query = q.data(), args.key = k.data(), args.value = v.data(), args.output = y.data();
        args.batch = c.batch, args.heads = c.heads, args.kv_heads = c.kv_heads;
        args.queries = c.queries, args.keys = c.keys, args.head_dim = c.head_dim, args.value_dim = c.value_dim;
        const auto strides = [](int64_t rows, int64_t heads, int64_t dim) {
            return AttentionArgs::Strides{rows * heads * dim, dim, heads * dim};
        };
        args.query_strides = strides(c.queries, c.heads, c.head_dim);
        args.key_strides = strides(c.keys, c.kv_heads, c.head_dim);
        args.value_strides = strides(c.keys, c.kv_heads, c.value_dim);
        args.output_strides = strides(c.queries, c.heads, c.value_dim);
        if (c.mask) args.mask = mask.data();
        args.mask_strides =
            c.mask == 1 ? AttentionArgs::Strides{c.keys, 0, 0} : AttentionArgs::Strides{0, c.queries * c.keys, c.keys};
        args.scale = 1 / std::sqrt(float(c.head_dim));
        args.softcap = c.softcap;
        args.causal = c.causal, args.causal_offset = c.causal_offset, args.query_block = c.query_block;

        const int64_t size = attention_scratch(args);
        AlignedBuffer scratch(size * sizeof(float) + 64);
        std::memset(scratch.data(), 0xff, scratch.size());  // NaN: nothing may be read before it is written
        run_split(attention_items(args), y,
                  [&](int64_t b, int64_t e) { kernels(GetParam()).attention(args, b, e, scratch.as<float>()); });
        for (size_t i = size * sizeof(float); i < scratch.size(); ++i) ASSERT_EQ(scratch.data()[i], std::byte{0xff});

        std::vector<double> expected(y.size()), bound(y.size());
        for (int64_t b = 0; b < c.batch; ++b) {
            for (int64_t h = 0; h < c.heads; ++h) {
                const int64_t g = h / (c.heads / c.kv_heads);
                for (int64_t i = 0; i < c.queries; ++i) {
                    std::vector<double> score(c.keys);
                    double top = -kInf, largest = 0;
                    for (int64_t j = 0; j < c.keys; ++j) {
                        double dot = 0, magnitude = 0;
                        for (int64_t d = 0; d < c.head_dim; ++d) {
                            const double product = double(q[((b * c.queries + i) * c.heads + h) * c.head_dim + d]) *
                                                   k[((b * c.keys + j) * c.kv_heads + g) * c.head_dim + d];
                            dot += product, magnitude += std::abs(product);
                        }
                        score[j] = dot * args.scale;
                        largest = std::max(largest, magnitude * args.scale);
                        if (c.softcap) score[j] = c.softcap * std::tanh(score[j] / c.softcap);
                        if (c.mask == 1) score[j] += mask[b * c.keys + j];
                        if (c.mask == 2) score[j] += mask[(h * c.queries + i) * c.keys + j];
                        if (c.causal && j > i + c.causal_offset) score[j] = -kInf;
                        top = std::max(top, score[j]);
                    }
                    double sum = 0;
                    for (double& s : score) sum += s = top == -kInf ? 0 : std::exp(s - top);
                    if (sum == 0) sum = 1;  // sees no key: zeros
                    for (int64_t d = 0; d < c.value_dim; ++d) {
                        double out = 0, magnitude = 0;
                        for (int64_t j = 0; j < c.keys; ++j) {
                            const double x = v[((b * c.keys + j) * c.kv_heads + g) * c.value_dim + d];
                            out += score[j] / sum * x, magnitude += score[j] / sum * std::abs(x);
                        }
                        const int64_t at = ((b * c.queries + i) * c.heads + h) * c.value_dim + d;
                        expected[at] = out;
                        // The dot product's error enters through the exponent, twice (here and in the sum); then come
                        // the sums over keys. A random walk would stay at the square root of these counts.
                        bound[at] = magnitude * kEps * (2 * (c.head_dim + 8.0) * (largest + 1) / 4 + 2 * c.keys + 16);
                    }
                }
            }
        }
        expect_close(y, expected, bound);
    }
};
INSTANTIATE_TEST_SUITE_P(Isa, AttentionKernel, testing::ValuesIn(isas_here()), isa_name);

TEST_P(AttentionKernel, SizesAndHeadDims) {
    for (int64_t queries : {1, 3, 4, 6, 17, 50})
        for (int64_t keys : {1, 5, 16, 63, 64, 130})
            for (int64_t dim : {1, 20, 32, 64})
                check({.queries = queries, .keys = keys, .head_dim = dim, .value_dim = dim});
    check({.batch = 1, .queries = 197, .keys = 197});
    check({.batch = 1, .queries = 9, .keys = 40, .head_dim = 128, .value_dim = 128});
    check({.batch = 1, .queries = 9, .keys = 40, .head_dim = 48, .value_dim = 80});
    check({.batch = 1, .queries = 2, .keys = 40, .head_dim = 33, .value_dim = 17});
}

TEST_P(AttentionKernel, ManyKeyBlocks) {
    for (int64_t queries : {1, 30, 200}) {
        check({.batch = 1, .queries = queries, .keys = 1100, .head_dim = 64, .value_dim = 64});
        check({.batch = 1, .queries = queries, .keys = 1100, .mask = 1});
        check({.batch = 1, .queries = queries, .keys = 1100, .mask = 2});
        check({.batch = 1, .queries = queries, .keys = 1100, .causal = true, .causal_offset = 1100 - queries});
    }
}

TEST_P(AttentionKernel, Masks) {
    for (int64_t queries : {1, 33})
        for (int mask : {1, 2})
            for (float softcap : {0.0f, 1.5f})
                check({.queries = queries, .keys = 70, .mask = mask, .softcap = softcap});
}

TEST_P(AttentionKernel, Causal) {
    for (int64_t queries : {1, 2, 40})
        for (int64_t keys : {40, 90})
            for (int64_t offset : {-2, 0, 50})
                for (int mask : {0, 2})
                    check({.queries = queries, .keys = keys, .mask = mask, .causal = true, .causal_offset = offset});
}

TEST_P(AttentionKernel, GroupedHeadsAndQueryBlocks) {
    for (int64_t block : {0, 6, 7, 32}) {
        check({.heads = 6,
               .kv_heads = 2,
               .queries = 40,
               .keys = 50,
               .head_dim = 32,
               .value_dim = 32,
               .query_block = block});
        check({.heads = 4, .kv_heads = 1, .queries = 1, .keys = 50, .query_block = block});
    }
}

TEST_P(AttentionKernel, NanInAQueryStaysInItsRow) {
    const int64_t n = 7, dim = 16;
    Floats q = Floats::random(n * dim, 53);
    q[3 * dim + 5] = std::numeric_limits<float>::quiet_NaN();
    const Floats k = Floats::random(n * dim, 54);
    Floats y(n * dim);
    AttentionArgs args;
    args.query = q.data(), args.key = args.value = k.data(), args.output = y.data();
    args.queries = args.keys = n, args.head_dim = args.value_dim = dim;
    args.query_strides = args.key_strides = args.value_strides = args.output_strides = {0, 0, dim};
    AlignedBuffer scratch(attention_scratch(args) * sizeof(float));
    kernels(GetParam()).attention(args, 0, attention_items(args), scratch.as<float>());
    for (int64_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / dim == 3);
}

// The split of queries into items must not change a bit either, or the thread count would show in the result.
TEST_P(AttentionKernel, QueryBlockDoesNotChangeTheResult) {
    const int64_t n = 100, dim = 64;
    const Floats q = Floats::random(n * dim, 50), k = Floats::random(n * dim, 51), v = Floats::random(n * dim, 52);
    AttentionArgs args;
    args.query = q.data(), args.key = k.data(), args.value = v.data();
    args.queries = args.keys = n, args.head_dim = args.value_dim = dim;
    args.query_strides = args.key_strides = args.value_strides = args.output_strides = {0, 0, dim};
    std::vector<Floats> results;
    for (int64_t block : {0, 1, 5, 64}) {
        Floats y(n * dim);
        args.output = y.data(), args.query_block = block;
        AlignedBuffer scratch(attention_scratch(args) * sizeof(float));
        kernels(GetParam()).attention(args, 0, attention_items(args), scratch.as<float>());
        results.push_back(y);
    }
    for (const Floats& y : results) EXPECT_EQ(std::memcmp(y.data(), results[0].data(), sizeof(float) * n * dim), 0);
}

}  // namespace
}  // namespace planish::cpu
