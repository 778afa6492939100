// Recognise normalisations: golden and metamorphic tests.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kHead = R"(graph "g" {
  input %x : float32[N, 3, 4]
  const %axis : int64[1] = [-1]
  const %two : float32[] = [2.0]
  const %minus_half : float32[] = [-0.5]
  const %eps : float32[] = [0.00001]
  const %gamma : float32[4] = [1.0, 2.0, 3.0, 4.0]
  const %beta : float32[4] = [0.5, 0.25, -1.0, 0.0]
)";

// As torch exports it below opset 17.
constexpr std::string_view kDiv = R"(  %mean = ReduceMean(%x, %axis) name "mean"
  %d = Sub(%x, %mean) name "d"
  %sq = Pow(%d, %two) name "sq"
  %var = ReduceMean(%sq, %axis) name "var"
  %ve = Add(%var, %eps) name "ve"
  %root = Sqrt(%ve) name "root"
  %n = Div(%d, %root) name "n"
  %s = Mul(%n, %gamma) name "s"
  %y = Add(%s, %beta) name "y"
  output %y
})";
constexpr std::string_view kReciprocal = R"(  %mean = ReduceMean(%x, %axis) name "mean"
  %d = Sub(%x, %mean) name "d"
  %sq = Mul(%d, %d) name "sq"
  %var = ReduceMean(%sq, %axis) name "var"
  %ve = Add(%eps, %var) name "ve"
  %root = Sqrt(%ve) name "root"
  %inv = Reciprocal(%root) name "inv"
  %n = Mul(%inv, %d) name "n"
  %s = Mul(%gamma, %n) name "s"
  %y = Add(%beta, %s) name "y"
  output %y
})";
constexpr std::string_view kPower = R"(  %mean = ReduceMean(%x, %axis) name "mean"
  %d = Sub(%x, %mean) name "d"
  %sq = Mul(%d, %d) name "sq"
  %var = ReduceMean(%sq, %axis) name "var"
  %ve = Add(%eps, %var) name "ve"
  %inv = Pow(%ve, %minus_half) name "inv"
  %n = Mul(%d, %inv) name "n"
  %s = Mul(%gamma, %n) name "s"
  %y = Add(%beta, %s) name "y"
  output %y
})";
constexpr std::string_view kRms = R"(  %sq = Mul(%x, %x) name "sq"
  %ms = ReduceMean(%sq, %axis) name "ms"
  %ve = Add(%ms, %eps) name "ve"
  %root = Sqrt(%ve) name "root"
  %n = Div(%x, %root) name "n"
  %y = Mul(%n, %gamma) name "y"
  output %y
})";

std::string whole(std::string_view tail) {
    return std::string(kHead) + std::string(tail);
}

TEST(RecogniseLayerNorm, Golden) {
    expect_becomes(
        [](Graph& graph) {
            const int changes = recognise_layer_norm(graph);
            eliminate_dead_code(graph);
            return changes;
        },
        whole(kDiv), R"(graph "g" {
  input %x : float32[N, 3, 4]
  const %gamma : float32[4] = [1.0, 2.0, 3.0, 4.0]
  const %beta : float32[4] = [0.5, 0.25, -1.0, 0.0]
  %y = LayerNormalization(%x, %gamma, %beta) {axis = -1, epsilon = 9.9999997473787516e-06} name "y" origins ["var", "root", "n", "s", "y"]
  output %y
})");
}

TEST(RecogniseLayerNorm, EveryWayToDivide) {
    expect_same_graph(recognise_layer_norm, {whole(kDiv), whole(kReciprocal), whole(kPower)}, "LayerNormalization");
    expect_same_graph(recognise_layer_norm, {whole(kRms)}, "RMSNormalization");
}

TEST(RecogniseLayerNorm, KeepsResults) {
    // Each of the decomposition's steps rounds once and the square root halves nothing that grows: 16 roundings.
    for (std::string_view tail : {kDiv, kReciprocal, kPower, kRms})
        expect_keeps_results(recognise_layer_norm, whole(tail), 16 * kUlp);
}

TEST(RecogniseLayerNorm, AMeanOverAnotherAxisIsNoLayerNorm) {
    std::string text = whole(kDiv);
    text.replace(text.find("[-1]"), 4, "[1]");
    expect_unchanged(recognise_layer_norm, text);
}

}  // namespace
}  // namespace planish::passes::testing
