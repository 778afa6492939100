// What is left of the weights, adapted to what is left of the channels, without training.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sparsity/channels.hpp"
#include "sparsity/observe.hpp"

namespace planish::sparsity {

struct Repair {
    std::string layer;
    double error_before = 0, error = 0;  ///< relative to the layer's output on the calibration data
};

struct ReconstructOptions {
    double ridge = 1e-3;
    bool add_biases = true;  // where a layer has none
    bool apply = true;       // false: only the errors are measured, of the network as it is
    std::function<void(std::string_view layer, double fraction)> progress;
};

/// Layer by layer from the input on, the weights of every Conv, Gemm and MatMul that reads a changed value become those
/// that make the outputs of the same layer of `original` from what now comes in, in the least-squares sense, ridge
/// towards what they were (He, Zhang and Sun, ICCV 2017, asymmetric as in Zhang et al., TPAMI 2016). Kernels of more
/// than one place are adapted by the channel mixture that predicts the original channels best.
std::vector<Repair> reconstruct(const Graph& original, Graph& pruned, const Channels& channels,
                                const std::vector<bool>& removed, const Observer& observer,
                                const ReconstructOptions& options);

}  // namespace planish::sparsity
