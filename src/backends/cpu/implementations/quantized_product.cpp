// Convolutions and products with weights on bytes, and the point-wise ops behind them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cpu/implementations/conv.hpp"
#include "backends/cpu/implementations/matmul.hpp"
#include "backends/cpu/implementations/quantized.hpp"
#include "backends/cpu/jit/conv_i8.hpp"
#include "backends/cpu/jit/gemm_i8.hpp"

namespace planish::cpu::families {
namespace {

/// What a region computes around its sums, as the generators take it.
struct Terms : ByteFactors {
    std::shared_ptr<const Tensor> bias;  // null: none
    Epilogue epilogue;                   // operands are inputs of the region
    std::optional<ByteFormat> result;
    std::vector<int> consumed;  // inputs that run() does not read

    std::span<const float> bias_values() const {
        return bias == nullptr ? std::span<const float>{} : bias->data<float>();
    }
};

// A scale and a constant bias at the beginning of the post-ops belong to the columns.
Refusal read_post_ops(const QuantizedRegion& quantized, const Epilogue& epilogue, Terms& t) {
    const RegionView& inner = quantized.inner();
    auto op = epilogue.ops.begin();
    const auto end = epilogue.ops.end();
    if (op != end && op->kind == PostOp::Kind::scale_shift && op->beta == 0) {
        t.x_format.scale *= op->alpha;
        ++op;
    }
    if (op != end && op->kind == PostOp::Kind::add_channel) {
        const int at = epilogue.operands[static_cast<size_t>(op->operand)];
        if (auto bias = inner.constant(inner.node().input(at)); bias != nullptr && bias->dtype() == DType::f32) {
            t.bias = std::move(bias);
            if (const int input = quantized.operand(at).input; input >= 0) t.consumed.push_back(input);
            ++op;
        }
    }
    for (; op != end; ++op) {
        PostOp read = *op;
        if (op->operand >= 0) {
            const QuantizedRegion::Operand& operand =
                quantized.operand(epilogue.operands[static_cast<size_t>(op->operand)]);
            if (const Refusal r = decode_operand(operand, read); r != Refusal::none) return r;
            read.operand = t.epilogue.add_operand(operand.input);
        }
        t.epilogue.ops.push_back(read);
    }
    return Refusal::none;
}

// GELU only as near as a byte can show: what its error makes of the result is at most 1/256 of a step.
void simplify_gelu(const RegionView& region, Terms& t) {
    PostOps& ops = t.epilogue.ops;
    const auto gelu =
        std::find_if(ops.begin(), ops.end(), [](const PostOp& op) { return op.kind == PostOp::Kind::gelu_erf; });
    // Tensors before it need not be finite.
    const auto reads_tensor = [](const PostOp& op) { return has_tensor_operand(op.kind); };
    if (!t.result || gelu == ops.end() || std::any_of(ops.begin(), gelu, reads_tensor)) return;
    float factor = 1;
    for (auto op = gelu + 1; op != ops.end(); ++op) {
        if (op->kind != PostOp::Kind::mul_channel) return;
        const int input = t.epilogue.operands[static_cast<size_t>(op->operand)];
        const auto factors = region.constant(&region.input(input));
        if (factors == nullptr || factors->dtype() != DType::f32) return;
        float most = 0;
        for (const float x : factors->data<float>()) most = std::max(most, std::fabs(x));
        factor *= most;
    }
    if (kGeluNearError * factor <= t.result->scale / 256) gelu->kind = PostOp::Kind::gelu_near;
}

/// All but the sizes. `epilogue` is what follows the root of the inner region.
Refusal read_terms(const RegionView& region, const QuantizedRegion& quantized, int64_t output_axis,
                   const std::optional<Epilogue>& epilogue, Terms& t) {
    if (const Refusal r = read_factors(region, quantized, output_axis, t); r != Refusal::none) return r;
    t.consumed = {t.w};
    if (!epilogue) return Refusal::post_op_not_handled;
    if (const Refusal r = read_post_ops(quantized, *epilogue, t); r != Refusal::none) return r;
    for (const QuantizedRegion::Operand& operand : quantized.operands())
        t.consumed.insert(t.consumed.end(), operand.scale_inputs.begin(), operand.scale_inputs.end());
    // What is read as a tensor, too, stays.
    std::erase_if(t.consumed, [&](int i) {
        const auto& operands = t.epilogue.operands;
        return i == t.x || std::find(operands.begin(), operands.end(), i) != operands.end();
    });
    if (const auto& result = quantized.result()) {
        if (!result->is_bytes()) return Refusal::dtype_not_handled;
        t.result = ByteFormat{result->scale(), result->zero()};
    }
    simplify_gelu(region, t);
    return Refusal::none;
}

std::string_view result_type(const Terms& t) {
    return t.result ? "u8" : "f32";
}

/// The inputs whose memory the result may take over: tensor operands with elements as large.
std::vector<int> reusable_inputs(const Terms& t) {
    Epilogue alike;
    alike.operands = t.epilogue.operands;
    for (const PostOp& op : t.epilogue.ops)
        if (op.bytes == t.result.has_value()) alike.ops.push_back(op);
    return reusable_operands(alike, {t.x});
}

/// How x is stored in this run.
ByteFormat format_at_run_time(const ByteFactors& factors, const Launch& launch) {
    const auto* zero = factors.x_zero_input < 0
                           ? nullptr
                           : reinterpret_cast<const uint8_t*>(launch.in[static_cast<size_t>(factors.x_zero_input)]);
    return {*launch.f32(factors.x_scale_input), zero == nullptr ? 0 : *zero};
}

/// `run` is given the plan, x, the packed weights, the columns' terms, operands and the launch, whose
/// first `workspace` bytes of scratch are its own.
template <typename Plan, typename Run>
std::unique_ptr<Kernel> make_product(const Terms& t, std::shared_ptr<const Plan> plan, const Tensor& packed,
                                     ColumnTerms terms, size_t workspace, const Run& run) {
    const size_t scratch = (workspace + 63) / 64 * 64;
    const size_t bytes = t.at_run_time() ? scratch + Columns::bytes_of(terms) : workspace;
    auto kernel = make_kernel("", [plan, packed, terms = std::move(terms), factors = ByteFactors(t),
                                   inputs = t.epilogue.operands, scratch, run](const Launch& launch) {
        const float* operands[kMaxOperands + 1];
        const Columns columns = factors.at_run_time()
                                    ? Columns(terms, format_at_run_time(factors, launch), launch.workspace + scratch)
                                    : Columns(terms);
        run(*plan, reinterpret_cast<const uint8_t*>(launch.in[static_cast<size_t>(factors.x)]),
            static_cast<const int8_t*>(packed.raw()), columns, operand_pointers(launch, inputs, operands), launch);
    });
    kernel->workspace = bytes;
    kernel->consumed = t.consumed;
    kernel->in_place = reusable_inputs(t);
    return kernel;
}

using Operands = std::span<const float* const>;

// ---- Gemm, MatMul ----

Refusal read_gemm(const RegionView& region, const QuantizedRegion& quantized, std::optional<Product>& product,
                  Terms& t) {
    const RegionView& inner = quantized.inner();
    product = product_of(inner.root());
    if (!product || product->shape.k > kMostByteProducts) return Refusal::shape_not_handled;
    return read_terms(region, quantized, product->transposed ? 0 : 1, gemm_epilogue(inner, *product), t);
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    std::optional<Product> product;
    Terms t;
    return read_gemm(region, *quantized, product, t);
}

std::unique_ptr<Kernel> compile_gemm(const RegionView& region, const Layouts&, const Environment& environment) {
    const auto quantized = QuantizedRegion::read(region);
    std::optional<Product> product;
    Terms t;
    read_gemm(region, *quantized, product, t);
    const GemmShape& s = product->shape;
    auto plan = std::make_shared<const GemmI8Plan>(s, t.epilogue.ops, t.result, environment.isa);
    const PackLayout& layout = plan->b_layout();
    const Packing packing{
        .k = s.k, .n = s.n, .nr = layout.nr, .vector = layout.vector, .transposed = product->transposed, .bytes = true};
    const Tensor packed = environment.packed_weights(region.constant(&region.input(t.w)), packing);
    ColumnTerms columns =
        plan->terms(packing.column_sums(packed.raw()), t.x_format, t.weight_scales->data<float>(), t.bias_values());
    auto kernel =
        make_product(t, plan, packed, std::move(columns), 0,
                     [](const GemmI8Plan& p, const uint8_t* a, const int8_t* b, const Columns& c, Operands operands,
                        const Launch& l) { p.run(a, b, c, l.out[0], operands, *l.pool, l.threads); });
    kernel->name = fmt::format("gemm_i8_{}_nr{}_{}", result_type(t), layout.nr, to_string(environment.isa));
    kernel->flops = 2 * s.m * s.n * s.k;
    return kernel;
}

// ---- Conv ----

Refusal read_conv(const RegionView& region, const QuantizedRegion& quantized, std::optional<ConvShape>& shape,
                  Terms& t) {
    const RegionView& inner = quantized.inner();
    const Node& conv = inner.root();
    shape = conv_shape(conv);
    if (!shape || element_count(conv.output()->dims()) == 0 || shape->c == 0 ||
        std::min({shape->pad_top, shape->pad_left, shape->pad_bottom, shape->pad_right}) < 0 ||
        shape->c / shape->groups * shape->kh * shape->kw > kMostByteProducts)
        return Refusal::shape_not_handled;
    return read_terms(region, quantized, 0, conv_epilogue(inner), t);
}

Refusal can_convolve_bytes(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    std::optional<ConvShape> shape;
    Terms t;
    return read_conv(region, *quantized, shape, t);
}

Layouts layouts(const RegionView& region, std::span<const Layout> available) {
    return quantized_conv_layouts(region, available, true);
}

std::unique_ptr<Kernel> compile_conv(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    const auto quantized = QuantizedRegion::read(region);
    std::optional<ConvShape> shape;
    Terms t;
    read_conv(region, *quantized, shape, t);
    shape->x_nchw =
        layouts.inputs[static_cast<size_t>(t.x)] == Layout::plain && !layouts_coincide(region.input(t.x).dims());
    auto plan = std::make_shared<const ConvI8Plan>(*shape, t.epilogue.ops, t.result, environment.isa);
    const PackLayout& layout = plan->weight_layout();
    const int64_t taps = shape->kh * shape->kw;
    const Packing packing{.k = shape->c / shape->groups * taps,
                          .n = shape->oc / shape->groups,
                          .groups = shape->groups,
                          .taps = taps,
                          .nr = layout.nr,
                          .vector = layout.vector,
                          .transposed = true,
                          .bytes = true,
                          .segments = taps / plan->taps_per_segment()};
    const Tensor packed = environment.packed_weights(region.constant(&region.input(t.w)), packing);
    ColumnTerms columns =
        plan->terms(packing.column_sums(packed.raw()), t.x_format, t.weight_scales->data<float>(), t.bias_values());
    auto kernel =
        make_product(t, plan, packed, std::move(columns), plan->workspace(environment.threads),
                     [](const ConvI8Plan& p, const uint8_t* x, const int8_t* w, const Columns& c, Operands operands,
                        const Launch& l) { p.run(x, w, c, l.out[0], operands, l.workspace, *l.pool, l.threads); });
    kernel->name = fmt::format("conv_i8_{}_{}x{}_nr{}_{}", result_type(t), shape->kh, shape->kw, layout.nr,
                               to_string(environment.isa));
    kernel->flops = 2 * element_count(region.output().dims()) * shape->kh * shape->kw * (shape->c / shape->groups);
    return kernel;
}

}  // namespace

const Implementation kQuantizedGemm{"quantized_gemm_jit", can_multiply, plain_layouts, compile_gemm};
const Implementation kQuantizedConv{"quantized_conv_jit", can_convolve_bytes, layouts, compile_conv};

}  // namespace planish::cpu::families
