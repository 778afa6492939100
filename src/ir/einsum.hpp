// The equation of Einsum, parsed once for the shape rule and the reference function.
#pragma once

#include <string_view>
#include <vector>

namespace planish {

/// Each operand's axes and the output's as labels: letters by their code, the axes of an ellipsis as negative numbers
/// counted from its last one (-1), so that ellipses of different rank align as broadcasting does.
struct EinsumEquation {
    std::vector<std::vector<int>> inputs;
    std::vector<int> output;
};

/// Throws invalid_model when the equation does not fit operands of these ranks.
EinsumEquation parse_einsum(std::string_view equation, const std::vector<size_t>& ranks);

}  // namespace planish
