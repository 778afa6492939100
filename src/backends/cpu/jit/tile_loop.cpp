// Loop order: rows in groups (A's part stays in L2), K in blocks, then panel by panel over the group's tiles, so that a
// block of a panel stays in L1 or L2 while A's tiles pass by, and memory is read for B once per group.
#include "backends/cpu/jit/tile_loop.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kPanelBlockBytes = 128 * 1024;  // one K block of one panel
constexpr int64_t kGroupBytes = 768 * 1024;       // A's rows of one group, of the same K block
constexpr int64_t kSharedBytes = 512 * 1024;      // of B, that every thread may as well read for itself
constexpr int64_t kUnitOperations = 500'000;      // of a unit of work, about 5 microseconds of one core
constexpr int64_t kStreams = kMaxStreams;         // panels of one vector that a single row reads side by side

/// The generator whose vectors hold that many floats.
constexpr Isa kernel_isa(int vector) {
    return vector == 16 ? Isa::avx512 : Isa::avx2;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// Vector instructions a cycle, of FMA and of loads, for a vector of that many floats. Processors that split
/// 512-bit instructions in two halves (Zen 4) do as many FMAs a second with either width: there the narrow one wins
/// where it wastes fewer columns.
double vectors_per_cycle(int vector) {
    static const bool split = splits_wide_vectors();
    return vector == 16 && split ? 1.0 : 2.0;
}

bool is_addition(const PostOp& op) {
    return op.kind == PostOp::Kind::add_channel || op.kind == PostOp::Kind::add_tensor ||
           op.kind == PostOp::Kind::sub_tensor;
}

int most_rows(const TileLoop::Problem& problem, Isa isa, PanelWidth width) {
    const Isa kernel = kernel_isa(width.vector);
    const int vectors = width.nr / width.vector;
    return problem.bytes ? max_i8_tile_rows(kernel, isa >= Isa::avx512_vnni, vectors) : max_tile_rows(kernel, vectors);
}

struct Tiling {
    Tiling(const TileLoop::Problem& problem, Isa isa, PanelWidth width)
        : limit(most_rows(problem, isa, width)),
          tiles(ceil_div(problem.rows, limit)),
          small(problem.rows / tiles),
          large(problem.rows % tiles) {}
    int64_t limit, tiles;
    int64_t small, large;  ///< `large` tiles of small+1 rows, the others of `small`
};

/// Cycles for one tile: each step of k is bound by the FMAs, by the latency of their chains or by the loads; entering
/// and leaving the tile costs a call's share and a pass over C. While a tile of few registers ends, the processor
/// has room left to begin the next one, which hides most of that (Zen 4, in small K: 8 to 10 cycles are seen of a tile
/// of 4x24 in narrow vectors, 60 to 70 of 14x32 in wide ones).
double tile_cycles(double k, int64_t rows, int64_t vectors, int vector) {
    constexpr double kFmaLatency = 4, kTileOverhead = 16, kOverlappedOverhead = 4;
    constexpr int64_t kOverlappedRegisters = 12;
    const double rate = vectors_per_cycle(vector);
    const auto registers = static_cast<double>(rows * vectors), loads = static_cast<double>(rows + vectors);
    const double step = std::max({registers / rate, loads / rate, kFmaLatency}) + 0.02 * loads;
    const bool overlaps = vector == 8 && rows * vectors <= kOverlappedRegisters;
    return k * step + (overlaps ? kOverlappedOverhead + registers / rate : kTileOverhead + 2 * registers / rate);
}

double problem_cycles(const TileLoop::Problem& problem, Isa isa, PanelWidth width) {
    const Tiling tiling(problem, isa, width);
    const auto k = static_cast<double>(problem.k * problem.segments);
    const int64_t full = width.nr / width.vector, columns = ceil_div(problem.n, width.vector);
    const auto panel = [&](int64_t vectors) {
        return static_cast<double>(tiling.large) * tile_cycles(k, tiling.small + 1, vectors, width.vector) +
               static_cast<double>(tiling.tiles - tiling.large) * tile_cycles(k, tiling.small, vectors, width.vector);
    };
    return static_cast<double>(columns / full) * panel(full) + (columns % full != 0 ? panel(columns % full) : 0.0);
}

}  // namespace

PanelWidth choose_panel_width(Isa isa, const TileLoop::Problem& problem) {
    PanelWidth chosen{vector_floats(isa), vector_floats(isa)};
    if (problem.rows == 0 || problem.n == 0) return chosen;
    double best = std::numeric_limits<double>::max();
    for (int vector = vector_floats(isa); vector >= 8; vector /= 2) {
        for (int vectors = 1; vectors <= kMaxTileVectors; ++vectors) {
            const PanelWidth width{vectors * vector, vector};
            if (most_rows(problem, isa, width) < 1 || (vectors - 1) * vector >= problem.n) continue;
            const double cycles = problem_cycles(problem, isa, width);
            if (cycles < best) {
                best = cycles;
                chosen = width;
            }
        }
    }
    return chosen;
}

TileLoop::TileLoop(const Problem& problem, const PostOps& post_ops, Isa isa, PanelWidth width)
    : problem_(problem), isa_(isa) {
    // One row reads B once and multiplies little: memory is the limit, and several streams bring more of it than one.
    const bool streams = width.nr == 0 && problem.rows * problem.lines == 1 && !problem.bytes;
    if (streams) width = {vector_floats(isa), vector_floats(isa)};
    if (width.nr == 0) width = choose_panel_width(isa, problem);
    if (width.vector > vector_floats(isa) || width.vector < 8 || width.nr % width.vector != 0 ||
        most_rows(problem, isa, width) < 1) {
        fail(ErrorCode::invalid_argument, "no kernel for panels of " + std::to_string(width.nr) +
                                              " columns in vectors of " + std::to_string(width.vector) + " on " +
                                              std::string(to_string(isa)));
    }
    layout_ = {problem.k * problem.segments, problem.n, width.nr, width.vector};
    if (problem.rows == 0 || problem.n == 0) return;
    if (streams) joined_ = kStreams;
    // A matrix narrower than a panel has one panel of fewer vectors, which allow more rows.
    width.nr = static_cast<int32_t>(layout_.width(0));
    const Tiling tiling(problem, isa, width);
    tiles_ = tiling.tiles;
    tile_rows_ = tiling.small;
    large_tiles_ = tiling.large;

    // A tensor operand may be C itself, so it has to be read before C is first written: additions can be done in the
    // first block of K; anything else that reads a tensor forbids blocks.
    const auto late = std::find_if(post_ops.begin(), post_ops.end(), [](const PostOp& op) { return !is_addition(op); });
    const bool late_tensor =
        std::any_of(late, post_ops.end(), [](const PostOp& op) { return has_tensor_operand(op.kind); });
    if (late_tensor || streams || problem.bytes) {  // sums of integers cannot continue from a result
        blocks_.push_back({0, problem_.segments, 0, problem_.k});
    } else {
        split_k();
    }

    const int64_t a_bytes_per_tile = (tile_rows_ + 1) * blocks_[0].k * blocks_[0].segments * 4;
    group_tiles_ = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, a_bytes_per_tile));

    // While a panel's tiles are computed, the next panel is brought into L2. A matrix of few rows reads its panels as
    // streams, which the processor follows by itself.
    const int64_t sharing = tiles_ * problem.lines, lines_of_panel = layout_.nr * 4 * kPrefetchSteps / 64;
    prefetch_lines_ = sharing * tile_rows_ < 8 ? 0 : std::min<int64_t>(ceil_div(lines_of_panel, sharing), 8);
    const auto middle = problem.bytes ? post_ops.begin() : late;
    generate_kernels({post_ops.begin(), middle}, {middle, post_ops.end()});
}

void TileLoop::generate_kernels(const PostOps& early, const PostOps& late) {
    const int64_t last = panels() - 1, panel_vectors = joined_ * layout_.nr / layout_.vector;
    for (const Stage stage : {whole_k, first_block, middle_block, last_block}) {
        if ((stage == whole_k) != (blocks_.size() == 1)) continue;
        if (stage == middle_block && blocks_.size() < 3) continue;
        for (const Panel panel : {full_panel, last_panel}) {
            for (const Tile tile : {small_tile, large_tile}) {
                if (tile == large_tile && large_tiles_ == 0) continue;
                if (panel == full_panel && last == 0) continue;
                const int64_t rows = tile_rows_ + (tile == large_tile ? 1 : 0);
                const int64_t vectors = std::min(panel_vectors, layout_.columns() / layout_.vector -
                                                                    (panel == last_panel ? last * panel_vectors : 0));
                if (problem_.bytes) {
                    kernels_[stage][panel][tile] = generate_i8_kernel(rows, vectors, panel == last_panel, late);
                    continue;
                }
                GemmKernelKey key;
                key.isa = kernel_isa(layout_.vector);
                key.rows = static_cast<int>(rows);
                key.vectors = static_cast<int>(vectors);
                key.streams = joined_ > 1;
                key.masked = panel == last_panel && problem_.n % layout_.vector != 0;
                key.prefetch_lines = static_cast<int>(prefetch_lines_);
                key.accumulate = stage == middle_block || stage == last_block;
                if (stage == whole_k || stage == first_block) key.post_ops = early;
                if (stage == whole_k || stage == last_block) {
                    key.post_ops.insert(key.post_ops.end(), late.begin(), late.end());
                }
                kernels_[stage][panel][tile] = gemm_kernel(key);
            }
        }
    }
}

GemmKernel TileLoop::generate_i8_kernel(int64_t rows, int64_t vectors, bool last_panel, const PostOps& post_ops) const {
    GemmI8KernelKey key;
    key.isa = kernel_isa(layout_.vector);
    key.vnni = isa_ >= Isa::avx512_vnni;
    key.rows = static_cast<int>(rows);
    key.vectors = static_cast<int>(vectors);
    if (last_panel) key.tail = static_cast<int>(problem_.n % layout_.vector);
    key.steps = problem_.bytes->steps;
    key.prefetch_lines = static_cast<int>(prefetch_lines_);
    key.post_ops = post_ops;
    key.result = problem_.bytes->result;
    return gemm_i8_kernel(key);
}

void TaskGrid::run(const TileLoop& loop, TileLoop::Call call, int64_t begin, int64_t end) const {
    const int64_t across = by_panels ? tiles : panels;  // of one panel, or of one tile
    // Whole panels (or tiles) [first, last), or the parts [from, to) of one.
    const auto run_rectangle = [&](int64_t first, int64_t last, int64_t from, int64_t to) {
        if (first == last || from == to) return;
        from = across * from / parts;
        to = across * to / parts;
        std::tie(call.first_panel, call.last_panel) = by_panels ? std::pair(first, last) : std::pair(from, to);
        std::tie(call.first_tile, call.last_tile) = by_panels ? std::pair(from, to) : std::pair(first, last);
        // The panel behind the last one is this thread's next one, as a rule.
        if (by_panels) call.next = last < panels ? loop.panel(call, last) : nullptr;
        loop.run(call);
    };
    const int64_t first = begin / parts, last = end / parts;
    if (first == last) return run_rectangle(first, first + 1, begin % parts, end % parts);
    const int64_t whole = begin % parts == 0 ? first : first + 1;
    if (whole > first) run_rectangle(first, whole, begin % parts, parts);
    run_rectangle(whole, last, 0, parts);
    if (end % parts != 0) run_rectangle(last, last + 1, 0, end % parts);
}

TaskGrid split_tasks(const TileLoop& loop, int threads) {
    const TileLoop::Problem& problem = loop.problem();
    TaskGrid grid{loop.tiles(), loop.panels()};
    if (threads <= 1 || grid.tiles == 0) return grid;
    // Small weights are read by every thread; then rows of an image stay with their thread from layer to layer, while
    // columns would be fetched from all others' caches by a depthwise convolution or by the next product.
    // So would they where panels are few.
    const bool shares_b = loop.layout().size() * 4 <= kSharedBytes && grid.tiles >= int64_t{threads} * 8;
    const bool few_panels = grid.panels < int64_t{threads} * 4 && grid.tiles >= threads;
    grid.by_panels = problem.n >= problem.rows && !shares_b && !few_panels;
    const int64_t lines = grid.by_panels ? grid.panels : grid.tiles, across = grid.by_panels ? grid.tiles : grid.panels;
    const int64_t operations = 2 * problem.rows * problem.n * problem.k * problem.segments / lines;  // of one
    grid.parts = std::clamp<int64_t>(operations / kUnitOperations, 1, across);
    grid.grain = std::max<int64_t>(1, kUnitOperations / std::max<int64_t>(1, operations / grid.parts));
    return grid;
}

void TileLoop::split_k() {
    const int64_t row_bytes = layout_.width(0) * 4;
    const int64_t limit = std::max<int64_t>(64, kPanelBlockBytes / row_bytes);  // rows of B in a block
    const int64_t total = problem_.k * problem_.segments;
    if (total <= limit + limit / 2) {
        blocks_.push_back({0, problem_.segments, 0, problem_.k});
    } else if (problem_.k <= limit) {
        const int64_t count = ceil_div(problem_.segments, limit / problem_.k);
        for (int64_t i = 0, first = 0; i < count; ++i) {
            const int64_t segments = (problem_.segments - first) / (count - i);
            blocks_.push_back({first, segments, 0, problem_.k});
            first += segments;
        }
    } else {
        // Equal parts in whole cache lines of A.
        const int64_t parts = ceil_div(problem_.k, limit);
        const int64_t part = ceil_div(ceil_div(problem_.k, parts), 16) * 16;
        for (int64_t s = 0; s < problem_.segments; ++s) {
            for (int64_t offset = 0; offset < problem_.k; offset += part) {
                blocks_.push_back({s, 1, offset, std::min(part, problem_.k - offset)});
            }
        }
    }
}

void TileLoop::run(const Call& call) const {
    const int64_t rows_of_b = static_cast<int64_t>(blocks_.size());
    for (int64_t first = call.first_tile; first < call.last_tile; first += group_tiles_) {
        const int64_t last = std::min(first + group_tiles_, call.last_tile);
        for (int64_t i = 0; i < rows_of_b; ++i) {
            const Stage stage = blocks_.size() == 1 ? whole_k
                                : i == 0            ? first_block
                                : i + 1 < rows_of_b ? middle_block
                                                    : last_block;
            const KBlock& block = blocks_[static_cast<size_t>(i)];
            for (int64_t panel = call.first_panel; panel < call.last_panel; ++panel) {
                const bool wraps = panel + 1 == call.last_panel;
                const KBlock& next_block = blocks_[static_cast<size_t>(wraps ? (i + 1) % rows_of_b : i)];
                const int64_t next_panel = wraps ? call.first_panel : panel + 1;
                const float* next =
                    this->panel(call, next_panel) +
                    (next_block.first_segment * problem_.k + next_block.offset) * layout_.width(next_panel);
                if (wraps && i + 1 == rows_of_b && last == call.last_tile && call.next != nullptr) next = call.next;
                run_panel(call, block, stage, panel, first, last, next);
            }
        }
    }
}

void TileLoop::run_panel(const Call& call, const KBlock& block, Stage stage, int64_t panel, int64_t first_tile,
                         int64_t last_tile, const float* next) const {
    const Panel kind = panel + 1 == panels() ? last_panel : full_panel;
    const int64_t width = layout_.width(panel * joined_);
    const int64_t column = panel * joined_ * layout_.nr;
    const int64_t k_before = block.first_segment * problem_.k + block.offset;
    GemmKernelArgs args;
    args.b = call.b + layout_.panel_offset(panel * joined_) + k_before * width;
    args.b_stream = layout_.panel_offset(1) * 4;
    args.k = block.k;
    args.segments = block.segments;
    args.segment_offsets = call.segment_offsets + block.first_segment;
    args.lda = call.lda;
    args.ldc = call.ldc;
    args.operands = call.operands;
    args.column_offset = call.channel_offset + column * 4;
    args.tail = layout_.n % layout_.vector;
    args.start = call.start;
    args.scale = call.scale;
    args.bias = call.bias;

    const char* prefetch = reinterpret_cast<const char*>(next);
    const int64_t prefetched_per_tile = block.segments * (block.k / kPrefetchSteps) * prefetch_lines_ * 64;
    const int64_t split = std::clamp(large_tiles_, first_tile, last_tile);
    for (int64_t line = 0; line < call.lines; ++line) {
        const char* a = reinterpret_cast<const char*>(call.a) + line * call.a_line + block.offset * 4;
        const int64_t c = line * call.c_line + column * problem_.c_element();
        const auto run_tiles = [&](Tile tile, int64_t first, int64_t last) {
            if (first == last) return;
            const int64_t row = first_row(first);
            args.a = reinterpret_cast<const float*>(a + row * call.lda);
            args.c = reinterpret_cast<float*>(reinterpret_cast<char*>(call.c) + c + row * call.ldc);
            args.tensor_offset = call.tensor_offset + c + row * call.ldc;
            args.tiles = last - first;
            args.prefetch = prefetch;
            kernels_[stage][kind][tile](&args);
            prefetch += prefetched_per_tile * args.tiles;
        };
        run_tiles(large_tile, first_tile, split);
        run_tiles(small_tile, split, last_tile);
    }
}

}  // namespace planish::cpu
