// Kernels on the layers of well-known networks, in GFLOP/s and as a share of the FMA peak measured with as many
// threads.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/depthwise.hpp"
#include "backends/cpu/jit/strassen.hpp"
#include "backends/cpu/jit/winograd.hpp"
#include "bench/measure.hpp"
#include "bench/problems.hpp"

namespace planish::cpu {
namespace {

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

template <typename Run>
void measure(benchmark::State& state, double flops, const Run& run) {
    bench::measure(state, bench::Peak::flops, flops, run);
}

void run_gemm(benchmark::State& state, const GemmShape& shape, Isa isa) {
    const GemmPlan plan(shape, kBiasRelu, isa);
    const Floats a = make_floats(shape.m * shape.k), b = make_floats(shape.k * shape.n),
                 c = make_floats(shape.m * shape.n);
    const Floats packed = make_floats(plan.b_layout().size()), bias = make_floats(shape.n);
    pack_b(b.get(), shape.n, false, plan.b_layout(), packed.get());
    const float* operands[] = {bias.get()};
    measure(state, 2.0 * static_cast<double>(shape.m * shape.n * shape.k),
            [&](ThreadPool& pool, int threads) { plan.run(a.get(), packed.get(), c.get(), operands, pool, threads); });
}

void run_strassen(benchmark::State& state, const GemmShape& shape, Isa isa) {
    const StrassenPlan plan(shape, kBiasRelu, isa);
    const Floats a = make_floats(shape.m * shape.k), c = make_floats(shape.m * shape.n);
    const Floats packed = make_floats(plan.packed_size()), bias = make_floats(shape.n);
    const Floats workspace = make_floats(static_cast<int64_t>(plan.workspace(static_cast<int>(state.range(0))) / 4));
    const float* operands[] = {bias.get()};
    measure(state, 2.0 * static_cast<double>(shape.m * shape.n * shape.k), [&](ThreadPool& pool, int threads) {
        plan.run(a.get(), packed.get(), c.get(), operands, workspace.get(), pool, threads);
    });
}

/// `Plan` is ConvPlan or WinogradPlan; both are credited with the operations of the direct sum.
template <typename Plan, typename... Variant>
void run_conv(benchmark::State& state, const ConvShape& shape, Isa isa, Variant... variant) {
    const Plan plan(shape, kBiasRelu, isa, variant...);
    const int64_t taps = shape.c * shape.kh * shape.kw, outputs = shape.oh() * shape.ow() * shape.oc;
    const Floats x = make_floats(shape.h * shape.w * shape.c), y = make_floats(outputs);
    const Floats weights = make_floats(shape.oc * taps), packed = make_floats(plan.packed_weight_size());
    const Floats bias = make_floats(shape.oc),
                 workspace = make_floats(static_cast<int64_t>(plan.workspace(static_cast<int>(state.range(0))) / 4));
    plan.pack_weights(weights.get(), packed.get());
    const float* operands[] = {bias.get()};
    measure(state, 2.0 * static_cast<double>(outputs * taps), [&](ThreadPool& pool, int threads) {
        plan.run(x.get(), packed.get(), y.get(), operands, workspace.get(), pool, threads);
    });
}

void run_depthwise(benchmark::State& state, const DepthwiseShape& shape, Isa isa) {
    const DepthwisePlan plan(shape, kBiasRelu, isa);
    const int64_t taps = shape.kernel_h * shape.kernel_w;
    const int64_t outputs = shape.out_height() * shape.out_width() * shape.channels;
    const Floats x = make_floats(shape.height * shape.width * shape.channels), y = make_floats(outputs);
    const Floats weights = make_floats(shape.channels * taps), bias = make_floats(shape.channels);
    const Floats packed = make_floats(static_cast<int64_t>(depthwise_packed_size(shape)));
    pack_depthwise_weights(shape, weights.get(), packed.get());
    const float* operands[] = {bias.get()};
    measure(state, 2.0 * static_cast<double>(outputs * taps),
            [&](ThreadPool& pool, int threads) { plan.run(x.get(), packed.get(), y.get(), operands, pool, threads); });
}

void run_attention(benchmark::State& state, AttentionArgs args, Isa isa) {
    const int64_t width = args.heads * args.head_dim;
    const Floats q = make_floats(args.queries * width), k = make_floats(args.keys * width),
                 v = make_floats(args.keys * width), y = make_floats(args.queries * width);
    args.query = q.get(), args.key = k.get(), args.value = v.get(), args.output = y.get();
    const int64_t scratch = (attention_scratch(args) + 15) / 16 * 16, items = attention_items(args);
    const Floats workspace = make_floats(scratch * state.range(0));
    const auto attention = kernels(isa).attention;
    measure(state, 4.0 * static_cast<double>(args.queries * args.keys * width), [&](ThreadPool& pool, int threads) {
        pool.parallel_for(items, threads, [&](int64_t item, int thread) {
            attention(args, item, item + 1, workspace.get() + thread * scratch);
        });
    });
}

/// One thread of `threads` for each equal share of the rows; about so many operations for an element.
template <typename Args>
void run_rows(benchmark::State& state, const problems::Rows& shape, double operations,
              void (*kernel)(const Args&, int64_t, int64_t)) {
    const Floats x = make_floats(shape.rows * shape.columns), y = make_floats(shape.rows * shape.columns);
    Args args;
    args.input = x.get(), args.output = y.get(), args.n = shape.columns;
    measure(state, operations * static_cast<double>(shape.rows * shape.columns), [&](ThreadPool& pool, int threads) {
        pool.parallel_for(threads, threads, [&](int64_t part, int) {
            kernel(args, shape.rows * part / threads, shape.rows * (part + 1) / threads);
        });
    });
}

const bool kRegistered = [] {
    using bench::add;
    for (const Isa isa : {Isa::avx2, Isa::avx512}) {
        if (isa > detect_isa()) continue;
        for (const auto& [name, shape] : problems::load<GemmShape>("gemm")) {
            add("gemm", name, isa, [=, s = shape](benchmark::State& state) { run_gemm(state, s, isa); });
            if (StrassenPlan::fits(shape, isa))
                add("strassen", name, isa, [=, s = shape](benchmark::State& state) { run_strassen(state, s, isa); });
        }
        for (const auto& [name, shape] : problems::load<ConvShape>("conv")) {
            add("conv", name, isa, [=, s = shape](benchmark::State& state) { run_conv<ConvPlan>(state, s, isa); });
            for (const WinogradTile tile : {WinogradTile::f4x4, WinogradTile::f2x2, WinogradTile::f2x2_stride2})
                if (WinogradPlan::refusal(shape, isa, tile).empty())
                    add(tile == WinogradTile::f4x4 ? "winograd4x4" : "winograd2x2", name, isa,
                        [=, s = shape](benchmark::State& state) { run_conv<WinogradPlan>(state, s, isa, tile); });
        }
        for (const auto& [name, shape] : problems::load<DepthwiseShape>("depthwise"))
            add("depthwise", name, isa, [=, s = shape](benchmark::State& state) { run_depthwise(state, s, isa); });
        for (const auto& [name, args] : problems::load<AttentionArgs>("attention"))
            add("attention", name, isa, [=, a = args](benchmark::State& state) { run_attention(state, a, isa); });
        for (const auto& [name, shape] : problems::load<problems::Rows>("rows")) {
            add("softmax", name, isa,
                [=, s = shape](benchmark::State& state) { run_rows(state, s, 5, kernels(isa).softmax); });
            add("layer_norm", name, isa,
                [=, s = shape](benchmark::State& state) { run_rows(state, s, 8, kernels(isa).layer_norm); });
        }
    }
    return true;
}();

}  // namespace
}  // namespace planish::cpu
