// com.microsoft operators that ONNX Runtime's tools write, in terms of ONNX's own: activations, products, norms.
// Definitions: onnxruntime/docs/ContribOperators.md.
#include <algorithm>
#include <array>

#include "importers/onnx/draft.hpp"
#include "ir/op.hpp"

namespace planish::onnx_import {
namespace {

// ---- Activations ----

Attributes gelu_kind(bool tanh) {
    if (tanh) return {{"approximate", std::string("tanh")}};
    return {};
}

void gelu(Draft& d) {
    d.finish({d.emit_output("Gelu", {d.inputs.at(0)})});
}

void bias_gelu(Draft& d) {
    if (!d.has_input(1)) d.invalid("misses its bias");
    d.finish({d.emit_output("Gelu", {d.emit("Add", {d.inputs[0], d.inputs[1]})})});
}

void fast_gelu(Draft& d) {
    Value* x = d.has_input(1) ? d.emit("Add", {d.inputs[0], d.inputs[1]}) : d.inputs.at(0);
    d.finish({d.emit_output("Gelu", {x}, gelu_kind(true))});
}

// x * sigmoid(alpha * x)
void quick_gelu(Draft& d) {
    Value* alpha = d.scalar(d.dtype(0), d.real("alpha", 1.702), "alpha");
    Value* gate = d.emit("Sigmoid", {d.emit("Mul", {d.inputs.at(0), alpha}, {}, "Mul_alpha")});
    d.finish({d.emit_output("Mul", {d.inputs[0], gate})});
}

// ---- Products ----

// Exchanges the last two axes of input i.
Value* transposed(Draft& d, size_t i) {
    const auto rank = d.rank(i);
    if (!rank || *rank < 2) d.unsupported("transposes an input of unknown rank", "export with static ranks");
    std::vector<int64_t> perm(static_cast<size_t>(*rank));
    for (size_t axis = 0; axis < perm.size(); ++axis) perm[axis] = static_cast<int64_t>(axis);
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    return d.emit("Transpose", {d.inputs[i]}, {{"perm", perm}}, "Transpose_" + std::to_string(i));
}

// alpha * op(A) op(B)
void fused_matmul(Draft& d) {
    if (d.integer("transBatchA", 0) != 0 || d.integer("transBatchB", 0) != 0)
        d.unsupported("transposes batch axes", "export without ONNX Runtime's optimisations");
    Value* a = d.integer("transA", 0) != 0 ? transposed(d, 0) : d.inputs.at(0);
    Value* b = d.integer("transB", 0) != 0 ? transposed(d, 1) : d.inputs.at(1);
    const double alpha = d.real("alpha", 1);
    if (alpha == 1) return d.finish({d.emit_output("MatMul", {a, b})});
    d.finish({d.emit_output("Mul", {d.emit("MatMul", {a, b}), d.scalar(d.dtype(0), alpha, "alpha")})});
}

// The activation that ONNX Runtime fused into a node, as a node.
Value* activation(Draft& d, Value* x, const std::string& name, const std::vector<double>& p) {
    auto parameter = [&](size_t i, double otherwise) { return i < p.size() ? p[i] : otherwise; };
    if (name.empty()) return x;
    if (name == "Relu" || name == "Sigmoid" || name == "Tanh") return d.emit_output(name, {x});
    if (name == "LeakyRelu") return d.emit_output(name, {x}, {{"alpha", parameter(0, 0.01)}});
    if (name == "HardSigmoid")
        return d.emit_output(name, {x}, {{"alpha", parameter(0, 0.2)}, {"beta", parameter(1, 0.5)}});
    if (name == "Clip")
        return d.emit_output(name, {x, d.scalar(d.dtype(0), parameter(0, -3.4e38), "min"),
                                    d.scalar(d.dtype(0), parameter(1, 3.4e38), "max")});
    d.unsupported("has the fused activation '" + name + "'", "export without ONNX Runtime's optimisations");
}

std::vector<double> take_reals(Draft& d, std::string_view name) {
    if (!d.has(name)) return {};
    const Attribute value = d.take(name);
    const auto* reals = std::get_if<std::vector<double>>(&value);
    return reals ? *reals : std::vector<double>{};
}

// activation(Conv(x, w, b) + z)
void fused_conv(Draft& d) {
    const std::string name = d.text("activation", "");
    const std::vector<double> parameters = take_reals(d, "activation_params");
    d.attributes.erase("activation");
    Value* z = d.has_input(3) ? d.inputs[3] : nullptr;
    std::vector<Value*> inputs(d.inputs.begin(),
                               d.inputs.begin() + static_cast<ptrdiff_t>(std::min<size_t>(d.inputs.size(), 3)));
    if (name.empty() && !z) return d.finish({d.emit_output("Conv", inputs, d.attributes)});
    Value* y = d.emit("Conv", inputs, d.attributes);
    if (z) y = name.empty() ? d.emit_output("Add", {y, z}) : d.emit("Add", {y, z});
    d.finish({activation(d, y, name, parameters)});
}

void fused_gemm(Draft& d) {
    const std::string name = d.text("activation", "");
    const std::vector<double> parameters{d.real("activation_alpha", 0.01), d.real("activation_beta", 0.5)};
    for (const char* key : {"activation", "activation_alpha", "activation_beta", "activation_gamma"})
        d.attributes.erase(key);
    if (name.empty()) return d.finish({d.emit_output("Gemm", d.inputs, d.attributes)});
    d.finish({activation(d, d.emit("Gemm", d.inputs, d.attributes), name, parameters)});
}

// Weights of 2, 4 or 8 bits in blocks along K: B's bytes [N, K/block, block*bits/8] are those of a matrix [N, K] of
// ONNX's packed type, first element in the low bits.
void matmul_nbits(Draft& d) {
    const int64_t n = d.integer("N", 0), k = d.integer("K", 0), bits = d.integer("bits", 4),
                  block = d.integer("block_size", 32);
    const DType type = bits == 4 ? DType::u4 : bits == 8 ? DType::u8 : DType::undefined;
    constexpr int64_t kLargest = int64_t{1} << 30;
    if (n <= 0 || k <= 0 || block <= 0 || n > kLargest || k > kLargest) d.invalid("has no usable N, K and block_size");
    const bool plain =
        type != DType::undefined && k % block == 0 && !d.has_input(4) && d.has_input(1) && d.inputs[1]->is_constant();
    if (!plain)
        d.unsupported(
            "has weights that are not constant, of other than 4 or 8 bits, reordered, or with a cut-off block",
            "quantise with ONNX's own DequantizeLinear (QDQ)");
    const int64_t blocks = k / block;
    const auto& packed = d.inputs[1]->constant;
    if (packed->bytes() != byte_size(type, n * k)) d.invalid("has weights that do not fit N, K and bits");
    Value* weights = d.constant(Tensor(type, {n, k}, packed->raw(), packed), "weights");

    Value* zero = nullptr;
    if (d.has_input(3) && d.inputs[3]->type.dtype != DType::u8) {
        d.unsupported("has zero points that are not uint8", "quantise with ONNX's own DequantizeLinear (QDQ)");
    } else {
        // One zero point a block; 4-bit ones are packed by rows that start on a byte. Without: the middle.
        Tensor points(type, {n, blocks});
        const Tensor* given = d.has_input(3) && d.inputs[3]->is_constant() ? d.inputs[3]->constant.get() : nullptr;
        if (d.has_input(3) && !given)
            d.unsupported("has zero points that are not constant", "quantise with ONNX's own DequantizeLinear (QDQ)");
        const int64_t row_bytes = (blocks * bits + 7) / 8;
        if (given && given->bytes() != n * row_bytes) d.invalid("has zero points that do not fit N, K and block_size");
        for (int64_t row = 0; row < n; ++row)
            for (int64_t i = 0; i < blocks; ++i) {
                int64_t value = int64_t{1} << (bits - 1);
                if (given) {
                    const auto bytes = given->data<uint8_t>();
                    const uint8_t byte = bytes[static_cast<size_t>(row * row_bytes + i * bits / 8)];
                    value = bits == 8 ? byte : (i % 2 ? byte >> 4 : byte & 15);
                }
                points.set_double(row * blocks + i, static_cast<double>(value));
            }
        zero = d.constant(std::move(points), "zero_points");
    }
    Value* scales =
        d.emit("Reshape", {d.inputs.at(2), d.integers_constant({n, blocks}, "scales_shape")}, {}, "Reshape_scales");
    Value* real = d.emit("DequantizeLinear", {weights, scales, zero}, {{"axis", int64_t{1}}, {"block_size", block}});
    Value* right = d.emit("Transpose", {real}, {{"perm", std::vector<int64_t>{1, 0}}});
    if (!d.has_input(5)) return d.finish({d.emit_output("MatMul", {d.inputs[0], right})});
    d.finish({d.emit_output("Add", {d.emit("MatMul", {d.inputs[0], right}), d.inputs[5]})});
}

// MatMulInteger's int32 sums times both scales, plus a bias.
Value* scaled_product(Draft& d, Value* a, Value* b, Value* a_zero, Value* b_zero, Value* scale, Value* bias) {
    Value* sums = d.emit("MatMulInteger", {a, b, a_zero, b_zero});
    Value* real = d.emit("Cast", {sums}, {{"to", static_cast<int64_t>(DType::f32)}});
    if (!bias) return d.emit_output("Mul", {real, scale});
    return d.emit_output("Add", {d.emit("Mul", {real, scale}, {}, "Mul_scale"), bias});
}

Value* input_or_null(const Draft& d, size_t i) {
    return d.has_input(i) ? d.inputs[i] : nullptr;
}

void dynamic_quantize_matmul(Draft& d) {
    if (!d.has_input(2)) d.invalid("misses the scale of B");
    const auto q = d.emit_many("DynamicQuantizeLinear", {d.inputs[0]}, {}, 3);
    Value* scale = d.emit("Mul", {q[1], d.inputs[2]}, {}, "Mul_scales");
    d.finish({scaled_product(d, q[0], d.inputs[1], q[2], input_or_null(d, 3), scale, input_or_null(d, 4))});
}

void matmul_integer_to_float(Draft& d) {
    if (!d.has_input(3)) d.invalid("misses its scales");
    Value* scale = d.emit("Mul", {d.inputs[2], d.inputs[3]}, {}, "Mul_scales");
    d.finish({scaled_product(d, d.inputs[0], d.inputs[1], input_or_null(d, 4), input_or_null(d, 5), scale,
                             input_or_null(d, 6))});
}

// ---- Norms ----

// LayerNormalization or RMSNormalization of input + skip + bias; output 3 is the sum itself.
void skip_norm(Draft& d, bool simplified) {
    const size_t bias = simplified ? 3 : 4;
    if (!d.has_input(2)) d.invalid("misses its scale");
    if (d.wants_output(1) || d.wants_output(2))
        d.unsupported("gives its statistics", "export without ONNX Runtime's training graph");
    Value* sum = d.emit("Add", {d.inputs[0], d.inputs[1]});
    if (d.has_input(bias)) sum = d.emit("Add", {sum, d.inputs[bias]}, {}, "Add_bias");
    Attributes attributes{{"axis", int64_t{-1}}, {"epsilon", d.real("epsilon", simplified ? 1e-6 : 1e-12)}};
    Value* y = simplified ? d.emit_output("RMSNormalization", {sum, d.inputs[2]}, attributes)
                          : d.emit_output("LayerNormalization", {sum, d.inputs[2], input_or_null(d, 3)}, attributes);
    d.finish({y, nullptr, nullptr, sum});
}

void skip_layer_norm(Draft& d) {
    skip_norm(d, false);
}
void skip_rms_norm(Draft& d) {
    skip_norm(d, true);
}

void simplified_layer_norm(Draft& d) {
    if (!d.has_input(1)) d.invalid("misses its scale");
    if (d.wants_output(1)) d.unsupported("gives its statistics", "export without ONNX Runtime's training graph");
    d.finish({d.emit_output("RMSNormalization", {d.inputs[0], d.inputs[1]},
                            {{"axis", d.integer("axis", -1)}, {"epsilon", d.real("epsilon", 1e-5)}})});
}

// ---- Quantised operators: the float operator between DequantizeLinear and QuantizeLinear ----

Value* dequantised(Draft& d, size_t i, const std::string& what) {
    if (!d.has_input(i + 1)) d.invalid("misses a scale");
    return d.emit("DequantizeLinear", {d.inputs[i], d.inputs[i + 1], input_or_null(d, i + 2)}, {},
                  "Dequantize_" + what);
}

void quantise_output(Draft& d, Value* y, size_t scale) {
    if (!d.has_input(scale)) d.invalid("misses the scale of its output");
    Value* zero = input_or_null(d, scale + 1);
    if (!zero) zero = d.constant(Tensor(d.dtype(0) == DType::i8 ? DType::i8 : DType::u8, {}), "zero");
    d.finish({d.emit_output("QuantizeLinear", {y, d.inputs[scale], zero})});
}

void qlinear_binary(Draft& d) {
    const std::string op = d.op == "QLinearAdd" ? "Add" : "Mul";
    quantise_output(d, d.emit(op, {dequantised(d, 0, "A"), dequantised(d, 3, "B")}), 6);
}

void qlinear_unary(Draft& d) {
    const std::string op = d.op.substr(std::string_view("QLinear").size());
    quantise_output(d, d.emit(op, {dequantised(d, 0, "X")}, d.attributes), 3);
}

void qlinear_pool(Draft& d) {
    if (d.integer("channels_last", 0) != 0) d.unsupported("has its channels last", "export with channels first");
    d.attributes.erase("channels_last");
    qlinear_unary(d);
}

void qlinear_softmax(Draft& d) {
    // Before opset 13 it covered all axes from `axis` on, which is the same only where that is the last one.
    const int64_t axis = d.integer("axis", -1);
    if (d.integer("opset", 13) < 13 && axis != -1 && d.rank(0) != axis + 1)
        d.unsupported("works on several axes at once", "export with opset 13 or newer");
    d.attributes.erase("opset");
    qlinear_unary(d);
}

void qlinear_concat(Draft& d) {
    std::vector<Value*> parts;
    for (size_t i = 2; i + 1 < d.inputs.size(); i += 3) parts.push_back(dequantised(d, i, std::to_string(i / 3)));
    quantise_output(d, d.emit("Concat", parts, {{"axis", d.integer("axis", 0)}}), 0);
}

// The bias has the scale of the integer sums; without the scale of an output the result is float32.
void qgemm(Draft& d) {
    if (d.real("alpha", 1) != 1) d.unsupported("scales its product", "export with alpha 1");
    const int64_t trans_b = d.integer("transB", 0);
    if (!d.has_input(4)) d.invalid("misses a scale");
    Value* b = d.emit("DequantizeLinear", {d.inputs[3], d.inputs[4], input_or_null(d, 5)},
                      {{"axis", trans_b != 0 ? int64_t{0} : int64_t{1}}}, "Dequantize_B");
    std::vector<Value*> operands = {dequantised(d, 0, "A"), b};
    if (d.has_input(6)) {
        Value* scale = d.emit("Mul", {d.inputs[1], d.inputs[4]}, {}, "Mul_scales");
        operands.push_back(d.emit("DequantizeLinear", {d.inputs[6], scale}, {{"axis", int64_t{0}}}, "Dequantize_C"));
    }
    const Attributes attributes{{"transA", d.integer("transA", 0)}, {"transB", trans_b}};
    if (!d.has_input(7)) return d.finish({d.emit_output("Gemm", operands, attributes)});
    quantise_output(d, d.emit("Gemm", operands, attributes), 7);
}

// ONNX's operators under ONNX Runtime's domain, from before ONNX had the same for more types.
void same_as_onnx(Draft& d) {
    d.domain.clear();
}

void grid_sample(Draft& d) {
    const std::string mode = d.text("mode", "bilinear");
    d.attributes["mode"] = std::string(mode == "bilinear" ? "linear" : mode == "bicubic" ? "cubic" : mode);
    d.domain.clear();
}

constexpr std::string_view kMs = "com.microsoft";

constexpr Adapter kAdapters[] = {
    {kMs, "BiasGelu", kEveryOpset, bias_gelu},
    {kMs, "DequantizeLinear", kEveryOpset, same_as_onnx},
    {kMs, "DynamicQuantizeMatMul", kEveryOpset, dynamic_quantize_matmul},
    {kMs, "FastGelu", kEveryOpset, fast_gelu},
    {kMs, "FusedConv", kEveryOpset, fused_conv},
    {kMs, "FusedGemm", kEveryOpset, fused_gemm},
    {kMs, "FusedMatMul", kEveryOpset, fused_matmul},
    {kMs, "Gelu", kEveryOpset, gelu},
    {kMs, "GridSample", kEveryOpset, grid_sample},
    {kMs, "MatMulIntegerToFloat", kEveryOpset, matmul_integer_to_float},
    {kMs, "MatMulNBits", kEveryOpset, matmul_nbits},
    {kMs, "QGemm", kEveryOpset, qgemm},
    {kMs, "QLinearAdd", kEveryOpset, qlinear_binary},
    {kMs, "QLinearAveragePool", kEveryOpset, qlinear_pool},
    {kMs, "QLinearConcat", kEveryOpset, qlinear_concat},
    {kMs, "QLinearGlobalAveragePool", kEveryOpset, qlinear_pool},
    {kMs, "QLinearLeakyRelu", kEveryOpset, qlinear_unary},
    {kMs, "QLinearMul", kEveryOpset, qlinear_binary},
    {kMs, "QLinearSigmoid", kEveryOpset, qlinear_unary},
    {kMs, "QLinearSoftmax", kEveryOpset, qlinear_softmax},
    {kMs, "QuantizeLinear", kEveryOpset, same_as_onnx},
    {kMs, "QuickGelu", kEveryOpset, quick_gelu},
    {kMs, "SkipLayerNormalization", kEveryOpset, skip_layer_norm},
    {kMs, "SkipSimplifiedLayerNormalization", kEveryOpset, skip_rms_norm},
    {kMs, "TransposeMatMul", kEveryOpset, fused_matmul},
    // ONNX Runtime writes this one into ONNX's own domain.
    {"", "SimplifiedLayerNormalization", kEveryOpset, simplified_layer_norm},
};

}  // namespace

std::span<const Adapter> contrib_adapters() {
    return kAdapters;
}

}  // namespace planish::onnx_import
