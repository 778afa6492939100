// Blocks of tile rows: transform the input, multiply at each point, transform back, all while in L2.
#include "backends/cpu/jit/winograd.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/jit/tile_loop.hpp"
#include "backends/cpu/jit/winograd_kernel.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kBlockBytes = 384 * 1024;  // transformed input and products of a block
constexpr int64_t kFewestTiles = 24;         // rows of a product; fewer would read the weights too often
constexpr double kFlopsPerThread = 1e6;
constexpr int64_t kOneSegment[1] = {0};

using FilterTransform = std::array<std::array<double, 3>, 6>;  // G

constexpr FilterTransform toom_cook_filter_transform() {
    constexpr double a = kWinogradA, b = kWinogradB;
    constexpr double points[5] = {0, a, -a, b, -b};
    FilterTransform g{};
    for (int i = 0; i < 5; ++i) {
        double denominator = 1;
        for (int j = 0; j < 5; ++j) denominator *= i == j ? 1 : points[i] - points[j];
        g[static_cast<size_t>(i)] = {1 / denominator, points[i] / denominator, points[i] * points[i] / denominator};
    }
    g[5] = {0, 0, 1};
    return g;
}

const FilterTransform& filter_transform(WinogradTile tile) {
    static constexpr FilterTransform f4x4 = toom_cook_filter_transform();
    static constexpr FilterTransform f2x2 = {{{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}};
    static constexpr FilterTransform stride2 = {{{1, 0, 0}, {1, 0, 1}, {0, 0, 1}, {0, 1, 0}}};
    return tile == WinogradTile::f2x2 ? f2x2 : tile == WinogradTile::f2x2_stride2 ? stride2 : f4x4;
}

/// Points that meet the same weights, at a constant distance from each other.
struct PointRun {
    int64_t first, count, distance;
    int64_t weights;  ///< which of the transformed filter's matrices
};

/// In the order of their weights.
std::vector<PointRun> point_runs(const WinogradSizes& sizes) {
    const int64_t n = sizes.inputs, w = sizes.weights;
    const auto repeats = [&](int64_t i) { return i + 1 == w ? n - w + 1 : 1; };
    std::vector<PointRun> runs;
    for (int64_t i = 0; i < w; ++i) {
        for (int64_t j = 0; j < w; ++j) {
            if (repeats(j) == 1) {
                runs.push_back({i * n + j, repeats(i), n, i * w + j});
            } else {
                for (int64_t k = i; k < i + repeats(i); ++k) runs.push_back({k * n + j, repeats(j), 1, i * w + j});
            }
        }
    }
    return runs;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// Floats from one point's matrix to the next: an odd number of cache lines, so that the streams of a transform
/// fall into different sets of L1.
int64_t point_stride(int64_t tiles, int64_t channels) {
    return (ceil_div(tiles * channels, 16) | 1) * 16;
}

int vector_of(const ConvShape& s, Isa isa) {
    for (int vector = vector_floats(isa); vector >= 8; vector /= 2) {
        if (s.c % vector == 0 && s.oc % vector == 0) return vector;
    }
    return 0;
}

}  // namespace

std::string_view WinogradPlan::refusal(const ConvShape& s, Isa isa, WinogradTile tile) {
    if (isa < Isa::avx2) return "instruction set below AVX2";
    if (s.kh != 3 || s.kw != 3) return "filter is not 3x3";
    const int64_t stride = winograd_sizes(tile).step / winograd_sizes(tile).outputs;
    if (s.stride_h != stride || s.stride_w != stride) return "stride is not that of the tile";
    if (s.dilation_h != 1 || s.dilation_w != 1) return "dilation is not 1";
    if (s.groups != 1) return "grouped";
    if (s.x_nchw) return "input is not channels-last";
    if (vector_of(s, isa) == 0) return "channels are not a multiple of 8";
    if (s.oh() < 1 || s.ow() < 1) return "output is empty";
    return {};
}

// In cycles: one FMA of 16 floats a cycle; weights that exceed the caches at 5 bytes a cycle, read while computing;
// for a vector of a tile, what its loads, sums and stores take.
double WinogradPlan::estimated_speedup(const ConvShape& s, WinogradTile tile) {
    const WinogradSizes sizes = winograd_sizes(tile);
    const auto c = static_cast<double>(s.c), oc = static_cast<double>(s.oc), images = static_cast<double>(s.n);
    const double points = sizes.inputs * sizes.inputs, weights = sizes.weights * sizes.weights;
    const double tiles =
        static_cast<double>(ceil_div(s.oh(), sizes.outputs) * ceil_div(s.ow(), sizes.outputs)) * images;
    constexpr double kBytesPerCycle = 5;
    const double direct =
        std::max(static_cast<double>(s.oh() * s.ow()) * images * 9 * c * oc / 16, 9 * c * oc * 4 / kBytesPerCycle);
    const double products = std::max(points * tiles * c * oc / 16 * 1.05, weights * c * oc * 4 / kBytesPerCycle);
    const double in = tile == WinogradTile::f4x4 ? 300 : 4 * points,
                 out = tile == WinogradTile::f4x4 ? 220 : 4 * points;
    return direct / (products + tiles * (c / 16 * in + oc / 16 * out));
}

struct WinogradPlan::Impl {
    ConvShape shape;
    WinogradTile tile = WinogradTile::f4x4;
    WinogradSizes sizes;
    std::vector<PointRun> runs;
    int vector = 0;
    int64_t tile_rows = 0, tile_columns = 0;  ///< of an image
    int64_t block_rows = 0;                   ///< tile rows in a block
    TileLoop loop, last_loop;                 ///< products of a full and of the last block
    WinogradInputKernel input = nullptr;
    // [last tile row][last tile column]; the last ones may be cut off by the image's edge.
    std::array<std::array<WinogradOutputKernel, 2>, 2> output{};

    int64_t blocks() const { return ceil_div(tile_rows, block_rows); }
    int64_t v_stride() const { return point_stride(block_rows * tile_columns, shape.c); }
    int64_t m_stride() const { return point_stride(block_rows * tile_columns, shape.oc); }
    int64_t points() const { return int64_t{sizes.inputs} * sizes.inputs; }
    int64_t edge_floats() const { return ceil_div(points() * shape.c, 16) * 16; }
    int64_t scratch_floats() const { return points() * (v_stride() + m_stride()) + edge_floats(); }

    struct Scratch {
        float *v, *m, *edge;
    };
    Scratch scratch(void* workspace, int thread) const {
        float* base = static_cast<float*>(workspace) + thread * scratch_floats();
        return {base, base + points() * v_stride(), base + points() * (v_stride() + m_stride())};
    }

    void transform_row(const float* x, int64_t tile_row, float* v, float* edge) const;
    void multiply(const float* weights, bool last_block, int64_t run, const float* v, float* m) const;
    void transform_back(const float* m, int64_t tile_row, float* y, int64_t image, const float* const* operands) const;
};

WinogradPlan::WinogradPlan(const ConvShape& shape, PostOps post_ops, Isa isa, WinogradTile tile) {
    if (const std::string_view reason = refusal(shape, isa, tile); !reason.empty()) {
        fail(ErrorCode::unsupported, "no Winograd convolution: " + std::string(reason), "use the direct convolution");
    }
    auto impl = std::make_unique<Impl>();
    impl->shape = shape;
    ConvShape& s = impl->shape;
    if (s.x_pixel_stride == 0) s.x_pixel_stride = s.c;
    if (s.y_pixel_stride == 0) s.y_pixel_stride = s.oc;
    impl->tile = tile;
    impl->sizes = winograd_sizes(tile);
    impl->runs = point_runs(impl->sizes);
    impl->vector = vector_of(s, isa);
    const Isa kernel_isa = impl->vector == 16 ? Isa::avx512 : Isa::avx2;
    const int outputs = impl->sizes.outputs;
    impl->tile_rows = ceil_div(s.oh(), outputs);
    impl->tile_columns = ceil_div(s.ow(), outputs);

    const int64_t fit = kBlockBytes / (impl->points() * 4 * (s.c + s.oc));
    const int64_t rows = std::max(fit / impl->tile_columns, ceil_div(kFewestTiles, impl->tile_columns));
    impl->block_rows = ceil_div(impl->tile_rows, ceil_div(impl->tile_rows, std::min(rows, impl->tile_rows)));

    const int64_t last_rows = impl->tile_rows - (impl->blocks() - 1) * impl->block_rows;
    impl->loop = TileLoop({impl->block_rows * impl->tile_columns, s.oc, s.c, 1}, {}, isa, {});
    impl->last_loop =
        TileLoop({last_rows * impl->tile_columns, s.oc, s.c, 1}, {}, isa, impl->loop.layout().panel_width());

    impl->input = winograd_input_kernel(tile, kernel_isa);
    const int64_t lines = s.oh() - (impl->tile_rows - 1) * outputs;
    const int64_t columns = s.ow() - (impl->tile_columns - 1) * outputs;
    for (const int last_line : {0, 1}) {
        for (const int last_column : {0, 1}) {
            impl->output[static_cast<size_t>(last_line)][static_cast<size_t>(last_column)] =
                winograd_output_kernel(tile, kernel_isa, static_cast<int>(last_line != 0 ? lines : outputs),
                                       static_cast<int>(last_column != 0 ? columns : outputs), post_ops);
        }
    }
    impl_ = std::move(impl);
}

WinogradPlan::~WinogradPlan() = default;
WinogradPlan::WinogradPlan(WinogradPlan&&) noexcept = default;
WinogradPlan& WinogradPlan::operator=(WinogradPlan&&) noexcept = default;

const ConvShape& WinogradPlan::shape() const {
    return impl_->shape;
}
const PackLayout& WinogradPlan::weight_layout() const {
    return impl_->loop.layout();
}
int64_t WinogradPlan::packed_weight_size() const {
    return impl_->sizes.weights * impl_->sizes.weights * impl_->loop.layout().size();
}

// U = G g G^T for every pair of channels, eight outputs at a time. A row of a panel is gathered for all points before
// it is written: the matrices lie a power of two apart, and would evict each other's half-written lines.
void WinogradPlan::pack_panels(const float* oihw, float* packed, int64_t first, int64_t last) const {
    const ConvShape& s = impl_->shape;
    const PackLayout& layout = impl_->loop.layout();
    const FilterTransform& transform = filter_transform(impl_->tile);
    const auto count = static_cast<size_t>(impl_->sizes.weights);
    constexpr int64_t kLanes = 8;
    using Lanes = std::array<double, kLanes>;
    constexpr int64_t kWidest = kMaxTileVectors * 16;
    std::vector<std::array<float, kWidest>> rows(count * count);
    for (int64_t panel = first; panel < last; ++panel) {
        const int64_t width = layout.width(panel);
        for (int64_t c = 0; c < s.c; ++c) {
            for (int64_t lane = 0; lane < width; lane += kLanes) {
                std::array<Lanes, 9> g;
                for (int64_t o = 0; o < kLanes; ++o) {
                    const int64_t column = panel * layout.nr + lane + o;
                    for (size_t tap = 0; tap < 9; ++tap) {
                        g[tap][static_cast<size_t>(o)] =
                            column < s.oc ? oihw[(column * s.c + c) * 9 + static_cast<int64_t>(tap)] : 0.0;
                    }
                }
                for (size_t i = 0; i < count; ++i) {
                    const auto& along = transform[i];
                    std::array<Lanes, 3> half;
                    for (size_t j = 0; j < 3; ++j) {
                        for (size_t o = 0; o < kLanes; ++o) {
                            half[j][o] = along[0] * g[j][o] + along[1] * g[3 + j][o] + along[2] * g[6 + j][o];
                        }
                    }
                    for (size_t j = 0; j < count; ++j) {
                        const auto& across = transform[j];
                        float* u = rows[i * count + j].data() + lane;
                        for (size_t o = 0; o < kLanes; ++o) {
                            u[o] = static_cast<float>(half[0][o] * across[0] + half[1][o] * across[1] +
                                                      half[2][o] * across[2]);
                        }
                    }
                }
            }
            float* u = packed + layout.index(c, panel * layout.nr);
            for (const auto& row : rows) {
                std::memcpy(u, row.data(), static_cast<size_t>(width) * sizeof(float));
                u += layout.size();
            }
        }
    }
}

size_t WinogradPlan::workspace(int max_threads) const {
    return static_cast<size_t>(impl_->scratch_floats() * std::max(1, max_threads)) * sizeof(float);
}

/// One tile row of an image. Tiles that lie inside the image are read in place; the others from a zero-padded copy.
void WinogradPlan::Impl::transform_row(const float* x, int64_t tile_row, float* v, float* edge) const {
    const ConvShape& s = shape;
    const int64_t inputs = sizes.inputs, step = sizes.step;
    const int64_t top = tile_row * step - s.pad_top, line = s.w * s.x_pixel_stride;
    WinogradInputArgs args;
    args.point_stride = v_stride() * 4;
    args.tile_stride = s.c * 4;
    args.vectors = s.c / vector;

    // Tile j covers `inputs` columns from step*j - pad_left.
    int64_t first = ceil_div(s.pad_left, step), last = (s.w + s.pad_left - inputs) / step + 1;
    if (top < 0 || top + inputs > s.h || s.w + s.pad_left < inputs) first = last = 0;
    first = std::min(first, tile_columns);
    last = std::clamp(last, first, tile_columns);
    if (first < last) {
        args.x = x + top * line + (first * step - s.pad_left) * s.x_pixel_stride;
        args.line_stride = line * 4;
        args.pixel_stride = s.x_pixel_stride * 4;
        args.transformed = v + first * s.c;
        args.tiles = last - first;
        input(&args);
    }
    args.x = edge;
    args.line_stride = inputs * s.c * 4;
    args.pixel_stride = s.c * 4;
    args.tiles = 1;
    for (int64_t j = 0; j < tile_columns; ++j) {
        if (j >= first && j < last) continue;
        const int64_t left = j * step - s.pad_left;
        for (int64_t i = 0; i < inputs; ++i) {
            for (int64_t q = 0; q < inputs; ++q) {
                float* to = edge + (i * inputs + q) * s.c;
                const int64_t row = top + i, column = left + q;
                const auto bytes = static_cast<size_t>(s.c) * sizeof(float);
                if (row < 0 || row >= s.h || column < 0 || column >= s.w) {
                    std::memset(to, 0, bytes);
                } else {
                    std::memcpy(to, x + row * line + column * s.x_pixel_stride, bytes);
                }
            }
        }
        args.transformed = v + j * s.c;
        input(&args);
    }
}

void WinogradPlan::Impl::multiply(const float* weights, bool last_block, int64_t run, const float* v, float* m) const {
    const TileLoop& products = last_block ? last_loop : loop;
    const PointRun& points = runs[static_cast<size_t>(run)];
    const PointRun& next = runs[static_cast<size_t>(run + 1) % runs.size()];
    TileLoop::Call call;
    call.a = v + points.first * v_stride();
    call.b = weights + points.weights * loop.layout().size();
    call.c = m + points.first * m_stride();
    call.segment_offsets = kOneSegment;
    call.next = weights + next.weights * loop.layout().size();
    call.lda = shape.c * 4;
    call.ldc = shape.oc * 4;
    call.lines = points.count;
    call.a_line = points.distance * v_stride() * 4;
    call.c_line = points.distance * m_stride() * 4;
    call.last_tile = products.tiles();
    call.last_panel = products.panels();
    products.run(call);
}

void WinogradPlan::Impl::transform_back(const float* m, int64_t tile_row, float* y, int64_t image,
                                        const float* const* operands) const {
    const ConvShape& s = shape;
    const int64_t first = (image * s.oh() + tile_row * sizes.outputs) * s.ow() * s.y_pixel_stride;
    WinogradOutputArgs args;
    args.point_stride = m_stride() * 4;
    args.tile_stride = s.oc * 4;
    args.line_stride = s.ow() * s.y_pixel_stride * 4;
    args.pixel_stride = s.y_pixel_stride * 4;
    args.vectors = s.oc / vector;
    args.operands = operands;
    const auto run_tiles = [&](int64_t from, int64_t count, WinogradOutputKernel kernel) {
        if (count == 0) return;
        const int64_t offset = first + from * sizes.outputs * s.y_pixel_stride;
        args.products = m + from * s.oc;
        args.y = y + offset;
        args.tensor_offset = offset * 4;
        args.tiles = count;
        kernel(&args);
    };
    const auto& kernels = output[tile_row + 1 == tile_rows ? 1 : 0];
    run_tiles(0, tile_columns - 1, kernels[0]);
    run_tiles(tile_columns - 1, 1, kernels[1]);
}

void WinogradPlan::run(const float* x, const float* packed_weights, float* y, std::span<const float* const> operands,
                       void* workspace, ThreadPool& pool, int max_threads) const {
    const Impl& impl = *impl_;
    const ConvShape& s = impl.shape;
    const int64_t blocks = impl.blocks();
    const double flops = 2.0 * static_cast<double>(impl.points()) *
                         static_cast<double>(s.n * impl.tile_rows * impl.tile_columns) * static_cast<double>(s.c) *
                         static_cast<double>(s.oc);
    const int threads =
        static_cast<int>(std::min<double>(std::max(1.0, flops / kFlopsPerThread), std::min(max_threads, pool.size())));

    // One block, its three phases each by `loop`, which calls its function for every index below a count.
    const auto run_block = [&](int64_t task, const Impl::Scratch& block, const auto& loop) {
        const int64_t image = task / blocks, first = task % blocks * impl.block_rows;
        const int64_t rows = std::min(impl.block_rows, impl.tile_rows - first);
        const float* image_x = x + image * s.h * s.w * s.x_pixel_stride;
        const int64_t row_v = impl.tile_columns * s.c, row_m = impl.tile_columns * s.oc;
        loop(rows, [&](int64_t row, int thread) {
            impl.transform_row(image_x, first + row, block.v + row * row_v,
                               thread < 0 ? block.edge : impl.scratch(workspace, thread).edge);
        });
        const bool last = task % blocks + 1 == blocks;
        loop(static_cast<int64_t>(impl.runs.size()),
             [&](int64_t run, int) { impl.multiply(packed_weights, last, run, block.v, block.m); });
        loop(rows, [&](int64_t row, int) {
            impl.transform_back(block.m + row * row_m, first + row, y, image, operands.data());
        });
    };
    const auto serially = [](int64_t count, const auto& fn) {
        for (int64_t i = 0; i < count; ++i) fn(i, -1);
    };
    const int64_t tasks = s.n * blocks;
    if (threads <= 1) {
        for (int64_t task = 0; task < tasks; ++task) run_block(task, impl.scratch(workspace, 0), serially);
    } else if (tasks >= 3 * threads) {
        pool.parallel_for(tasks, threads, [&](int64_t task, int thread) {
            run_block(task, impl.scratch(workspace, thread), serially);
        });
    } else {
        const auto together = [&](int64_t count, const auto& fn) { pool.parallel_for(count, threads, fn); };
        for (int64_t task = 0; task < tasks; ++task) run_block(task, impl.scratch(workspace, 0), together);
    }
}

}  // namespace planish::cpu
