// Post-ops from the IR's point-wise ops.
#include "backends/cpu/epilogue.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <string_view>

namespace planish::cpu {
namespace {

using Kind = PostOp::Kind;

struct SimpleUnary {
    std::string_view op;
    Kind kind;
};
constexpr SimpleUnary kSimple[] = {
    {"Relu", Kind::relu},
    {"Sqrt", Kind::sqrt},
    {"Abs", Kind::abs},
    {"Neg", Kind::neg},
    {"Sigmoid", Kind::sigmoid},
    {"Tanh", Kind::tanh},
    {"Exp", Kind::exp},
    {"Log", Kind::log},
    {"Erf", Kind::erf},
    {"Softplus", Kind::softplus},
    {"Mish", Kind::mish},
    {"Floor", Kind::floor},
    {"Ceil", Kind::ceil},
    {"Round", Kind::round},
    {"Softsign", Kind::softsign},
    {"HardSwish", Kind::hard_swish},
    {"Reciprocal", Kind::reciprocal},
};

std::optional<float> scalar_constant(const RegionView& region, const Value* value) {
    if (value == nullptr) return std::nullopt;
    const auto tensor = region.constant(value);
    if (tensor == nullptr || tensor->size() != 1 || tensor->dtype() != DType::f32) return std::nullopt;
    return static_cast<float>(tensor->at_double(0));
}

// How `operand` lies against an output of dims `out`: a full tensor, a vector along `channel_axis`, or neither.
enum class Broadcast { none, tensor, channel };
Broadcast broadcast_of(const Dims& operand, const Dims& out, int64_t channel_axis) {
    if (operand == out) return Broadcast::tensor;
    const size_t rank = out.size();
    if (operand.size() > rank) return Broadcast::none;
    const size_t missing = rank - operand.size();
    for (size_t i = 0; i < rank; ++i) {
        const int64_t d = i < missing ? 1 : operand[i - missing];
        const int64_t wanted = static_cast<int64_t>(i) == channel_axis ? out[i] : 1;
        if (d != wanted) return Broadcast::none;
    }
    return Broadcast::channel;
}

}  // namespace

std::optional<PostOp> unary_post_op(const Node& node, const RegionView& region) {
    if (!node.op().domain.empty()) return std::nullopt;
    const std::string_view op = node.op().name;
    for (const SimpleUnary& row : kSimple)
        if (row.op == op) return PostOp{row.kind};
    auto real = [&](std::string_view name) { return static_cast<float>(node.real(name)); };
    if (op == "LeakyRelu") return PostOp{Kind::leaky_relu, real("alpha")};
    if (op == "HardSigmoid") return PostOp{Kind::hard_sigmoid, real("alpha"), real("beta")};
    if (op == "Elu") return PostOp{Kind::elu, real("alpha")};
    if (op == "Celu") return PostOp{Kind::celu, real("alpha")};
    if (op == "Selu") return PostOp{Kind::selu, real("alpha"), real("gamma")};
    if (op == "Swish") return PostOp{Kind::silu, real("alpha")};
    if (op == "Gelu") return PostOp{node.text("approximate") == "tanh" ? Kind::gelu_tanh : Kind::gelu_erf};
    if (op == "Clip") {
        PostOp clip{Kind::clip, -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
        if (node.input(1) != nullptr) {
            const auto low = scalar_constant(region, node.input(1));
            if (!low) return std::nullopt;
            clip.alpha = *low;
        }
        if (node.input(2) != nullptr) {
            const auto high = scalar_constant(region, node.input(2));
            if (!high) return std::nullopt;
            clip.beta = *high;
        }
        return clip;
    }
    return std::nullopt;
}

std::vector<int> reusable_operands(const Epilogue& epilogue, std::initializer_list<int> excluded) {
    std::vector<int> result;
    for (const PostOp& op : epilogue.ops)
        if (has_tensor_operand(op.kind)) result.push_back(epilogue.operands[static_cast<size_t>(op.operand)]);
    for (const int input : excluded) std::erase(result, input);
    return result;
}

std::optional<Epilogue> read_epilogue(const RegionView& region, int64_t channel_axis, Epilogue epilogue) {
    if (!region.has_body()) return epilogue;
    if (region.body().outputs().size() != 1) return std::nullopt;
    const Value* result = region.body().outputs()[0];
    const Value* current = region.root().output();
    const Dims out = current->dims();
    // PRelu slopes and binary constants are channel or scalar operands; everything else must be a plain post-op.
    while (current != result) {
        if (current->uses.size() != 1) {
            // x * sigmoid(x) and the like are recognised as single ops before regions form.
            return std::nullopt;
        }
        const Node& node = *current->uses[0].node;
        const Value* next = node.output();
        if (!node.op().domain.empty() || node.outputs().size() != 1 || next->type.dtype != DType::f32 ||
            next->dims() != out)
            return std::nullopt;
        if (const auto unary = unary_post_op(node, region); unary && node.input(0) == current) {
            epilogue.ops.push_back(*unary);
            current = next;
            continue;
        }
        const std::string_view op = node.op().name;
        const int side = current->uses[0].index;
        if (node.input_count() != 2) return std::nullopt;
        const Value* other = node.input(1 - side);
        if (other == nullptr || other == current) return std::nullopt;
        const bool add = op == "Add", sub = op == "Sub", mul = op == "Mul", div = op == "Div";
        if (const auto s = scalar_constant(region, other)) {
            if (add)
                epilogue.ops.push_back({Kind::scale_shift, 1, *s});
            else if (sub && side == 0)
                epilogue.ops.push_back({Kind::scale_shift, 1, -*s});
            else if (sub)
                epilogue.ops.push_back({Kind::scale_shift, -1, *s});
            else if (mul)
                epilogue.ops.push_back({Kind::scale_shift, *s, 0});
            else if (div && side == 0 &&
                     std::fabs(std::log2(std::fabs(*s))) == std::floor(std::fabs(std::log2(std::fabs(*s)))))
                epilogue.ops.push_back({Kind::scale_shift, 1 / *s, 0});  // exact only for powers of two
            else
                return std::nullopt;
            current = next;
            continue;
        }
        const int input = region.input_index(other);
        if (input < 0 || other->type.dtype != DType::f32) return std::nullopt;
        const Broadcast how = broadcast_of(other->dims(), out, channel_axis);
        if (how == Broadcast::none || epilogue.operands.size() == kMaxOperands) return std::nullopt;
        const bool channel = how == Broadcast::channel;
        Kind kind;
        if (add)
            kind = channel ? Kind::add_channel : Kind::add_tensor;
        else if (mul)
            kind = channel ? Kind::mul_channel : Kind::mul_tensor;
        else if (op == "PRelu" && side == 0 && channel)
            kind = Kind::prelu_channel;
        else if (channel)
            return std::nullopt;
        else if (sub)
            kind = side == 0 ? Kind::sub_tensor : Kind::rsub_tensor;
        else if (div && side == 0)
            kind = Kind::div_tensor;
        else if (op == "Max")
            kind = Kind::max_tensor;
        else if (op == "Min")
            kind = Kind::min_tensor;
        else
            return std::nullopt;
        epilogue.ops.push_back({kind, 0, 0, epilogue.add_operand(input)});
        current = next;
    }
    return epilogue;
}

}  // namespace planish::cpu
