// Shape rules of data movement: symbolic sizes stay exact through shape arithmetic.
#include <gtest/gtest.h>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

std::string type_of_output(std::string_view body, std::string_view input = "float32[N, S, 12]") {
    const auto graph =
        parse_graph("graph \"g\" {\n input %x : " + std::string(input) + "\n" + std::string(body) + "\n output %y\n}");
    check(*graph);
    return to_string(graph->outputs()[0]->type);
}

TEST(InferTensor, ShapeArithmeticStaysSymbolic) {
    // x.reshape(x.size(0), x.size(1), 3, -1)
    EXPECT_EQ(type_of_output(R"(
 const %i : int64[2] = [0, 1]
 const %tail : int64[2] = [3, -1]
 %s = Shape(%x)
 %ns = Gather(%s, %i)
 %t = Concat(%ns, %tail) {axis = 0}
 %y = Reshape(%x, %t))"),
              "float32[N, S, 3, 4]");
    // x.reshape(n * s, 12) and back
    EXPECT_EQ(type_of_output(R"(
 const %t : int64[2] = [-1, 12]
 %f = Reshape(%x, %t)
 %s = Shape(%x)
 %y = Reshape(%f, %s))"),
              "float32[N, S, 12]");
    // torch.zeros(x.size(1) + 1, x.size(0) // 2)
    EXPECT_EQ(type_of_output(R"(
 const %one : int64[1] = [1]
 const %two : int64[1] = [2]
 %n = Shape(%x) {end = 1}
 %s = Shape(%x) {start = 1, end = 2}
 %a = Add(%s, %one)
 %b = Div(%n, %two)
 %t = Concat(%a, %b) {axis = 0}
 %y = ConstantOfShape(%t))"),
              "float32[S + 1, floor(N, 2)]");
}

TEST(InferTensor, ExpandByWhereOfMinusOne) {
    // torch's expand(-1, ...): Where(shape == -1, 1, shape).
    EXPECT_EQ(type_of_output(R"(
 const %m : int64[3] = [-1, -1, -1]
 const %one : int64[3] = [1, 1, 1]
 const %c : float32[1, 1, 12] = dense<0>
 %s = Shape(%x)
 %e = Equal(%s, %m)
 %t = Where(%e, %one, %s)
 %y = Expand(%c, %t))"),
              "float32[N, S, 12]");
}

TEST(InferTensor, SlicesOfSymbolicAxes) {
    const auto slice = [](int64_t start, int64_t end) {
        return " const %a : int64[1] = [1]  const %b : int64[1] = [" + std::to_string(start) +
               "]  const %e : int64[1] = [" + std::to_string(end) + "]\n %y = Slice(%x, %b, %e, %a)";
    };
    EXPECT_EQ(type_of_output(slice(0, INT64_MAX)), "float32[N, S, 12]");
    EXPECT_EQ(type_of_output(slice(2, INT64_MAX)), "float32[N, S - 2, 12]");
    EXPECT_EQ(type_of_output(slice(0, -1)), "float32[N, S - 1, 12]");
    EXPECT_EQ(type_of_output(slice(-1, INT64_MAX)), "float32[N, 1, 12]");
    // A table sliced to the sequence length has the sequence's length.
    EXPECT_EQ(type_of_output(R"(
 const %table : float32[512, 4] = dense<0>
 const %zero : int64[1] = [0]
 %s = Shape(%x) {start = 1, end = 2}
 %y = Slice(%table, %zero, %s))"),
              "float32[S, 4]");
}

TEST(InferTensor, SlicesFromSymbolicPlaces) {
    // x[:, s - 2:] has two elements; x[:, -n:] has n of them only where n is not above s.
    EXPECT_EQ(type_of_output(R"(
 const %a : int64[1] = [1]
 const %two : int64[1] = [2]
 const %far : int64[1] = [9223372036854775807]
 %s = Shape(%x) {start = 1, end = 2}
 %b = Sub(%s, %two)
 %y = Slice(%x, %b, %far, %a))"),
              "float32[N, 2, 12]");
    const std::string type = type_of_output(R"(
 const %a : int64[1] = [1]
 const %zero : int64[1] = [0]
 const %far : int64[1] = [9223372036854775807]
 %n = Shape(%x) {end = 1}
 %b = Sub(%zero, %n)
 %y = Slice(%x, %b, %far, %a))");
    EXPECT_NE(type.find('?'), std::string::npos) << type;
}

TEST(InferTensor, PartsAndBlocks) {
    EXPECT_EQ(type_of_output("%a, %y = Split(%x) {axis = 2, num_outputs = 2}"), "float32[N, S, 6]");
    EXPECT_EQ(type_of_output("%y = DepthToSpace(%x) {blocksize = 2}", "float32[N, 12, H, W]"),
              "float32[N, 3, 2*H, 2*W]");
    EXPECT_EQ(type_of_output("const %p : int64[6] = [0, 1, 0, 0, 1, 2]  %y = Pad(%x, %p)"), "float32[N, S + 2, 14]");
    EXPECT_EQ(type_of_output("%y = Flatten(%x) {axis = 2}"), "float32[N*S, 12]");
    EXPECT_EQ(type_of_output("const %a : int64[2] = [0, -1]  %y = Unsqueeze(%x, %a)"), "float32[1, N, S, 12, 1]");
}

TEST(InferTensor, ContradictionsNameTheNode) {
    for (std::string_view body : {
             R"(const %t : int64[2] = [5, 5]  %y = Reshape(%x, %t) name "here")",
             R"(%y = Transpose(%x) {perm = [0, 0, 1]} name "here")",
             R"(const %a : int64[1] = [2]  %y = Squeeze(%x, %a) name "here")",
             R"(%y = Flatten(%x) {axis = 7} name "here")",
             R"(const %c : int64[2, 3] = [1, 2, 3, 4, 5, 6]  %y = Concat(%x, %c) {axis = 0} name "here")",
         }) {
        try {
            type_of_output(body, "float32[2, 3, 4]");
            ADD_FAILURE() << body;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_model) << error.what();
            EXPECT_NE(std::string(error.what()).find("here"), std::string::npos) << error.what();
        }
    }
}

TEST(InferTensor, BodiesAreTypedByWhatIsGivenToThem) {
    const auto graph = parse_graph(R"(graph "g" {
  input %x : float32[N, 4]
  input %n : int64[]
  const %go : bool[] = [1]
  %same, %grown, %all = Loop(%n, %go, %x, %x) {body = graph "b" {
    input %i : int64[]
    input %c : bool[]
    input %a : float32[*]
    input %b : float32[*]
    %k = Identity(%c)
    %r = Relu(%a)
    %s = Concat(%b, %a) {axis = 0}
    %e = Identity(%r)
    output %k
    output %r
    output %s
    output %e
  }}
  output %same
  output %grown
  output %all
})");
    check(*graph);
    EXPECT_EQ(to_string(graph->outputs()[0]->type), "float32[N, 4]");
    // The second grows with every iteration: its first size is not known.
    ASSERT_TRUE(graph->outputs()[1]->type.shape);
    EXPECT_TRUE((*graph->outputs()[1]->type.shape)[0].contains_unknown());
    EXPECT_EQ((*graph->outputs()[1]->type.shape)[1], Dim(4));
    EXPECT_EQ(graph->outputs()[2]->type.shape->size(), 3u);
}

}  // namespace
}  // namespace planish
