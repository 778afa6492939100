// What a build says about itself: the rows that BuildReport returns and that a plan keeps as provenance.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "planish/dtype.hpp"

namespace planish {

using StringPairs = std::vector<std::pair<std::string, std::string>>;

/// One pass of the pipeline.
struct PassRow {
    std::string name;
    int changes = 0;     ///< rewrites made
    double seconds = 0;  ///< wall time; not stored in plans, whose bytes depend on the inputs only
};

/// One launch of a compiled program: where and in which precision the user's layers run.
struct LayerRow {
    std::string name;                 ///< the region, after its main layer
    std::vector<std::string> layers;  ///< the user's layers inside it
    std::string op;                   ///< "Conv+Clip", ...
    std::string implementation;       ///< kernel, or "reference.X" for the interpreter
    std::string placement = "cpu";    ///< device
    DType dtype = DType::undefined;   ///< of the computation
    int64_t flops = 0;
    int64_t bytes = 0;    ///< read + written at least once
    StringPairs refused;  ///< implementation -> reason, best first
};

/// One region (or output of the network) compared with the reference interpreter.
struct VerificationRow {
    std::string name;                 ///< region, or "output:NAME"
    std::vector<std::string> layers;  ///< the user's layers inside it
    std::string implementation;
    double error = 0;      ///< largest |actual - reference|
    double tolerance = 0;  ///< the derived bound that applied where error / tolerance was largest
    bool passed = true;
    std::string note;  ///< e.g. the input shapes, or why the row was not compared
};

/// A region that could run in more than one way, and the seconds that each way takes in its place: the region's own
/// steps and the reorders that it causes.
struct TacticRow {
    std::string region;
    std::vector<std::string> layers;                      ///< the user's layers inside it
    std::string chosen;                                   ///< implementation, or "dissolve": its parts run one by one
    std::vector<std::pair<std::string, double>> seconds;  ///< by tactic, the default first; empty: it was not timed
    bool from_cache = false;                              ///< known from the timing cache
};

/// A layer of a quantised network.
struct PrecisionRow {
    std::string layer;            ///< the user's name
    std::string op;               ///< "Conv", ...
    std::string before = "fp32";  ///< in which it computed
    std::string after;            ///< in which it computes: "int8", "fp8", or "fp32" where `note` says why
    double sqnr = 0;              ///< of its result against the float network's, on calibration data, in dB
    std::string note;
};

/// An output of a quantised network against that of the float one.
struct OutputErrorRow {
    std::string name;
    double sqnr = 0;    ///< signal to quantisation noise, in dB
    double cosine = 1;  ///< mean over the samples
};

/// Layers that precision "auto" decides about together, and what each precision was found to take and to cost there.
struct PrecisionGroupRow {
    struct Choice {
        std::string precision;
        double seconds = 0;  ///< of the network's time, in its place in a network of that precision
        double noise = 0;    ///< energy of the outputs' error over theirs with these layers alone in that precision
    };
    std::vector<std::string> layers;
    std::vector<Choice> choices;
    std::string chosen;  ///< precision
};

/// A mix of precisions that was built and measured as a whole.
struct MixRow {
    std::string name;       ///< "fp32", "int8" (whatever can be), "mix 1", ...
    int layers = 0;         ///< in 8 bits
    double seconds = 0;     ///< of one run
    double accuracy = 0;    ///< the budget's metric: on the calibration data, or as the user's own metric says
    double held_out = NAN;  ///< the same on data that calibration has not seen; NAN: the user's own metric has its own
    bool met = false;       ///< the budget, on both
    bool on_front = false;  ///< no other mix is faster and as accurate, or as fast and more accurate
    bool chosen = false;

    double accuracy_to_expect() const { return std::isnan(held_out) ? accuracy : held_out; }
};

struct BuildReport {
    std::vector<PassRow> passes;
    std::vector<TacticRow> tactics;
    std::string timing_cache;  ///< the file that the measurements came from and went to; empty: none
    std::vector<LayerRow> layers;
    std::vector<PrecisionRow> precision;        ///< of the layers that quantisation looked at; empty: none did
    std::vector<OutputErrorRow> output_errors;  ///< of quantisation, on calibration data
    std::string budget;                         ///< of precision "auto"; empty: there was none
    std::vector<PrecisionGroupRow> groups;      ///< likewise
    std::vector<MixRow> mixes;                  ///< likewise, the fastest first
    std::vector<VerificationRow> verification;
    std::vector<std::pair<std::string, double>> seconds;  ///< stage ("import", "optimise", "compile", ...) -> wall time
    std::vector<std::string> warnings;                    ///< e.g. layers that run in the reference interpreter
};

}  // namespace planish
