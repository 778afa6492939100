// The driver and the pipelines.
#include <algorithm>

#include "passes/pass_testing.hpp"
#include "planish/error.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kNetwork = R"(graph "net" {
  input %x : float32[N, 2, 4, 4]
  const %w : float32[2, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5]
  const %gamma : float32[2] = [2.0, 4.0]
  const %beta : float32[2] = [0.5, 1.0]
  const %mean : float32[2] = [1.0, 2.0]
  const %var : float32[2] = [3.0, 0.2]
  const %zero : int64[] = [0]
  const %axis : int64[1] = [0]
  const %rest : int64[1] = [-1]
  %c = Conv(%x, %w) name "conv"
  %b = BatchNormalization(%c, %gamma, %beta, %mean, %var) name "bn"
  %g = Sigmoid(%b) name "sigmoid"
  %a = Mul(%b, %g) name "mul"
  %shape = Shape(%a) name "shape"
  %n = Gather(%shape, %zero) name "n"
  %n1 = Unsqueeze(%n, %axis) name "n1"
  %target = Concat(%n1, %rest) {axis = 0} name "target"
  %y = Reshape(%a, %target) name "flatten"
  output %y
})";

TEST(Pipeline, EveryPassHasItsReasonAndNoNameIsEmpty) {
    for (std::span<const Pass> passes : {portable_pipeline(), specialise_pipeline()})
        for (const Pass& pass : passes) {
            EXPECT_FALSE(pass.name.empty());
            EXPECT_FALSE(pass.why.empty()) << pass.name;
            EXPECT_NE(pass.run, nullptr) << pass.name;
        }
}

TEST(Pipeline, PortableThenSpecialisedComputeTheSame) {
    const auto before = parse_graph(kNetwork);
    auto graph = parse_graph(kNetwork);
    run(*graph, portable_pipeline());
    expect_same_results(*before, *graph, 16 * kUlp, 2);
    for (int64_t n : {1, 3}) {
        const auto bound = specialise(*graph, {{n, 2, 4, 4}});
        check(*bound);
        ASSERT_EQ(bound->nodes().size(), 2u) << print(*bound);  // one region, one Reshape
        for (const Value* value : bound->values()) EXPECT_TRUE(value->has_static_shape());
        expect_same_results(*before, *bound, 16 * kUlp, n);
    }
}

TEST(Pipeline, SpecialiseRefusesShapesThatContradictTheModel) {
    const auto graph = parse_graph(R"(graph "g" {
  input %a : float32[N, 3]
  input %b : float32[N, 3]
  %y = Add(%a, %b) name "y"
  output %y
})");
    EXPECT_THROW(specialise(*graph, {{1, 3}}), Error);
    EXPECT_THROW(specialise(*graph, {{1, 4}, {1, 4}}), Error);
    EXPECT_THROW(specialise(*graph, {{1, 3}, {2, 3}}), Error);
    EXPECT_THROW(specialise(*graph, {{3}, {3}}), Error);
    EXPECT_NO_THROW(specialise(*graph, {{2, 3}, {2, 3}}));
}

TEST(Driver, DisablesDumpsCountsAndStops) {
    auto graph = parse_graph(kNetwork);
    std::vector<std::string> dumped;
    PassOptions options;
    options.disabled = {"fold-batch-norm"};
    options.dump_after = {"fold-shapes"};
    options.dump = [&](std::string_view pass, const Graph&) { dumped.emplace_back(pass); };
    const auto reports = run(*graph, portable_pipeline(), options);
    EXPECT_EQ(reports.size(), portable_pipeline().size());
    EXPECT_EQ(dumped, std::vector<std::string>{"fold-shapes"});
    EXPECT_TRUE(std::any_of(graph->nodes().begin(), graph->nodes().end(),
                            [](const auto& node) { return node->is("BatchNormalization"); }));
    options = {};
    options.stop_after = 2;
    EXPECT_EQ(run(*parse_graph(kNetwork), portable_pipeline(), options).size(), 2u);
}

TEST(Driver, NamesUnknownAndGuiltyPasses) {
    auto graph = parse_graph(kNetwork);
    PassOptions options;
    options.disabled = {"fold-everything"};
    EXPECT_THROW(run(*graph, portable_pipeline(), options), Error);
    const Pass guilty{"break-things", "to see the checker name it", [](Graph& g) {
                          g.node_list().front()->attributes["nonsense"] = int64_t{1};
                          return 1;
                      }};
    try {
        run(*graph, std::span(&guilty, 1));
        FAIL() << "the checker let a broken graph pass";
    } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("break-things"), std::string::npos) << error.what();
    }
}

TEST(Driver, RunsInsideTheBodiesOfControlFlow) {
    auto graph = parse_graph(R"(graph "g" {
  input %c : bool[]
  input %x : float32[2]
  %y = If(%c, %x) {captures = 1, then_branch = graph "t" {
    input %x : float32[2]
    %a = Identity(%x) name "a"
    %r = Relu(%a) name "r"
    output %r
  }, else_branch = graph "e" {
    input %x : float32[2]
    %n = Neg(%x) name "n"
    output %n
  }} name "if"
  output %y
})");
    const Pass pass{"simplify-identities", "", simplify_identities};
    EXPECT_EQ(run(*graph, std::span(&pass, 1))[0].changes, 1);
}

}  // namespace
}  // namespace planish::passes::testing
