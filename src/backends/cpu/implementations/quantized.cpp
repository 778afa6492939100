// Factors, operands and layouts of convolutions and products on bytes.
#include "backends/cpu/implementations/quantized.hpp"

#include "backends/cpu/implementations/conv.hpp"

namespace planish::cpu {

Refusal read_factors(const RegionView& region, const QuantizedRegion& quantized, int64_t output_axis, ByteFactors& f) {
    const RegionView& inner = quantized.inner();
    const Node& root = inner.root();
    const int x = inner.input_index(root.input(0)), w = inner.input_index(root.input(1));
    if (x < 0 || w < 0) return Refusal::op_not_handled;
    const QuantizedRegion::Operand &a = quantized.operand(x), &b = quantized.operand(w);
    if (!a.quantization || !b.quantization || b.quantization->dtype != DType::i8 || a.quantization->dtype != DType::u8)
        return Refusal::dtype_not_handled;
    const bool at_run_time = a.quantization->at_run_time();
    if ((!at_run_time && !a.quantization->per_tensor()) || !b.quantization->symmetric() ||
        (!b.quantization->per_tensor() && !b.quantization->per_axis(output_axis)))
        return Refusal::attribute_not_handled;
    f.x = a.input;
    f.w = b.input;
    if (f.x < 0 || f.w < 0 || !region.input(f.w).is_constant()) return Refusal::weights_not_constant;
    f.x_format = at_run_time ? ByteFormat{1, 1} : ByteFormat{a.quantization->scale(), a.quantization->zero()};
    f.x_scale_input = a.quantization->scale_input;
    f.x_zero_input = a.quantization->zero_input;
    f.weight_scales = b.quantization->scales;
    f.weight_scale_inputs = b.scale_inputs;
    return Refusal::none;
}

Refusal decode_operand(const QuantizedRegion::Operand& operand, PostOp& op) {
    if (operand.input < 0) return Refusal::post_op_not_handled;
    const auto& q = operand.quantization;
    if (!q) return Refusal::none;
    if (!has_tensor_operand(op.kind) || !q->is_bytes()) return Refusal::post_op_not_handled;
    op.bytes = true;
    op.alpha = q->scale();
    op.beta = -q->scale() * static_cast<float>(q->zero());
    return Refusal::none;
}

Layouts quantized_conv_layouts(const RegionView& region, std::span<const Layout> available, bool may_read_planes) {
    const auto quantized = QuantizedRegion::read(region);
    const Node& conv = quantized->inner().root();
    Layouts result = plain_layouts(region, available);
    for (size_t i = 0; i < result.inputs.size(); ++i)
        if (const Value* v = region.node().inputs()[i]; v && v->dims() == region.output().dims())
            result.inputs[i] = Layout::channels_last;
    const auto x = static_cast<size_t>(quantized->operand(quantized->inner().input_index(conv.input(0))).input);
    const bool planes = may_read_planes && reads_planes(*conv_shape(conv), available[x]);
    result.inputs[x] = planes ? Layout::plain : Layout::channels_last;
    result.outputs[0] = Layout::channels_last;
    return result;
}

}  // namespace planish::cpu
