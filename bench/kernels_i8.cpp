// Integer kernels on the layers of well-known networks, in 10^9 operations a second and as a share of four times the
// FMA peak, which is what VNNI does: four products for one.
#include <benchmark/benchmark.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv_i8.hpp"
#include "backends/cpu/jit/gemm_i8.hpp"
#include "backends/cpu/roofline.hpp"
#include "base/aligned_buffer.hpp"
#include "base/thread_pool.hpp"
#include "bench/problems.hpp"

namespace planish::cpu {
namespace {

constexpr ByteFormat kInput{0.02F, 128}, kOutput{6.0F / 255, 0};

double peak_operations(int threads) {
    static std::map<int, double> known;
    double& peak = known[threads];
    if (peak == 0) peak = 4 * measure_roofline(hardware_isa(), ThreadPool::process(), threads, 1).flops;
    return peak;
}

template <typename T>
std::vector<T> make_bytes(int64_t count) {
    std::vector<T> bytes(static_cast<size_t>(count));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<T>(i * 7919 % 255 - 127);
    return bytes;
}

/// Times `run(pool, threads)`, where state.range(0) = threads.
template <typename Run>
void measure(benchmark::State& state, double operations, const Run& run) {
    ThreadPool& pool = ThreadPool::process();
    const int threads = static_cast<int>(state.range(0));
    for (auto _ : state) run(pool, threads);
    const double total = operations * static_cast<double>(state.iterations());
    state.counters["GOP/s"] = benchmark::Counter(total * 1e-9, benchmark::Counter::kIsRate);
    state.counters["of_peak"] = benchmark::Counter(total / peak_operations(threads), benchmark::Counter::kIsRate);
}

void run_gemm(benchmark::State& state, const GemmShape& s, Isa isa) {
    const GemmI8Plan plan({s.m, s.n, s.k}, {{PostOp::Kind::clip, 0, 6}}, kOutput, isa);
    const auto a = make_bytes<uint8_t>(s.m * s.k);
    const auto b = make_bytes<int8_t>(s.k * s.n);
    const std::vector<float> scales(static_cast<size_t>(s.n), 0.001F), bias(static_cast<size_t>(s.n), 0.5F);
    AlignedBuffer packed(static_cast<size_t>(plan.b_layout().size()) * 4);
    auto* weights = reinterpret_cast<int8_t*>(packed.data());
    plan.pack(b.data(), s.n, false, weights);
    const ColumnTerms terms = plan.terms(weights, kInput, scales, bias);
    std::vector<uint8_t> c(static_cast<size_t>(s.m * s.n));
    measure(state, 2.0 * static_cast<double>(s.m * s.n * s.k),
            [&](ThreadPool& pool, int threads) { plan.run(a.data(), weights, terms, c.data(), {}, pool, threads); });
}

void run_conv(benchmark::State& state, const ConvShape& s, Isa isa) {
    const ConvI8Plan plan(s, {{PostOp::Kind::clip, 0, 6}}, kInput.zero, kOutput, isa);
    const int64_t taps = s.c * s.kh * s.kw, outputs = s.oh() * s.ow() * s.oc;
    const auto x = make_bytes<uint8_t>(s.h * s.w * s.c);
    const auto w = make_bytes<int8_t>(s.oc * taps);
    const std::vector<float> scales(static_cast<size_t>(s.oc), 0.001F), bias(static_cast<size_t>(s.oc), 0.5F);
    AlignedBuffer packed(static_cast<size_t>(plan.packed_weight_size()));
    AlignedBuffer workspace(plan.workspace(static_cast<int>(state.range(0))));
    auto* weights = reinterpret_cast<int8_t*>(packed.data());
    plan.pack_weights(w.data(), weights);
    const ColumnTerms terms = plan.terms(weights, kInput.scale, scales, bias);
    std::vector<uint8_t> y(static_cast<size_t>(outputs));
    measure(state, 2.0 * static_cast<double>(outputs * taps), [&](ThreadPool& pool, int threads) {
        plan.run(x.data(), weights, terms, y.data(), {}, workspace.data(), pool, threads);
    });
}

template <typename Fn>
void add(const std::string& kind, const std::string& name, Isa isa, Fn fn) {
    const int most = ThreadPool::process().size();
    auto* bench =
        benchmark::RegisterBenchmark((kind + "/" + name + "/" + std::string(to_string(isa)) + "/threads").c_str(), fn);
    bench->UseRealTime()->Arg(1);
    if (most > 1) bench->Arg(most);
}

const bool kRegistered = [] {
    for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_vnni}) {
        if (isa > detect_isa()) continue;
        for (const auto& [name, shape] : problems::load<GemmShape>("gemm"))
            add("gemm", name, isa, [=, s = shape](benchmark::State& state) { run_gemm(state, s, isa); });
        for (const auto& [name, shape] : problems::load<ConvShape>("conv"))
            add("conv", name, isa, [=, s = shape](benchmark::State& state) { run_conv(state, s, isa); });
    }
    return true;
}();

}  // namespace
}  // namespace planish::cpu
