// Models for tests, written in ONNX's text format.
#pragma once

#include <onnx/onnx_pb.h>

#include <memory>
#include <span>
#include <string>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish::test {

namespace pb = ONNX_NAMESPACE;

pb::ModelProto parse_model(const std::string& text);  ///< fails the test on a syntax error
std::string bytes_of(const std::string& text);        ///< parsed, serialised
std::span<const std::byte> as_bytes(const std::string& text);

/// Parses, serialises, imports, and runs the IR's checker.
std::unique_ptr<Graph> import_text(const std::string& text);
std::unique_ptr<Graph> import_model(const pb::ModelProto& model);

/// "<ir_version: 8, opset_import: ["" : OPSET]> BODY"
std::string with_opset(int opset, const std::string& body);

/// The error that `action` throws; fails the test when it throws none.
template <typename F>
Error error_of(F&& action) {
    try {
        action();
    } catch (const Error& e) {
        return e;
    }
    return Error(ErrorCode::internal, "no error was thrown");
}

}  // namespace planish::test
