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
    std::string interpreted;           // why, naming the value whose shape depends on data
};

/// Specialises `graph` to `shapes` (in input order) and compiles it with `backend`.
Compiled compile(const Graph& graph, const std::vector<Dims>& shapes, const Backend& backend,
                 const CompileOptions& options);

/// The backend behind a device string ("auto", "cpu"). Errors: unsupported (a known device this build lacks),
/// invalid_argument (an unknown one).
const Backend& find_backend(const std::string& device);

}  // namespace planish::runtime
