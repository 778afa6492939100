// Products of rows that are layer-normalised on the way: what the normalisation leaves to the weights and to the
// epilogue.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/implementations/product.hpp"
#include "base/hash.hpp"
#include "base/small_float.hpp"

namespace planish::cuda {
namespace {

/// As passes/fuse_layer_norms.cpp makes it.
struct Parts {
    explicit Parts(const RegionView& region)
        : norm(*region.body().nodes().front()), product(*region.body().nodes().back(), &region), region(region) {}

    /// The region's input that is the product's `inner` one; -1: the normalised rows.
    int outer(int inner) const { return region.input_index(product.node().input(inner)); }

    const Node& norm;
    RegionView product;
    const RegionView& region;
};

std::string hash_of(const Tensor* tensor) {
    if (tensor == nullptr) return "none";
    return hash128({static_cast<const std::byte*>(tensor->raw()), static_cast<size_t>(tensor->bytes())}).to_hex();
}

/// s, then the terms of shift and bias.
Tensor column_terms(const Product& p, const Tensor& packed) {
    const Normalization& norm = *p.normalization;
    std::vector<double> shifts(static_cast<size_t>(p.n), 0);
    if (norm.shift != nullptr) {
        const auto w = p.weights->data<float>();
        const auto shift = norm.shift->data<float>();
        const auto add = [&](int64_t k, int64_t n) {
            shifts[static_cast<size_t>(n)] +=
                double{shift[static_cast<size_t>(k)]} * w[static_cast<size_t>(k * p.b_k + n * p.b_n)];
        };
        if (p.b_n == 1)
            for (int64_t k = 0; k < p.k; ++k)
                for (int64_t n = 0; n < p.n; ++n) add(k, n);
        else
            for (int64_t n = 0; n < p.n; ++n)
                for (int64_t k = 0; k < p.k; ++k) add(k, n);
    }
    Tensor terms(DType::f32, {2, p.n});
    const auto to = terms.data<float>();
    const auto* rounded = static_cast<const uint16_t*>(packed.raw());
    for (int64_t n = 0; n < p.n; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < p.k; ++k) sum += decode_small_float(packed.dtype(), rounded[n * p.k + k]);
        const double bias = norm.bias != nullptr ? norm.bias->at_double(n) : 0;
        to[static_cast<size_t>(n)] = static_cast<float>(sum);
        to[static_cast<size_t>(p.n + n)] = static_cast<float>(p.alpha * shifts[static_cast<size_t>(n)] + bias);
    }
    return terms;
}

}  // namespace

std::optional<Product> read_normalized_product(const RegionView& region) {
    const Parts parts(region);
    auto p = read_product(parts.product);
    if (!p || p->gather || !p->constant || p->weights->dtype() != DType::f32 || parts.outer(p->a) >= 0)
        return std::nullopt;
    Normalization norm;
    norm.epsilon = parts.norm.real("epsilon");
    norm.scale = region.constant(parts.norm.input(1));
    norm.shift = region.constant(parts.norm.input(2));
    if (norm.scale == nullptr || (parts.norm.input(2) != nullptr && norm.shift == nullptr)) return std::nullopt;
    for (const auto& constant : {norm.scale, norm.shift})
        if (constant != nullptr && (constant->dtype() != DType::f32 || constant->size() != p->k)) return std::nullopt;
    for (int i = 1; i < parts.norm.input_count(); ++i)
        if (const int input = region.input_index(parts.norm.input(i)); input >= 0) norm.consumed.push_back(input);
    if (p->bias >= 0) {
        const Value* bias = parts.product.node().input(p->bias);
        if (const auto constant = region.constant(bias); constant != nullptr && constant->size() == p->n) {
            norm.bias = constant;
            norm.consumed.push_back(region.input_index(bias));
            p->bias = -1;
        }
    }
    p->a = region.input_index(parts.norm.input(0));
    p->b = parts.outer(p->b);
    p->normalization = std::move(norm);
    return p->a >= 0 && p->b >= 0 ? std::move(p) : std::nullopt;
}

std::optional<EpilogueCode> normalized_epilogue(const RegionView& region, const Product& product,
                                                const Environment& environment) {
    const Parts parts(region);
    auto code = product_epilogue(parts.product, product, environment);
    if (!code || code->operands.size() + 2 > EpilogueCode::kMaxOperands) return std::nullopt;
    unsigned channels = 3;
    for (size_t i = 0; i < code->operands.size(); ++i) {
        auto& operand = code->operands[i];
        operand.input = parts.outer(operand.input);
        if (operand.input < 0) return std::nullopt;
        channels |= static_cast<unsigned>(operand.channel) << (i + 2);
    }
    code->operands.insert(code->operands.begin(), 2, {-1, true});
    code->source = "#include \"planish/math.cuh\"\n" + code->in_namespace("product") +
                   fmt::format(
                       "struct Epilogue {{\n"
                       "    enum Kind {{ channel, tensor }};\n"
                       "    static constexpr int kOperands = {};\n"
                       "    static constexpr __device__ Kind kind(int i) {{ return {:#x}u >> i & 1 ? channel : tensor; "
                       "}}\n"
                       "    static __device__ float apply(float x, const float* o) {{\n"
                       "        return product::Epilogue::apply(x + o[1], o + 2);\n    }}\n}};\n",
                       code->operands.size(), channels);
    code->operations += 3;
    return code;
}

void bind_normalization(CudaKernel& kernel, Launch& launch, size_t offset, const Product& p, int weights,
                        const Environment& environment) {
    const Normalization& norm = *p.normalization;
    const Tensor packed = kernel.constants[static_cast<size_t>(weights)];
    const std::string key = fmt::format("cuda columns of a normalised product {} {} b_n={} scale={} shift={} bias={}",
                                        short_name(packed.dtype()), p.alpha, p.b_n, hash_of(norm.scale.get()),
                                        hash_of(norm.shift.get()), hash_of(norm.bias.get()));
    Tensor terms = environment.packed->get(p.weights, key, [&] { return column_terms(p, packed); });
    const int64_t half = terms.bytes() / 2;
    const int at = kernel.add_constant(std::move(terms));
    launch.bind(offset, constant(at)).bind(offset + sizeof(void*), constant(at, half));
    // Equal constants are one input: the epilogue may read what is also a shift.
    for (const int input : norm.consumed)
        if (std::none_of(launch.addresses.begin(), launch.addresses.end(), [&](const AddressPatch& patch) {
                return patch.operand.kind == Operand::Kind::input && patch.operand.index == input;
            }))
            kernel.consumed.push_back(input);
}

}  // namespace planish::cuda
