// How a value lies in memory: row-major as ONNX states it, or with the channel axis moved to the end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "planish/tensor.hpp"

namespace planish {

/// `channels_last` moves axis 1 behind all others: [N, C, H, W] lies as [N, H, W, C]. Only values of rank >= 3 have it.
enum class Layout : uint8_t { plain, channels_last };

/// The dimensions in the order in which they lie in memory.
inline Dims physical_dims(const Dims& dims, Layout layout) {
    Dims result = dims;
    if (layout == Layout::channels_last && dims.size() >= 3)
        std::rotate(result.begin() + 1, result.begin() + 2, result.end());
    return result;
}

/// Where logical axis `axis` stands in the physical order.
inline int64_t physical_axis(int64_t axis, int64_t rank, Layout layout) {
    if (layout == Layout::plain || rank < 3 || axis == 0) return axis;
    return axis == 1 ? rank - 1 : axis - 1;
}

/// True when both layouts put every element at the same place, so that no reorder is ever needed.
inline bool layouts_coincide(const Dims& dims) {
    if (dims.size() < 3) return true;
    int64_t spatial = 1;
    for (size_t i = 2; i < dims.size(); ++i) spatial *= dims[i];
    return dims[1] == 1 || spatial == 1;
}

/// Copies elements of `bytes` bytes from one layout to another; `dims` are the logical ones.
void reorder(const std::byte* from, Layout from_layout, std::byte* to, Layout to_layout, const Dims& dims,
             int64_t bytes);

}  // namespace planish
