// Checks what a caller feeds against what the plan expects, with messages that say what to do.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.hpp"
#include "planish/tensor.hpp"

namespace planish::runtime {

/// "'a', 'b'" for the names of `values`.
std::string name_list(std::span<Value* const> values);

/// Throws invalid_argument: `what` ("input" or "output") has no such name.
[[noreturn]] void fail_unknown_name(std::string_view what, std::string_view name, std::span<Value* const> known);
[[noreturn]] void fail_missing(const Value& input, std::span<Value* const> known);

/// Throws invalid_argument unless dtype, rank and every dimension of `views` (one for each graph input, in order) fit,
/// with each symbol standing for one size throughout.
void check_inputs(const Graph& graph, std::span<const TensorView* const> views);

/// A view's dims do not fit `expected`: the common causes, as a hint ("" when none is recognised).
std::string shape_hint(const Shape& expected, const Dims& given);

}  // namespace planish::runtime
