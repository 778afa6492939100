// Post-training quantisation to 8 bits: a float network and samples of its inputs in, one with QuantizeLinear and
// DequantizeLinear around what is computed in these out.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "ir/graph.hpp"
#include "planish/planish.hpp"
#include "precision/observer.hpp"
#include "precision/sensitivity.hpp"

namespace planish::precision {

/// The grid of each quantised tensor, by its name: what calibration finds, and what a user may edit.
using CalibrationTable = std::map<std::string, Grid>;

struct QuantizeOptions {
    bool floats = false;  ///< of 8 bits, e4m3, instead of integers: "fp8"
    /// For GPUs, whose kernels of 8 bits are products, sums and maxima: attention and depthwise convolutions stay
    /// floats.
    bool gpu = false;
    Method method = Method::mse;
    double percentile = 99.99;
    bool equalise = true;         ///< scales move between channels of activations and the weights that read them
    bool compensate = true;       ///< weights make up for the errors that their inputs come with
    bool round_jointly = true;    ///< a weight's rounding error is made up for by the weights after it
    bool correct_bias = true;     ///< each channel's mean stays
    StringPairs layer_precision;  ///< pattern (* and ?) of layer names -> "fp32", or what the others are: "int8", "fp8"
    bool sensitivities = false;   ///< find out what each layer alone would cost
    const CalibrationTable* table = nullptr;  ///< grids that are not to be chosen again
    int64_t memory = int64_t{3} << 29;        ///< bytes that values of samples may take
    int threads = 1;
    std::function<void(std::string_view detail, double fraction)> progress;
};

struct QuantizeResult {
    std::vector<PrecisionRow> layers;
    std::vector<OutputErrorRow> outputs;
    CalibrationTable table;
    std::vector<LayerGroup> groups;  ///< with QuantizeOptions::sensitivities
    int samples = 0;
};

/// `graph` is the portable core. Errors: invalid_argument (no samples, or such as the model does not take).
QuantizeResult quantize(Graph& graph, std::span<const TensorMap> samples, const QuantizeOptions& options);

}  // namespace planish::precision
