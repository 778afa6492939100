// What the kernel benchmarks share: timing against the machine's measured peak, and registration.
#pragma once

#include <benchmark/benchmark.h>

#include <map>
#include <string>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/roofline.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu::bench {

/// What operations are counted against.
enum class Peak { flops, integer_ops };

inline double peak(Peak kind, int threads) {
    static std::map<int, Roofline> known;
    Roofline& roofline = known[threads];
    if (roofline.flops == 0) roofline = measure_roofline(hardware_isa(), ThreadPool::process(), threads, 1);
    return kind == Peak::flops ? roofline.flops : roofline.integer_ops;
}

/// Times `run(pool, threads)`, where state.range(0) = threads.
template <typename Run>
void measure(benchmark::State& state, Peak kind, double operations, const Run& run) {
    ThreadPool& pool = ThreadPool::process();
    const int threads = static_cast<int>(state.range(0));
    for (auto _ : state) run(pool, threads);
    const double total = operations * static_cast<double>(state.iterations());
    const char* unit = kind == Peak::flops ? "GFLOP/s" : "GOP/s";
    state.counters[unit] = benchmark::Counter(total * 1e-9, benchmark::Counter::kIsRate);
    state.counters["of_peak"] = benchmark::Counter(total / peak(kind, threads), benchmark::Counter::kIsRate);
}

/// "KIND/NAME/ISA/threads:N", with one thread and with all.
template <typename Fn>
void add(const std::string& kind, const std::string& name, Isa isa, Fn fn) {
    const int most = ThreadPool::process().size();
    auto* bench =
        benchmark::RegisterBenchmark((kind + "/" + name + "/" + std::string(to_string(isa)) + "/threads").c_str(), fn);
    bench->UseRealTime()->Arg(1);
    if (most > 1) bench->Arg(most);
}

}  // namespace planish::cpu::bench
