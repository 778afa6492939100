// PlanContents: what a .plan holds, as data. The writer and the reader are two views of this file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/graph.hpp"
#include "planish/report.hpp"

namespace planish::plan {

/// Input shapes, in the order of the graph's inputs, that the plan was built and tuned for. An input without a
/// known shape has an empty entry only when it is a scalar: an engine compiles `opt` at load.
struct Profile {
    std::vector<Dims> min, opt, max;
};

/// Which implementation was chosen for a region (RegionInfo::path and ::tactic).
struct Tactic {
    std::string region;
    std::string implementation;
};

/// Machine code of one kernel, by the backend's own key. The bytes may borrow the mapped file.
struct Binary {
    std::string key;
    std::span<const std::byte> code;
    std::shared_ptr<const void> owner;
};

/// What was compiled for one target: descriptors that the backend checks and expands at load and, for a GPU, cubins.
struct Section {
    std::string target;           // "cpu:avx512", "cuda:sm_90a"
    std::vector<Tactic> tactics;  // sorted by region, for the shapes of profiles[0].opt
    int threads = 0;              // that they were measured with; 0: they were not measured
    std::string precision = "fp32";
    std::vector<Binary> binaries;  // sorted by key
};

/// Everything here is deterministic: no dates, no paths of the building machine, and no times but those of `mixes`,
/// which are in the timing cache.
struct Provenance {
    StringPairs source;    // "format", "sha256", "bytes", "producer", "opset", ...
    StringPairs options;   // name -> value as given
    StringPairs versions;  // "planish", "onnx", ...
    std::vector<PassRow> passes;
    std::vector<LayerRow> layers;
    std::vector<VerificationRow> verification;
    StringPairs metadata;                 // the user's
    std::vector<PrecisionRow> precision;  // of quantisation, as are output_errors and mixes; else empty
    std::vector<OutputErrorRow> output_errors;
    std::vector<MixRow> mixes;
};

struct PlanContents {
    std::unique_ptr<Graph> graph;   // the portable core
    std::vector<Profile> profiles;  // at most one for now; empty: only the graph's own static shapes
    std::vector<Section> sections;
    Provenance provenance;
};

}  // namespace planish::plan
