// Tuning for a GPU that is not there, with made-up times: every candidate's program is compiled, several at once.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/cuda/library.hpp"
#include "passes/pass.hpp"
#include "tuner/tuner.hpp"

namespace planish::cuda {
namespace {

/// One convolution is said to be twice as fast as all others.
class OddStopwatch final : public tuner::Stopwatch {
  public:
    explicit OddStopwatch(std::string fast) : fast_(std::move(fast)) {}
    std::vector<std::vector<double>> time(const Program& program, int runs) override {
        ++programs;
        std::vector<double> row;
        for (const StepInfo& step : program.steps())
            row.push_back(step.implementation.ends_with(fast_)       ? 1e-3
                          : step.implementation.starts_with("conv_") ? 2e-3
                                                                     : 1e-6);
        return std::vector<std::vector<double>>(static_cast<size_t>(runs), row);
    }
    double now() const override { return 0; }
    int programs = 0;

  private:
    std::string fast_;
};

TEST(CudaTuning, CandidatesAreCompiledAndTheFastestIsTaken) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    auto graph = parse_graph(R"(graph "g" { input %x : float32[1, 64, 14, 14]
        const %w1 : float32[128, 64, 3, 3] = dense<0> const %w2 : float32[64, 128, 1, 1] = dense<0>
        %a = Conv(%x, %w1) {pads = [1, 1, 1, 1]} name "first" %b = Relu(%a) name "relu"
        %c = Conv(%b, %w2) name "second" output %c })");
    passes::form_regions(*graph);
    CompileOptions options;
    options.target = "cuda:sm_80";
    options.precision = "fp16";
    options.list_candidates = true;
    tuner::TuneOptions how;
    how.machine = "test";
    tuner::TimingCache cache;
    auto untuned = cuda_backend().compile(graph->clone(), options);
    const RegionInfo first = untuned->regions().front();
    const auto wanted = std::find_if(first.candidates.rbegin(), first.candidates.rend(),
                                     [](const std::string& name) { return name.starts_with("mma:"); });
    ASSERT_NE(wanted, first.candidates.rend());
    ASSERT_NE(*wanted, first.tactic);
    OddStopwatch stopwatch("_mma_" + wanted->substr(4));
    const auto tuned = tuner::tune(std::move(untuned), *graph, cuda_backend(), options, how, stopwatch, cache);
    EXPECT_GT(stopwatch.programs, 5);
    EXPECT_EQ(tuned.tactics.at(first.path), *wanted);
}

}  // namespace
}  // namespace planish::cuda
