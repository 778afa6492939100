// Products and convolutions in float32 arithmetic without tensor cores: kernels/conv_simt.cuh. Every architecture, any
// channel count, groups, transposed convolutions, batches of two activations; the image may lie in either layout.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backends/cuda/implementations/product.hpp"
#include "backends/cuda/kernels/conv_simt_params.h"

namespace planish::cuda {
namespace {

constexpr int kStep = 16;  // along K

constexpr int64_t kMostBlocks = 65535;  // of a grid, along y and z

std::optional<Product> read_problem(const RegionView& region) {
    auto p = read_product(region);
    if (!p || p->n > kMostBlocks * 8 || p->batches() > kMostBlocks) return std::nullopt;
    if (p->gather && p->gather->image_elements() > std::numeric_limits<int>::max() / 2) return std::nullopt;
    return p;
}

/// Weights are laid out as [groups, k, n], and so are matrices that are stored the other way round: loads are runs.
bool is_packed(const Product& p) {
    return p.gather || (p.constant && p.b_n != 1);
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (const Refusal refusal = check_product(region); refusal != Refusal::none) return refusal;
    const auto problem = read_problem(region);
    if (!problem) return Refusal::shape_not_handled;
    if (!product_epilogue(region, *problem, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

/// Images are read as they lie, matrices in the type that they have: no conversion is worth a pass of its own. Operands
/// for each channel are float32, as sums are, and tensors lie as the output does.
Formats simt_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    const Product problem = *read_problem(region);
    Formats formats =
        problem.gather ? image_formats(region, available, environment) : plain_formats(region, available, environment);
    for (const int i : {problem.a, problem.b}) {
        const Format& from = available[static_cast<size_t>(i)];
        Format& to = formats.inputs[static_cast<size_t>(i)];
        if (!is_read_as_float(from.dtype) || region.node().input(i)->is_constant()) continue;
        to.dtype = from.dtype;
        if (problem.gather) to.layout = from.layout;
    }
    set_epilogue_formats(formats, *product_epilogue(region, problem, environment));
    return formats;
}

// ---- Tactics --------------------------------------------------------------------------------------------------------

struct Tile {
    int m, n, thread_m, thread_n;

    int threads() const { return m / thread_m * (n / thread_n); }
    std::string name() const { return fmt::format("{}x{}", m, n); }
};

constexpr Tile kTiles[] = {{128, 128, 8, 8}, {128, 64, 8, 4}, {64, 64, 4, 4}, {128, 32, 8, 4},
                           {32, 64, 4, 4},   {128, 16, 4, 4}, {32, 32, 4, 4}, {256, 8, 4, 4}};

/// Seconds: the multiply-adds of whole waves of blocks, or what a block alone waits for its steps; or the bytes.
double estimate(const Tile& tile, const Product& p, const Environment& environment) {
    const DeviceProperties& device = environment.device;
    const int64_t tiles = divide_up(p.m, tile.m) * divide_up(p.n, tile.n) * p.batches();
    const double waves = static_cast<double>(divide_up(tiles, device.multiprocessors));
    const double steps = static_cast<double>(divide_up(p.k, kStep));
    // 128 multiply-adds a clock. A thread of 4x4 sums loads half as many elements as it multiplies.
    const double share = tile.thread_m * tile.thread_n == 64 ? 0.75 : tile.thread_m == 8 ? 0.6 : 0.4;
    const double step = tile.m * tile.n * kStep / (128 * share);
    constexpr double kLatency = 700, kStart = 4000;  // clocks: of a step's loads and barrier; of a launch
    const double clocks = std::max(waves * steps * step, std::ceil(waves / 4) * steps * kLatency) + kStart;
    const double element = static_cast<double>(byte_size(environment.storage, 1));
    const double bytes = element * static_cast<double>(p.batches()) *
                         static_cast<double>(p.m * p.n + p.n * p.k + (p.gather ? 0 : p.m * p.k));
    return std::max(clocks / (0.88 * device.clock), bytes / (0.7 * device.bandwidth) + kStart / device.clock);
}

std::vector<Tactic> simt_tactics(const RegionView& region, const Environment& environment) {
    const Product problem = *read_problem(region);
    std::vector<Tactic> tactics;
    for (const Tile& tile : kTiles) {
        const bool narrow = tile.n > 8 && problem.n <= tile.n / 2, low = tile.m > 32 && problem.m <= tile.m / 2;
        const bool fits = divide_up(problem.n, tile.n) <= 65535;
        if (fits && (!narrow || tile.n == 32) && !low)
            tactics.push_back({tile.name(), estimate(tile, problem, environment)});
    }
    sort_by_estimate(tactics);
    // Where tensor cores multiply, too, the best one is worth the tuner's time.
    if (families::kMma.can_implement(region, environment) == Refusal::none) tactics.resize(1);
    return tactics;
}

// ---- Compilation ----------------------------------------------------------------------------------------------------

/// Strides of A and B in elements.
ConvSimtParams make_params(const Product& p, const Formats& formats) {
    ConvSimtParams params{};
    params.m = static_cast<int>(p.m);
    params.n = static_cast<int>(p.n);
    params.k = static_cast<int>(p.k);
    params.ldc = static_cast<int>(p.output_row());
    params.alpha = static_cast<float>(p.alpha);
    params.input_image = p.a_row;
    params.input_channel = static_cast<int>(p.a_k);
    params.weights_k = is_packed(p) ? p.n : p.b_k;
    params.weights_n = static_cast<int>(is_packed(p) ? 1 : p.b_n);
    params.output_step = p.gather ? p.n : p.m * p.n;
    params.channel_step = static_cast<int>(p.gather ? p.n : 0);
    if (p.gather) {
        const Product::Gather& g = *p.gather;
        const ImageWindow& w = g.window;
        const bool last = formats.inputs[static_cast<size_t>(p.a)].layout == Layout::channels_last;
        params.input_image = g.image_elements();
        params.input_channel = static_cast<int>(last ? 1 : w.in[0] * w.in[1]);
        params.input_x = static_cast<int>(last ? g.channels : 1);
        params.input_y = static_cast<int>(w.in[1] * params.input_x);
        params.h = static_cast<int>(w.in[0]);
        params.w = static_cast<int>(w.in[1]);
        params.out_h = static_cast<int>(g.out[0]);
        params.out_w = static_cast<int>(g.out[1]);
        params.pad_top = static_cast<int>(w.begin[0]);
        params.pad_left = static_cast<int>(w.begin[1]);
    }
    set_batch(params.batch, p, p.gather ? p.gather->group_channels * params.input_channel : 0);
    return params;
}

/// Whether every run of four neighbours along K begins at a multiple of its bytes, and ends with its tap.
bool input_runs(const Product& p, const ConvSimtParams& params) {
    if (params.input_channel != 1) return false;
    if (p.gather) return p.gather->group_channels % 4 == 0;
    return p.k % 4 == 0 && p.a_row % 4 == 0 &&
           std::all_of(p.batch.begin(), p.batch.end(), [](const Product::Axis& axis) { return axis.a % 4 == 0; });
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Product p = *read_problem(region);
    const EpilogueCode epilogue = *product_epilogue(region, p, environment);
    const auto choice =
        std::find_if(std::begin(kTiles), std::end(kTiles), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != std::end(kTiles) ? *choice : kTiles[2];
    const ConvSimtParams params = make_params(p, formats);
    const DType a = formats.inputs[static_cast<size_t>(p.a)].dtype, out = formats.outputs[0].dtype;
    const DType b = is_packed(p) ? environment.storage : formats.inputs[static_cast<size_t>(p.b)].dtype;
    // A batch of B is whole matrices of k * n elements: multiples of four where n is.
    const bool runs_a = input_runs(p, params), runs_n = p.n % 4 == 0;

    KernelSpec spec;
    spec.name = fmt::format("{}_{}_simt_{}{}{}", p.gather ? p.gather->transposed ? "conv_transpose" : "conv" : "gemm",
                            short_name(out), tile.name(), runs_a ? "" : "u", runs_n ? "" : "s");
    spec.threads = tile.threads();
    spec.max_registers = tile.thread_m * tile.thread_n == 64 || tile.m == 256 ? 192 : 128;
    const ImageWindow window = p.gather ? p.gather->window : ImageWindow{};
    spec.source = "#include \"planish/conv_simt.cuh\"\n" + epilogue.source +
                  fmt::format(
                      "struct Config {{\n"
                      "    using Input = {};\n    using Weights = {};\n    using Output = {};\n"
                      "    static constexpr int kTileM = {}, kTileN = {}, kThreadM = {}, kThreadN = {}, kStep = {};\n"
                      "    static constexpr bool kGather = {}, kTransposed = {}, kRowsFirst = {};\n"
                      "    static constexpr int kChannels = {}, kKernelW = {}, kStrideH = {}, kStrideW = {};\n"
                      "    static constexpr int kDilationH = {}, kDilationW = {};\n"
                      "    static constexpr int kInputRun = {}, kWeightsRun = {}, kOutputRun = {};\n"
                      "}};\n"
                      "extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ "
                      "planish::ConvSimtParams p) {{\n    planish::conv_simt<Config, Epilogue>(p);\n}}\n",
                      memory_type(a), memory_type(b), memory_type(out), tile.m, tile.n, tile.thread_m, tile.thread_n,
                      kStep, p.gather.has_value(), p.gather && p.gather->transposed, params.input_channel != 1,
                      p.gather ? p.gather->group_channels : 1, window.kernel[1], window.stride[0], window.stride[1],
                      window.dilation[0], window.dilation[1], runs_a ? 4 : 1, runs_n && params.weights_n == 1 ? 4 : 1,
                      runs_n ? 4 : 1, tile.threads(), spec.name);

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = p.flops();
    Launch launch = make_launch(std::move(spec),
                                {static_cast<unsigned>(divide_up(p.m, tile.m)),
                                 static_cast<unsigned>(divide_up(p.n, tile.n)), static_cast<unsigned>(p.batches())},
                                params);
    launch.pdl = true;
    launch.bind(offsetof(ConvSimtParams, input), input(p.a)).bind(offsetof(ConvSimtParams, output), output());
    const Operand weights =
        is_packed(p) ? constant(add_weights(kernel, p, {false, p.k, 1, false}, b, environment)) : input(p.b);
    launch.bind(offsetof(ConvSimtParams, weights), weights);
    bind_epilogue(kernel, launch, offsetof(ConvSimtParams, operands), epilogue, {p.a, p.b});
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kConvSimt{"simt", can_multiply, simt_formats, compile, simt_tactics};
}  // namespace families

}  // namespace planish::cuda
