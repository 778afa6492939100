// Integer kernels on the layers of well-known networks, in 10^9 operations a second and as a share of the peak of
// integer products measured with as many threads.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "backends/cpu/isa.hpp"
#include "backends/cpu/jit/conv_i8.hpp"
#include "backends/cpu/jit/depthwise_i8.hpp"
#include "backends/cpu/jit/gemm_i8.hpp"
#include "backends/cpu/kernels/kernels.hpp"
#include "base/aligned_buffer.hpp"
#include "bench/measure.hpp"
#include "bench/problems.hpp"

namespace planish::cpu {
namespace {

constexpr ByteFormat kInput{0.02F, 128}, kOutput{6.0F / 255, 0};

template <typename T>
std::vector<T> make_bytes(int64_t count) {
    std::vector<T> bytes(static_cast<size_t>(count));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<T>(i * 7919 % 255 - 127);
    return bytes;
}

template <typename Run>
void measure(benchmark::State& state, double operations, const Run& run) {
    bench::measure(state, bench::Peak::integer_ops, operations, run);
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
    const ConvI8Plan plan(s, {{PostOp::Kind::clip, 0, 6}}, kOutput, isa);
    const int64_t taps = s.c * s.kh * s.kw, outputs = s.oh() * s.ow() * s.oc;
    const auto x = make_bytes<uint8_t>(s.h * s.w * s.c);
    const auto w = make_bytes<int8_t>(s.oc * taps);
    const std::vector<float> scales(static_cast<size_t>(s.oc), 0.001F), bias(static_cast<size_t>(s.oc), 0.5F);
    AlignedBuffer packed(static_cast<size_t>(plan.packed_weight_size()));
    AlignedBuffer workspace(plan.workspace(static_cast<int>(state.range(0))));
    auto* weights = reinterpret_cast<int8_t*>(packed.data());
    plan.pack_weights(w.data(), weights);
    const ColumnTerms terms = plan.terms(weights, kInput, scales, bias);
    std::vector<uint8_t> y(static_cast<size_t>(outputs));
    measure(state, 2.0 * static_cast<double>(outputs * taps), [&](ThreadPool& pool, int threads) {
        plan.run(x.data(), weights, terms, y.data(), {}, workspace.data(), pool, threads);
    });
}

void run_depthwise(benchmark::State& state, const DepthwiseShape& shape, Isa isa) {
    const DepthwiseI8Plan plan(shape, {{PostOp::Kind::clip, 0, 6}}, {128, kOutput, true}, isa);
    const int64_t taps = shape.kernel_h * shape.kernel_w;
    const int64_t outputs = shape.out_height() * shape.out_width() * shape.channels;
    const auto x = make_bytes<uint8_t>(shape.height * shape.width * shape.channels);
    const std::vector<int8_t> weights(static_cast<size_t>(shape.channels * taps), 3);
    const std::vector<float> scales(static_cast<size_t>(shape.channels) + 16, 0.001F);
    AlignedBuffer packed(static_cast<size_t>(plan.packed_size()));
    AlignedBuffer workspace(plan.workspace(static_cast<int>(state.range(0))));
    AlignedBuffer y(static_cast<size_t>(outputs));
    plan.pack(weights.data(), {scales.data(), scales.data()}, packed.data());
    measure(state, 2.0 * static_cast<double>(outputs * taps), [&](ThreadPool& pool, int threads) {
        plan.run(x.data(), packed.data(), y.data(), {}, workspace.data(), pool, threads);
    });
}

void run_attention(benchmark::State& state, const AttentionShape& shape, Isa isa) {
    const int64_t width = shape.heads * shape.head_dim;
    const auto q = make_bytes<uint8_t>(shape.queries * width), k = make_bytes<uint8_t>(shape.keys * width),
               v = make_bytes<uint8_t>(shape.keys * width);
    std::vector<uint8_t> y(static_cast<size_t>(shape.queries * width));
    ByteAttentionArgs args;
    static_cast<AttentionShape&>(args) = shape;
    args.query = q.data(), args.key = k.data(), args.value = v.data(), args.bytes = y.data();
    args.stored_query = args.stored_key = args.stored_value = args.stored_output = {kInput.scale, 128};
    const int64_t scratch = (byte_attention_scratch(args) + 15) / 16 * 16, items = attention_items(args);
    AlignedBuffer workspace(static_cast<size_t>(scratch * state.range(0)) * sizeof(float));
    const auto attention = kernels(isa).byte_attention;
    measure(state, 4.0 * static_cast<double>(args.queries * args.keys * width), [&](ThreadPool& pool, int threads) {
        pool.parallel_for(items, threads, [&](int64_t item, int thread) {
            attention(args, item, item + 1, workspace.as<float>() + thread * scratch);
        });
    });
}

const bool kRegistered = [] {
    using bench::add;
    for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512_vnni}) {
        if (isa > detect_isa()) continue;
        for (const auto& [name, shape] : problems::load<GemmShape>("gemm"))
            add("gemm_i8", name, isa, [=, s = shape](benchmark::State& state) { run_gemm(state, s, isa); });
        for (const auto& [name, shape] : problems::load<ConvShape>("conv"))
            add("conv_i8", name, isa, [=, s = shape](benchmark::State& state) { run_conv(state, s, isa); });
        for (const auto& [name, shape] : problems::load<DepthwiseShape>("depthwise"))
            add("depthwise_i8", name, isa, [=, s = shape](benchmark::State& state) { run_depthwise(state, s, isa); });
        for (const auto& [name, args] : problems::load<AttentionArgs>("attention"))
            if (takes_byte_attention(args))
                add("attention_i8", name, isa,
                    [=, a = args](benchmark::State& state) { run_attention(state, a, isa); });
    }
    return true;
}();

}  // namespace
}  // namespace planish::cpu
