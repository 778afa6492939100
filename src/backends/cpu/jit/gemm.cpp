// Plans of matrix products: how the tile loop is cut into tasks for threads.
#include "backends/cpu/jit/gemm.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "backends/cpu/jit/tile_loop.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kOneSegment[1] = {0};
// Less work than this is not worth waking a thread for: about 10 microseconds of one core. A matrix of few rows is
// bound by reading B.
constexpr double kFlopsPerThread = 1e6, kBytesPerThread = 2e5;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

void check(const PostOps& post_ops, Isa isa) {
    if (isa < Isa::avx2) {
        fail(ErrorCode::unsupported, "generated matrix products need AVX2, not " + std::string(to_string(isa)),
             "use the reference implementation on this machine");
    }
    for (const PostOp& op : post_ops) {
        const bool needs_operand = has_channel_operand(op.kind) || has_tensor_operand(op.kind);
        if (needs_operand && op.operand < 0) fail(ErrorCode::internal, "a post-op lacks its operand");
    }
}

int useful_threads(double m, double n, double k, int max_threads, const ThreadPool& pool) {
    const double useful = std::max({1.0, 2 * m * n * k / kFlopsPerThread, 4 * n * k / kBytesPerThread});
    return static_cast<int>(std::min<double>(useful, std::min(max_threads, pool.size())));
}

}  // namespace

struct GemmPlan::Impl {
    GemmShape shape;
    TileLoop loop;

    TileLoop::Call call(const float* a, const float* packed_b, float* c, const float* const* operands) const {
        TileLoop::Call call;
        call.a = a;
        call.b = packed_b;
        call.c = c;
        call.operands = operands;
        call.segment_offsets = kOneSegment;
        call.lda = shape.lda * 4;
        call.ldc = shape.ldc * 4;
        call.last_tile = loop.tiles();
        call.last_panel = loop.panels();
        return call;
    }
};

GemmPlan::GemmPlan(const GemmShape& shape, PostOps post_ops, Isa isa, PanelWidth width) {
    check(post_ops, isa);
    auto impl = std::make_unique<Impl>();
    impl->shape = shape;
    if (impl->shape.lda == 0) impl->shape.lda = shape.k;
    if (impl->shape.ldc == 0) impl->shape.ldc = shape.n;
    impl->loop = TileLoop({shape.m, shape.n, shape.k, 1}, post_ops, isa, width);
    impl_ = std::move(impl);
}

GemmPlan::~GemmPlan() = default;
GemmPlan::GemmPlan(GemmPlan&&) noexcept = default;
GemmPlan& GemmPlan::operator=(GemmPlan&&) noexcept = default;

const GemmShape& GemmPlan::shape() const {
    return impl_->shape;
}
const PackLayout& GemmPlan::b_layout() const {
    return impl_->loop.layout();
}

void GemmPlan::run_serial(const float* a, const float* packed_b, float* c,
                          std::span<const float* const> operands) const {
    impl_->loop.run(impl_->call(a, packed_b, c, operands.data()));
}

void GemmPlan::run(const float* a, const float* packed_b, float* c, std::span<const float* const> operands,
                   ThreadPool& pool, int max_threads) const {
    const GemmShape& s = impl_->shape;
    const TileLoop& loop = impl_->loop;
    const int threads =
        useful_threads(static_cast<double>(s.m), static_cast<double>(s.n), static_cast<double>(s.k), max_threads, pool);
    const TaskGrid grid = split_tasks(loop, threads);
    const TileLoop::Call call = impl_->call(a, packed_b, c, operands.data());
    pool.parallel_ranges(grid.units(), grid.grain, threads,
                         [&](int64_t begin, int64_t end, int) { grid.run(loop, call, begin, end); });
}

struct BatchedGemmPlan::Impl {
    BatchedGemmShape shape;
    TileLoop loop;

    int64_t panel_floats() const { return ceil_div(loop.layout().width(0) * shape.k, 16) * 16; }
};

BatchedGemmPlan::BatchedGemmPlan(const BatchedGemmShape& shape, PostOps post_ops, Isa isa) {
    check(post_ops, isa);
    auto impl = std::make_unique<Impl>();
    impl->shape = shape;
    if (impl->shape.lda == 0) impl->shape.lda = shape.k;
    if (impl->shape.ldb == 0) impl->shape.ldb = shape.b_transposed ? shape.k : shape.n;
    if (impl->shape.ldc == 0) impl->shape.ldc = shape.n;
    const TileLoop::Problem problem{shape.m, shape.n, shape.k, 1};
    impl->loop = TileLoop(problem, post_ops, isa, choose_panel_width(isa, problem));
    impl_ = std::move(impl);
}

BatchedGemmPlan::~BatchedGemmPlan() = default;
BatchedGemmPlan::BatchedGemmPlan(BatchedGemmPlan&&) noexcept = default;
BatchedGemmPlan& BatchedGemmPlan::operator=(BatchedGemmPlan&&) noexcept = default;

const BatchedGemmShape& BatchedGemmPlan::shape() const {
    return impl_->shape;
}

size_t BatchedGemmPlan::workspace(int max_threads) const {
    return static_cast<size_t>(impl_->panel_floats() * std::max(1, max_threads)) * sizeof(float);
}

// A panel of B is packed by the thread that uses it next, so it is still in that core's cache.
void BatchedGemmPlan::run(const float* a, const float* b, float* c, const BatchedGemmOffsets& offsets,
                          std::span<const float* const> operands, void* workspace, ThreadPool& pool,
                          int max_threads) const {
    const BatchedGemmShape& s = impl_->shape;
    const TileLoop& loop = impl_->loop;
    const PackLayout& layout = loop.layout();
    const int threads = useful_threads(static_cast<double>(s.m), static_cast<double>(s.batch * s.n),
                                       static_cast<double>(s.k), max_threads, pool);
    const int64_t panels = loop.panels();
    const auto run_panel = [&](int64_t task, int thread) {
        const auto i = static_cast<size_t>(task / panels);
        const int64_t panel = task % panels;
        float* packed = static_cast<float*>(workspace) + thread * impl_->panel_floats();
        // The tile loop addresses panels from the start of the packed matrix.
        float* origin = packed - layout.panel_offset(panel);
        pack_b_panels(b + offsets.b[i], s.ldb, s.b_transposed, layout, panel, panel + 1, origin);
        TileLoop::Call call;
        call.a = a + offsets.a[i];
        call.b = origin;
        call.c = c + offsets.c[i];
        call.operands = operands.data();
        call.segment_offsets = kOneSegment;
        call.lda = s.lda * 4;
        call.ldc = s.ldc * 4;
        call.tensor_offset = offsets.c[i] * 4;
        call.last_tile = loop.tiles();
        call.first_panel = panel;
        call.last_panel = panel + 1;
        loop.run(call);
    };
    if (threads <= 1) {
        for (int64_t task = 0; task < s.batch * panels; ++task) run_panel(task, 0);
    } else {
        pool.parallel_for(s.batch * panels, threads, run_panel);
    }
}

}  // namespace planish::cpu
