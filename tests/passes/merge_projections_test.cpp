// Merge projections and slice attention: golden, metamorphic and near misses.
#include "passes/inline_region.hpp"
#include "passes/pass_testing.hpp"

namespace planish::passes::testing {
namespace {

constexpr std::string_view kText = R"(graph "g" {
  input %x : float32[B, S, 2]
  const %wq : float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %wk : float32[2, 2] = [5.0, 6.0, 7.0, 8.0]
  const %wv : float32[2, 4] = [9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]
  const %bq : float32[2] = [0.1, 0.2]
  const %bk : float32[2] = [0.3, 0.4]
  const %bv : float32[4] = [0.5, 0.6, 0.7, 0.8]
  %qm = MatMul(%x, %wq) name "query"
  %q = Add(%qm, %bq) name "query_bias"
  %km = MatMul(%x, %wk) name "key"
  %k = Add(%bk, %km) name "key_bias"
  %vm = MatMul(%x, %wv) name "value"
  %v = Add(%vm, %bv) name "value_bias"
  %y = Attention(%q, %k, %v) {q_num_heads = 2, kv_num_heads = 2} name "attention"
  output %y
})";

TEST(MergeProjections, Golden) {
    const auto graph = after(merge_projections, kText);
    std::string ops;
    for (const Node* node : graph->node_list()) ops += std::string(node->op().name) + " ";
    EXPECT_EQ(ops, "MatMul Add Slice Slice Slice Attention ");
    const Node* product = graph->node_list()[0];
    EXPECT_EQ(product->origins, (std::vector<std::string>{"query", "key", "value"}));
    const Tensor& weight = *product->input(1)->constant;
    EXPECT_EQ(weight.dims(), (Dims{2, 8}));
    EXPECT_EQ(weight.to_doubles(), (std::vector<double>{1, 2, 5, 6, 9, 10, 11, 12, 3, 4, 7, 8, 13, 14, 15, 16}));
    EXPECT_EQ(graph->node_list()[1]->input(1)->constant->size(), 8);
}

TEST(MergeProjections, KeepsResults) {
    expect_keeps_results(merge_projections, kText, 8 * kUlp);
}

std::string replaced(std::string_view from, std::string_view to) {
    std::string text(kText);
    text.replace(text.find(from), from.size(), to);
    return text;
}

TEST(MergeProjections, NearMisses) {
    expect_unchanged(merge_projections, replaced("output %y", "output %y, %k"));      // K is read elsewhere
    expect_unchanged(merge_projections, replaced("Add(%bk, %km)", "Add(%km, %km)"));  // no bias
    expect_unchanged(merge_projections, replaced("MatMul(%x, %wk)", "MatMul(%z, %wk)")
                                            .replace(12, 0, "input %z : float32[B, S, 2]\n"));  // another input
    expect_unchanged(merge_projections, replaced("MatMul(%x, %wk)", "MatMul(%x, %wq)"));        // shared weights
}

TEST(SliceAttention, MakesARegion) {
    const auto graph = after(merge_projections, kText);
    const auto bound = specialise(*graph, {{2, 5, 2}});
    const Node* last = bound->node_list().back();
    ASSERT_TRUE(last->is("Region", "planish"));
    EXPECT_EQ(last->text("kind"), "attention");
    EXPECT_EQ(last->subgraph("body")->nodes().size(), 4u);
    EXPECT_EQ(last->input_count(), 1);
}

TEST(SliceAttention, DissolvingGivesTheSlicesBack) {
    const auto graph = after(merge_projections, kText);
    auto bound = specialise(*graph, {{2, 5, 2}});
    inline_region(*bound, bound->node_list().back());
    check(*bound);
    EXPECT_TRUE(bound->node_list().back()->is("Attention"));
}

TEST(SliceAttention, LeavesOtherSlices) {
    for (std::string_view axis : {"1", "0"}) {
        const std::string text = R"(graph "g" { input %x : float32[2, 8, 4] const %zero : int64[1] = [0]
            const %two : int64[1] = [2] const %axis : int64[1] = [)" +
                                 std::string(axis) + R"(]
            %q = Slice(%x, %zero, %two, %axis) %y = Attention(%q, %q, %q) {q_num_heads = 2, kv_num_heads = 2} output %y })";
        expect_unchanged(slice_attention, text);
    }
}

}  // namespace
}  // namespace planish::passes::testing
