// A convolution, alone or in a region with its epilogue, as a link of a longer chain.
#pragma once

#include <cstdint>

#include "ir/graph.hpp"

namespace planish::passes {

struct ConvolutionLink {
    enum class Kind : uint8_t { other, ungrouped, pointwise, depthwise } kind = Kind::other;
    const Value* carried = nullptr;  ///< what the convolution reads, as the node's own input
};

/// `other` unless `node` is a Conv of float32 images of known sizes.
ConvolutionLink convolution_link(const Node& node);

}  // namespace planish::passes
