// com.microsoft operators that common exporters and ONNX Runtime's optimiser write, in terms of ONNX's own.
#include "importers/onnx/draft.hpp"

namespace planish::onnx_import {

std::span<const Adapter> contrib_adapters() {
    return {};
}

}  // namespace planish::onnx_import
