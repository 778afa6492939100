// Point-wise regions and single point-wise ops, compiled to one loop nest.
#include "backends/cpu/implementations/pointwise.hpp"

#include <unordered_map>

#include "backends/cpu/epilogue.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu::families {
namespace {

using Kind = PointwiseOp::Kind;

struct BinaryRow {
    std::string_view op;
    Kind kind;
};
constexpr BinaryRow kBinary[] = {
    {"Add", Kind::add},         {"Sub", Kind::sub},
    {"Mul", Kind::mul},         {"Div", Kind::div},
    {"Pow", Kind::pow},         {"Min", Kind::min},
    {"Max", Kind::max},         {"Equal", Kind::equal},
    {"Less", Kind::less},       {"LessOrEqual", Kind::less_equal},
    {"Greater", Kind::greater}, {"GreaterOrEqual", Kind::greater_equal},
    {"And", Kind::logical_and}, {"Or", Kind::logical_or},
    {"Xor", Kind::logical_xor},
};

// float32 arithmetic is exact on these, so that an op's meaning does not change inside a kernel.
bool is_exact(DType dtype) {
    return dtype == DType::f32 || dtype == DType::boolean;
}

// Translates a region (or a single op) into a program over float32 registers.
class Translator {
  public:
    explicit Translator(const RegionView& region) : region_(region) {}

    std::optional<Expression> run() {
        if (region_.has_body()) {
            for (const auto& node : region_.body().nodes()) nodes_.push_back(node.get());
            for (const Value* output : region_.body().outputs()) results_.push_back(output);
        } else {
            nodes_.push_back(&region_.node());
            for (const Value* output : region_.node().outputs()) results_.push_back(output);
        }
        // Inputs are numbered first; constants of one element become immediate values.
        for (const Node* node : nodes_)
            for (const Value* input : node->inputs())
                if (input && !is_scalar_constant(input) && region_.input_index(input) >= 0 &&
                    !numbers_.contains(input)) {
                    numbers_[input] = static_cast<int>(expression_.inputs.size());
                    expression_.inputs.push_back(region_.input_index(input));
                }
        expression_.program.inputs = static_cast<int>(expression_.inputs.size());
        next_ = expression_.program.inputs;
        for (const Node* node : nodes_)
            if (!translate(*node)) return std::nullopt;
        for (const Value* output : results_) {
            if (!is_exact(output->type.dtype)) return std::nullopt;
            const auto it = numbers_.find(output);
            if (it == numbers_.end()) return std::nullopt;
            expression_.program.outputs.push_back(it->second);
        }
        return std::move(expression_);
    }

  private:
    bool is_scalar_constant(const Value* value) const {
        const auto tensor = region_.constant(value);
        return tensor && tensor->size() == 1 && is_exact(tensor->dtype());
    }

    int emit(PointwiseOp op) {
        op.dst = next_++;
        expression_.program.ops.push_back(op);
        return op.dst;
    }

    std::optional<int> number(const Value* value) {
        if (const auto it = numbers_.find(value); it != numbers_.end()) return it->second;
        if (!is_scalar_constant(value)) return std::nullopt;
        PointwiseOp op{Kind::constant};
        op.alpha = static_cast<float>(region_.constant(value)->at_double(0));
        return numbers_[value] = emit(op);
    }

    bool translate(const Node& node) {
        if (node.outputs().size() != 1) return false;
        const std::string_view op = node.op().name;
        if (node.op().domain.empty() && op == "Cast") {
            // Loads convert; only to float32, where every consumer inside is exact.
            const auto x = number(node.input(0));
            if (!x || node.output()->type.dtype != DType::f32) return false;
            if (!is_exact(node.input(0)->type.dtype) &&
                (*x >= expression_.program.inputs || !loadable(node.input(0)->type.dtype)))
                return false;
            numbers_[node.output()] = *x;
            return true;
        }
        for (const Value* input : node.inputs())
            if (input && !is_exact(input->type.dtype)) return false;
        if (!is_exact(node.output()->type.dtype)) return false;

        if (const auto unary = unary_post_op(node, region_)) {
            const auto x = number(node.input(0));
            if (!x) return false;
            PointwiseOp result{Kind::unary};
            result.a = *x;
            result.alpha = unary->alpha;
            result.beta = unary->beta;
            result.function = unary->kind;
            numbers_[node.output()] = emit(result);
            return true;
        }
        if (!node.op().domain.empty()) return false;
        std::vector<int> in;
        for (const Value* input : node.inputs()) {
            if (input == nullptr) {
                in.push_back(-1);
                continue;
            }
            const auto x = number(input);
            if (!x) return false;
            in.push_back(*x);
        }
        auto binary = [&](Kind kind, int a, int b) {
            PointwiseOp result{kind};
            result.a = a;
            result.b = b;
            return emit(result);
        };
        int result = -1;
        for (const BinaryRow& row : kBinary) {
            if (row.op != op || in.empty()) continue;
            result = in[0];
            for (size_t i = 1; i < in.size(); ++i) result = binary(row.kind, result, in[i]);
            if (in.size() == 1) return numbers_[node.output()] = result, true;
        }
        if (result < 0 && op == "Sum") {
            result = in[0];
            for (size_t i = 1; i < in.size(); ++i) result = binary(Kind::add, result, in[i]);
        } else if (op == "Clip") {
            result = in[0];
            if (in.size() > 1 && in[1] >= 0) result = binary(Kind::max, result, in[1]);
            if (in.size() > 2 && in[2] >= 0) result = binary(Kind::min, result, in[2]);
        } else if (op == "Where") {
            PointwiseOp where{Kind::where};
            where.a = in[0];
            where.b = in[1];
            where.c = in[2];
            result = emit(where);
        } else if (op == "PRelu") {
            PointwiseOp zero{Kind::constant};
            PointwiseOp where{Kind::where};
            where.a = binary(Kind::less, in[0], emit(zero));
            where.b = binary(Kind::mul, in[0], in[1]);
            where.c = in[0];
            result = emit(where);
        } else if (op == "Not" || op == "IsNaN") {
            PointwiseOp unary{op == "Not" ? Kind::logical_not : Kind::is_nan};
            unary.a = in[0];
            result = emit(unary);
        }
        if (result < 0) return false;
        numbers_[node.output()] = result;
        return true;
    }

    const RegionView& region_;
    std::vector<const Node*> nodes_;
    std::vector<const Value*> results_;
    Expression expression_;
    std::unordered_map<const Value*, int> numbers_;
    int next_ = 0;
};

}  // namespace

std::optional<PointwiseType> loadable(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return PointwiseType::f32;
        case DType::boolean:
            return PointwiseType::boolean;
        case DType::u8:
            return PointwiseType::u8;
        case DType::i8:
            return PointwiseType::i8;
        case DType::i32:
            return PointwiseType::i32;
        case DType::i64:
            return PointwiseType::i64;
        default:
            return std::nullopt;
    }
}

// Element strides of an input along the output's axes in the output's physical order.
std::vector<int64_t> strides_in(const Dims& input, Layout input_layout, const Dims& output, Layout output_layout) {
    const auto rank = static_cast<int64_t>(output.size()), own = static_cast<int64_t>(input.size());
    const Dims physical = physical_dims(input, input_layout);
    std::vector<int64_t> physical_strides(physical.size());
    int64_t stride = 1;
    for (size_t i = physical.size(); i-- > 0;) {
        physical_strides[i] = stride;
        stride *= physical[i];
    }
    std::vector<int64_t> result(output.size(), 0);
    for (int64_t axis = 0; axis < own; ++axis) {
        if (input[static_cast<size_t>(axis)] == 1) continue;
        const int64_t out_axis = axis + rank - own;
        result[static_cast<size_t>(physical_axis(out_axis, rank, output_layout))] =
            physical_strides[static_cast<size_t>(physical_axis(axis, own, input_layout))];
    }
    return result;
}

Refusal translate(const RegionView& region, Expression& expression) {
    const bool pointwise = [&] {
        if (!region.has_body()) return has(region.node().op().traits, Trait::elementwise);
        for (const auto& node : region.body().nodes())
            if (!has(node->op().traits, Trait::elementwise)) return false;
        return true;
    }();
    if (!pointwise) return Refusal::op_not_handled;
    auto translated = Translator(region).run();
    if (!translated || translated->inputs.size() > kMaxExpressionInputs) return Refusal::post_op_not_handled;
    for (const int i : translated->inputs)
        if (!loadable(region.input(i).type.dtype)) return Refusal::dtype_not_handled;
    expression = std::move(*translated);
    return Refusal::none;
}

namespace {

bool inner_stride_is_simple(const std::vector<int64_t>& strides, const Dims& physical) {
    for (size_t i = physical.size(); i-- > 0;)
        if (physical[i] != 1) return strides[i] == 0 || strides[i] == 1;
    return true;
}

}  // namespace

Layouts pointwise_layouts(const RegionView& region, std::span<const Layout> available) {
    Layouts following = following_layouts(region, available);
    const Dims out = region.output().dims();
    for (size_t i = 0; i < following.inputs.size(); ++i) {
        const Value* input = region.node().inputs()[i];
        if (input == nullptr) continue;
        const auto strides = strides_in(input->dims(), following.inputs[i], out, following.outputs[0]);
        if (!inner_stride_is_simple(strides, physical_dims(out, following.outputs[0])))
            return plain_layouts(region, available);
    }
    return following;
}

namespace {

Refusal can_implement(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.node().outputs().empty()) return Refusal::op_not_handled;
    const Dims out = region.output().dims();
    for (const Value* output : region.node().outputs())
        if (output->dims() != out) return Refusal::shape_not_handled;
    if (out.size() > 6 || element_count(out) == 0) return Refusal::shape_not_handled;
    Expression expression;
    return translate(region, expression);
}

}  // namespace

std::unique_ptr<Kernel> compile_expression(const RegionView& region, const Expression& expression,
                                           const Layouts& layouts, const Environment& environment) {
    const Dims out = region.output().dims();
    const Dims physical = physical_dims(out, layouts.outputs[0]);
    std::vector<PointwiseInput> inputs;
    for (const int i : expression.inputs)
        inputs.push_back(
            {*loadable(region.input(i).type.dtype),
             strides_in(region.input(i).dims(), layouts.inputs[static_cast<size_t>(i)], out, layouts.outputs[0])});
    std::vector<PointwiseType> outputs;
    for (const Value* output : region.node().outputs()) outputs.push_back(*loadable(output->type.dtype));
    auto code = std::make_shared<const PointwiseKernel>(expression.program, physical, inputs, outputs, environment.isa);
    auto kernel =
        make_kernel("pointwise_f32_" + std::string(to_string(environment.isa)),
                    [code, wanted = expression.inputs](const Launch& launch) {
                        const void* in[kMaxExpressionInputs];
                        void* results[16];
                        for (size_t i = 0; i < wanted.size(); ++i) in[i] = launch.in[static_cast<size_t>(wanted[i])];
                        for (size_t i = 0; i < launch.out.size(); ++i) results[i] = launch.out[i];
                        code->run({in, wanted.size()}, {results, launch.out.size()}, *launch.pool, launch.threads);
                    });
    kernel->flops = element_count(out) * static_cast<int64_t>(expression.program.ops.size());
    if (outputs.size() == 1 && (outputs[0] == PointwiseType::f32 || outputs[0] == PointwiseType::u8))
        for (size_t k = 0; k < expression.inputs.size(); ++k) {
            const int i = expression.inputs[k];
            if (region.input(i).type.dtype == region.output().type.dtype && region.input(i).dims() == out)
                kernel->in_place.push_back(i);
        }
    return kernel;
}

namespace {

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts& layouts, const Environment& environment) {
    Expression expression;
    translate(region, expression);
    return compile_expression(region, expression, layouts, environment);
}

}  // namespace

const Implementation kPointwise{"pointwise_jit", can_implement, pointwise_layouts, compile};

}  // namespace planish::cpu::families
