// TensorProto and TypeProto to Tensor and Type.
#pragma once

#include <string>

#include "importers/onnx/external_data.hpp"
#include "importers/onnx/proto.hpp"
#include "ir/op.hpp"

namespace planish::onnx_import {

/// May the tensor's bytes be moved out of the message? Only where the message is not read again.
enum class Ownership { copy, take };

/// Large data is not copied: it is moved out of the message (take) or borrowed from the mapped file. Errors name the
/// tensor: invalid_model (size, dtype, data do not fit together), unsupported dtype, or those of ExternalData::file.
Tensor to_tensor(const pb::TensorProto& proto, ExternalData& external, Ownership ownership);
Tensor to_tensor(const pb::SparseTensorProto& proto, ExternalData& external);  ///< dense

/// How a dimension without a number becomes a Dim: by its name in the model ("" = unnamed) and axis.
using DimMaker = Dim (*)(const std::string& param, const std::string& value_name, int axis);
Dim named_dim(const std::string& param, const std::string& value_name, int axis);    ///< a symbol, made up if unnamed
Dim unknown_dim(const std::string& param, const std::string& value_name, int axis);  ///< always a fresh unknown

/// `name` is the value's, for messages and symbols. A type that is not set gives dtype undefined without shape.
Type to_type(const pb::TypeProto& proto, const std::string& name, DimMaker make_dim);
pb::TypeProto to_proto(const Type& type);

DType to_dtype(int proto_type, const std::string& name);

}  // namespace planish::onnx_import
