// A node's text without its names: equal for nodes that do the same work.
#pragma once

#include <string>

#include "ir/graph.hpp"

namespace planish {

/// What `node` computes, as text: operators, attributes, bodies, dtypes and dimensions, the values of scalars and of
/// small integer constants. Names, layers and the values of weights do not show, so repeated blocks of a network have
/// equal texts. Whether an input is a constant does.
std::string canonical_text(const Node& node);

}  // namespace planish
