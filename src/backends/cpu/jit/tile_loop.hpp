// The loops around the tile kernels: rows into tiles, columns into panels, K into blocks that the caches hold.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/gemm_i8_kernel.hpp"
#include "backends/cpu/jit/gemm_kernel.hpp"
#include "backends/cpu/jit/pack.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish::cpu {

/// A product whose rows come in `lines` of equal length. Within a line, rows lie at a constant stride; K is the
/// concatenation of `segments` pieces of `k` contiguous floats. A plain matrix product is one line, one segment.
/// In integer products a step of four bytes stands where float32 ones have an element of K, and B has four rows for it.
class TileLoop {
  public:
    struct Bytes {
        ByteSteps steps;
        ByteResult result;
    };
    struct Problem {
        int64_t rows = 0;  ///< in a line
        int64_t n = 0;
        int64_t k = 0;  ///< floats, or steps, in a segment
        int64_t segments = 1;
        int64_t lines = 1;                          ///< in most calls
        std::optional<Bytes> bytes = std::nullopt;  ///< of an integer product

        int64_t c_element() const { return bytes && bytes->result.bytes ? 1 : 4; }  ///< bytes of an element of C
    };

    /// One run over a rectangle of tiles x panels. Strides and offsets in bytes.
    struct Call {
        const float* a = nullptr;
        const float* b = nullptr;  ///< packed, all panels
        float* c = nullptr;
        const float* const* operands = nullptr;
        const int64_t* segment_offsets = nullptr;
        const float* next = nullptr;  ///< what to prefetch during the last panel: the packed B of a later call, if any
        int64_t lda = 0, ldc = 0;
        int64_t lines = 1, a_line = 0, c_line = 0;
        int64_t channel_offset = 0;  ///< of column 0 in a channel operand and in the three arrays below
        int64_t tensor_offset = 0;   ///< of c from the base of a tensor operand with elements as large as C's
        const int32_t* start = nullptr;
        const float *scale = nullptr, *bias = nullptr;
        int64_t first_tile = 0, last_tile = 0;
        int64_t first_panel = 0, last_panel = 0;
    };

    TileLoop() = default;
    /// Generates the kernels. A width of 0 is chosen from the shape.
    TileLoop(const Problem& problem, const PostOps& post_ops, Isa isa, PanelWidth width);

    const PackLayout& layout() const { return layout_; }
    const Problem& problem() const { return problem_; }

    /// Tiles of a line: the first `large_tiles()` have tile_rows()+1 rows, the others tile_rows().
    int64_t tiles() const { return tiles_; }
    /// What `Call` counts as panels: those of the layout, or some of them that a kernel reads side by side.
    int64_t panels() const { return (layout_.panels() + joined_ - 1) / joined_; }
    /// Where a panel of the call's B begins.
    const float* panel(const Call& call, int64_t panel) const { return call.b + layout_.panel_offset(panel * joined_); }
    int64_t first_row(int64_t tile) const { return tile * tile_rows_ + std::min(tile, large_tiles_); }

    void run(const Call& call) const;

  private:
    /// A piece of K: `segments` whole segments, or a part of one.
    struct KBlock {
        int64_t first_segment = 0, segments = 1;
        int64_t offset = 0, k = 0;  ///< within each segment, in floats
    };
    enum Panel { full_panel, last_panel };
    enum Tile { small_tile, large_tile };
    enum Stage { whole_k, first_block, middle_block, last_block };

    void split_k();
    void generate_kernels(const PostOps& early, const PostOps& late);
    GemmKernel generate_i8_kernel(int64_t rows, int64_t vectors, bool last_panel, const PostOps& post_ops) const;
    void run_panel(const Call& call, const KBlock& block, Stage stage, int64_t panel, int64_t first_tile,
                   int64_t last_tile, const float* next) const;

    Problem problem_;
    Isa isa_ = Isa::avx2;
    PackLayout layout_;
    int64_t tiles_ = 0, tile_rows_ = 0, large_tiles_ = 0;
    int64_t joined_ = 1;          ///< panels of the layout that one kernel call reads, each as a stream of its own
    int64_t group_tiles_ = 0;     ///< tiles that share one pass over the panels
    int64_t prefetch_lines_ = 0;  ///< of the next panel, in each kPrefetchSteps of k
    std::vector<KBlock> blocks_;
    // [stage][panel][tile]; null where the shape has no such tile.
    std::array<std::array<std::array<GemmKernel, 2>, 2>, 4> kernels_{};
};

/// The tiles x panels of a product as a row of units of about equal work, in an order in which neighbours are best
/// computed by one thread: all tiles of a panel before the next panel, or the reverse.
struct TaskGrid {
    int64_t tiles = 0, panels = 0;
    bool by_panels = false;
    int64_t parts = 1;  ///< units that each panel (or each tile's row of panels) is cut into
    int64_t grain = 1;  ///< units that are worth a call

    int64_t units() const { return (by_panels ? panels : tiles) * parts; }
    /// Units [begin, end) of `call`, whose own bounds are ignored.
    void run(const TileLoop& loop, TileLoop::Call call, int64_t begin, int64_t end) const;
};

/// Neighbours share columns where B is the larger side and not small, else rows.
TaskGrid split_tasks(const TileLoop& loop, int threads);

/// The panel width that suits the problem on that ISA and this processor.
PanelWidth choose_panel_width(Isa isa, const TileLoop::Problem& problem);

}  // namespace planish::cpu
