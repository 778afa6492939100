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

TEST(ChainExcitations, TheConvolutionsAndTheProductBecomeARegion) {
    const auto graph = after(form_and_chain, kText);
    ASSERT_EQ(graph->nodes().size(), 2u);
    const Node& region = *graph->nodes().back();
    EXPECT_EQ(region.text("kind"), "excitation");
    EXPECT_EQ(region.subgraph("body")->nodes().size(), 3u);
    EXPECT_EQ(region.input(0)->name, "s");
    expect_keeps_results(form_and_chain, kText, 0);
}

TEST(ChainExcitations, TheImageMayComeLast) {
    EXPECT_EQ(after(form_and_chain, with(std::string(kText), "Mul(%x, %t)", "Mul(%t, %x)"))->nodes().size(), 2u);
}

TEST(ChainExcitations, AGateThatOthersReadStays) {
    EXPECT_EQ(after(form_and_chain, with(std::string(kText), "output %y", "output %y\n  output %t"))->nodes().size(),
              4u);
}

TEST(ChainExcitations, DissolvingGivesTheRegionsBack) {
    auto graph = parse_graph(kText), regions = parse_graph(kText);
    form_regions(*regions);
    ASSERT_EQ(form_and_chain(*graph), 1);
    inline_region(*graph, graph->node_list().back());
    check(*graph);
    EXPECT_EQ(print(*graph), print(*regions));
}

}  // namespace
}  // namespace planish::passes::testing
