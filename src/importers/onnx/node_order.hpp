// Names that a subgraph takes from outside, and the order in which nodes can be imported.
#pragma once

#include <string>
#include <vector>

#include "importers/onnx/proto.hpp"

namespace planish::onnx_import {

/// Names used in `graph` or below it that it does not define, each once, in order of first use.
std::vector<std::string> free_names(const pb::GraphProto& graph);

/// The nodes so that each comes after those whose outputs it reads: the file's own order where it is legal, as it
/// should be. Throws invalid_model for a circle.
std::vector<const pb::NodeProto*> in_order(const google::protobuf::RepeatedPtrField<pb::NodeProto>& nodes);

}  // namespace planish::onnx_import
