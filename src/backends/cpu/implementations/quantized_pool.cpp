// Pooling of bytes: maxima as they are, means from exact sums.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cpu/implementations/reduce.hpp"
#include "backends/cpu/split.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu::families {
namespace {

constexpr int64_t kMostPixels = (1 << 24) / 255;  // whose sum is exact in float32

Layouts channels_last(const RegionView& region, size_t input, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[input] = Layout::channels_last;
    if (region.output().dims().size() == region.input(static_cast<int>(input)).dims().size())
        result.outputs[0] = Layout::channels_last;
    return result;
}

// ---- maxima ----

Refusal can_max(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    if (node.input(0)->type.dtype != DType::u8) return Refusal::dtype_not_handled;
    const Dims x = node.input(0)->dims();
    if ((x.size() != 4 && x.size() != 3) || element_count(x) == 0 || element_count(node.output()->dims()) == 0)
        return Refusal::shape_not_handled;
    if (node.outputs().size() > 1 && node.outputs()[1]) return Refusal::attribute_not_handled;
    return Refusal::none;
}

Layouts max_layouts(const RegionView& region, std::span<const Layout> available) {
    return channels_last(region, 0, available);
}

std::unique_ptr<Kernel> compile_max(const RegionView& region, const Layouts&, const Environment& environment) {
    BytePoolArgs args;
    args.window = pool_args(region.node());
    const int64_t items = region.output().dims()[0] * args.window.out_height;
    auto kernel = make_kernel(fmt::format("max_pool_u8_{}", to_string(environment.isa)),
                              [args, items, function = kernels(environment.isa).byte_pool](const Launch& launch) {
                                  BytePoolArgs a = args;
                                  a.input = reinterpret_cast<const uint8_t*>(launch.in[0]);
                                  a.bytes = reinterpret_cast<uint8_t*>(launch.out[0]);
                                  split_items(launch, items, a.window.out_width * a.window.channels / 4,
                                              [&](int64_t b, int64_t e, int) { function(a, b, e); });
                              });
    kernel->flops = element_count(region.output().dims()) * args.window.kernel_h * args.window.kernel_w;
    return kernel;
}

// ---- means ----

/// A mean over all of an image: as a window over one row of its pixels.
PoolArgs whole_image(const Dims& x) {
    PoolArgs args;
    args.channels = x[1];
    args.in_height = args.out_height = args.out_width = 1;
    args.in_width = args.kernel_w = element_count(x) / (x[0] * x[1]);
    args.average = true;
    args.set_dense_strides();
    return args;
}

Refusal read(const RegionView& region, const Environment& environment, BytePoolArgs& args, int& input) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    if (inner.has_body()) return Refusal::post_op_not_handled;
    const Node& node = inner.node();
    const QuantizedRegion::Operand& x = quantized->operand(0);
    if (!x.quantization || x.quantization->dtype != DType::u8 || x.input < 0) return Refusal::dtype_not_handled;
    if (!x.quantization->per_tensor()) return Refusal::attribute_not_handled;
    if (quantized->result() && quantized->result()->dtype != DType::u8) return Refusal::dtype_not_handled;
    const Dims dims = node.input(0)->dims();
    if (dims.size() < 3 || element_count(dims) == 0 || element_count(node.output()->dims()) == 0)
        return Refusal::shape_not_handled;
    if (node.is("AveragePool")) {
        if (dims.size() > 4) return Refusal::shape_not_handled;
        args.window = pool_args(node);
    } else {
        const auto axes = reduced_axes(inner, node);
        if (!axes) return Refusal::weights_not_constant;
        for (size_t i = 0; i < axes->size(); ++i)
            if (axes->size() != dims.size() - 2 || (*axes)[i] != static_cast<int64_t>(i) + 2)
                return Refusal::shape_not_handled;
        args.window = whole_image(dims);
    }
    if (args.window.kernel_h * args.window.kernel_w > kMostPixels) return Refusal::shape_not_handled;
    input = x.input;
    args.input_scale = {x.quantization->scale(), static_cast<float>(x.quantization->zero())};
    if (const auto& result = quantized->result())
        args.output_scale = {result->scale(), static_cast<float>(result->zero())};
    return Refusal::none;
}

Refusal can_average(const RegionView& region, const Environment& environment) {
    BytePoolArgs args;
    int input;
    return read(region, environment, args, input);
}

Layouts average_layouts(const RegionView& region, std::span<const Layout> available) {
    const int input = QuantizedRegion::read(region)->operand(0).input;
    return channels_last(region, static_cast<size_t>(input), available);
}

std::unique_ptr<Kernel> compile_average(const RegionView& region, const Layouts&, const Environment& environment) {
    BytePoolArgs args;
    int input;
    read(region, environment, args, input);
    const bool to_bytes = region.output().type.dtype == DType::u8;
    const int64_t items = region.output().dims()[0] * args.window.out_height;
    auto kernel = make_kernel(
        fmt::format("average_pool_i8_{}", to_string(environment.isa)),
        [args, items, input, to_bytes, function = kernels(environment.isa).byte_pool](const Launch& launch) {
            BytePoolArgs a = args;
            a.input = reinterpret_cast<const uint8_t*>(launch.in[static_cast<size_t>(input)]);
            if (to_bytes)
                a.bytes = reinterpret_cast<uint8_t*>(launch.out[0]);
            else
                a.floats = launch.out_f32();
            split_items(launch, items, a.window.out_width * a.window.channels,
                        [&](int64_t b, int64_t e, int) { function(a, b, e); });
        });
    kernel->flops = element_count(region.output().dims()) * args.window.kernel_h * args.window.kernel_w;
    return kernel;
}

}  // namespace

const Implementation kBytePool{"byte_pool", can_max, max_layouts, compile_max};
const Implementation kQuantizedAverage{"quantized_average", can_average, average_layouts, compile_average};

}  // namespace planish::cpu::families
