// Views: a value that only re-arranges another one's elements, written as offset and strides into it.
#pragma once

#include <optional>

#include "ir/graph.hpp"

namespace planish::passes {

/// Element [i0, i1, ...] of the value is element offset + Σ i_k · strides_k of `base`, row-major.
struct View {
    Value* base = nullptr;
    Shape dims;
    std::vector<Dim> strides;
    Dim offset = 0;
};

/// `value` as a view of the value behind its chain of Reshape, Transpose, Squeeze, Unsqueeze, Flatten, Split, and of
/// Gather and Slice by constants. A chain that cannot be written with strides is followed as far as it can.
std::optional<View> view_of(Value* value);

}  // namespace planish::passes
