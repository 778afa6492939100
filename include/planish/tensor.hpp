// Tensor: a dense, row-major, reference-counted array. TensorView: the same without ownership.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "planish/dtype.hpp"

namespace planish {

using Dims = std::vector<int64_t>;

/// Product of the dimensions (1 for a scalar). Throws invalid_argument on a negative size or overflow.
int64_t element_count(std::span<const int64_t> dims);
std::string to_string(std::span<const int64_t> dims);  ///< "1x3x224x224"; a scalar is "scalar"

/// Memory that somebody else owns, row-major. `data` is null only when the tensor has no elements.
struct TensorView {
    DType dtype = DType::undefined;
    Dims dims;
    void* data = nullptr;
};

class TensorSource;

class Tensor {
  public:
    Tensor() = default;
    /// Zero-filled memory, 64-byte aligned (strings: empty strings).
    Tensor(DType dtype, Dims dims);
    /// Borrows `data`, which `keep_alive` holds alive (a mapped file, a Python array).
    Tensor(DType dtype, Dims dims, const void* data, std::shared_ptr<const void> keep_alive);
    /// Elements that `source` makes when they are asked for the first time (a plan's weights in a kernel's own order).
    Tensor(DType dtype, Dims dims, std::shared_ptr<const TensorSource> source);

    template <typename T>
    static Tensor from(std::span<const T> values, Dims dims);
    template <typename T>
    static Tensor scalar(T value) {
        return from(std::span<const T>(&value, 1), {});
    }
    static Tensor from_strings(std::vector<std::string> values, Dims dims);

    explicit operator bool() const { return dtype_ != DType::undefined; }
    DType dtype() const { return dtype_; }
    const Dims& dims() const { return dims_; }
    int64_t dim(int64_t axis) const { return dims_[static_cast<size_t>(axis < 0 ? axis + rank() : axis)]; }
    int64_t rank() const { return static_cast<int64_t>(dims_.size()); }
    int64_t size() const { return size_; }  ///< number of elements
    int64_t bytes() const { return byte_size(dtype_, size_); }

    const void* raw() const { return source_ == nullptr ? data_ : source_elements(); }
    void* raw() { return const_cast<void*>(std::as_const(*this).raw()); }
    /// Where the elements come from, when they are made on demand; else null.
    const TensorSource* source() const { return source_.get(); }
    /// Typed access; the caller has checked dtype(). f16/bf16 are read as uint16_t, bool as uint8_t or bool.
    template <typename T>
    std::span<const T> data() const {
        return {static_cast<const T*>(raw()), static_cast<size_t>(size_)};
    }
    template <typename T>
    std::span<T> data() {
        return {static_cast<T*>(raw()), static_cast<size_t>(size_)};
    }
    const std::vector<std::string>& strings() const { return *strings_; }
    std::vector<std::string>& strings() { return *strings_; }

    Tensor reshaped(Dims dims) const;  ///< shares memory; the element counts must agree
    Tensor clone() const;              ///< a deep copy

    /// Element `i` as double / int64 whatever the numeric dtype (f16, bf16, f8, int4 decoded).
    double at_double(int64_t i) const;
    int64_t at_int64(int64_t i) const;
    /// Stores a double rounded to the dtype (integers truncate toward zero and wrap as a C cast of int64 does).
    void set_double(int64_t i, double value);
    std::vector<int64_t> to_int64s() const;
    std::vector<double> to_doubles() const;

  private:
    const void* source_elements() const;

    DType dtype_ = DType::undefined;
    Dims dims_;
    int64_t size_ = 0;
    const void* data_ = nullptr;
    std::shared_ptr<const void> owner_;
    std::shared_ptr<const TensorSource> source_;
    std::shared_ptr<std::vector<std::string>> strings_;
};

/// Bit-for-bit equality of dtype, dims and elements (NaNs with equal bits are equal).
bool identical(const Tensor& a, const Tensor& b);

template <typename T>
constexpr DType dtype_of();

}  // namespace planish

#include "planish/tensor.inl"
