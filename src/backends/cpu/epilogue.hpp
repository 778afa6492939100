// From the point-wise chain behind a region's root op to the post-ops that a kernel fuses.
#pragma once

#include <optional>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

struct Epilogue {
    PostOps ops;
    std::vector<int> operands;  ///< PostOp::operand -> index of the region's input

    /// Appends an operand and returns its index for PostOp::operand.
    int add_operand(int input) {
        operands.push_back(input);
        return static_cast<int>(operands.size()) - 1;
    }
};

/// The unary post-op that `node` computes (Relu, Clip with constant bounds, Gelu, ...), if it is one.
std::optional<PostOp> unary_post_op(const Node& node, const RegionView& region);

/// Appends to `first` (a bias, say) the chain root → ... → the body's only output. `channel_axis` is the logical axis
/// of the root's output that a channel operand runs along. A node that is no post-op ends the attempt: nullopt. A
/// region without a body adds nothing.
std::optional<Epilogue> read_epilogue(const RegionView& region, int64_t channel_axis, Epilogue first = {});

/// The region's inputs whose memory the output may take over: tensor operands, which lie as the output and are read
/// just before it is written. `excluded` inputs are still read afterwards.
std::vector<int> reusable_operands(const Epilogue& epilogue, std::initializer_list<int> excluded);

/// The operand pointers of a launch, in the order of PostOp::operand.
template <size_t N>
std::span<const float* const> operand_pointers(const Launch& launch, const std::vector<int>& operands,
                                               const float* (&storage)[N]) {
    for (size_t i = 0; i < operands.size(); ++i) storage[i] = launch.f32(operands[i]);
    return {storage, operands.size()};
}
inline constexpr size_t kMaxOperands = 8;

}  // namespace planish::cpu
