#include "backends/cpu/jit/i8_product.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace planish::cpu {

ByteEpilogue::ByteEpilogue(PostOps post_ops, const std::optional<ByteFormat>& result) : post_ops_(std::move(post_ops)) {
    if (!result) return;
    result_.bytes = true;
    absorb_clips(*result);
    const bool sums_of_bytes = std::all_of(post_ops_.begin(), post_ops_.end(), [](const PostOp& op) {
        return op.kind == PostOp::Kind::add_tensor && op.bytes;
    });
    if (!sums_of_bytes) {
        post_ops_.push_back({PostOp::Kind::scale_shift, 1 / result->scale, static_cast<float>(result->zero)});
        return;
    }
    factor_ = 1 / double{result->scale};
    shift_ = result->zero;
    for (PostOp& op : post_ops_) {
        shift_ += op.beta * factor_;
        op.alpha = static_cast<float>(op.alpha * factor_);
        op.beta = 0;
    }
}

// Rounding and y -> y/s + z are monotone, so they may be done before a clip whose bounds are mapped likewise.
void ByteEpilogue::absorb_clips(const ByteFormat& format) {
    const auto map = [&](float bound) {
        const double q = double{bound} / format.scale + format.zero;
        return static_cast<float>(std::clamp<double>(q, result_.low, result_.high));
    };
    while (!post_ops_.empty()) {
        const PostOp& op = post_ops_.back();
        if (op.kind == PostOp::Kind::relu) {
            result_.low = map(0);
        } else if (op.kind == PostOp::Kind::clip && op.alpha <= op.beta) {
            const ByteResult narrowed{true, map(op.alpha), map(op.beta)};
            result_ = narrowed;
        } else {
            return;
        }
        post_ops_.pop_back();
    }
}

ColumnTerms ByteEpilogue::terms(std::span<const int32_t> sums, const ByteFormat& a, std::span<const float> scales,
                                std::span<const float> bias) const {
    constexpr size_t kVector = 16;
    const size_t n = sums.size();
    ColumnTerms t{std::vector<int32_t>(n + kVector), std::vector<float>(n + kVector), std::vector<float>(n + kVector),
                  a.zero};
    for (size_t j = 0; j < n; ++j) {
        const double scale = scales[scales.size() == 1 ? 0 : j];
        const double shift = bias.empty() ? 0 : bias[bias.size() == 1 ? 0 : j];
        t.start[j] = -a.zero * sums[j];
        t.scale[j] = static_cast<float>(scale * a.scale * factor_);
        t.bias[j] = static_cast<float>(shift * factor_ + shift_);
    }
    return t;
}

Columns::Columns(const ColumnTerms& unit, const ByteFormat& a, std::byte* memory) : Columns(unit) {
    const size_t n = unit.start.size();
    auto* starts = reinterpret_cast<int32_t*>(memory);
    auto* scales = reinterpret_cast<float*>(starts + n);
    for (size_t j = 0; j < n; ++j) starts[j] = a.zero * unit.start[j];
    for (size_t j = 0; j < n; ++j) scales[j] = a.scale * unit.scale[j];
    start = starts;
    scale = scales;
    zero = a.zero;
}

std::vector<int64_t> packed_rows(int64_t segments, int64_t bytes) {
    const ByteSteps steps = ByteSteps::of(bytes);
    std::vector<int64_t> rows;
    for (int64_t s = 0; s < segments; ++s) {
        for (int64_t step = 0; step < steps.count(bytes); ++step) {
            const int64_t first = step * steps.load, place = std::min(first, bytes - steps.load);
            for (int64_t d = 0; d < 4; ++d)
                rows.push_back(d < steps.load && place + d >= first ? s * bytes + place + d : -1);
        }
    }
    return rows;
}

void pack_i8(const int8_t* b, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
             int8_t* packed) {
    pack_i8_panels(b, offsets, column_stride, layout, 0, layout.panels(), packed);
}

void unpack_i8(const int8_t* packed, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
               int8_t* b) {
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
        const int64_t width = layout.width(panel), columns = std::min<int64_t>(layout.nr, layout.n - panel * layout.nr);
        const int8_t* from = packed + layout.panel_offset(panel) * 4;
        int8_t* to = b + panel * layout.nr * column_stride;
        for (int64_t row = 0; row < 4 * layout.k; ++row) {
            const int64_t at = offsets[static_cast<size_t>(row)];
            if (at < 0) continue;
            for (int64_t j = 0; j < columns; ++j)
                to[at + j * column_stride] = from[row / 4 * 4 * width + 4 * j + row % 4];
        }
    }
}

void pack_i8_panels(const int8_t* b, std::span<const int64_t> offsets, int64_t column_stride, const PackLayout& layout,
                    int64_t first, int64_t last, int8_t* packed) {
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t width = layout.width(panel), columns = std::min<int64_t>(layout.nr, layout.n - panel * layout.nr);
        const int8_t* from = b + panel * layout.nr * column_stride;
        int8_t* to = packed + layout.panel_offset(panel) * 4;
        for (int64_t step = 0; step < layout.k; ++step, to += 4 * width) {
            const int64_t* at = offsets.data() + 4 * step;
            if (at[0] >= 0 && at[1] == at[0] + 1 && at[2] == at[0] + 2 && at[3] == at[0] + 3) {
                for (int64_t j = 0; j < columns; ++j) std::memcpy(to + 4 * j, from + at[0] + j * column_stride, 4);
            } else {
                for (int64_t d = 0; d < 4; ++d)
                    for (int64_t j = 0; j < columns; ++j)
                        to[4 * j + d] = at[d] < 0 ? int8_t{0} : from[at[d] + j * column_stride];
            }
            std::memset(to + 4 * columns, 0, static_cast<size_t>(4 * (width - columns)));
        }
    }
}

std::vector<int32_t> column_sums(const int8_t* packed, const PackLayout& layout) {
    std::vector<int32_t> sums(static_cast<size_t>(layout.n));
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
        const int64_t width = layout.width(panel), first = panel * layout.nr;
        const int64_t columns = std::min<int64_t>(layout.nr, layout.n - first);
        const int8_t* at = packed + layout.panel_offset(panel) * 4;
        for (int64_t step = 0; step < layout.k; ++step, at += 4 * width)
            for (int64_t j = 0; j < columns; ++j)
                sums[static_cast<size_t>(first + j)] += at[4 * j] + at[4 * j + 1] + at[4 * j + 2] + at[4 * j + 3];
    }
    return sums;
}

}  // namespace planish::cpu
