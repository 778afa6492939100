// 8-bit depthwise convolution: blocks of channels, rows that are interleaved together, and the threads over both.
#include "backends/cpu/jit/depthwise_i8.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "backends/cpu/jit/depthwise_i8_code.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {

namespace {

constexpr int64_t kLeastWidth = 16;              // of a block of channels
constexpr int64_t kMostOutputRows = 4;           // that share interleaved input
constexpr int64_t kInterleavedBytes = 16 << 10;  // that stay in L1 beside the filter and the rows that are read
constexpr int64_t kTaskOperations = 800'000;     // multiply-adds below which another thread does not pay

struct Block {
    int64_t channel;  // first
    int width;        // vector of bytes
    size_t offset;    // in the packed filter
};

// Whole vectors of the widest kind, then one or two that end at the last channel, where the last may cover channels
// that the one before it has computed.
std::vector<std::pair<int64_t, int>> cut_channels(int64_t channels, int widest) {
    std::vector<std::pair<int64_t, int>> blocks;
    for (int64_t at = 0; at < channels;) {
        int64_t width = widest;
        while (width > kLeastWidth && (width > channels || width / 2 >= channels - at)) width /= 2;
        blocks.emplace_back(std::max<int64_t>(0, std::min(at, channels - width)), static_cast<int>(width));
        at += width;
    }
    return blocks;
}

}  // namespace

struct DepthwiseI8Plan::Impl {
    struct Entries {
        size_t full_group, last_group, tile, last_tile, row;
    };

    Impl(const DepthwiseShape& shape, PostOps ops, const DepthwiseI8Options& given, Isa target);

    DepthwiseShape s;
    PostOps post_ops;
    DepthwiseI8Options options;
    Isa isa;
    std::unique_ptr<DepthwiseI8Code> code;
    std::vector<Block> blocks;
    std::map<int, Entries> entries;  // by width
    std::vector<uint8_t> padding;    // a row of x that holds nothing but zeros
    size_t packed_size = 0;
    int64_t group_rows = 4, groups = 1;
    int64_t output_rows = 1;    // that share interleaved input
    int64_t input_rows = 0;     // that they read, as the code counts them
    int64_t columns = 1;        // of a tile
    int64_t chunk = 1;          // columns whose input is interleaved at once
    bool in_registers = false;  // rows go through DepthwiseI8Code::row
    int64_t channel_operands = 0;
    size_t thread_bytes = 0, interleaved_bytes = 0;

    size_t filter_bytes(int width) const {
        return static_cast<size_t>(groups * DepthwiseI8Code::kVectors * s.kernel_w * width);
    }
    size_t constant_bytes(int width) const {
        return static_cast<size_t>((DepthwiseI8Code::first_operand + channel_operands) * DepthwiseI8Code::kVectors *
                                   width);
    }
    int64_t input_columns(int64_t outputs) const {
        return (outputs - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
    }
    int64_t column_bytes(int width) const { return groups * DepthwiseI8Code::kVectors * width; }
    int64_t row_tiles() const { return (s.out_height() + output_rows - 1) / output_rows; }
    int64_t element() const { return options.output ? 1 : static_cast<int64_t>(sizeof(float)); }

    void interleave(const uint8_t* x, int64_t image, int64_t row, int64_t column, int64_t columns_wanted,
                    const Block& block, std::byte* to) const;
    void interleave_few(const uint8_t* const* rows, int64_t count, int64_t pixels, std::byte* to) const;
    // A row of x, or of zeros outside the image.
    const uint8_t* input_row(const uint8_t* x, int64_t image, int64_t row) const {
        return row >= 0 && row < s.height ? x + (image * s.height + row) * s.width * s.channels : padding.data();
    }
    std::array<const std::byte*, DepthwiseI8Code::kMaxOperands> tensors_at(std::span<const float* const> operands,
                                                                           int64_t element) const;
    void run_row(const uint8_t* x, const std::byte* packed, std::byte* y, std::span<const float* const> operands,
                 int64_t image, int64_t row, const Block& block) const;
    void run_rows(const uint8_t* x, const std::byte* packed, std::byte* y, std::span<const float* const> operands,
                  int64_t image, int64_t row_tile, const Block& block, std::byte* scratch) const;
};

DepthwiseI8Plan::Impl::Impl(const DepthwiseShape& shape, PostOps ops, const DepthwiseI8Options& given, Isa target)
    : s(shape), post_ops(std::move(ops)), options(given), isa(target) {
    if (s.batch <= 0 || s.channels <= 0 || s.out_height() <= 0 || s.out_width() <= 0) return;
    for (const PostOp& op : post_ops) {
        channel_operands += has_channel_operand(op.kind) ? 1 : 0;
        if (has_tensor_operand(op.kind) && s.channels < kLeastWidth)
            fail(ErrorCode::unsupported, "8-bit depthwise convolution: tensors fused for fewer than 16 channels");
    }
    if (s.kernel_h * s.kernel_w > std::numeric_limits<int32_t>::max() / (2 * 255 * 128))
        fail(ErrorCode::unsupported, "8-bit depthwise convolution: sums of so many taps may exceed 32 bits");
    code = std::make_unique<DepthwiseI8Code>(s, post_ops, options, isa);
    group_rows = DepthwiseI8Code::group_rows(isa);
    groups = code->groups();
    const int widest = DepthwiseI8Code::widest(isa);
    if (std::max({static_cast<int64_t>(filter_bytes(widest)), input_columns(8) * column_bytes(widest),
                  s.width * s.channels, 8 * 4 * s.channels}) > std::numeric_limits<int32_t>::max())
        fail(ErrorCode::unsupported, "8-bit depthwise convolution: the filter of a block of channels exceeds 2 GiB");

    // Further output rows come with the groups that the first one needs anyway.
    in_registers = s.channels >= kLeastWidth && DepthwiseI8Code::rows_in_registers(s, isa);
    if (s.dilation_h == 1 && !in_registers)
        output_rows = std::clamp<int64_t>((groups * group_rows - s.kernel_h) / s.stride_h + 1, 1,
                                          std::min(kMostOutputRows, s.out_height()));
    input_rows = (output_rows - 1) * s.stride_h + s.kernel_h;
    columns = choose_columns(s.out_width(), DepthwiseI8Code::max_columns(s, isa));
    chunk = columns;
    while (chunk < s.out_width() && input_columns(chunk + columns) * column_bytes(widest) <= kInterleavedBytes)
        chunk += columns;
    chunk = std::min(chunk, s.out_width());

    for (const auto& [channel, width] : cut_channels(s.channels, widest)) {
        blocks.push_back({channel, width, packed_size});
        packed_size += constant_bytes(width) + static_cast<size_t>(output_rows) * filter_bytes(width);
        packed_size = (packed_size + 63) / 64 * 64;
        if (entries.contains(width)) continue;
        Entries e{};
        if (in_registers) {
            e.row = code->add_row(width);
            entries.emplace(width, e);
            continue;
        }
        const int last_rows = static_cast<int>(input_rows - (groups - 1) * group_rows);
        e.full_group = code->add_interleave(width, static_cast<int>(group_rows));
        e.last_group = code->add_interleave(width, last_rows);
        e.tile = code->add_tile(width, static_cast<int>(columns));
        e.last_tile =
            s.out_width() % columns == 0 ? e.tile : code->add_tile(width, static_cast<int>(s.out_width() % columns));
        entries.emplace(width, e);
    }
    code->finish();
    padding.assign(static_cast<size_t>(s.width * std::max(s.channels, kLeastWidth)),
                   static_cast<uint8_t>(options.x_zero));
    if (!in_registers)
        interleaved_bytes = static_cast<size_t>((input_columns(chunk) * column_bytes(widest) + 63) / 64 * 64);
    thread_bytes = interleaved_bytes;
    if (s.channels < kLeastWidth) thread_bytes += static_cast<size_t>((chunk * kLeastWidth * element() + 63) / 64 * 64);
}

DepthwiseI8Plan::DepthwiseI8Plan(const DepthwiseShape& shape, PostOps post_ops, const DepthwiseI8Options& options,
                                 Isa isa) {
    if (isa < Isa::avx2) fail(ErrorCode::unsupported, "8-bit depthwise convolution: generated kernels need AVX2");
    impl_ = std::make_unique<const Impl>(shape, std::move(post_ops), options, isa);
}

DepthwiseI8Plan::~DepthwiseI8Plan() = default;
DepthwiseI8Plan::DepthwiseI8Plan(DepthwiseI8Plan&&) noexcept = default;
DepthwiseI8Plan& DepthwiseI8Plan::operator=(DepthwiseI8Plan&&) noexcept = default;

const DepthwiseShape& DepthwiseI8Plan::shape() const {
    return impl_->s;
}
size_t DepthwiseI8Plan::packed_size() const {
    return impl_->packed_size;
}
std::string DepthwiseI8Plan::packed_form() const {
    const Impl& impl = *impl_;
    const bool folds = impl.code != nullptr && impl.code->folds_output_scale();
    std::string form = fmt::format(
        "depthwise_i8 {}x{} stride={} zero={} unit={} operands={} rows={} of {}x{} blocks=", impl.s.kernel_h,
        impl.s.kernel_w, impl.s.stride_h, impl.options.x_zero, folds ? impl.options.output->scale : 1.0f,
        impl.channel_operands, impl.output_rows, impl.groups, impl.group_rows);
    for (const Block& block : impl.blocks) form += fmt::format("{}+{},", block.channel, block.width);
    return form;
}
size_t DepthwiseI8Plan::workspace(int threads) const {
    return impl_->thread_bytes * static_cast<size_t>(threads);
}

void DepthwiseI8Plan::pack(const int8_t* weights, const DepthwiseI8Channels& channels, std::byte* packed) const {
    const Impl& impl = *impl_;
    const DepthwiseShape& s = impl.s;
    const int64_t taps = s.kernel_h * s.kernel_w;
    // Where what follows the sum works on bytes, the division by the output's scale belongs to the sum.
    const double unit = impl.code != nullptr && impl.code->folds_output_scale() ? impl.options.output->scale : 1;
    for (const Block& block : impl.blocks) {
        const int64_t lanes = block.width / 4;
        std::byte* to = packed + block.offset;
        std::memset(
            to, 0,
            impl.constant_bytes(block.width) + static_cast<size_t>(impl.output_rows) * impl.filter_bytes(block.width));
        const auto put = [&](int64_t vector, int64_t lane, auto value) {
            std::memcpy(to + (vector * lanes + lane) * 4, &value, 4);
        };
        for (int64_t vector = 0; vector < DepthwiseI8Code::kVectors; ++vector)
            for (int64_t lane = 0; lane < lanes; ++lane) {
                const int64_t c = block.channel + lane / 4 * 16 + vector * 4 + lane % 4;
                if (c >= s.channels) continue;
                int32_t sum = 0;
                for (int64_t tap = 0; tap < taps; ++tap) sum += weights[c * taps + tap];
                const auto constant = [&](int64_t kind, auto value) {
                    put(kind * DepthwiseI8Code::kVectors + vector, lane, value);
                };
                constant(DepthwiseI8Code::correction, -impl.options.x_zero * sum);
                constant(DepthwiseI8Code::scale, static_cast<float>(channels.scales[c] / unit));
                constant(DepthwiseI8Code::bias,
                         channels.bias != nullptr ? static_cast<float>(channels.bias[c] / unit) : 0.0f);
                int64_t operand = DepthwiseI8Code::first_operand;
                for (const PostOp& op : impl.post_ops)
                    if (has_channel_operand(op.kind))
                        constant(operand++, channels.operands[static_cast<size_t>(op.operand)][c]);
                // [output row][group][vector][filter column][lane][row of the group]
                for (int64_t row = 0; row < impl.output_rows; ++row)
                    for (int64_t tap = 0; tap < taps; ++tap) {
                        const int64_t input_row = row * s.stride_h + tap / s.kernel_w;
                        const int64_t group = input_row / impl.group_rows, place = input_row % impl.group_rows;
                        std::byte* dword =
                            to + impl.constant_bytes(block.width) +
                            static_cast<size_t>(row) * impl.filter_bytes(block.width) +
                            (((group * DepthwiseI8Code::kVectors + vector) * s.kernel_w + tap % s.kernel_w) * lanes +
                             lane) *
                                4;
                        const int8_t w = weights[c * taps + tap];
                        if (impl.group_rows == 4) {
                            std::memcpy(dword + place, &w, 1);
                        } else {
                            const int16_t wide = w;
                            std::memcpy(dword + 2 * place, &wide, 2);
                        }
                    }
            }
    }
}

// Fewer channels than a block has.
void DepthwiseI8Plan::Impl::interleave_few(const uint8_t* const* rows, int64_t count, int64_t pixels,
                                           std::byte* to) const {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, to += column_bytes(kLeastWidth)) {
        std::memset(to, 0, DepthwiseI8Code::kVectors * kLeastWidth);
        for (int64_t row = 0; row < count; ++row)
            for (int64_t c = 0; c < s.channels; ++c)
                to[4 * c + row * (4 / group_rows)] = static_cast<std::byte>(rows[row][pixel * s.channels + c]);
    }
}

// Pixels [column, column + columns_wanted) of the rows that the output rows from `row` on read; both count from where
// the first tap falls.
void DepthwiseI8Plan::Impl::interleave(const uint8_t* x, int64_t image, int64_t row, int64_t column,
                                       int64_t columns_wanted, const Block& block, std::byte* to) const {
    const int64_t left = std::clamp<int64_t>(-column, 0, columns_wanted);
    const int64_t last = std::clamp<int64_t>(s.width - column, left, columns_wanted);
    const int64_t step = column_bytes(block.width);
    const auto pad = [&](int64_t first, int64_t end) {
        if (group_rows == 4) {
            if (first < end) std::memset(to + first * step, options.x_zero, static_cast<size_t>((end - first) * step));
        } else {
            auto* words = reinterpret_cast<uint16_t*>(to);
            std::fill(words + first * step / 2, words + end * step / 2, static_cast<uint16_t>(options.x_zero));
        }
    };
    pad(0, left);
    pad(last, columns_wanted);
    if (left == last) return;
    const Entries& e = entries.find(block.width)->second;
    for (int64_t group = 0; group < groups; ++group) {
        const bool is_last = group + 1 == groups;
        const int64_t count = is_last ? input_rows - group * group_rows : group_rows;
        DepthwiseI8Code::InterleaveArgs args{};
        for (int64_t i = 0; i < count; ++i) {
            const int64_t tap_row = group * group_rows + i;
            args.rows[i] =
                input_row(x, image, row + tap_row * s.dilation_h) + (column + left) * s.channels + block.channel;
        }
        args.columns = last - left;
        args.to = to + left * step + group * DepthwiseI8Code::kVectors * block.width;
        if (s.channels < kLeastWidth)
            interleave_few(args.rows, count, args.columns, args.to);
        else
            code->interleave(is_last ? e.last_group : e.full_group, args);
    }
}

std::array<const std::byte*, DepthwiseI8Code::kMaxOperands> DepthwiseI8Plan::Impl::tensors_at(
    std::span<const float* const> operands, int64_t element) const {
    std::array<const std::byte*, DepthwiseI8Code::kMaxOperands> at{};
    size_t used = 0;
    for (const PostOp& op : post_ops)
        if (has_tensor_operand(op.kind))
            at[used++] = reinterpret_cast<const std::byte*>(operands[static_cast<size_t>(op.operand)]) +
                         (op.bytes ? 1 : 4) * element;
    return at;
}

void DepthwiseI8Plan::Impl::run_row(const uint8_t* x, const std::byte* packed, std::byte* y,
                                    std::span<const float* const> operands, int64_t image, int64_t row,
                                    const Block& block) const {
    const int64_t out = (image * s.out_height() + row) * s.out_width() * s.channels + block.channel;
    const auto at = tensors_at(operands, out);
    DepthwiseI8Code::RowArgs args{};
    for (int64_t i = 0; i < s.kernel_h; ++i)
        args.rows[i] = input_row(x, image, row * s.stride_h - s.pad_top + i * s.dilation_h) + block.channel;
    args.filter = packed + block.offset + constant_bytes(block.width);
    args.channel = packed + block.offset;
    args.y = y + out * element();
    args.first = -s.pad_left * s.channels;
    args.outputs = s.out_width();
    args.operands = at.data();
    code->row(entries.find(block.width)->second.row, args);
}

void DepthwiseI8Plan::Impl::run_rows(const uint8_t* x, const std::byte* packed, std::byte* y,
                                     std::span<const float* const> operands, int64_t image, int64_t row_tile,
                                     const Block& block, std::byte* scratch) const {
    const Entries& e = entries.find(block.width)->second;
    const int64_t row = row_tile * output_rows, rows = std::min(output_rows, s.out_height() - row);
    const bool few = s.channels < kLeastWidth;
    std::byte* few_outputs = scratch + interleaved_bytes;
    for (int64_t column = 0; column < s.out_width(); column += chunk) {
        const int64_t outputs = std::min(chunk, s.out_width() - column);
        interleave(x, image, row * s.stride_h - s.pad_top, column * s.stride_w - s.pad_left, input_columns(outputs),
                   block, scratch);
        for (int64_t r = 0; r < rows; ++r) {
            const std::byte* filter = packed + block.offset + constant_bytes(block.width) +
                                      static_cast<size_t>(r) * filter_bytes(block.width);
            const int64_t tiles = outputs / columns;
            const int64_t out = ((image * s.out_height() + row + r) * s.out_width() + column) * s.channels;
            const auto tile = [&](size_t entry, int64_t first, int64_t count) {
                const int64_t element_at = out + first * s.channels + block.channel;
                const auto at = tensors_at(operands, element_at);
                code->tile(entry,
                           {scratch + first * s.stride_w * column_bytes(block.width), filter, packed + block.offset,
                            few ? few_outputs + first * kLeastWidth * element() : y + element_at * element(), count,
                            at.data()});
            };
            if (tiles > 0) tile(e.tile, 0, tiles);
            if (tiles * columns < outputs) tile(e.last_tile, tiles * columns, 1);
            for (int64_t i = 0; few && i < outputs; ++i)
                std::memcpy(y + (out + i * s.channels) * element(), few_outputs + i * kLeastWidth * element(),
                            static_cast<size_t>(s.channels * element()));
        }
    }
}

void DepthwiseI8Plan::run(const uint8_t* x, const std::byte* packed, void* y, std::span<const float* const> operands,
                          std::byte* workspace, ThreadPool& pool, int max_threads) const {
    const Impl& impl = *impl_;
    if (impl.blocks.empty()) return;
    // The last block goes with the one before it, some of whose results it may write again. Neighbouring rows of a
    // block share input, which then is still in L1.
    const auto blocks = static_cast<int64_t>(impl.blocks.size()), pieces = std::max<int64_t>(1, blocks - 1);
    const int64_t tiles = impl.row_tiles(), items = impl.s.batch * tiles * pieces;
    auto* to = static_cast<std::byte*>(y);
    const auto run_items = [&](int64_t begin, int64_t end, int thread) {
        for (int64_t item = begin; item < end; ++item) {
            const int64_t image = item / (tiles * pieces), piece = item / tiles % pieces, tile = item % tiles;
            for (int64_t b = piece; b < (piece + 1 == pieces ? blocks : piece + 1); ++b) {
                const Block& block = impl.blocks[static_cast<size_t>(b)];
                if (impl.in_registers)
                    impl.run_row(x, packed, to, operands, image, tile, block);
                else
                    impl.run_rows(x, packed, to, operands, image, tile, block,
                                  workspace + static_cast<size_t>(thread) * impl.thread_bytes);
            }
        }
    };
    const int64_t operations =
        impl.output_rows * impl.s.out_width() * impl.s.channels * impl.s.kernel_h * impl.s.kernel_w / pieces;
    const int64_t grain = std::max<int64_t>(1, kTaskOperations / std::max<int64_t>(operations, 1));
    const int64_t tasks = (items + grain - 1) / grain;
    if (tasks <= 1 || max_threads == 1) return run_items(0, items, 0);
    pool.parallel_for(tasks, max_threads, [&](int64_t task, int thread) {
        run_items(task * grain, std::min(items, (task + 1) * grain), thread);
    });
}

}  // namespace planish::cpu
