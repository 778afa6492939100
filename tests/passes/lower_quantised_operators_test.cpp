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

// As ONNX Runtime's quantize_dynamic writes it: one scale, or one for each column.
constexpr std::string_view kDynamic = R"(graph "g" {
  input %x : float32[2, 3, 4]
  const %w : int8[4, 3] = [1, 20, -3, 5, 15, -7, 9, 100, -100, 3, 77, 55]
  const %t : float32[3] = [0.25, 0.5, 1.0]
  const %wz : int8[] = [0]
  const %b : float32[3] = [0.5, -1.0, 2.0]
  %q, %s, %z = DynamicQuantizeLinear(%x) name "quantize"
  %st = Mul(%s, %t) name "scales"
  %i = MatMulInteger(%q, %w, %z, %wz) name "fc_quant"
  %f = Cast(%i) {to = 1} name "cast"
  %m = Mul(%f, %st) name "scale"
  %y = Add(%m, %b) name "bias"
  output %y
})";

TEST(LowerQuantisedOperators, GoldenDynamic) {
    expect_becomes(lower_quantised_operators, kDynamic, R"(graph "g" {
  input %x : float32[2, 3, 4]
  const %w : int8[4, 3] = [1, 20, -3, 5, 15, -7, 9, 100, -100, 3, 77, 55]
  const %b : float32[3] = [0.5, -1.0, 2.0]
  const %fc_quant_w_scale : float32[3] = [0.25, 0.5, 1.0]
  const %fc_quant_w_zero : int8[3] = [0, 0, 0]
  %q, %s, %z = DynamicQuantizeLinear(%x) name "quantize"
  %fc_quant_x_out = DequantizeLinear(%q, %s, %z) name "fc_quant_x"
  %fc_quant_w_out = DequantizeLinear(%w, %fc_quant_w_scale, %fc_quant_w_zero) {axis = 1} name "fc_quant_w"
  %fc_quant_out = MatMul(%fc_quant_x_out, %fc_quant_w_out) name "fc_quant" origins ["fc_quant", "cast", "scale"]
  %y = Add(%fc_quant_out, %b) name "bias"
  output %y
})");
}

TEST(LowerQuantisedOperators, DynamicProductsComputeTheSame) {
    constexpr std::string_view kConvolution = R"(graph "g" {
  input %x : float32[1, 2, 5, 4]
  const %w : uint8[3, 2, 2, 2] = [1, 20, 3, 5, 15, 7, 9, 100, 200, 3, 77, 55, 12, 8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
  const %t : float32[] = [0.02]
  const %wz : uint8[] = [119]
  %q, %s, %z = DynamicQuantizeLinear(%x)
  %st = Mul(%t, %s)
  %i = ConvInteger(%q, %w, %z, %wz) {pads = [1, 0, 0, 1]}
  %f = Cast(%i) {to = 1}
  %y = Mul(%st, %f)
  output %y
})";
    // The reference's own roundings: of the scales' product in one form, of decoded factors in the other.
    for (std::string_view text : {kDynamic, kConvolution}) {
        const auto graph = after(lower_quantised_operators, text);
        for (const auto& node : graph->nodes()) EXPECT_FALSE(node->op().name.ends_with("Integer"));
        expect_same_results(*parse_graph(text), *graph, 8 * 0x1p-24 * 16);
    }
}

TEST(LowerQuantisedOperators, LeavesSumsThatOthersReadAlone) {
    const std::string read_twice = std::string(kDynamic).insert(kDynamic.rfind("  output"), "  output %i\n");
    expect_unchanged(lower_quantised_operators, read_twice);
    std::string other_zero(kDynamic);
    other_zero.replace(other_zero.find("%w, %z, %wz"), 11, "%w, %zero, %wz");
    other_zero.insert(other_zero.find("  const %b"), "  const %zero : uint8[] = [7]\n");
    expect_unchanged(lower_quantised_operators, other_zero);
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
