// Graph wiring, order, checker and text form.
#include "ir/graph.hpp"

#include <gtest/gtest.h>

#include "planish/error.hpp"

namespace planish {
namespace {

Type f32(Shape shape) {
    return {Kind::tensor, DType::f32, std::move(shape), Kind::tensor};
}

TEST(Graph, InfersTypesAndTracksUses) {
    Graph g;
    Value* x = g.add_input("x", f32({Dim::symbol("N"), 4}));
    Node* relu = g.add_node("Relu", {x}, {}, 1, "act");
    Node* add = g.add_node("Add", {x, relu->output()});
    g.add_output(add->output());
    EXPECT_EQ(to_string(add->output()->type), "float32[N, 4]");
    EXPECT_EQ(x->uses.size(), 2u);
    EXPECT_EQ(relu->output()->uses.size(), 1u);
    check(g);
    EXPECT_THROW(g.erase(relu), Error);  // still used
    g.replace_all_uses(relu->output(), x);
    g.erase(relu);
    EXPECT_EQ(x->uses.size(), 2u);
    check(g);
}

TEST(Graph, OutputsKeepTheirNames) {
    Graph g;
    Value* x = g.add_input("x", f32({2}));
    Node* a = g.add_node("Relu", {x}, {}, 1, "a");
    Node* b = g.add_node("Identity", {a->output()}, {}, 1, "b", nullptr, "", {"result"});
    g.add_output(b->output());
    g.replace_all_uses(b->output(), a->output());
    g.erase(b);
    EXPECT_EQ(g.outputs()[0]->name, "result");
    // An input that becomes an output needs a copy: both names are part of the interface.
    g.replace_all_uses(g.outputs()[0], x);
    EXPECT_EQ(g.outputs()[0]->name, "result");
    EXPECT_NE(g.outputs()[0], x);
    check(g);
}

TEST(Graph, UnknownOpAndWrongArityName) {
    Graph g;
    Value* x = g.add_input("x", f32({2}));
    try {
        g.add_node("NoSuchOp", {x}, {}, 1, "layer7");
        FAIL();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::unsupported);
        EXPECT_NE(e.message().find("layer7"), std::string::npos);
    }
    EXPECT_THROW(g.add_node("Add", {x}, {}, 1, "lonely"), Error);
    EXPECT_TRUE(g.nodes().empty());  // a refused node leaves nothing behind
    EXPECT_TRUE(x->uses.empty());
}

TEST(Graph, SortRestoresOrderAndFindsCycles) {
    Graph g;
    Value* x = g.add_input("x", f32({2}));
    Node* a = g.add_node("Relu", {x}, {}, 1, "a");
    Node* b = g.add_node("Abs", {x}, {}, 1, "b");
    Node* c = g.add_node("Relu", {b->output()}, {}, 1, "c");
    g.add_output(a->output());
    g.set_input(a, 0, c->output());
    EXPECT_THROW(check(g), Error);
    g.sort();
    check(g);
    EXPECT_EQ(g.node_list(), (std::vector<Node*>{b, c, a}));
    g.set_input(b, 0, a->output());
    EXPECT_THROW(g.sort(), Error);
}

TEST(Graph, CloneIsDeepAndDropsDeadConstants) {
    Graph g;
    Value* x = g.add_input("x", f32({2}));
    Value* w = g.add_constant("w", Tensor::from<float>(std::vector<float>{1, 2}, {2}));
    g.add_constant("dead", Tensor::scalar(1.0f));
    g.add_output(g.add_node("Add", {x, w})->output());
    const auto copy = g.clone();
    check(*copy);
    EXPECT_EQ(print(*copy).find("dead"), std::string::npos);
    EXPECT_EQ(copy->find_value("w")->constant, w->constant);  // memory is shared
    copy->find_value("x")->type.shape = Shape{3};
    EXPECT_EQ(to_string(x->type), "float32[2]");
}

TEST(Check, FindsWhatWasBroken) {
    auto graph = [] { return parse_graph(R"(graph "g" { input %x : float32[2] %y = Relu(%x) output %y })"); };
    {
        const auto g = graph();
        g->find_value("y")->type.dtype = DType::i64;
        EXPECT_THROW(check(*g), Error);
    }
    {
        const auto g = graph();
        g->find_value("y")->type.shape = Shape{3};
        EXPECT_THROW(check(*g), Error);
    }
    {
        const auto g = graph();
        g->find_value("x")->uses.clear();
        EXPECT_THROW(check(*g), Error);
    }
    {
        const auto g = graph();
        g->nodes().front()->attributes["alpha"] = 1.0;
        EXPECT_THROW(check(*g), Error);
    }
}

constexpr const char* kText = R"(graph "g" {
  input %x : float32[N, 3, floor(H + 1, 2), ?7]
  input %"a name" : int64[*]
  const %w : float32[2] = [0.5, -inf]
  const %i : int64[1] = [9223372036854775807]
  %y = Relu(%x) name "layer \"1\"" origins ["a", "b"] : float32[N, 3, floor(H + 1, 2), ?7]
  %z = planish.Region(%y) {body = graph "body" {
    input %p : float32[N]
    %q = Relu(%p) : float32[N]
    output %q
  }, kind = "pointwise"} : float32[N]
  output %z, %w
}
)";

TEST(Text, PrintsWhatItParsed) {
    const auto g = parse_graph(kText);
    const std::string once = print(*g);
    EXPECT_EQ(print(*parse_graph(once)), once);
    EXPECT_NE(once.find("float32[N, 3, floor(H + 1, 2), ?7]"), std::string::npos);
    EXPECT_NE(once.find("[9223372036854775807]"), std::string::npos);
    EXPECT_NE(once.find("[0.5, -inf]"), std::string::npos);
}

TEST(Text, LargeConstantsPrintAsAHash) {
    Graph g;
    g.add_output(g.add_constant("w", Tensor(DType::f32, {100})));
    EXPECT_NE(print(g).find("dense<"), std::string::npos);
    EXPECT_EQ(parse_graph(print(g))->find_value("w")->constant->size(), 100);
    EXPECT_EQ(print(g, -1).find("dense<"), std::string::npos);
}

TEST(Text, EveryTruncationIsAnErrorWithALine) {
    const std::string text = kText;
    for (size_t n = 0; n + 2 < text.size(); ++n) {
        try {
            parse_graph(text.substr(0, n));
            FAIL() << "accepted " << n << " characters";
        } catch (const Error& e) {
            EXPECT_NE(e.code(), ErrorCode::internal) << e.what();
        }
    }
}

}  // namespace
}  // namespace planish
