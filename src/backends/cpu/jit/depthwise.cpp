// Depthwise convolution: the plane of output pixels cut into tiles, and the threads over its rows.
#include "backends/cpu/jit/depthwise.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backends/cpu/jit/depthwise_code.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr int64_t kBlock = 16;
constexpr int64_t kCallOperations = 100'000;  // multiply-adds below which another thread does not pay

// The part [first, last) of [0, extent) that lies inside an image of `size`, when 0 falls on `origin`.
std::pair<int, int> inside(int64_t origin, int64_t extent, int64_t size) {
    const int64_t first = std::clamp<int64_t>(-origin, 0, extent);
    const int64_t last = std::clamp<int64_t>(size - origin, first, extent);
    return {static_cast<int>(first), static_cast<int>(last)};
}

}  // namespace

int64_t choose_columns(int64_t width, int64_t most) {
    if (width <= most) return width;
    for (int64_t columns = most; columns > most / 2; --columns)
        if (width % columns == 0) return columns;
    const int64_t tiles = (width + most - 1) / most;
    return (width + tiles - 1) / tiles;
}

PackLayout depthwise_weight_layout(const DepthwiseShape& s) {
    return {s.kernel_h * s.kernel_w, s.channels, kBlock, kBlock};
}

size_t depthwise_packed_size(const DepthwiseShape& s) {
    return static_cast<size_t>(depthwise_weight_layout(s).size());
}

void pack_depthwise_weights(const DepthwiseShape& s, const float* weights, float* packed) {
    const PackLayout layout = depthwise_weight_layout(s);
    pack_b(weights, layout.k, true, layout, packed);
}

struct DepthwisePlan::Impl {
    // Equal tiles side by side.
    struct Segment {
        int64_t column, tiles;
        size_t tile;
    };

    Impl(const DepthwiseShape& shape, PostOps ops, Isa target);

    DepthwiseShape s;
    PostOps post_ops;
    Isa isa;
    std::unique_ptr<DepthwiseCode> code;
    std::vector<Segment> one_row;
    std::map<std::pair<int, int>, std::vector<Segment>> two_rows;  // by which input rows exist
    std::vector<const std::vector<Segment>*> pairs;                // for output rows oy and oy + 1, or empty

    std::vector<Segment> segments(int rows, std::pair<int, int> input_rows);
    void run_tiles(const std::vector<Segment>& segments, const float* x, const float* w, float* y,
                   std::span<const float* const> operands, int64_t image, int64_t row, int64_t first_tap_row,
                   int64_t tap_rows) const;
};

std::vector<DepthwisePlan::Impl::Segment> DepthwisePlan::Impl::segments(int rows, std::pair<int, int> input_rows) {
    const int64_t width = s.out_width();
    const int64_t step = choose_columns(width, DepthwiseCode::max_columns(s, isa, rows));
    std::vector<Segment> result;
    for (int64_t column = 0; column < width; column += step) {
        const int64_t columns = std::min(step, width - column);
        const auto [first, last] = inside(column * s.stride_w - s.pad_left,
                                          (columns - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1, s.width);
        const DepthwiseTile tile{rows, static_cast<int>(columns), first, last, input_rows.first, input_rows.second};
        const size_t number = code->add_tile(tile);
        if (!result.empty() && result.back().tile == number)
            ++result.back().tiles;
        else
            result.push_back({column, 1, number});
    }
    return result;
}

DepthwisePlan::Impl::Impl(const DepthwiseShape& shape, PostOps ops, Isa target)
    : s(shape), post_ops(std::move(ops)), isa(target) {
    if (s.batch <= 0 || s.channels <= 0 || s.out_height() <= 0 || s.out_width() <= 0) return;
    code = std::make_unique<DepthwiseCode>(s, post_ops, isa);
    one_row = segments(1, {0, 0});
    if (DepthwiseCode::two_rows(s, isa)) {
        const int64_t extent = s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
        for (int64_t row = 0; row + 1 < s.out_height(); ++row) {
            const auto rows = inside(row * s.stride_h - s.pad_top, extent, s.height);
            auto [it, added] = two_rows.try_emplace(rows);
            if (added) it->second = segments(2, rows);
            pairs.push_back(&it->second);
        }
    }
    code->finish();
}

// Networks repeat their blocks, and most of what a small one needs to load is the code of these tiles: plans of the
// same computation share it as long as one of them lives.
DepthwisePlan::DepthwisePlan(const DepthwiseShape& shape, PostOps post_ops, Isa isa) {
    if (isa < Isa::avx2) fail(ErrorCode::unsupported, "depthwise convolution: generated kernels need AVX2");
    static std::mutex mutex;
    static auto& alive = *new std::vector<std::weak_ptr<const Impl>>;  // plans may be made while the process exits
    const std::lock_guard lock(mutex);
    std::erase_if(alive, [](const auto& impl) { return impl.expired(); });
    for (const auto& known : alive) {
        const std::shared_ptr<const Impl> impl = known.lock();
        if (impl == nullptr || impl->isa != isa || impl->s != shape || !same_code(impl->post_ops, post_ops)) continue;
        impl_ = impl;
        return;
    }
    impl_ = std::make_shared<const Impl>(shape, std::move(post_ops), isa);
    alive.push_back(impl_);
}

DepthwisePlan::~DepthwisePlan() = default;
DepthwisePlan::DepthwisePlan(DepthwisePlan&&) noexcept = default;
DepthwisePlan& DepthwisePlan::operator=(DepthwisePlan&&) noexcept = default;

const DepthwiseShape& DepthwisePlan::shape() const {
    return impl_->s;
}

void DepthwisePlan::Impl::run_tiles(const std::vector<Segment>& segments, const float* x, const float* w, float* y,
                                    std::span<const float* const> operands, int64_t image, int64_t row,
                                    int64_t first_tap_row, int64_t tap_rows) const {
    const int64_t input_row = image * s.height + row * s.stride_h - s.pad_top + first_tap_row * s.dilation_h;
    std::array<const float*, DepthwiseCode::kMaxOperands> at;
    for (const Segment& segment : segments) {
        const int64_t out = ((image * s.out_height() + row) * s.out_width() + segment.column) * s.channels;
        size_t used = 0;
        for (const PostOp& op : post_ops) {
            if (has_channel_operand(op.kind)) at[used++] = operands[static_cast<size_t>(op.operand)];
            if (has_tensor_operand(op.kind)) at[used++] = operands[static_cast<size_t>(op.operand)] + out;
        }
        const int64_t in = (input_row * s.width + segment.column * s.stride_w - s.pad_left) * s.channels;
        (*code)(segment.tile,
                {x + in, w + first_tap_row * s.kernel_w * kBlock, y + out, segment.tiles, tap_rows, at.data()});
    }
}

void DepthwisePlan::run_rows(const float* x, const float* packed_w, float* y, std::span<const float* const> operands,
                             int64_t row_begin, int64_t row_end) const {
    const Impl& impl = *impl_;
    const DepthwiseShape& s = impl.s;
    const int64_t height = s.out_height();
    for (int64_t r = row_begin; r < row_end;) {
        const int64_t image = r / height, row = r % height;
        if (!impl.pairs.empty() && row + 1 < height && r + 1 < row_end) {
            impl.run_tiles(*impl.pairs[static_cast<size_t>(row)], x, packed_w, y, operands, image, row, 0, 0);
            r += 2;
            continue;
        }
        const int64_t origin = row * s.stride_h - s.pad_top;
        const auto ceil_div = [&](int64_t n) { return n <= 0 ? 0 : (n + s.dilation_h - 1) / s.dilation_h; };
        const int64_t first = std::min(s.kernel_h, ceil_div(-origin));
        const int64_t last = std::clamp(ceil_div(s.height - origin), first, s.kernel_h);
        impl.run_tiles(impl.one_row, x, packed_w, y, operands, image, row, first, last - first);
        ++r;
    }
}

std::pair<int64_t, int64_t> DepthwisePlan::input_rows(int64_t row_begin, int64_t row_end) const {
    const DepthwiseShape& s = impl_->s;
    const int64_t first = row_begin * s.stride_h - s.pad_top;
    const int64_t last = (row_end - 1) * s.stride_h - s.pad_top + (s.kernel_h - 1) * s.dilation_h + 1;
    return {std::clamp<int64_t>(first, 0, s.height), std::clamp<int64_t>(last, 0, s.height)};
}

void DepthwisePlan::run(const float* x, const float* packed_w, float* y, std::span<const float* const> operands,
                        ThreadPool& pool, int max_threads) const {
    const DepthwiseShape& s = impl_->s;
    if (impl_->one_row.empty()) return;
    const int64_t rows = s.batch * s.out_height();
    const int64_t row_operations = s.out_width() * s.channels * s.kernel_h * s.kernel_w;
    // An even number of rows to a call, so that they pair up.
    const int64_t grain = std::max<int64_t>(2, (kCallOperations / std::max<int64_t>(row_operations, 1) + 1) / 2 * 2);
    pool.parallel_ranges(rows, grain, max_threads,
                         [&](int64_t begin, int64_t end, int) { run_rows(x, packed_w, y, operands, begin, end); });
}

}  // namespace planish::cpu
