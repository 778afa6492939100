// With A, B and C in quarters:
//     P0 = (A11 + A22) (B11 + B22)    C11 = P0 + P3 - P4 + P6
//     P1 = (A21 + A22)  B11           C12 = P2 + P4
//     P2 =  A11        (B12 - B22)    C21 = P1 + P3
//     P3 =  A22        (B21 - B11)    C22 = P0 - P1 + P2 + P5
//     P4 = (A11 + A12)  B22
//     P5 = (A21 - A11) (B11 + B12)
//     P6 = (A12 - A22) (B21 + B22)
//
// Rows come in groups whose seven sums stay in L2; K in chunks, each a product of its own, which are added up in C. The
// two column halves of B are neighbouring panels, whose block of C is summed in scratch of consecutive lines: C's own
// rows, often a multiple of 4 KB apart, would evict each other from L1. The packed B has, for each chunk and pair of
// panels, the seven blocks in the order of the products, so that it is read as one stream; then come the columns that
// have no neighbour.
#include "backends/cpu/jit/strassen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/cpu/jit/tile_loop.hpp"
#include "backends/cpu/kernels/kernels.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kGroupRows = 256;    // of A: the seven operands of one group and chunk are about 1.5 MB
constexpr int64_t kLongestHalf = 384;  // rows of B in half a chunk
constexpr int64_t kLeastRows = 32, kLeastHalf = 64;
constexpr int64_t kOneSegment[1] = {0};

enum Quarter : uint8_t { q11, q12, q21, q22 };

/// x, or x + sign * y.
struct Combination {
    Quarter x;
    float sign = 0;
    Quarter y = q11;
};

struct Product {
    Combination a, b;
    struct Target {
        Quarter quarter;
        float sign;  // 0: none
        bool first;  // the first to write this quarter
    } targets[2];
};

constexpr Product kProducts[7] = {
    {{q11, 1, q22}, {q11, 1, q22}, {{q11, 1, true}, {q22, 1, true}}},
    {{q21, 1, q22}, {q11}, {{q21, 1, true}, {q22, -1, false}}},
    {{q11}, {q12, -1, q22}, {{q12, 1, true}, {q22, 1, false}}},
    {{q22}, {q21, -1, q11}, {{q11, 1, false}, {q21, 1, false}}},
    {{q11, 1, q12}, {q22}, {{q11, -1, false}, {q12, 1, false}}},
    {{q21, -1, q11}, {q11, 1, q12}, {{q22, 1, false}, {q11, 0, false}}},
    {{q12, -1, q22}, {q21, 1, q22}, {{q11, 1, false}, {q11, 0, false}}},
};

/// The row and column half of a quarter.
constexpr int64_t row_of(Quarter q) {
    return q >> 1;
}
constexpr int64_t column_of(Quarter q) {
    return q & 1;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/// The length of half a chunk of K: the longest that divides K into equal halves of whole cache lines. 0: none.
int64_t half_of(int64_t k) {
    for (int64_t chunks = ceil_div(k, 2 * kLongestHalf); k / (2 * chunks) >= kLeastHalf; ++chunks)
        if (k % (32 * chunks) == 0) return k / (2 * chunks);
    return 0;
}

PanelWidth width_for(const GemmShape& shape, Isa isa) {
    return choose_panel_width(isa, {shape.m, shape.n, shape.k});
}

}  // namespace

struct StrassenPlan::Impl {
    GemmShape shape;
    PanelWidth width;
    const KernelTable* functions = nullptr;
    int64_t half = 0, chunks = 0;        // rows of B in half a chunk
    int64_t group_rows = 0, groups = 0;  // rows of A in all groups but the last
    TileLoop products[2];                // of a full group, of the last one
    TileLoop rest;                       // the columns that are not in a pair of panels
    GemmKernel epilogue = nullptr;       // null: there are no post-ops

    int64_t pairs() const { return shape.n / (2 * width.nr); }
    int64_t paired_columns() const { return pairs() * 2 * width.nr; }
    int64_t half_rows() const { return ceil_div(group_rows, 2); }
    int64_t a_floats() const { return 7 * half_rows() * half; }
    int64_t block_floats() const { return half * width.nr; }
    int64_t block_offset(int64_t chunk, int64_t pair) const { return (chunk * pairs() + pair) * 7 * block_floats(); }
    int64_t rest_offset() const { return block_offset(chunks, 0); }
    int64_t product_floats() const { return ceil_div(half_rows() * width.nr, 16) * 16; }
    int64_t thread_floats() const { return 5 * product_floats(); }  // a product, and the four quarters of C

    /// One group of rows and chunk of K.
    struct Part {
        const float *a, *packed_b;
        float* c;
        std::span<const float* const> operands;
        float* a_sums;
        int64_t first_row, rows, chunk;

        int64_t half_rows() const { return ceil_div(rows, 2); }
        int64_t rows_of(int64_t half) const { return half == 0 ? half_rows() : rows - half_rows(); }
    };

    void sum_rows_of_a(const Part& part, int64_t begin, int64_t end) const {
        const int64_t rows = part.half_rows();
        const float* origin = part.a + part.first_row * shape.lda + part.chunk * 2 * half;
        const auto quarter = [&](Quarter q) {
            return BlockView{origin + row_of(q) * rows * shape.lda + column_of(q) * half, shape.lda,
                             part.rows_of(row_of(q))};
        };
        for (int64_t p = 0; p < 7; ++p) {
            const Combination& sum = kProducts[p].a;
            float* output = part.a_sums + p * rows * half;
            functions->block_sum({quarter(sum.x), quarter(sum.y), sum.sign, output, half, half}, begin, end);
        }
    }

    void multiply_pair(const Part& part, int64_t pair, float* scratch) const {
        const int64_t rows = part.half_rows(), nr = width.nr;
        const float* blocks = part.packed_b + block_offset(part.chunk, pair);
        float *product = scratch, *sums = scratch + product_floats();
        for (int64_t p = 0; p < 7; ++p) {
            multiply(part, part.a_sums + p * rows * half, blocks + p * block_floats(), product);
            BlockAddArgs add{product, nr, nr, {}, 2 * nr};
            for (size_t t = 0; t < 2; ++t) {
                const auto [quarter, sign, first] = kProducts[p].targets[t];
                if (sign == 0) continue;
                add.targets[t] = {sums + row_of(quarter) * rows * 2 * nr + column_of(quarter) * nr, rows, sign, first};
            }
            functions->block_add(add, 0, rows);
        }
        float* c = part.c + part.first_row * shape.ldc + 2 * pair * nr;
        functions->block_add({sums, 2 * nr, 2 * nr, {{c, part.rows, 1, part.chunk == 0}, {}}, shape.ldc}, 0, part.rows);
        if (part.chunk + 1 == chunks && epilogue != nullptr)
            for (int64_t panel = 2 * pair; panel < 2 * pair + 2; ++panel) finish(part, panel);
    }

    void multiply(const Part& part, const float* a, const float* b, float* product) const {
        const TileLoop& loop = products[part.rows == group_rows ? 0 : 1];
        TileLoop::Call call;
        call.a = a;
        call.b = b;
        call.next = b + block_floats();
        call.c = product;
        call.segment_offsets = kOneSegment;
        call.lda = half * 4;
        call.ldc = width.nr * 4;
        call.last_tile = loop.tiles();
        call.last_panel = 1;
        loop.run(call);
    }

    /// C = post_ops(C + 0 * 0), by the kernel of products one row at a time.
    void finish(const Part& part, int64_t panel) const {
        alignas(64) static constexpr float kZeros[kMaxTileVectors * 16] = {};
        GemmKernelArgs args;
        args.a = args.b = kZeros;
        args.c = part.c + part.first_row * shape.ldc + panel * width.nr;
        args.k = args.segments = 1;
        args.segment_offsets = kOneSegment;
        args.ldc = shape.ldc * 4;
        args.tiles = part.rows;
        args.operands = part.operands.data();
        args.column_offset = panel * width.nr * 4;
        args.tensor_offset = (part.first_row * shape.ldc + panel * width.nr) * 4;
        epilogue(&args);
    }

    void multiply_rest(const Part& part) const {
        TileLoop::Call call;
        call.a = part.a;
        call.b = part.packed_b + rest_offset();
        call.c = part.c + paired_columns();
        call.operands = part.operands.data();
        call.segment_offsets = kOneSegment;
        call.lda = shape.lda * 4;
        call.ldc = shape.ldc * 4;
        call.channel_offset = call.tensor_offset = paired_columns() * 4;
        call.last_tile = rest.tiles();
        call.last_panel = rest.layout().panels();
        rest.run(call);
    }
};

bool StrassenPlan::fits(const GemmShape& shape, Isa isa) {
    if (isa < Isa::avx2 || shape.m < kLeastRows || half_of(shape.k) == 0) return false;
    return shape.n >= 2 * width_for(shape, isa).nr;
}

StrassenPlan::StrassenPlan(const GemmShape& shape, PostOps post_ops, Isa isa) {
    if (!fits(shape, isa))
        fail(ErrorCode::internal, "a product that cannot be halved was given to Strassen's algorithm");
    auto impl = std::make_unique<Impl>();
    impl->shape = shape;
    if (impl->shape.lda == 0) impl->shape.lda = shape.k;
    if (impl->shape.ldc == 0) impl->shape.ldc = shape.n;
    impl->functions = &kernels(isa);
    const PanelWidth width = width_for(shape, isa);
    impl->width = width;
    if (const int64_t columns = shape.n - impl->paired_columns(); columns > 0)
        impl->rest = TileLoop({shape.m, columns, shape.k}, post_ops, isa, width);
    impl->half = half_of(shape.k);
    impl->chunks = shape.k / (2 * impl->half);
    impl->groups = ceil_div(shape.m, kGroupRows);
    impl->group_rows = ceil_div(ceil_div(shape.m, impl->groups), 2) * 2;
    impl->groups = ceil_div(shape.m, impl->group_rows);
    const int64_t last_rows = shape.m - (impl->groups - 1) * impl->group_rows;
    const auto product_loop = [&](int64_t rows) {
        return TileLoop({ceil_div(rows, 2), width.nr, impl->half}, {}, isa, width);
    };
    impl->products[0] = product_loop(impl->group_rows);
    impl->products[1] = product_loop(last_rows);
    if (!post_ops.empty()) {
        GemmKernelKey key;
        key.isa = width.vector == 16 ? Isa::avx512 : Isa::avx2;
        key.vectors = width.nr / width.vector;
        key.accumulate = true;
        key.post_ops = std::move(post_ops);
        impl->epilogue = gemm_kernel(key);
    }
    impl_ = std::move(impl);
}

StrassenPlan::~StrassenPlan() = default;
StrassenPlan::StrassenPlan(StrassenPlan&&) noexcept = default;
StrassenPlan& StrassenPlan::operator=(StrassenPlan&&) noexcept = default;

const GemmShape& StrassenPlan::shape() const {
    return impl_->shape;
}

std::string StrassenPlan::packing() const {
    const Impl& s = *impl_;
    return fmt::format("strassen k={} n={} nr={} vector={} half={}", s.shape.k, s.shape.n, s.width.nr, s.width.vector,
                       s.half);
}

int64_t StrassenPlan::packed_size() const {
    const Impl& s = *impl_;
    return s.rest_offset() + (s.shape.n > s.paired_columns() ? s.rest.layout().size() : 0);
}

void StrassenPlan::pack(const float* b, int64_t ldb, bool transposed, float* packed, ThreadPool& pool,
                        int max_threads) const {
    const Impl& s = *impl_;
    const int64_t nr = s.width.nr, size = s.block_floats();
    const auto column = [&](int64_t at) { return b + at * (transposed ? ldb : 1); };
    const auto pack_pair = [&](int64_t pair) {
        const PackLayout layout{s.shape.k, 2 * nr, s.width.nr, s.width.vector};
        std::vector<float> panels(static_cast<size_t>(layout.size()));
        pack_b(column(2 * pair * nr), ldb, transposed, layout, panels.data());
        for (int64_t chunk = 0; chunk < s.chunks; ++chunk) {
            const auto quarter = [&](Quarter q) {
                const int64_t row = (2 * chunk + row_of(q)) * s.half;
                return BlockView{panels.data() + layout.panel_offset(column_of(q)) + row * nr, size, 1};
            };
            for (int64_t p = 0; p < 7; ++p) {
                const Combination& sum = kProducts[p].b;
                float* block = packed + s.block_offset(chunk, pair) + p * size;
                s.functions->block_sum({quarter(sum.x), quarter(sum.y), sum.sign, block, size, size}, 0, 1);
            }
        }
    };
    pool.parallel_for(s.pairs(), max_threads, [&](int64_t pair, int) { pack_pair(pair); });
    if (s.shape.n > s.paired_columns())
        pack_b(column(s.paired_columns()), ldb, transposed, s.rest.layout(), packed + s.rest_offset());
}

size_t StrassenPlan::workspace(int max_threads) const {
    const Impl& s = *impl_;
    const int64_t floats = s.a_floats() + std::max(1, max_threads) * s.thread_floats();
    return static_cast<size_t>(floats) * sizeof(float);
}

void StrassenPlan::run(const float* a, const float* packed_b, float* c, std::span<const float* const> operands,
                       void* workspace, ThreadPool& pool, int max_threads) const {
    const Impl& s = *impl_;
    const int64_t has_rest = s.shape.n > s.paired_columns() ? 1 : 0;
    float* scratch = static_cast<float*>(workspace);
    for (int64_t i = 0; i < s.groups * s.chunks; ++i) {
        const int64_t first_row = i / s.chunks * s.group_rows, rows = std::min(s.group_rows, s.shape.m - first_row);
        const Impl::Part part{a, packed_b, c, operands, scratch, first_row, rows, i % s.chunks};
        const int64_t pieces = std::min<int64_t>(part.half_rows(), 2 * max_threads);
        pool.parallel_for(pieces, max_threads, [&](int64_t piece, int) {
            s.sum_rows_of_a(part, part.half_rows() * piece / pieces, part.half_rows() * (piece + 1) / pieces);
        });
        const int64_t rest = i == 0 ? has_rest : 0;
        pool.parallel_for(rest + s.pairs(), max_threads, [&](int64_t task, int thread) {
            if (task < rest) return s.multiply_rest(part);
            s.multiply_pair(part, task - rest, scratch + s.a_floats() + thread * s.thread_floats());
        });
    }
}

}  // namespace planish::cpu
