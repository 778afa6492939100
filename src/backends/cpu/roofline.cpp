// Two generated loops: one of arithmetic that no memory access holds up, one of loads that no arithmetic does.
#include "backends/cpu/roofline.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "backends/cpu/jit/jit_code.hpp"
#include "base/aligned_buffer.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {
namespace {

constexpr int kRounds = 20;
constexpr int kTasksPerThread = 8;  // so that a thread that wakes late costs a round little
constexpr int64_t kIterations = 4000;
constexpr int64_t kLineBytes = 64, kStepBytes = 8 * kLineBytes;

/// The shortest of some rounds of `tasks` tasks, in seconds.
template <typename F>
double best_round(ThreadPool& pool, int threads, int64_t tasks, const F& task) {
    using Clock = std::chrono::steady_clock;
    double best = 1e30;
    for (int round = 0; round < kRounds; ++round) {
        const auto start = Clock::now();
        pool.parallel_for(tasks, threads, task);
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

/// void(int64_t iterations): 12 independent chains of FMAs, enough for a latency of 4 to 5 at two a cycle.
struct FmaLoop : JitCode {
    static constexpr int kChains = 12, kUnroll = 8;

    explicit FmaLoop(int floats) : JitCode(4096) {
        const auto reg = [&](int r) -> Xbyak::Xmm {
            if (floats == 16) return Xbyak::Zmm(r);
            return Xbyak::Ymm(r);
        };
        for (int r = 0; r < kChains + 2; ++r) vxorps(Xbyak::Xmm(r), Xbyak::Xmm(r), Xbyak::Xmm(r));
        Xbyak::Label loop;
        L(loop);
        for (int i = 0; i < kUnroll * kChains; ++i) vfmadd231ps(reg(i % kChains), reg(kChains), reg(kChains + 1));
        dec(rdi);
        jnz(loop, T_NEAR);
        vzeroupper();
        ret();
        publish("peak_fma_" + std::to_string(floats));
    }
};

double fma_flops(int floats, ThreadPool& pool, int threads) {
    const FmaLoop loop(floats);
    const auto run = loop.getCode<void (*)(int64_t)>();
    const int64_t tasks = int64_t{kTasksPerThread} * threads;
    const double seconds = best_round(pool, threads, tasks, [&](int64_t, int) { run(kIterations); });
    return 2.0 * floats * FmaLoop::kChains * FmaLoop::kUnroll * kIterations * static_cast<double>(tasks) / seconds;
}

/// As above, with products of 8-bit integers summed in 32 bits: four a lane by VNNI, else two widened to 16 bits.
struct IntegerLoop : JitCode {
    static constexpr int kChains = 12, kUnroll = 8;

    IntegerLoop(bool vnni, int lanes) : JitCode(8192) {
        const auto reg = [&](int r) -> Xbyak::Xmm {
            if (lanes == 16) return Xbyak::Zmm(r);
            return Xbyak::Ymm(r);
        };
        for (int r = 0; r < kChains + 3; ++r) vxorps(Xbyak::Xmm(r), Xbyak::Xmm(r), Xbyak::Xmm(r));
        Xbyak::Label loop;
        L(loop);
        for (int i = 0; i < kUnroll * kChains; ++i) {
            if (vnni) {
                vpdpbusd(reg(i % kChains), reg(kChains), reg(kChains + 1));
                continue;
            }
            vpmaddwd(reg(kChains + 2), reg(kChains), reg(kChains + 1));
            vpaddd(reg(i % kChains), reg(i % kChains), reg(kChains + 2));
        }
        dec(rdi);
        jnz(loop, T_NEAR);
        vzeroupper();
        ret();
        publish("peak_integer_" + std::to_string(lanes));
    }
};

double integer_ops(bool vnni, int lanes, ThreadPool& pool, int threads) {
    const IntegerLoop loop(vnni, lanes);
    const auto run = loop.getCode<void (*)(int64_t)>();
    const int64_t tasks = int64_t{kTasksPerThread} * threads;
    const double seconds = best_round(pool, threads, tasks, [&](int64_t, int) { run(kIterations); });
    const int products = lanes * (vnni ? 4 : 2);
    return 2.0 * products * IntegerLoop::kChains * IntegerLoop::kUnroll * kIterations * static_cast<double>(tasks) /
           seconds;
}

double sse_flops(ThreadPool& pool, int threads) {
    constexpr int kChains = 8;
    const int64_t tasks = int64_t{kTasksPerThread} * threads;
    const double seconds = best_round(pool, threads, tasks, [](int64_t, int) {
        __m128 chain[kChains] = {};
        for (int64_t i = 0; i < kIterations; ++i)
            for (__m128& c : chain) {
                c = i % 2 == 0 ? _mm_mul_ps(c, c) : _mm_add_ps(c, c);
                asm volatile("" : "+x"(c));
            }
    });
    return 4.0 * kChains * kIterations * static_cast<double>(tasks) / seconds;
}

/// void(const void* begin, const void* end): one load for each vector, `kStepBytes` an iteration.
struct LoadLoop : JitCode {
    explicit LoadLoop(Isa isa) : JitCode(4096) {
        const int bytes = 4 * vector_floats(isa);
        Xbyak::Label loop;
        L(loop);
        for (int64_t at = 0; at < kStepBytes; at += bytes) {
            const int r = static_cast<int>(at / bytes % 8);
            const auto source = ptr[rdi + static_cast<int>(at)];
            if (isa >= Isa::avx512) {
                vmovaps(Xbyak::Zmm(r), source);
            } else if (isa >= Isa::avx2) {
                vmovaps(Xbyak::Ymm(r), source);
            } else {
                movaps(Xbyak::Xmm(r), source);
            }
        }
        add(rdi, kStepBytes);
        cmp(rdi, rsi);
        jb(loop, T_NEAR);
        if (isa >= Isa::avx2) vzeroupper();
        ret();
        publish("peak_load_" + std::string(to_string(isa)));
    }
};

double read_bandwidth(Isa isa, ThreadPool& pool, int threads, int64_t working_set) {
    const int64_t tasks = int64_t{kTasksPerThread} * threads;
    const int64_t wanted = std::clamp<int64_t>(working_set, 64 << 10, 128 << 20);
    const int64_t piece = (wanted / tasks + kStepBytes - 1) / kStepBytes * kStepBytes;
    AlignedBuffer buffer(static_cast<size_t>(piece * tasks));
    // Written by the threads that will read, so that the pages exist and lie near them.
    pool.parallel_for(tasks, threads,
                      [&](int64_t task, int) { std::fill_n(buffer.data() + task * piece, piece, std::byte{1}); });
    const LoadLoop loop(isa);
    const auto run = loop.getCode<void (*)(const void*, const void*)>();
    // Small sets are read several times a task, so that a round is longer than waking the threads.
    const int64_t repeats = std::max<int64_t>(1, (8 << 20) / (piece * tasks));
    const double seconds = best_round(pool, threads, tasks, [&](int64_t task, int) {
        const std::byte* begin = buffer.data() + task * piece;
        for (int64_t r = 0; r < repeats; ++r) run(begin, begin + piece);
    });
    return static_cast<double>(piece * tasks * repeats) / seconds;
}

}  // namespace

Roofline measure_roofline(Isa isa, ThreadPool& pool, int threads, int64_t working_set) {
    threads = std::clamp(threads, 1, pool.size());
    Roofline roofline;
    if (isa < Isa::avx2) {
        roofline.flops = roofline.integer_ops = sse_flops(pool, threads);
    } else {
        roofline.flops = fma_flops(8, pool, threads);
        if (isa >= Isa::avx512) roofline.flops = std::max(roofline.flops, fma_flops(16, pool, threads));
        const int lanes = isa >= Isa::avx512 ? 16 : 8;
        roofline.integer_ops = integer_ops(isa >= Isa::avx512_vnni, lanes, pool, threads);
    }
    roofline.bandwidth = read_bandwidth(isa, pool, threads, working_set);
    return roofline;
}

}  // namespace planish::cpu
