// The inverse of region formation: a Region node replaced by the ops of its body.
#pragma once

#include <memory>
#include <vector>

#include "ir/graph.hpp"

namespace planish::passes {

/// Puts the body's ops in front of `region`, rewires and erases it. Returns them in order. A region's output keeps its
/// name; a single inlined op whose layer named the region keeps the user's node name.
std::vector<Node*> inline_region(Graph& graph, Node* region);

/// A copy of the region's body in which regions inside it are dissolved: primitive ops only.
std::unique_ptr<Graph> flat_body(const Node& region);

}  // namespace planish::passes
