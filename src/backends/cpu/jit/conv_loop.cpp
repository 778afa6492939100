#include "backends/cpu/jit/conv_loop.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

// Of additions and multiplications, about 10 microseconds of one core.
constexpr double kFlopsPerThread = 1e6, kByteOperationsPerThread = 4e6;
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
template <typename T>
void interleave_line(const T* src, int64_t plane, int64_t channels, int64_t columns, T* dst) {
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < columns; ++i) dst[i * channels + c] = src[c * plane + i];
    }
}

}  // namespace

ConvLoop::ConvLoop(const ConvShape& shape, const PostOps& post_ops, Isa isa, PanelWidth width, bool by_rows,
                   const std::optional<Bytes>& bytes)
    : shape_(shape) {
    check(shape, isa);
    ConvShape& s = shape_;
    if (s.x_pixel_stride == 0) s.x_pixel_stride = s.c;
    if (s.y_pixel_stride == 0) s.y_pixel_stride = s.oc;
    if (bytes) {
        element_ = 1;
        y_element_ = bytes->result.bytes ? 1 : 4;
    }
    const bool has_pads = (s.pad_top | s.pad_left | s.pad_bottom | s.pad_right) != 0;
    const bool pointwise = s.kh == 1 && s.kw == 1;
    padded_ = has_pads || s.x_nchw;
    flat_ = !by_rows && pointwise && !padded_ && s.stride_h == 1 && s.stride_w == 1;
    pixel_ = (padded_ ? s.c : s.x_pixel_stride) * element_;
    line_ = (padded_ ? s.w + s.pad_left + s.pad_right : s.w) * pixel_;

    // Taps of one filter row are contiguous where nothing lies between their channels.
    const bool joined = s.dilation_w == 1 && s.groups == 1 && pixel_ == s.c * element_;
    const int64_t taps = joined ? s.kw : 1;
    for (int64_t i = 0; i < s.kh; ++i) {
        for (int64_t j = 0; j < s.kw; j += taps)
            segment_offsets_.push_back(i * s.dilation_h * line_ + j * s.dilation_w * pixel_);
    }
    const int64_t oh = std::max<int64_t>(0, s.oh()), ow = std::max<int64_t>(0, s.ow());
    block_lines_ = std::max<int64_t>(1, oh);
    if (padded_) {
        const int64_t fit = (kPaddedBytes / line_ - s.dilation_h * (s.kh - 1) - 1) / s.stride_h + 1;
        // Blocks of equal size; few lines would copy the filter's overlap over and over.
        const int64_t lines = std::clamp<int64_t>(fit, std::min<int64_t>(4, block_lines_), block_lines_);
        block_lines_ = ceil_div(block_lines_, ceil_div(block_lines_, lines));
    }
    TileLoop::Problem problem;
    problem.rows = flat_ ? s.n * s.h * s.w : s.n * oh == 0 ? 0 : ow;
    problem.n = group_oc();
    problem.k = group_c() * taps;
    problem.segments = segments();
    problem.lines = flat_ ? 1 : block_lines_;
    if (bytes) {
        problem.bytes = TileLoop::Bytes{ByteSteps::of(problem.k), bytes->result};
        problem.k = problem.bytes->steps.count(problem.k);
    }
    loop_ = TileLoop(problem, post_ops, isa, width);
}

int64_t ConvLoop::padded_lines(int64_t lines) const {
    return (lines - 1) * shape_.stride_h + shape_.dilation_h * (shape_.kh - 1) + 1;
}

int64_t ConvLoop::scratch_bytes() const {
    return padded_ ? ceil_div(padded_lines(block_lines_) * line_, 64) * 64 : 0;
}

size_t ConvLoop::workspace(int max_threads) const {
    return static_cast<size_t>(scratch_bytes() * std::max(1, max_threads));
}

/// Padded lines [first, first + lines) of one image, in coordinates of the padded image, to `scratch`. Each byte of a
/// padding pixel is `x_zero`.
void ConvLoop::copy_lines(const std::byte* x, uint8_t x_zero, int64_t first, int64_t lines, std::byte* scratch) const {
    const ConvShape& s = shape_;
    const auto pad = [&](std::byte* to, int64_t bytes) { std::memset(to, x_zero, static_cast<size_t>(bytes)); };
    const auto copy = [](std::byte* to, const std::byte* from, int64_t bytes) {
        std::memcpy(to, from, static_cast<size_t>(bytes));
    };
    for (int64_t i = 0; i < lines; ++i, scratch += line_) {
        const int64_t row = first + i - s.pad_top;
        if (row < 0 || row >= s.h) {
            pad(scratch, line_);
            continue;
        }
        std::byte* inside = scratch + s.pad_left * pixel_;
        pad(scratch, s.pad_left * pixel_);
        if (s.x_nchw) {
            const std::byte* from = x + row * s.w * element_;
            const int64_t plane = s.h * s.w;
            if (element_ == 1) {
                interleave_line(reinterpret_cast<const uint8_t*>(from), plane, s.c, s.w,
                                reinterpret_cast<uint8_t*>(inside));
            } else {
                const auto* planes = reinterpret_cast<const float*>(from);
                auto* to = reinterpret_cast<float*>(inside);
                if (s.c == 3) {
                    interleave_rgb(planes, planes + plane, planes + 2 * plane, s.w, to);
                } else {
                    interleave_line(planes, plane, s.c, s.w, to);
                }
            }
        } else if (s.x_pixel_stride == s.c) {
            copy(inside, x + row * s.w * pixel_, s.w * pixel_);
        } else {
            const int64_t stride = s.x_pixel_stride * element_;
            for (int64_t j = 0; j < s.w; ++j) copy(inside + j * pixel_, x + (row * s.w + j) * stride, pixel_);
        }
        pad(inside + s.w * pixel_, s.pad_right * pixel_);
    }
}

TileLoop::Call ConvLoop::tile_call(const Call& call) const {
    TileLoop::Call t;
    t.operands = call.operands;
    t.segment_offsets = segment_offsets_.data();
    t.lda = shape_.stride_w * pixel_;
    t.ldc = shape_.y_pixel_stride * y_element_;
    t.start = call.start;
    t.scale = call.scale;
    t.bias = call.bias;
    return t;
}

/// `x` is the first row's pixel, `y_offset` that of its result, in elements.
TileLoop::Call ConvLoop::group_call(const Call& call, TileLoop::Call part, const std::byte* x, int64_t y_offset,
                                    int64_t group) const {
    part.a = reinterpret_cast<const float*>(x + group * group_c() * element_);
    part.b = static_cast<const float*>(call.weights) + group * layout().size();
    part.channel_offset = group * group_oc() * 4;
    part.tensor_offset = (y_offset + group * group_oc()) * y_element_;
    part.c = reinterpret_cast<float*>(static_cast<std::byte*>(call.y) + part.tensor_offset);
    return part;
}

void ConvLoop::run_flat(const Call& call, ThreadPool& pool, int threads) const {
    const TaskGrid grid = split_tasks(loop_, threads);
    pool.parallel_ranges(grid.units() * shape_.groups, grid.grain, threads, [&](int64_t begin, int64_t end, int) {
        for_each_row(begin, end, grid.units(), [&](int64_t group, int64_t first, int64_t last) {
            grid.run(loop_, group_call(call, tile_call(call), static_cast<const std::byte*>(call.x), 0, group), first,
                     last);
        });
    });
}

/// Output lines [first_line, first_line + lines) of one image, of some panels.
void ConvLoop::run_block(const Call& call, std::byte* scratch, int64_t image, int64_t first_line, int64_t lines,
                         int64_t first_panel, int64_t last_panel) const {
    const ConvShape& s = shape_;
    const std::byte* image_x = static_cast<const std::byte*>(call.x) + image * s.h * s.w * s.x_pixel_stride * element_;
    TileLoop::Call t = tile_call(call);
    t.last_tile = loop_.tiles();
    t.first_panel = first_panel;
    t.last_panel = last_panel;
    t.lines = lines;
    t.a_line = s.stride_h * line_;
    t.c_line = s.ow() * s.y_pixel_stride * y_element_;
    const std::byte* a = image_x + first_line * s.stride_h * line_;
    if (padded_) {
        copy_lines(image_x, call.x_zero, first_line * s.stride_h, padded_lines(lines), scratch);
        a = scratch;
    }
    const int64_t y_offset = (image * s.oh() + first_line) * s.ow() * s.y_pixel_stride;
    for (int64_t g = 0; g < s.groups; ++g) loop_.run(group_call(call, t, a, y_offset, g));
}

void ConvLoop::run(const Call& call, ThreadPool& pool, int max_threads) const {
    const ConvShape& s = shape_;
    const int64_t oh = s.oh(), ow = s.ow();
    if (s.n <= 0 || oh <= 0 || ow <= 0 || s.oc == 0) return;
    const double operations = 2.0 * static_cast<double>(s.n * oh * ow) * static_cast<double>(s.oc) *
                              static_cast<double>(group_c() * s.kh * s.kw);
    const double least = element_ == 1 ? kByteOperationsPerThread : kFlopsPerThread;
    const int threads =
        static_cast<int>(std::min<double>(std::max(1.0, operations / least), std::min(max_threads, pool.size())));
    if (flat_) return run_flat(call, pool, threads);

    // Blocks of lines of equal height; where they are too few for the threads, each is also cut by panels.
    int64_t lines = block_lines_;
    if (threads > 1 && s.n * ceil_div(oh, lines) < threads * 4) {
        const int64_t wanted = ceil_div(int64_t{threads} * 4, s.n);
        const int64_t fewest = std::min<int64_t>(lines, 7);  // fewer would copy and read weights too often
        lines = std::clamp(ceil_div(oh, wanted), fewest, lines);
    }
    const int64_t blocks = ceil_div(oh, lines);
    const int64_t panels = loop_.panels();
    const bool cut = threads > 1 && s.n * blocks < threads * 2;
    const int64_t parts = cut ? std::min(panels, ceil_div(int64_t{threads} * 2, s.n * blocks)) : 1;
    const auto run_task = [&](int64_t task, int thread) {
        const int64_t part = task % parts, block = task / parts;
        const int64_t first = block % blocks * lines;
        run_block(call, static_cast<std::byte*>(call.workspace) + thread * scratch_bytes(), block / blocks, first,
                  std::min(lines, oh - first), panels * part / parts, panels * (part + 1) / parts);
    };
    pool.parallel_for(s.n * blocks * parts, threads, run_task);
}

void ConvLoop::run_rows(const Call& call, int64_t begin, int64_t end) const {
    if (flat_) fail(ErrorCode::internal, "a convolution was run by rows that was not planned for it");
    for (int64_t row = begin; row < end; row += block_lines_)
        run_block(call, static_cast<std::byte*>(call.workspace), 0, row, std::min(block_lines_, end - row), 0,
                  loop_.panels());
}

}  // namespace planish::cpu
