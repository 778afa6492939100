// From a plan's symbolic graph to a Program for one set of input shapes: what Engine does at load and what a build
// does to tune and verify.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "planish/tensor.hpp"

namespace planish::runtime {

struct Compiled {
    std::unique_ptr<Program> program;  // null: only the interpreter can run it
    std::unique_ptr<Graph> graph;      // then: what it runs, with the input shapes bound
    std::string interpreted;           // then: why, naming the value whose shape depends on data
};

/// Specialises `graph` to `shapes` (in input order) and compiles it with `backend`.
Compiled compile(const Graph& graph, const std::vector<Dims>& shapes, const Backend& backend,
                 const CompileOptions& options);

struct Device {
    const Backend* backend;
    std::string name;    // "cpu", "cuda:0"
    std::string target;  // "cpu:avx512", "cuda:sm_90a": what to compile for
    int ordinal = -1;    // of the GPU
};

/// The device behind a string: "cpu", "cpu:avx2", "cuda:0", or "auto": the first GPU for which `targets` (those that a
/// plan was built for) have an entry, else the CPU. Errors: unsupported (a known device or instruction set that this
/// machine lacks), invalid_argument (an unknown one).
Device find_device(const std::string& device, std::span<const std::string> targets = {});

/// The full name of a build target: "cpu" is what this machine can do, "cuda" its first GPU, else sm_90a.
/// Errors: invalid_argument.
std::string full_target(const std::string& target);
/// The backend that compiles for a full target.
const Backend& backend_of(const std::string& target);
/// Where a program for this full target can be run here: a Device, or one with ordinal -1 and an empty name.
Device device_of(const std::string& target);

}  // namespace planish::runtime
