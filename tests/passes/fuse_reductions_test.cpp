// Fuse reductions: golden, metamorphic and near misses.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[3, 5]
  input %m : float32[1, 5]
  const %a : int64[1] = [1]
  %d = Sub(%x, %m) name "centre"
  %s = Mul(%d, %d) name "square"
  %y = ReduceSum(%s, %a) name "sum"
  output %y
})";

int form_and_fuse(Graph& graph) {
    form_regions(graph);
    return fuse_reductions(graph);
}

TEST(FuseReductions, Golden) {
    expect_becomes(form_and_fuse, kText, R"(graph "g" {
  input %x : float32[3, 5]
  input %m : float32[1, 5]
  const %a : int64[1] = [1]
  %y = planish.Region(%x, %m) {body = graph "sum" {
    input %x : float32[3, 5]
    input %m : float32[1, 5]
    const %a : int64[1] = [1]
    %s = planish.Region(%x, %m) {body = graph "square" {
      input %x : float32[3, 5]
      input %m : float32[1, 5]
      %d = Sub(%x, %m) name "centre"
      %s = Mul(%d, %d) name "square"
      output %s
    }, kind = "pointwise"} name "square" origins ["centre", "square"]
    %y = ReduceSum(%s, %a) name "sum"
    output %y
  }, kind = "reduction"} name "sum" origins ["centre", "square", "sum"]
  output %y
})");
}

TEST(FuseReductions, KeepsResults) {
    expect_keeps_results(form_and_fuse, kText, 1e-6);
}

TEST(FuseReductions, DissolvingGivesTheRegionsBack) {
    auto graph = parse_graph(kText), regions = parse_graph(kText);
    form_regions(*regions);
    ASSERT_EQ(form_and_fuse(*graph), 1);
    inline_region(*graph, graph->node_list().front());
    check(*graph);
    // Text for text, but for the constant axes, which were inside.
    const auto ops = [](const Graph& g) {
        std::string text;
        for (const auto& node : g.nodes()) text += std::string(node->op().name) + " " + node->name + "; ";
        return text;
    };
    EXPECT_EQ(ops(*graph), ops(*regions));
}

TEST(FuseReductions, OneOperatorIsAnExpressionToo) {
    auto graph = parse_graph(
        R"(graph "g" { input %x : float32[1, 2, 4, 4] %t = Relu(%x) %y = GlobalAveragePool(%t) output %y })");
    EXPECT_EQ(form_and_fuse(*graph), 1);
}

TEST(FuseReductions, NearMisses) {
    for (
        std::string_view text : {
            // Somebody else reads the expression.
            R"(graph "g" { input %x : float32[3, 5] %t = Exp(%x) %y = ReduceSum(%t) %z = Neg(%t) output %y, %z })",
            R"(graph "g" { input %x : float32[3, 5] %t = Exp(%x) %y = ReduceSum(%t) output %y, %t })",
            // No expression, a product's epilogue, axes that are not known.
            R"(graph "g" { input %x : float32[3, 5] %t = Softmax(%x) %y = ReduceMax(%t) output %y })",
            R"(graph "g" { input %x : float32[3, 5] const %w : float32[5, 2] = dense<1> %m = MatMul(%x, %w) %t = Exp(%m) %y = ReduceMax(%t) output %y })",
            R"(graph "g" { input %x : float32[3, 5] input %a : int64[1] %t = Exp(%x) %y = ReduceSum(%t, %a) : float32[3, 1] output %y })",
            // Not float32.
            R"(graph "g" { input %x : float64[3, 5] %t = Exp(%x) %y = ReduceSum(%t) output %y })",
        }) {
        auto graph = parse_graph(text);
        form_regions(*graph);
        EXPECT_EQ(fuse_reductions(*graph), 0) << text;
    }
}

}  // namespace
}  // namespace planish::passes::testing
