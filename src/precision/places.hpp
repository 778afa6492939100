// What of a network is stored in 8 bits.
#pragma once

#include <functional>
#include <vector>

#include "precision/layer.hpp"

namespace planish::precision {

/// A tensor and those of its readers that will read it in 8 bits.
struct Place {
    Value* value = nullptr;
    std::vector<Use> uses;
    int group = 0;              ///< places of one group share a grid, so that bytes can be moved between them
    bool equalised = false;     ///< its channels were scaled to take up the whole grid
    Node* attention = nullptr;  ///< that reads it as queries, keys or values, itself or by slices
};

/// Layers whose node `wanted` names, in order.
std::vector<Layer> find_layers(const Graph& graph, const std::function<bool(const Node&)>& wanted);

/// The inputs of the layers, and what lies between layers: operands of sums, concatenations, pools and those attentions
/// that `wanted` names. An operand that
/// the layer which makes it adds up itself stays as it is, so do the residual streams of transformers, which end in
/// normalisations.
std::vector<Place> find_places(const Graph& graph, std::span<const Layer> layers,
                               const std::function<bool(const Node&)>& wanted);

}  // namespace planish::precision
