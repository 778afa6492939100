// Packing: the panels' pieces are independent, so they are packed in parallel.
#include "backends/packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

constexpr int64_t kTaskFloats = 1 << 16;  // 256 KB: below, another thread costs more than it saves

}  // namespace

void Packing::pack(const float* source, float* packed, int threads) const {
    const cpu::PackLayout panels = layout();
    if (panels.panels() == 0 || k == 0) return;
    const int64_t step = std::max<int64_t>(1, kTaskFloats / (k * nr));
    const int64_t tasks = (panels.panels() + step - 1) / step;
    const auto run = [&](int64_t task, int) {
        const int64_t group = task / tasks, first = task % tasks * step;
        const int64_t last = std::min(panels.panels(), first + step);
        const float* from = source + group * k * n;
        float* to = packed + group * panels.size();
        if (taps > 1)
            cpu::pack_conv_panels(from, k / taps, taps, panels, first, last, to);
        else
            cpu::pack_b_panels(from, transposed ? k : n, transposed, panels, first, last, to);
    };
    if (threads <= 1 || groups * tasks == 1) {
        for (int64_t task = 0; task < groups * tasks; ++task) run(task, 0);
    } else {
        ThreadPool::process().parallel_for(groups * tasks, threads, run);
    }
}

void Packing::unpack(const float* packed, float* source) const {
    for (int64_t group = 0; group < groups; ++group) {
        const float* from = packed + group * layout().size();
        float* to = source + group * k * n;
        if (taps > 1)
            cpu::unpack_conv_weights(from, k / taps, taps, layout(), to);
        else
            cpu::unpack_b(from, layout(), to, transposed ? k : n, transposed);
    }
}

bool Packing::is_valid_for(int64_t elements) const {
    constexpr int32_t kMaxVector = 64, kMaxPanel = 1 << 16;
    if (k < 1 || n < 1 || groups < 1 || taps < 1 || vector < 1 || vector > kMaxVector) return false;
    if (nr < vector || nr > kMaxPanel || nr % vector != 0 || k % taps != 0 || (taps > 1 && !transposed)) return false;
    int64_t matrix = 0, all = 0;
    if (__builtin_mul_overflow(k, n, &matrix) || __builtin_mul_overflow(matrix, groups, &all)) return false;
    // At most `vector` times as many floats as elements: no overflow below that.
    return all == elements && elements <= (int64_t{1} << 48);
}

std::string to_string(const Packing& p) {
    return fmt::format("panels k={} n={} groups={} taps={} nr={} vector={} transposed={}", p.k, p.n, p.groups, p.taps,
                       p.nr, p.vector, p.transposed ? 1 : 0);
}

Tensor PackedSource::make() const {
    Tensor source(DType::f32, {packing_.source_size()});
    packing_.unpack(packed_.data<float>().data(), source.data<float>().data());
    return source;
}

Tensor packed_constant(Dims dims, Tensor packed, const Packing& packing) {
    if (packed.dtype() != DType::f32 || packed.size() != packing.size())
        fail(ErrorCode::internal, "packed weights do not have the size that their packing says");
    return Tensor(DType::f32, std::move(dims), std::make_shared<const PackedSource>(std::move(packed), packing));
}

const PackedSource* packed_source(const Tensor& constant) {
    return dynamic_cast<const PackedSource*>(constant.source());
}

}  // namespace planish
