// The sources below src/backends/cuda/kernels/, as text in the library.
#pragma once

#include <iterator>
#include <span>
#include <string_view>

namespace planish::cuda {

struct EmbeddedFile {
    std::string_view name;  // "planish/common.cuh"
    std::string_view text;
};

std::span<const EmbeddedFile> embedded_files();

}  // namespace planish::cuda
