// Moving elements of any dtype (packed and string ones too) between tensors: what data-movement ops are made of.
#pragma once

#include <vector>

#include "planish/tensor.hpp"

namespace planish::reference {

/// to[to_index + i] = from[from_index + i] for i in [0, count). Equal dtypes.
void copy_elements(Tensor& to, int64_t to_index, const Tensor& from, int64_t from_index, int64_t count = 1);

/// A walk over a tensor's elements: index = offset + Σ i_k·strides_k. Strides may be zero or negative.
struct Walk {
    int64_t offset = 0;
    Dims strides;
};

Dims row_major_strides(const Dims& dims);

/// to[to_walk(i)] = from[from_walk(i)] for every multi-index i below `dims`. Equal dtypes.
void copy_strided(Tensor& to, Walk to_walk, const Tensor& from, Walk from_walk, Dims dims);

/// Stores an integer in a tensor of any numeric dtype without going through double.
void store_int64(Tensor& to, int64_t index, int64_t value);

/// Calls body(index) for every multi-index below `dims`, last axis fastest; once with {} for a scalar.
template <typename Body>
void for_each_index(const Dims& dims, Body&& body) {
    for (int64_t d : dims)
        if (d == 0) return;
    Dims index(dims.size(), 0);
    while (true) {
        body(static_cast<const Dims&>(index));
        size_t axis = dims.size();
        while (axis > 0 && ++index[axis - 1] == dims[axis - 1]) index[--axis] = 0;
        if (axis == 0) return;
    }
}

/// Product of dims[begin, end).
int64_t count_range(const Dims& dims, int64_t begin, int64_t end);

}  // namespace planish::reference
