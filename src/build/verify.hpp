// Checks a compiled program against the reference interpreter, region by region and at its outputs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "planish/report.hpp"

namespace planish::verification {

/// Runs `program` once on `inputs` (port order) and, around every step, the reference on the very memory that the step
/// read: each row shows the error of its own region only. Holds one region's values at a time. `outputs` receives the
/// program's outputs when not null. `progress` gets the fraction done.
///
/// The tolerance of an element is derived: the reference is evaluated again with every value inside the region moved
/// by its own rounding error bound (k * eps * magnitude, k = lambda * sqrt(K) for a sum of K products after Higham and
/// Mary, SIAM J. Sci. Comput. 41(5), 2019), and the spread of the results is what rounding may do.
std::vector<VerificationRow> verify_regions(const Program& program, const std::vector<Tensor>& inputs, int threads,
                                            std::vector<Tensor>* outputs = nullptr,
                                            const std::function<void(double)>& progress = {});

/// Compares the network's outputs with `reference`. The tolerance is eps * lambda * (sum over regions of sqrt(K)) *
/// max |reference|: every layer adds at most its own rounding error to signals of the network's own scale. Where values
/// are stored with a coarser `roundoff` than eps, each region adds one of those, the square root of as many at random.
std::vector<VerificationRow> verify_outputs(const Graph& graph, const std::vector<Tensor>& outputs,
                                            const std::vector<Tensor>& reference, double roundoff = 0x1p-24);

/// `graph` with its values going on as floats where it stores them in 8 bits and decodes them again; null: it does not.
std::unique_ptr<Graph> without_quantisation(const Graph& graph);

/// Raises the tolerance of each output of a network that stores bytes. A value on the border of two bytes may become
/// either, so sums that differ in their last bits end a step apart. If every stored value did, the difference would be
/// sqrt(12) times what quantisation itself adds, whose errors are spread evenly over a step: that is the bound, from
/// `reference` and from `real`, the outputs without quantisation.
void allow_other_bytes(std::vector<VerificationRow>& rows, const std::vector<Tensor>& reference,
                       const std::vector<Tensor>& real);

/// Inputs for a graph with static input shapes: normal floats; integers that index tables stay below the table's
/// length, other integers and booleans are 0 or 1. Deterministic.
std::vector<Tensor> random_inputs(const Graph& graph, uint64_t seed = 1);

}  // namespace planish::verification
