// Blocked matrix product in double precision. Operands are packed into panels of kMr rows and kNr columns, so that the
// inner kernel reads both with unit stride and keeps a kMr x kNr tile of C in registers.
#include "reference/blocked_gemm.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "base/thread_pool.hpp"

namespace planish::reference {

namespace {

constexpr int64_t kMr = 6, kNr = 8;  // 6 x 8 doubles: 6 registers of 512 bit, or 12 of 256 bit
constexpr int64_t kKc = 256;         // a panel of B is 16 KB: half of a first-level cache
constexpr int64_t kMc = 96;          // a block of A is 192 KB: in the second-level cache
constexpr int64_t kNc = 512;         // a block of B is 1 MB

// A vector of doubles of the widest kind; the compiler splits it where the target's registers are narrower.
typedef double Vector __attribute__((vector_size(64), aligned(64), may_alias));

/// tile[kMr][kNr] = A panel * B panel over k; b and tile are aligned to 64 bytes.
[[gnu::always_inline]] inline void kernel_body(int64_t k, const double* a, const double* b, double* tile) {
    Vector c0{}, c1{}, c2{}, c3{}, c4{}, c5{};
    for (int64_t p = 0; p < k; ++p, a += kMr, b += kNr) {
        const Vector row = *reinterpret_cast<const Vector*>(b);
        c0 += row * a[0];
        c1 += row * a[1];
        c2 += row * a[2];
        c3 += row * a[3];
        c4 += row * a[4];
        c5 += row * a[5];
    }
    auto* out = reinterpret_cast<Vector*>(tile);
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
    out[4] = c4;
    out[5] = c5;
}

using Kernel = void (*)(int64_t k, const double* a, const double* b, double* tile);

void kernel_baseline(int64_t k, const double* a, const double* b, double* tile) {
    kernel_body(k, a, b, tile);
}
#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] void kernel_avx2(int64_t k, const double* a, const double* b, double* tile) {
    kernel_body(k, a, b, tile);
}
[[gnu::target("avx512f,avx512vl,avx512dq,fma")]] void kernel_avx512(int64_t k, const double* a, const double* b,
                                                                    double* tile) {
    kernel_body(k, a, b, tile);
}
#endif

Kernel best_kernel() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return kernel_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernel_avx2;
#endif
    return kernel_baseline;
}

struct AlignedBuffer {
    explicit AlignedBuffer(int64_t count)
        : data(static_cast<double*>(
              ::operator new (static_cast<size_t>(count) * sizeof(double), std::align_val_t{64}))) {}
    ~AlignedBuffer() { ::operator delete (data, std::align_val_t{64}); }
    AlignedBuffer(const AlignedBuffer&) = delete;
    AlignedBuffer& operator=(const AlignedBuffer&) = delete;
    double* data;
};

int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/// Rows [row, row + rows) x columns [k0, k0 + kc) of A as panels of kMr rows, k-major, zero-padded.
void pack_a(ReadLine read, int64_t row, int64_t rows, int64_t k0, int64_t kc, double* out) {
    double line[kKc];
    for (int64_t i = 0; i < round_up(rows, kMr); ++i) {
        double* to = out + i / kMr * kMr * kc + i % kMr;
        if (i < rows)
            read(row + i, k0, kc, line);
        else
            std::fill(line, line + kc, 0.0);
        for (int64_t p = 0; p < kc; ++p) to[p * kMr] = line[p];
    }
}

/// Row k of B, columns [n0, n0 + nc), into line `p` of panels of kNr columns that are kc lines long.
void pack_b_line(ReadLine read, int64_t k, int64_t n0, int64_t nc, int64_t p, int64_t kc, double* out) {
    double line[kNc];
    read(k, n0, nc, line);
    std::fill(line + nc, line + round_up(nc, kNr), 0.0);
    for (int64_t j = 0; j < nc; j += kNr) std::copy(line + j, line + j + kNr, out + j * kc + p * kNr);
}

}  // namespace

void blocked_gemm(int64_t m, int64_t n, int64_t k, ReadLine a, ReadLine b, double* c) {
    if (m == 0 || n == 0 || k == 0) return;
    static const Kernel kernel = best_kernel();
    ThreadPool& pool = ThreadPool::process();
    const int threads = m * n * k < (1 << 15) ? 1 : pool.size();
    AlignedBuffer packed_b(kKc * round_up(std::min(n, kNc), kNr));
    const int64_t row_blocks = (m + kMc - 1) / kMc;
    const int64_t block_rows = round_up((m + row_blocks - 1) / row_blocks, kMr);
    std::vector<std::unique_ptr<AlignedBuffer>> packed_a(static_cast<size_t>(threads));

    for (int64_t n0 = 0; n0 < n; n0 += kNc) {
        const int64_t nc = std::min(kNc, n - n0);
        for (int64_t k0 = 0; k0 < k; k0 += kKc) {
            const int64_t kc = std::min(kKc, k - k0);
            constexpr int64_t kLinesPerTask = 16;
            pool.parallel_for((kc + kLinesPerTask - 1) / kLinesPerTask, threads, [&](int64_t task, int) {
                const int64_t end = std::min(kc, (task + 1) * kLinesPerTask);
                for (int64_t p = task * kLinesPerTask; p < end; ++p)
                    pack_b_line(b, k0 + p, n0, nc, p, kc, packed_b.data);
            });
            // Tasks are tiles of (block of rows) x (group of column panels); few rows are shared out by columns.
            const int64_t panels = (nc + kNr - 1) / kNr;
            const int64_t groups = row_blocks >= 2 * threads ? 1 : std::min<int64_t>(panels, 2 * threads);
            pool.parallel_for(row_blocks * groups, threads, [&](int64_t task, int thread) {
                const int64_t row = task / groups * block_rows, rows = std::min(block_rows, m - row);
                if (rows <= 0) return;
                auto& mine = packed_a[static_cast<size_t>(thread)];
                if (!mine) mine = std::make_unique<AlignedBuffer>(kKc * block_rows);
                pack_a(a, row, rows, k0, kc, mine->data);
                const int64_t group = task % groups;
                for (int64_t panel = panels * group / groups; panel < panels * (group + 1) / groups; ++panel) {
                    const int64_t column = panel * kNr, columns = std::min(kNr, nc - column);
                    for (int64_t i = 0; i < rows; i += kMr) {
                        alignas(64) double tile[kMr * kNr];
                        kernel(kc, mine->data + i * kc, packed_b.data + column * kc, tile);
                        const int64_t height = std::min(kMr, rows - i);
                        for (int64_t r = 0; r < height; ++r) {
                            double* to = c + (row + i + r) * n + n0 + column;
                            for (int64_t j = 0; j < columns; ++j) to[j] += tile[r * kNr + j];
                        }
                    }
                }
            });
        }
    }
}

}  // namespace planish::reference
