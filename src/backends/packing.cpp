// Packing: the panels' pieces are independent, so they are packed in parallel.
#include "backends/packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/cpu/jit/i8_product.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

constexpr int64_t kTaskFloats = 1 << 16;  // 256 KB: below, another thread costs more than it saves

}  // namespace

cpu::PackLayout Packing::layout() const {
    if (!bytes) return {k, n, nr, vector};
    const int64_t segment = k / segments;
    return {segments * cpu::ByteSteps::of(segment).count(segment), n, nr, vector};
}

namespace {

/// Where the rows of an int8 B come from, as cpu::pack_i8 asks.
std::vector<int64_t> row_offsets(const Packing& p) {
    std::vector<int64_t> offsets = cpu::packed_rows(p.segments, p.k / p.segments);
    const int64_t channels = p.k / p.taps;
    for (int64_t& row : offsets)
        if (row >= 0) row = p.taps > 1 ? row % channels * p.taps + row / channels : p.transposed ? row : row * p.n;
    return offsets;
}

}  // namespace

void Packing::pack(const void* source, void* packed, int threads) const {
    const cpu::PackLayout panels = layout();
    if (panels.panels() == 0 || k == 0) return;
    const int64_t step = std::max<int64_t>(1, kTaskFloats / (panels.k * nr));
    const int64_t tasks = (panels.panels() + step - 1) / step;
    const std::vector<int64_t> offsets = bytes ? row_offsets(*this) : std::vector<int64_t>{};
    const auto run = [&](int64_t task, int) {
        const int64_t group = task / tasks, first = task % tasks * step;
        const int64_t last = std::min(panels.panels(), first + step);
        float* to = static_cast<float*>(packed) + group * panels.size();
        if (bytes) {
            const int8_t* from = static_cast<const int8_t*>(source) + group * k * n;
            cpu::pack_i8_panels(from, offsets, transposed ? k : 1, panels, first, last, reinterpret_cast<int8_t*>(to));
            return;
        }
        const float* from = static_cast<const float*>(source) + group * k * n;
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
    for (int64_t group = 0; bytes && group < groups; ++group) {
        const auto* matrix = static_cast<const int8_t*>(packed) + 4 * group * panels.size();
        const std::vector<int32_t> sums = cpu::column_sums(matrix, panels);
        auto* to = static_cast<int32_t*>(packed) + groups * panels.size() + group * n;
        std::copy(sums.begin(), sums.end(), to);
    }
}

void Packing::unpack(const void* packed, void* source) const {
    const cpu::PackLayout panels = layout();
    const std::vector<int64_t> offsets = bytes ? row_offsets(*this) : std::vector<int64_t>{};
    for (int64_t group = 0; group < groups; ++group) {
        const float* from = static_cast<const float*>(packed) + group * panels.size();
        float* to = static_cast<float*>(source) + group * k * n;
        if (bytes)
            cpu::unpack_i8(reinterpret_cast<const int8_t*>(from), offsets, transposed ? k : 1, panels,
                           static_cast<int8_t*>(source) + group * k * n);
        else if (taps > 1)
            cpu::unpack_conv_weights(from, k / taps, taps, panels, to);
        else
            cpu::unpack_b(from, panels, to, transposed ? k : n, transposed);
    }
}

std::span<const int32_t> Packing::column_sums(const void* packed) const {
    return {static_cast<const int32_t*>(packed) + groups * layout().size(), static_cast<size_t>(groups * n)};
}

bool Packing::is_valid_for(int64_t elements) const {
    constexpr int32_t kMaxVector = 64, kMaxPanel = 1 << 16;
    if (k < 1 || n < 1 || groups < 1 || taps < 1 || vector < 1 || vector > kMaxVector) return false;
    if (nr < vector || nr > kMaxPanel || nr % vector != 0 || k % taps != 0 || (taps > 1 && !transposed)) return false;
    if (segments < 1 || k % segments != 0 || (segments > 1 && !bytes)) return false;
    int64_t matrix = 0, all = 0;
    if (__builtin_mul_overflow(k, n, &matrix) || __builtin_mul_overflow(matrix, groups, &all)) return false;
    // At most `vector` times as many floats as elements, and a sum for each: no overflow below that.
    return all == elements && elements <= (int64_t{1} << 48);
}

std::string to_string(const Packing& p) {
    return fmt::format("{} k={} n={} groups={} taps={} nr={} vector={} transposed={:d}{}",
                       p.bytes ? "byte panels" : "panels", p.k, p.n, p.groups, p.taps, p.nr, p.vector, p.transposed,
                       p.bytes ? fmt::format(" segments={}", p.segments) : "");
}

Tensor PackedSource::make() const {
    Tensor source(packing_.dtype(), {packing_.source_size()});
    packing_.unpack(packed_.raw(), source.raw());
    return source;
}

Tensor packed_constant(Dims dims, Tensor packed, const Packing& packing) {
    if (packed.dtype() != DType::f32 || packed.size() != packing.size())
        fail(ErrorCode::internal, "packed weights do not have the size that their packing says");
    return Tensor(packing.dtype(), std::move(dims), std::make_shared<const PackedSource>(std::move(packed), packing));
}

const PackedSource* packed_source(const Tensor& constant) {
    return dynamic_cast<const PackedSource*>(constant.source());
}

}  // namespace planish
