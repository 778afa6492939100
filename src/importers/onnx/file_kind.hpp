// Recognises what was given in place of an ONNX model, so that the error can say what to do.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace planish::onnx_import {

/// Throws invalid_model with a hint when the bytes are plainly something else (a plan, a PyTorch checkpoint, text,
/// ...). `name` is how messages call the input: "model.onnx" or "the given bytes".
void refuse_foreign(std::span<const std::byte> bytes, const std::string& name);

}  // namespace planish::onnx_import
