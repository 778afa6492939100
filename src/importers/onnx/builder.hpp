// Turns a parsed ModelProto into a Graph.
#pragma once

#include <memory>

#include "importers/onnx/external_data.hpp"
#include "importers/onnx/proto.hpp"
#include "ir/graph.hpp"

namespace planish::onnx_import {

/// Large initializers are moved out of `model`.
std::unique_ptr<Graph> build_graph(pb::ModelProto& model, ExternalData& external);

}  // namespace planish::onnx_import
