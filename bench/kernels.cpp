// Matrix products and convolutions of well-known networks, in GFLOP/s and as a share of the core's measured FMA peak.
// Problems: bench/problems/{gemm,conv}.txt, found beside the source or in $PLANISH_BENCH_PROBLEMS.
#include <benchmark/benchmark.h>
#include <xbyak/xbyak.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv.hpp"
#include "backends/cpu/jit/gemm.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {
namespace {

/// 12 independent chains of FMA, which no memory access holds up.
struct PeakLoop : Xbyak::CodeGenerator {
    static constexpr int kChains = 12, kRounds = 8;
    explicit PeakLoop(bool wide) : CodeGenerator(4096, Xbyak::AutoGrow) {
        Xbyak::Label loop;
        const auto reg = [&](int r) -> Xbyak::Xmm {
            if (wide) return Xbyak::Zmm(r);
            return Xbyak::Ymm(r);
        };
        for (int r = 0; r <= kChains + 1; ++r) vxorps(Xbyak::Xmm(r), Xbyak::Xmm(r), Xbyak::Xmm(r));
        L(loop);
        for (int i = 0; i < kRounds * kChains; ++i) vfmadd231ps(reg(i % kChains), reg(kChains), reg(kChains + 1));
        dec(rdi);
        jnz(loop, T_NEAR);
        vzeroupper();
        ret();
        ready(PROTECT_RE);
    }
};

double peak_gflops(bool wide) {
    const PeakLoop code(wide);
    const auto loop = code.getCode<void (*)(int64_t)>();
    constexpr int64_t kIterations = 20000;
    const double flops = 2.0 * (wide ? 16 : 8) * PeakLoop::kChains * PeakLoop::kRounds * kIterations;
    double best = 0;
    for (int i = 0; i < 20; ++i) {
        const auto start = std::chrono::steady_clock::now();
        loop(kIterations);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        best = std::max(best, flops / took.count() * 1e-9);
    }
    return best;
}

double peak_gflops() {
    static const double peak = std::max(peak_gflops(false), hardware_isa() >= Isa::avx512 ? peak_gflops(true) : 0.0);
    return peak;
}

struct AlignedDelete {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], AlignedDelete>;

Floats make_floats(int64_t count) {
    Floats floats(
        static_cast<float*>(::operator new (static_cast<size_t>(count + 16) * sizeof(float), std::align_val_t{64})));
    for (int64_t i = 0; i < count; ++i) floats[static_cast<size_t>(i)] = static_cast<float>(i * 7919 % 1000) * 1e-3F;
    return floats;
}

const PostOps kBiasRelu = {{PostOp::Kind::add_channel, 0, 0, 0}, {PostOp::Kind::relu}};

void report(benchmark::State& state, double flops) {
    const double total = flops * static_cast<double>(state.iterations()) * 1e-9;
    state.counters["GFLOP/s"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
    if (state.range(0) == 1) {
        state.counters["of_peak"] = benchmark::Counter(total / peak_gflops(), benchmark::Counter::kIsRate);
    }
}

/// state.range(0) = threads.
void run_gemm(benchmark::State& state, GemmShape shape, Isa isa) {
    const GemmPlan plan(shape, kBiasRelu, isa);
    const Floats a = make_floats(shape.m * shape.k), b = make_floats(shape.k * shape.n),
                 c = make_floats(shape.m * shape.n);
    const Floats packed = make_floats(plan.b_layout().size()), bias = make_floats(shape.n);
    pack_b(b.get(), shape.n, false, plan.b_layout(), packed.get());
    const float* operands[] = {bias.get()};
    for (auto _ : state) {
        plan.run(a.get(), packed.get(), c.get(), operands, ThreadPool::process(), static_cast<int>(state.range(0)));
    }
    report(state, 2.0 * static_cast<double>(shape.m * shape.n) * static_cast<double>(shape.k));
}

void run_conv(benchmark::State& state, ConvShape shape, Isa isa) {
    const ConvPlan plan(shape, kBiasRelu, isa);
    const int threads = static_cast<int>(state.range(0));
    const int64_t taps = shape.c * shape.kh * shape.kw, outputs = shape.oh() * shape.ow() * shape.oc;
    const Floats x = make_floats(shape.h * shape.w * shape.c), y = make_floats(outputs);
    const Floats weights = make_floats(shape.oc * taps), packed = make_floats(plan.packed_weight_size());
    const Floats bias = make_floats(shape.oc),
                 workspace = make_floats(static_cast<int64_t>(plan.workspace(threads) / 4));
    plan.pack_weights(weights.get(), packed.get());
    const float* operands[] = {bias.get()};
    for (auto _ : state) {
        plan.run(x.get(), packed.get(), y.get(), operands, workspace.get(), ThreadPool::process(), threads);
    }
    report(state, 2.0 * static_cast<double>(outputs) * static_cast<double>(taps));
}

/// Calls fn(name, numbers) for each line of a problem file.
template <typename Fn>
void for_each_problem(const std::string& file, const Fn& fn) {
    const char* directory = std::getenv("PLANISH_BENCH_PROBLEMS");
    const std::string source = __FILE__;
    std::ifstream in((directory ? std::string(directory) : source.substr(0, source.rfind('/')) + "/problems") + "/" +
                     file);
    for (std::string line; std::getline(in, line);) {
        if (line.empty() || line[0] == '#') continue;
        std::istringstream words(line);
        std::string name;
        words >> name;
        std::vector<int64_t> numbers;
        for (int64_t n = 0; words >> n;) numbers.push_back(n);
        fn(name, numbers);
    }
}

const bool kRegistered = [] {
    for (const Isa isa : {Isa::avx2, Isa::avx512}) {
        if (isa > detect_isa()) continue;
        const std::string suffix = "/" + std::string(to_string(isa)) + "/threads";
        for_each_problem("gemm.txt", [&](const std::string& name, const std::vector<int64_t>& p) {
            const GemmShape shape{p.at(0), p.at(1), p.at(2)};
            benchmark::RegisterBenchmark(("gemm/" + name + suffix).c_str(), run_gemm, shape, isa)
                ->Arg(1)
                ->Arg(2)
                ->UseRealTime();
        });
        for_each_problem("conv.txt", [&](const std::string& name, const std::vector<int64_t>& p) {
            ConvShape shape;
            shape.h = shape.w = p.at(0);
            shape.c = p.at(1);
            shape.oc = p.at(2);
            shape.kh = shape.kw = p.at(3);
            shape.stride_h = shape.stride_w = p.at(4);
            shape.pad_top = shape.pad_left = shape.pad_bottom = shape.pad_right = p.at(5);
            benchmark::RegisterBenchmark(("conv/" + name + suffix).c_str(), run_conv, shape, isa)
                ->Arg(1)
                ->Arg(2)
                ->UseRealTime();
        });
    }
    return true;
}();

}  // namespace
}  // namespace planish::cpu
