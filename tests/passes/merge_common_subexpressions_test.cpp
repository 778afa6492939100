// Merge common subexpressions: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[2]
  input %z : float32[2]
  const %c : float32[2] = [1.0, 2.0]
  const %d : float32[2] = [1.0, 2.0]
  %a = Add(%x, %c) name "a"
  %b = Add(%d, %x) name "b"
  %e = Sub(%x, %z) name "e"
  %f = Sub(%z, %x) name "f"
  %ab = Mul(%a, %b) name "ab"
  %ef = Mul(%e, %f) name "ef"
  %y = Add(%ab, %ef) name "y"
  output %y
})";

TEST(MergeCommonSubexpressions, ComputesEqualThingsOnce) {
    expect_becomes(merge_common_subexpressions, kText, R"(graph "g" {
  input %x : float32[2]
  input %z : float32[2]
  const %c : float32[2] = [1.0, 2.0]
  %a = Add(%x, %c) name "a" origins ["a", "b"]
  %e = Sub(%x, %z) name "e"
  %f = Sub(%z, %x) name "f"
  %ab = Mul(%a, %a) name "ab"
  %ef = Mul(%e, %f) name "ef"
  %y = Add(%ab, %ef) name "y"
  output %y
})");
}

TEST(MergeCommonSubexpressions, KeepsResults) {
    expect_keeps_results(merge_common_subexpressions, kText, 0);
}

TEST(MergeCommonSubexpressions, AttributesTellNodesApart) {
    expect_unchanged(merge_common_subexpressions, R"(graph "g" {
  input %x : float32[2]
  %a = LeakyRelu(%x) {alpha = 0.1} name "a"
  %b = LeakyRelu(%x) {alpha = 0.2} name "b"
  %y = Add(%a, %b) name "y"
  output %y
})");
}

TEST(MergeCommonSubexpressions, TwoOutputsKeepTwoNames) {
    const auto graph = after(merge_common_subexpressions, R"(graph "g" {
  input %x : float32[2]
  %a = Neg(%x) name "a"
  %b = Neg(%x) name "b"
  output %a
  output %b
})");
    EXPECT_EQ(graph->outputs()[0]->name, "a");
    EXPECT_EQ(graph->outputs()[1]->name, "b");
}

}  // namespace
}  // namespace planish::passes::testing
