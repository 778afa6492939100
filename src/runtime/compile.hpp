// From a plan's symbolic graph to a Program for one set of input shapes: what Engine does at load and what a build
// does to tune and verify.
#pragma once

#include <memory>
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
    std::string name;    // "cpu"
    std::string target;  // "cpu:avx512": what to compile for
};

/// The device behind a string: "auto", "cpu", "cpu:avx2". Errors: unsupported (a known device or instruction set that
/// this build or machine lacks), invalid_argument (an unknown one).
Device find_device(const std::string& device);

}  // namespace planish::runtime
