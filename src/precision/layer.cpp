// Layers as matrix products.
#include "precision/layer.hpp"

#include <algorithm>
#include <numeric>

#include "passes/rewrite.hpp"

namespace planish::precision {
namespace {

int64_t product_of(std::span<const int64_t> numbers) {
    return std::accumulate(numbers.begin(), numbers.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

std::optional<Layer> Layer::read(Node& node) {
    if (!node.is("Conv") && !node.is("Gemm") && !node.is("MatMul")) return std::nullopt;
    const Value *x = node.input(0), *w = node.input(1);
    if (w == nullptr || !w->is_constant() || w->constant->dtype() != DType::f32 || x->is_constant() ||
        x->type.dtype != DType::f32 || w->constant->size() == 0)
        return std::nullopt;
    const Dims& dims = w->constant->dims();
    Layer layer;
    layer.node_ = &node;
    if (node.is("Conv")) {
        if (dims.size() < 3 || node.text("auto_pad") != "NOTSET") return std::nullopt;
        layer.groups_ = node.integer("group");
        layer.n_ = dims[0] / layer.groups_;
        layer.k_ = w->constant->size() / dims[0];
        layer.input_channels_ = dims[1];
        const size_t spatial = dims.size() - 2;
        layer.kernel_.assign(dims.begin() + 2, dims.end());
        const auto attribute = [&](std::string_view name, size_t count, int64_t fallback) {
            std::vector<int64_t> values = node.integers(name);
            if (values.empty()) values.assign(count, fallback);
            return values;
        };
        layer.strides_ = attribute("strides", spatial, 1);
        layer.dilations_ = attribute("dilations", spatial, 1);
        layer.pads_ = attribute("pads", 2 * spatial, 0);
        return layer;
    }
    if (dims.size() != 2) return std::nullopt;
    const bool transposed = node.is("Gemm") && node.integer("transB") != 0;
    if (node.is("Gemm") && (node.integer("transA") != 0 || node.real("alpha") != 1 || node.real("beta") != 1))
        return std::nullopt;
    layer.rows_are_terms_ = !transposed;
    layer.axis_ = transposed ? 0 : 1;
    layer.n_ = dims[transposed ? 0 : 1];
    layer.k_ = layer.input_channels_ = dims[transposed ? 1 : 0];
    return layer;
}

Matrix Layer::weights(int64_t group) const {
    const float* w = weight()->constant->data<float>().data();
    Matrix result(k_, n_);
    for (int64_t k = 0; k < k_; ++k)
        for (int64_t n = 0; n < n_; ++n)
            result.at(k, n) = rows_are_terms_ ? w[k * n_ + n] : w[(group * n_ + n) * k_ + k];
    return result;
}

void Layer::put_weights(Tensor& tensor, int64_t group, const Matrix& transposed) const {
    for (int64_t k = 0; k < k_; ++k)
        for (int64_t n = 0; n < n_; ++n) {
            const auto at = static_cast<size_t>(rows_are_terms_ ? k * n_ + n : (group * n_ + n) * k_ + k);
            if (tensor.dtype() == DType::f32)
                tensor.data<float>()[at] = transposed.at(k, n);
            else
                tensor.set_double(static_cast<int64_t>(at), transposed.at(k, n));
        }
}

int64_t Layer::places(const Dims& input) const {
    if (kernel_.empty()) return product_of(input) / k_;
    int64_t count = input[0];
    for (size_t d = 0; d < kernel_.size(); ++d) {
        const int64_t span = (kernel_[d] - 1) * dilations_[d] + 1;
        count *= std::max<int64_t>(0, (input[d + 2] + pads_[d] + pads_[d + kernel_.size()] - span) / strides_[d] + 1);
    }
    return count;
}

void Layer::gather(const Tensor& input, std::span<const int64_t> places, int64_t group, Matrix& rows,
                   int64_t first) const {
    const float* x = input.data<float>().data();
    if (kernel_.empty()) {
        for (size_t i = 0; i < places.size(); ++i)
            std::copy_n(x + places[i] * k_, k_, rows.row(first + static_cast<int64_t>(i)));
        return;
    }
    const Dims& dims = input.dims();
    const size_t spatial = kernel_.size();
    const int64_t plane = product_of(std::span(dims).subspan(2)), taps = product_of(kernel_);
    std::vector<int64_t> out(spatial), at(spatial);
    for (size_t d = 0; d < spatial; ++d) {
        const int64_t span = (kernel_[d] - 1) * dilations_[d] + 1;
        out[d] = (dims[d + 2] + pads_[d] + pads_[d + spatial] - span) / strides_[d] + 1;
    }
    for (size_t i = 0; i < places.size(); ++i) {
        int64_t place = places[i];
        for (size_t d = spatial; d-- > 0; place /= out[d]) at[d] = place % out[d] * strides_[d] - pads_[d];
        const float* image = x + (place * dims[1] + group * input_channels_) * plane;
        float* row = rows.row(first + static_cast<int64_t>(i));
        for (int64_t tap = 0; tap < taps; ++tap) {
            int64_t offset = 0, rest = tap, stride = 1;
            bool inside = true;
            for (size_t d = spatial; d-- > 0; rest /= kernel_[d]) {
                const int64_t position = at[d] + rest % kernel_[d] * dilations_[d];
                inside = inside && position >= 0 && position < dims[d + 2];
                offset += position * stride;
                stride *= dims[d + 2];
            }
            for (int64_t c = 0; c < input_channels_; ++c)
                row[c * taps + tap] = inside ? image[c * plane + offset] : 0.0f;
        }
    }
}

std::optional<Layer::Bias> Layer::bias(const Graph& graph) const {
    const auto is_own = [&](const Value* value) {
        return value->is_constant() && value->constant->dtype() == DType::f32 &&
               value->constant->size() == n_ * groups_;
    };
    if (!node_->is("MatMul")) {
        const Value* b = node_->input(2);
        if (b == nullptr || is_own(b)) return Bias{node_, 2};
        return std::nullopt;
    }
    Node* add = passes::only_reader(graph, node_->output(), "Add");
    if (add == nullptr) return std::nullopt;
    const int other = add->input(0) == node_->output() ? 1 : 0;
    const Value* b = add->input(other);
    if (b == node_->output() || !is_own(b) || b->constant->rank() < 1 || b->constant->dims().back() != n_)
        return std::nullopt;
    return Bias{add, other};
}

}  // namespace planish::precision
