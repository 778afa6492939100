// The packed form of a matrix product's right-hand side: panels of columns, each K rows deep.
#pragma once

#include <cstddef>
#include <cstdint>

namespace planish::cpu {

/// How wide B's panels are, and in which vectors a kernel walks along their rows; 0 = to be chosen.
struct PanelWidth {
    int32_t nr = 0;      ///< columns in a full panel, a multiple of `vector`
    int32_t vector = 0;  ///< floats in a vector register: 8 or 16

    friend bool operator==(const PanelWidth&, const PanelWidth&) = default;
};

/// B[k x n] cut into panels of `nr` columns. Panel p holds columns p*nr .. and is stored row by row:
///   packed[p*nr*k + row*width(p) + j] = B[row][p*nr + j],   width(p) = min(nr, round_up(n - p*nr, vector)).
/// Columns past n hold zeros. So the packed form is a permutation of B plus less than one vector of padding a row.
struct PackLayout {
    int64_t k = 0;
    int64_t n = 0;
    int32_t nr = 0;      ///< columns in a full panel, a multiple of `vector`
    int32_t vector = 0;  ///< floats in a vector register

    PanelWidth panel_width() const { return {nr, vector}; }
    int64_t panels() const { return nr == 0 ? 0 : (n + nr - 1) / nr; }
    int64_t width(int64_t panel) const {
        const int64_t left = n - panel * nr;
        return left >= nr ? nr : (left + vector - 1) / vector * vector;
    }
    int64_t panel_offset(int64_t panel) const { return panel * nr * k; }  ///< in floats
    int64_t columns() const { return (n + vector - 1) / vector * vector; }
    int64_t size() const { return columns() * k; }  ///< floats in the packed form
    /// Where B[row][column] lies in the packed form, in floats.
    int64_t index(int64_t row, int64_t column) const {
        const int64_t panel = column / nr;
        return panel_offset(panel) + row * width(panel) + (column - panel * nr);
    }

    friend bool operator==(const PackLayout&, const PackLayout&) = default;
};

/// Packs B into `packed` (64-byte aligned, `layout.size()` floats).
/// B[row][column] = b[row*ldb + column], or b[column*ldb + row] when `transposed`.
void pack_b(const float* b, int64_t ldb, bool transposed, const PackLayout& layout, float* packed);
/// As `pack_b`, of panels [first, last) only: the unit of parallel packing.
void pack_b_panels(const float* b, int64_t ldb, bool transposed, const PackLayout& layout, int64_t first, int64_t last,
                   float* packed);
/// The inverse of `pack_b`.
void unpack_b(const float* packed, const PackLayout& layout, float* b, int64_t ldb, bool transposed);

/// Packs convolution weights [oc, c, taps] (ONNX order, one group) as B[(taps, c) x oc], panels [first, last) of it.
/// `layout.k` must be taps*c and `layout.n` oc.
void pack_conv_panels(const float* weights, int64_t c, int64_t taps, const PackLayout& layout, int64_t first,
                      int64_t last, float* packed);
/// The inverse of `pack_conv_panels`, of all panels.
void unpack_conv_weights(const float* packed, int64_t c, int64_t taps, const PackLayout& layout, float* weights);

}  // namespace planish::cpu
