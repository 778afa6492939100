// Simplify quantisation: golden, metamorphic (placements of the borders that compute the same), and near misses.
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

std::string graph_of(std::string_view body) {
    return R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  input %q : uint8[1, 2, 4, 4]
  input %p : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %t : float32[] = [0.25]
  const %z : uint8[] = [3]
  const %zero : uint8[] = [0]
  const %i : int8[] = [-4]
  const %flat : int64[2] = [1, 32]
  const %low : float32[] = [0.0]
  const %six : float32[] = [6.0]
)" + std::string(body) +
           "}";
}

/// Nodes as "op dtype", in order.
std::vector<std::string> ops(const Graph& graph) {
    std::vector<std::string> result;
    for (const auto& node : graph.nodes())
        result.push_back(std::string(node->op().name) + " " + std::string(to_string(node->output()->type.dtype)));
    return result;
}

void expect_ops(std::string_view body, const std::vector<std::string>& expected, double tolerance = 0) {
    const auto before = parse_graph(graph_of(body));
    const auto graph = after(simplify_quantisation, graph_of(body));
    EXPECT_EQ(ops(*graph), expected) << print(*graph);
    EXPECT_EQ(simplify_quantisation(*graph), 0);
    expect_same_results(*before, *graph, tolerance);
}

TEST(SimplifyQuantisation, MovesBytes) {
    expect_ops(R"(
  %a = DequantizeLinear(%q, %s, %z)
  %b = MaxPool(%a) {kernel_shape = [2, 2], strides = [2, 2]}
  %c = Transpose(%b) {perm = [0, 2, 3, 1]}
  output %c
)",
               {"MaxPool uint8", "Transpose uint8", "DequantizeLinear float32"});
    expect_ops(R"(
  %a = Exp(%x)
  %b = Transpose(%a) {perm = [0, 2, 3, 1]}
  %c = Reshape(%b, %flat)
  %d = QuantizeLinear(%c, %s, %z)
  output %d
)",
               {"Exp float32", "QuantizeLinear uint8", "Transpose uint8", "Reshape uint8"});
}

// Float8 moves as bytes do; what it saturates is both ends, so that a ReLU stays.
TEST(SimplifyQuantisation, MovesFloatsOfEightBits) {
    const std::string zero = "  const %f : float8_e4m3fn[] = [0]\n";
    expect_ops(zero + R"(
  %a = QuantizeLinear(%x, %s, %f)
  %b = DequantizeLinear(%a, %s, %f)
  %c = MaxPool(%b) {kernel_shape = [2, 2], strides = [2, 2]}
  %d = Transpose(%c) {perm = [0, 2, 3, 1]}
  output %d
)",
               {"QuantizeLinear float8_e4m3fn", "MaxPool float8_e4m3fn", "Transpose float8_e4m3fn",
                "DequantizeLinear float32"});
    expect_ops(zero + R"(
  %a = Relu(%x)
  %b = QuantizeLinear(%a, %s, %f)
  output %b
)",
               {"Relu float32", "QuantizeLinear float8_e4m3fn"});
    expect_ops(zero + R"(
  const %high : float32[] = [300.0]
  const %least : float32[] = [-300.0]
  %a = Clip(%x, %least, %high)
  %b = QuantizeLinear(%a, %s, %f)
  output %b
)",
               {"QuantizeLinear float8_e4m3fn"});
}

TEST(SimplifyQuantisation, EveryPlacementEndsAsTheSameGraph) {
    // A border before or behind what moves data, doubled, as int8 or uint8, before or behind a ReLU.
    const std::string expected = print(*after(simplify_quantisation, graph_of(R"(
  %a = Exp(%x)
  %b = QuantizeLinear(%a, %s, %zero)
  %c = MaxPool(%b) {kernel_shape = [2, 2]}
  %d = DequantizeLinear(%c, %s, %zero)
  %y = Neg(%d)
  output %y
)")),
                                       -1);
    const auto shape = [](std::string text) {  // names and unused constants aside
        std::string ops;
        const auto graph = parse_graph(text);
        for (const auto& node : graph->nodes())
            ops += std::string(node->op().name) + " " + to_string(node->output()->type) + "\n";
        return ops;
    };
    for (std::string_view body : {R"(
  %a = Exp(%x)
  %b = MaxPool(%a) {kernel_shape = [2, 2]}
  %c = QuantizeLinear(%b, %s, %zero)
  %d = DequantizeLinear(%c, %s, %zero)
  %y = Neg(%d)
  output %y
)",
                                  R"(
  %a = Exp(%x)
  %r = Relu(%a)
  %b = QuantizeLinear(%r, %s, %zero)
  %c = DequantizeLinear(%b, %s, %zero)
  %d = MaxPool(%c) {kernel_shape = [2, 2]}
  %e = QuantizeLinear(%d, %s, %zero)
  %f = DequantizeLinear(%e, %s, %zero)
  %y = Neg(%f)
  output %y
)",
                                  R"(
  %m = Exp(%x)
  %k = QuantizeLinear(%m, %s, %j)
  %a = DequantizeLinear(%k, %s, %j)
  %b = MaxPool(%a) {kernel_shape = [2, 2]}
  %y = Neg(%b)
  output %y
)"}) {
        std::string text = graph_of(body);
        if (text.find("%j") != std::string::npos) text.insert(text.find("  %m"), "  const %j : int8[] = [-128]\n");
        const auto graph = after(simplify_quantisation, text);
        EXPECT_EQ(shape(print(*graph, -1)), shape(expected)) << print(*graph);
        expect_same_results(*parse_graph(text), *graph, 0);
    }
}

TEST(SimplifyQuantisation, JoinsBytes) {
    expect_ops(R"(
  %a = DequantizeLinear(%q, %s, %z)
  %b = DequantizeLinear(%p, %s, %z)
  %c = Concat(%a, %b) {axis = 1}
  output %c
)",
               {"Concat uint8", "DequantizeLinear float32"});
    expect_ops(R"(
  %a = Exp(%x)
  %b = Neg(%x)
  %c = Concat(%a, %b) {axis = 1}
  %d = QuantizeLinear(%c, %s, %z)
  output %d
)",
               {"Exp float32", "Neg float32", "QuantizeLinear uint8", "QuantizeLinear uint8", "Concat uint8"});
}

TEST(SimplifyQuantisation, RelabelsBytes) {
    // int8 that moves before it is decoded.
    expect_ops(R"(
  %a = QuantizeLinear(%x, %s, %i)
  %b = Transpose(%a) {perm = [0, 2, 3, 1]}
  %c = Reshape(%b, %flat)
  %d = DequantizeLinear(%c, %s, %i)
  output %d
)",
               {"QuantizeLinear uint8", "Transpose uint8", "Reshape uint8", "DequantizeLinear float32"});
    // Weights around 128; around anything else they stay as they are.
    for (const bool symmetric : {true, false}) {
        const auto graph = after(simplify_quantisation, graph_of(R"(
  const %w : uint8[4, 2] = [0, 128, 255, 1, 2, 3, 127, 129]
  const %ws : float32[2] = [0.25, 0.5]
  const %wz : uint8[2] = [128, )" + std::string(symmetric ? "128" : "127") +
                                                                 R"(]
  %f = DequantizeLinear(%w, %ws, %wz) {axis = 1}
  %y = MatMul(%x, %f)
  output %y
)"));
        const Node* dq = graph->find_value("f")->producer;
        EXPECT_EQ(dq->input(0)->type.dtype, symmetric ? DType::i8 : DType::u8);
        if (!symmetric) continue;
        EXPECT_EQ(dq->input(0)->constant->to_doubles(), (std::vector<double>{-128, 0, 127, -127, -126, -125, -1, 1}));
    }
}

TEST(SimplifyQuantisation, LeavesToSaturationWhatItDoes) {
    expect_ops(R"(
  %a = Neg(%x)
  %b = Relu(%a)
  %c = QuantizeLinear(%b, %s, %zero)
  output %c
)",
               {"Neg float32", "QuantizeLinear uint8"});
    // 255 * 0.015625 is less than 6, and more than 3.
    for (const bool inside : {true, false}) {
        std::string body = R"(
  const %fine : float32[] = [0.015625]
  const %high : float32[] = [3.0]
  %a = Exp(%x)
  %b = Clip(%a, %low, BOUND)
  %c = QuantizeLinear(%b, %fine, %zero)
  output %c
)";
        body.replace(body.find("BOUND"), 5, inside ? "%six" : "%high");
        expect_ops(body, inside ? std::vector<std::string>{"Exp float32", "QuantizeLinear uint8"}
                                : std::vector<std::string>{"Exp float32", "Clip float32", "QuantizeLinear uint8"});
    }
}

TEST(SimplifyQuantisation, LeavesAlone) {
    for (std::string_view body : {
             // Other scales do not cancel, a zero point other than 0 lets negative numbers through.
             "  %a = DequantizeLinear(%q, %s, %z)\n  %b = QuantizeLinear(%a, %t, %z)\n  output %b\n",
             "  %a = Exp(%x)\n  %r = Relu(%a)\n  %b = QuantizeLinear(%r, %s, %z)\n  output %b\n",
             // Concat of two scales.
             "  %a = DequantizeLinear(%q, %s, %z)\n  %b = DequantizeLinear(%p, %t, %z)\n"
             "  %c = Concat(%a, %b) {axis = 1}\n  output %c\n",
             // An average is no number of the input's.
             "  %a = DequantizeLinear(%q, %s, %z)\n  %b = AveragePool(%a) {kernel_shape = [2, 2]}\n  output %b\n",
             // The float values are read.
             "  %a = Exp(%x)\n  %r = Relu(%a)\n  %b = QuantizeLinear(%r, %s, %zero)\n  output %b\n  output %r\n",
             // int8 that leaves the network.
             "  %a = QuantizeLinear(%x, %s, %i)\n  output %a\n",
             // int8 whose order is read, not its numbers.
             "  %a = QuantizeLinear(%x, %s, %i)\n  %b = ArgMax(%a)\n  output %b\n",
         })
        expect_unchanged(simplify_quantisation, graph_of(body));
}

}  // namespace
}  // namespace planish::passes::testing
