// The interpreter: order, observers, values used twice, errors that name the node.
#include "reference/interpreter.hpp"

#include <gmock/gmock.h>

#include "op_runner.hpp"
#include "planish/error.hpp"

namespace planish::testing {
namespace {

Type floats_of(Shape shape) {
    Type type;
    type.dtype = DType::f32;
    type.shape = std::move(shape);
    return type;
}

TEST(Interpreter, RunsInOrderAndFreesNothingTooEarly) {
    Graph graph;
    Value* x = graph.add_input("x", floats_of({2}));
    Value* doubled = graph.add_node("Add", {x, x})->output();
    Value* squared = graph.add_node("Mul", {doubled, doubled})->output();
    graph.add_output(graph.add_node("Sub", {squared, doubled})->output());
    graph.add_output(doubled);
    graph.add_output(doubled);
    std::vector<std::string> seen;
    const auto out = reference::run_graph(graph, {RefValue(floats({2}, {1, 2}))},
                                          [&](const Value& v, const RefValue&) { seen.push_back(v.name); });
    EXPECT_EQ(seen.size(), 4u);
    EXPECT_EQ(seen.front(), "x");
    EXPECT_EQ(out[0].tensor.to_doubles(), (std::vector<double>{2, 12}));
    EXPECT_EQ(out[1].tensor.to_doubles(), (std::vector<double>{2, 4}));
    EXPECT_TRUE(identical(out[1].tensor, out[2].tensor));
}

TEST(Interpreter, FeedsByNameAreChecked) {
    Graph graph;
    Value* x = graph.add_input("image", floats_of({Dim::symbol("N")}));
    graph.add_output(graph.add_node("Relu", {x}, {}, 1, "", nullptr, "", {"y"})->output());
    const auto out = reference::run_graph(graph, std::map<std::string, Tensor>{{"image", floats({2}, {-1, 1})}});
    EXPECT_EQ(out.at("y").to_doubles(), (std::vector<double>{0, 1}));
    const auto code_of = [&](std::map<std::string, Tensor> feeds) {
        try {
            reference::run_graph(graph, feeds);
        } catch (const Error& e) {
            EXPECT_THAT(e.message(), ::testing::HasSubstr("imag"));
            return e.code();
        }
        return ErrorCode::internal;
    };
    EXPECT_EQ(code_of({}), ErrorCode::invalid_argument);
    EXPECT_EQ(code_of({{"image", ints({1}, {1})}}), ErrorCode::invalid_argument);
    EXPECT_EQ(code_of({{"image", floats({1}, {1})}, {"imago", floats({1}, {1})}}), ErrorCode::invalid_argument);
}

TEST(Interpreter, ErrorsNameTheNode) {
    Graph graph;
    Value* a = graph.add_input("a", floats_of({Dim::symbol("A")}));
    Value* b = graph.add_input("b", floats_of({Dim::symbol("B")}));
    graph.add_output(graph.add_node("Add", {a, b}, {}, 1, "residual_add")->output());
    try {
        reference::run_graph(graph, std::vector<RefValue>{floats({2}, {1, 2}), floats({3}, {1, 2, 3})});
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_THAT(std::string(e.what()), ::testing::HasSubstr("residual_add"));
    }
}

}  // namespace
}  // namespace planish::testing
