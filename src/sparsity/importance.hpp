// In which order the channels of a group go, and what their loss costs.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sparsity/channels.hpp"
#include "sparsity/observe.hpp"

namespace planish::sparsity {

/// The channels of one group, least important first. `loss[n]` is what is lost with the first n: 0 at n = 0, growing.
/// By "activation" it is the relative square error of the network's outputs, measured at some counts; by norms, the
/// average channel counts one.
struct Curve {
    std::vector<int> order;
    std::vector<double> loss;
};

/// One curve a group, by one of these criteria:
///
/// - "l1", "l2": the norms of a channel's weights, made and read, each relative to the mean over its axis (Li et al.,
///   ICLR 2017; Fang et al., CVPR 2023, for groups).
/// - "bn": |scale| of the batch normalisation behind the layer (Liu et al., ICCV 2017), or the norm of the filter where
///   it has been folded into it.
/// - "activation": what the outputs of the layers that read the channel change by on the calibration data, after their
///   other weights have been adapted to its absence: for a covariance C and weights w_k of channel k that is
///   |w_k|² / (C⁻¹)_kk (Hassibi and Stork, 1993, over whole channels). Channels go one by one, the least first, each
///   time with C⁻¹ and the weights updated. What the network's outputs lose then is measured where some of `allowed`
///   are gone, so that groups are compared by what they mean to the network.
/// - "taylor": as "activation", but that the order is by the square of `gradients` (PruneOptions::gradients), summed
///   over the readers, where all of a group's readers have some (Molchanov et al., CVPR 2019, over whole channels).
std::vector<Curve> importance(const Graph& graph, const Channels& channels, const std::string& criterion,
                              const std::map<std::string, Tensor>& gradients, const Observer& observer,
                              const std::vector<std::vector<size_t>>& allowed,
                              const std::function<void(std::string_view detail, double fraction)>& progress);

}  // namespace planish::sparsity
