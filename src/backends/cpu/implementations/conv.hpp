// A Conv node and its epilogue as the generators take them: shared by single convolutions and by chains of them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "backends/cpu/epilogue.hpp"
#include "backends/cpu/jit/conv.hpp"
#include "backends/cpu/jit/depthwise.hpp"

namespace planish::cpu {

/// ONNX's Conv attributes as a shape; nullopt for ranks other than 3 and 4.
std::optional<ConvShape> conv_shape(const Node& conv);
inline bool is_depthwise(const ConvShape& s) {
    return s.groups == s.c && s.oc == s.c && s.c > 1;
}
DepthwiseShape depthwise_shape(const ConvShape& s);

/// The bias is the first post-op.
std::optional<Epilogue> conv_epilogue(const RegionView& region);

/// A few planes (an RGB image) are reordered while they are padded.
bool reads_planes(const ConvShape& s, Layout available);

Refusal can_convolve(const RegionView& region, const Environment& environment);
Layouts conv_layouts(const RegionView& region, std::span<const Layout> available);

/// The region's weights in the order that the plan reads, from the environment's store.
Tensor packed_weights(const RegionView& region, const ConvPlan& plan, const Environment& environment);
Tensor packed_weights(const RegionView& region, const DepthwisePlan& plan, const Environment& environment);

}  // namespace planish::cpu
