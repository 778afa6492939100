// Fold constants: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

TEST(FoldConstants, EvaluatesWhatConstantsDecide) {
    expect_becomes(fold_constants, R"(graph "g" {
  input %x : float32[2]
  const %a : float32[2] = [1.0, 2.0]
  const %b : float32[2] = [3.0, 4.0]
  %sum = Add(%a, %b) name "sum"
  %twice = Add(%sum, %sum) name "twice"
  %y = Mul(%x, %twice) name "y"
  output %y
})",
                   R"(graph "g" {
  input %x : float32[2]
  const %twice_value : float32[2] = [8.0, 12.0]
  %y = Mul(%x, %twice_value) name "y"
  output %y
})");
}

TEST(FoldConstants, TakesTheBranchOfAConstantCondition) {
    constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[2]
  const %yes : bool[] = [1]
  %y = If(%yes, %x) {captures = 1, then_branch = graph "t" {
    input %x : float32[2]
    %r = Relu(%x) name "relu"
    output %r
  }, else_branch = graph "e" {
    input %x : float32[2]
    %n = Neg(%x) name "neg"
    output %n
  }} name "choose"
  output %y
})";
    const auto graph = after(fold_constants, kText);
    ASSERT_EQ(graph->nodes().size(), 1u);
    EXPECT_TRUE(graph->nodes().front()->is("Relu"));
    EXPECT_EQ(graph->outputs()[0]->name, "y");
    expect_keeps_results(fold_constants, kText, 0);
}

TEST(FoldConstants, LeavesRandomnessQuantisedWeightsAndBigExpansions) {
    expect_unchanged(fold_constants, R"(graph "g" {
  const %q : int8[2] = [1, 2]
  const %s : float32[] = [0.5]
  const %shape : int64[2] = [1000, 1000]
  %a = RandomNormal() {shape = [2]} name "a"
  %b = DequantizeLinear(%q, %s) name "b"
  %c = Expand(%s, %shape) name "c"
  output %a
  output %b
  output %c
})");
}

TEST(FoldConstants, KeepsNamesOfConstantOutputs) {
    const auto graph = after(fold_constants, R"(graph "g" {
  const %a : float32[2] = [1.0, 2.0]
  %y = Neg(%a) name "y"
  output %y
})");
    EXPECT_EQ(graph->outputs()[0]->name, "y");
    EXPECT_EQ(fold_constants(*graph), 0);
}

}  // namespace
}  // namespace planish::passes::testing
