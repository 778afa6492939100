// Kernels over strided operands: point-wise expressions with broadcasting, and every movement that is a strided copy.
#pragma once

#include <string>
#include <vector>

#include "backends/cuda/expression.hpp"

namespace planish::cuda {

/// An operand of a strided kernel. Strides are in elements, one for each of the problem's extents.
struct StridedOperand {
    std::string memory_type, register_type;
    int64_t bytes = 0;  ///< of an element
    std::vector<int64_t> strides;
    int64_t offset = 0;  ///< of the first element, in elements
    Operand operand;
};

/// Every element of `extents`: result registers from input registers a0, a1, ...
struct StridedProblem {
    std::string name;  ///< of the kernel: what is appended says types and tile
    Dims extents;      ///< outermost first
    std::vector<StridedOperand> inputs, outputs;
    std::vector<std::string> lines, results;
};

/// Whether strided_launch() takes it: ranks after merging, numbers of operands, sizes.
bool can_launch(const StridedProblem& problem);
Launch strided_launch(const StridedProblem& problem);

/// Elements of `bytes` bytes that are only moved.
StridedOperand moved(int64_t bytes, std::vector<int64_t> strides, int64_t offset, Operand operand);
/// Elements that are computed with, `dtype` in memory.
StridedOperand computed(DType dtype, std::vector<int64_t> strides, int64_t offset, Operand operand);
/// output = input
StridedProblem copy_problem(std::string name, Dims extents, StridedOperand input, StridedOperand output);

/// Strides of a dense tensor of logical `dims` in `layout`, by logical axis.
std::vector<int64_t> logical_strides(const Dims& dims, Layout layout);
/// Those of an operand of logical `dims`, broadcast to `out` (NumPy's rule), by logical axis of `out`.
std::vector<int64_t> broadcast_strides(const Dims& dims, Layout layout, const Dims& out);
/// `by_axis` (dims, strides) in the physical order of `layout`.
std::vector<int64_t> physical_order(const std::vector<int64_t>& by_axis, Layout layout);

/// extern "C" __global__ void NAME(Params p) { call }
std::string kernel_source(std::string_view includes, std::string_view definitions, std::string_view name, int threads,
                          std::string_view params, std::string_view call);
unsigned blocks_for(int64_t count, int64_t each);

}  // namespace planish::cuda
