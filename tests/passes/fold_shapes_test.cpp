// Fold shapes: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// x.view(x.size(0), -1) and x.view(x.size(0), 2, 4) as exporters write them.
constexpr std::string_view kView = R"(graph "g" {
  input %x : float32[N, 2, 4]
  const %zero : int64[] = [0]
  const %axis : int64[1] = [0]
  const %rest : int64[1] = [-1]
  %shape = Shape(%x) name "shape"
  %n = Gather(%shape, %zero) name "n"
  %n1 = Unsqueeze(%n, %axis) name "n1"
  %target = Concat(%n1, %rest) {axis = 0} name "target"
  %y = Reshape(%x, %target) name "y"
  output %y
})";

TEST(FoldShapes, ReshapeTargetsBecomeConstants) {
    expect_becomes(fold_shapes, kView, R"(graph "g" {
  input %x : float32[N, 2, 4]
  const %y_shape : int64[2] = [0, 8]
  %y = Reshape(%x, %y_shape) name "y"
  output %y
})");
}

TEST(FoldShapes, StaticShapesBecomeConstants) {
    expect_becomes(fold_shapes, R"(graph "g" {
  input %x : float32[3, 2]
  %s = Shape(%x) name "shape"
  %f = Cast(%s) {to = 1} name "cast"
  %y = Add(%x, %f) name "y"
  output %y
})",
                   R"(graph "g" {
  input %x : float32[3, 2]
  const %f_value : float32[2] = [3.0, 2.0]
  %y = Add(%x, %f_value) name "y"
  output %y
})");
}

TEST(FoldShapes, KeepsResultsForEverySize) {
    for (int64_t n : {1, 2, 5}) expect_keeps_results(fold_shapes, kView, 0, n);
}

TEST(FoldShapes, TwoOpenSizesStayComputed) {
    // Neither size is x's own at that place: one -1 cannot stand for both.
    const auto graph = after(fold_shapes, R"(graph "g" {
  input %x : float32[N, S]
  input %target : int64[2]
  %y = Reshape(%x, %target) name "y"
  output %y
})");
    EXPECT_EQ(graph->nodes().front()->input(1), graph->inputs()[1]);
}

}  // namespace
}  // namespace planish::passes::testing
