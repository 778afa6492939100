// Strided copies: loops collapsed and ordered at compile time, rows, fills or blocked transposes inside.
#include "backends/cpu/strided_copy.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"

namespace planish::cpu {

std::vector<int64_t> dense_strides(const Dims& dims) {
    std::vector<int64_t> strides(dims.size());
    int64_t stride = 1;
    for (size_t i = dims.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= dims[i];
    }
    return strides;
}

std::vector<int64_t> logical_strides(const Dims& dims, Layout layout) {
    const std::vector<int64_t> physical = dense_strides(physical_dims(dims, layout));
    std::vector<int64_t> strides(dims.size());
    for (size_t i = 0; i < dims.size(); ++i)
        strides[i] = physical[static_cast<size_t>(
            physical_axis(static_cast<int64_t>(i), static_cast<int64_t>(dims.size()), layout))];
    return strides;
}

StridedCopy::StridedCopy(Dims dims, std::vector<int64_t> in_strides, std::vector<int64_t> out_strides,
                         int64_t in_offset, int64_t out_offset, int64_t element_bytes, Isa isa)
    : in_offset_(in_offset * element_bytes),
      out_offset_(out_offset * element_bytes),
      element_(element_bytes),
      isa_(isa) {
    // Loops in the output's order, so that writes are sequential; neighbours that form one longer loop are merged.
    std::vector<size_t> order(dims.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return out_strides[a] > out_strides[b]; });
    for (const size_t i : order) {
        if (dims[i] == 1) continue;
        const int64_t in = in_strides[i] * element_bytes, out = out_strides[i] * element_bytes;
        if (!dims_.empty() && in_strides_.back() == in * dims[i] && out_strides_.back() == out * dims[i]) {
            dims_.back() *= dims[i];
            in_strides_.back() = in;
            out_strides_.back() = out;
        } else {
            dims_.push_back(dims[i]);
            in_strides_.push_back(in);
            out_strides_.push_back(out);
        }
    }
    if (dims_.empty()) {
        dims_ = {1};
        in_strides_ = out_strides_ = {element_};
    }
    const size_t last = dims_.size() - 1;
    inner_rank_ = 1;
    if (out_strides_[last] == element_ && in_strides_[last] == element_) {
        inner_ = Inner::rows;
    } else if (out_strides_[last] == element_ && in_strides_[last] == 0) {
        inner_ = Inner::fill;
    } else if (element_ == 4 && isa_ >= Isa::avx2 && out_strides_[last] == element_ && in_strides_[last] > 0) {
        // The loop along which the input is contiguous joins the innermost one: a blocked transpose.
        for (size_t i = 0; i < last; ++i) {
            if (in_strides_[i] != element_) continue;
            std::rotate(dims_.begin() + static_cast<long>(i), dims_.begin() + static_cast<long>(i) + 1,
                        dims_.end() - 1);
            std::rotate(in_strides_.begin() + static_cast<long>(i), in_strides_.begin() + static_cast<long>(i) + 1,
                        in_strides_.end() - 1);
            std::rotate(out_strides_.begin() + static_cast<long>(i), out_strides_.begin() + static_cast<long>(i) + 1,
                        out_strides_.end() - 1);
            inner_ = Inner::transpose;
            inner_rank_ = 2;
            break;
        }
    }
    for (size_t i = 0; i + inner_rank_ < dims_.size(); ++i) outer_items_ *= dims_[i];
    int64_t inner_elements = 1;
    for (size_t i = dims_.size() - inner_rank_; i < dims_.size(); ++i) inner_elements *= dims_[i];
    item_cost_ = 4 + (inner_ == Inner::elements ? inner_elements : inner_elements * element_ / 16);
}

void StridedCopy::run(const std::byte* in, std::byte* out, const Launch& launch) const {
    if (element_count(dims_) == 0) return;
    in += in_offset_;
    out += out_offset_;
    if (outer_items_ == 1 && inner_ == Inner::transpose && launch.threads > 1) {
        // One large transpose: its input rows are split.
        const size_t last = dims_.size() - 1;
        split_items(launch, dims_[last], dims_[last - 1] / 4 + 1, [&](int64_t begin, int64_t end, int) {
            const TransposeArgs args{reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), dims_[last - 1],
                                     in_strides_[last] / 4, out_strides_[last - 1] / 4};
            kernels(isa_).transpose(args, begin, end);
        });
        return;
    }
    split_items(launch, outer_items_, item_cost_,
                [&](int64_t begin, int64_t end, int) { run_outer(in, out, begin, end); });
}

void StridedCopy::run_outer(const std::byte* in, std::byte* out, int64_t begin, int64_t end) const {
    const size_t outer = dims_.size() - inner_rank_, last = dims_.size() - 1;
    constexpr size_t kMaxRank = 16;
    int64_t index[kMaxRank] = {};
    int64_t rest = begin;
    for (size_t i = outer; i-- > 0;) {
        index[i] = rest % dims_[i];
        rest /= dims_[i];
    }
    for (int64_t item = begin; item < end; ++item) {
        const std::byte* from = in;
        std::byte* to = out;
        for (size_t i = 0; i < outer; ++i) {
            from += index[i] * in_strides_[i];
            to += index[i] * out_strides_[i];
        }
        const int64_t n = dims_[last];
        switch (inner_) {
            case Inner::rows:
                std::memcpy(to, from, static_cast<size_t>(n * element_));
                break;
            case Inner::transpose: {
                const TransposeArgs args{reinterpret_cast<const float*>(from), reinterpret_cast<float*>(to),
                                         dims_[last - 1], in_strides_[last] / 4, out_strides_[last - 1] / 4};
                kernels(isa_).transpose(args, 0, n);
                break;
            }
            case Inner::fill:
            case Inner::elements: {
                const int64_t si = in_strides_[last], so = out_strides_[last];
                switch (element_) {
                    case 1:
                        for (int64_t k = 0; k < n; ++k) to[k * so] = from[k * si];
                        break;
                    case 4:
                        for (int64_t k = 0; k < n; ++k) std::memcpy(to + k * so, from + k * si, 4);
                        break;
                    case 8:
                        for (int64_t k = 0; k < n; ++k) std::memcpy(to + k * so, from + k * si, 8);
                        break;
                    default:
                        for (int64_t k = 0; k < n; ++k)
                            std::memcpy(to + k * so, from + k * si, static_cast<size_t>(element_));
                }
                break;
            }
        }
        for (size_t i = outer; i-- > 0;) {
            if (++index[i] < dims_[i]) break;
            index[i] = 0;
        }
    }
}

}  // namespace planish::cpu
