// Fuse layer normalisations: what becomes a region, near misses, and that results stay.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[2, 3, 4]
  const %g : float32[4] = [1.5, -0.5, 0.25, 2.0]
  const %b : float32[4] = [0.5, 1.0, -1.0, 0.125]
  const %w : float32[4, 2] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25, -1.0, 1.0]
  const %c : float32[2] = [0.5, -0.25]
  %n = LayerNormalization(%x, %g, %b) name "norm"
  %m = MatMul(%n, %w) name "product"
  %a = Add(%m, %c) name "bias"
  %y = Gelu(%a) name "gelu"
  output %y
})";

int form_and_fuse(Graph& graph) {
    form_regions(graph);
    return fuse_layer_norms(graph);
}

std::string with(std::string text, std::string_view from, std::string_view to) {
    return text.replace(text.find(from), from.size(), to);
}
const std::string kBare = with(with(std::string(kText), R"(  %a = Add(%m, %c) name "bias"
  %y = Gelu(%a) name "gelu"
)",
                                    ""),
                               "output %y", "output %m");

void expect_apart(const std::string& text) {
    const auto graph = after(form_and_fuse, text);
    for (const auto& node : graph->nodes())
        EXPECT_FALSE(node->is("Region", "planish") && node->text("kind") == "normalized_product") << text;
}

TEST(FuseLayerNorms, TheNormalisationAndTheProductBecomeARegion) {
    const auto graph = after(form_and_fuse, kText);
    ASSERT_EQ(graph->nodes().size(), 1u);
    const Node& region = *graph->nodes().front();
    EXPECT_EQ(region.text("kind"), "normalized_product");
    EXPECT_EQ(region.subgraph("body")->nodes().size(), 2u);
    EXPECT_EQ(region.input(0)->name, "x");
    expect_keeps_results(form_and_fuse, kText, 0);
}

TEST(FuseLayerNorms, AProductWithoutAnEpilogueDoesToo) {
    EXPECT_EQ(after(form_and_fuse, kBare)->nodes().size(), 1u);
    expect_keeps_results(form_and_fuse, kBare, 0);
}

TEST(FuseLayerNorms, AGemmMayTransposeItsWeightsOnly) {
    const auto gemm = [](std::string_view attributes) {
        return R"(graph "g" { input %x : float32[4, 4] const %g : float32[4] = [1.5, -0.5, 0.25, 2.0]
            const %w : float32[4, 4] = dense<00000000>
            %n = LayerNormalization(%x, %g) %y = Gemm(%n, %w) {)" +
               std::string(attributes) + "} output %y }";
    };
    EXPECT_EQ(after(form_and_fuse, gemm("transB = 1"))->nodes().size(), 1u);
    expect_apart(gemm("transA = 1"));
}

TEST(FuseLayerNorms, TheEpilogueMayAddWhatIsNormalised) {
    const std::string text = R"(graph "g" { input %x : float32[3, 2] const %g : float32[2] = [1.5, -0.5]
        const %w : float32[2, 2] = [1.0, 2.0, -3.0, 0.5]
        %n = LayerNormalization(%x, %g) %m = MatMul(%n, %w) %y = Add(%m, %x) output %y })";
    EXPECT_EQ(after(form_and_fuse, text)->nodes().size(), 1u);
    expect_keeps_results(form_and_fuse, text, 0);
    // But not the normalised rows, which nobody would make.
    expect_apart(with(text, "Add(%m, %x)", "Add(%m, %n)"));
}

TEST(FuseLayerNorms, WhatOthersReadStays) {
    expect_apart(with(std::string(kText), "output %y", "output %y\n  output %n"));
    expect_apart(with(std::string(kText), "output %y", "%z = Relu(%n)\n  output %y\n  output %z"));
}

TEST(FuseLayerNorms, OtherAxesStay) {
    // Of planes: scale and shift are [3, 4] then.
    std::string text = with(std::string(kText), R"(%n = LayerNormalization(%x, %g, %b) name "norm")",
                            R"(%n = LayerNormalization(%x, %g, %b) {axis = 1} name "norm")");
    expect_apart(text);
    EXPECT_EQ(after(form_and_fuse, with(text, "axis = 1", "axis = 2"))->nodes().size(), 1u);
}

TEST(FuseLayerNorms, WhatIsNotConstantStays) {
    expect_apart(with(std::string(kText), "const %w : float32[4, 2] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25, -1.0, 1.0]",
                      "input %w : float32[4, 2]"));
    expect_apart(with(kBare, "const %w : float32[4, 2] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25, -1.0, 1.0]",
                      "input %w : float32[4, 2]"));
    expect_apart(with(std::string(kText), "const %g : float32[4] = [1.5, -0.5, 0.25, 2.0]", "input %g : float32[4]"));
    // Rows as the second factor are no rows.
    expect_apart(R"(graph "g" { input %x : float32[4, 4] const %g : float32[4] = [1.5, -0.5, 0.25, 2.0]
        const %w : float32[4, 4] = dense<00000000>
        %n = LayerNormalization(%x, %g) %y = MatMul(%w, %n) output %y })");
}

TEST(FuseLayerNorms, DissolvingGivesTheTwoBack) {
    for (const std::string& text : {std::string(kText), kBare}) {
        auto graph = parse_graph(text), regions = parse_graph(text);
        form_regions(*regions);
        ASSERT_EQ(form_and_fuse(*graph), 1);
        inline_region(*graph, graph->node_list().back());
        check(*graph);
        EXPECT_EQ(print(*graph), print(*regions));
    }
}

}  // namespace
}  // namespace planish::passes::testing
