// Convolution by segmented matrix products on channels-last images; 1-D convolution is the case of height 1.
#include "backends/cpu/jit/conv.hpp"

#include <fmt/format.h>

#include "backends/cpu/epilogue.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu::families {
namespace {

// ONNX's Conv attributes as a shape; nullopt for ranks other than 3 and 4.
std::optional<ConvShape> conv_shape(const Node& conv) {
    const Dims x = conv.input(0)->dims(), w = conv.input(1)->dims(), y = conv.output()->dims();
    if (x.size() != 3 && x.size() != 4) return std::nullopt;
    const size_t spatial = x.size() - 2, first = 2 - spatial;  // a single spatial axis is the width
    int64_t size[2] = {1, 1}, kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, begin[2] = {0, 0},
            end[2] = {0, 0};
    const auto& strides = conv.integers("strides");
    const auto& dilations = conv.integers("dilations");
    const auto& pads = conv.integers("pads");
    const std::string& auto_pad = conv.text("auto_pad");
    for (size_t i = 0; i < spatial; ++i) {
        const size_t a = first + i;
        size[a] = x[2 + i];
        kernel[a] = w[2 + i];
        if (!strides.empty()) stride[a] = strides[i];
        if (!dilations.empty()) dilation[a] = dilations[i];
        if (auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER") {
            const int64_t total =
                std::max<int64_t>(0, (y[2 + i] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1 - size[a]);
            begin[a] = auto_pad == "SAME_UPPER" ? total / 2 : total - total / 2;
            end[a] = total - begin[a];
        } else if (auto_pad != "VALID" && !pads.empty()) {
            begin[a] = pads[i];
            end[a] = pads[spatial + i];
        }
    }
    ConvShape s;
    s.n = x[0];
    s.c = x[1];
    s.h = size[0];
    s.w = size[1];
    s.oc = w[0];
    s.kh = kernel[0];
    s.kw = kernel[1];
    s.stride_h = stride[0];
    s.stride_w = stride[1];
    s.dilation_h = dilation[0];
    s.dilation_w = dilation[1];
    s.pad_top = begin[0];
    s.pad_left = begin[1];
    s.pad_bottom = end[0];
    s.pad_right = end[1];
    s.groups = conv.integer("group");
    return s;
}

// The bias is the first post-op.
std::optional<Epilogue> conv_epilogue(const RegionView& region) {
    Epilogue first;
    if (const Value* bias = region.root().input(2))
        first.ops.push_back({PostOp::Kind::add_channel, 0, 0, first.add_operand(region.input_index(bias))});
    return read_epilogue(region, 1, std::move(first));
}

Refusal can_convolve(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const Node& conv = region.root();
    if (!conv.is("Conv")) return Refusal::op_not_handled;
    if (!is_f32(conv.input(0)) || !is_f32(conv.input(1))) return Refusal::dtype_not_handled;
    if (region.constant(conv.input(1)) == nullptr) return Refusal::weights_not_constant;
    const auto shape = conv_shape(conv);
    if (!shape || element_count(conv.output()->dims()) == 0 || shape->pad_top < 0 || shape->pad_left < 0 ||
        shape->pad_bottom < 0 || shape->pad_right < 0)
        return Refusal::shape_not_handled;
    if (region.input_index(conv.input(0)) < 0) return Refusal::op_not_handled;
    if (!conv_epilogue(region)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

Layouts conv_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    for (size_t i = 0; i < result.inputs.size(); ++i)
        if (const Value* v = region.node().inputs()[i]; v && v->dims() == region.output().dims())
            result.inputs[i] = Layout::channels_last;
    const auto x = static_cast<size_t>(region.input_index(region.root().input(0)));
    const auto shape = conv_shape(region.root());
    // A few planes (an RGB image) are reordered while they are padded.
    const bool read_plain =
        shape->groups == 1 && shape->c <= 4 && shape->kh * shape->kw > 1 && available[x] == Layout::plain;
    result.inputs[x] = read_plain ? Layout::plain : Layout::channels_last;
    result.outputs[0] = Layout::channels_last;
    return result;
}

std::unique_ptr<Kernel> compile_conv(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    const Node& conv = region.root();
    ConvShape shape = *conv_shape(conv);
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));
    shape.x_nchw = layouts.inputs[static_cast<size_t>(x)] == Layout::plain && !layouts_coincide(conv.input(0)->dims());
    const Epilogue epilogue = *conv_epilogue(region);
    auto plan = std::make_shared<const ConvPlan>(shape, epilogue.ops, environment.isa);
    const auto weights = region.constant(conv.input(1));
    const PackLayout& layout = plan->weight_layout();
    const std::string key = fmt::format("conv k={} n={} nr={} vector={} groups={}", layout.k, layout.n, layout.nr,
                                        layout.vector, shape.groups);
    const Tensor packed = environment.packed->get(weights, key, [&] {
        Tensor made(DType::f32, {plan->packed_weight_size()});
        plan->pack_weights(weights->data<float>().data(), made.data<float>().data());
        return made;
    });
    auto kernel = make_kernel("", [plan, packed, epilogue, x](const Launch& launch) {
        const float* operands[kMaxOperands + 1];
        plan->run(launch.f32(x), packed.data<float>().data(), launch.out_f32(),
                  operand_pointers(launch, epilogue.operands, operands), launch.workspace, *launch.pool,
                  launch.threads);
    });
    kernel->name = fmt::format("conv_f32_{}x{}_nr{}_{}", shape.kh, shape.kw, layout.nr, to_string(environment.isa));
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * element_count(conv.output()->dims()) * shape.kh * shape.kw * (shape.c / shape.groups);
    kernel->consumed = {w};
    kernel->in_place = reusable_operands(epilogue, {x});
    return kernel;
}

}  // namespace

const Implementation kConvJit{"conv_jit", can_convolve, conv_layouts, compile_conv};

}  // namespace planish::cpu::families
