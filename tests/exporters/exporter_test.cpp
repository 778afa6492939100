// Graphs written as ONNX and read back: the same text, the lowest opset, names that subgraphs see.
#include "exporters/onnx/exporter.hpp"

#include <gmock/gmock.h>
#include <onnx/checker.h>
#include <onnx/onnx_pb.h>

#include <filesystem>

#include "importers/onnx/importer.hpp"
#include "planish/error.hpp"
#include "reference/interpreter.hpp"

namespace planish {
namespace {

namespace pb = ONNX_NAMESPACE;

pb::ModelProto written(const Graph& graph) {
    const std::vector<std::byte> bytes = onnx_export::to_bytes(graph);
    pb::ModelProto model;
    EXPECT_TRUE(model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
    EXPECT_NO_THROW(pb::checker::check_model(model));
    return model;
}

std::string round_trip(const std::string& text) {
    const auto graph = parse_graph(text);
    auto back = onnx_import::import_bytes(onnx_export::to_bytes(*graph));
    back->metadata.clear();
    return print(*back, -1);
}

TEST(OnnxExporter, WhatIsReadBackIsTheSameText) {
    const std::string text = R"(graph "net" {
  input %x : float32[N, 4, 8, 8]
  const %w : float32[2, 4, 1, 1] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
  const %shape : int64[2] = [0, -1]
  %c = Conv(%x, %w) {kernel_shape = [1, 1]} name "conv"
  %r = Relu(%c) name "relu"
  %y = Reshape(%r, %shape) name "flat"
  output %y
})";
    const auto graph = parse_graph(text);
    EXPECT_EQ(round_trip(text), print(*graph, -1));
}

TEST(OnnxExporter, OpsetIsTheLowestWithTheSameMeaning) {
    const auto opset = [](const std::string& op) {
        const auto graph =
            parse_graph("graph \"g\" {\n  input %x : float32[4, 4]\n  %y = " + op + " name \"n\"\n  output %y\n}");
        return written(*graph).opset_import(0).version();
    };
    EXPECT_EQ(opset("Relu(%x)"), 21);
    EXPECT_EQ(opset("Transpose(%x)"), 21);  // newer versions only take more element types
    EXPECT_EQ(opset("Swish(%x)"), 24);      // not there before
}

TEST(OnnxExporter, SubgraphsSeeTheirSurroundings) {
    auto graph = std::make_unique<Graph>("net");
    Value* condition = graph->add_input("condition", {Kind::tensor, DType::boolean, Shape{}});
    Value* x = graph->add_input("x", {Kind::tensor, DType::f32, Shape{Dim(2)}});
    const auto body = [&](const char* op) {
        auto inner = std::make_shared<Graph>(op);
        // The inner result has a name that is taken outside.
        Value* captured = inner->add_input("x", x->type);
        inner->add_output(inner->add_node(op, {captured}, {}, 1, op, nullptr, "", {"y"})->output());
        return inner;
    };
    Attributes attributes{
        {"then_branch", GraphPtr(body("Neg"))}, {"else_branch", GraphPtr(body("Abs"))}, {"captures", int64_t{1}}};
    graph->add_output(graph->add_node("If", {condition, x}, attributes, 1, "if", nullptr, "", {"y"})->output());
    written(*graph);
    const auto back = onnx_import::import_bytes(onnx_export::to_bytes(*graph));
    for (const bool taken : {true, false}) {
        const auto results = reference::run_graph(
            *back, {{"condition", Tensor::scalar(taken)}, {"x", Tensor::from<float>(std::vector{-3.f, 3.f}, {2})}});
        EXPECT_EQ(results.at("y").to_doubles(), taken ? std::vector<double>({3, -3}) : std::vector<double>({3, 3}));
    }
}

TEST(OnnxExporter, LargeWeightsLieBeside) {
    Graph graph("net");
    Value* x = graph.add_input("x", {Kind::tensor, DType::f32, Shape{Dim(1), Dim(512)}});
    Tensor weight(DType::f32, {512});
    for (int64_t i = 0; i < 512; ++i) weight.set_double(i, static_cast<double>(i));
    Value* w = graph.add_constant("w", weight);
    graph.add_output(graph.add_node("Add", {x, w}, {}, 1, "add", nullptr, "", {"y"})->output());
    const auto folder = std::filesystem::temp_directory_path() / "planish_exporter_test";
    std::filesystem::create_directories(folder);
    onnx_export::write(graph, folder / "model.onnx", 1024);
    EXPECT_LT(std::filesystem::file_size(folder / "model.onnx"), 1024U);
    EXPECT_EQ(std::filesystem::file_size(folder / "model.onnx.data"), 2048U);
    const auto back = onnx_import::import_file((folder / "model.onnx").string());
    EXPECT_TRUE(identical(*back->find_value("w")->constant, weight));
    std::filesystem::remove_all(folder);
}

TEST(OnnxExporter, WhatOnnxDoesNotHaveIsAnError) {
    Graph graph("net");
    Value* x = graph.add_input("x", {Kind::tensor, DType::f32, Shape{Dim(2)}});
    auto body = std::make_shared<Graph>("body");
    Value* inner = body->add_input("x", x->type);
    body->add_output(body->add_node("Relu", {inner})->output());
    graph.add_output(
        graph.add_node("Region", {x}, {{"body", GraphPtr(body)}}, 1, "region", nullptr, "planish")->output());
    try {
        onnx_export::to_bytes(graph);
        FAIL() << "a Region was written";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        EXPECT_THAT(error.message(), testing::HasSubstr("'region'"));
    }
}

}  // namespace
}  // namespace planish
