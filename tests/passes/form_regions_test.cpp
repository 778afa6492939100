// Form regions: golden and metamorphic tests; the whole pipeline on small networks.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// A residual block: two convolutions, bias and activation, the sum, then a point-wise tail.
constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  const %w1 : float32[2, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5]
  const %w2 : float32[2, 2, 1, 1] = [0.5, -1.0, 1.0, 0.25]
  const %b : float32[2, 1, 1] = [0.5, -0.5]
  const %low : float32[] = [0.0]
  const %high : float32[] = [6.0]
  %c1 = Conv(%x, %w1) name "conv1"
  %a1 = Add(%c1, %b) name "bias1"
  %r1 = Clip(%a1, %low, %high) name "relu6"
  %c2 = Conv(%r1, %w2) name "conv2"
  %sum = Add(%x, %c2) name "sum"
  %e = Exp(%sum) name "exp"
  %s = Sigmoid(%x) name "gate"
  %t = Tanh(%s) name "tanh"
  %m = Mul(%t, %x) name "mul"
  %y = Sub(%e, %m) name "sub"
  output %y
})";

TEST(FormRegions, Golden) {
    expect_becomes(form_regions, kText, R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  const %w1 : float32[2, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5]
  const %w2 : float32[2, 2, 1, 1] = [0.5, -1.0, 1.0, 0.25]
  const %b : float32[2, 1, 1] = [0.5, -0.5]
  const %low : float32[] = [0.0]
  const %high : float32[] = [6.0]
  %r1 = planish.Region(%x, %w1, %b) {body = graph "conv1" {
    input %x : float32[1, 2, 4, 4]
    input %w1 : float32[2, 2, 1, 1]
    input %b : float32[2, 1, 1]
    const %low : float32[] = [0.0]
    const %high : float32[] = [6.0]
    %c1 = Conv(%x, %w1) name "conv1"
    %a1 = Add(%c1, %b) name "bias1"
    %r1 = Clip(%a1, %low, %high) name "relu6"
    output %r1
  }, kind = "conv"} name "conv1" origins ["conv1", "bias1", "relu6"]
  %m = planish.Region(%x) {body = graph "mul" {
    input %x : float32[1, 2, 4, 4]
    %s = Sigmoid(%x) name "gate"
    %t = Tanh(%s) name "tanh"
    %m = Mul(%t, %x) name "mul"
    output %m
  }, kind = "pointwise"} name "mul" origins ["gate", "tanh", "mul"]
  %y = planish.Region(%r1, %w2, %x, %m) {body = graph "conv2" {
    input %r1 : float32[1, 2, 4, 4]
    input %w2 : float32[2, 2, 1, 1]
    input %x : float32[1, 2, 4, 4]
    input %m : float32[1, 2, 4, 4]
    %c2 = Conv(%r1, %w2) name "conv2"
    %sum = Add(%x, %c2) name "sum"
    %e = Exp(%sum) name "exp"
    %y = Sub(%e, %m) name "sub"
    output %y
  }, kind = "conv"} name "conv2" origins ["conv2", "sum", "exp", "sub"]
  output %y
})");
}

TEST(FormRegions, KeepsResults) {
    expect_keeps_results(form_regions, kText, 0);
}

TEST(FormRegions, DissolvingGivesTheOpsBack) {
    const auto before = parse_graph(kText);
    const auto graph = after(form_regions, kText);
    for (Node* node : graph->node_list())
        if (node->is("Region", "planish")) inline_region(*graph, node);
    check(*graph);
    EXPECT_EQ(graph->nodes().size(), before->nodes().size());
    expect_same_results(*before, *graph, 0);
}

TEST(FormRegions, ValuesThatOthersReadEndARegion) {
    expect_unchanged(form_regions, R"(graph "g" {
  input %x : float32[2, 3]
  const %w : float32[3, 3] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
  %m = MatMul(%x, %w) name "m"
  %r = Relu(%m) name "r"
  output %m
  output %r
})");
}

TEST(FormRegions, ResultsThatBroadcastStayOutside) {
    // exp of [2, 1] inside the loop over [2, 3] would be computed three times.
    const auto graph = after(form_regions, R"(graph "g" {
  input %x : float32[2, 3]
  input %z : float32[2, 1]
  %e = Exp(%z) name "e"
  %a = Neg(%x) name "a"
  %y = Mul(%a, %e) name "y"
  output %y
})");
    ASSERT_EQ(graph->nodes().size(), 2u);
    EXPECT_TRUE(graph->nodes().front()->is("Exp"));
}

}  // namespace
}  // namespace planish::passes::testing
