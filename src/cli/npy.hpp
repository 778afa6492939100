// NumPy's .npy and .npz files (numpy.lib.format, versions 1.0 to 3.0; archives as numpy.savez writes them).
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "planish/tensor.hpp"

namespace planish::cli {

/// Little-endian, C or Fortran order, numbers and booleans. Errors: not_found, io_error, invalid_argument.
Tensor read_npy(const std::filesystem::path& path);
std::map<std::string, Tensor> read_npz(const std::filesystem::path& path);

/// Whole or not at all. bfloat16 and the other types that NumPy lacks are written as their bits (uint16, uint8).
void write_npy(const std::filesystem::path& path, const Tensor& tensor);
void write_npz(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors);

}  // namespace planish::cli
