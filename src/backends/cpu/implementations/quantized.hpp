// What implementations of convolutions and products on bytes read off their regions alike.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/jit/i8_product.hpp"
#include "backends/cpu/jit/post_op.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu {

/// x in bytes with one scale, symmetric constant weights with one scale or one for each output channel.
struct ByteFactors {
    int x = -1, w = -1;                         ///< inputs of the region
    ByteFormat x_format;                        ///< 1 and 1 where found at run time
    int x_scale_input = -1, x_zero_input = -1;  ///< of the region, where found at run time

    bool at_run_time() const { return x_scale_input >= 0; }
    std::shared_ptr<const Tensor> weight_scales;
    std::vector<int> weight_scale_inputs;  ///< of the region
};

/// `output_axis`: the weights' axis of output channels.
Refusal read_factors(const RegionView& region, const QuantizedRegion& quantized, int64_t output_axis,
                     ByteFactors& factors);

/// Makes `op` decode its operand while it is loaded, where that is stored in bytes.
Refusal decode_operand(const QuantizedRegion::Operand& operand, PostOp& op);

/// All channels-last, but for an image of few planes where the kernel `may_read_planes`.
Layouts quantized_conv_layouts(const RegionView& region, std::span<const Layout> available, bool may_read_planes);

}  // namespace planish::cpu
