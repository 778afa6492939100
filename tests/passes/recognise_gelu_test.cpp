// Recognise GELU: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// x/2 (1 + erf(x/√2)), the product in the orders that exporters use.
constexpr std::string_view kErf[] = {
    R"(graph "g" {
  input %x : float32[N, 4]
  const %r : float32[] = [1.41421354]
  const %one : float32[] = [1.0]
  const %half : float32[] = [0.5]
  %d = Div(%x, %r) name "d"
  %e = Erf(%d) name "e"
  %a = Add(%e, %one) name "a"
  %m = Mul(%x, %a) name "m"
  %y = Mul(%m, %half) name "y"
  output %y
})",
    R"(graph "g" {
  input %x : float32[N, 4]
  const %r : float32[] = [0.707106769]
  const %one : float32[] = [1.0]
  const %half : float32[] = [0.5]
  %d = Mul(%x, %r) name "d"
  %e = Erf(%d) name "e"
  %a = Add(%one, %e) name "a"
  %h = Mul(%half, %x) name "h"
  %y = Mul(%h, %a) name "y"
  output %y
})",
    R"(graph "g" {
  input %x : float32[N, 4]
  const %r : float32[] = [1.41421354]
  const %one : float32[] = [1.0]
  const %two : float32[] = [2.0]
  %d = Div(%x, %r) name "d"
  %e = Erf(%d) name "e"
  %a = Add(%e, %one) name "a"
  %h = Div(%a, %two) name "h"
  %y = Mul(%x, %h) name "y"
  output %y
})"};

// x/2 (1 + tanh(√(2/π)(x + 0.044715 x³)))
constexpr std::string_view kTanh[] = {
    R"(graph "g" {
  input %x : float32[N, 4]
  const %three : float32[] = [3.0]
  const %c : float32[] = [0.044715]
  const %k : float32[] = [0.797884583]
  const %one : float32[] = [1.0]
  const %half : float32[] = [0.5]
  %p = Pow(%x, %three) name "p"
  %q = Mul(%p, %c) name "q"
  %s = Add(%x, %q) name "s"
  %u = Mul(%s, %k) name "u"
  %t = Tanh(%u) name "t"
  %a = Add(%t, %one) name "a"
  %h = Mul(%x, %half) name "h"
  %y = Mul(%h, %a) name "y"
  output %y
})",
    R"(graph "g" {
  input %x : float32[N, 4]
  const %c : float32[] = [0.044715]
  const %k : float32[] = [0.797884583]
  const %one : float32[] = [1.0]
  const %half : float32[] = [0.5]
  %xx = Mul(%x, %x) name "xx"
  %q = Mul(%xx, %c) name "q"
  %s = Add(%one, %q) name "s"
  %ks = Mul(%s, %k) name "ks"
  %u = Mul(%x, %ks) name "u"
  %t = Tanh(%u) name "t"
  %a = Add(%one, %t) name "a"
  %m = Mul(%x, %a) name "m"
  %y = Mul(%m, %half) name "y"
  output %y
})"};

TEST(RecogniseGelu, Golden) {
    expect_becomes(recognise_gelu, kErf[0], R"(graph "g" {
  input %x : float32[N, 4]
  %y = Gelu(%x) {approximate = "none"} name "y" origins ["e", "a", "m", "y"]
  output %y
})");
}

TEST(RecogniseGelu, EveryOrderOfTheProduct) {
    expect_same_graph(recognise_gelu, {kErf[0], kErf[1], kErf[2]}, "Gelu");
    expect_same_graph(recognise_gelu, {kTanh[0], kTanh[1]}, "Gelu");
}

TEST(RecogniseGelu, KeepsResults) {
    for (std::string_view text : kErf) expect_keeps_results(recognise_gelu, text, 8 * kUlp);
    for (std::string_view text : kTanh) expect_keeps_results(recognise_gelu, text, 8 * kUlp);
}

TEST(RecogniseGelu, OtherConstantsAreNoGelu) {
    std::string text(kErf[0]);
    text.replace(text.find("1.41421354"), 10, "1.41000000");
    expect_unchanged(recognise_gelu, text);
    text = kErf[0];
    text.replace(text.find("[0.5]"), 5, "[0.4]");
    expect_unchanged(recognise_gelu, text);
}

}  // namespace
}  // namespace planish::passes::testing
