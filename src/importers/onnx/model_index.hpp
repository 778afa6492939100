// What a whole model offers its nodes: local functions and opset versions; and the check that every operator is known.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "importers/onnx/proto.hpp"

namespace planish::onnx_import {

using Opsets = std::map<std::string, int64_t>;  // domain ("" for ONNX's own) -> version

std::string normal_domain(const std::string& domain);                         ///< "ai.onnx" -> ""
std::string operator_name(const std::string& domain, const std::string& op);  ///< "com.microsoft.Gelu", "Conv"

/// Opset imports by domain. Throws invalid_model for a domain imported twice with different versions, unsupported for a
/// version of ONNX's own domain that this build does not know.
Opsets read_opsets(const google::protobuf::RepeatedPtrField<pb::OperatorSetIdProto>& imports, const std::string& owner);

/// The body of an operator that is defined as a function: the model's own, or one that ONNX gives with the schema.
struct FunctionBody {
    const pb::FunctionProto* proto = nullptr;
    std::shared_ptr<const pb::FunctionProto> owned;  // set when it was made for one node
    bool from_schema = false;
};

class ModelIndex {
  public:
    /// Throws invalid_model for duplicate functions, calls in a circle and calls nested too deep.
    explicit ModelIndex(const pb::ModelProto& model);

    const pb::FunctionProto* local_function(const pb::NodeProto& node) const;  ///< or null

    /// Throws resource_exhausted when functions that call functions make a small file into a huge graph.
    void require_bounded_size() const;

    /// Throws unsupported listing every operator of the model that has neither a row, an adapter nor a function body.
    void require_known_operators() const;

  private:
    using Key = std::tuple<std::string, std::string, std::string>;
    const pb::ModelProto& model_;
    std::map<Key, const pb::FunctionProto*> functions_;
};

/// ONNX's own function body for `node` in opset `version`, or nothing. `input_types` parallel the node's inputs.
FunctionBody schema_function(const pb::NodeProto& node, int64_t version, const std::vector<pb::TypeProto>& input_types);

const pb::OpSchema* schema_of(const pb::NodeProto& node, int64_t version);  ///< or null

}  // namespace planish::onnx_import
