// Text to model to graph.
#include "importers/onnx_text.hpp"

#include <gtest/gtest.h>
#include <onnx/defs/parser.h>

#include "importers/onnx/importer.hpp"

namespace planish::test {

pb::ModelProto parse_model(const std::string& text) {
    pb::ModelProto model;
    pb::OnnxParser parser(text.c_str());
    const auto status = parser.Parse(model);
    EXPECT_TRUE(status.IsOK()) << status.ErrorMessage() << "\n" << text;
    EXPECT_TRUE(parser.EndOfInput()) << text;
    return model;
}

std::string bytes_of(const std::string& text) {
    return parse_model(text).SerializeAsString();
}

std::span<const std::byte> as_bytes(const std::string& text) {
    return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

std::unique_ptr<Graph> import_model(const pb::ModelProto& model) {
    auto graph = onnx_import::import_bytes(as_bytes(model.SerializeAsString()));
    check(*graph);
    return graph;
}

std::unique_ptr<Graph> import_text(const std::string& text) {
    return import_model(parse_model(text));
}

std::string with_opset(int opset, const std::string& body) {
    return "<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) + "]> " + body;
}

}  // namespace planish::test
