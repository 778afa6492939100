// The point-wise part of a region as CUDA C++: statements over registers, and the epilogue of a kernel.
//
// Generated code calls the functions of "planish/math.cuh". Floats of at most 32 bits are computed in float, doubles
// and integers in their own type.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/implementation.hpp"
#include "backends/quantized.hpp"

namespace planish::cuda {

/// Definitions that compute a region's outputs from registers a0, a1, ... of register_type() of the inputs.
struct Expression {
    std::vector<int> inputs;           ///< a<i> is this input of the region
    std::vector<std::string> lines;    ///< "const float v3 = a0 + v2;"
    std::vector<std::string> results;  ///< for each output of the region, the register or literal that holds it
    std::vector<const Value*> values;  ///< of the region's node, for each result
    int operations = 0;
};

/// The type that elements of `dtype` are computed in; empty: not on the GPU.
std::string_view register_type(DType dtype);
/// The type of such elements in memory, of "planish/common.cuh"; empty: not on the GPU.
std::string_view memory_type(DType dtype);
/// The same where bytes stand for numbers, which kernels compute in float.
std::string_view element_type(DType dtype);
/// `value` as an exact literal of a register type.
std::string literal(double value, DType dtype);

/// What the register `x` of a stored number stands for, and the stored number that stands for the float register `x`: a
/// float that may lie outside of the type's range, of float8 one that is not rounded yet. Of one scale.
std::string decoded(const std::string& x, const Quantization& q);
std::string encoded(const std::string& x, const Quantization& q);

/// Every node of the region, or the node itself. nullopt: one of them is not point-wise, or not in the vocabulary.
std::optional<Expression> pointwise_expression(const RegionView& region, const Environment& environment);

/// The chain behind a region's root as `struct Epilogue` of "planish/common.cuh" (which is not part of `source`).
struct EpilogueCode {
    static constexpr size_t kMaxOperands = 8;
    struct Operand {
        int input;     ///< of the region; -1: a constant that the implementation binds
        bool channel;  ///< one element for each channel, else a tensor of the output's shape
    };
    std::string source;
    std::vector<Operand> operands;
    int operations = 0;

    int tensors() const;  ///< operands that are
    /// The source in a namespace, for kernels with several epilogues. They include "planish/math.cuh" before.
    std::string in_namespace(std::string_view name) const;
};

/// `channel_axis` is the logical axis of the root's output that channel operands run along. `bias`: an input of the
/// region that is added first, one element for each channel. nullopt: something in the body is no epilogue. A region
/// without a body has the identity.
std::optional<EpilogueCode> read_epilogue(const RegionView& region, int64_t channel_axis,
                                          const Environment& environment, std::optional<int> bias = {});

/// The formats of the epilogue's operands: float32 for each channel, as sums are; tensors lie as output 0 does.
void set_epilogue_formats(Formats& formats, const EpilogueCode& epilogue);

/// Binds the operands to the array of addresses at `offset` in the launch's parameters. Output 0 may take over a tensor
/// operand's memory, except that of inputs which threads read in another order: `read`.
void bind_epilogue(CudaKernel& kernel, Launch& launch, size_t offset, const EpilogueCode& epilogue,
                   std::initializer_list<int> read);

/// The input of the region that `value`, an optional operand of its root, is; -1 when it is left out. nullopt: it is
/// computed inside of the region.
std::optional<int> optional_input(const RegionView& region, const Value* value);

}  // namespace planish::cuda
