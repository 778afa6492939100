// ONNX files to graphs: any opset from 7 (most of 1-6 too) in, nodes with the newest opset's semantics out.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "ir/graph.hpp"

namespace planish::onnx_import {

/// Reads the model at `path`; external data is looked up in its folder and mapped, not read.
/// Errors: not_found / io_error (the file), invalid_model (damaged, not ONNX, breaks a rule of ONNX), unsupported
/// (operators without an implementation: all of them are listed at once; an opset or IR version newer than known).
std::unique_ptr<Graph> import_file(const std::string& path);

/// The same from memory. `bytes` need not outlive the call. `model_folder`: where external data may lie; empty: a model
/// with external data is refused.
std::unique_ptr<Graph> import_bytes(std::span<const std::byte> bytes, const std::string& model_folder = {});

}  // namespace planish::onnx_import
