// The tuner's choices, with times made up by the test: a region takes what its kernels are said to take.
#include "tuner/tuner.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/thread_pool.hpp"
#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish::tuner {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

// Three 3x3 convolutions with their activations, a product with its. The first convolution reads a row-major input, the
// others are equal: three kinds of regions.
constexpr std::string_view kNetwork = R"(graph "g" {
    input %x : float32[1, 8, 12, 12]
    const %w1 : float32[8, 8, 3, 3] = dense<0>
    const %w2 : float32[8, 8, 3, 3] = dense<0>
    const %w4 : float32[8, 8, 3, 3] = dense<0>
    const %w3 : float32[12, 12] = dense<0>
    %a = Conv(%x, %w1) {pads = [1, 1, 1, 1]} name "conv1"
    %b = Relu(%a) name "relu1"
    %c = Conv(%b, %w2) {pads = [1, 1, 1, 1]} name "conv2"
    %d = Relu(%c) name "relu2"
    %c2 = Conv(%d, %w4) {pads = [1, 1, 1, 1]} name "conv3"
    %d2 = Relu(%c2) name "relu3"
    %e = MatMul(%d2, %w3) name "fc"
    %f = Sigmoid(%e) name "act"
    output %f })";

/// Seconds of a step, made up from what it is.
using Price = std::function<double(const StepInfo&)>;

class FakeStopwatch final : public Stopwatch {
  public:
    explicit FakeStopwatch(Price price) : price_(std::move(price)) {}
    std::vector<std::vector<double>> time(const Program& program, int runs) override {
        ++calls;
        std::vector<double> row;
        for (const StepInfo& step : program.steps()) row.push_back(price_(step));
        clock_ += 1;
        return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
    }
    double now() const override { return clock_; }
    int calls = 0;

  private:
    Price price_;
    double clock_ = 0;
};

Price by_kernel(std::map<std::string, double> prices) {
    return [prices = std::move(prices)](const StepInfo& step) {
        for (const auto& [prefix, seconds] : prices)
            if (step.implementation.starts_with(prefix)) return seconds;
        return 1e-3;
    };
}

struct Bench {
    std::unique_ptr<Graph> graph;
    CompileOptions options;
    TuneOptions how;
    TimingCache cache;

    explicit Bench(std::string_view text = kNetwork) {
        graph = parse_graph(text);
        passes::form_regions(*graph);
        options.target = "cpu:avx2";
        options.threads = 1;
        options.list_candidates = true;
        options.disabled = {"conv_winograd2x2"};  // two implementations of a convolution are enough to choose from
        how.machine = "test";
    }
    Tuned tune(Stopwatch& stopwatch) {
        return tuner::tune(cpu_backend().compile(graph->clone(), options), *graph, cpu_backend(), options, how,
                           stopwatch, cache);
    }
    Tuned tune(const Price& price) {
        FakeStopwatch stopwatch(price);
        return tune(stopwatch);
    }
};

std::vector<std::string> kernels(const Program& program) {
    std::vector<std::string> names;
    for (const StepInfo& step : program.steps())
        names.push_back(step.op + ":" + step.implementation.substr(0, step.implementation.find('_')));
    return names;
}

const TacticRow& row_of(const Tuned& tuned, const std::string& region) {
    for (const TacticRow& row : tuned.rows)
        if (row.region == region) return row;
    throw std::runtime_error("no row of " + region);
}

TEST(Tuner, EqualTimesLeaveTheDefault) {
    Bench bench;
    const Tuned tuned = bench.tune([](const StepInfo&) { return 1e-3; });
    EXPECT_THAT(tuned.tactics, IsEmpty());
    EXPECT_EQ(kernels(*tuned.program), kernels(*cpu_backend().compile(bench.graph->clone(), bench.options)));
    EXPECT_EQ(tuned.timed, 3);
    EXPECT_EQ(bench.cache.entries().size(), 3u);
    EXPECT_EQ(row_of(tuned, "conv2").seconds, row_of(tuned, "conv3").seconds);
    EXPECT_EQ(row_of(tuned, "conv1").chosen, row_of(tuned, "conv1").seconds[0].first);
}

TEST(Tuner, TakesTheImplementationThatIsFasterInItsPlace) {
    for (const auto& [slow, fast] :
         {std::pair("conv_f32_3x3", "conv_winograd"), std::pair("conv_f32_wino", "conv_jit")}) {
        Bench bench;
        const Tuned tuned = bench.tune(by_kernel({{slow, 2e-3}, {"pointwise", 5e-3}}));
        EXPECT_EQ(row_of(tuned, "conv1").chosen, fast);
        EXPECT_EQ(row_of(tuned, "conv2").chosen, fast);
        for (const RegionInfo& region : tuned.program->regions())
            if (region.path.starts_with("conv")) {
                EXPECT_EQ(region.tactic, fast);
            }
    }
}

TEST(Tuner, AGainWithinTheNoiseIsNone) {
    Bench bench;
    const std::string standard = cpu_backend().compile(bench.graph->clone(), bench.options)->regions()[0].tactic;
    const std::string prefix = standard == "conv_winograd" ? "conv_f32_wino" : "conv_f32_3x3";
    EXPECT_THAT(bench.tune(by_kernel({{prefix, 1.02e-3}})).tactics, IsEmpty());
    Bench other;
    EXPECT_THAT(other.tune(by_kernel({{prefix, 1.10e-3}})).tactics, testing::SizeIs(3));
}

TEST(Tuner, AGainBelowTheNoiseThatWasSeenIsNone) {
    for (const double noise : {0.05, 0.5}) {
        // All turns but the first (of two calls for each of five programs) are slower.
        class Noisy final : public Stopwatch {
          public:
            explicit Noisy(double noise) : noise_(noise) {}
            std::vector<std::vector<double>> time(const Program& program, int runs) override {
                std::vector<double> row;
                for (const StepInfo& step : program.steps())
                    row.push_back((step.op == "MatMul+Sigmoid" ? 9e-4 : 4e-4) * (calls_ < 10 ? 1 : 1 + noise_));
                ++calls_;
                return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
            }
            double now() const override { return 0; }

          private:
            double noise_;
            int calls_ = 0;
        } noisy(noise);
        Bench bench;
        const Tuned tuned = bench.tune(noisy);
        EXPECT_EQ(row_of(tuned, "fc").chosen == "dissolve", noise < 0.1) << noise;
    }
}

TEST(Tuner, MoreTurnsTellAGainFromNoise) {
    // The first turn alone is undisturbed, until the fifth is over.
    class Disturbed final : public Stopwatch {
      public:
        std::vector<std::vector<double>> time(const Program& program, int runs) override {
            std::vector<double> row;
            for (const StepInfo& step : program.steps())
                row.push_back((step.op == "MatMul+Sigmoid" ? 9e-4 : 4e-4) * (calls_ < 10 || calls_ >= 30 ? 1 : 1.5));
            ++calls_;
            return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
        }
        double now() const override { return 0; }

      private:
        int calls_ = 0;
    } disturbed;
    Bench bench;
    EXPECT_EQ(row_of(bench.tune(disturbed), "fc").chosen, "dissolve");
}

// The product's epilogue costs more than product and activation one by one.
double dear_epilogue(const StepInfo& step) {
    return step.op == "MatMul+Sigmoid" ? 9e-3 : 1e-3;
}

TEST(Tuner, AFusionIsKeptOnlyWhereItIsFaster) {
    Bench bench;
    const Tuned tuned = bench.tune(dear_epilogue);
    EXPECT_THAT(tuned.tactics, ElementsAre(Pair("fc", "dissolve")));
    const TacticRow& row = row_of(tuned, "fc");
    EXPECT_EQ(row.chosen, "dissolve");
    ASSERT_EQ(row.seconds.back().first, "dissolve");
    // The parts' sum instead of the region; reorders cost the same in both.
    EXPECT_NEAR(row.seconds[0].second - row.seconds.back().second, 9e-3 - 2e-3, 1e-9);
    EXPECT_THAT(kernels(*tuned.program), testing::IsSupersetOf({"MatMul:gemm", "Sigmoid:pointwise"}));
    // The whole network was asked too.
    EXPECT_EQ(row_of(tuned, "(network)").chosen, "tuned");
}

TEST(Tuner, PartsOfADissolvedRegionAreTunedInTurn) {
    Bench bench;
    const Tuned tuned = bench.tune([](const StepInfo& step) {
        if (step.op == "Conv+Relu") return 9e-3;
        return step.implementation.starts_with("conv_f32_wino") ? 1e-3 : step.op == "Conv" ? 3e-3 : 0.5e-3;
    });
    EXPECT_EQ(row_of(tuned, "conv1").chosen, "dissolve");
    EXPECT_EQ(row_of(tuned, "conv1 > conv1").chosen, "conv_winograd");
    int winograd = 0;
    for (const StepInfo& step : tuned.program->steps()) winograd += step.implementation.starts_with("conv_f32_wino");
    EXPECT_EQ(winograd, 3);
}

TEST(Tuner, ReordersAreChargedToTheRegionsThatCauseThem) {
    Bench bench;
    const Tuned plain = bench.tune([](const StepInfo&) { return 1e-3; });
    Bench priced;
    const Tuned dear = priced.tune([](const StepInfo& step) { return step.op == "Reorder" ? 5e-3 : 1e-3; });
    // The product reads row-major what a convolution left channels-last: both pay.
    EXPECT_GT(row_of(dear, "fc").seconds[0].second, row_of(plain, "fc").seconds[0].second + 3e-3);
    EXPECT_GT(row_of(dear, "conv2").seconds[0].second, row_of(plain, "conv2").seconds[0].second + 1e-3);
}

TEST(Tuner, ANetworkThatIsSlowerAsAWholeKeepsItsDefaults) {
    Bench bench;
    int whole = 0;
    // Once "fc" is dissolved all over the place, something else becomes slow: only the comparison of networks sees it.
    class Fickle final : public Stopwatch {
      public:
        explicit Fickle(int& whole) : whole_(whole) {}
        std::vector<std::vector<double>> time(const Program& program, int runs) override {
            std::vector<double> row;
            bool dissolved = false, winograd = false;
            for (const StepInfo& step : program.steps()) {
                dissolved = dissolved || step.op == "Sigmoid";
                winograd = winograd || step.op == "Relu";  // a round that dissolves everything
            }
            for (const StepInfo& step : program.steps())
                row.push_back(dear_epilogue(step) + (dissolved && !winograd && step.op == "Conv+Relu" ? 1 : 0));
            whole_ += dissolved && !winograd;
            return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
        }
        double now() const override { return 0; }

      private:
        int& whole_;
    } fickle(whole);
    const Tuned tuned = bench.tune(fickle);
    EXPECT_GT(whole, 0);
    EXPECT_THAT(tuned.tactics, IsEmpty());
    EXPECT_EQ(row_of(tuned, "fc").chosen, row_of(tuned, "fc").seconds[0].first);
    EXPECT_EQ(row_of(tuned, "(network)").chosen, "default");
    // The same from the cache.
    const Tuned again = bench.tune(fickle);
    EXPECT_THAT(again.tactics, IsEmpty());
}

// A chain of convolutions too small to be one region by estimate: by default its links run one by one.
TEST(Tuner, ARegionThatIsDissolvedByDefaultMayBecomeWhole) {
    for (const bool pays : {true, false}) {
        Bench bench(R"(graph "g" {
            input %x : float32[1, 8, 8, 8]
            const %w1 : float32[16, 8, 1, 1] = dense<0>
            const %w2 : float32[16, 1, 3, 3] = dense<0>
            const %w3 : float32[8, 16, 1, 1] = dense<0>
            %e = Conv(%x, %w1) name "expand"
            %r = Relu(%e) name "relu"
            %d = Conv(%r, %w2) {group = 16, pads = [1, 1, 1, 1]} name "depthwise"
            %p = Conv(%d, %w3) name "project"
            output %p })");
        passes::chain_convolutions(*bench.graph);
        ASSERT_EQ(bench.graph->nodes().size(), 1u);
        const Tuned tuned = bench.tune(
            [&](const StepInfo& step) { return step.op == "Conv+Relu+Conv+Conv" ? (pays ? 1e-3 : 9e-3) : 1e-3; });
        const TacticRow& row = row_of(tuned, "depthwise");
        EXPECT_EQ(row.seconds[0].first, "dissolve");
        EXPECT_EQ(row.chosen, pays ? "conv_chain" : "dissolve");
        // Parts are tuned once it is certain that they stay parts.
        const bool parts = std::any_of(tuned.rows.begin(), tuned.rows.end(),
                                       [](const TacticRow& r) { return r.region == "depthwise > expand"; });
        EXPECT_EQ(parts, !pays);
        for (const TacticRow& r : tuned.rows)
            for (const auto& [tactic, seconds] : r.seconds) EXPECT_GT(seconds, 0) << r.region << " " << tactic;
    }
}

// Convolutions gain by another implementation; that the product is dissolved costs the network more than it gains.
TEST(Tuner, ANetworkThatLosesByDissolvingKeepsItsOtherChoices) {
    class Mixed final : public Stopwatch {
      public:
        std::vector<std::vector<double>> time(const Program& program, int runs) override {
            bool whole = true;  // no convolution is dissolved
            for (const StepInfo& step : program.steps()) whole = whole && step.op != "Relu";
            std::vector<double> row;
            for (const StepInfo& step : program.steps())
                row.push_back(step.op == "Sigmoid" && whole                ? 1
                              : step.op == "Conv+Relu" && is_default(step) ? 3e-3
                                                                           : dear_epilogue(step));
            return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
        }
        double now() const override { return 0; }
        static bool is_default(const StepInfo& step) {
            static const std::string kernel = [] {
                const Bench bench;
                for (const StepInfo& s : cpu_backend().compile(bench.graph->clone(), bench.options)->steps())
                    if (s.op == "Conv+Relu") return s.implementation;
                return std::string();
            }();
            return step.implementation == kernel;
        }
    } mixed;
    Bench bench;
    const Tuned tuned = bench.tune(mixed);
    EXPECT_EQ(row_of(tuned, "(network)").chosen, "fused");
    EXPECT_EQ(row_of(tuned, "(network)").seconds.size(), 3u);
    EXPECT_EQ(tuned.tactics.size(), 3u);
    EXPECT_EQ(row_of(tuned, "conv1").chosen, tuned.tactics.at("conv1"));
    EXPECT_NE(row_of(tuned, "conv1").chosen, row_of(tuned, "conv1").seconds[0].first);
    EXPECT_EQ(row_of(tuned, "fc").chosen, row_of(tuned, "fc").seconds[0].first);
    bench.how.replay_only = true;
    EXPECT_EQ(bench.tune(mixed).tactics, tuned.tactics);
}

TEST(Tuner, TheCacheAnswersWithoutTiming) {
    Bench bench;
    FakeStopwatch first(dear_epilogue), second(dear_epilogue);
    const Tuned timed = bench.tune(first);
    EXPECT_GT(first.calls, 0);
    const std::string text = bench.cache.text();
    const Tuned replayed = bench.tune(second);
    EXPECT_EQ(second.calls, 0);
    EXPECT_EQ(replayed.tactics, timed.tactics);
    EXPECT_EQ(replayed.timed, 0);
    EXPECT_EQ(replayed.replayed, timed.timed);
    EXPECT_EQ(bench.cache.text(), text);
    EXPECT_EQ(kernels(*replayed.program), kernels(*timed.program));
    for (const TacticRow& row : replayed.rows) EXPECT_TRUE(row.from_cache);
    // Through its text, too.
    bench.cache = TimingCache::parse(text, "text");
    bench.how.replay_only = true;
    EXPECT_EQ(bench.tune(second).tactics, timed.tactics);
    EXPECT_EQ(second.calls, 0);
}

// A backend that waits for a second compilation to come while one is under way.
TEST(Tuner, CandidatesAreCompiledAtOnceWhereTheBackendSaysSo) {
    if (ThreadPool::process().size() < 2) GTEST_SKIP() << "one thread";
    class Slow final : public Backend {
      public:
        std::string_view name() const override { return "slow"; }
        int concurrent_compilations() const override { return 2; }
        std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph, const CompileOptions& options) const override {
            int now = ++under_way;
            for (int i = 0; i < 200 && now < 2; ++i) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                now = std::max(now, under_way.load());
            }
            int before = most;
            while (before < now && !most.compare_exchange_weak(before, now)) {
            }
            auto program = cpu_backend().compile(std::move(graph), options);
            --under_way;
            return program;
        }
        Roofline measure_roofline(const std::string&, int, int64_t) const override { return {}; }
        mutable std::atomic<int> under_way{0}, most{0};
    };
    const auto price = by_kernel({{"conv_f32_3x3", 2e-3}, {"conv_f32_wino", 1e-3}, {"gemm", 3e-3}});
    Bench one, other;
    const Slow slow;
    FakeStopwatch stopwatch(price);
    const std::thread::id caller = std::this_thread::get_id();
    other.how.progress = [&](std::string_view, double) { EXPECT_EQ(std::this_thread::get_id(), caller); };
    const Tuned together = tuner::tune(cpu_backend().compile(other.graph->clone(), other.options), *other.graph, slow,
                                       other.options, other.how, stopwatch, other.cache);
    EXPECT_EQ(slow.most, 2);
    EXPECT_EQ(together.tactics, one.tune(price).tactics);
    EXPECT_EQ(other.cache.text(), one.cache.text());
}

TEST(Tuner, ReplayOnlyFailsOnAMissAndNamesTheRegion) {
    Bench bench;
    bench.tune(dear_epilogue);
    bench.how.replay_only = true;
    EXPECT_NO_THROW(bench.tune(dear_epilogue));
    for (const auto& [what, name] : {std::pair("MatMul", "'fc'"), std::pair("network", "network")}) {
        Bench holey = Bench();
        holey.cache = bench.cache;
        holey.how = bench.how;
        EXPECT_GT(
            holey.cache.remove_if([&](const std::string&, const Timing& t) { return t.region.starts_with(what); }), 0);
        try {
            holey.tune(dear_epilogue);
            ADD_FAILURE() << what;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::not_found);
            EXPECT_THAT(error.message(), HasSubstr(name));
        }
    }
}

TEST(Tuner, AnotherMachineIsAMiss) {
    Bench bench;
    bench.tune(dear_epilogue);
    bench.how.machine = "another";
    EXPECT_EQ(bench.tune(dear_epilogue).replayed, 0);
}

TEST(Tuner, MoreEffortTimesAgain) {
    Bench bench;
    bench.tune(dear_epilogue);
    bench.how.effort = 3;
    const Tuned tuned = bench.tune(dear_epilogue);
    EXPECT_EQ(tuned.timed, 4);  // a part of the dissolved product, too
    bench.how.effort = 1;
    EXPECT_EQ(bench.tune(dear_epilogue).timed, 0);
}

TEST(Tuner, TheBudgetEndsTheTimingAndWhatIsMissingIsSaid) {
    Bench bench;
    bench.how.budget = 0;
    const Tuned none = bench.tune(dear_epilogue);
    EXPECT_EQ(none.missed, 3);
    EXPECT_EQ(none.timed, 0);
    EXPECT_THAT(none.tactics, IsEmpty());
    EXPECT_TRUE(bench.cache.entries().empty());
    EXPECT_TRUE(row_of(none, "fc").seconds.empty());
    // Enough for one turn of each program and no more.
    bench.how.budget = 11;
    EXPECT_EQ(bench.tune(dear_epilogue).timed, 3);
    for (const auto& [key, timing] : bench.cache.entries())
        if (timing.region != "network") {
            EXPECT_EQ(timing.turns, 1);
        }
}

TEST(Tuner, WithoutMeasuringTheDefaultStays) {
    Bench bench;
    bench.how.measure = false;
    FakeStopwatch stopwatch(dear_epilogue);
    const Tuned tuned = bench.tune(stopwatch);
    EXPECT_EQ(stopwatch.calls, 0);
    EXPECT_EQ(tuned.missed, 3);
    EXPECT_THAT(tuned.tactics, IsEmpty());
}

TEST(Tuner, ANetworkThatDoesNotRunIsLeftAsItIs) {
    class Broken final : public Stopwatch {
      public:
        std::vector<std::vector<double>> time(const Program&, int) override { throw CannotMeasure("index 7 of 3"); }
        double now() const override { return 0; }
    } broken;
    Bench bench;
    const Tuned tuned = bench.tune(broken);
    EXPECT_EQ(tuned.failure, "index 7 of 3");
    EXPECT_THAT(tuned.tactics, IsEmpty());
    EXPECT_NE(tuned.program, nullptr);
}

// Parts that have no kernel would be timed in the interpreter for nothing.
TEST(Tuner, APartThatOnlyTheInterpreterRunsIsNoCandidate) {
    Bench bench(R"(graph "g" { input %x : float32[4, 64] input %y : float32[4, 64]
        %m = Less(%x, %y) name "less" %z = Where(%m, %x, %y) name "where" output %z })");
    bool interpreted = false;
    const Tuned tuned = bench.tune([&](const StepInfo& step) {
        interpreted = interpreted || step.implementation.starts_with("reference.");
        return 1e-3;
    });
    EXPECT_FALSE(interpreted);
    EXPECT_THAT(tuned.tactics, IsEmpty());
}

TEST(Tuner, RealStopwatchTimesEveryStep) {
    Bench bench;
    const auto program = cpu_backend().compile(bench.graph->clone(), bench.options);
    const auto stopwatch = make_stopwatch({Tensor(DType::f32, {1, 8, 12, 12})}, 1);
    const auto seconds = stopwatch->time(*program, 3);
    ASSERT_EQ(seconds.size(), 3u);
    for (const auto& run : seconds) {
        EXPECT_EQ(run.size(), program->steps().size());
        for (const double step : run) EXPECT_GE(step, 0);
    }
    EXPECT_THAT(describe_machine("cpu:avx2", 1), testing::EndsWith(", cpu:avx2, 1 thread"));
}

}  // namespace
}  // namespace planish::tuner
