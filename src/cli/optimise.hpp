// What verbs that turn a network into another one have in common.
#pragma once

#include "cli/common.hpp"
#include "planish/optimised.hpp"

namespace planish::cli {

struct OptimiseOptions {
    std::string model, output, onnx, calibration;
    std::vector<std::string> shapes;
    int threads = 0;
    bool no_measure = false, json = false, quiet = false;
};

/// MODEL, -o, --onnx, --calib, --shape, --threads, --no-measure, --json, -q. `suffix`: of the plan's name.
void add_options(CLI::App& verb, OptimiseOptions& options, const std::string& suffix);

/// Decides where results go and sees that they can. The output's own name says what it is.
void choose_outputs(OptimiseOptions& options, const std::string& suffix);

/// Writes what was asked for and says so. `finish` makes of the built plan the one that is written.
void write_outputs(const OptimiseOptions& options, const Optimised& network, BuildOptions build,
                   const std::vector<TensorMap>& calibration, const std::function<Plan(const Plan&)>& finish);

/// After the report.
void print_outputs(const OptimiseOptions& options);

}  // namespace planish::cli
