// Simplify identities: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[N, 2, 3]
  const %one : float32[1, 1, 1] = [1.0]
  const %zero : float32[3] = [0.0, 0.0, 0.0]
  const %shape : int64[3] = [0, 2, 3]
  const %wide : int64[2] = [0, 6]
  const %first : int64[1] = [0]
  const %far : int64[1] = [9223372036854775807]
  %a = Identity(%x) name "a"
  %b = Dropout(%a) name "b"
  %c = Mul(%b, %one) name "c"
  %d = Add(%zero, %c) name "d"
  %e = Reshape(%d, %shape) name "e"
  %f = Transpose(%e) {perm = [0, 1, 2]} name "f"
  %g = Slice(%f, %first, %far) name "g"
  %h = Cast(%g) {to = 1} name "h"
  %i = Concat(%h) {axis = 0} name "i"
  %r = Relu(%i) name "r"
  %j = Flatten(%r) name "j"
  %k = Reshape(%j, %wide) name "k"
  %y = Neg(%k) name "y"
  output %y
})";

TEST(SimplifyIdentities, RemovesWhatReturnsItsInput) {
    expect_becomes(simplify_identities, kText, R"(graph "g" {
  input %x : float32[N, 2, 3]
  %r = Relu(%x) name "r"
  %j = Flatten(%r) name "j"
  %y = Neg(%j) name "y"
  output %y
})");
}

TEST(SimplifyIdentities, KeepsResults) {
    for (int64_t n : {1, 4}) expect_keeps_results(simplify_identities, kText, 0, n);
}

TEST(SimplifyIdentities, ChainsOfReshapesBecomeOne) {
    const auto graph = after(simplify_identities, R"(graph "g" {
  input %x : float32[N, 2, 3]
  const %axes : int64[1] = [1]
  const %wide : int64[2] = [-1, 6]
  %a = Unsqueeze(%x, %axes) name "a"
  %y = Reshape(%a, %wide) name "y"
  output %y
})");
    ASSERT_EQ(graph->nodes().size(), 1u);
    EXPECT_TRUE(graph->nodes().front()->is("Reshape"));
    EXPECT_EQ(graph->nodes().front()->input(0), graph->inputs()[0]);
}

TEST(SimplifyIdentities, KeepsWhatBroadcasts) {
    // x + 0 and x * 1 that widen x are no identities.
    expect_unchanged(simplify_identities, R"(graph "g" {
  input %x : float32[1, 3]
  const %zero : float32[2, 1] = [0.0, 0.0]
  const %one : float32[2, 3] = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
  %a = Add(%x, %zero) name "a"
  %b = Mul(%x, %one) name "b"
  output %a
  output %b
})");
}

TEST(SimplifyIdentities, AnInputThatIsAnOutputKeepsOneNode) {
    const auto graph = after(simplify_identities, R"(graph "g" {
  input %x : float32[2]
  %a = Identity(%x) name "a"
  %y = Identity(%a) name "y"
  output %y
})");
    ASSERT_EQ(graph->nodes().size(), 1u);
    EXPECT_EQ(graph->outputs()[0]->name, "y");
}

}  // namespace
}  // namespace planish::passes::testing
