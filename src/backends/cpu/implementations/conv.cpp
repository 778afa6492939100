// Convolution by segmented matrix products on channels-last images; 1-D convolution is the case of height 1.
#include "backends/cpu/implementations/conv.hpp"

#include <fmt/format.h>

#include "backends/cpu/jit/gemm.hpp"
#include "backends/cpu/jit/strassen.hpp"
#include "backends/cpu/jit/winograd.hpp"
#include "backends/cpu/strided_copy.hpp"
#include "backends/image_window.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {

std::optional<ConvShape> conv_shape(const Node& conv) {
    const Dims x = conv.input(0)->dims(), w = conv.input(1)->dims();
    if (x.size() != 3 && x.size() != 4) return std::nullopt;
    const ImageWindow window = image_window(conv, Dims(w.begin() + 2, w.end()));
    ConvShape s;
    s.n = x[0];
    s.c = x[1];
    s.h = window.in[0];
    s.w = window.in[1];
    s.oc = w[0];
    s.kh = window.kernel[0];
    s.kw = window.kernel[1];
    s.stride_h = window.stride[0];
    s.stride_w = window.stride[1];
    s.dilation_h = window.dilation[0];
    s.dilation_w = window.dilation[1];
    s.pad_top = window.begin[0];
    s.pad_left = window.begin[1];
    s.pad_bottom = window.end[0];
    s.pad_right = window.end[1];
    s.groups = conv.integer("group");
    return s;
}

DepthwiseShape depthwise_shape(const ConvShape& s) {
    return {s.n,        s.h,          s.w,          s.c,       s.kh,       s.kw,         s.stride_h,
            s.stride_w, s.dilation_h, s.dilation_w, s.pad_top, s.pad_left, s.pad_bottom, s.pad_right};
}

std::optional<Epilogue> conv_epilogue(const RegionView& region) {
    Epilogue first;
    const Value* bias = region.root().input(2);
    if (bias && bias->is_constant() && region.has_body())  // of one channel: a constant of the body
        first.ops.push_back({PostOp::Kind::scale_shift, 1, static_cast<float>(bias->constant->at_double(0))});
    else if (bias)
        first.ops.push_back({PostOp::Kind::add_channel, 0, 0, first.add_operand(region.input_index(bias))});
    return read_epilogue(region, 1, std::move(first));
}

bool reads_planes(const ConvShape& s, Layout available) {
    return s.groups == 1 && s.c <= 4 && s.kh * s.kw > 1 && available == Layout::plain;
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
    result.inputs[x] = reads_planes(*conv_shape(region.root()), available[x]) ? Layout::plain : Layout::channels_last;
    result.outputs[0] = Layout::channels_last;
    return result;
}

Tensor packed_weights(const RegionView& region, const ConvPlan& plan, const Environment& environment) {
    const PackLayout& layout = plan.weight_layout();
    const ConvShape& s = plan.shape();
    return environment.packed_weights(region.constant(region.root().input(1)),
                                      {layout.k, layout.n, s.groups, s.kh * s.kw, layout.nr, layout.vector, true});
}

Tensor packed_weights(const RegionView& region, const DepthwisePlan& plan, const Environment& environment) {
    const PackLayout layout = depthwise_weight_layout(plan.shape());
    return environment.packed_weights(region.constant(region.root().input(1)),
                                      {layout.k, layout.n, 1, 1, layout.nr, layout.vector, true});
}

namespace families {
namespace {

std::unique_ptr<Kernel> compile_conv(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    const Node& conv = region.root();
    ConvShape shape = *conv_shape(conv);
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));
    shape.x_nchw = layouts.inputs[static_cast<size_t>(x)] == Layout::plain && !layouts_coincide(conv.input(0)->dims());
    const Epilogue epilogue = *conv_epilogue(region);
    auto plan = std::make_shared<const ConvPlan>(shape, epilogue.ops, environment.isa);
    const Tensor packed = packed_weights(region, *plan, environment);
    auto kernel = make_kernel("", [plan, packed, epilogue, x](const Launch& launch) {
        const float* operands[kMaxOperands + 1];
        plan->run(launch.f32(x), packed.data<float>().data(), launch.out_f32(),
                  operand_pointers(launch, epilogue.operands, operands), launch.workspace, *launch.pool,
                  launch.threads);
    });
    kernel->name =
        fmt::format("conv_f32_{}x{}_nr{}_{}", shape.kh, shape.kw, plan->weight_layout().nr, to_string(environment.isa));
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * element_count(conv.output()->dims()) * shape.kh * shape.kw * (shape.c / shape.groups);
    kernel->consumed = {w};
    kernel->in_place = reusable_operands(epilogue, {x});
    return kernel;
}

// ---- depthwise ----

Refusal can_depthwise(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_convolve(region, environment); r != Refusal::none) return r;
    const ConvShape s = *conv_shape(region.root());
    return is_depthwise(s) ? Refusal::none : Refusal::shape_not_handled;
}

Layouts depthwise_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = conv_layouts(region, available);
    result.inputs[static_cast<size_t>(region.input_index(region.root().input(0)))] = Layout::channels_last;
    return result;
}

std::unique_ptr<Kernel> compile_depthwise(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& conv = region.root();
    const ConvShape s = *conv_shape(conv);
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));
    const Epilogue epilogue = *conv_epilogue(region);
    auto plan = std::make_shared<const DepthwisePlan>(depthwise_shape(s), epilogue.ops, environment.isa);
    const Tensor packed = packed_weights(region, *plan, environment);
    auto kernel =
        make_kernel(fmt::format("depthwise_f32_{}x{}s{}_{}", s.kh, s.kw, s.stride_h, to_string(environment.isa)),
                    [plan, packed, epilogue, x](const Launch& launch) {
                        const float* operands[kMaxOperands + 1];
                        plan->run(launch.f32(x), packed.data<float>().data(), launch.out_f32(),
                                  operand_pointers(launch, epilogue.operands, operands), *launch.pool, launch.threads);
                    });
    kernel->flops = 2 * element_count(conv.output()->dims()) * s.kh * s.kw;
    kernel->consumed = {w};
    kernel->in_place = reusable_operands(epilogue, {x});
    return kernel;
}

// ---- Winograd: its weights are larger, so small images of many channels stay with small tiles or the direct sum ----

constexpr double kLeastWinogradSpeedup = 1.25;

WinogradTile large_tile(const ConvShape&) {
    return WinogradTile::f4x4;
}
WinogradTile small_tile(const ConvShape& s) {
    return s.stride_h == 2 ? WinogradTile::f2x2_stride2 : WinogradTile::f2x2;
}

template <WinogradTile (*kTile)(const ConvShape&)>
Refusal can_winograd(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_convolve(region, environment); r != Refusal::none) return r;
    const ConvShape shape = *conv_shape(region.root());
    return WinogradPlan::refusal(shape, environment.isa, kTile(shape)).empty() ? Refusal::none
                                                                               : Refusal::shape_not_handled;
}

template <WinogradTile (*kTile)(const ConvShape&)>
bool winograd_pays(const RegionView& region) {
    const ConvShape shape = *conv_shape(region.root());
    return WinogradPlan::estimated_speedup(shape, kTile(shape)) >= kLeastWinogradSpeedup;
}

template <WinogradTile (*kTile)(const ConvShape&)>
std::unique_ptr<Kernel> compile_winograd(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& conv = region.root();
    const ConvShape shape = *conv_shape(conv);
    const WinogradTile tile = kTile(shape);
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));
    const Epilogue epilogue = *conv_epilogue(region);
    auto plan = std::make_shared<const WinogradPlan>(shape, epilogue.ops, environment.isa, tile);
    const auto weights = region.constant(conv.input(1));
    const PackLayout& layout = plan->weight_layout();
    const int outputs = winograd_sizes(tile).outputs;
    const std::string kind = fmt::format("winograd{0}x{0}{1}", outputs, shape.stride_h == 2 ? "s2" : "");
    const std::string key =
        fmt::format("{} k={} n={} nr={} vector={}", kind, layout.k, layout.n, layout.nr, layout.vector);
    const Tensor packed =
        environment.transformed_weights(weights, key, plan->packed_weight_size(), [&](std::span<float> to) {
            const float* from = weights->data<float>().data();
            ThreadPool::process().parallel_for(layout.panels(), environment.threads, [&](int64_t panel, int) {
                plan->pack_panels(from, to.data(), panel, panel + 1);
            });
        });
    auto kernel = make_kernel(fmt::format("conv_f32_{}_nr{}_{}", kind, layout.nr, to_string(environment.isa)),
                              [plan, packed, epilogue, x](const Launch& launch) {
                                  const float* operands[kMaxOperands + 1];
                                  plan->run(launch.f32(x), packed.data<float>().data(), launch.out_f32(),
                                            operand_pointers(launch, epilogue.operands, operands), launch.workspace,
                                            *launch.pool, launch.threads);
                              });
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * element_count(conv.output()->dims()) * 9 * shape.c;
    kernel->consumed = {w};
    kernel->in_place = reusable_operands(epilogue, {x});
    return kernel;
}

// ---- 1x1 as one product of all pixels, by Strassen's algorithm ----

/// Nullopt: the pixels are not the rows of one matrix.
std::optional<GemmShape> pixel_product(const ConvShape& s) {
    const bool pointwise = s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.groups == 1;
    if (!pointwise || (s.pad_top | s.pad_left | s.pad_bottom | s.pad_right) != 0) return std::nullopt;
    return GemmShape{s.n * s.h * s.w, s.oc, s.c};
}

Refusal can_halve(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_convolve(region, environment); r != Refusal::none) return r;
    const auto product = pixel_product(*conv_shape(region.root()));
    return product && StrassenPlan::fits(*product, environment.isa) ? Refusal::none : Refusal::shape_not_handled;
}

std::unique_ptr<Kernel> compile_strassen(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& conv = region.root();
    const GemmShape shape = *pixel_product(*conv_shape(conv));
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));
    const Epilogue epilogue = *conv_epilogue(region);
    auto plan = std::make_shared<const StrassenPlan>(shape, epilogue.ops, environment.isa);
    const auto weights = region.constant(conv.input(1));
    const Tensor packed = environment.transformed_weights(
        weights, "conv " + plan->packing(), plan->packed_size(), [&](std::span<float> to) {
            plan->pack(weights->data<float>().data(), shape.k, true, to.data(), ThreadPool::process(),
                       environment.threads);
        });
    auto kernel = make_kernel(
        "conv_f32_strassen_" + std::string(to_string(environment.isa)), [plan, packed, epilogue, x](const Launch& l) {
            const float* operands[kMaxOperands + 1];
            plan->run(l.f32(x), packed.data<float>().data(), l.out_f32(),
                      operand_pointers(l, epilogue.operands, operands), l.workspace, *l.pool, l.threads);
        });
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * shape.m * shape.n * shape.k;
    kernel->consumed = {w};
    return kernel;
}

// As for matrix products: its bound on the error is weaker, only a measured gain speaks for it.
bool strassen_pays(const RegionView&) {
    return false;
}

// ---- transposed convolution whose taps do not overlap: one product, then every tap's results to their places ----

struct Upsample {
    int64_t n, h, w, c, oc, kh, kw;
};

std::optional<Upsample> upsample_of(const Node& node) {
    const Dims x = node.input(0)->dims(), w = node.input(1)->dims(), y = node.output()->dims();
    if (x.size() != 4 || node.integer("group") != 1) return std::nullopt;
    for (std::string_view name : {"pads", "output_padding"})
        for (const int64_t p : node.integers(name))
            if (p != 0) return std::nullopt;
    for (const int64_t d : node.integers("dilations"))
        if (d != 1) return std::nullopt;
    const auto& strides = node.integers("strides");
    const Upsample u{x[0], x[2], x[3], x[1], w[1], w[2], w[3]};
    if ((strides.empty() ? 1 : strides[0]) != u.kh || (strides.empty() ? 1 : strides[1]) != u.kw) return std::nullopt;
    if (y[2] != u.h * u.kh || y[3] != u.w * u.kw) return std::nullopt;
    return u;
}

Refusal can_transpose_convolve(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const Node& node = region.root();
    if (!is_f32(node.input(0)) || !is_f32(node.input(1))) return Refusal::dtype_not_handled;
    if (region.constant(node.input(1)) == nullptr) return Refusal::weights_not_constant;
    if (node.input(2) && region.constant(node.input(2)) == nullptr) return Refusal::weights_not_constant;
    if (element_count(node.output()->dims()) == 0 || !upsample_of(node)) return Refusal::shape_not_handled;
    const auto epilogue = read_epilogue(region, 1);
    return epilogue && epilogue->operands.empty() ? Refusal::none : Refusal::post_op_not_handled;
}

Layouts transpose_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts result = plain_layouts(region, available);
    result.inputs[static_cast<size_t>(region.input_index(region.root().input(0)))] = Layout::channels_last;
    result.outputs[0] = Layout::channels_last;
    return result;
}

std::unique_ptr<Kernel> compile_transpose(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& node = region.root();
    const Upsample u = *upsample_of(node);
    const int x = region.input_index(node.input(0)), w = region.input_index(node.input(1));
    const int64_t taps = u.kh * u.kw, columns = taps * u.oc;
    // Columns in the order (kh, kw, oc), so that a tap's results are neighbours; the bias repeats for each tap.
    const auto weights = region.constant(node.input(1));
    Tensor matrix(DType::f32, {u.c, columns}), bias(DType::f32, {columns});
    for (int64_t c = 0; c < u.c; ++c)
        for (int64_t o = 0; o < u.oc; ++o)
            for (int64_t t = 0; t < taps; ++t)
                matrix.data<float>()[static_cast<size_t>(c * columns + t * u.oc + o)] =
                    weights->data<float>()[static_cast<size_t>((c * u.oc + o) * taps + t)];
    Epilogue epilogue;
    if (node.input(2)) {
        const auto given = region.constant(node.input(2));
        for (int64_t i = 0; i < columns; ++i)
            bias.data<float>()[static_cast<size_t>(i)] = given->data<float>()[static_cast<size_t>(i % u.oc)];
        epilogue.ops.push_back({PostOp::Kind::add_channel, 0, 0, 0});
    }
    epilogue = *read_epilogue(region, 1, std::move(epilogue));
    auto plan =
        std::make_shared<const GemmPlan>(GemmShape{u.n * u.h * u.w, columns, u.c}, epilogue.ops, environment.isa);
    Tensor packed(DType::f32, {plan->b_layout().size()});
    pack_b(matrix.data<float>().data(), columns, false, plan->b_layout(), packed.data<float>().data());
    // [n, h, w, kh, kw, oc] -> [n, h, kh, w, kw, oc]
    const Dims order{u.n, u.h, u.kh, u.w, u.kw, u.oc};
    StridedCopy scatter(order, {u.h * u.w * columns, u.w * columns, u.kw * u.oc, columns, u.oc, 1},
                        dense_strides(order), 0, 0, sizeof(float), environment.isa);
    auto kernel =
        make_kernel(fmt::format("conv_transpose_f32_{}x{}_{}", u.kh, u.kw, to_string(environment.isa)),
                    [plan, packed, bias, scatter, x](const Launch& launch) {
                        const float* operands[] = {bias.data<float>().data()};
                        plan->run(launch.f32(x), packed.data<float>().data(),
                                  reinterpret_cast<float*>(launch.workspace), operands, *launch.pool, launch.threads);
                        scatter.run(launch.workspace, launch.out[0], launch);
                    });
    kernel->workspace = static_cast<size_t>(element_count(node.output()->dims())) * sizeof(float);
    kernel->flops = 2 * u.n * u.h * u.w * u.c * columns;
    kernel->consumed = {w};
    return kernel;
}

}  // namespace

const Implementation kConvJit{"conv_jit", can_convolve, conv_layouts, compile_conv};
const Implementation kConvWinograd{"conv_winograd", can_winograd<large_tile>, depthwise_layouts,
                                   compile_winograd<large_tile>, winograd_pays<large_tile>};
const Implementation kConvWinograd2{"conv_winograd2x2", can_winograd<small_tile>, depthwise_layouts,
                                    compile_winograd<small_tile>, winograd_pays<small_tile>};
const Implementation kConvStrassen{"conv_strassen", can_halve, depthwise_layouts, compile_strassen, strassen_pays};
const Implementation kConvDepthwise{"depthwise_jit", can_depthwise, depthwise_layouts, compile_depthwise};
const Implementation kConvTranspose{"conv_transpose_jit", can_transpose_convolve, transpose_layouts, compile_transpose};

}  // namespace families
}  // namespace planish::cpu
