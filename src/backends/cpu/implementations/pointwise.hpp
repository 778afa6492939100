// Point-wise expressions, alone or in front of a reduction.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/jit/pointwise.hpp"

namespace planish::cpu::families {

inline constexpr size_t kMaxExpressionInputs = 12;

struct Expression {
    PointwiseProgram program;
    std::vector<int> inputs;  // program input -> region input
};

/// Writes a point-wise region (or op) as a program over float32 registers, or says what in it is not handled.
Refusal translate(const RegionView& region, Expression& expression);

/// As a region's layouts, where its inputs are read element by element.
Layouts pointwise_layouts(const RegionView& region, std::span<const Layout> available);

/// A kernel that reads the inputs of `region` named by `expression.inputs` as they are stored.
std::unique_ptr<Kernel> compile_expression(const RegionView& region, const Expression& expression,
                                           const Layouts& layouts, const Environment& environment);

/// How a kernel reads elements of that type; nullopt: it does not.
std::optional<PointwiseType> loadable(DType dtype);

/// Element strides of an input along the output's axes in the output's physical order.
std::vector<int64_t> strides_in(const Dims& input, Layout input_layout, const Dims& output, Layout output_layout);

}  // namespace planish::cpu::families
