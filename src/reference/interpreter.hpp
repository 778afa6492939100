// The reference interpreter: runs a graph node by node with the op table's reference functions.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "reference/ref_context.hpp"

namespace planish::reference {

/// Runs one node on the given inputs (null = omitted). Errors name the node.
std::vector<RefValue> run_node(const Node& node, std::vector<const RefValue*> inputs);

/// The same between dense row-major memory, in node order; constants are read where they are. Errors: invalid_model
/// when a result has another type than the node's output declares, for which `out` was made.
void run_node_into(const Node& node, std::span<const std::byte* const> in, std::span<std::byte* const> out);

/// Called with each value as it is computed (and with each graph input first).
using Observer = std::function<void(const Value&, const RefValue&)>;

/// Runs `graph` on `inputs` (in the order of graph.inputs()); returns the outputs in order. Values are freed after
/// their last use. Body graphs (If, Loop, Scan, Region) are run by the ops' own reference functions through this.
std::vector<RefValue> run_graph(const Graph& graph, std::vector<RefValue> inputs, const Observer& observer = {});

/// The same by name, tensors only. Throws invalid_argument for a missing or unknown name.
std::map<std::string, Tensor> run_graph(const Graph& graph, const std::map<std::string, Tensor>& feeds);

}  // namespace planish::reference
