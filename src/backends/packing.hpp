// Packed weights: float32 and int8 constants in the order in which kernels read them, and the way back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backends/cpu/jit/pack.hpp"
#include "base/tensor_source.hpp"
#include "planish/tensor.hpp"

namespace planish {

/// `groups` matrices B[k x n] lie one behind the other, each in panels as PackLayout says. Where B comes from:
///   source[g][row][column], or source[g][column][row] when `transposed` (an ONNX convolution's output channels, a Gemm
///   with transB, a depthwise filter's channels);
///   `taps` > 1: a convolution's row (channel, tap) of the source is row (tap, channel) of B.
/// So the packed form is a permutation of the source and zeros that fill each panel's last vector.
///
/// Of int8 the panels' elements are four rows of B each, as cpu::pack_i8 says for `segments` of k / segments bytes, and
/// the sums of each matrix's columns follow, which integer products need: loading a plan then reads no weights at all.
struct Packing {
    int64_t k = 0;
    int64_t n = 0;
    int64_t groups = 1;
    int64_t taps = 1;  ///< divides k; 1 unless transposed
    int32_t nr = 0;
    int32_t vector = 0;
    bool transposed = false;
    bool bytes = false;    ///< of int8
    int64_t segments = 1;  ///< divides k; 1 unless `bytes`

    DType dtype() const { return bytes ? DType::i8 : DType::f32; }
    cpu::PackLayout layout() const;
    int64_t source_size() const { return groups * k * n; }  ///< in elements of dtype()
    /// In elements of four bytes.
    int64_t size() const { return groups * (layout().size() + (bytes ? n : 0)); }

    /// On up to `threads` threads. `packed` is 64-byte aligned. Sources have elements of dtype().
    void pack(const void* source, void* packed, int threads) const;
    void unpack(const void* packed, void* source) const;
    /// Of B's columns, group after group; of int8 only.
    std::span<const int32_t> column_sums(const void* packed) const;

    /// Whether the numbers make sense together and fit `elements`; sizes derived from a packing that is not valid may
    /// overflow.
    bool is_valid_for(int64_t elements) const;

    friend bool operator==(const Packing&, const Packing&) = default;
};

std::string to_string(const Packing& packing);

/// The elements of a constant whose memory holds it packed.
class PackedSource final : public TensorSource {
  public:
    /// `packed` has `packing.size()` elements, as float32 whatever they are.
    PackedSource(Tensor packed, const Packing& packing) : packed_(std::move(packed)), packing_(packing) {}

    const Tensor& packed() const { return packed_; }
    const Packing& packing() const { return packing_; }

  private:
    Tensor make() const override;

    Tensor packed_;
    Packing packing_;
};

/// A constant of `dims` that is stored as `packed`.
Tensor packed_constant(Dims dims, Tensor packed, const Packing& packing);

/// How `constant` is stored: null, unless packed.
const PackedSource* packed_source(const Tensor& constant);

}  // namespace planish
