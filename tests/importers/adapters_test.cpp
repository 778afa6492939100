// Models of old opsets come out as nodes of the newest one.
#include <gmock/gmock.h>

#include "importers/onnx_text.hpp"

namespace planish::test {
namespace {

using testing::ElementsAre;
using Ints = std::vector<int64_t>;

std::vector<std::string> ops(const Graph& graph) {
    std::vector<std::string> names;
    for (const auto& node : graph.nodes()) names.emplace_back(node->op().name);
    return names;
}

Node& only_node(const Graph& graph) {
    EXPECT_EQ(graph.nodes().size(), 1u) << print(graph);
    return *graph.nodes().front();
}

Ints constant_input(const Node& node, int i) {
    const Value* value = node.input(i);
    EXPECT_TRUE(value && value->is_constant()) << node.name << " input " << i;
    return value && value->is_constant() ? value->constant->to_int64s() : Ints{};
}

std::unique_ptr<Graph> import_opset(int opset, const std::string& body) {
    return import_text(with_opset(opset, body));
}

TEST(Adapters, AxesBecomeAnInput) {
    for (const char* op : {"ReduceSum", "ReduceMean", "ReduceL2", "Squeeze", "Unsqueeze"}) {
        const auto graph =
            import_opset(11, "g (float[2, 1, 4] x) => (float[N] y) { y = " + std::string(op) + " <axes = [1]> (x) }");
        EXPECT_THAT(constant_input(only_node(*graph), 1), ElementsAre(1)) << op;
        EXPECT_FALSE(only_node(*graph).attributes.contains("axes")) << op;
    }
    const auto later =
        import_opset(13, "g (float[2, 1, 4] x) => (float[N] y) { y = ReduceMean <axes = [1], keepdims = 0> (x) }");
    EXPECT_THAT(constant_input(only_node(*later), 1), ElementsAre(1));
    EXPECT_EQ(only_node(*later).integer("keepdims"), 0);
    const auto all = import_opset(11, "g (float[2, 3] x) => (float[N] y) { y = ReduceSum(x) }");
    EXPECT_EQ(only_node(*all).input_count(), 1);
}

TEST(Adapters, SlicePadClipSplitTopK) {
    const auto slice =
        import_opset(9, "g (float[9, 9] x) => (float[N] y) { y = Slice <starts = [1], ends = [5], axes = [0]> (x) }");
    EXPECT_THAT(constant_input(only_node(*slice), 1), ElementsAre(1));
    EXPECT_THAT(constant_input(only_node(*slice), 2), ElementsAre(5));
    EXPECT_THAT(constant_input(only_node(*slice), 3), ElementsAre(0));

    const auto pad = import_opset(
        10, "g (float[4] x) => (float[N] y) { y = Pad <pads = [1, 2], value = 3.0, mode = \"constant\"> (x) }");
    EXPECT_THAT(constant_input(only_node(*pad), 1), ElementsAre(1, 2));
    EXPECT_EQ(only_node(*pad).input(2)->constant->at_double(0), 3.0);

    const auto clip = import_opset(10, "g (float[4] x) => (float[N] y) { y = Clip <max = 6.0> (x) }");
    EXPECT_EQ(only_node(*clip).input(1), nullptr);
    EXPECT_EQ(only_node(*clip).input(2)->constant->at_double(0), 6.0);

    const auto parts = import_opset(11, "g (float[4] x) => (float[N] a, float[M] b) { a, b = Split <axis = 0> (x) }");
    EXPECT_EQ(only_node(*parts).integer("num_outputs"), 2);
    const auto smaller = import_opset(
        10, "g (float[1, 1, 4, 4] x) => (float[A, B, C, D] y) <float[4] s = {1, 1, 0.5, 0.5}> { y = Resize(x, s) }");
    EXPECT_EQ(only_node(*smaller).text("nearest_mode"), "ceil");
    const auto sizes =
        import_opset(11, "g (float[4] x) => (float[N] a, float[M] b) { a, b = Split <split = [1, 3]> (x) }");
    EXPECT_THAT(constant_input(only_node(*sizes), 1), ElementsAre(1, 3));
    EXPECT_FALSE(only_node(*sizes).attributes.contains("num_outputs"));

    const auto top = import_opset(9, "g (float[4] x) => (float[N] a, int64[N] b) { a, b = TopK <k = 2> (x) }");
    EXPECT_THAT(constant_input(only_node(*top), 1), ElementsAre(2));
}

TEST(Adapters, UpsampleAndOldResizeBecomeResize) {
    const auto by_attribute = import_opset(
        8, "g (float[1, 1, 2, 2] x) => (float[A, B, C, D] y) { y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x) }");
    const auto by_input = import_opset(
        9, "g (float[1, 1, 2, 2] x) => (float[A, B, C, D] y) <float[4] s = {1, 1, 2, 2}> { y = Upsample(x, s) }");
    const auto resize = import_opset(
        10, "g (float[1, 1, 2, 2] x) => (float[A, B, C, D] y) <float[4] s = {1, 1, 2, 2}> { y = Resize(x, s) }");
    for (const auto* graph : {&by_attribute, &by_input, &resize}) {
        const Node& node = only_node(**graph);
        EXPECT_TRUE(node.is("Resize"));
        EXPECT_EQ(node.text("coordinate_transformation_mode"), "asymmetric");
        EXPECT_EQ(node.text("nearest_mode"), "floor");
        EXPECT_EQ(node.input(1), nullptr);
        EXPECT_THAT(node.input(2)->constant->to_doubles(), ElementsAre(1, 1, 2, 2));
    }
    const auto sizes =
        import_opset(11,
                     "g (float[1, 1, 2, 2] x) => (float[A, B, C, D] y) <float[0] e = {}, int64[4] n = {1, 1, 4, 4}> "
                     "{ y = Resize(x, e, e, n) }");
    EXPECT_EQ(only_node(*sizes).input(1), nullptr);
    EXPECT_EQ(only_node(*sizes).input(2), nullptr);
    EXPECT_THAT(constant_input(only_node(*sizes), 3), ElementsAre(1, 1, 4, 4));
}

TEST(Adapters, SoftmaxOverSeveralAxes) {
    // The default axis was 1: of a matrix the last one, of more dimensions all from there on at once.
    const auto matrix = import_opset(11, "g (float[N, 10] x) => (float[N, 10] y) { y = Softmax(x) }");
    EXPECT_EQ(only_node(*matrix).integer("axis"), 1);
    const auto image = import_opset(11, "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { y = Softmax(x) }");
    EXPECT_THAT(ops(*image), ElementsAre("Shape", "Flatten", "Softmax", "Reshape"));
    EXPECT_EQ(image->outputs()[0]->name, "y");
    const auto pooled = import_opset(11, "g (float[N, 10, 1, 1] x) => (float[N, 10, 1, 1] y) { y = LogSoftmax(x) }");
    EXPECT_EQ(only_node(*pooled).integer("axis"), 1);
    const auto today = import_opset(13, "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { y = Softmax <axis = 1> (x) }");
    EXPECT_EQ(only_node(*today).integer("axis"), 1);
}

TEST(Adapters, NormalisationsAndDropout) {
    const std::string inputs =
        "<float[3] s = {1, 1, 1}, float[3] b = {0, 0, 0}, float[3] m = {0, 0, 0}, float[3] v = {1, 1, 1}> ";
    const auto spatial =
        import_opset(7, "g (float[N, 3] x) => (float[N, 3] y) " + inputs + "{ y = BatchNormalization(x, s, b, m, v) }");
    EXPECT_TRUE(only_node(*spatial).is("BatchNormalization"));
    const auto places = import_opset(8, "g (float[N, 3] x) => (float[N, 3] y) " + inputs +
                                            "{ y = BatchNormalization <spatial = 0> (x, s, b, m, v) }");
    EXPECT_THAT(ops(*places), testing::Contains("Sqrt"));
    EXPECT_THAT(ops(*places), testing::Not(testing::Contains("BatchNormalization")));

    const auto dropout = import_opset(7, "g (float[N] x) => (float[N] y) { y = Dropout <ratio = 0.3> (x) }");
    EXPECT_EQ(only_node(*dropout).input_count(), 1);
    EXPECT_TRUE(only_node(*dropout).attributes.empty());

    const auto groups =
        import_opset(18,
                     "g (float[N, 4, H] x) => (float[N, 4, H] y) <float[2] s = {1, 2}, float[2] b = {0, 1}> "
                     "{ y = GroupNormalization <num_groups = 2> (x, s, b) }");
    EXPECT_EQ(ops(*groups).back(), "GroupNormalization");
    EXPECT_THAT(ops(*groups), testing::Contains("Tile"));
}

TEST(Adapters, NamesThatChanged) {
    const auto grid = import_opset(16,
                                   "g (float[N, C, H, W] x, float[N, A, B, 2] p) => (float[N, C, A, B] y) { y = "
                                   "GridSample <mode = \"bicubic\"> (x, p) }");
    EXPECT_EQ(only_node(*grid).text("mode"), "cubic");
    const auto scatter =
        import_opset(9, "g (float[N] x, int64[M] i, float[M] u) => (float[N] y) { y = Scatter <axis = 0> (x, i, u) }");
    EXPECT_TRUE(only_node(*scatter).is("ScatterElements"));
    const auto align = import_opset(
        10, "g (float[1, 1, 4, 4] x, float[M, 4] r, int64[M] b) => (float[M, 1, 1, 1] y) { y = RoiAlign(x, r, b) }");
    EXPECT_EQ(only_node(*align).text("coordinate_transformation_mode"), "output_half_pixel");
}

TEST(Adapters, BroadcastingAlongAnAxis) {
    const auto graph = import_opset(
        6, "g (float[N, 3, 4, 4] x, float[3] b) => (float[N, 3, 4, 4] y) { y = Add <broadcast = 1, axis = 1> (x, b) }");
    EXPECT_THAT(ops(*graph), ElementsAre("Unsqueeze", "Add"));
    EXPECT_THAT(constant_input(*graph->nodes().front(), 1), ElementsAre(1, 2));
}

TEST(Adapters, ScanOverABatch) {
    const auto graph =
        import_opset(8, R"(g (float[B, 2] state, float[B, T, 2] x) => (float[B, 2] last, float[B, T, 2] all) {
        last, all = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] e) => (float[2] n, float[2] o) {
            n = Add(s, e)
            o = Identity(n)
        }> ("", state, x)
    })");
    const Node& outer = only_node(*graph);
    EXPECT_EQ(outer.integer("num_scan_inputs"), 2);
    const Node& inner = only_node(*outer.subgraph("body"));
    EXPECT_TRUE(inner.is("Scan"));
    EXPECT_EQ(inner.integer("num_scan_inputs"), 1);
    EXPECT_THAT(ops(*inner.subgraph("body")), ElementsAre("Add", "Identity"));
}

// Every opset from 7 on takes the same small network.
TEST(Adapters, EveryOpsetImports) {
    for (int opset = 7; opset <= 28; ++opset) {
        const auto graph = import_opset(opset,
                                        "g (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4] y) "
                                        "{ c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(c) p = GlobalAveragePool(r) "
                                        "f = Flatten(p) y = Softmax(f) }");
        EXPECT_THAT(ops(*graph), ElementsAre("Conv", "Relu", "GlobalAveragePool", "Flatten", "Softmax")) << opset;
    }
}

}  // namespace
}  // namespace planish::test
