// Point-wise regions and single point-wise ops: one launch over broadcast operands.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/implementations/strided.hpp"

namespace planish::cuda::families {
namespace {

bool is_small_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

StridedProblem problem_of(const RegionView& region, const Expression& expression, const Formats& formats) {
    const Dims out = region.output().dims();
    const Layout layout = formats.outputs[0].layout;
    StridedProblem problem;
    problem.extents = physical_dims(out, layout);
    for (const int i : expression.inputs) {
        const Format& format = formats.inputs[static_cast<size_t>(i)];
        problem.inputs.push_back(computed(
            format.dtype, physical_order(broadcast_strides(region.input(i).dims(), format.layout, out), layout), 0,
            input(i)));
    }
    for (size_t i = 0; i < expression.values.size(); ++i) {
        const Format& format = formats.outputs[i];
        problem.outputs.push_back(computed(format.dtype, physical_order(logical_strides(out, format.layout), layout), 0,
                                           output(static_cast<int>(i))));
    }
    problem.lines = expression.lines;
    problem.results = expression.results;
    problem.name = fmt::format("pointwise_{}", short_name(formats.outputs[0].dtype));
    return problem;
}

// As the inputs lie; constants and float32 memory are read in float32, whatever is stored elsewhere.
/// Whether the region writes a number that float16 does not hold, as masks do that exporters fill with -3.4e38: its
/// result then stays float32.
bool exceeds_f16(const RegionView& region) {
    constexpr double kLargest = 65504;
    const auto exceeds = [&](const Value* value) {
        const auto constant = region.constant(value);
        if (constant == nullptr || constant->size() != 1 || constant->dtype() != DType::f32) return false;
        const double x = std::fabs(constant->at_double(0));
        return x > kLargest && std::isfinite(x);
    };
    const auto reads = [&](const Node& node) {
        return std::any_of(node.inputs().begin(), node.inputs().end(), exceeds);
    };
    if (!region.has_body()) return reads(region.node());
    const auto& nodes = region.body().nodes();
    return std::any_of(nodes.begin(), nodes.end(), [&](const auto& node) { return reads(*node); });
}

Formats formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats result = following_formats(region, available, environment);
    for (size_t i = 0; i < result.inputs.size(); ++i) {
        const Value* value = region.node().inputs()[i];
        if (value == nullptr || value->type.dtype != DType::f32) continue;
        if (value->is_constant())
            result.inputs[i].dtype = DType::f32;
        else if (is_small_float(available[i].dtype))
            result.inputs[i].dtype = available[i].dtype;
    }
    if (environment.storage == DType::f16 && exceeds_f16(region))
        for (size_t i = 0; i < result.outputs.size(); ++i)
            if (region.node().outputs()[i]->type.dtype == DType::f32) result.outputs[i].dtype = DType::f32;
    return result;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    if (region.node().outputs().empty()) return Refusal::op_not_handled;
    for (const Value* value : region.node().inputs())
        if (value != nullptr && memory_type(value->type.dtype).empty()) return Refusal::dtype_not_handled;
    const Dims out = region.output().dims();
    for (const Value* value : region.node().outputs())
        if (value->dims() != out) return Refusal::shape_not_handled;
    const auto expression = pointwise_expression(region, environment);
    if (!expression) return Refusal::post_op_not_handled;
    if (element_count(out) == 0) return Refusal::shape_not_handled;
    const Formats plain = plain_formats(region, {}, environment);
    return can_launch(problem_of(region, *expression, plain)) ? Refusal::none : Refusal::shape_not_handled;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view, const Environment& environment) {
    const Expression expression = *pointwise_expression(region, environment);
    CudaKernel kernel;
    kernel.launches.push_back(strided_launch(problem_of(region, expression, formats)));
    kernel.name = kernel.launches[0].spec.name;
    kernel.flops = element_count(region.output().dims()) * expression.operations;
    // Each thread reads the elements that it writes before it does so.
    for (const int i : expression.inputs)
        if (formats.inputs[static_cast<size_t>(i)] == formats.outputs[0] && expression.values.size() == 1 &&
            region.input(i).dims() == region.output().dims() && !region.input(i).is_constant())
            kernel.in_place.push_back(i);
    return kernel;
}

}  // namespace

const Implementation kPointwise{"pointwise", can_implement, formats, compile};

}  // namespace planish::cuda::families
