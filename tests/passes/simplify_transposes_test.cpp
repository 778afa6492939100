// Simplify transposes: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// An NHWC network written with NCHW ops: transposes around every point-wise op.
constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[N, 4, 5, 2]
  input %z : float32[N, 4, 5, 2]
  const %half : float32[] = [0.5]
  %a = Transpose(%x) {perm = [0, 3, 1, 2]} name "a"
  %b = Transpose(%z) {perm = [0, 3, 1, 2]} name "b"
  %s = Add(%a, %b) name "s"
  %h = Mul(%s, %half) name "h"
  %r = Relu(%h) name "r"
  %y = Transpose(%r) {perm = [0, 2, 3, 1]} name "y"
  output %y
})";

TEST(SimplifyTransposes, MoveDownMeetAndCancel) {
    const auto graph = after(simplify_transposes, kText);
    ASSERT_EQ(graph->nodes().size(), 3u);
    for (const auto& node : graph->nodes()) EXPECT_FALSE(node->is("Transpose"));
    EXPECT_EQ(graph->outputs()[0]->name, "y");
    EXPECT_EQ(simplify_transposes(*graph), 0);
}

TEST(SimplifyTransposes, KeepsResults) {
    expect_keeps_results(simplify_transposes, kText, 0);
}

// ConvNeXt's layer scale: a number a channel, applied after the channels have moved to axis 1.
constexpr std::string_view kScaled = R"(graph "g" {
  input %x : float32[N, 4, 5, 2]
  const %w : float32[2, 3] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
  const %s : float32[3, 1, 1] = [0.5, 2.0, -1.0]
  %t = Transpose(%x) {perm = [0, 2, 1, 3]} name "t"
  %m = MatMul(%t, %w) name "m"
  %a = Transpose(%m) {perm = [0, 3, 2, 1]} name "a"
  %y = Mul(%a, %s) name "y"
  output %y
})";

TEST(SimplifyTransposes, PassBelowProductsAndConstantsByChannel) {
    const auto graph = after(simplify_transposes, kScaled);
    std::vector<std::string_view> ops;
    for (const auto& node : graph->nodes()) ops.push_back(node->op().name);
    EXPECT_EQ(ops, (std::vector<std::string_view>{"MatMul", "Mul", "Transpose"}));
    expect_keeps_results(simplify_transposes, kScaled, 0);
}

// ConvNeXt's block: what the residual sum reads is read by the next convolution as well.
constexpr std::string_view kResidual = R"(graph "g" {
  input %x : float32[N, 4, 5, 2]
  const %w : float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %k : float32[2, 1, 1, 1] = [0.5, 2.0]
  %a = Transpose(%x) {perm = [0, 3, 1, 2]} name "a"
  %c = Conv(%a, %k) {group = 2} name "c"
  %l = Transpose(%c) {perm = [0, 2, 3, 1]} name "l"
  %m = MatMul(%l, %w) name "m"
  %b = Transpose(%m) {perm = [0, 3, 1, 2]} name "b"
  %y = Add(%a, %b) name "y"
  output %y
})";

TEST(SimplifyTransposes, AResidualSumMeetsItsProduct) {
    const auto graph = after(simplify_transposes, kResidual);
    std::vector<std::string_view> ops;
    for (const auto& node : graph->nodes()) ops.push_back(node->op().name);
    EXPECT_EQ(ops, (std::vector<std::string_view>{"Transpose", "Conv", "Transpose", "MatMul", "Add", "Transpose"}));
    expect_keeps_results(simplify_transposes, kResidual, 0);
}

// The first block behind a convolution: its image lies channels-last, whatever its axes are called.
constexpr std::string_view kSharedImage = R"(graph "g" {
  input %x : float32[N, 2, 4, 5]
  const %w : float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %d : float32[2, 2, 1, 1] = [1.0, -1.0, 2.0, 0.5]
  %a = Conv(%x, %d) name "a"
  %l = Transpose(%a) {perm = [0, 2, 3, 1]} name "l"
  %m = MatMul(%l, %w) name "m"
  %b = Transpose(%m) {perm = [0, 3, 1, 2]} name "b"
  %y = Add(%a, %b) name "y"
  output %y
})";

TEST(SimplifyTransposes, AConvolutionsImageIsATransposeOfItsMemory) {
    const auto graph = after(simplify_transposes, kSharedImage);
    EXPECT_TRUE(graph->outputs()[0]->producer->is("Transpose"));
    EXPECT_TRUE(graph->outputs()[0]->producer->input(0)->producer->is("Add"));
    EXPECT_EQ(simplify_transposes(*graph), 0);
    expect_keeps_results(simplify_transposes, kSharedImage, 0);
}

TEST(SimplifyTransposes, TwoBecomeOne) {
    expect_becomes(simplify_transposes, R"(graph "g" {
  input %x : float32[2, 3, 4]
  %a = Transpose(%x) {perm = [1, 0, 2]} name "a"
  %y = Transpose(%a) {perm = [0, 2, 1]} name "y"
  output %y
})",
                   R"(graph "g" {
  input %x : float32[2, 3, 4]
  %y = Transpose(%x) {perm = [1, 2, 0]} name "y" origins ["y", "a"]
  output %y
})");
}

TEST(SimplifyTransposes, ATransposeThatOthersReadStays) {
    expect_unchanged(simplify_transposes, R"(graph "g" {
  input %x : float32[2, 3]
  %a = Transpose(%x) {perm = [1, 0]} name "a"
  %y = Relu(%a) name "y"
  output %a
  output %y
})");
}

}  // namespace
}  // namespace planish::passes::testing
