// A point-wise expression reduced over its last axes in memory: some rows of it at a time, in scratch that L1 holds.
#include <fmt/format.h>

#include <numeric>

#include "backends/cpu/implementations/pointwise.hpp"
#include "backends/cpu/implementations/reduce.hpp"
#include "backends/cpu/split.hpp"

namespace planish::cpu::families {
namespace {

constexpr int64_t kScratchFloats = 4096;    // of each thread, where one row is no longer
constexpr int64_t kLongestRow = 64 * 1024;  // L2 holds it

struct Parts {
    RegionView expression;
    const Node& reduction;
};

Parts parts_of(const RegionView& region) {
    const auto& nodes = region.body().nodes();
    return {RegionView(*nodes.front(), &region), *nodes.back()};
}

/// The layout of everything in which the reduced axes come last, the one that is there before the other.
std::optional<Layout> layout_for(const RegionView& region, std::span<const Layout> available) {
    const Parts parts = parts_of(region);
    const Dims dims = parts.reduction.input(0)->dims();
    const auto axes = reduced_axes(region, parts.reduction);
    const bool images = std::find(available.begin(), available.end(), Layout::channels_last) != available.end();
    for (const bool last : {images, !images}) {
        const Layout layout = last ? Layout::channels_last : Layout::plain;
        const auto collapsed = collapse(dims, *axes, layout);
        if (collapsed && collapsed->inner == 1 && collapsed->n <= kLongestRow) return layout;
    }
    return std::nullopt;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (!region.has_body() || region.node().text("kind") != "reduction") return Refusal::op_not_handled;
    const Parts parts = parts_of(region);
    if (!reduce_kind(parts.reduction)) return Refusal::op_not_handled;
    if (!reduced_axes(region, parts.reduction)) return Refusal::weights_not_constant;
    const Dims dims = parts.reduction.input(0)->dims();
    if (element_count(dims) == 0 || dims.size() > 6 || !layout_for(region, {})) return Refusal::shape_not_handled;
    Expression expression;
    return translate(parts.expression, expression);
}

Layouts layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    const Layout layout = *layout_for(region, available);
    const Dims dims = parts_of(region).reduction.input(0)->dims();
    for (size_t i = 0; i < available.size(); ++i)
        if (const Value* input = region.node().inputs()[i]; input != nullptr && input->dims().size() == dims.size())
            result.inputs[i] = layout;
    if (region.output().dims().size() == dims.size()) result.outputs[0] = layout;
    return result;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts& chosen, const Environment& environment) {
    const Parts parts = parts_of(region);
    Expression expression;
    translate(parts.expression, expression);
    const Dims dims = parts.reduction.input(0)->dims();
    std::vector<int> operands;  // program input -> region input
    std::vector<PointwiseInput> inputs;
    Layout layout = Layout::plain;
    for (const int i : expression.inputs) {
        const int outer = region.input_index(parts.expression.node().input(i));
        operands.push_back(outer);
        if (region.input(outer).dims().size() == dims.size()) layout = chosen.inputs[static_cast<size_t>(outer)];
    }
    for (const int outer : operands) {
        const Value& input = region.input(outer);
        inputs.push_back({*loadable(input.type.dtype),
                          strides_in(input.dims(), chosen.inputs[static_cast<size_t>(outer)], dims, layout)});
    }
    const Collapsed shape = *collapse(dims, *reduced_axes(region, parts.reduction), layout);
    const PointwiseType f32[] = {PointwiseType::f32};
    auto code = std::make_shared<const PointwiseKernel>(expression.program, physical_dims(dims, layout), inputs, f32,
                                                        environment.isa, shape.n);
    const int64_t items = code->items() / shape.outer;                    // of the expression, in a row of it
    const int64_t rows = std::max<int64_t>(1, kScratchFloats / shape.n);  // of a piece
    const int64_t scratch = (rows * shape.n + 15) / 16 * 16;
    ReduceArgs reduce;
    reduce.n = shape.n;
    reduce.kind = *reduce_kind(parts.reduction);
    const auto cost = static_cast<int64_t>(expression.program.ops.size() + 1) * shape.n / 8;
    auto kernel = make_kernel(fmt::format("pointwise_reduce_f32_{}", to_string(environment.isa)),
                              [=, function = kernels(environment.isa).reduce](const Launch& launch) {
                                  const void* in[kMaxExpressionInputs];
                                  for (size_t i = 0; i < operands.size(); ++i)
                                      in[i] = launch.in[static_cast<size_t>(operands[i])];
                                  split_items(launch, shape.outer, cost, [&](int64_t begin, int64_t end, int thread) {
                                      float* values = reinterpret_cast<float*>(launch.workspace) + thread * scratch;
                                      for (int64_t row = begin; row < end; row += rows) {
                                          const int64_t last = std::min(end, row + rows);
                                          // The expression's kernel addresses its output from row 0.
                                          void* origin[] = {values - row * shape.n};
                                          code->run_items({in, operands.size()}, origin, row * items, last * items);
                                          ReduceArgs args = reduce;
                                          args.input = values;
                                          args.output = launch.out_f32() + row;
                                          function(args, 0, last - row);
                                      }
                                  });
                              });
    kernel->workspace = static_cast<size_t>(scratch * environment.threads) * sizeof(float);
    kernel->flops = shape.outer * shape.n * static_cast<int64_t>(expression.program.ops.size() + 1);
    return kernel;
}

}  // namespace

const Implementation kReductionRegion{"pointwise_reduce", can_implement, layouts, compile};

}  // namespace planish::cpu::families
