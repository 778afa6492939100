// Lower quantised operators: golden, and results within one step of the stored numbers.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

TEST(LowerQuantisedOperators, Golden) {
    expect_becomes(lower_quantised_operators, R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %z : uint8[] = [3]
  const %w : int8[3, 2, 1, 1] = [1, 2, -3, 5, 15, -7]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %wz : int8[3] = [0, 0, 0]
  const %b : int32[3] = [1, -2, 3]
  %y = QLinearConv(%x, %s, %z, %w, %ws, %wz, %s, %z, %b) {pads = [1, 1, 1, 1]} name "conv"
  output %y
})",
                   R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %z : uint8[] = [3]
  const %w : int8[3, 2, 1, 1] = [1, 2, -3, 5, 15, -7]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %wz : int8[3] = [0, 0, 0]
  const %b : int32[3] = [1, -2, 3]
  %x_decoded_out = DequantizeLinear(%x, %s, %z) {axis = 1} name "x_decoded"
  %w_decoded_out = DequantizeLinear(%w, %ws, %wz) {axis = 0} name "w_decoded"
  %conv_bias_scale_out = Mul(%s, %ws) name "conv_bias_scale"
  %conv_bias_out = DequantizeLinear(%b, %conv_bias_scale_out) {axis = 0} name "conv_bias"
  %conv_out = Conv(%x_decoded_out, %w_decoded_out, %conv_bias_out) {pads = [1, 1, 1, 1]} name "conv" origins ["conv"]
  %y = QuantizeLinear(%conv_out, %s, %z) name "conv_encoded" origins ["conv"]
  output %y
})");
}

TEST(LowerQuantisedOperators, ComputesTheSameWithinOneStep) {
    for (std::string_view text : {R"(graph "g" {
  input %f : float32[1, 2, 5, 4]
  const %s : float32[] = [0.1]
  const %t : float32[] = [0.37]
  const %z : uint8[] = [111]
  const %w : int8[3, 2, 2, 2] = [1, 20, -3, 5, 15, -7, 9, 100, -100, 3, 77, 55, -12, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %wz : int8[3] = [0, 0, 0]
  const %b : int32[3] = [100, -200, 300]
  %x = QuantizeLinear(%f, %s, %z)
  %q = QLinearConv(%x, %s, %z, %w, %ws, %wz, %t, %z, %b) {strides = [2, 1], pads = [1, 0, 0, 1]}
  %y = DequantizeLinear(%q, %t, %z)
  output %y
})",
                                  R"(graph "g" {
  input %f : float32[2, 3, 4]
  const %s : float32[] = [0.1]
  const %t : float32[] = [0.37]
  const %z : uint8[] = [111]
  const %w : int8[4, 3] = [1, 20, -3, 5, 15, -7, 9, 100, -100, 3, 77, 55]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %wz : int8[3] = [0, 1, -2]
  %x = QuantizeLinear(%f, %s, %z)
  %q = QLinearMatMul(%x, %s, %z, %w, %ws, %wz, %t, %z)
  %y = DequantizeLinear(%q, %t, %z)
  output %y
})"}) {
        const auto before = parse_graph(text), graph = after(lower_quantised_operators, text);
        EXPECT_EQ(graph->find_value("y")->type.dtype, DType::f32);
        for (const auto& node : graph->nodes()) EXPECT_FALSE(node->op().name.starts_with("QLinear"));
        for (uint32_t seed : {1u, 2u, 3u}) {
            const auto feeds = random_feeds(*before, 3, seed);
            const Tensor expected = reference::run_graph(*before, feeds).at("y");
            const Tensor actual = reference::run_graph(*graph, feeds).at("y");
            for (int64_t i = 0; i < expected.size(); ++i)
                EXPECT_NEAR(expected.at_double(i), actual.at_double(i), 0.37 * 1.001) << "one step of the scale";
        }
    }
}

TEST(LowerQuantisedOperators, LeavesMatricesOfScalesAlone) {
    expect_unchanged(lower_quantised_operators, R"(graph "g" {
  input %x : uint8[2, 3, 4]
  input %s : float32[2, 3, 1]
  input %z : uint8[2, 3, 1]
  const %t : float32[] = [0.37]
  const %u : uint8[] = [111]
  const %w : int8[4, 1] = [1, 20, -3, 5]
  const %wz : int8[] = [0]
  %q = QLinearMatMul(%x, %s, %z, %w, %t, %wz, %t, %u)
  output %q
})");
}

}  // namespace
}  // namespace planish::passes::testing
