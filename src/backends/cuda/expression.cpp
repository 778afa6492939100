// Translates point-wise nodes: each is a row of a table, a pattern over its operands and attributes.
#include "backends/cuda/expression.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "planish/error.hpp"

namespace planish::cuda {
namespace {

/// $0, $1, $2: operands; @name: a real attribute; F::name: a function in the precision that the program asks for.
struct Row {
    std::string_view op, real, integer;  // integer: the pattern where operand 0 is an integer; empty: none
};

constexpr Row kRows[] = {
    {"Abs", "fabs($0)", "$0 < 0 ? planish::wrap_sub(decltype(+$0)(0), +$0) : $0"},
    {"Acos", "acos($0)", ""},
    {"Acosh", "acosh($0)", ""},
    {"Add", "$0 + $1", "planish::wrap_add($0, $1)"},
    {"And", "", "$0 && $1"},
    {"Asin", "asin($0)", ""},
    {"Asinh", "asinh($0)", ""},
    {"Atan", "atan($0)", ""},
    {"Atanh", "atanh($0)", ""},
    {"BitwiseAnd", "", "$0 & $1"},
    {"BitwiseNot", "", "~$0"},
    {"BitwiseOr", "", "$0 | $1"},
    {"BitwiseXor", "", "$0 ^ $1"},
    {"Ceil", "ceil($0)", ""},
    {"Celu", "F::celu($0, @alpha)", ""},
    {"Cos", "cos($0)", ""},
    {"Cosh", "cosh($0)", ""},
    {"Div", "$0 / $1", "planish::quotient($0, $1)"},
    {"Elu", "F::elu($0, @alpha)", ""},
    {"Equal", "$0 == $1", "$0 == $1"},
    {"Erf", "erf($0)", ""},
    {"Exp", "F::exp_of($0)", ""},
    {"Floor", "floor($0)", ""},
    {"Greater", "$0 > $1", "$0 > $1"},
    {"GreaterOrEqual", "$0 >= $1", "$0 >= $1"},
    {"HardSigmoid", "F::hard_sigmoid($0, @alpha, @beta)", ""},
    {"HardSwish", "F::hard_swish($0)", ""},
    {"Identity", "$0", "$0"},
    {"IsNaN", "$0 != $0", ""},
    {"LeakyRelu", "F::leaky_relu($0, @alpha)", ""},
    {"Less", "$0 < $1", "$0 < $1"},
    {"LessOrEqual", "$0 <= $1", "$0 <= $1"},
    {"Log", "F::log_of($0)", ""},
    {"Max", "planish::nan_max($0, $1)", "planish::nan_max($0, $1)"},
    {"Min", "planish::nan_min($0, $1)", "planish::nan_min($0, $1)"},
    {"Mish", "F::mish($0)", ""},
    {"Mul", "$0 * $1", "planish::wrap_mul($0, $1)"},
    {"Neg", "-$0", "planish::wrap_sub(decltype(+$0)(0), +$0)"},
    {"Not", "", "!$0"},
    {"Or", "", "$0 || $1"},
    {"PRelu", "$0 < 0 ? $1 * $0 : $0", ""},
    {"Reciprocal", "1 / $0", ""},
    {"Relu", "F::relu($0)", "F::relu($0)"},
    {"Round", "rint($0)", ""},
    {"Selu", "F::selu($0, @alpha, @gamma)", ""},
    {"Shrink", "F::shrink($0, @bias, @lambd)", ""},
    {"Sigmoid", "F::sigmoid($0)", ""},
    {"Sign", "F::sign($0)", "F::sign($0)"},
    {"Sin", "sin($0)", ""},
    {"Sinh", "sinh($0)", ""},
    {"Softplus", "F::softplus($0)", ""},
    {"Softsign", "F::softsign($0)", ""},
    {"Sqrt", "sqrt($0)", ""},
    {"Sub", "$0 - $1", "planish::wrap_sub($0, $1)"},
    {"SwiGLU", "F::swish($0, @alpha) * $1", ""},
    {"Swish", "F::swish($0, @alpha)", ""},
    {"Tan", "tan($0)", ""},
    {"Tanh", "F::tanh_of($0)", ""},
    {"ThresholdedRelu", "F::thresholded_relu($0, @alpha)", ""},
    {"Where", "$0 ? $1 : $2", "$0 ? $1 : $2"},
    {"Xor", "", "$0 != $1"},
};

bool is_real(DType dtype) {  // and computed as such; float8 is but stored
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f64;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
}

class Translator {
  public:
    Translator(const RegionView& region, const Environment& environment)
        : region_(region),
          fast_(environment.storage == DType::f16 || environment.storage == DType::bf16),
          float8_(environment.arch.at_least(89)) {}

    void define(const Value* value, std::string name) { names_[value] = std::move(name); }
    std::string add_line(DType dtype, const std::string& text) {
        std::string name = "v" + std::to_string(lines.size());
        lines.push_back(fmt::format("const {} {} = {};", register_type(dtype), name, text));
        return name;
    }

    /// The register of `value`: computed, a literal, or the operand that `operand` makes of a region's input.
    template <typename MakeOperand>
    std::optional<std::string> name_of(const Value* value, MakeOperand&& operand) {
        if (const auto it = names_.find(value); it != names_.end()) return it->second;
        if (register_type(value->type.dtype).empty()) return std::nullopt;
        const auto tensor = region_.constant(value);
        if (tensor && tensor->size() == 1) {
            // Integers beyond 2^53 have no exact double.
            if (!is_real(tensor->dtype()) && tensor->dtype() != DType::boolean &&
                std::fabs(tensor->at_double(0)) >= 0x1p53)
                return std::nullopt;
            return names_[value] = literal(tensor->at_double(0), tensor->dtype());
        }
        std::optional<std::string> made = operand(value);
        if (made) names_[value] = *made;
        return made;
    }

    template <typename MakeOperand>
    bool translate(const Node& node, MakeOperand&& operand) {
        if (!node.op().domain.empty() || node.outputs().size() != 1) return false;
        const Value& output = *node.output();
        if (register_type(output.type.dtype).empty()) return false;
        // Float8 is read and written by borders only, on architectures that have it.
        const bool border = node.is("QuantizeLinear") || node.is("DequantizeLinear");
        const auto is_float8 = [](const Value* value) {
            return value != nullptr && value->type.dtype == DType::f8e4m3fn;
        };
        if ((std::any_of(node.inputs().begin(), node.inputs().end(), is_float8) || is_float8(&output)) &&
            !(border && float8_))
            return false;
        std::vector<std::string> in;
        for (const Value* input : node.inputs()) {
            if (input == nullptr) {
                in.emplace_back();
                continue;
            }
            const auto name = name_of(input, operand);
            if (!name) return false;
            in.push_back(*name);
        }
        if (in.empty() || in[0].empty()) return false;
        const auto text = pattern(node, in);
        if (!text) return false;
        ++operations;
        names_[&output] = add_line(output.type.dtype, *text);
        return true;
    }

    /// All of them, and those of point-wise regions among them; each has a result of dims `out`.
    template <typename MakeOperand>
    bool translate_all(const std::vector<const Node*>& nodes, const Dims& out, MakeOperand&& operand) {
        for (const Node* node : nodes) {
            for (const Value* value : node->outputs())
                if (value->dims() != out) return false;
            if (!node->is("Region", "planish")) {
                if (!translate(*node, operand)) return false;
                continue;
            }
            const Graph& body = *node->subgraph("body");
            for (int i = 0; i < node->input_count(); ++i) {
                const auto name = name_of(node->input(i), operand);
                if (!name) return false;
                define(body.inputs()[static_cast<size_t>(i)], *name);
            }
            std::vector<const Node*> inner;
            for (const auto& part : body.nodes()) inner.push_back(part.get());
            if (!translate_all(inner, out, operand)) return false;
            const auto result = name_of(body.outputs()[0], operand);
            if (!result) return false;
            define(node->output(), *result);
        }
        return true;
    }

    std::vector<std::string> lines;
    int operations = 0;

  private:
    std::optional<std::string> pattern(const Node& node, const std::vector<std::string>& in) {
        const std::string_view op = node.op().name;
        const DType from = node.input(0)->type.dtype, to = node.output()->type.dtype;
        if (op == "Cast") return cast(in[0], from, to);
        if (op == "Clip") {
            std::string text = in[0];
            for (size_t bound : {size_t{1}, size_t{2}})
                if (bound < in.size() && !in[bound].empty())
                    text = fmt::format("planish::{}({}, {})", bound == 1 ? "nan_max" : "nan_min", text, in[bound]);
            return text;
        }
        if (op == "Gelu") {
            if (!is_real(from)) return std::nullopt;
            return fmt::format("{}{}({})", functions(from), node.text("approximate") == "tanh" ? "gelu_tanh" : "gelu",
                               in[0]);
        }
        if (op == "IsInf") {
            if (!is_real(from)) return std::nullopt;
            const bool positive = node.integer("detect_positive") != 0, negative = node.integer("detect_negative") != 0;
            if (positive && negative) return fmt::format("isinf({}) != 0", in[0]);
            return positive || negative ? fmt::format("isinf({0}) != 0 && {0} {1} 0", in[0], positive ? ">" : "<")
                                        : "false";
        }
        if (op == "Mod") {
            const bool truncated = node.integer("fmod") != 0;
            if (is_real(from))
                return fmt::format("{}({}, {})", truncated ? "fmod" : "planish::remainder_floored_real", in[0], in[1]);
            return fmt::format("planish::{}({}, {})", truncated ? "remainder_truncated" : "remainder_floored", in[0],
                               in[1]);
        }
        if (op == "Pow") return power(node, in);
        if (op == "QuantizeLinear" || op == "DequantizeLinear") return border(node, in[0]);
        if (op == "Sum" || op == "Mean") {
            if (!is_real(from)) return std::nullopt;
            return op == "Sum"
                       ? fmt::format("{}", fmt::join(in, " + "))
                       : fmt::format("({}) / {}", fmt::join(in, " + "), literal(static_cast<double>(in.size()), from));
        }
        for (const Row& row : kRows)
            if (row.op == op) return fill(row, node, in);
        return std::nullopt;
    }

    std::optional<std::string> fill(const Row& row, const Node& node, const std::vector<std::string>& in) {
        // Where's type is that of its branches, all others' that of operand 0.
        const DType dtype = node.input(row.op == "Where" ? 1 : 0)->type.dtype;
        std::string text(is_real(dtype) ? row.real : row.integer);
        if (text.empty()) return std::nullopt;
        // Max and Min take any number of operands, from left to right.
        std::string first = in[0];
        if (row.op == "Max" || row.op == "Min") {
            if (dtype == DType::boolean) return std::nullopt;
            if (in.size() == 1) return in[0];
            for (size_t i = 1; i + 1 < in.size(); ++i)
                first = fmt::format("planish::nan_{}({}, {})", row.op == "Max" ? "max" : "min", first, in[i]);
        }
        for (size_t at = text.find('@'); at != std::string::npos; at = text.find('@')) {
            const size_t end = text.find_first_of(",)", at);
            text.replace(at, end - at, literal(node.real(text.substr(at + 1, end - at - 1)), dtype));
        }
        replace_all(text, "F::", functions(dtype));
        replace_all(text, "$0", first);
        if (in.size() > 1) replace_all(text, "$1", row.op == "Max" || row.op == "Min" ? in.back() : in[1]);
        if (in.size() > 2) replace_all(text, "$2", in[2]);
        return text.find('$') == std::string::npos ? std::optional(text) : std::nullopt;
    }

    static std::optional<std::string> cast(const std::string& x, DType from, DType to) {
        if (to == DType::boolean) return fmt::format("{} != 0", x);
        if (is_real(from) && !is_real(to)) return fmt::format("planish::truncate<{}>({})", register_type(to), x);
        return fmt::format("static_cast<{}>({})", register_type(to), x);
    }

    /// Of one scale for the tensor.
    std::optional<std::string> border(const Node& node, const std::string& x) const {
        const auto q = read_quantization(region_, node);
        const bool encodes = node.is("QuantizeLinear");
        if (!q || !q->per_tensor() || (encodes ? node.input(0) : node.output())->type.dtype != DType::f32)
            return std::nullopt;
        if (!encodes) {
            if (is_real(q->dtype)) return std::nullopt;
            return decoded(x, *q);
        }
        if (q->dtype == DType::f8e4m3fn)
            return node.integer("saturate") != 0 && q->symmetric() ? std::optional(encoded(x, *q)) : std::nullopt;
        if (q->dtype != DType::u8 && q->dtype != DType::i8) return std::nullopt;
        return fmt::format("static_cast<{}>(fminf(fmaxf({}, {}), {}))", register_type(q->dtype), encoded(x, *q),
                           q->dtype == DType::u8 ? "0.0f" : "-128.0f", q->dtype == DType::u8 ? "255.0f" : "127.0f");
    }

    std::optional<std::string> power(const Node& node, const std::vector<std::string>& in) {
        const DType base = node.input(0)->type.dtype;
        if (!is_real(base)) return std::nullopt;
        if (const auto exponent = region_.constant(node.input(1)); exponent && exponent->size() == 1) {
            const double e = exponent->at_double(0);
            if (e == 1) return in[0];
            if (e == 2) return fmt::format("{0} * {0}", in[0]);
            if (e == 3) return fmt::format("{0} * {0} * {0}", in[0]);
        }
        return fmt::format("pow({}, static_cast<{}>({}))", in[0], register_type(base), in[1]);
    }

    std::string_view functions(DType dtype) const {
        return fast_ && dtype != DType::f64 ? "planish::fast::" : "planish::precise::";
    }

    const RegionView& region_;
    bool fast_, float8_;
    std::unordered_map<const Value*, std::string> names_;
};

bool is_channel(const Dims& operand, const Dims& out, int64_t channel_axis) {
    if (operand.size() > out.size()) return false;
    const size_t lead = out.size() - operand.size();
    for (size_t i = 0; i < out.size(); ++i) {
        const int64_t d = i < lead ? 1 : operand[i - lead];
        if (d != (static_cast<int64_t>(i) == channel_axis ? out[i] : 1)) return false;
    }
    return true;
}

std::string indented(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += "        " + line + "\n";
    return text;
}

}  // namespace

std::string_view register_type(DType dtype) {
    return dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f8e4m3fn ? "float" : memory_type(dtype);
}

std::string_view memory_type(DType dtype) {
    switch (dtype) {
        case DType::f16:
            return "planish::f16";
        case DType::bf16:
            return "planish::bf16";
        case DType::f8e4m3fn:
            return "planish::e4m3";
        case DType::f32:
        case DType::f64:
        case DType::boolean:
        case DType::i8:
        case DType::u8:
        case DType::i16:
        case DType::u16:
        case DType::i32:
        case DType::u32:
        case DType::i64:
        case DType::u64:
            return cuda_type(dtype);
        default:
            return {};
    }
}

std::string_view element_type(DType dtype) {
    return dtype == DType::u8 ? "planish::u8" : memory_type(dtype);
}

std::string literal(double value, DType dtype) {
    if (dtype == DType::boolean) return value != 0 ? "true" : "false";
    if (!is_real(dtype)) {
        const bool is_signed = dtype == DType::i8 || dtype == DType::i16 || dtype == DType::i32 || dtype == DType::i64;
        // No literal is negative: the lowest integer would be a negated one that does not fit.
        const std::string digits = is_signed ? fmt::format("{}LL", static_cast<int64_t>(value))
                                             : fmt::format("{}ULL", static_cast<uint64_t>(value));
        return fmt::format("static_cast<{}>({})", register_type(dtype), digits);
    }
    const bool wide = dtype == DType::f64;
    if (!wide) value = static_cast<float>(value);
    const char* suffix = wide ? "" : "f";
    if (std::isfinite(value)) {
        const std::string digits = fmt::format("{:a}{}", value, suffix);
        return std::signbit(value) ? "(" + digits + ")" : digits;
    }
    if (std::isinf(value)) {
        const std::string infinity = wide ? "__longlong_as_double(0x7ff0000000000000LL)" : "__int_as_float(0x7f800000)";
        return value < 0 ? "(-" + infinity + ")" : infinity;
    }
    return wide ? "__longlong_as_double(0x7ff8000000000000LL)" : "__int_as_float(0x7fc00000)";
}

std::string decoded(const std::string& x, const Quantization& q) {
    return fmt::format("(static_cast<float>({}) - {}) * {}", x, literal(q.zero(), DType::f32),
                       literal(q.scale(), DType::f32));
}

std::string encoded(const std::string& x, const Quantization& q) {
    // The product with the reciprocal is within a rounding of the quotient, which decides between neighbours of a tie.
    const std::string quotient = fmt::format("{} * {}", x, literal(1.0 / q.scale(), DType::f32));
    if (q.dtype == DType::f8e4m3fn) return quotient;
    return fmt::format("rintf({}) + {}", quotient, literal(q.zero(), DType::f32));
}

std::optional<Expression> pointwise_expression(const RegionView& region, const Environment& environment) {
    std::vector<const Node*> nodes;
    Expression result;
    std::vector<const Value*> outputs;
    if (region.has_body()) {
        for (const auto& node : region.body().nodes()) nodes.push_back(node.get());
        outputs.assign(region.body().outputs().begin(), region.body().outputs().end());
    } else {
        nodes.push_back(&region.node());
        outputs.assign(region.node().outputs().begin(), region.node().outputs().end());
    }
    if (outputs.empty()) return std::nullopt;
    const Dims out = outputs[0]->dims();
    Translator translator(region, environment);
    const auto operand = [&](const Value* value) -> std::optional<std::string> {
        const int input = region.input_index(value);
        if (input < 0) return std::nullopt;
        const auto known = std::find(result.inputs.begin(), result.inputs.end(), input);
        const auto number = known - result.inputs.begin();
        if (known == result.inputs.end()) result.inputs.push_back(input);
        return "a" + std::to_string(number);
    };
    // All results have one shape, so that each is computed once for each element.
    if (!translator.translate_all(nodes, out, operand)) return std::nullopt;
    for (size_t i = 0; i < outputs.size(); ++i) {
        const auto name = translator.name_of(outputs[i], operand);
        if (!name) return std::nullopt;
        result.results.push_back(*name);
        result.values.push_back(region.node().output(static_cast<int>(i)));
    }
    result.lines = std::move(translator.lines);
    result.operations = translator.operations;
    return result;
}

std::optional<EpilogueCode> read_epilogue(const RegionView& region, int64_t channel_axis,
                                          const Environment& environment, std::optional<int> bias) {
    EpilogueCode code;
    Translator translator(region, environment);
    std::string result = "x";
    if (bias) {
        code.operands.push_back({*bias, true});
        result = translator.add_line(DType::f32, "x + o[0]");
        ++translator.operations;
    }
    if (region.has_body()) {
        const Value* root = region.root().output();
        if (region.body().outputs().size() != 1 || root->type.dtype != DType::f32) return std::nullopt;
        const Dims out = root->dims();
        translator.define(root, result);
        const auto operand = [&](const Value* value) -> std::optional<std::string> {
            const int input = region.input_index(value);
            if (input < 0 || value->type.dtype != DType::f32) return std::nullopt;
            const Dims dims = value->dims();
            const bool tensor = dims == out;
            if (!tensor && !is_channel(dims, out, channel_axis)) return std::nullopt;
            if (code.operands.size() == EpilogueCode::kMaxOperands) return std::nullopt;
            code.operands.push_back({input, !tensor});
            return fmt::format("o[{}]", code.operands.size() - 1);
        };
        for (const auto& node : region.body().nodes()) {
            if (node.get() == &region.root()) continue;
            if (node->output()->dims() != out || !translator.translate(*node, operand)) return std::nullopt;
        }
        const Value* last = region.body().outputs()[0];
        if (last->type.dtype != DType::f32) return std::nullopt;
        result = *translator.name_of(last, operand);
    }
    const size_t count = code.operands.size();
    std::string kinds = "return tensor;";
    if (count > 0) {
        unsigned channels = 0;
        for (size_t i = 0; i < count; ++i) channels |= static_cast<unsigned>(code.operands[i].channel) << i;
        kinds = fmt::format("return {:#x}u >> i & 1 ? channel : tensor;", channels);
    }
    code.source = fmt::format(
        "#include \"planish/math.cuh\"\n"
        "struct Epilogue {{\n"
        "    enum Kind {{ channel, tensor }};\n"
        "    static constexpr int kOperands = {};\n"
        "    static constexpr __device__ Kind kind(int{}) {{ {} }}\n"
        "    static __device__ float apply(float x, const float*{}) {{\n{}        return {};\n    }}\n"
        "}};\n",
        count, count > 0 ? " i" : "", kinds, count > 0 ? " o" : "", indented(translator.lines), result);
    code.operations = translator.operations;
    return code;
}

int EpilogueCode::tensors() const {
    return static_cast<int>(
        std::count_if(operands.begin(), operands.end(), [](const Operand& o) { return !o.channel; }));
}

std::string EpilogueCode::in_namespace(std::string_view name) const {
    return fmt::format("namespace {} {{\n{}}}\n", name, source);
}

void set_epilogue_formats(Formats& formats, const EpilogueCode& epilogue) {
    for (const auto& operand : epilogue.operands)
        if (operand.input >= 0)
            formats.inputs[static_cast<size_t>(operand.input)] =
                operand.channel ? Format{Layout::plain, DType::f32} : formats.outputs[0];
}

void bind_epilogue(CudaKernel& kernel, Launch& launch, size_t offset, const EpilogueCode& epilogue,
                   std::initializer_list<int> read) {
    for (size_t i = 0; i < epilogue.operands.size(); ++i) {
        const auto& operand = epilogue.operands[i];
        if (operand.input < 0) continue;
        launch.bind(offset + i * sizeof(void*), input(operand.input));
        if (!operand.channel && std::find(read.begin(), read.end(), operand.input) == read.end())
            kernel.in_place.push_back(operand.input);
    }
}

std::optional<int> optional_input(const RegionView& region, const Value* value) {
    if (value == nullptr) return -1;
    const int input = region.input_index(value);
    return input >= 0 ? std::optional(input) : std::nullopt;
}

}  // namespace planish::cuda
