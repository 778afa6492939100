// Reference functions of data movement, selection and creation, against results worked out by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "reference/interpreter.hpp"

namespace planish {
namespace {

struct Case {
    std::string_view name;
    std::string_view body;  // constants and nodes; the result is %y
    Dims dims;
    std::vector<double> values;
};

Tensor evaluate(std::string_view body) {
    const auto graph = parse_graph("graph \"g\" {\n" + std::string(body) + "\n output %y\n}");
    check(*graph);
    return reference::run_graph(*graph, std::map<std::string, Tensor>{}).at("y");
}

const Case kCases[] = {
    {"Shape", "const %x : float32[2, 3] = [1., 2., 3., 4., 5., 6.]  %y = Shape(%x) {start = -1}", {1}, {3}},
    {"Reshape: 0 copies, -1 is inferred",
     "const %x : float32[2, 3] = [1., 2., 3., 4., 5., 6.]  const %s : int64[3] = [0, -1, 1]  %y = Reshape(%x, %s)",
     {2, 3, 1},
     {1, 2, 3, 4, 5, 6}},
    {"Transpose",
     "const %x : float32[2, 3] = [1., 2., 3., 4., 5., 6.]  %y = Transpose(%x)",
     {3, 2},
     {1, 4, 2, 5, 3, 6}},
    {"Concat",
     "const %a : int64[2, 1] = [1, 2]  const %b : int64[2, 2] = [3, 4, 5, 6]  %y = Concat(%a, %b) {axis = -1}",
     {2, 3},
     {1, 3, 4, 2, 5, 6}},
    {"Split: the last part is smaller",
     "const %x : int64[5] = [1, 2, 3, 4, 5]  %a, %b, %y = Split(%x) {num_outputs = 3}",
     {1},
     {5}},
    {"Slice: backwards to the front",
     "const %x : int64[5] = [1, 2, 3, 4, 5]  const %s : int64[1] = [-1]  const %e : int64[1] = [-100]\n"
     "const %a : int64[1] = [0]  const %t : int64[1] = [-2]  %y = Slice(%x, %s, %e, %a, %t)",
     {3},
     {5, 3, 1}},
    {"Slice: out of range is empty",
     "const %x : int64[5] = [1, 2, 3, 4, 5]  const %s : int64[1] = [4]  const %e : int64[1] = [2]  %y = Slice(%x, %s, "
     "%e)",
     {0},
     {}},
    {"Expand",
     "const %x : int64[2, 1] = [1, 2]  const %s : int64[3] = [2, 1, 2]  %y = Expand(%x, %s)",
     {2, 2, 2},
     {1, 1, 2, 2, 1, 1, 2, 2}},
    {"Tile", "const %x : int64[2] = [1, 2]  const %r : int64[1] = [3]  %y = Tile(%x, %r)", {6}, {1, 2, 1, 2, 1, 2}},
    {"Pad: constant and cropping",
     "const %x : int64[3] = [1, 2, 3]  const %p : int64[2] = [2, -1]  const %v : int64[] = [9]  %y = Pad(%x, %p, %v)",
     {4},
     {9, 9, 1, 2}},
    {"Pad: reflect",
     "const %x : int64[3] = [1, 2, 3]  const %p : int64[2] = [2, 1]  %y = Pad(%x, %p) {mode = \"reflect\"}",
     {6},
     {3, 2, 1, 2, 3, 2}},
    {"Pad: edge",
     "const %x : int64[3] = [1, 2, 3]  const %p : int64[2] = [1, 2]  %y = Pad(%x, %p) {mode = \"edge\"}",
     {6},
     {1, 1, 2, 3, 3, 3}},
    {"Pad: wrap",
     "const %x : int64[3] = [1, 2, 3]  const %p : int64[2] = [2, 2]  %y = Pad(%x, %p) {mode = \"wrap\"}",
     {7},
     {2, 3, 1, 2, 3, 1, 2}},
    {"CenterCropPad",
     "const %x : int64[5] = [1, 2, 3, 4, 5]  const %s : int64[1] = [3]  %y = CenterCropPad(%x, %s)",
     {3},
     {2, 3, 4}},
    {"DepthToSpace: DCR",
     "const %x : int64[1, 4, 1, 2] = [1, 2, 3, 4, 5, 6, 7, 8]  %y = DepthToSpace(%x) {blocksize = 2}",
     {1, 1, 2, 4},
     {1, 3, 2, 4, 5, 7, 6, 8}},
    {"SpaceToDepth undoes it",
     "const %x : int64[1, 1, 2, 4] = [1, 3, 2, 4, 5, 7, 6, 8]  %y = SpaceToDepth(%x) {blocksize = 2}",
     {1, 4, 1, 2},
     {1, 2, 3, 4, 5, 6, 7, 8}},
    {"ReverseSequence",
     "const %x : int64[2, 3] = [1, 2, 3, 4, 5, 6]  const %l : int64[2] = [2, 3]\n"
     "%y = ReverseSequence(%x, %l) {batch_axis = 0, time_axis = 1}",
     {2, 3},
     {2, 1, 3, 6, 5, 4}},
    {"Trilu: lower, below the diagonal",
     "const %x : int64[2, 3] = [1, 2, 3, 4, 5, 6]  const %k : int64[] = [-1]  %y = Trilu(%x, %k) {upper = 0}",
     {2, 3},
     {0, 0, 0, 4, 0, 0}},
    {"Gather: negative index",
     "const %x : int64[3, 2] = [1, 2, 3, 4, 5, 6]  const %i : int64[2] = [-1, 0]  %y = Gather(%x, %i)",
     {2, 2},
     {5, 6, 1, 2}},
    {"GatherElements",
     "const %x : int64[2, 2] = [1, 2, 3, 4]  const %i : int64[2, 2] = [0, 0, 1, 0]  %y = GatherElements(%x, %i) {axis "
     "= 1}",
     {2, 2},
     {1, 1, 4, 3}},
    {"GatherND with batches",
     "const %x : int64[2, 2, 2] = [0, 1, 2, 3, 4, 5, 6, 7]  const %i : int64[2, 1] = [1, 0]\n"
     "%y = GatherND(%x, %i) {batch_dims = 1}",
     {2, 2},
     {2, 3, 4, 5}},
    {"ScatterElements: add",
     "const %x : int64[3] = [1, 2, 3]  const %i : int64[3] = [1, 1, -1]  const %u : int64[3] = [10, 20, 30]\n"
     "%y = ScatterElements(%x, %i, %u) {reduction = \"add\"}",
     {3},
     {1, 32, 33}},
    {"ScatterND",
     "const %x : int64[2, 2] = [1, 2, 3, 4]  const %i : int64[1, 1] = [1]  const %u : int64[1, 2] = [8, 9]  %y = "
     "ScatterND(%x, %i, %u)",
     {2, 2},
     {1, 2, 8, 9}},
    {"Compress",
     "const %x : int64[3, 2] = [1, 2, 3, 4, 5, 6]  const %c : bool[3] = [0, 1, 1]  %y = Compress(%x, %c) {axis = 0}",
     {2, 2},
     {3, 4, 5, 6}},
    {"NonZero", "const %x : float32[2, 2] = [0., 1., 2., 0.]  %y = NonZero(%x)", {2, 2}, {0, 1, 1, 0}},
    {"TopK: ties go to the lower index",
     "const %x : float32[4] = [1., 3., 3., 2.]  const %k : int64[1] = [3]  %v, %y = TopK(%x, %k)",
     {3},
     {1, 2, 3}},
    {"Unique: inverse", "const %x : int64[4] = [3, 1, 3, 2]  %v, %f, %y = Unique(%x)", {4}, {2, 0, 2, 1}},
    {"Unique: first appearance", "const %x : int64[4] = [3, 1, 3, 2]  %y = Unique(%x) {sorted = 0}", {3}, {3, 1, 2}},
    {"NonMaxSuppression",
     "const %b : float32[1, 3, 4] = [0., 0., 1., 1., 0., 0.1, 1., 1.1, 0., 10., 1., 11.]\n"
     "const %s : float32[1, 1, 3] = [0.9, 0.75, 0.6]  const %n : int64[1] = [3]  const %t : float32[1] = [0.5]\n"
     "%y = NonMaxSuppression(%b, %s, %n, %t)",
     {2, 3},
     {0, 0, 0, 0, 0, 2}},
    {"Cast: float to int truncates",
     "const %x : float32[3] = [1.9, -1.9, 0.5]  %y = Cast(%x) {to = 7}",
     {3},
     {1, -1, 0}},
    {"Cast: to float16 overflows to infinity",
     "const %x : float32[1] = [100000.0]  %a = Cast(%x) {to = 10}  %y = Cast(%a) {to = 1}",
     {1},
     {HUGE_VAL}},
    {"Cast: to float8 saturates",
     "const %x : float32[1] = [100000.0]  %a = Cast(%x) {to = 17}  %y = Cast(%a) {to = 1}",
     {1},
     {448}},
    {"Cast: by way of text",
     "const %x : float32[2] = [0.1, -3.0]  %a = Cast(%x) {to = 8}  %y = Cast(%a) {to = 11}",
     {2},
     {0.1, -3}},
    {"BitCast", "const %x : float32[1] = [1.0]  %y = BitCast(%x) {to = 6}", {1}, {0x3f800000}},
    {"ConstantOfShape", "const %s : int64[2] = [1, 2]  %y = ConstantOfShape(%s)", {1, 2}, {0, 0}},
    {"Range: downwards",
     "const %s : int64[] = [5]  const %l : int64[] = [0]  const %d : int64[] = [-2]  %y = Range(%s, %l, %d)",
     {3},
     {5, 3, 1}},
    {"OneHot: out of range is all off",
     "const %i : int64[3] = [0, -1, 7]  const %d : int64[] = [2]  const %v : float32[2] = [0., 1.]  %y = OneHot(%i, "
     "%d, %v)",
     {3, 2},
     {1, 0, 0, 1, 0, 0}},
    {"EyeLike",
     "const %x : float32[2, 3] = [1., 2., 3., 4., 5., 6.]  %y = EyeLike(%x) {k = 1}",
     {2, 3},
     {0, 1, 0, 0, 0, 1}},
};

TEST(TensorOps, MatchResultsWorkedOutByHand) {
    for (const Case& c : kCases) {
        SCOPED_TRACE(c.name);
        const Tensor y = evaluate(c.body);
        EXPECT_EQ(y.dims(), c.dims);
        ASSERT_EQ(y.size(), static_cast<int64_t>(c.values.size()));
        for (int64_t i = 0; i < y.size(); ++i)
            EXPECT_EQ(y.at_double(i), c.values[static_cast<size_t>(i)]) << "at " << i;
    }
}

TEST(TensorOps, RandomNumbersRepeatAndDependOnTheSeed) {
    const Tensor a = evaluate("%y = RandomNormal() {shape = [1000], seed = 1.0}");
    const Tensor b = evaluate("%y = RandomNormal() {shape = [1000], seed = 1.0}");
    const Tensor c = evaluate("%y = RandomNormal() {shape = [1000], seed = 2.0}");
    EXPECT_TRUE(identical(a, b));
    EXPECT_FALSE(identical(a, c));
    double mean = 0, square = 0;
    for (double v : a.to_doubles()) mean += v / 1000, square += v * v / 1000;
    EXPECT_NEAR(mean, 0, 5 / std::sqrt(1000.0));        // five standard deviations of the mean
    EXPECT_NEAR(square, 1, 5 * std::sqrt(2 / 1000.0));  // and of the variance
}

TEST(TensorOps, PackedTypesMoveElementByElement) {
    Tensor x(DType::i4, {2, 3});
    for (int64_t i = 0; i < 6; ++i) x.set_double(i, static_cast<double>(i) - 3);
    Graph graph("g");
    Value* input = graph.add_input("x", {Kind::tensor, DType::i4, to_shape({2, 3}), Kind::tensor});
    graph.add_output(graph.add_node("Transpose", {input})->output());
    const Tensor y = reference::run_graph(graph, std::vector<RefValue>{x})[0].tensor;
    EXPECT_EQ(y.to_doubles(), (std::vector<double>{-3, 0, -2, 1, -1, 2}));
}

TEST(TensorOps, Text) {
    const Tensor x = Tensor::from_strings({"a b", "c"}, {2});
    Graph graph("g");
    Value* input = graph.add_input("x", {Kind::tensor, DType::string, to_shape({2}), Kind::tensor});
    graph.add_output(graph.add_node("StringSplit", {input}, {}, 2)->output(0));
    graph.add_output(graph.add_node("RegexFullMatch", {input}, {{"pattern", std::string("[a-z]")}})->output());
    graph.add_output(graph.add_node("StringConcat", {input, input})->output());
    const auto out = reference::run_graph(graph, std::vector<RefValue>{x});
    EXPECT_EQ(out[0].tensor.strings(), (std::vector<std::string>{"a", "b", "c", ""}));
    EXPECT_EQ(out[1].tensor.to_doubles(), (std::vector<double>{0, 1}));
    EXPECT_EQ(out[2].tensor.strings(), (std::vector<std::string>{"a ba b", "cc"}));
}

}  // namespace
}  // namespace planish
