#include "backends/cuda/implementations/product.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

namespace planish::cuda {
namespace {

std::optional<Product> read_gemm(const RegionView& region) {
    const Node& root = region.root();
    const Dims a = root.input(0)->dims(), b = root.input(1)->dims();
    const bool trans_a = root.integer("transA") != 0, trans_b = root.integer("transB") != 0;
    Product p;
    p.m = trans_a ? a[1] : a[0];
    p.k = trans_a ? a[0] : a[1];
    p.n = trans_b ? b[0] : b[1];
    p.a_row = trans_a ? 1 : p.k;
    p.a_k = trans_a ? p.m : 1;
    p.b_k = trans_b ? 1 : p.n;
    p.b_n = trans_b ? p.k : 1;
    p.alpha = root.real("alpha");
    if (const Value* c = root.input(2)) {
        const Dims dims = c->dims();
        const bool channel = element_count(dims) == p.n && (dims.size() == 1 || dims[0] == 1);
        const auto bias = optional_input(region, c);
        if (!channel || root.real("beta") != 1 || !is_f32(c) || !bias) return std::nullopt;
        p.bias = *bias;
    }
    return p;
}

/// Axes of the batch that an operand of `dims` steps over, aligned with those of the output; 0: broadcast.
std::vector<int64_t> batch_strides(const Dims& dims, size_t axes) {
    std::vector<int64_t> strides(axes, 0);
    int64_t stride = dims[dims.size() - 2] * dims.back();
    for (size_t i = dims.size() - 2, to = axes; i-- > 0; stride *= dims[i])
        if (--to, dims[i] != 1) strides[to] = stride;
    return strides;
}

std::optional<Product> read_matmul(const RegionView& region) {
    const Node& root = region.root();
    Dims a = root.input(0)->dims();
    const Dims b = root.input(1)->dims();
    if (a.empty() || b.size() < 2) return std::nullopt;
    if (a.size() == 1) a.insert(a.begin(), 1);
    Product p;
    p.m = a[a.size() - 2];
    p.k = a.back();
    p.n = b.back();
    p.a_row = p.k;
    p.b_k = p.n;
    if (element_count(Dims(b.begin(), b.end() - 2)) == 1 && a.size() >= b.size()) {
        p.m = std::accumulate(a.begin(), a.end() - 1, int64_t{1}, std::multiplies<>());
        return p;
    }
    const size_t axes = std::max(a.size(), b.size()) - 2;
    const auto a_strides = batch_strides(a, axes), b_strides = batch_strides(b, axes);
    for (size_t i = 0; i < axes; ++i) {
        const auto extent = [&](const Dims& dims) {
            const size_t lead = axes + 2 - dims.size();
            return i < lead ? 1 : dims[i - lead];
        };
        const Product::Axis axis{std::max(extent(a), extent(b)), a_strides[i], b_strides[i]};
        if (axis.extent == 1) continue;
        // Two axes that both operands walk as one are one.
        if (Product::Axis* outer = p.batch.empty() ? nullptr : &p.batch.back();
            outer != nullptr && outer->a == axis.extent * axis.a && outer->b == axis.extent * axis.b)
            *outer = {outer->extent * axis.extent, axis.a, axis.b};
        else
            p.batch.push_back(axis);
    }
    return p;
}

std::optional<Product> read_convolution(const RegionView& region) {
    const Node& conv = region.root();
    const Dims x = conv.input(0)->dims(), w = conv.input(1)->dims(), y = conv.output()->dims();
    if (x.size() != 3 && x.size() != 4) return std::nullopt;
    const int64_t groups = conv.integer("group");
    Product::Gather gather;
    gather.transposed = conv.is("ConvTranspose");
    const Dims kernel(w.begin() + 2, w.end());
    gather.window = image_window(conv, kernel);
    if (gather.transposed) {
        const Dims sizes(x.begin() + 2, x.end());
        infer::TransposedWindow window = infer::transposed_window_of(conv, sizes.size(), kernel);
        infer::resolve_transposed(window, conv, sizes);
        for (size_t i = 0; i < sizes.size(); ++i)
            gather.window.begin[2 - sizes.size() + i] = window.window.pads_begin[i];
    }
    gather.images = x[0];
    gather.channels = x[1];
    gather.group_channels = x[1] / groups;
    gather.out[0] = y.size() == 3 ? 1 : y[2];
    gather.out[1] = y.back();
    Product p;
    p.n = y[1] / groups;
    p.m = x[0] * gather.out[0] * gather.out[1];
    p.k = gather.group_channels * gather.taps();
    p.batch = {{groups, 0, p.k * p.n}};
    const auto bias = optional_input(region, conv.input(2));
    if (!bias) return std::nullopt;
    p.bias = *bias;
    p.gather = gather;
    return p;
}

/// To the nearest number of ten fraction bits, ties away from zero: as cvt.rna.tf32 does.
float round_to_tf32(float x) {
    uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
}

Tensor ordered(const Tensor& weights, const Product& p, const WeightOrder& order, DType dtype) {
    const int64_t batch = p.batches(), depth = order.k;
    Tensor packed(DType::f32, order.k_inner ? Dims{batch, p.n, depth} : Dims{batch, depth, p.n});
    const Tensor floats = stored(weights, {Layout::plain, DType::f32});
    const auto from = floats.data<float>();
    const auto to = packed.data<float>();
    std::fill(to.begin(), to.end(), 0.0f);
    const auto factor = static_cast<float>(order.factor);
    const int64_t channels = p.gather ? p.gather->group_channels : p.k, taps = p.k / std::max<int64_t>(channels, 1);
    // Conv has [groups * n, channels, taps], ConvTranspose [groups * channels, n, taps].
    const bool transposed = p.gather && p.gather->transposed;
    const int64_t stride_n = transposed ? taps : p.gather ? channels * taps : p.b_n;
    const int64_t stride_channel = transposed ? p.n * taps : p.gather ? taps : p.b_k;
    const int64_t to_n = order.k_inner ? depth : 1, to_k = order.k_inner ? 1 : p.n;
    for (int64_t i = 0; i < batch; ++i)
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t n = 0; n < p.n; ++n) {
                    const int64_t place = order.fours ? place_in_fours(n) : n;
                    const float x =
                        factor * from[static_cast<size_t>(i * p.k * p.n + n * stride_n + c * stride_channel + tap)];
                    to[static_cast<size_t>(i * depth * p.n + place * to_n + (tap * channels + c) * to_k)] =
                        order.tf32 ? round_to_tf32(x) : x;
                }
    return stored(packed, {Layout::plain, dtype});
}

}  // namespace

bool Product::Gather::is_identity() const {
    return !transposed && taps() == 1 && window.stride[0] == 1 && window.stride[1] == 1 && out[0] == window.in[0] &&
           out[1] == window.in[1] && window.begin[0] == 0 && window.begin[1] == 0;
}

int64_t Product::batches() const {
    int64_t count = 1;
    for (const Axis& axis : batch) count *= axis.extent;
    return count;
}

double Product::elements() const {
    double a_elements = static_cast<double>(m * k), b_elements = static_cast<double>(k * n);
    if (gather) {
        a_elements = static_cast<double>(gather->images * gather->image_elements());
        b_elements *= static_cast<double>(groups());
    } else {
        for (const Axis& axis : batch) {
            if (axis.a != 0) a_elements *= static_cast<double>(axis.extent);
            if (axis.b != 0) b_elements *= static_cast<double>(axis.extent);
        }
    }
    return a_elements + b_elements + static_cast<double>(output_elements());
}

bool is_convolution(const Node& node) {
    return node.is("Conv") || node.is("ConvTranspose");
}

std::optional<Product> read_product(const RegionView& region) {
    const Node& root = region.root();
    auto p = is_convolution(root) ? read_convolution(region)
             : root.is("Gemm")    ? read_gemm(region)
             : root.is("MatMul")  ? read_matmul(region)
                                  : std::nullopt;
    if (!p) return std::nullopt;
    p->a = region.input_index(root.input(0));
    p->b = region.input_index(root.input(1));
    p->weights = region.constant(root.input(1));
    p->constant = p->weights != nullptr && (p->gather || p->batch.empty());
    constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
    if (p->a < 0 || p->b < 0 || p->m == 0 || p->n == 0 || p->k == 0 || p->batches() == 0 || p->m > kMost ||
        p->k > kMost || p->output_row() > kMost || p->batch.size() > kBatchAxes)
        return std::nullopt;
    return p;
}

std::optional<EpilogueCode> product_epilogue(const RegionView& region, const Product& product,
                                             const Environment& environment) {
    const int64_t axis =
        is_convolution(region.root()) ? 1 : static_cast<int64_t>(region.root().output()->dims().size()) - 1;
    return read_epilogue(region, axis, environment, product.bias >= 0 ? std::optional(product.bias) : std::nullopt);
}

Refusal check_product(const RegionView& region) {
    const Node& root = region.root();
    if (!is_convolution(root) && !root.is("Gemm") && !root.is("MatMul")) return Refusal::op_not_handled;
    if (!is_f32(root.input(0)) || !is_f32(root.input(1))) return Refusal::dtype_not_handled;
    if (is_convolution(root) && region.constant(root.input(1)) == nullptr) return Refusal::weights_not_constant;
    return Refusal::none;
}

int add_weights(CudaKernel& kernel, const Product& product, const WeightOrder& order, DType dtype,
                const Environment& environment) {
    const std::string_view kind = !product.gather ? "matrix" : product.gather->transposed ? "transposed" : "conv";
    const std::string key = fmt::format("cuda {} {} {}{}{} {} {} groups={} b_n={}", order.k_inner ? "nk" : "kn",
                                        order.k, short_name(dtype), order.tf32 ? " tf32" : "",
                                        order.fours ? " fours" : "", order.factor, kind, product.groups(), product.b_n);
    kernel.consumed.push_back(product.b);
    return kernel.add_constant(environment.packed->get(
        product.weights, key, [&] { return ordered(*product.weights, product, order, dtype); }));
}

void set_batch(BatchAxis (&axes)[kBatchAxes], const Product& product, int64_t a_group) {
    for (BatchAxis& axis : axes) axis = {0, 0, 1};
    for (size_t i = 0; i < product.batch.size(); ++i) {
        const Product::Axis& axis = product.batch[i];
        axes[kBatchAxes - product.batch.size() + i] = {product.gather ? a_group : axis.a, axis.b,
                                                       static_cast<int>(axis.extent)};
    }
}

}  // namespace planish::cuda
