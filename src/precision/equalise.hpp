// Scales that move between the channels of an activation and the weights that read it.
#pragma once

#include <unordered_map>

#include "precision/places.hpp"

namespace planish::precision {

/// What was seen of a place whose channels may be scaled.
struct ChannelStatistics {
    std::vector<float> maxima;  ///< largest magnitude, by channel
    Matrix rows;                ///< some values: a row holds all channels at one place
};
using ChannelTable = std::unordered_map<const Value*, ChannelStatistics>;

/// The axis along which the channels of a place lie for the layers that read it; nullopt: they disagree, or something
/// else reads its bytes. Those of an attention's operands are the last.
std::optional<int64_t> channel_axis(const Place& place, std::span<const Layer> layers);

/// A tensor has one grid for all of its channels, so that a channel of small values is stored coarsely. Multiplying
/// channel c by s[c] where the tensor is made and dividing the weights that read it by s[c] changes nothing in float
/// and evens out the channels.
///
/// s[c] = max |w[c]|^(1 - a) / max |x[c]|^a (SmoothQuant, Xiao et al., ICML 2023), and `a` is what gives the least
/// error of the layers' results on the rows that were seen; it may be not to scale. Inputs of convolutions are left
/// alone: what they gain on calibration data they lose on other images, whose channels are cut off. Depthwise ones are
/// the exception: a filter has a scale of its own, so that its weights lose nothing when its channel is scaled up, and
/// small channels are scaled only so far that they may still grow.
///
/// The factors go into the layer or the normalisation that makes the tensor, through an attention into what makes its
/// values, or else into a Mul, which joins the epilogue of what is before it.
///
/// Queries, keys and values that one layer makes share a grid: q[c] and k[c] are multiplied by factors that cancel in
/// their product and make them equally large, and all values by one that brings them to the same size, which the layers
/// that read the attention's result take back.
///
/// Returns the number of tensors whose channels were scaled. `table` is brought up to date.
int equalise(Graph& graph, std::span<Place> places, std::span<const Layer> layers, ChannelTable& table, int threads);

}  // namespace planish::precision
