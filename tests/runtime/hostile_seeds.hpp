// Valid nodes to start damage from, for the ops that chance alone would not build.
#pragma once

#include <string_view>
#include <vector>

namespace planish {

/// Graphs in text form whose last node is of this op.
const std::vector<std::string_view>& hostile_seeds(std::string_view op);
/// Graphs to put where a node wants a body: of several arities, some empty.
const std::vector<std::string_view>& hostile_bodies();

}  // namespace planish
