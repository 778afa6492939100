// Graphs to ONNX: what the importer reads comes out with the same semantics, in the lowest opset that has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "ir/graph.hpp"

namespace planish::onnx_export {

/// Protobuf's own limit of 2 GiB, less room for everything that is not weights.
inline constexpr int64_t kInlineLimit = (int64_t{1} << 31) - (int64_t{1} << 26);

/// The model as the bytes of an .onnx file, weights inside.
/// Errors: unsupported (a node that ONNX does not have, such as a Region), resource_exhausted (beyond the limit).
std::vector<std::byte> to_bytes(const Graph& graph);

/// Writes `path` through a temporary file and a rename. Where weights have more than `inline_limit` bytes together,
/// they go to a file beside it, called as the model with ".data" behind. Errors: those of to_bytes, io_error.
void write(const Graph& graph, const std::filesystem::path& path, int64_t inline_limit = kInlineLimit);

}  // namespace planish::onnx_export
