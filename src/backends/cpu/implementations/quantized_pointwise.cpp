// Point-wise expressions of bytes, and the two ops that lead to bytes and back: what is read is decoded and what is
// stored encoded in registers, as part of the expression.
#include <algorithm>
#include <utility>

#include "backends/cpu/implementations/pointwise.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu::families {
namespace {

using Kind = PointwiseOp::Kind;

// Appends ops to an expression's program.
class Builder {
  public:
    explicit Builder(PointwiseProgram& program) : program_(program), next_(program.inputs) {
        for (const PointwiseOp& op : program.ops) next_ = std::max(next_, op.dst + 1);
    }

    int constant(float value) {
        PointwiseOp op{Kind::constant};
        op.alpha = value;
        return append(op);
    }
    int binary(Kind kind, int a, int b) {
        PointwiseOp op{kind};
        op.a = a;
        op.b = b;
        return append(op);
    }
    int unary(const PostOp& function, int a) {
        PointwiseOp op{Kind::unary};
        op.a = a;
        op.alpha = function.alpha;
        op.beta = function.beta;
        op.function = function.kind;
        return append(op);
    }

    /// (x - zero) * scale, the difference exact.
    int decode(int x, const Quantization& q) {
        if (q.zero() != 0) x = binary(Kind::sub, x, constant(static_cast<float>(q.zero())));
        return binary(Kind::mul, x, constant(q.scale()));
    }
    /// saturate(round(x / scale) + zero), with the reciprocal's rounding for the division's.
    int encode(int x, const Quantization& q) {
        x = binary(Kind::mul, x, constant(1 / q.scale()));
        x = unary({PostOp::Kind::round}, x);
        if (q.zero() != 0) x = binary(Kind::add, x, constant(static_cast<float>(q.zero())));
        return unary({PostOp::Kind::clip, 0, 255}, x);
    }

  private:
    int append(PointwiseOp op) {
        op.dst = next_++;
        program_.ops.push_back(op);
        return op.dst;
    }

    PointwiseProgram& program_;
    int next_;
};

bool is_bytes(const Quantization& q) {
    return q.per_tensor() && (q.dtype == DType::u8 || q.dtype == DType::i8);
}

// Of the expression's inputs those that are stored in bytes are decoded before anything else.
void decode_inputs(PointwiseProgram& program, const std::vector<const Quantization*>& stored) {
    Builder builder(program);
    const std::vector<PointwiseOp> ops = std::exchange(program.ops, {});
    std::vector<int> decoded(static_cast<size_t>(program.inputs));
    for (int i = 0; i < program.inputs; ++i) {
        const Quantization* q = stored[static_cast<size_t>(i)];
        decoded[static_cast<size_t>(i)] = q != nullptr ? builder.decode(i, *q) : i;
    }
    const auto renamed = [&](int value) {
        return value >= 0 && value < program.inputs ? decoded[static_cast<size_t>(value)] : value;
    };
    for (PointwiseOp op : ops) {
        op.a = renamed(op.a);
        op.b = renamed(op.b);
        op.c = renamed(op.c);
        program.ops.push_back(op);
    }
    for (int& output : program.outputs) output = renamed(output);
}

Refusal read(const RegionView& region, Expression& expression) {
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    if (const Refusal r = translate(quantized->inner(), expression); r != Refusal::none) return r;
    std::vector<const Quantization*> stored;
    for (int& input : expression.inputs) {
        const QuantizedRegion::Operand& operand = quantized->operand(input);
        if (operand.input < 0) return Refusal::op_not_handled;
        if (operand.quantization && !is_bytes(*operand.quantization)) return Refusal::attribute_not_handled;
        stored.push_back(operand.quantization ? &*operand.quantization : nullptr);
        input = operand.input;
    }
    decode_inputs(expression.program, stored);
    if (const auto& result = quantized->result()) {
        if (result->dtype != DType::u8) return Refusal::dtype_not_handled;
        int& output = expression.program.outputs[0];
        output = Builder(expression.program).encode(output, *result);
    }
    return Refusal::none;
}

Refusal can_shape(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const Dims out = region.output().dims();
    return out.size() > 6 || element_count(out) == 0 ? Refusal::shape_not_handled : Refusal::none;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_shape(region, environment); r != Refusal::none) return r;
    Expression expression;
    return read(region, expression);
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    Expression expression;
    read(region, expression);
    auto kernel = compile_expression(region, expression, layouts, environment);
    kernel->name = "pointwise_i8_" + std::string(to_string(environment.isa));
    return kernel;
}

// ---- QuantizeLinear, DequantizeLinear on their own ----

Refusal can_convert(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_shape(region, environment); r != Refusal::none) return r;
    const bool encodes = region.node().is("QuantizeLinear");
    const DType real = encodes ? region.input(0).type.dtype : region.output().type.dtype;
    const DType stored = encodes ? region.output().type.dtype : region.input(0).type.dtype;
    if (real != DType::f32 || (stored != DType::u8 && (encodes || stored != DType::i8)))
        return Refusal::dtype_not_handled;
    const auto q = read_quantization(region, region.node());
    return q && q->per_tensor() ? Refusal::none : Refusal::attribute_not_handled;
}

std::unique_ptr<Kernel> compile_conversion(const RegionView& region, const Layouts& layouts,
                                           const Environment& environment) {
    const Quantization q = *read_quantization(region, region.node());
    const bool encodes = region.node().is("QuantizeLinear");
    Expression expression;
    expression.inputs = {0};
    expression.program.inputs = 1;
    Builder builder(expression.program);
    expression.program.outputs = {encodes ? builder.encode(0, q) : builder.decode(0, q)};
    auto kernel = compile_expression(region, expression, layouts, environment);
    kernel->name = (encodes ? "quantize_i8_" : "dequantize_i8_") + std::string(to_string(environment.isa));
    return kernel;
}

}  // namespace

const Implementation kQuantizedPointwise{"quantized_pointwise_jit", can_implement, pointwise_layouts, compile};
const Implementation kQuantize{"quantize_jit", can_convert, pointwise_layouts, compile_conversion};
const Implementation kDequantize{"dequantize_jit", can_convert, pointwise_layouts, compile_conversion};

}  // namespace planish::cpu::families
