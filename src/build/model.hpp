// Networks as users have them: ONNX models, and plans, of which the portable core is taken.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "ir/graph.hpp"
#include "planish/planish.hpp"

namespace planish {

struct Model {
    std::unique_ptr<Graph> graph;
    StringPairs source;  ///< "format" ("onnx", "plan"), "xxh3", "bytes": plan::Provenance::source
};

/// Errors: not_found, io_error, those of onnx_import::import_file and plan::read.
Model read_model(const std::filesystem::path& path);
/// `external_data_folder` empty: a model with external data is refused.
Model read_model(std::span<const std::byte> bytes, const std::filesystem::path& external_data_folder);

/// A model of one input need not have it named: samples then call it "".
std::vector<TensorMap> named(std::vector<TensorMap> samples, const Graph& graph);

}  // namespace planish
