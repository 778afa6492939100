// What each layer of a network would cost if it alone were computed in fewer bits.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "precision/layer.hpp"

namespace planish::precision {

/// Layers that read one tensor: it is stored in one way, so they take their precision together.
struct LayerGroup {
    struct Member {
        std::string name;                 ///< of the node
        std::vector<std::string> layers;  ///< the user's names of what the node was made of
        int64_t products = 0;             ///< multiplications, for the first sample
    };
    std::vector<Member> members;
    /// A group whose results this one reads, maybe through sums, pools and activations.
    struct Border {
        size_t group;
        int64_t elements;  ///< that are read
    };
    std::vector<Border> borders;
    /// Energy of the error over the energy of the signal, summed over the network's outputs, with this group alone
    /// rounded. Errors of different layers are nearly uncorrelated, so those of several groups add up.
    double noise = 0;
};

/// The float32 stand-ins of what a layer computes with.
struct Rounding {
    std::function<Tensor(const Layer&, const Tensor& x)> input;
    std::function<Tensor(const Layer&)> weights;
};

/// Runs `graph` on each sample once, and for each group again what comes behind its layers.
std::vector<LayerGroup> sensitivities(const Graph& graph, std::span<const Layer> layers,
                                      std::span<const TensorMap> samples, const Rounding& rounding, int threads,
                                      const std::function<void(double fraction)>& progress);

}  // namespace planish::precision
