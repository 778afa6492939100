// Plans are reduced to as few axes as possible; an odometer walks the outer ones.
#include "backends/cpu/kernels/movement.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr size_t kMaxAxes = 16;
constexpr int64_t kRunChunk = 1 << 16;  // bytes of one long contiguous run that one item copies
constexpr int64_t kRowChunk = 64;       // rows of a transpose, positions of an element loop

// Calls body with the element size as a constant where it is a common one.
template <typename Body>
void with_element_size(int64_t size, const Body& body) {
    switch (size) {
        case 1:
            return body(std::integral_constant<int64_t, 1>{});
        case 2:
            return body(std::integral_constant<int64_t, 2>{});
        case 4:
            return body(std::integral_constant<int64_t, 4>{});
        case 8:
            return body(std::integral_constant<int64_t, 8>{});
        case 16:
            return body(std::integral_constant<int64_t, 16>{});
        default:
            return body(size);
    }
}

bool is_word(int64_t bytes) {
    return bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8 || bytes == 16;
}

// A run of unknown length: short ones, which dominate where a tensor has few channels, without the call to memcpy.
void copy_run(std::byte* target, const std::byte* source, int64_t bytes) {
    if (bytes > 64) {
        std::memcpy(target, source, static_cast<size_t>(bytes));
        return;
    }
    while (bytes >= 16) {
        std::memcpy(target, source, 16);
        target += 16, source += 16, bytes -= 16;
    }
    while (bytes >= 4) {
        std::memcpy(target, source, 4);
        target += 4, source += 4, bytes -= 4;
    }
    while (bytes > 0) {
        *target++ = *source++;
        --bytes;
    }
}

}  // namespace

CopyPlan::CopyPlan(std::span<const CopyAxis> given, int64_t element_size) : element_size_(element_size) {
    std::vector<CopyAxis> axes;
    bytes_ = element_size;
    for (const CopyAxis& axis : given) {
        bytes_ *= axis.size;
        if (axis.size != 1) axes.push_back(axis);
    }
    if (bytes_ == 0) return;
    std::stable_sort(axes.begin(), axes.end(),
                     [](const CopyAxis& a, const CopyAxis& b) { return std::abs(a.target) > std::abs(b.target); });
    // An axis that continues the one inside it, in both tensors, is one with it.
    std::vector<CopyAxis> merged;
    for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
        if (!merged.empty() && axis->source == merged.back().source * merged.back().size &&
            axis->target == merged.back().target * merged.back().size)
            merged.back().size *= axis->size;
        else
            merged.push_back(*axis);
    }
    std::reverse(merged.begin(), merged.end());
    outer_ = std::move(merged);
    if (outer_.size() > kMaxAxes)
        fail(ErrorCode::unsupported, "a copy over " + std::to_string(outer_.size()) + " independent axes",
             "at most 16 are supported: merge neighbouring axes of the tensor");

    const auto take = [&](size_t i) {
        const CopyAxis axis = outer_[i];
        outer_.erase(outer_.begin() + static_cast<ptrdiff_t>(i));
        return axis;
    };
    const auto innermost_is_dense = [&] {
        return !outer_.empty() && outer_.back().source == element_size_ && outer_.back().target == element_size_;
    };
    // A short dense run is an element of its own: pairs of floats move as 8 bytes, 4 channels of uint8 transpose as
    // one.
    if (innermost_is_dense() && outer_.size() > 1 && is_word(outer_.back().size * element_size_))
        element_size_ *= take(outer_.size() - 1).size;

    if (outer_.empty()) {
        inner_ = {element_size_, 1, 1};
        chunk_ = kRunChunk;
    } else if (innermost_is_dense()) {
        inner_ = {take(outer_.size() - 1).size * element_size_, 1, 1};
        chunk_ = kRunChunk;
    } else {
        kind_ = Kind::elements;
        inner_ = take(outer_.size() - 1);
        chunk_ = std::max<int64_t>(kRowChunk, 16384 / element_size_);
        const auto columns = std::find_if(outer_.begin(), outer_.end(),
                                          [&](const CopyAxis& axis) { return axis.source == element_size_; });
        const auto whole = [](int64_t stride) { return stride > 0 && stride % 4 == 0; };
        if (element_size_ == 4 && inner_.target == 4 && whole(inner_.source) && columns != outer_.end() &&
            whole(columns->target)) {
            kind_ = Kind::transpose;
            columns_ = take(static_cast<size_t>(columns - outer_.begin()));
            chunk_ = kRowChunk;
        } else if (element_size_ == 1 && inner_.target == 1 && inner_.source > 0 && columns != outer_.end() &&
                   columns->target > 0 && inner_.size > 1 && columns->size > 1) {
            kind_ = Kind::byte_transpose;
            columns_ = take(static_cast<size_t>(columns - outer_.begin()));
            chunk_ = kRowChunk;
        }
    }
    chunks_ = (inner_.size + chunk_ - 1) / chunk_;
    items_ = chunks_;
    for (const CopyAxis& axis : outer_) items_ *= axis.size;
}

void CopyPlan::run(const KernelTable& table, const void* source, void* target, int64_t begin, int64_t end) const {
    if (begin >= end) return;
    std::array<int64_t, kMaxAxes> index{};
    const auto* x = static_cast<const std::byte*>(source);
    auto* y = static_cast<std::byte*>(target);
    int64_t chunk = begin % chunks_, rest = begin / chunks_;
    for (size_t i = outer_.size(); i-- > 0;) {
        index[i] = rest % outer_[i].size;
        rest /= outer_[i].size;
        x += index[i] * outer_[i].source;
        y += index[i] * outer_[i].target;
    }
    for (int64_t item = begin; item < end; ++item) {
        const int64_t first = chunk * chunk_;
        const int64_t count = std::min(chunk_, inner_.size - first);
        const std::byte* from = x + first * inner_.source;
        std::byte* to = y + first * inner_.target;
        switch (kind_) {
            case Kind::run:
                copy_run(to, from, count);
                break;
            case Kind::transpose:
                table.transpose({.input = reinterpret_cast<const float*>(from),
                                 .output = reinterpret_cast<float*>(to),
                                 .columns = columns_.size,
                                 .input_stride = inner_.source / 4,
                                 .output_stride = columns_.target / 4},
                                0, count);
                break;
            case Kind::byte_transpose:
                table.byte_transpose({.input = reinterpret_cast<const uint8_t*>(from),
                                      .output = reinterpret_cast<uint8_t*>(to),
                                      .columns = columns_.size,
                                      .input_stride = inner_.source,
                                      .output_stride = columns_.target},
                                     0, count);
                break;
            case Kind::elements:
                if (inner_.source == 0 && inner_.target == element_size_) {
                    fill(to, from, element_size_, count);
                    break;
                }
                with_element_size(element_size_, [&](auto size) {
                    for (int64_t i = 0; i < count; ++i)
                        std::memcpy(to + i * inner_.target, from + i * inner_.source, static_cast<size_t>(size));
                });
                break;
        }
        if (++chunk < chunks_) continue;
        chunk = 0;
        for (size_t i = outer_.size(); i-- > 0;) {
            x += outer_[i].source;
            y += outer_[i].target;
            if (++index[i] < outer_[i].size) break;
            x -= outer_[i].size * outer_[i].source;
            y -= outer_[i].size * outer_[i].target;
            index[i] = 0;
        }
    }
}

CopyPlan CopyPlan::transpose(std::span<const int64_t> shape, std::span<const int> perm, int64_t element_size) {
    std::vector<int64_t> strides(shape.size());
    int64_t stride = element_size;
    for (size_t i = shape.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= shape[i];
    }
    std::vector<CopyAxis> axes(shape.size());
    stride = element_size;
    for (size_t i = shape.size(); i-- > 0;) {
        const auto from = static_cast<size_t>(perm[i]);
        axes[i] = {shape[from], strides[from], stride};
        stride *= shape[from];
    }
    return CopyPlan(axes, element_size);
}

GridCopyPlan::GridCopyPlan(std::vector<std::vector<int64_t>> tables, int64_t element_size)
    : element_size_(element_size) {
    if (tables.empty() || tables.size() > kMaxAxes)
        fail(ErrorCode::unsupported, "a grid copy over " + std::to_string(tables.size()) + " axes", "use 1 to 16 axes");
    // The last two axes become one while the last only continues the other: entry i is entry 0 + i, without padding.
    const auto is_dense = [](const std::vector<int64_t>& table) {
        for (size_t i = 0; i < table.size(); ++i)
            if (table[i] != static_cast<int64_t>(i)) return false;
        return !table.empty();
    };
    while (tables.size() > 1 && is_dense(tables.back())) {
        const auto width = static_cast<int64_t>(tables.back().size());
        tables.pop_back();
        std::vector<int64_t> joined;
        joined.reserve(tables.back().size() * static_cast<size_t>(width));
        for (int64_t start : tables.back())
            for (int64_t i = 0; i < width; ++i) joined.push_back(start == kPad ? kPad : start + i);
        tables.back() = std::move(joined);
    }
    const std::vector<int64_t>& last = tables.back();
    row_ = static_cast<int64_t>(last.size());
    for (int64_t i = 0; i < row_; ++i) {
        const int64_t from = last[static_cast<size_t>(i)];
        if (!runs_.empty()) {
            Run& run = runs_.back();
            if (from == kPad ? run.source == kPad : run.source != kPad && from == run.source + run.count) {
                ++run.count;
                continue;
            }
        }
        runs_.push_back({i, from, 1});
    }
    tables.pop_back();
    outer_ = std::move(tables);
    items_ = row_ > 0 ? 1 : 0;
    for (const auto& table : outer_) items_ *= static_cast<int64_t>(table.size());
}

void GridCopyPlan::run(const void* source, const void* pad, void* target, int64_t begin, int64_t end) const {
    const auto* x = static_cast<const std::byte*>(source);
    for (int64_t item = begin; item < end; ++item) {
        auto* y = static_cast<std::byte*>(target) + item * row_ * element_size_;
        int64_t rest = item, offset = 0;
        bool padded = false;
        for (size_t i = outer_.size(); i-- > 0;) {
            const auto size = static_cast<int64_t>(outer_[i].size());
            const int64_t entry = outer_[i][static_cast<size_t>(rest % size)];
            rest /= size;
            padded |= entry == kPad;
            if (!padded) offset += entry;
        }
        if (padded) {
            fill(y, pad, element_size_, row_);
            continue;
        }
        for (const Run& run : runs_) {
            if (run.source == kPad)
                fill(y + run.target * element_size_, pad, element_size_, run.count);
            else
                copy_run(y + run.target * element_size_, x + (offset + run.source) * element_size_,
                         run.count * element_size_);
        }
    }
}

int64_t gather(const GatherArgs& args, int64_t begin, int64_t end) {
    const auto* data = static_cast<const std::byte*>(args.data);
    auto* output = static_cast<std::byte*>(args.output);
    int64_t wrong = -1;
    with_element_size(args.row_bytes, [&](auto row_bytes) {
        for (int64_t item = begin; item < end; ++item) {
            const int64_t outer = item / args.count, j = item % args.count;
            int64_t index = args.narrow_indices ? static_cast<const int32_t*>(args.indices)[j]
                                                : static_cast<const int64_t*>(args.indices)[j];
            if (index < 0) index += args.axis;
            if (index < 0 || index >= args.axis) {
                if (wrong < 0 || j < wrong) wrong = j;
                continue;
            }
            std::memcpy(output + item * row_bytes, data + (outer * args.axis + index) * row_bytes,
                        static_cast<size_t>(row_bytes));
        }
    });
    return wrong;
}

void fill(void* target, const void* element, int64_t element_size, int64_t count) {
    auto* y = static_cast<std::byte*>(target);
    const auto* x = static_cast<const std::byte*>(element);
    const bool uniform = std::all_of(x, x + element_size, [&](std::byte b) { return b == x[0]; });
    if (uniform) {
        std::memset(y, static_cast<int>(x[0]), static_cast<size_t>(element_size * count));
        return;
    }
    with_element_size(element_size, [&](auto size) {
        for (int64_t i = 0; i < count; ++i) std::memcpy(y + i * size, x, static_cast<size_t>(size));
    });
}

}  // namespace planish::cpu
