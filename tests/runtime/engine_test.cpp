// Engine and Context: results, input checks, caching of programs, no allocation in run, threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <thread>

#include "backends/cpu/isa.hpp"
#include "base/log.hpp"
#include "base/thread_pool.hpp"
#include "plan/plan_io.hpp"
#include "planish/planish.hpp"
#include "runtime/engine_impl.hpp"

namespace {
std::atomic<bool> counting{false};
std::atomic<int> allocations{0};
}  // namespace

// Counts what run() allocates, on whichever thread. Never inlined: GCC would take malloc and free for a mismatch.
[[gnu::noinline]] void* operator new(size_t size) {
    if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
    if (void* p = std::malloc(size ? size : 1)) return p;
    throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
    if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
    return std::malloc(size ? size : 1);
}
[[gnu::noinline]] void* operator new(size_t size, std::align_val_t alignment) {
    if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1);
    const auto a = static_cast<size_t>(alignment);
    if (void* p = std::aligned_alloc(a, (size + a - 1) / a * a)) return p;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
    std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept {
    std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept {
    std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, size_t, std::align_val_t) noexcept {
    std::free(p);
}

namespace planish {
namespace {

using testing::HasSubstr;

Engine engine_of(std::string_view text, LoadOptions options = {}) {
    auto contents = std::make_shared<plan::PlanContents>();
    contents->graph = parse_graph(text);
    return load(Plan(contents, {}), options);
}

// y = relu(x W + b), W = [[1, 2], [3, 4], [5, 6]], b = [-10, 0.5]
constexpr std::string_view kDense = R"(graph "dense" {
    input %x : float32[N, 3]
    const %w : float32[3, 2] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    const %b : float32[2] = [-10.0, 0.5]
    %m = MatMul(%x, %w)
    %s = Add(%m, %b)
    %y = Relu(%s)
    output %y
})";

Tensor floats(std::vector<float> values, Dims dims) {
    return Tensor::from<float>(values, std::move(dims));
}

std::string error_of(const Engine& engine, const TensorMap& inputs) {
    try {
        engine.run(inputs);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        return error.what();
    }
    return "no error";
}

TEST(Engine, RunsForAnyBatch) {
    const Engine engine = engine_of(kDense);
    EXPECT_EQ(engine.inputs()[0].name, "x");
    EXPECT_THAT(engine.inputs()[0].shape, testing::ElementsAre("N", "3"));
    const Tensor y = engine.run({{"x", floats({1, 1, 1, 0, 1, 0}, {2, 3})}}).at("y");
    EXPECT_EQ(y.dims(), (Dims{2, 2}));
    EXPECT_THAT(y.to_doubles(), testing::ElementsAre(0, 12.5, 0, 4.5));
    EXPECT_EQ(engine.run({{"x", floats({1, 1, 1}, {1, 3})}}).at("y").dims(), (Dims{1, 2}));
    EXPECT_EQ(engine.info().programs, 2);
}

TEST(Engine, AgreesWithItsOwnReference) {
    LoadOptions reference;
    reference.only_reference = true;
    const TensorMap x = {{"x", floats({0.5f, -2, 3, 1, 7, 2}, {2, 3})}};
    EXPECT_EQ(engine_of(kDense).run(x).at("y").to_doubles(), engine_of(kDense, reference).run(x).at("y").to_doubles());
}

TEST(Engine, WritesIntoTheCallersMemory) {
    const Engine engine = engine_of(kDense);
    Context context = engine.create_context();
    float x[3] = {1, 1, 1}, y[2] = {};
    const NamedView in[] = {{"x", {DType::f32, {1, 3}, x}}};
    const NamedView out[] = {{"y", {DType::f32, {1, 2}, y}}};
    context.run(in, out);
    EXPECT_EQ(y[1], 12.5f);
    const auto views = context.run(in);
    EXPECT_EQ(static_cast<const float*>(views[0].data)[1], 12.5f);
    const NamedView wrong[] = {{"y", {DType::f32, {2, 2}, y}}};
    EXPECT_THROW(context.run(in, wrong), Error);
}

TEST(Engine, KnownShapesRunWithoutAllocating) {
    LoadOptions options;
    options.threads = 1;
    const Engine engine = engine_of(kDense, options);
    Context context = engine.create_context();
    float x[12] = {}, y[8] = {};
    const NamedView in1[] = {{"x", {DType::f32, {1, 3}, x}}}, out1[] = {{"y", {DType::f32, {1, 2}, y}}};
    const NamedView in4[] = {{"x", {DType::f32, {4, 3}, x}}}, out4[] = {{"y", {DType::f32, {4, 2}, y}}};
    for (int i = 0; i < 2; ++i) {
        context.run(in1, out1);
        context.run(in4, out4);
        context.run(in4);
    }
    allocations = 0;
    counting = true;
    for (int i = 0; i < 10; ++i) {
        context.run(in1, out1);
        context.run(in4, out4);
        context.run(in4);
    }
    counting = false;
    EXPECT_EQ(allocations.load(), 0);
}

TEST(Engine, ChecksWhatItIsFed) {
    const Engine engine = engine_of(R"(graph "two" {
        input %a : float32[N, 3, 4, 4]
        input %b : float32[N]
        %s = ReduceSum(%a) {keepdims = 0}
        %y = Add(%s, %b)
        output %y
    })");
    const Tensor a(DType::f32, {4, 3, 4, 4}), b(DType::f32, {4});
    EXPECT_NO_THROW(engine.run({{"a", a}, {"b", b}}));
    EXPECT_THAT(error_of(engine, {{"a", a}}), AllOf(HasSubstr("'b'"), HasSubstr("missing")));
    EXPECT_THAT(error_of(engine, {{"a", a}, {"b", b}, {"c", b}}), AllOf(HasSubstr("'c'"), HasSubstr("'a', 'b'")));
    EXPECT_THAT(error_of(engine, {{"a", Tensor(DType::f64, {4, 3, 4, 4})}, {"b", b}}),
                AllOf(HasSubstr("float64"), HasSubstr("expected float32"), HasSubstr("astype")));
    EXPECT_THAT(error_of(engine, {{"a", Tensor(DType::f32, {4, 4, 4, 3})}, {"b", b}}), HasSubstr("NHWC"));
    EXPECT_THAT(error_of(engine, {{"a", Tensor(DType::f32, {3, 4, 4})}, {"b", b}}), HasSubstr("x[None]"));
    EXPECT_THAT(error_of(engine, {{"a", Tensor(DType::f32, {4, 3, 4, 5})}, {"b", b}}), HasSubstr("axis 3"));
    EXPECT_THAT(error_of(engine, {{"a", a}, {"b", Tensor(DType::f32, {2})}}),
                AllOf(HasSubstr("'N' is 4 by axis 0 of 'a'"), HasSubstr("2 by axis 0 of 'b'")));
    // What failed leaves nothing behind.
    EXPECT_NO_THROW(engine.run({{"a", a}, {"b", b}}));
}

TEST(Engine, DevicesAndThreads) {
    EXPECT_THROW(engine_of(kDense, {.device = "cuda:0"}), Error);
    EXPECT_THROW(engine_of(kDense, {.device = "toaster"}), Error);
    EXPECT_THROW(engine_of(kDense, {.threads = -1}), Error);
    EXPECT_EQ(engine_of(kDense, {.threads = 1}).info().threads, 1);
    try {
        engine_of(kDense, {.device = "cuda:0"});
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
    }
}

TEST(Engine, KeepsABoundedNumberOfPrograms) {
    const Engine engine = engine_of(kDense, {.cached_shapes = 4});
    for (int64_t n = 1; n <= 40; ++n) {
        const Tensor y = engine.run({{"x", Tensor(DType::f32, {n, 3})}}).at("y");
        EXPECT_EQ(y.dim(0), n);
    }
    EXPECT_LE(engine.info().programs, 4);
}

// ---- tactics of the plan

Engine engine_with_tactics(std::vector<plan::Tactic> tactics, LoadOptions options = {}) {
    auto contents = std::make_shared<plan::PlanContents>();
    contents->graph = parse_graph(R"(graph "g" {
        input %x : float32[N, 8, 6, 6]
        const %w : float32[8, 8, 3, 3] = dense<0>
        %y = Conv(%x, %w) {pads = [1, 1, 1, 1]} name "conv"
        %z = Relu(%y) name "relu"
        output %z })");
    contents->profiles = {{{{1, 8, 6, 6}}, {{1, 8, 6, 6}}, {{8, 8, 6, 6}}}};
    contents->sections = {{runtime::find_device("cpu").target, std::move(tactics)}};
    return load(Plan(contents, {}), options);
}

std::vector<std::string> ops_of(const Engine& engine, int64_t batch) {
    std::vector<std::string> ops;
    for (const LayerRow& row : engine.layers(std::vector<Dims>{{batch, 8, 6, 6}}))
        if (row.op != "Reorder") ops.push_back(row.op);
    return ops;
}

TEST(Engine, ReplaysThePlansTacticsForTheShapesThatTheyHoldFor) {
    using testing::ElementsAre;
    EXPECT_THAT(ops_of(engine_with_tactics({}), 1), ElementsAre("Conv+Relu"));
    const Engine engine = engine_with_tactics({{"conv", "dissolve"}});
    EXPECT_THAT(ops_of(engine, 1), ElementsAre("Conv", "Relu"));
    EXPECT_THAT(ops_of(engine, 2), ElementsAre("Conv+Relu"));
    EXPECT_TRUE(engine.info().ignored_tactics.empty());
    const auto implementation = [](const char* tactic) {
        for (const LayerRow& row : engine_with_tactics({{"conv", tactic}}).layers(std::vector<Dims>{{1, 8, 6, 6}}))
            if (row.op == "Conv+Relu") return row.implementation;
        return std::string();
    };
    if (cpu::detect_isa() >= cpu::Isa::avx2) {
        EXPECT_THAT(implementation("conv_jit"), testing::StartsWith("conv_f32_3x3"));
        EXPECT_THAT(implementation("conv_winograd"), testing::StartsWith("conv_f32_winograd"));
    }
}

TEST(Engine, TacticsThatCannotBeAreIgnoredAndSaid) {
    using testing::ElementsAre;
    std::vector<std::string> logged;
    set_log_sink([&](LogLevel, std::string_view message) { logged.emplace_back(message); });
    const Engine engine =
        engine_with_tactics({{"conv", "conv_of_the_future"}, {"gone", "conv_jit"}, {"conv > relu", "pointwise_jit"}});
    set_log_sink({});
    EXPECT_THAT(ops_of(engine, 1), ElementsAre("Conv+Relu"));
    EXPECT_THAT(engine.info().ignored_tactics,
                testing::UnorderedElementsAre(HasSubstr("conv: conv_of_the_future"), HasSubstr("gone: conv_jit"),
                                              HasSubstr("conv > relu")));
    EXPECT_EQ(logged.size(), 3u);
    // One that exists, but not for this region.
    EXPECT_THAT(engine_with_tactics({{"conv", "depthwise_jit"}}).info().ignored_tactics,
                ElementsAre(HasSubstr("conv: depthwise_jit (")));
    LoadOptions reference;
    reference.only_reference = true;
    EXPECT_TRUE(engine_with_tactics({{"conv", "conv_jit"}}, reference).info().ignored_tactics.empty());
}

TEST(Engine, DataDependentShapesRunInTheInterpreter) {
    const Engine engine = engine_of(R"(graph "nonzero" {
        input %x : float32[N]
        %y = NonZero(%x)
        output %y
    })");
    const Tensor y = engine.run({{"x", floats({0, 5, 0, 7}, {4})}}).at("y");
    EXPECT_THAT(y.to_int64s(), testing::ElementsAre(1, 3));
    EXPECT_THAT(engine.info().interpreted, HasSubstr("NonZero"));
}

TEST(Engine, OutputsOfTheInterpreterAreTheCallersOwn) {
    const Engine engine = engine_of(R"(graph "pass" {
        input %x : float32[N]
        %y = Identity(%x)
        %n = NonZero(%x)
        output %y
        output %n
    })");
    Tensor x = floats({1, 2}, {2});
    const Tensor y = engine.run({{"x", x}}).at("y");
    EXPECT_NE(y.raw(), x.raw());
}

TEST(Engine, SurvivesItsHandles) {
    Context context = engine_of(kDense).create_context();
    EXPECT_EQ(context.run({{"x", floats({1, 1, 1}, {1, 3})}}).at("y").at_double(1), 12.5);
}

TEST(Engine, ContextsRunConcurrently) {
    const Engine engine = engine_of(kDense, {.cached_shapes = 3});
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            Context context = engine.create_context();
            for (int64_t i = 0; i < 60; ++i) {
                const int64_t n = 1 + (i + t) % 5;
                Tensor x(DType::f32, {n, 3});
                for (int64_t k = 0; k < x.size(); ++k) x.set_double(k, static_cast<double>(t + 1));
                const Tensor y = context.run({{"x", x}}).at("y");
                for (int64_t k = 0; k < n; ++k)
                    if (y.at_double(2 * k + 1) != 12.0 * (t + 1) + 0.5) ++wrong;
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong.load(), 0);
}

// However many engines and contexts a process has, its workers are one pool's, and they sleep when nothing runs.
TEST(Engine, AllEnginesShareOnePoolThatSleepsWhenIdle) {
    const auto workers = [] {
        int count = 0;
        for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
            std::ifstream file(task.path() / "comm");
            std::string name;
            count += std::getline(file, name) && name == "planish";
        }
        return count;
    };
    const Tensor x = Tensor::from<float>(std::vector<float>(512 * 3, 1), {512, 3});
    std::vector<Engine> engines;
    for (int i = 0; i < 4; ++i) engines.push_back(engine_of(kDense));
    {
        std::vector<std::jthread> callers;
        for (const Engine& engine : engines)
            callers.emplace_back([&] {
                for (int i = 0; i < 50; ++i) engine.run({{"x", x}});
            });
    }
    EXPECT_EQ(workers(), ThreadPool::process().size() - 1);

    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const std::clock_t before = std::clock();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_LT(double(std::clock() - before) / CLOCKS_PER_SEC, 0.01 * 0.5);
}

TEST(ProgramCache, CompilesOnceForAllThatWait) {
    runtime::ProgramCache cache(4);
    std::atomic<int> made{0};
    const std::vector<int64_t> key = {1, 2};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            auto make = [&]() -> std::shared_ptr<const runtime::Prepared> {
                ++made;
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                return std::make_shared<runtime::Prepared>();
            };
            EXPECT_NE(cache.get(key, make), nullptr);
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(made.load(), 1);
}

TEST(ProgramCache, AFailureIsNotKept) {
    runtime::ProgramCache cache(2);
    const std::vector<int64_t> key = {1};
    auto bad = []() -> std::shared_ptr<const runtime::Prepared> { fail(ErrorCode::unsupported, "no"); };
    auto good = [] { return std::make_shared<const runtime::Prepared>(); };
    EXPECT_THROW(cache.get(key, bad), Error);
    EXPECT_EQ(cache.find(key), nullptr);
    EXPECT_NE(cache.get(key, good), nullptr);
    EXPECT_NE(cache.find(key), nullptr);
}

}  // namespace
}  // namespace planish
