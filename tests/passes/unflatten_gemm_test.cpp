// Unflatten Gemm: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[N, 5, 2]
  const %w : float32[3, 2] = [1.0, -2.0, 3.0, 0.5, 0.25, 4.0]
  const %b : float32[3] = [0.5, -0.5, 1.0]
  const %flat : int64[2] = [-1, 2]
  const %back : int64[3] = [-1, 5, 3]
  %f = Reshape(%x, %flat) name "f"
  %g = Gemm(%f, %w, %b) {transB = 1} name "fc"
  %y = Reshape(%g, %back) name "y"
  output %y
})";

TEST(UnflattenGemm, Golden) {
    expect_becomes(unflatten_gemm, kText, R"(graph "g" {
  input %x : float32[N, 5, 2]
  const %b : float32[3] = [0.5, -0.5, 1.0]
  const %w_transposed : float32[2, 3] = [1.0, 3.0, 0.25, -2.0, 0.5, 4.0]
  %fc_out = MatMul(%x, %w_transposed) name "fc" origins ["fc"]
  %y = Add(%fc_out, %b) name "fc_bias" origins ["fc"]
  output %y
})");
}

TEST(UnflattenGemm, KeepsResults) {
    expect_keeps_results(unflatten_gemm, kText, 4 * kUlp);
}

TEST(UnflattenGemm, OtherAxesBehindStay) {
    std::string text(kText);
    text.replace(text.find("[-1, 5, 3]"), 10, "[5, -1, 3]");
    expect_unchanged(unflatten_gemm, text);
}

}  // namespace
}  // namespace planish::passes::testing
