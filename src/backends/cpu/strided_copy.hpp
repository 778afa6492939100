// A copy between two strided boxes as a launchable piece of a kernel, and strides of values in their layouts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/kernels/movement.hpp"

namespace planish::cpu {

/// output[out_offset + sum i_k out_strides[k]] = input[in_offset + sum i_k in_strides[k]] for every index of `dims`.
/// Offsets and strides in elements; an input stride of 0 broadcasts, a negative one reverses.
class StridedCopy {
  public:
    StridedCopy(const Dims& dims, const std::vector<int64_t>& in_strides, const std::vector<int64_t>& out_strides,
                int64_t in_offset, int64_t out_offset, int64_t element_bytes, Isa isa);
    void run(const std::byte* in, std::byte* out, const Launch& launch) const;

  private:
    CopyPlan plan_;
    int64_t in_offset_, out_offset_;  // in bytes
    const KernelTable& table_;
};

/// Row-major strides of `dims` in elements.
std::vector<int64_t> dense_strides(const Dims& dims);
/// Strides of a value along its logical axes, when it lies in `layout`.
std::vector<int64_t> logical_strides(const Dims& dims, Layout layout);

}  // namespace planish::cpu
