// Fold padding: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

// TensorFlow's SAME padding of a strided convolution, as PyTorch ports write it.
constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[N, 1, 5, 6]
  const %w : float32[1, 1, 2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %pads : int64[8] = [0, 0, 0, 1, 0, 0, 2, 1]
  const %zero : float32[] = [0.0]
  %p = Pad(%x, %pads, %zero) name "pad"
  %y = Conv(%p, %w) {pads = [1, 0, 0, 0], strides = [2, 2]} name "conv"
  output %y
})";

TEST(FoldPadding, Golden) {
    expect_becomes(fold_padding, kText, R"(graph "g" {
  input %x : float32[N, 1, 5, 6]
  const %w : float32[1, 1, 2, 2] = [1.0, 2.0, 3.0, 4.0]
  %y = Conv(%x, %w) {pads = [1, 1, 2, 1], strides = [2, 2]} name "conv" origins ["conv", "pad"]
  output %y
})");
}

TEST(FoldPadding, KeepsResults) {
    expect_keeps_results(fold_padding, kText, 0);
}

TEST(FoldPadding, OtherPaddingStays) {
    std::string text(kText);
    text.replace(text.find("[0.0]"), 5, "[1.0]");
    expect_unchanged(fold_padding, text);
    text = kText;
    text.replace(text.find("[0, 0, 0, 1,"), 12, "[0, 1, 0, 1,");
    text.replace(text.find("float32[1, 1, 2, 2] = [1.0, 2.0, 3.0, 4.0]"), 42,
                 "float32[1, 2, 2, 2] = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]");
    expect_unchanged(fold_padding, text);
    text = kText;
    text.replace(text.find("name \"pad\""), 10, "{mode = \"edge\"} name \"pad\"");
    expect_unchanged(fold_padding, text);
}

}  // namespace
}  // namespace planish::passes::testing
