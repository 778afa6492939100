// The one routine behind every op that only moves elements: a copy between two strided boxes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backends/cpu/implementation.hpp"

namespace planish::cpu {

/// output[out_offset + sum i_k out_strides[k]] = input[in_offset + sum i_k in_strides[k]] for every index of `dims`.
/// Offsets and strides in elements; an input stride of 0 broadcasts, a negative one reverses.
class StridedCopy {
  public:
    StridedCopy(Dims dims, std::vector<int64_t> in_strides, std::vector<int64_t> out_strides, int64_t in_offset,
                int64_t out_offset, int64_t element_bytes, Isa isa);
    void run(const std::byte* in, std::byte* out, const Launch& launch) const;

  private:
    void run_outer(const std::byte* in, std::byte* out, int64_t begin, int64_t end) const;

    enum class Inner : uint8_t { rows, fill, transpose, elements };
    // Collapsed loops, outermost first; the last `inner_rank_` of them are done by the inner routine.
    Dims dims_;
    std::vector<int64_t> in_strides_, out_strides_;  // in bytes
    int64_t in_offset_ = 0, out_offset_ = 0;         // in bytes
    int64_t element_ = 0;
    size_t inner_rank_ = 0;
    Inner inner_ = Inner::elements;
    int64_t outer_items_ = 1, item_cost_ = 1;
    Isa isa_;
};

/// Row-major strides of `dims` in elements.
std::vector<int64_t> dense_strides(const Dims& dims);
/// Strides of a value along its logical axes, when it lies in `layout`.
std::vector<int64_t> logical_strides(const Dims& dims, Layout layout);

}  // namespace planish::cpu
