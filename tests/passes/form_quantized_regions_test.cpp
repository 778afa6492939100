// Form quantised regions: golden, copies of shared decoders, near misses, and dissolving.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

int form(Graph& graph) {
    form_regions(graph);
    return form_quantized_regions(graph);
}

constexpr std::string_view kConvolution = R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %z : uint8[] = [3]
  const %w : int8[3, 2, 1, 1] = [1, 2, -3, 5, 15, -7]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %b : float32[3] = [0.5, -1.0, 2.0]
  const %t : float32[] = [0.125]
  %xf = DequantizeLinear(%x, %s, %z) name "x_dq"
  %wf = DequantizeLinear(%w, %ws) {axis = 0} name "w_dq"
  %c = Conv(%xf, %wf, %b) name "conv"
  %r = Relu(%c) name "relu"
  %y = QuantizeLinear(%r, %t, %z) name "y_q"
  output %y
})";

// Floats of 8 bits as integers, where they saturate.
TEST(FormQuantizedRegions, FloatsOfEightBits) {
    for (const bool saturates : {true, false}) {
        std::string text(kConvolution);
        for (const auto& [from, to] : {std::pair<std::string_view, std::string_view>{"uint8", "float8_e4m3fn"},
                                       {": int8", ": float8_e4m3fn"},
                                       {"[] = [3]", "[] = [0]"}})
            for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
                text.replace(at, from.size(), to);
        if (!saturates) text.replace(text.find("%t, %z)"), 7, "%t, %z) {saturate = 0}");
        const auto graph = parse_graph(text), before = graph->clone();
        EXPECT_EQ(form(*graph), 1);
        EXPECT_EQ(graph->nodes().size(), saturates ? 1u : 2u) << print(*graph);
        expect_same_results(*before, *graph, 0);
    }
}

TEST(FormQuantizedRegions, Golden) {
    expect_becomes(form, kConvolution, R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %z : uint8[] = [3]
  const %w : int8[3, 2, 1, 1] = [1, 2, -3, 5, 15, -7]
  const %ws : float32[3] = [0.25, 0.5, 1.0]
  const %b : float32[3] = [0.5, -1.0, 2.0]
  const %t : float32[] = [0.125]
  %y = planish.Region(%x, %w, %ws, %b) {body = graph "conv" {
    input %x : uint8[1, 2, 4, 4]
    input %w : int8[3, 2, 1, 1]
    input %ws : float32[3]
    input %b : float32[3]
    const %s : float32[] = [0.5]
    const %z : uint8[] = [3]
    const %t : float32[] = [0.125]
    %xf = DequantizeLinear(%x, %s, %z) name "x_dq"
    %wf = DequantizeLinear(%w, %ws) {axis = 0} name "w_dq"
    %r = planish.Region(%xf, %wf, %b) {body = graph "conv" {
      input %xf : float32[1, 2, 4, 4]
      input %wf : float32[3, 2, 1, 1]
      input %b : float32[3]
      %c = Conv(%xf, %wf, %b) name "conv"
      %r = Relu(%c) name "relu"
      output %r
    }, kind = "conv"} name "conv" origins ["conv", "relu"]
    %y = QuantizeLinear(%r, %t, %z) name "y_q"
    output %y
  }, kind = "quantized"} name "conv" origins ["conv", "relu"]
  output %y
})");
}

TEST(FormQuantizedRegions, ScalesFoundAtRunTimeAreInputs) {
    const auto graph = after(form, R"(graph "g" {
  input %x : float32[2, 4]
  const %w : int8[4, 2] = [1, 2, -3, 5, 1, 2, 3, 4]
  const %ws : float32[2] = [0.25, 0.5]
  %q, %s, %z = DynamicQuantizeLinear(%x)
  %a = DequantizeLinear(%q, %s, %z)
  %wf = DequantizeLinear(%w, %ws) {axis = 1}
  %m = MatMul(%a, %wf)
  %r = Relu(%a)
  output %m
  output %r
})");
    const Node* region = graph->find_value("m")->producer;
    ASSERT_EQ(region->text("kind"), "quantized") << print(*graph);
    const Node* dynamic = graph->nodes().front().get();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(region->input(i), dynamic->output(i));
    EXPECT_TRUE(graph->find_value("r")->producer->is("Relu")) << "only products read such scales: " << print(*graph);
}

TEST(FormQuantizedRegions, DissolvingComputesTheSame) {
    const auto plain = parse_graph(kConvolution);
    auto regions = parse_graph(kConvolution);
    form(*regions);
    expect_same_results(*plain, *regions, 0);
    for (int depth = 0; depth < 2; ++depth)
        for (Node* node : regions->node_list())
            if (node->is("Region", "planish")) inline_region(*regions, node);
    check(*regions);
    expect_same_results(*plain, *regions, 0);
}

TEST(FormQuantizedRegions, EveryReaderGetsItsOwnDecoder) {
    const auto graph = after(form, R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %w : int8[2, 2, 1, 1] = [1, 2, -3, 5]
  const %ws : float32[2] = [0.25, 0.5]
  %xf = DequantizeLinear(%x, %s)
  %wf = DequantizeLinear(%w, %ws) {axis = 0}
  %a = Conv(%xf, %wf) name "a"
  %b = Conv(%xf, %wf) {pads = [1, 1, 1, 1], strides = [2, 2]} name "b"
  %y = Add(%a, %xf) name "sum"
  output %y
  output %b
})");
    ASSERT_EQ(graph->nodes().size(), 2u) << print(*graph);
    for (const auto& node : graph->nodes()) {
        EXPECT_EQ(node->text("kind"), "quantized");
        EXPECT_EQ(node->input(0), graph->inputs()[0]) << "its decoder is inside";
    }
}

TEST(FormQuantizedRegions, AResultThatIsReadTwiceStaysFloat) {
    const auto graph = after(form, R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  const %s : float32[] = [0.5]
  const %w : int8[2, 2, 1, 1] = [1, 2, -3, 5]
  const %ws : float32[2] = [0.25, 0.5]
  %xf = DequantizeLinear(%x, %s)
  %wf = DequantizeLinear(%w, %ws) {axis = 0}
  %a = Conv(%xf, %wf) name "a"
  %q = QuantizeLinear(%a, %s)
  output %a
  output %q
})");
    ASSERT_EQ(graph->nodes().size(), 2u) << print(*graph);
    EXPECT_EQ(graph->nodes().front()->output()->type.dtype, DType::f32);
    EXPECT_TRUE(graph->nodes().back()->is("QuantizeLinear"));
}

TEST(FormQuantizedRegions, WeightsOfAProductOfFloatsAreARegion) {
    // Blocks of scales in 8 bits beside a decoded x, one scale in 4 bits; a convolution has no such kernel.
    const auto graph = after(form, R"(graph "g" {
  input %x : uint8[2, 4]
  input %image : float32[1, 2, 4, 4]
  const %t : float32[] = [0.5]
  const %w : int8[4, 2] = [1, 2, -3, 5, 1, 2, 3, 4]
  const %ws : float32[2, 2] = [0.25, 0.5, 1.0, 2.0]
  const %v : uint4[2, 4] = [1, 2, 3, 5, 1, 2, 3, 4]
  const %f : int8[2, 2, 1, 1] = [1, 2, -3, 5]
  %xf = DequantizeLinear(%x, %t)
  %wf = DequantizeLinear(%w, %ws) {axis = 0, block_size = 2}
  %a = MatMul(%xf, %wf) name "a"
  %vf = DequantizeLinear(%v, %t)
  %b = Gemm(%xf, %vf) {transB = 1} name "b"
  %ff = DequantizeLinear(%f, %t)
  %c = Conv(%image, %ff) name "c"
  output %a
  output %b
  output %c
})");
    for (const char* product : {"a", "b"}) {
        const Node* region = graph->find_value(product)->producer;
        ASSERT_TRUE(region->is("Region", "planish")) << print(*graph);
        EXPECT_EQ(region->text("kind"), "quantized");
        EXPECT_EQ(region->subgraph("body")->nodes().size(), 2u) << "x is decoded outside";
    }
    EXPECT_TRUE(graph->find_value("c")->producer->is("Conv"));
}

TEST(FormQuantizedRegions, LeavesAloneWhatHasNoIntegerFactors) {
    // Float weights; a factor whose scale is not a constant.
    expect_unchanged(form, R"(graph "g" {
  input %x : uint8[1, 2, 4, 4]
  input %s : float32[]
  const %t : float32[] = [0.5]
  const %w : float32[2, 2, 1, 1] = [1.0, 2.0, -3.0, 5.0]
  const %v : int8[2, 2, 1, 1] = [1, 2, -3, 5]
  const %vs : float32[2] = [0.25, 0.5]
  %xt = DequantizeLinear(%x, %t)
  %xs = DequantizeLinear(%x, %s)
  %vf = DequantizeLinear(%v, %vs) {axis = 0}
  %a = Conv(%xt, %w)
  %b = Conv(%xs, %vf)
  output %a
  output %b
})");
}

// Queries, keys and values that one product has stored: bytes are read where they lie, by one border.
int form_attention(Graph& graph) {
    return simplify_quantisation(graph) + form_regions(graph) + slice_attention(graph) + form_quantized_regions(graph);
}

constexpr std::string_view kAttention = R"(graph "g" {
  input %x : uint8[2, 5, 24]
  input %mask : float32[2, 1, 1, 5]
  const %s : float32[] = [0.5]
  const %z : uint8[] = [3]
  const %t : float32[] = [0.01]
  const %c0 : int64[1] = [0]
  const %c8 : int64[1] = [8]
  const %c16 : int64[1] = [16]
  const %c24 : int64[1] = [24]
  const %axis : int64[1] = [2]
  %xf = DequantizeLinear(%x, %s, %z)
  %q = Slice(%xf, %c0, %c8, %axis)
  %k = Slice(%xf, %c8, %c16, %axis)
  %v = Slice(%xf, %c16, %c24, %axis)
  %a = Attention(%q, %k, %v, %mask) {q_num_heads = 2, kv_num_heads = 2} name "attention"
  %y = QuantizeLinear(%a, %t, %z)
  output %y
})";

TEST(FormQuantizedRegions, AttentionReadsColumnsOfBytes) {
    const auto graph = after(form_attention, kAttention);
    ASSERT_EQ(graph->nodes().size(), 1u) << print(*graph);
    const Node& region = *graph->nodes().front();
    EXPECT_EQ(region.text("kind"), "quantized");
    std::string ops;
    for (const auto& node : region.subgraph("body")->nodes()) ops += std::string(node->op().name) + " ";
    EXPECT_EQ(ops, "DequantizeLinear Region QuantizeLinear ");

    const auto plain = parse_graph(kAttention);
    for (int depth = 0; depth < 2; ++depth)
        for (Node* node : graph->node_list())
            if (node->is("Region", "planish")) inline_region(*graph, node);
    check(*graph);
    expect_same_results(*plain, *graph, 0);
}

TEST(FormQuantizedRegions, AttentionOnFloatValuesStaysFloat) {
    std::string text(kAttention);
    const auto replace = [&](std::string_view from, std::string_view to) {
        text.replace(text.find(from), from.size(), to);
    };
    replace("  input %mask", "  input %w : float32[2, 5, 8]\n  input %mask");
    replace("Attention(%q, %k, %v, %mask)", "Attention(%q, %k, %w, %mask)");
    const auto graph = after(form_attention, text);
    for (const auto& node : graph->nodes()) {
        EXPECT_NE(node->is("Region", "planish") ? node->text("kind") : "", "quantized");
    }
}

}  // namespace
}  // namespace planish::passes::testing
