// Moving elements without computing: strided boxes, per-axis index tables, gathered rows. For every element size.
//
// Plans are made once, when shapes are known, and run without allocation; items may be split over threads in any way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/cpu/kernels/kernels.hpp"

namespace planish::cpu {

/// One axis of a box that is copied. Strides are in bytes; a source stride may be 0 (broadcast) or negative (reversal).
struct CopyAxis {
    int64_t size = 1;
    int64_t source = 0;
    int64_t target = 0;
};

/// Copies an N-d box from any strides to any others: transpose, concat, split, slice, expand, tile, depth to space, ...
/// Axes are ordered by target stride and merged; the innermost work becomes a memcpy, a blocked transpose of words of
/// 4 bytes or of bytes, a fill or an element loop. Source and target must not overlap. At most 16 axes remain after
/// merging, otherwise Error(unsupported).
class CopyPlan {
  public:
    CopyPlan(std::span<const CopyAxis> axes, int64_t element_size);

    int64_t items() const { return items_; }
    int64_t bytes() const { return bytes_; }  ///< written by all items
    /// `source` and `target` point at the box's element (0, ..., 0).
    void run(const KernelTable& table, const void* source, void* target, int64_t begin, int64_t end) const;

    /// A dense tensor of `shape` with its axes permuted as ONNX's Transpose does: output axis i is input axis perm[i].
    static CopyPlan transpose(std::span<const int64_t> shape, std::span<const int> perm, int64_t element_size);

  private:
    enum class Kind : uint8_t { run, transpose, byte_transpose, elements };

    Kind kind_ = Kind::run;
    int64_t element_size_ = 1;
    int64_t bytes_ = 0;
    int64_t items_ = 0;
    int64_t chunk_ = 1;   // positions of `inner_` that one item takes
    int64_t chunks_ = 1;  // items for each combination of outer indices
    CopyAxis inner_;      // the axis along which the target is written; bytes for `run`
    CopyAxis columns_;    // of a transpose: the axis along which the source is read
    std::vector<CopyAxis> outer_;
};

/// output[i0, ..., ik] = input[table0[i0] + ... + tablek[ik]], or the pad element where a table says kPad: padding in
/// every mode, tiling, gathering by constant indices, nearest-neighbour resizing in any layout. The output is dense.
class GridCopyPlan {
  public:
    static constexpr int64_t kPad = INT64_MIN;

    /// One table for each axis, entries in elements of the source. At least one axis; at most 16.
    GridCopyPlan(std::vector<std::vector<int64_t>> tables, int64_t element_size);

    int64_t items() const { return items_; }
    /// `pad` points at one element, or is null where no table says kPad.
    void run(const void* source, const void* pad, void* target, int64_t begin, int64_t end) const;

  private:
    struct Run {
        int64_t target, source, count;  // elements along the last axis; source kPad = filled
    };

    int64_t element_size_ = 1;
    int64_t items_ = 0;
    int64_t row_ = 0;  // elements of the last axis
    std::vector<std::vector<int64_t>> outer_;
    std::vector<Run> runs_;
};

/// output[o, j, :] = data[o, indices[j], :]: embedding look-up and ONNX's Gather. Items: outer * count rows,
/// numbered o * count + j. A negative index counts from the end of the axis.
struct GatherArgs {
    const void* data = nullptr;
    const void* indices = nullptr;  ///< `count` of int64_t, or of int32_t where narrow_indices
    void* output = nullptr;
    int64_t axis = 0;       ///< rows to choose from
    int64_t count = 0;      ///< indices
    int64_t row_bytes = 0;  ///< of one row
    bool narrow_indices = false;
};
/// The first position in `indices` that is out of range (nothing is written for its row), or -1.
int64_t gather(const GatherArgs& args, int64_t begin, int64_t end);

/// `count` copies of one element.
void fill(void* target, const void* element, int64_t element_size, int64_t count);

}  // namespace planish::cpu
