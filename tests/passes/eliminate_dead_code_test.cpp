// Eliminate dead code: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[2]
  input %unused : float32[2]
  const %c : float32[2] = [1.0, 2.0]
  %a = Neg(%x) name "a"
  %b = Add(%a, %c) name "b"
  %d = Relu(%b) name "d"
  %y = Abs(%a) name "y"
  output %y
})";

TEST(EliminateDeadCode, ErasesWhatNoOutputReads) {
    expect_becomes(eliminate_dead_code, kText, R"(graph "g" {
  input %x : float32[2]
  input %unused : float32[2]
  %a = Neg(%x) name "a"
  %y = Abs(%a) name "y"
  output %y
})");
}

TEST(EliminateDeadCode, KeepsResults) {
    expect_keeps_results(eliminate_dead_code, kText, 0);
}

}  // namespace
}  // namespace planish::passes::testing
