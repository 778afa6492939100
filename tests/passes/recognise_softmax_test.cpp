// Recognise softmax: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kShifted = R"(graph "g" {
  input %x : float32[N, 4]
  const %axis : int64[1] = [-1]
  %max = ReduceMax(%x, %axis) name "max"
  %sub = Sub(%x, %max) name "sub"
  %exp = Exp(%sub) name "exp"
  %sum = ReduceSum(%exp, %axis) name "sum"
  %y = Div(%exp, %sum) name "y"
  output %y
})";
constexpr std::string_view kPlain = R"(graph "g" {
  input %x : float32[N, 4]
  const %axis : int64[1] = [1]
  %exp = Exp(%x) name "exp"
  %sum = ReduceSum(%exp, %axis) name "sum"
  %y = Div(%exp, %sum) name "y"
  output %y
})";
constexpr std::string_view kLog = R"(graph "g" {
  input %x : float32[N, 4]
  %s = Softmax(%x) {axis = 1} name "s"
  %y = Log(%s) name "y"
  output %y
})";

TEST(RecogniseSoftmax, Golden) {
    expect_becomes(recognise_softmax, kPlain, R"(graph "g" {
  input %x : float32[N, 4]
  %y = Softmax(%x) {axis = 1} name "y" origins ["exp", "sum", "y"]
  output %y
})");
}

TEST(RecogniseSoftmax, WithAndWithoutTheShift) {
    expect_same_graph(recognise_softmax, {kShifted, kPlain}, "Softmax");
    expect_same_graph(recognise_softmax, {kLog}, "LogSoftmax");
}

TEST(RecogniseSoftmax, KeepsResults) {
    for (std::string_view text : {kShifted, kPlain, kLog}) expect_keeps_results(recognise_softmax, text, 8 * kUlp);
}

TEST(RecogniseSoftmax, ASumOverAnotherAxisIsNoSoftmax) {
    std::string text(kPlain);
    text.replace(text.find("%y = Div(%exp, %sum)"), 20, "%y = Div(%sum, %exp)");
    expect_unchanged(recognise_softmax, text);
}

}  // namespace
}  // namespace planish::passes::testing
