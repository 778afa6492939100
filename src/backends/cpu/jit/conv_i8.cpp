// Convolutions of bytes.
#include "backends/cpu/jit/conv_i8.hpp"

#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/jit/conv_loop.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

struct ConvI8Plan::Impl {
    ByteEpilogue epilogue;
    ConvLoop loop;
};

ConvI8Plan::ConvI8Plan(const ConvShape& shape, PostOps post_ops, const std::optional<ByteFormat>& result, Isa isa,
                       PanelWidth width) {
    if (shape.c / shape.groups * shape.kh * shape.kw > kMostByteProducts)
        fail(ErrorCode::internal, "an integer convolution whose sums may exceed 32 bits");
    auto impl = std::make_unique<Impl>(Impl{ByteEpilogue(std::move(post_ops), result), {}});
    impl->loop =
        ConvLoop(shape, impl->epilogue.post_ops(), isa, width, false, ConvLoop::Bytes{impl->epilogue.result()});
    impl_ = std::move(impl);
}

ConvI8Plan::~ConvI8Plan() = default;
ConvI8Plan::ConvI8Plan(ConvI8Plan&&) noexcept = default;
ConvI8Plan& ConvI8Plan::operator=(ConvI8Plan&&) noexcept = default;

const ConvShape& ConvI8Plan::shape() const {
    return impl_->loop.shape();
}
const PackLayout& ConvI8Plan::weight_layout() const {
    return impl_->loop.layout();
}
int64_t ConvI8Plan::taps_per_segment() const {
    return impl_->loop.taps_per_segment();
}
int64_t ConvI8Plan::packed_weight_size() const {
    return 4 * weight_layout().size() * shape().groups;
}

// ONNX's order of one output channel's weights is (c, tap), that of B's rows (tap, c).
void ConvI8Plan::pack_weights(const int8_t* oihw, int8_t* packed) const {
    const ConvLoop& loop = impl_->loop;
    const int64_t c = loop.group_c(), taps = shape().kh * shape().kw, filter = c * taps;
    std::vector<int64_t> offsets = packed_rows(loop.segments(), c * loop.taps_per_segment());
    for (int64_t& row : offsets) row = row < 0 ? row : row % c * taps + row / c;
    for (int64_t g = 0; g < shape().groups; ++g)
        pack_i8(oihw + g * loop.group_oc() * filter, offsets, filter, weight_layout(),
                packed + 4 * g * weight_layout().size());
}

ColumnTerms ConvI8Plan::terms(const int8_t* packed, const ByteFormat& x, std::span<const float> scales,
                              std::span<const float> bias) const {
    std::vector<int32_t> sums;
    for (int64_t g = 0; g < shape().groups; ++g) {
        const std::vector<int32_t> group = column_sums(packed + 4 * g * weight_layout().size(), weight_layout());
        sums.insert(sums.end(), group.begin(), group.end());
    }
    return terms(sums, x, scales, bias);
}

ColumnTerms ConvI8Plan::terms(std::span<const int32_t> sums, const ByteFormat& x, std::span<const float> scales,
                              std::span<const float> bias) const {
    return impl_->epilogue.terms(sums, x, scales, bias);
}

size_t ConvI8Plan::workspace(int max_threads) const {
    return impl_->loop.workspace(max_threads);
}

void ConvI8Plan::run(const uint8_t* x, const int8_t* packed_weights, const Columns& columns, void* y,
                     std::span<const float* const> operands, void* workspace, ThreadPool& pool, int max_threads) const {
    impl_->loop.run({x, packed_weights, y, operands.data(), workspace, columns.start, columns.scale, columns.bias,
                     static_cast<uint8_t>(columns.zero)},
                    pool, max_threads);
}

}  // namespace planish::cpu
