// Which channels of a network can be removed, and what goes with each: found by propagation through the graph.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ir/graph.hpp"

namespace planish::sparsity {

inline constexpr int kStays = -1;

/// One axis of a value (constant or computed) and the channel that each of its indices belongs to.
struct ChannelAxis {
    const Value* value;
    int axis;
    std::vector<int> channel;  // kStays: this index is needed
};

/// Channels that occupy the same axes, so that any of them may go: the outputs of a convolution, the heads of an
/// attention, the channels of a residual stream with everything that adds to it.
struct ChannelGroup {
    std::string name;           // the first layer that makes them
    std::vector<int> channels;  // in the order of their indices
    std::vector<int> axes;      // places in Channels::axes
    int64_t width = 1;          // indices of one channel in the weights: a head's size, a group's filters
};

struct Channels {
    std::vector<ChannelAxis> axes;  // those with at least one channel, in the order of Graph::values
    std::vector<ChannelGroup> groups;
    int count = 0;

    const ChannelAxis* find(const Value* value, int axis) const;  ///< or null
};

/// A channel is a set of indices of axes that an operation ties together: a filter of a convolution, its bias, the
/// plane of the image that it makes, the same plane of whatever is added to it, the slices of the filters that read
/// it. It is removed from all of them or from none. What a node needs whole (the axis of a softmax, a normalisation's
/// mean, anything that the rules do not know) stays, and so do the network's inputs and outputs.
Channels find_channels(const Graph& graph);

/// One line a group: "conv1: 8 channels, width 1: w1[0] b1[0] w2[1]" (axes of constants only).
std::string print(const Channels& channels);

/// A copy of `graph` without the channels that `removed` marks: smaller constants, and attributes and shape constants
/// that state sizes adjusted. What is left of an axis keeps its order.
std::unique_ptr<Graph> shrink(const Graph& graph, const Channels& channels, const std::vector<bool>& removed);

/// The indices of `axis` that stay.
std::vector<int64_t> kept_indices(const ChannelAxis& axis, const std::vector<bool>& removed);

/// The slices of `tensor` at `indices` of `axis`.
Tensor take(const Tensor& tensor, int64_t axis, const std::vector<int64_t>& indices);

}  // namespace planish::sparsity
