// Real kernels under concurrency: engines side by side, one shape compiled by several threads, and memory that stays
// flat over many shapes. Names begin with "Engine": ThreadSanitizer runs these.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "plan/plan_io.hpp"
#include "planish/planish.hpp"

namespace planish {
namespace {

// Every family of generated code: convolution (direct, 1x1, Winograd, depthwise), product, attention, row kernels.
constexpr std::string_view kImages = R"(graph "images" {
    input %x : float32[N, 3, H, H]
    const %w0 : float32[8, 3, 3, 3] = dense<0>
    const %w1 : float32[8, 1, 3, 3] = dense<0>
    const %w2 : float32[16, 8, 1, 1] = dense<0>
    const %w3 : float32[16, 16, 3, 3] = dense<0>
    %a = Conv(%x, %w0) {pads = [1, 1, 1, 1], strides = [2, 2]}
    %b = Conv(%a, %w1) {pads = [1, 1, 1, 1], group = 8}
    %c = Relu(%b)
    %d = Conv(%c, %w2)
    %e = Sigmoid(%d)
    %f = Conv(%e, %w3) {pads = [1, 1, 1, 1]}
    %g = MaxPool(%f) {kernel_shape = [2, 2], strides = [2, 2]}
    %y = GlobalAveragePool(%g)
    output %y
})";

constexpr std::string_view kTokens = R"(graph "tokens" {
    input %x : float32[N, S, 32]
    const %w : float32[32, 48] = dense<0>
    const %v : float32[48, 32] = dense<0>
    const %s : float32[32] = dense<0>
    %a = MatMul(%x, %w)
    %b = Gelu(%a)
    %c = MatMul(%b, %v)
    %d = Add(%c, %x)
    %e = LayerNormalization(%d, %s)
    %t = Transpose(%e) {perm = [0, 2, 1]}
    %q = MatMul(%e, %t)
    %p = Softmax(%q)
    %y = MatMul(%p, %e)
    output %y
})";

Tensor random_tensor(Dims dims, uint32_t seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
    Tensor t(DType::f32, std::move(dims));
    for (int64_t i = 0; i < t.size(); ++i) t.set_double(i, uniform(random));
    return t;
}

Engine engine_of(std::string_view text, const LoadOptions& options) {
    auto contents = std::make_shared<plan::PlanContents>();
    contents->graph = parse_graph(text);
    uint32_t seed = 1;
    for (Value* value : contents->graph->values())
        if (value->is_constant() && value->constant->dtype() == DType::f32)
            value->constant = std::make_shared<Tensor>(random_tensor(value->constant->dims(), seed++));
    return load(Plan(contents, {}), options);
}

bool equal_bits(const Tensor& a, const Tensor& b) {
    return a.dims() == b.dims() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

struct Case {
    Tensor x, expected;
};

// Inputs of a few shapes with what a lone, single-threaded engine makes of them.
std::vector<Case> cases(std::string_view text, const std::vector<Dims>& shapes) {
    const Engine alone = engine_of(text, {.threads = 1});
    std::vector<Case> result;
    for (const Dims& dims : shapes) {
        const Tensor x = random_tensor(dims, 7);
        result.push_back({x, alone.run({{"x", x}}).at("y")});
    }
    return result;
}

const std::vector<Dims> kImageShapes = {{1, 3, 16, 16}, {2, 3, 12, 12}, {1, 3, 33, 33}};
const std::vector<Dims> kTokenShapes = {{1, 5, 32}, {3, 17, 32}, {2, 40, 32}};

TEST(Engine, SeveralEnginesRunAtOnce) {
    const auto images = cases(kImages, kImageShapes), tokens = cases(kTokens, kTokenShapes);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            const auto& own = t % 2 ? tokens : images;
            const Engine engine = engine_of(t % 2 ? kTokens : kImages, {.threads = 1 + t / 2});
            for (int round = 0; round < 3; ++round)
                for (const Case& c : own)
                    if (!equal_bits(engine.run({{"x", c.x}}).at("y"), c.expected)) ++wrong;
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong.load(), 0);
}

TEST(Engine, ThreadsThatMeetANewShapeTogetherAgree) {
    const auto images = cases(kImages, kImageShapes), tokens = cases(kTokens, kTokenShapes);
    for (const auto& [text, expected] : {std::pair(kImages, &images), std::pair(kTokens, &tokens)}) {
        const Engine engine = engine_of(text, {});
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([&] {
                Context context = engine.create_context();
                for (const Case& c : *expected)  // all threads in one order: they meet at each new shape
                    if (!equal_bits(context.run({{"x", c.x}}).at("y"), c.expected)) ++wrong;
            });
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(wrong.load(), 0);
        EXPECT_EQ(engine.info().programs, static_cast<int>(expected->size()));
    }
}

TEST(Engine, ManyShapesKeepMemoryFlat) {
    const Engine engine = engine_of(kTokens, {.threads = 1, .cached_shapes = 4});
    int64_t packed = 0;
    for (int64_t s = 1; s <= 200; ++s) {
        engine.run({{"x", random_tensor({1, s, 32}, 3)}});
        const EngineInfo info = engine.info();
        EXPECT_LE(info.programs, 4);
        if (s == 8) packed = info.packed_bytes;
        if (s > 8) {
            ASSERT_LE(info.packed_bytes, packed) << "after " << s << " shapes";
        }
    }
    EXPECT_GT(packed, 0);
}

}  // namespace
}  // namespace planish
