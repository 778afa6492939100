// Products and convolutions of quantised regions: their factors are bytes (integers, or floats of 8 bits), whose scales
// and zero points are the matter of the epilogue.
#include <fmt/format.h>

#include "backends/cuda/implementations/product.hpp"

namespace planish::cuda {
namespace {

constexpr int64_t kMostDepth = int64_t{1} << 16;  // 2^16 products of integers fit in 32 bits

/// Whether kernels read and write such tensors: the scale is one number for all of it.
bool is_stored(const Quantization& q) {
    return q.is_bytes() || (q.dtype == DType::f8e4m3fn && q.per_tensor() && q.symmetric());
}
/// What such factors are multiplied with.
DType other_factor(DType dtype) {
    return dtype == DType::u8 ? DType::i8 : dtype;
}

}  // namespace

bool is_of_bytes(const RegionView& region) {
    return region.has_body() && region.node().text("kind") == "quantized";
}

std::optional<Product> read_product_of_bytes(const RegionView& region) {
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return std::nullopt;
    auto p = read_product(quantized->inner());
    if (!p || (!p->gather && !p->batch.empty()) || p->k > kMostDepth) return std::nullopt;
    // A depthwise convolution has nothing for tensor cores.
    if (p->gather && (p->gather->transposed || (p->gather->group_channels == 1 && p->groups() > 1)))
        return std::nullopt;
    const QuantizedRegion::Operand &a = quantized->operand(p->a), &b = quantized->operand(p->b);
    if (!a.quantization || !b.quantization || !is_stored(*a.quantization) ||
        b.quantization->dtype != other_factor(a.quantization->dtype) || !b.quantization->symmetric() || a.input < 0 ||
        b.input < 0)
        return std::nullopt;
    const int64_t channel_axis = p->gather || p->b_k == 1 ? 0 : 1;
    if (!b.quantization->per_tensor() && !b.quantization->per_axis(channel_axis)) return std::nullopt;
    Bytes bytes{*a.quantization, *b.quantization, quantized->result(), {}, nullptr};
    if (bytes.result && !is_stored(*bytes.result)) return std::nullopt;
    for (const QuantizedRegion::Operand& operand : quantized->operands())
        bytes.consumed.insert(bytes.consumed.end(), operand.scale_inputs.begin(), operand.scale_inputs.end());
    if (p->bias >= 0) {
        const QuantizedRegion::Operand& bias = quantized->operand(p->bias);
        const auto constant = bias.input < 0 || bias.quantization ? nullptr : region.input(bias.input).constant;
        if (constant != nullptr && constant->size() == p->output_row()) {
            bytes.bias = constant;
            bytes.consumed.push_back(bias.input);
            p->bias = -1;
        }
    }
    p->a = a.input;
    p->b = b.input;
    p->weights = region.input(b.input).constant;
    p->constant = p->weights != nullptr;
    p->bytes = std::move(bytes);
    return p->constant ? std::move(p) : std::nullopt;
}

// Around the float epilogue: the columns' terms (two operands, constants), tensors that are stored in bytes, and the
// result's own bytes.
std::optional<EpilogueCode> byte_epilogue(const RegionView& region, const Product& product,
                                          const Environment& environment) {
    const auto quantized = QuantizedRegion::read(region);
    auto code = product_epilogue(quantized->inner(), product, environment);
    if (!code || code->operands.size() + 2 > EpilogueCode::kMaxOperands) return std::nullopt;
    const auto& result = quantized->result();
    std::string operands;
    unsigned channels = 3;
    for (size_t i = 0; i < code->operands.size(); ++i) {
        auto& operand = code->operands[i];
        const QuantizedRegion::Operand& stored = quantized->operand(operand.input);
        const std::string value = fmt::format("o[{}]", i + 2);
        if (stored.input < 0 || stored.quantization.has_value() != (!operand.channel && result.has_value()) ||
            (stored.quantization && (!is_stored(*stored.quantization) || stored.quantization->dtype != result->dtype)))
            return std::nullopt;
        operands += (stored.quantization ? decoded(value, *stored.quantization) : value) + ", ";
        operand.input = stored.input;
        channels |= static_cast<unsigned>(operand.channel) << (i + 2);
    }
    if (operands.empty()) operands = "0.0f";
    // A kernel rounds to bytes what it stores. That it multiplies where the reference divides, and adds before it
    // rounds, matters within the rounding of y alone.
    const std::string stored = result ? fmt::format("fmaf(y, {}, {})", literal(1.0 / result->scale(), DType::f32),
                                                    literal(result->zero(), DType::f32))
                                      : "y";
    code->operands.insert(code->operands.begin(), 2, {-1, true});
    code->source =
        "#include \"planish/math.cuh\"\n" + code->in_namespace("floats") +
        fmt::format(
            "struct Epilogue {{\n"
            "    enum Kind {{ channel, tensor }};\n"
            "    static constexpr int kOperands = {};\n"
            "    static constexpr __device__ Kind kind(int i) {{ return {:#x}u >> i & 1 ? channel : tensor; }}\n"
            "    static __device__ float apply(float x, const float* o) {{\n"
            "        const float operands[] = {{{}}};\n"
            "        const float y = floats::Epilogue::apply(fmaf(x, o[0], o[1]), operands);\n"
            "        return {};\n    }}\n}};\n",
            code->operands.size(), channels, operands, stored);
    code->operations += 4;
    return code;
}

void bind_columns(CudaKernel& kernel, Launch& launch, size_t offset, const Product& p) {
    const Bytes& bytes = *p.bytes;
    const int64_t columns = p.output_row(), step_n = p.gather ? p.k : p.b_n, step_k = p.gather ? 1 : p.b_k;
    std::vector<int64_t> sums(static_cast<size_t>(columns), 0);
    if (bytes.a.zero() != 0) {
        const auto weights = p.weights->data<int8_t>();
        const auto add = [&](int64_t n, int64_t k) {
            sums[static_cast<size_t>(n)] += weights[static_cast<size_t>(n * step_n + k * step_k)];
        };
        if (step_n == 1)
            for (int64_t k = 0; k < p.k; ++k)
                for (int64_t n = 0; n < columns; ++n) add(n, k);
        else
            for (int64_t n = 0; n < columns; ++n)
                for (int64_t k = 0; k < p.k; ++k) add(n, k);
    }
    const auto scales = bytes.b.scales->data<float>();
    Tensor terms(DType::f32, {2, columns});
    const auto to = terms.data<float>();
    for (int64_t i = 0; i < columns; ++i) {
        const auto n = static_cast<size_t>(i);
        const double scale = p.alpha * bytes.a.scale() * scales[bytes.b.per_tensor() ? 0 : n];
        const double bias = bytes.bias ? bytes.bias->at_double(i) : 0;
        to[n] = static_cast<float>(scale);
        to[static_cast<size_t>(columns) + n] =
            static_cast<float>(bias - scale * bytes.a.zero() * static_cast<double>(sums[n]));
    }
    const int64_t half = terms.bytes() / 2;
    const int at = kernel.add_constant(std::move(terms));
    launch.bind(offset, constant(at)).bind(offset + sizeof(void*), constant(at, half));
    kernel.consumed.insert(kernel.consumed.end(), bytes.consumed.begin(), bytes.consumed.end());
}

Refusal check_arch(const Product& p, const Arch& arch) {
    const bool floats = p.bytes && (p.bytes->a.dtype == DType::f8e4m3fn ||
                                    (p.bytes->result && p.bytes->result->dtype == DType::f8e4m3fn));
    return arch.at_least(floats ? 89 : 80) ? Refusal::none : Refusal::isa_missing;
}

}  // namespace planish::cuda
