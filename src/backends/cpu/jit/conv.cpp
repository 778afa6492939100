// Convolution as a product: a line of output pixels is a line of rows, a filter's row of taps a segment of K.
#include "backends/cpu/jit/conv.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/jit/tile_loop.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr double kFlopsPerThread = 1e6;
constexpr int64_t kPaddedBytes = 256 * 1024;  // a block of padded input lines, kept in L2

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

void check(const ConvShape& s, Isa isa) {
    if (isa < Isa::avx2) {
        fail(ErrorCode::unsupported, "generated convolutions need AVX2, not " + std::string(to_string(isa)),
             "use the reference implementation on this machine");
    }
    if (s.groups < 1 || s.c % s.groups != 0 || s.oc % s.groups != 0) {
        fail(ErrorCode::internal, "convolution channels are not a multiple of the groups");
    }
    if (s.x_nchw && s.groups != 1) fail(ErrorCode::internal, "a grouped convolution takes channels-last input only");
}

/// Four pixels from three registers: r0 g0 b0 r1 | g1 b1 r2 g2 | b2 r3 g3 b3.
void interleave_rgb(const float* r, const float* g, const float* b, int64_t columns, float* dst) {
    int64_t i = 0;
    for (; i + 4 <= columns; i += 4) {
        const __m128 x = _mm_loadu_ps(r + i), y = _mm_loadu_ps(g + i), z = _mm_loadu_ps(b + i);
        const __m128 xy_low = _mm_unpacklo_ps(x, y), xy_high = _mm_unpackhi_ps(x, y);  // x0 y0 x1 y1, x2 y2 x3 y3
        const __m128 zx = _mm_shuffle_ps(z, x, _MM_SHUFFLE(1, 1, 0, 0));               // z0 z0 x1 x1
        const __m128 yz = _mm_shuffle_ps(y, z, _MM_SHUFFLE(1, 1, 1, 1));               // y1 y1 z1 z1
        const __m128 zx_high = _mm_shuffle_ps(z, x, _MM_SHUFFLE(3, 3, 2, 2));          // z2 z2 x3 x3
        const __m128 yz_high = _mm_shuffle_ps(y, z, _MM_SHUFFLE(3, 3, 3, 3));          // y3 y3 z3 z3
        _mm_storeu_ps(dst + 3 * i, _mm_shuffle_ps(xy_low, zx, _MM_SHUFFLE(2, 0, 1, 0)));
        _mm_storeu_ps(dst + 3 * i + 4, _mm_shuffle_ps(yz, xy_high, _MM_SHUFFLE(1, 0, 2, 0)));
        _mm_storeu_ps(dst + 3 * i + 8, _mm_shuffle_ps(zx_high, yz_high, _MM_SHUFFLE(2, 0, 2, 0)));
    }
    for (; i < columns; ++i) {
        dst[3 * i] = r[i];
        dst[3 * i + 1] = g[i];
        dst[3 * i + 2] = b[i];
    }
}

/// dst[column][channel] = src[channel*plane + column] for one image line.
void interleave_line(const float* src, int64_t plane, int64_t channels, int64_t columns, float* dst) {
    if (channels == 3) return interleave_rgb(src, src + plane, src + 2 * plane, columns, dst);
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < columns; ++i) dst[i * channels + c] = src[c * plane + i];
    }
}

}  // namespace

struct ConvPlan::Impl {
    ConvShape shape;
    TileLoop loop;
    bool flat = false;    ///< every output pixel is one row at a constant stride: a plain matrix product
    bool padded = false;  ///< lines are first copied into zero-padded ones in the workspace
    int64_t block_lines = 1;
    int64_t padded_width = 0;  ///< pixels
    int64_t pixel = 0;         ///< floats between pixels of what the kernel reads
    int64_t line = 0;          ///< floats between lines of what the kernel reads
    std::vector<int64_t> segment_offsets;

    int64_t group_c() const { return shape.c / shape.groups; }
    int64_t group_oc() const { return shape.oc / shape.groups; }
    int64_t padded_lines(int64_t lines) const {
        return (lines - 1) * shape.stride_h + shape.dilation_h * (shape.kh - 1) + 1;
    }
    int64_t scratch_floats() const { return padded ? ceil_div(padded_lines(block_lines) * line, 16) * 16 : 0; }

    void copy_lines(const float* x, int64_t first, int64_t lines, float* scratch) const;
    void run_block(const float* x, const float* weights, float* y, const float* const* operands, float* scratch,
                   int64_t image, int64_t first_line, int64_t lines, const TaskGrid& grid, int64_t part) const;
};

ConvPlan::ConvPlan(const ConvShape& shape, PostOps post_ops, Isa isa, PanelWidth width, Order order) {
    check(shape, isa);
    auto impl = std::make_unique<Impl>();
    impl->shape = shape;
    ConvShape& s = impl->shape;
    if (s.x_pixel_stride == 0) s.x_pixel_stride = s.c;
    if (s.y_pixel_stride == 0) s.y_pixel_stride = s.oc;
    const bool has_pads = (s.pad_top | s.pad_left | s.pad_bottom | s.pad_right) != 0;
    const bool pointwise = s.kh == 1 && s.kw == 1;
    impl->padded = has_pads || s.x_nchw;
    impl->flat = order == Order::whole && pointwise && !impl->padded && s.stride_h == 1 && s.stride_w == 1;
    impl->padded_width = s.w + s.pad_left + s.pad_right;
    impl->pixel = impl->padded ? s.c : s.x_pixel_stride;
    impl->line = impl->padded ? impl->padded_width * s.c : s.w * s.x_pixel_stride;

    // Taps of one filter row are contiguous where nothing lies between their channels.
    const bool joined = s.dilation_w == 1 && s.groups == 1 && impl->pixel == s.c;
    const int64_t taps_per_segment = joined ? s.kw : 1;
    for (int64_t i = 0; i < s.kh; ++i) {
        for (int64_t j = 0; j < s.kw; j += taps_per_segment) {
            impl->segment_offsets.push_back((i * s.dilation_h * impl->line + j * s.dilation_w * impl->pixel) * 4);
        }
    }
    const int64_t oh = std::max<int64_t>(0, s.oh()), ow = std::max<int64_t>(0, s.ow());
    impl->block_lines = std::max<int64_t>(1, oh);
    if (impl->padded) {
        const int64_t line_bytes = impl->line * 4;
        const int64_t fit = (kPaddedBytes / line_bytes - s.dilation_h * (s.kh - 1) - 1) / s.stride_h + 1;
        // Blocks of equal size; few lines would copy the filter's overlap over and over.
        const int64_t lines = std::clamp<int64_t>(fit, std::min<int64_t>(4, impl->block_lines), impl->block_lines);
        impl->block_lines = ceil_div(impl->block_lines, ceil_div(impl->block_lines, lines));
    }
    TileLoop::Problem problem;
    problem.rows = impl->flat ? s.n * s.h * s.w : s.n * oh == 0 ? 0 : ow;
    problem.n = impl->group_oc();
    problem.k = impl->group_c() * taps_per_segment;
    problem.segments = static_cast<int64_t>(impl->segment_offsets.size());
    problem.lines = impl->flat ? 1 : impl->block_lines;
    impl->loop = TileLoop(problem, post_ops, isa, width);

    impl_ = std::move(impl);
}

ConvPlan::~ConvPlan() = default;
ConvPlan::ConvPlan(ConvPlan&&) noexcept = default;
ConvPlan& ConvPlan::operator=(ConvPlan&&) noexcept = default;

const ConvShape& ConvPlan::shape() const {
    return impl_->shape;
}
const PackLayout& ConvPlan::weight_layout() const {
    return impl_->loop.layout();
}
int64_t ConvPlan::packed_weight_size() const {
    return weight_layout().size() * shape().groups;
}

void ConvPlan::pack_weights(const float* oihw, float* packed) const {
    const ConvShape& s = shape();
    const int64_t source = impl_->group_oc() * impl_->group_c() * s.kh * s.kw;
    for (int64_t g = 0; g < s.groups; ++g) {
        pack_conv_panels(oihw + g * source, impl_->group_c(), s.kh * s.kw, weight_layout(), 0, weight_layout().panels(),
                         packed + g * weight_layout().size());
    }
}

void ConvPlan::unpack_weights(const float* packed, float* oihw) const {
    const ConvShape& s = shape();
    const int64_t source = impl_->group_oc() * impl_->group_c() * s.kh * s.kw;
    for (int64_t g = 0; g < s.groups; ++g) {
        unpack_conv_weights(packed + g * weight_layout().size(), impl_->group_c(), s.kh * s.kw, weight_layout(),
                            oihw + g * source);
    }
}

size_t ConvPlan::workspace(int max_threads) const {
    return static_cast<size_t>(impl_->scratch_floats() * std::max(1, max_threads)) * sizeof(float);
}

/// Padded lines [first, first + lines) of one image, in coordinates of the padded image, to `scratch`.
void ConvPlan::Impl::copy_lines(const float* x, int64_t first, int64_t lines, float* scratch) const {
    const ConvShape& s = shape;
    const auto bytes = [](int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); };
    for (int64_t i = 0; i < lines; ++i, scratch += line) {
        const int64_t row = first + i - s.pad_top;
        if (row < 0 || row >= s.h) {
            std::memset(scratch, 0, bytes(line));
            continue;
        }
        float* inside = scratch + s.pad_left * s.c;
        std::memset(scratch, 0, bytes(s.pad_left * s.c));
        if (s.x_nchw) {
            interleave_line(x + row * s.w, s.h * s.w, s.c, s.w, inside);
        } else if (s.x_pixel_stride == s.c) {
            std::memcpy(inside, x + row * s.w * s.c, bytes(s.w * s.c));
        } else {
            for (int64_t j = 0; j < s.w; ++j) {
                std::memcpy(inside + j * s.c, x + (row * s.w + j) * s.x_pixel_stride, bytes(s.c));
            }
        }
        std::memset(inside + s.w * s.c, 0, bytes(s.pad_right * s.c));
    }
}

/// Output lines [first_line, first_line + lines) of one image, of the grid's part of tiles and panels.
void ConvPlan::Impl::run_block(const float* x, const float* weights, float* y, const float* const* operands,
                               float* scratch, int64_t image, int64_t first_line, int64_t lines, const TaskGrid& grid,
                               int64_t part) const {
    const ConvShape& s = shape;
    const float* image_x = x + image * s.h * s.w * s.x_pixel_stride;
    const int64_t image_y = (image * s.oh() + first_line) * s.ow() * s.y_pixel_stride;
    TileLoop::Call call;
    grid.bounds(part, call);
    call.operands = operands;
    call.segment_offsets = segment_offsets.data();
    call.lda = s.stride_w * pixel * 4;
    call.ldc = s.y_pixel_stride * 4;
    call.lines = lines;
    call.a_line = s.stride_h * line * 4;
    call.c_line = s.ow() * s.y_pixel_stride * 4;
    const float* a = image_x + first_line * s.stride_h * line;
    if (padded) {
        copy_lines(image_x, first_line * s.stride_h, padded_lines(lines), scratch);
        a = scratch;
    }
    for (int64_t g = 0; g < s.groups; ++g) {
        call.a = a + g * group_c();
        call.b = weights + g * loop.layout().size();
        call.c = y + image_y + g * group_oc();
        call.channel_offset = g * group_oc() * 4;
        call.tensor_offset = (image_y + g * group_oc()) * 4;
        loop.run(call);
    }
}

void ConvPlan::run(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                   void* workspace, ThreadPool& pool, int max_threads) const {
    const Impl& impl = *impl_;
    const ConvShape& s = impl.shape;
    const TileLoop& loop = impl.loop;
    const int64_t oh = s.oh(), ow = s.ow();
    if (s.n <= 0 || oh <= 0 || ow <= 0 || s.oc == 0) return;
    const double flops = 2.0 * static_cast<double>(s.n * oh * ow) * static_cast<double>(s.oc) *
                         static_cast<double>(impl.group_c() * s.kh * s.kw);
    const int threads =
        static_cast<int>(std::min<double>(std::max(1.0, flops / kFlopsPerThread), std::min(max_threads, pool.size())));

    if (impl.flat) {
        const TaskGrid grid = split_tasks(loop, threads);
        const auto run_part = [&](int64_t task, int) {
            TileLoop::Call call;
            grid.bounds(task % grid.tasks(), call);
            const int64_t g = task / grid.tasks();
            call.a = x + g * impl.group_c();
            call.b = packed_weights + g * loop.layout().size();
            call.c = y + g * impl.group_oc();
            call.operands = operands.data();
            call.segment_offsets = impl.segment_offsets.data();
            call.lda = impl.pixel * 4;
            call.ldc = s.y_pixel_stride * 4;
            call.channel_offset = g * impl.group_oc() * 4;
            call.tensor_offset = g * impl.group_oc() * 4;
            loop.run(call);
        };
        const int64_t tasks = grid.tasks() * s.groups;
        if (threads <= 1) {
            for (int64_t task = 0; task < tasks; ++task) run_part(task, 0);
        } else {
            pool.parallel_for(tasks, threads, run_part);
        }
        return;
    }

    // Blocks of lines of equal height; where they are too few for the threads, each is also cut by panels.
    int64_t lines = impl.block_lines;
    if (threads > 1 && s.n * ceil_div(oh, lines) < threads * 4) {
        const int64_t wanted = ceil_div(int64_t{threads} * 4, s.n);
        const int64_t fewest = std::min<int64_t>(lines, 7);  // fewer would copy and read weights too often
        lines = std::clamp(ceil_div(oh, wanted), fewest, lines);
    }
    const int64_t blocks = ceil_div(oh, lines);
    TaskGrid grid{loop.tiles(), loop.panels(), 1, 1};
    if (threads > 1 && s.n * blocks < threads * 2) {
        grid.panel_tasks = std::min(grid.panels, ceil_div(int64_t{threads} * 2, s.n * blocks));
    }
    const auto run_task = [&](int64_t task, int thread) {
        const int64_t part = task % grid.tasks(), block = task / grid.tasks();
        const int64_t first = block % blocks * lines;
        impl.run_block(x, packed_weights, y, operands.data(),
                       static_cast<float*>(workspace) + thread * impl.scratch_floats(), block / blocks, first,
                       std::min(lines, oh - first), grid, part);
    };
    const int64_t tasks = s.n * blocks * grid.tasks();
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; ++task) run_task(task, 0);
    } else {
        pool.parallel_for(tasks, threads, run_task);
    }
}

void ConvPlan::run_rows(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                        void* workspace, int64_t begin, int64_t end) const {
    if (impl_->flat) fail(ErrorCode::internal, "a convolution was run by rows that was not planned for it");
    const TaskGrid grid{impl_->loop.tiles(), impl_->loop.panels(), 1, 1};
    for (int64_t row = begin; row < end; row += impl_->block_lines)
        impl_->run_block(x, packed_weights, y, operands.data(), static_cast<float*>(workspace), 0, row,
                         std::min(impl_->block_lines, end - row), grid, 0);
}

std::pair<int64_t, int64_t> ConvPlan::input_rows(int64_t begin, int64_t end) const {
    const ConvShape& s = shape();
    const int64_t first = begin * s.stride_h - s.pad_top;
    const int64_t last = (end - 1) * s.stride_h - s.pad_top + (s.kh - 1) * s.dilation_h + 1;
    return {std::clamp<int64_t>(first, 0, s.h), std::clamp<int64_t>(last, 0, s.h)};
}

}  // namespace planish::cpu
