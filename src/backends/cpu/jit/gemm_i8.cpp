// Plans of integer matrix products: the tile loop of the float32 ones, in steps of four bytes.
#include "backends/cpu/jit/gemm_i8.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/jit/tile_loop.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish::cpu {
namespace {

constexpr int64_t kOneSegment[1] = {0};
// Less work than this is not worth waking a thread for: about 10 microseconds of one core.
constexpr double kProductsPerThread = 2e6, kBytesPerThread = 2e5;

void check(const GemmShape& shape, Isa isa) {
    if (isa < Isa::avx2) {
        fail(ErrorCode::unsupported, "generated matrix products need AVX2, not " + std::string(to_string(isa)),
             "use the reference implementation on this machine");
    }
    if (shape.k < 1 || shape.k > kMostByteProducts) {
        fail(ErrorCode::internal, "an integer product of " + std::to_string(shape.k) + " terms");
    }
}

}  // namespace

struct GemmI8Plan::Impl {
    GemmShape shape;
    ByteEpilogue epilogue;
    TileLoop loop;
};

GemmI8Plan::GemmI8Plan(const GemmShape& shape, PostOps post_ops, const std::optional<ByteFormat>& result, Isa isa,
                       PanelWidth width) {
    check(shape, isa);
    auto impl = std::make_unique<Impl>(Impl{shape, ByteEpilogue(std::move(post_ops), result), {}});
    if (impl->shape.lda == 0) impl->shape.lda = shape.k;
    if (impl->shape.ldc == 0) impl->shape.ldc = shape.n;
    const ByteSteps steps = ByteSteps::of(shape.k);
    const TileLoop::Problem problem{shape.m, shape.n, steps.count(shape.k),
                                    1,       1,       TileLoop::Bytes{steps, impl->epilogue.result()}};
    impl->loop = TileLoop(problem, impl->epilogue.post_ops(), isa, width);
    impl_ = std::move(impl);
}

GemmI8Plan::~GemmI8Plan() = default;
GemmI8Plan::GemmI8Plan(GemmI8Plan&&) noexcept = default;
GemmI8Plan& GemmI8Plan::operator=(GemmI8Plan&&) noexcept = default;

const GemmShape& GemmI8Plan::shape() const {
    return impl_->shape;
}
const PackLayout& GemmI8Plan::b_layout() const {
    return impl_->loop.layout();
}

void GemmI8Plan::pack(const int8_t* b, int64_t ldb, bool transposed, int8_t* packed) const {
    std::vector<int64_t> offsets = packed_rows(1, shape().k);
    if (!transposed)
        for (int64_t& row : offsets) row = row < 0 ? row : row * ldb;
    pack_i8(b, offsets, transposed ? ldb : 1, b_layout(), packed);
}

ColumnTerms GemmI8Plan::terms(const int8_t* packed, const ByteFormat& a, std::span<const float> scales,
                              std::span<const float> bias) const {
    return terms(column_sums(packed, b_layout()), a, scales, bias);
}

ColumnTerms GemmI8Plan::terms(std::span<const int32_t> sums, const ByteFormat& a, std::span<const float> scales,
                              std::span<const float> bias) const {
    return impl_->epilogue.terms(sums, a, scales, bias);
}

void GemmI8Plan::run(const uint8_t* a, const int8_t* packed_b, const Columns& columns, void* c,
                     std::span<const float* const> operands, ThreadPool& pool, int max_threads) const {
    const GemmShape& s = impl_->shape;
    const TileLoop& loop = impl_->loop;
    TileLoop::Call call;
    call.a = reinterpret_cast<const float*>(a);
    call.b = reinterpret_cast<const float*>(packed_b);
    call.c = static_cast<float*>(c);
    call.operands = operands.data();
    call.segment_offsets = kOneSegment;
    call.lda = s.lda;
    call.ldc = s.ldc * loop.problem().c_element();
    call.start = columns.start;
    call.scale = columns.scale;
    call.bias = columns.bias;
    const auto m = static_cast<double>(s.m), n = static_cast<double>(s.n), k = static_cast<double>(s.k);
    const double useful = std::max({1.0, m * n * k / kProductsPerThread, n * k / kBytesPerThread});
    const int threads = static_cast<int>(std::min<double>(useful, std::min(max_threads, pool.size())));
    const TaskGrid grid = split_tasks(loop, threads);
    pool.parallel_ranges(grid.units(), grid.grain, threads,
                         [&](int64_t begin, int64_t end, int) { grid.run(loop, call, begin, end); });
}

}  // namespace planish::cpu
