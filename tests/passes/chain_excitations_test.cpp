// Chain excitations: what becomes a region, near misses, and that results stay.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  const %w1 : float32[3, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25]
  const %w2 : float32[2, 3, 1, 1] = [0.5, -1.0, 1.0, 0.25, 2.0, 1.0]
  %s = GlobalAveragePool(%x) name "squeeze"
  %f = Conv(%s, %w1) name "first"
  %r = Relu(%f) name "relu"
  %g = Conv(%r, %w2) name "second"
  %t = Sigmoid(%g) name "gate"
  %y = Mul(%x, %t) name "scale"
  output %y
})";

int form_and_chain(Graph& graph) {
    form_regions(graph);
    return chain_excitations(graph);
}

std::string with(std::string text, std::string_view from, std::string_view to) {
    return text.replace(text.find(from), from.size(), to);
}

// The gates come from elsewhere than the image's mean.
std::string unpooled() {
    return with(std::string(kText), "GlobalAveragePool", "GlobalMaxPool");
}

TEST(ChainExcitations, TheConvolutionsAndTheProductBecomeARegion) {
    const auto graph = after(form_and_chain, unpooled());
    ASSERT_EQ(graph->nodes().size(), 2u);
    const Node& region = *graph->nodes().back();
    EXPECT_EQ(region.text("kind"), "excitation");
    EXPECT_EQ(region.subgraph("body")->nodes().size(), 3u);
    EXPECT_EQ(region.input(0)->name, "s");
    expect_keeps_results(form_and_chain, unpooled(), 0);
}

TEST(ChainExcitations, ThePoolOfTheImageJoinsThem) {
    const auto graph = after(form_and_chain, kText);
    ASSERT_EQ(graph->nodes().size(), 1u);
    const Node& region = *graph->nodes().back();
    EXPECT_EQ(region.text("kind"), "pooled_excitation");
    ASSERT_EQ(region.subgraph("body")->nodes().size(), 2u);
    EXPECT_EQ(region.subgraph("body")->nodes().back()->text("kind"), "excitation");
    EXPECT_EQ(region.input(0)->name, "x");
    expect_keeps_results(form_and_chain, kText, 0);
}

TEST(ChainExcitations, APoolThatOthersReadOrOfAnotherImageStays) {
    const auto read = after(form_and_chain, with(std::string(kText), "output %y", "output %y\n  output %s"));
    ASSERT_EQ(read->nodes().size(), 2u);
    EXPECT_EQ(read->nodes().back()->text("kind"), "excitation");
    const auto other = after(
        form_and_chain, with(with(std::string(kText), "  const %w1", "  input %z : float32[1, 2, 4, 4]\n  const %w1"),
                             "GlobalAveragePool(%x)", "GlobalAveragePool(%z)"));
    ASSERT_EQ(other->nodes().size(), 2u);
    EXPECT_EQ(other->nodes().back()->text("kind"), "excitation");
}

TEST(ChainExcitations, TheImageMayComeLast) {
    EXPECT_EQ(after(form_and_chain, with(unpooled(), "Mul(%x, %t)", "Mul(%t, %x)"))->nodes().size(), 2u);
    EXPECT_EQ(after(form_and_chain, with(std::string(kText), "Mul(%x, %t)", "Mul(%t, %x)"))->nodes().size(), 1u);
}

TEST(ChainExcitations, AGateThatOthersReadStays) {
    EXPECT_EQ(after(form_and_chain, with(std::string(kText), "output %y", "output %y\n  output %t"))->nodes().size(),
              4u);
}

TEST(ChainExcitations, DissolvingGivesTheRegionsBack) {
    auto graph = parse_graph(kText), regions = parse_graph(kText);
    form_regions(*regions);
    ASSERT_EQ(form_and_chain(*graph), 2);
    inline_region(*graph, graph->node_list().back());
    ASSERT_EQ(graph->nodes().size(), 2u);
    inline_region(*graph, graph->node_list().back());
    check(*graph);
    EXPECT_EQ(print(*graph), print(*regions));
}

}  // namespace
}  // namespace planish::passes::testing
