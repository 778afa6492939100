// Attention on bytes against the same bytes in float64, on every level: strides, masks, causal, grouped heads, sizes
// that leave rests, results in bytes and in float32.
#include <limits>

#include "base/aligned_buffer.hpp"
#include "cpu/kernel_test_util.hpp"

namespace planish::cpu {
namespace {

std::vector<uint8_t> random_bytes(int64_t count, uint32_t seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> uniform(0, 255);
    std::vector<uint8_t> bytes(static_cast<size_t>(count));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(uniform(generator));
    return bytes;
}

std::vector<Isa> levels() {
    std::vector<Isa> isas;
    for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_vnni})
        if (isa <= hardware_isa()) isas.push_back(isa);
    return isas;
}

struct Case {
    int64_t batch = 2, heads = 2, kv_heads = 2, queries = 0, keys = 0, head_dim = 32, value_dim = 32;
    int mask = 0;  // 0 none, 1 [B,1,1,K] lowest, 2 [1,H,Q,K] with -inf
    bool causal = false;
    int64_t causal_offset = 0;
    float step = 0.02F;  // of queries and keys: how peaked the softmax is
};

class ByteAttention : public testing::TestWithParam<Isa> {
  protected:
    void check(const Case& c) {
        SCOPED_TRACE(testing::Message() << "B" << c.batch << " H" << c.heads << "/" << c.kv_heads << " Q" << c.queries
                                        << " K" << c.keys << " D" << c.head_dim << "/" << c.value_dim << " mask "
                                        << c.mask << " causal " << c.causal << c.causal_offset << " step " << c.step);
        const auto q = random_bytes(c.batch * c.queries * c.heads * c.head_dim, 1);
        const auto k = random_bytes(c.batch * c.keys * c.kv_heads * c.head_dim, 2);
        const auto v = random_bytes(c.batch * c.keys * c.kv_heads * c.value_dim, 3);
        Floats mask = Floats::random(c.mask == 1 ? c.batch * c.keys : c.heads * c.queries * c.keys, 43, -1, 1);
        for (int64_t i = 0; i < mask.size(); i += 4)
            mask[i] = c.mask == 1 ? std::numeric_limits<float>::lowest() : -std::numeric_limits<float>::infinity();
        ByteAttentionArgs args;
        args.query = q.data(), args.key = k.data(), args.value = v.data();
        args.batch = c.batch, args.heads = c.heads, args.kv_heads = c.kv_heads;
        args.queries = c.queries, args.keys = c.keys, args.head_dim = c.head_dim, args.value_dim = c.value_dim;
        const auto strides = [](int64_t rows, int64_t heads, int64_t dim) {
            return AttentionShape::Strides{rows * heads * dim, dim, heads * dim};
        };
        args.query_strides = strides(c.queries, c.heads, c.head_dim);
        args.key_strides = strides(c.keys, c.kv_heads, c.head_dim);
        args.value_strides = strides(c.keys, c.kv_heads, c.value_dim);
        args.output_strides = strides(c.queries, c.heads, c.value_dim);
        if (c.mask) args.mask = mask.data();
        args.mask_strides = c.mask == 1 ? AttentionShape::Strides{c.keys, 0, 0}
                                        : AttentionShape::Strides{0, c.queries * c.keys, c.keys};
        args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
        args.causal = c.causal, args.causal_offset = c.causal_offset;
        args.stored_query = {c.step, 190}, args.stored_key = {1.5F * c.step, 131}, args.stored_value = {0.05F, 100};
        args.stored_output = {0.045F, 90};
        ASSERT_TRUE(takes_byte_attention(args));
        const int64_t size = byte_attention_scratch(args);
        AlignedBuffer scratch(static_cast<size_t>(size) * sizeof(float) + 64);
        std::memset(scratch.data(), 0xff, scratch.size());
        const auto run = kernels(GetParam()).byte_attention;
        Floats y(c.batch * c.queries * c.heads * c.value_dim);
        args.floats = y.data();
        run_split(attention_items(args), y, [&](int64_t b, int64_t e) { run(args, b, e, scratch.as<float>()); });
        std::vector<uint8_t> bytes(static_cast<size_t>(y.size()));
        args.floats = nullptr, args.bytes = bytes.data();
        run(args, 0, attention_items(args), scratch.as<float>());
        for (size_t i = static_cast<size_t>(size) * sizeof(float); i < scratch.size(); ++i)
            ASSERT_EQ(scratch.data()[i], std::byte{0xff});

        for (int64_t b = 0; b < c.batch; ++b)
            for (int64_t h = 0; h < c.heads; ++h)
                for (int64_t i = 0; i < c.queries; ++i) check_row(c, args, mask, b, h, i, y, bytes);
    }

  private:
    void check_row(const Case& c, const ByteAttentionArgs& args, const Floats& mask, int64_t b, int64_t h, int64_t i,
                   const Floats& y, const std::vector<uint8_t>& bytes) {
        const int64_t g = h / (c.heads / c.kv_heads);
        const auto real = [](const uint8_t* p, const ByteScale& s) { return double{s.scale} * (*p - double{s.zero}); };
        const uint8_t* query = args.query + ((b * c.queries + i) * c.heads + h) * c.head_dim;
        std::vector<double> weights(static_cast<size_t>(c.keys));
        double top = -INFINITY, largest = 0;
        for (int64_t j = 0; j < c.keys; ++j) {
            const uint8_t* key = args.key + ((b * c.keys + j) * c.kv_heads + g) * c.head_dim;
            double& score = weights[static_cast<size_t>(j)];
            for (int64_t d = 0; d < c.head_dim; ++d)
                score += real(query + d, args.stored_query) * real(key + d, args.stored_key) * args.scale;
            largest = std::max(largest, std::fabs(score));
            if (c.mask == 1) score += mask[b * c.keys + j];
            if (c.mask == 2) score += mask[(h * c.queries + i) * c.keys + j];
            if (c.causal && j > i + c.causal_offset) score = -INFINITY;
            top = std::max(top, score);
        }
        double sum = 0;
        for (double& w : weights) sum += w = top == -INFINITY ? 0 : std::exp(w - top);
        for (int64_t d = 0; d < c.value_dim; ++d) {
            double out = 0, magnitude = 0, spread = 0;
            for (int64_t j = 0; j < c.keys && sum > 0; ++j) {
                const double x =
                    real(args.value + ((b * c.keys + j) * c.kv_heads + g) * c.value_dim + d, args.stored_value);
                out += weights[static_cast<size_t>(j)] / sum * x;
                magnitude += weights[static_cast<size_t>(j)] / sum * std::fabs(x);
                spread += std::fabs(x);
            }
            // Each weight is off by its rounding, half of 1/32767 of the greatest, and relatively by 3e-6 and by what
            // its exponent is, whose parts are numbers of up to twice the largest score; so is their sum.
            const double relative = 3e-6 + kEps * (8 * largest + 64);
            const double weight = 0.5 / 32767;
            const double bound = sum == 0 ? 0
                                          : weight * (spread + static_cast<double>(c.keys) * std::fabs(out)) / sum +
                                                2 * relative * magnitude + 8 * kEps * 255 * args.stored_value.scale;
            const int64_t at = ((b * c.queries + i) * c.heads + h) * c.value_dim + d;
            ASSERT_LE(std::fabs(y[at] - out), bound) << b << " " << h << " " << i << " " << d;
            const double scaled = out / args.stored_output.scale + args.stored_output.zero;
            const double tolerance = bound / args.stored_output.scale + 8 * kEps * 512;
            const double byte = bytes[static_cast<size_t>(at)];
            ASSERT_GE(byte, std::clamp(std::ceil(scaled - tolerance - 0.5), 0.0, 255.0));
            ASSERT_LE(byte, std::clamp(std::floor(scaled + tolerance + 0.5), 0.0, 255.0));
        }
    }
};
INSTANTIATE_TEST_SUITE_P(Isa, ByteAttention, testing::ValuesIn(levels()), [](const auto& info) {
    return info.param == Isa::avx512_vnni ? std::string("avx512_vnni") : std::string(to_string(info.param));
});

TEST_P(ByteAttention, SizesAndHeadDims) {
    for (int64_t queries : {1, 5, 6, 17})
        for (int64_t keys : {1, 2, 15, 16, 33, 64, 65, 130})
            for (int64_t dim : {4, 32, 64})
                check({.queries = queries, .keys = keys, .head_dim = dim, .value_dim = dim});
    check({.batch = 1, .queries = 197, .keys = 197, .head_dim = 64, .value_dim = 64});
    check({.batch = 1, .queries = 9, .keys = 512, .head_dim = 64, .value_dim = 64});
    check({.batch = 1, .queries = 9, .keys = 40, .head_dim = 128, .value_dim = 80});
    check({.batch = 1, .queries = 9, .keys = 40, .head_dim = 20, .value_dim = 17});
}

TEST_P(ByteAttention, FlatAndPeakedScores) {
    for (float step : {1e-4F, 5e-3F, 0.1F}) check({.queries = 13, .keys = 100, .step = step});
}

TEST_P(ByteAttention, MasksAndCausal) {
    for (int64_t queries : {1, 33})
        for (int mask : {1, 2}) {
            check({.queries = queries, .keys = 70, .mask = mask});
            for (int64_t offset : {-2, 0, 50})
                check({.queries = queries, .keys = 61, .mask = mask, .causal = true, .causal_offset = offset});
        }
    check({.queries = 40, .keys = 40, .causal = true});
}

TEST_P(ByteAttention, GroupedHeads) {
    check({.heads = 6, .kv_heads = 2, .queries = 20, .keys = 50});
}

TEST(ByteAttentionSizes, RefusesWhatWouldOverflow) {
    AttentionShape shape;
    shape.keys = 512, shape.head_dim = 64;
    EXPECT_TRUE(takes_byte_attention(shape));
    shape.keys = 513;
    EXPECT_FALSE(takes_byte_attention(shape));
    shape.keys = 512, shape.head_dim = 66;
    EXPECT_FALSE(takes_byte_attention(shape));
}

}  // namespace
}  // namespace planish::cpu
