// ONNX's protobuf classes under one short name. Included by the importer's own sources only.
#pragma once

#include <onnx/onnx_pb.h>

namespace ONNX_NAMESPACE {
class OpSchema;
}

namespace planish::onnx_import {
namespace pb = ONNX_NAMESPACE;
}
