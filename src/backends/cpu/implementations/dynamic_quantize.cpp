// DynamicQuantizeLinear, and DequantizeLinear by a scale that it found.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu::families {
namespace {

/// [least, greatest] to 0 .. 255, in the float32 steps that ONNX's definition takes.
ByteScale scale_of(float least, float greatest) {
    const float width = greatest - least, scale = (width == 0 ? 1.0F : width) / 255.0F;
    return {scale, std::nearbyint(std::fmin(std::fmax(-least / scale, 0.0F), 255.0F))};
}

Refusal can_quantize(const RegionView& region, const Environment&) {
    if (!is_f32(&region.input(0))) return Refusal::dtype_not_handled;
    return element_count(region.input(0).dims()) == 0 ? Refusal::shape_not_handled : Refusal::none;
}

std::unique_ptr<Kernel> compile_quantize(const RegionView& region, const Layouts&, const Environment& environment) {
    constexpr int64_t kPiece = 8192;  // elements: 32 KB, read in about a microsecond
    const int64_t n = element_count(region.input(0).dims()), pieces = (n + kPiece - 1) / kPiece;
    auto kernel = make_kernel(
        fmt::format("dynamic_quantize_i8_{}", to_string(environment.isa)),
        [n, pieces, &table = kernels(environment.isa)](const Launch& launch) {
            auto* least = reinterpret_cast<float*>(launch.workspace);
            float* greatest = least + pieces;
            split_items(launch, pieces, n / pieces, [&](int64_t begin, int64_t end, int) {
                table.extremes({launch.f32(0), least, greatest, n, pieces}, begin, end);
            });
            const ByteScale scale =
                scale_of(*std::min_element(least, least + pieces), *std::max_element(greatest, greatest + pieces));
            split_items(launch, n, 1, [&](int64_t begin, int64_t end, int) {
                table.encode({launch.f32(0), reinterpret_cast<uint8_t*>(launch.out[0]), scale, true}, begin, end);
            });
            if (launch.out[1] != nullptr) *launch.out_f32(1) = scale.scale;
            if (launch.out[2] != nullptr) *reinterpret_cast<uint8_t*>(launch.out[2]) = static_cast<uint8_t>(scale.zero);
        });
    kernel->workspace = static_cast<size_t>(2 * pieces) * sizeof(float);
    return kernel;
}

Refusal can_dequantize(const RegionView& region, const Environment&) {
    const auto q = read_quantization(region, region.node());
    if (!q || !q->at_run_time()) return Refusal::attribute_not_handled;
    return q->dtype == DType::u8 && is_f32(&region.output()) ? Refusal::none : Refusal::dtype_not_handled;
}

std::unique_ptr<Kernel> compile_dequantize(const RegionView& region, const Layouts&, const Environment& environment) {
    const auto q = read_quantization(region, region.node());
    const int64_t n = element_count(region.output().dims());
    return make_kernel(
        fmt::format("dynamic_dequantize_i8_{}", to_string(environment.isa)),
        [n, scale = q->scale_input, zero = q->zero_input, &table = kernels(environment.isa)](const Launch& launch) {
            const auto bytes = [&](int i) {
                return reinterpret_cast<const uint8_t*>(launch.in[static_cast<size_t>(i)]);
            };
            const ByteScale format{*launch.f32(scale), zero < 0 ? 0.0F : *bytes(zero)};
            split_items(launch, n, 1, [&](int64_t begin, int64_t end, int) {
                table.decode({bytes(0), launch.out_f32(), format}, begin, end);
            });
        });
}

}  // namespace

const Implementation kDynamicQuantize{"dynamic_quantize", can_quantize, following_layouts, compile_quantize};
const Implementation kDynamicDequantize{"dynamic_dequantize", can_dequantize, plain_layouts, compile_dequantize};

}  // namespace planish::cpu::families
