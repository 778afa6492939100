// What integer products have in common: the packed form of their weights, the terms of their columns, their result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backends/cpu/jit/gemm_i8_kernel.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// real = scale * (byte - zero)
struct ByteFormat {
    float scale = 1;
    int zero = 0;
};

/// Sums of more products than this may not fit 32 bits: 2^16 * 255 * 128 < 2^31.
constexpr int64_t kMostByteProducts = int64_t{1} << 16;

/// Column j's sum begins at start[j] = -zero(A) * sum_k B[k][j] and is scale[j] * sum + bias[j] as float32. Each array
/// is longer than the columns by a vector, which kernels may read.
struct ColumnTerms {
    std::vector<int32_t> start;
    std::vector<float> scale, bias;
    int zero = 0;  ///< of A: what padding reads
};

/// ColumnTerms as a run takes them.
struct Columns {
    Columns(const ColumnTerms& terms)  // NOLINT(google-explicit-constructor): the same under another owner
        : start(terms.start.data()), scale(terms.scale.data()), bias(terms.bias.data()), zero(terms.zero) {}
    /// Those of an A whose format is known at run time, from the terms of `unit`, an A of scale 1 and zero 1: start is
    /// linear in the one, scale in the other. `memory`: bytes_of(terms) of them, 64-byte aligned.
    Columns(const ColumnTerms& unit, const ByteFormat& a, std::byte* memory);
    static size_t bytes_of(const ColumnTerms& terms) { return terms.start.size() * (sizeof(int32_t) + sizeof(float)); }

    const int32_t* start;
    const float *scale, *bias;
    int zero;
};

/// Post-ops and the format of the result, with what can be merged merged. For a result in bytes,
///   q = round(clamp(y / s + z, 0, 255)),
/// clips at the end of the post-ops only narrow the clamp, and where nothing or only sums of tensors in bytes come
/// before them, 1/s and z become part of the columns' scale and bias.
class ByteEpilogue {
  public:
    ByteEpilogue(PostOps post_ops, const std::optional<ByteFormat>& result);

    const PostOps& post_ops() const { return post_ops_; }
    const ByteResult& result() const { return result_; }

    /// `sums` are those of B's columns. `scales` (of B) has one entry or one for each column; `bias` likewise, or none.
    ColumnTerms terms(std::span<const int32_t> sums, const ByteFormat& a, std::span<const float> scales,
                      std::span<const float> bias) const;

  private:
    void absorb_clips(const ByteFormat& format);

    PostOps post_ops_;
    ByteResult result_;
    double factor_ = 1, shift_ = 0;  ///< of the columns' terms
};

/// Where the rows of a packed B come from: entry 4*step + d is the row that byte d of that step multiplies, -1 for
/// none. `bytes` are those of a segment.
std::vector<int64_t> packed_rows(int64_t segments, int64_t bytes);

/// B in steps of four rows: layout.k counts steps, and the 4-byte element `layout.index(step, column)` holds
///   B[rows[4*step + d]][column], d = 0..3, where B[row][column] = b[row_offset(row) + column * column_stride].
/// `offsets` are the row_offset of each entry of packed_rows, or -1. `packed` has 4 * layout.size() bytes.
void pack_i8(const int8_t* b, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
             int8_t* packed);
/// As pack_i8, of panels [first, last) only: the unit of parallel packing.
void pack_i8_panels(const int8_t* b, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
                    int64_t first, int64_t last, int8_t* packed);
/// The inverse of pack_i8.
void unpack_i8(const int8_t* packed, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
               int8_t* b);

/// Of the columns of a packed B.
std::vector<int32_t> column_sums(const int8_t* packed, const PackLayout& layout);

}  // namespace planish::cpu
