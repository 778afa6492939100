// Chain convolutions: golden, metamorphic and near misses.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  const %w1 : float32[3, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25]
  const %w2 : float32[3, 1, 1, 1] = [0.5, -1.0, 2.0]
  const %w3 : float32[2, 3, 1, 1] = [0.5, -1.0, 1.0, 0.25, 2.0, 1.0]
  %e = Conv(%x, %w1) name "expand"
  %r = Relu(%e) name "relu"
  %d = Conv(%r, %w2) {group = 3} name "depthwise"
  %p = Conv(%d, %w3) name "project"
  %y = Add(%p, %x) name "sum"
  output %y
})";

int form_and_chain(Graph& graph) {
    form_regions(graph);
    return chain_convolutions(graph);
}

TEST(ChainConvolutions, Golden) {
    expect_becomes(form_and_chain, kText, R"(graph "g" {
  input %x : float32[1, 2, 4, 4]
  const %w1 : float32[3, 2, 1, 1] = [1.0, 2.0, -3.0, 0.5, 1.5, 0.25]
  const %w2 : float32[3, 1, 1, 1] = [0.5, -1.0, 2.0]
  const %w3 : float32[2, 3, 1, 1] = [0.5, -1.0, 1.0, 0.25, 2.0, 1.0]
  %y = planish.Region(%x, %w1, %w2, %w3) {body = graph "depthwise" {
    input %x : float32[1, 2, 4, 4]
    input %w1 : float32[3, 2, 1, 1]
    input %w2 : float32[3, 1, 1, 1]
    input %w3 : float32[2, 3, 1, 1]
    %r = planish.Region(%x, %w1) {body = graph "expand" {
      input %x : float32[1, 2, 4, 4]
      input %w1 : float32[3, 2, 1, 1]
      %e = Conv(%x, %w1) name "expand"
      %r = Relu(%e) name "relu"
      output %r
    }, kind = "conv"} name "expand" origins ["expand", "relu"]
    %d = Conv(%r, %w2) {group = 3} name "depthwise"
    %y = planish.Region(%d, %w3, %x) {body = graph "project" {
      input %d : float32[1, 3, 4, 4]
      input %w3 : float32[2, 3, 1, 1]
      input %x : float32[1, 2, 4, 4]
      %p = Conv(%d, %w3) name "project"
      %y = Add(%p, %x) name "sum"
      output %y
    }, kind = "conv"} name "project" origins ["project", "sum"]
    output %y
  }, kind = "conv_chain"} name "depthwise" origins ["expand", "relu", "depthwise", "project", "sum"]
  output %y
})");
}

TEST(ChainConvolutions, DissolvingGivesTheRegionsBack) {
    auto graph = parse_graph(kText), regions = parse_graph(kText);
    form_regions(*regions);
    ASSERT_EQ(form_and_chain(*graph), 1);
    inline_region(*graph, graph->node_list().front());
    check(*graph);
    EXPECT_EQ(print(*graph), print(*regions));
}

TEST(ChainConvolutions, FlatBodyHasPrimitiveOpsOnly) {
    auto graph = parse_graph(kText);
    form_and_chain(*graph);
    const auto body = flat_body(*graph->node_list().front());
    std::string ops;
    for (const auto& node : body->nodes()) ops += std::string(node->op().name) + " ";
    EXPECT_EQ(ops, "Conv Relu Conv Conv Add ");
}

// A value that somebody else reads must exist as a whole.
TEST(ChainConvolutions, NearMisses) {
    for (std::string_view tail : {"output %r", "output %d", "%q = Exp(%r) output %q"}) {
        std::string text(kText);
        text.insert(text.rfind('}'), std::string(tail) + "\n");
        auto graph = parse_graph(text);
        form_and_chain(*graph);
        for (const Node* node : graph->node_list()) {
            if (!node->is("Region", "planish") || node->text("kind") != "conv_chain") continue;
            EXPECT_EQ(node->subgraph("body")->nodes().size(), 2u) << tail;
        }
        check(*graph);
    }
}

}  // namespace
}  // namespace planish::passes::testing
