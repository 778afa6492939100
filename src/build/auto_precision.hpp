// precision "auto": the fastest mix of float32 and 8-bit integers that keeps within a budget of accuracy.
#pragma once

#include <functional>
#include <memory>

#include "build/accuracy.hpp"
#include "build/network.hpp"
#include "precision/quantize.hpp"

namespace planish {

/// Quantises `graph` on the calibration data, with `pins` after the user's own.
using Quantise = std::function<precision::QuantizeResult(Graph& graph, const StringPairs& pins, bool sensitivities)>;

/// 1. The float32 network and the one of integers are built, tuned and timed region by region; calibration tells what
///    each group of layers alone costs in accuracy (precision/sensitivity.hpp).
/// 2. From both follows an order of mixes, from the fastest to float32 (precision/mixes.hpp).
/// 3. Mixes along it are built and measured as a whole, in time and in accuracy on calibration and held-out data: by
///    bisection where the budget ends, then where the gaps are widest.
/// 4. The fastest of them within the budget is taken, float32 among them.
///
/// The network that comes of it is tuned; `report` receives precision, output_errors, groups, mixes and warnings.
/// Errors: invalid_argument (nothing can be timed), verification_failed (the budget cannot be met: says what can).
Network build_mix(const Graph& floats, const BuildOptions& options, const Quantise& quantise, Accuracy& accuracy,
                  NetworkCompiler& compiler, Stages& stages, BuildReport& report);

}  // namespace planish
