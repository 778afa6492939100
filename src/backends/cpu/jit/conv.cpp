// Convolutions of floats.
#include "backends/cpu/jit/conv.hpp"

#include <algorithm>
#include <utility>

#include "backends/cpu/jit/conv_loop.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

struct ConvPlan::Impl {
    ConvLoop loop;

    static ConvLoop::Call call(const float* x, const float* weights, float* y, std::span<const float* const> operands,
                               void* workspace) {
        return {x, weights, y, operands.data(), workspace};
    }
};

ConvPlan::ConvPlan(const ConvShape& shape, PostOps post_ops, Isa isa, PanelWidth width, Order order)
    : impl_(std::make_unique<const Impl>(
          Impl{ConvLoop(shape, post_ops, isa, width, order == Order::rows, std::nullopt)})) {}

ConvPlan::~ConvPlan() = default;
ConvPlan::ConvPlan(ConvPlan&&) noexcept = default;
ConvPlan& ConvPlan::operator=(ConvPlan&&) noexcept = default;

const ConvShape& ConvPlan::shape() const {
    return impl_->loop.shape();
}
const PackLayout& ConvPlan::weight_layout() const {
    return impl_->loop.layout();
}
int64_t ConvPlan::packed_weight_size() const {
    return weight_layout().size() * shape().groups;
}

void ConvPlan::pack_weights(const float* oihw, float* packed) const {
    const ConvShape& s = shape();
    const int64_t source = impl_->loop.group_oc() * impl_->loop.group_c() * s.kh * s.kw;
    for (int64_t g = 0; g < s.groups; ++g) {
        pack_conv_panels(oihw + g * source, impl_->loop.group_c(), s.kh * s.kw, weight_layout(), 0,
                         weight_layout().panels(), packed + g * weight_layout().size());
    }
}

void ConvPlan::unpack_weights(const float* packed, float* oihw) const {
    const ConvShape& s = shape();
    const int64_t source = impl_->loop.group_oc() * impl_->loop.group_c() * s.kh * s.kw;
    for (int64_t g = 0; g < s.groups; ++g) {
        unpack_conv_weights(packed + g * weight_layout().size(), impl_->loop.group_c(), s.kh * s.kw, weight_layout(),
                            oihw + g * source);
    }
}

size_t ConvPlan::workspace(int max_threads) const {
    return impl_->loop.workspace(max_threads);
}

void ConvPlan::run(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                   void* workspace, ThreadPool& pool, int max_threads) const {
    impl_->loop.run(Impl::call(x, packed_weights, y, operands, workspace), pool, max_threads);
}

void ConvPlan::run_rows(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                        void* workspace, int64_t begin, int64_t end) const {
    impl_->loop.run_rows(Impl::call(x, packed_weights, y, operands, workspace), begin, end);
}

std::pair<int64_t, int64_t> ConvPlan::input_rows(int64_t begin, int64_t end) const {
    const ConvShape& s = shape();
    const int64_t first = begin * s.stride_h - s.pad_top;
    const int64_t last = (end - 1) * s.stride_h - s.pad_top + (s.kh - 1) * s.dilation_h + 1;
    return {std::clamp<int64_t>(first, 0, s.h), std::clamp<int64_t>(last, 0, s.h)};
}

}  // namespace planish::cpu
