// Winograd's variant, with A, B and C in quarters:
//     S1 = A21 + A22    T1 = B12 - B11    P1 = A11 B11    P5 = S1 T1    U = P1 + P6
//     S2 = S1 - A11     T2 = B22 - T1     P2 = A12 B21    P6 = S2 T2    V = U + P5
//     S3 = A11 - A21    T3 = B22 - B12    P3 = S4 B22     P7 = S3 T3
//     S4 = A12 - S2     T4 = B21 - T2     P4 = A22 T4
//     C11 = P1 + P2     C12 = V + P3      C21 = U + P7 + P4             C22 = V + P7
// A product's kernel adds what is added to it, so that only C22 takes a pass over memory.
//
// Rows come in groups whose four sums stay in L2; K in chunks, each a product of its own, which are added up in C. The
// two column halves of B are neighbouring panels, whose block of C is made in scratch of consecutive lines: C's own
// rows, often a multiple of 4 KB apart, would evict each other from L1. The packed B has, for each chunk and pair of
// panels, the seven blocks in the order of the products, so that it is read as one stream; then come the columns that
// have no neighbour.
#include "backends/cpu/jit/strassen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>
#include <vector>

#include "backends/cpu/jit/tile_loop.hpp"
#include "backends/cpu/kernels/kernels.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kGroupRows = 256;    // of A: the four sums of one group and chunk are about 0.8 MB
constexpr int64_t kLongestHalf = 512;  // rows of B in half a chunk
constexpr int64_t kLeastRows = 32, kLeastHalf = 64;
constexpr int64_t kOneSegment[1] = {0};

enum Quarter : uint8_t { q11, q12, q21, q22 };

/// The sums of A's quarters that are kept; A22 only where it lacks the last row.
enum Sum : uint8_t { s1, s2, s3, s4, a22, kSums };

/// Blocks of the packed B, in the order of their products.
enum Block : uint8_t { b11, b21, t2, t3, t1, b22, t4, kBlocks };

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
    static constexpr size_t kMostOperands = 16;

    /// For groups of as many rows: products to which none, one or two blocks are added, and the post-ops of a pair of
    /// panels, as products with zero.
    struct Loops {
        std::array<TileLoop, 3> product;
        TileLoop epilogue;
    };

    GemmShape shape;
    PanelWidth width;
    const KernelTable* functions = nullptr;
    int64_t half = 0, chunks = 0;        // rows of B in half a chunk
    int64_t group_rows = 0, groups = 0;  // rows of A in all groups but the last
    Loops full, last;                    // groups
    TileLoop rest;                       // the columns that are not in a pair of panels
    bool has_post_ops = false;
    size_t own_operand = 0;    // of the epilogue's: C itself
    std::vector<float> zeros;  // one row of paired columns

    int64_t pairs() const { return shape.n / (2 * width.nr); }
    int64_t paired_columns() const { return pairs() * 2 * width.nr; }
    int64_t half_rows() const { return ceil_div(group_rows, 2); }
    int64_t a_floats() const { return kSums * half_rows() * half; }
    int64_t block_floats() const { return half * width.nr; }
    int64_t block_offset(int64_t chunk, int64_t pair) const {
        return (chunk * pairs() + pair) * kBlocks * block_floats();
    }
    int64_t rest_offset() const { return block_offset(chunks, 0); }
    int64_t product_floats() const { return ceil_div(half_rows() * width.nr, 16) * 16; }
    int64_t thread_floats() const { return 4 * product_floats(); }

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

    const Loops& loops(const Part& part) const { return part.rows == group_rows ? full : last; }

    BlockView quarter_of_a(const Part& part, Quarter q) const {
        const float* origin = part.a + part.first_row * shape.lda + part.chunk * 2 * half;
        return {origin + row_of(q) * part.half_rows() * shape.lda + column_of(q) * half, shape.lda,
                part.rows_of(row_of(q))};
    }
    BlockView sum_of_a(const Part& part, Sum sum) const {
        return {part.a_sums + sum * part.half_rows() * half, half, part.half_rows()};
    }

    void sum_rows_of_a(const Part& part, int64_t begin, int64_t end) const {
        const auto a = [&](Quarter q) { return quarter_of_a(part, q); };
        const auto make = [&](Sum sum, const BlockView& x, float sign, const BlockView& y) {
            float* output = part.a_sums + sum * part.half_rows() * half;
            functions->block_sum({x, y, sign, output, half, half}, begin, end);
        };
        make(s1, a(q21), 1, a(q22));
        make(s2, sum_of_a(part, s1), -1, a(q11));
        make(s3, a(q11), -1, a(q21));
        make(s4, a(q12), -1, sum_of_a(part, s2));
        if (part.rows % 2 != 0) make(a22, a(q22), 0, a(q22));
    }

    void multiply_pair(const Part& part, int64_t pair, float* scratch) const {
        const int64_t nr = width.nr;
        const float* blocks = part.packed_b + block_offset(part.chunk, pair);
        const auto buffer = [&](int64_t i) { return scratch + i * product_floats(); };
        float *const u = buffer(0), *const p7 = buffer(1), *const v = buffer(2), *const sum = buffer(3);
        const auto a = [&](Quarter q) { return quarter_of_a(part, q); };
        const auto multiply = [&](const BlockView& x, Block block, float* product,
                                  std::initializer_list<const float*> added) {
            const float* b = blocks + block * block_floats();
            run_product(loops(part).product[added.size()], x, b, product, added.begin());
        };
        const auto put = [&](const float* block, Quarter q, bool first) {
            float* c =
                part.c + (part.first_row + row_of(q) * part.half_rows()) * shape.ldc + (2 * pair + column_of(q)) * nr;
            const BlockAddArgs::Target target{c, part.rows_of(row_of(q)), 1, first};
            functions->block_add({block, nr, nr, {target, {}}, shape.ldc}, 0, part.half_rows());
        };
        const bool first = part.chunk == 0;
        multiply(a(q11), b11, u, {});
        multiply(a(q12), b21, sum, {u});
        put(sum, q11, first);
        multiply(sum_of_a(part, s2), t2, u, {u});
        multiply(sum_of_a(part, s3), t3, p7, {});
        multiply(sum_of_a(part, s1), t1, v, {u});
        put(v, q22, first);
        put(p7, q22, false);
        multiply(sum_of_a(part, s4), b22, sum, {v});
        put(sum, q12, first);
        multiply(part.rows % 2 == 0 ? a(q22) : sum_of_a(part, a22), t4, sum, {u, p7});
        put(sum, q21, first);
        if (part.chunk + 1 == chunks && has_post_ops) finish(part, pair);
    }

    void run_product(const TileLoop& loop, const BlockView& a, const float* b, float* product,
                     const float* const* added) const {
        TileLoop::Call call;
        call.a = a.data;
        call.b = b;
        call.next = b + block_floats();
        call.c = product;
        call.operands = added;
        call.segment_offsets = kOneSegment;
        call.lda = a.stride * 4;
        call.ldc = width.nr * 4;
        call.last_tile = loop.tiles();
        call.last_panel = 1;
        loop.run(call);
    }

    void finish(const Part& part, int64_t pair) const {
        const TileLoop& loop = loops(part).epilogue;
        std::array<const float*, kMostOperands> operands{};
        std::copy_n(part.operands.begin(), own_operand, operands.begin());
        operands[own_operand] = part.c;
        TileLoop::Call call;
        call.a = call.b = call.next = zeros.data();
        call.c = part.c + part.first_row * shape.ldc;
        call.operands = operands.data();
        call.segment_offsets = kOneSegment;
        call.ldc = shape.ldc * 4;
        call.tensor_offset = part.first_row * shape.ldc * 4;
        call.last_tile = loop.tiles();
        call.first_panel = 2 * pair;
        call.last_panel = 2 * pair + 2;
        loop.run(call);
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
    impl->has_post_ops = !post_ops.empty();
    for (const PostOp& op : post_ops)
        if (has_tensor_operand(op.kind) || has_channel_operand(op.kind))
            impl->own_operand = std::max(impl->own_operand, static_cast<size_t>(op.operand) + 1);
    if (impl->own_operand >= Impl::kMostOperands) fail(ErrorCode::internal, "a product with too many operands");
    impl->zeros.resize(static_cast<size_t>(impl->paired_columns()));
    PostOps epilogue = {{PostOp::Kind::add_tensor, 0, 0, static_cast<int>(impl->own_operand)}};
    epilogue.insert(epilogue.end(), post_ops.begin(), post_ops.end());
    const auto loops_of = [&](int64_t rows) {
        Impl::Loops loops;
        PostOps additions;
        for (int added = 0; added < 3; ++added) {
            loops.product[static_cast<size_t>(added)] =
                TileLoop({ceil_div(rows, 2), width.nr, impl->half}, additions, isa, width);
            additions.push_back({PostOp::Kind::add_tensor, 0, 0, added});
        }
        if (impl->has_post_ops) loops.epilogue = TileLoop({rows, impl->paired_columns(), 1}, epilogue, isa, width);
        return loops;
    };
    impl->full = loops_of(impl->group_rows);
    impl->last = loops_of(last_rows);
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
    return fmt::format("strassen_winograd k={} n={} nr={} vector={} half={}", s.shape.k, s.shape.n, s.width.nr,
                       s.width.vector, s.half);
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
            float* const blocks = packed + s.block_offset(chunk, pair);
            const auto block = [&](Block b) { return BlockView{blocks + b * size, size, 1}; };
            const auto make = [&](Block b, const BlockView& x, float sign, const BlockView& y) {
                s.functions->block_sum({x, y, sign, blocks + b * size, size, size}, 0, 1);
            };
            for (const auto& [b, q] : {std::pair(b11, q11), std::pair(b21, q21), std::pair(b22, q22)})
                make(b, quarter(q), 0, quarter(q));
            make(t1, quarter(q12), -1, quarter(q11));
            make(t2, quarter(q22), -1, block(t1));
            make(t3, quarter(q22), -1, quarter(q12));
            make(t4, quarter(q21), -1, block(t2));
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
