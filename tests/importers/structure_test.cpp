// Names, constants, functions, subgraphs and types of imported graphs.
#include <gmock/gmock.h>

#include "importers/onnx/importer.hpp"
#include "importers/onnx_text.hpp"

namespace planish::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(std::span<Value* const> values) {
    std::vector<std::string> result;
    for (const Value* value : values) result.push_back(value ? value->name : "");
    return result;
}

const Node& node_of(const Graph& graph, std::string_view op) {
    for (const auto& node : graph.nodes())
        if (node->op().name == op) return *node;
    fail(ErrorCode::not_found, "no " + std::string(op) + " in\n" + print(graph));
}

TEST(Structure, NamesTypesAndMetadata) {
    auto model = parse_model(
        with_opset(17, "net (float[N, 3] x, float[N, 3] y) => (float[N, 3] z) { [sum] t = Add(x, y) z = Relu(t) }"));
    model.set_producer_name("pytorch");
    auto& entry = *model.add_metadata_props();
    entry.set_key("author");
    entry.set_value("me");
    const auto graph = import_model(model);
    EXPECT_EQ(graph->name, "net");
    EXPECT_THAT(names(graph->inputs()), ElementsAre("x", "y"));
    EXPECT_THAT(names(graph->outputs()), ElementsAre("z"));
    EXPECT_EQ(to_string(graph->inputs()[0]->type), "float32[N, 3]");
    EXPECT_EQ(node_of(*graph, "Add").name, "sum");
    EXPECT_EQ(node_of(*graph, "Relu").name, "Relu(z)");
    using Pair = std::pair<std::string, std::string>;
    EXPECT_THAT(graph->metadata, testing::IsSupersetOf({Pair("onnx.producer_name", "pytorch"), Pair("author", "me"),
                                                        Pair("onnx.opset", "17")}));
}

TEST(Structure, DimensionsWithoutNamesAreDifferentSymbols) {
    auto model = parse_model(with_opset(17, "net (float[?, 3] x, float[?, 3] y) => (float[N, 3] z) { z = Add(x, y) }"));
    const auto graph = import_model(model);
    const Dim a = (*graph->inputs()[0]->type.shape)[0], b = (*graph->inputs()[1]->type.shape)[0];
    EXPECT_TRUE(a.is_symbol() && b.is_symbol());
    EXPECT_FALSE(a == b);
}

TEST(Structure, OutputsKeepTheirNames) {
    const auto graph = import_text(
        with_opset(17,
                   "net (float[N] x) => (float[N] x, float[2] c, float[N] a, float[N] b) <float[2] c = {1, 2}> "
                   "{ a = Relu(x) b = Identity(a) }"));
    EXPECT_THAT(names(graph->outputs()), ElementsAre("x", "c", "a", "b"));
}

TEST(Structure, InputsWithInitializersAreConstants) {
    const auto graph = import_text(
        with_opset(17, "net (float[2] x, float[2] w) => (float[2] z) <float[2] w = {1, 2}> { z = Add(x, w) }"));
    EXPECT_THAT(names(graph->inputs()), ElementsAre("x"));
    EXPECT_TRUE(graph->find_value("w")->is_constant());
}

TEST(Structure, NodesOutOfOrderAreSorted) {
    const auto graph =
        import_text(with_opset(17, "net (float[N] x) => (float[N] z) { z = Relu(b) b = Add(a, x) a = Relu(x) }"));
    EXPECT_EQ(graph->nodes().size(), 3u);
    EXPECT_EQ(graph->nodes().back()->output()->name, "z");
}

TEST(Structure, ConstantNodesOfEveryKind) {
    const auto graph = import_text(with_opset(
        17,
        "net (float[2] x) => (float[2] z) { a = Constant <value = float[2] {1, 2}> () b = Constant <value_float = 3.0> "
        "() "
        "c = Constant <value_int = 4> () d = Constant <value_floats = [5.0, 6.0]> () e = Constant <value_ints = [7, "
        "8]> () "
        "f = Constant <value_string = \"s\"> () g = Constant <value_strings = [\"t\", \"u\"]> () z = Add(x, a) }"));
    auto constant = [&](const char* name) { return *graph->find_value(name)->constant; };
    EXPECT_THAT(constant("a").to_doubles(), ElementsAre(1, 2));
    EXPECT_EQ(constant("b").at_double(0), 3);
    EXPECT_EQ(constant("b").rank(), 0);
    EXPECT_EQ(constant("c").dtype(), DType::i64);
    EXPECT_THAT(constant("d").to_doubles(), ElementsAre(5, 6));
    EXPECT_THAT(constant("e").to_int64s(), ElementsAre(7, 8));
    EXPECT_THAT(constant("f").strings(), ElementsAre("s"));
    EXPECT_THAT(constant("g").strings(), ElementsAre("t", "u"));
}

// ---- Tensors of every type, in typed fields and as raw bytes ----

pb::ModelProto with_tensor(const pb::TensorProto& tensor) {
    auto model = parse_model(with_opset(21, "net (float[N] x) => (float[N] z) { z = Relu(x) }"));
    *model.mutable_graph()->add_initializer() = tensor;
    model.mutable_graph()->mutable_initializer(0)->set_name("t");
    return model;
}

TEST(Structure, TypedFields) {
    struct Row {
        pb::TensorProto::DataType type;
        std::vector<int32_t> stored;  // in int32_data
        int64_t count;
        std::vector<double> expected;
    };
    const Row rows[] = {
        {pb::TensorProto::INT8, {-1, 127}, 2, {-1, 127}},
        {pb::TensorProto::UINT8, {1, 255}, 2, {1, 255}},
        {pb::TensorProto::INT16, {-300, 300}, 2, {-300, 300}},
        {pb::TensorProto::UINT16, {1, 65535}, 2, {1, 65535}},
        {pb::TensorProto::INT32, {-5, 6}, 2, {-5, 6}},
        {pb::TensorProto::BOOL, {0, 1, 2}, 3, {0, 1, 1}},
        {pb::TensorProto::FLOAT16, {0x3c00, 0xc000}, 2, {1, -2}},
        {pb::TensorProto::BFLOAT16, {0x3f80, 0xc000}, 2, {1, -2}},
        {pb::TensorProto::FLOAT8E4M3FN, {0x38, 0xb8}, 2, {1, -1}},
        {pb::TensorProto::FLOAT8E5M2, {0x3c, 0xc0}, 2, {1, -2}},
        {pb::TensorProto::INT4, {0xf1, 0x07}, 3, {1, -1, 7}},
        {pb::TensorProto::UINT4, {0xf1, 0x07}, 3, {1, 15, 7}},
    };
    for (const Row& row : rows) {
        pb::TensorProto tensor;
        tensor.set_data_type(row.type);
        tensor.add_dims(row.count);
        for (int32_t v : row.stored) tensor.add_int32_data(v);
        const auto graph = import_model(with_tensor(tensor));
        EXPECT_EQ(graph->find_value("t")->constant->to_doubles(), row.expected) << row.type;
    }
}

TEST(Structure, LargeRawDataKeepsItsBytes) {
    std::vector<float> values(1000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    pb::TensorProto tensor;
    tensor.set_data_type(pb::TensorProto::FLOAT);
    tensor.add_dims(1000);
    tensor.set_raw_data(values.data(), values.size() * sizeof(float));
    const auto graph = import_model(with_tensor(tensor));
    const Tensor& constant = *graph->find_value("t")->constant;
    EXPECT_TRUE(std::equal(values.begin(), values.end(), constant.data<float>().begin()));
}

TEST(Structure, SparseInitializers) {
    auto model = parse_model(with_opset(17, "net (float[2, 3] x) => (float[2, 3] z) { z = Add(x, s) }"));
    auto& sparse = *model.mutable_graph()->add_sparse_initializer();
    auto& values = *sparse.mutable_values();
    values.set_name("s");
    values.set_data_type(pb::TensorProto::FLOAT);
    values.add_dims(2);
    values.add_float_data(5);
    values.add_float_data(6);
    auto& indices = *sparse.mutable_indices();
    indices.set_data_type(pb::TensorProto::INT64);
    indices.add_dims(2);
    indices.add_int64_data(1);
    indices.add_int64_data(5);
    sparse.add_dims(2);
    sparse.add_dims(3);
    EXPECT_THAT(import_model(model)->find_value("s")->constant->to_doubles(), ElementsAre(0, 5, 0, 0, 0, 6));
    model.mutable_graph()->mutable_sparse_initializer(0)->mutable_indices()->set_int64_data(1, 6);
    EXPECT_THAT(error_of([&] { import_model(model); }).message(), HasSubstr("outside its shape"));
}

// ---- Functions ----

TEST(Structure, LocalFunctionsAreExpanded) {
    const auto graph = import_text(
        "<ir_version: 9, opset_import: [\"\" : 18, \"l\" : 1]> net (float[N] x) => (float[N] z) { [call] z = l.f <a = "
        "2.0> (x) } "
        "<opset_import: [\"\" : 12, \"l\" : 1], domain: \"l\"> f <a> (v) => (w) { s = Constant <value_float: float = "
        "@a> () t = Add(v, s) w = l.g(t) } "
        "<opset_import: [\"\" : 18], domain: \"l\"> g (v) => (w) { w = Relu(v) }");
    EXPECT_THAT(names(graph->outputs()), ElementsAre("z"));
    const Node& add = node_of(*graph, "Add");
    EXPECT_THAT(add.name, HasSubstr("call/"));
    EXPECT_THAT(add.origins, ElementsAre("call"));
    EXPECT_EQ(add.input(1)->constant->at_double(0), 2.0);
    EXPECT_EQ(node_of(*graph, "Relu").output(), graph->outputs()[0]);
}

TEST(Structure, FunctionsMayOmitInputsAndKeepTheirOwnOpset) {
    const auto graph = import_text(
        "<ir_version: 9, opset_import: [\"\" : 18, \"l\" : 1]> net (float[2, 3, 4] x) => (float[2, 3, 4] z) { z = "
        "l.f(x) } "
        "<opset_import: [\"\" : 11], domain: \"l\"> f (v, low) => (w) { c = Clip(v, low) w = Softmax(c) }");
    EXPECT_EQ(node_of(*graph, "Clip").input_count(), 1);
    EXPECT_EQ(node_of(*graph, "Flatten").integer("axis"), 1);  // Softmax of opset 11
}

// ---- Subgraphs ----

TEST(Structure, BothBranchesTakeTheSameCaptures) {
    const auto graph =
        import_text(with_opset(17, R"(net (bool c, float[N] x, float[N] y) => (float[N] z) <float[1] k = {3}> {
        t = Relu(x)
        z = If (c) <then_branch = a () => (float[N] p) { p = Add(t, k) }, else_branch = b () => (float[N] q) { q = Add(y, t) }>
    })"));
    const Node& node = node_of(*graph, "If");
    EXPECT_EQ(node.integer("captures"), 2);
    ASSERT_EQ(node.input_count(), 3);
    const auto outer = names(node.inputs().subspan(1));
    EXPECT_THAT(outer, testing::UnorderedElementsAre("t", "y"));
    EXPECT_EQ(names(node.subgraph("then_branch")->inputs()), outer);
    EXPECT_EQ(names(node.subgraph("else_branch")->inputs()), outer);
    // A constant is not captured: the body has its own, on the same memory.
    const Value* inner = node.subgraph("then_branch")->find_value("k");
    ASSERT_TRUE(inner && inner->is_constant());
    EXPECT_EQ(inner->constant->raw(), graph->find_value("k")->constant->raw());
}

TEST(Structure, CapturesReachThroughNestedBodies) {
    const auto graph = import_text(with_opset(17, R"(net (bool c, float[N] x) => (float[N] z) {
        z = If (c) <
            then_branch = a () => (float[N] p) {
                p = If (c) <then_branch = aa () => (float[N] r) { r = Relu(x) }, else_branch = ab () => (float[N] s) { s = Add(x, x) }>
            },
            else_branch = b () => (float[N] q) { q = Identity(x) }>
    })"));
    const Node& outer = node_of(*graph, "If");
    EXPECT_THAT(names(outer.inputs()), ElementsAre("c", "x", "c"));
    const Node& inner = node_of(*outer.subgraph("then_branch"), "If");
    EXPECT_EQ(inner.integer("captures"), 1);
    EXPECT_THAT(names(inner.inputs()), ElementsAre("c", "x"));
}

TEST(Structure, LoopBodiesLearnTheirTypesFromTheNode) {
    auto model = parse_model(with_opset(17, R"(net (int64 m, float[N] x, float[N] w) => (float[N] z) {
        z = Loop (m, "", x) <body = b (int64 i, bool on, float[N] s) => (bool on2, float[N] t) { on2 = Identity(on) t = Add(s, w) }>
    })"));
    auto* body = model.mutable_graph()->mutable_node(0)->mutable_attribute(0)->mutable_g();
    for (auto& input : *body->mutable_input()) input.clear_type();
    const auto graph = import_model(model);
    const Node& loop = node_of(*graph, "Loop");
    EXPECT_EQ(loop.integer("captures"), 1);
    EXPECT_THAT(names(loop.inputs()), ElementsAre("m", "", "x", "w"));
    const auto inputs = loop.subgraph("body")->inputs();
    EXPECT_THAT(names(inputs), ElementsAre("i", "on", "s", "w"));
    EXPECT_EQ(to_string(inputs[0]->type), "int64[]");
    EXPECT_EQ(inputs[1]->type.dtype, DType::boolean);
    EXPECT_EQ(inputs[2]->type.dtype, DType::f32);
}

TEST(Structure, UndefinedNamesInBodiesAreErrors) {
    const Error e = error_of([] {
        import_text(with_opset(17, R"(net (bool c, float[N] x) => (float[N] z) {
            [choice] z = If (c) <then_branch = a () => (float[N] p) { p = Relu(ghost) }, else_branch = b () => (float[N] q) { q = Relu(x) }>
        })"));
    });
    EXPECT_EQ(e.code(), ErrorCode::invalid_model);
    EXPECT_THAT(e.message(), HasSubstr("ghost"));
    EXPECT_THAT(e.message(), HasSubstr("choice"));
}

}  // namespace
}  // namespace planish::test
