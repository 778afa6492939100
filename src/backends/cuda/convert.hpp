// The step that moves a value from one format to another.
#pragma once

#include "backends/cuda/implementation.hpp"

namespace planish::cuda {

/// Input 0 in format `from` to output 0 in `to`. Element types that differ are both float types of at most 32 bits.
CudaKernel make_convert_kernel(const Dims& dims, Format from, Format to);

}  // namespace planish::cuda
