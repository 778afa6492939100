// Depthwise convolutions of bytes, with the point-wise ops behind them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/implementations/conv.hpp"
#include "backends/cpu/implementations/quantized.hpp"
#include "backends/cpu/jit/depthwise_i8.hpp"
#include "base/hash.hpp"

namespace planish::cpu::families {
namespace {

constexpr float kLargestQuanta = 0x1p30f;  // of DepthwiseI8Options::bounded

/// What a region computes, as the generator takes it.
struct Convolution : ByteFactors {
    ConvShape shape;
    DepthwiseI8Options options;
    PostOps post_ops;
    std::vector<float> scales, bias;  // of the channels
    std::vector<std::shared_ptr<const Tensor>> channel_operands;
    std::vector<int> tensors;   // inputs of the region, by PostOp::operand
    std::vector<int> consumed;  // inputs that run() does not read
};

// y / scale of every possible sum, to tell whether it can be converted to an integer as it is.
bool is_bounded(const Convolution& c) {
    const double largest = 255.0 * 128 * static_cast<double>(c.shape.kh * c.shape.kw);
    for (size_t i = 0; i < c.scales.size(); ++i)
        if (!(largest * std::fabs(c.scales[i]) + std::fabs(c.bias[i]) < kLargestQuanta * c.options.output->scale / 2))
            return false;
    return true;
}

Refusal read(const RegionView& region, const Environment& environment, Convolution& c) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    const Node& conv = inner.root();
    const auto shape = conv_shape(conv);
    if (!shape || !is_depthwise(*shape) || element_count(conv.output()->dims()) == 0) return Refusal::shape_not_handled;
    if (std::min({shape->pad_top, shape->pad_left, shape->pad_bottom, shape->pad_right}) < 0)
        return Refusal::shape_not_handled;
    c.shape = *shape;

    if (const Refusal r = read_factors(region, *quantized, 0, c); r != Refusal::none) return r;
    if (c.at_run_time()) return Refusal::attribute_not_handled;
    c.consumed = c.weight_scale_inputs;
    c.consumed.push_back(c.w);
    c.options.x_zero = c.x_format.zero;
    const auto channels = static_cast<size_t>(shape->c);
    c.scales.resize(channels);
    const auto scales = c.weight_scales->data<float>();
    for (size_t i = 0; i < channels; ++i) c.scales[i] = c.x_format.scale * scales[scales.size() == 1 ? 0 : i];
    c.bias.assign(channels, 0.0F);
    if (conv.input(2) != nullptr) {
        const auto bias = inner.constant(conv.input(2));
        if (bias == nullptr || bias->dtype() != DType::f32) return Refusal::weights_not_constant;
        std::copy_n(bias->data<float>().data(), channels, c.bias.data());
        if (const int i = quantized->operand(inner.input_index(conv.input(2))).input; i >= 0) c.consumed.push_back(i);
    }

    const auto epilogue = read_epilogue(inner, 1);
    if (!epilogue) return Refusal::post_op_not_handled;
    for (PostOp op : epilogue->ops) {
        if (op.operand >= 0) {
            const int at = epilogue->operands[static_cast<size_t>(op.operand)];
            const QuantizedRegion::Operand& operand = quantized->operand(at);
            if (const Refusal r = decode_operand(operand, op); r != Refusal::none) return r;
            if (has_channel_operand(op.kind)) {
                const auto constant = region.constant(inner.node().input(at));
                if (constant == nullptr) return Refusal::weights_not_constant;
                op.operand = static_cast<int>(c.channel_operands.size());
                c.channel_operands.push_back(constant);
                c.consumed.push_back(operand.input);
            } else {
                if (shape->c < 16) return Refusal::shape_not_handled;
                op.operand = static_cast<int>(c.tensors.size());
                c.tensors.push_back(operand.input);
            }
        }
        c.post_ops.push_back(op);
    }
    if (c.tensors.size() > 4) return Refusal::post_op_not_handled;
    if (const auto& result = quantized->result()) {
        if (result->dtype != DType::u8) return Refusal::dtype_not_handled;
        c.options.output = ByteFormat{result->scale(), result->zero()};
        c.options.bounded = is_bounded(c);
    }
    return shape->kh * shape->kw > 1024 ? Refusal::shape_not_handled : Refusal::none;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    Convolution c;
    return read(region, environment, c);
}

Layouts layouts(const RegionView& region, std::span<const Layout> available) {
    return quantized_conv_layouts(region, available, false);
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    Convolution c;
    read(region, environment, c);
    auto plan =
        std::make_shared<const DepthwiseI8Plan>(depthwise_shape(c.shape), c.post_ops, c.options, environment.isa);
    // The channels' terms lie between the weights.
    Hasher hasher;
    const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values.data(), values.size())); };
    hasher.update_bytes(bytes(c.scales)).update_bytes(bytes(c.bias));
    std::vector<const float*> operands;
    for (const auto& operand : c.channel_operands) {
        operands.push_back(operand->data<float>().data());
        hasher.update_bytes(std::as_bytes(operand->data<float>()));
    }
    const std::string form = fmt::format("{} channels={}", plan->packed_form(), hasher.digest().to_hex());
    const auto weights = region.constant(&region.input(c.w));
    const Tensor packed = environment.transformed_weights(
        weights, form, static_cast<int64_t>(plan->packed_size() / sizeof(float)), [&](std::span<float> to) {
            plan->pack(weights->data<int8_t>().data(), {c.scales.data(), c.bias.data(), operands},
                       reinterpret_cast<std::byte*>(to.data()));
        });
    const ConvShape& s = c.shape;
    auto kernel = make_kernel(
        fmt::format("depthwise_i8_{}x{}s{}_{}", s.kh, s.kw, s.stride_h, to_string(environment.isa)),
        [plan, packed, x = c.x, tensors = c.tensors](const Launch& launch) {
            const float* storage[kMaxOperands];
            plan->run(reinterpret_cast<const uint8_t*>(launch.in[static_cast<size_t>(x)]),
                      static_cast<const std::byte*>(packed.raw()), launch.out[0],
                      operand_pointers(launch, tensors, storage), launch.workspace, *launch.pool, launch.threads);
        });
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * element_count(region.output().dims()) * s.kh * s.kw;
    kernel->consumed = c.consumed;
    return kernel;
}

}  // namespace

const Implementation kQuantizedDepthwise{"quantized_depthwise_jit", can_implement, layouts, compile};

}  // namespace planish::cpu::families
