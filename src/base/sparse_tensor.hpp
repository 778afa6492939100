// Constants that are mostly zero, as files keep them: one bit for each element, then the elements that are not zero.
#pragma once

#include <memory>

#include "base/tensor_source.hpp"
#include "planish/tensor.hpp"

namespace planish {

/// A bitmap of 64-bit words, element i being bit i % 64 of word i / 64 (little-endian) and what is past the end zero;
/// behind it the elements whose bytes are not all zero, in order. Nothing is lost: -0.0 is an element.
class SparseSource final : public TensorSource {
  public:
    /// `stored`: the bytes of this form. Call is_valid first.
    SparseSource(DType dtype, int64_t elements, Tensor stored)
        : dtype_(dtype), elements_(elements), stored_(std::move(stored)) {}

    static bool is_valid(DType dtype, int64_t elements, std::span<const std::byte> stored);

    const Tensor& stored() const { return stored_; }
    /// How many elements are not zero.
    int64_t nonzeros() const;

  private:
    Tensor make() const override;

    DType dtype_;
    int64_t elements_;
    Tensor stored_;
};

/// The same constant kept in this form; one whose elements are not whole bytes, or that would not become smaller by a
/// tenth, as it is.
Tensor compressed(const Tensor& constant);

/// How `constant` is stored: null, unless compressed.
const SparseSource* sparse_source(const Tensor& constant);

}  // namespace planish
