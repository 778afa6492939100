// Views: a value that only re-arranges another one's elements, written as offset and strides into it.
#pragma once

#include <optional>

#include "ir/graph.hpp"

namespace planish::passes {

/// Element [i0, i1, ...] of the value is element offset + Σ i_k · stride_k of `base`, row-major. An axis that joins
/// others which do not follow each other in memory has several factors, outermost first, and no stride of its own.
struct View {
    struct Factor {
        Dim size, stride;
    };
    struct Axis {
        Dim size;
        std::vector<Factor> factors;  // of sizes other than 1; their product is `size`
    };
    Value* base = nullptr;
    std::vector<Axis> axes;
    Dim offset = 0;

    std::optional<Dim> stride(size_t axis) const;  ///< of an axis of one factor
};

/// `value` as a view of the value behind its chain of Reshape, Transpose, Squeeze, Unsqueeze, Flatten, Split, and of
/// Gather and Slice by constants. A chain that cannot be written so is followed as far as it can.
std::optional<View> view_of(Value* value);

}  // namespace planish::passes
