// Fold batch normalisation: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

TEST(FoldBatchNorm, GoesIntoTheConvolution) {
    // scale = 2 / sqrt(3.999 + 0.001) = 1, then 4 / 2 = 2: weights times 1 and 2, bias = b - mean * scale.
    expect_becomes(fold_batch_norm, R"(graph "g" {
  input %x : float32[N, 1, 4, 4]
  const %w : float32[2, 1, 1, 1] = [1.0, 3.0]
  const %gamma : float32[2] = [2.0, 4.0]
  const %beta : float32[2] = [0.5, 1.0]
  const %mean : float32[2] = [1.0, 2.0]
  const %var : float32[2] = [3.0, 3.0]
  %c = Conv(%x, %w) name "conv"
  %y = BatchNormalization(%c, %gamma, %beta, %mean, %var) {epsilon = 1.0} name "bn"
  output %y
})",
                   R"(graph "g" {
  input %x : float32[N, 1, 4, 4]
  const %w_folded : float32[2, 1, 1, 1] = [1.0, 6.0]
  const %conv_bias : float32[2] = [-0.5, -3.0]
  %y = Conv(%x, %w_folded, %conv_bias) name "conv" origins ["conv", "bn"]
  output %y
})");
}

constexpr std::string_view kOthers[] = {
    // Transposed convolution with a bias of its own.
    R"(graph "g" {
  input %x : float32[N, 2, 3, 3]
  const %w : float32[2, 2, 1, 1] = [1.0, -2.0, 3.0, 0.5]
  const %b : float32[2] = [0.25, -0.75]
  const %gamma : float32[2] = [2.0, 4.0]
  const %beta : float32[2] = [0.5, 1.0]
  const %mean : float32[2] = [1.0, 2.0]
  const %var : float32[2] = [3.0, 0.2]
  %c = ConvTranspose(%x, %w, %b) name "conv"
  %y = BatchNormalization(%c, %gamma, %beta, %mean, %var) name "bn"
  output %y
})",
    // Gemm with transB, then a Mul and an Add by channel.
    R"(graph "g" {
  input %x : float32[N, 2]
  const %w : float32[3, 2] = [1.0, -2.0, 3.0, 0.5, 0.1, 0.2]
  const %b : float32[3] = [0.25, -0.75, 1.0]
  const %s : float32[3] = [2.0, 0.5, -1.0]
  const %t : float32[1, 3] = [1.0, 2.0, 3.0]
  %c = Gemm(%x, %w, %b) {transB = 1} name "fc"
  %m = Mul(%s, %c) name "m"
  %y = Add(%m, %t) name "a"
  output %y
})",
    // Nothing to fold into: a multiplication and an addition remain.
    R"(graph "g" {
  input %x : float32[N, 2, 3]
  const %gamma : float32[2] = [2.0, 4.0]
  const %beta : float32[2] = [0.5, 1.0]
  const %mean : float32[2] = [1.0, 2.0]
  const %var : float32[2] = [3.0, 0.2]
  %y = BatchNormalization(%x, %gamma, %beta, %mean, %var) name "bn"
  output %y
})"};

TEST(FoldBatchNorm, KeepsResults) {
    // Weights, bias and the folded factors are each rounded once: a few roundings of the result's magnitude.
    for (std::string_view text : kOthers) {
        expect_keeps_results(fold_batch_norm, text, 8 * kUlp);
        const auto graph = after(fold_batch_norm, text);
        for (const auto& node : graph->nodes()) EXPECT_FALSE(node->is("BatchNormalization"));
    }
}

TEST(FoldBatchNorm, AConvolutionThatOthersReadKeepsItsWeights) {
    const auto graph = after(fold_batch_norm, R"(graph "g" {
  input %x : float32[N, 1, 4, 4]
  const %w : float32[2, 1, 1, 1] = [1.0, 3.0]
  const %s : float32[2, 1, 1] = [2.0, 4.0]
  %c = Conv(%x, %w) name "conv"
  %y = Mul(%c, %s) name "m"
  output %c
  output %y
})");
    EXPECT_EQ(graph->nodes().size(), 2u);
}

}  // namespace
}  // namespace planish::passes::testing
