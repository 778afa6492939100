// Products and convolutions in float32 arithmetic without tensor cores: kernels/conv_simt.cuh. Every architecture, any
// channel count, groups, transposed convolutions, batches of two activations; the image may lie in either layout.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "backends/cuda/expression.hpp"
#include "backends/cuda/kernels/conv_simt_params.h"
#include "backends/image_window.hpp"

namespace planish::cuda {
namespace {

constexpr int kStep = 16;  // along K

int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// ---- What is computed -----------------------------------------------------------------------------------------------

/// An axis of the batch: elements from one position to the next.
struct BatchAxis {
    int64_t extent, a, b;
};

/// A convolution's rows of A; [0] is the height, [1] the width.
struct Gather {
    ImageWindow window;
    int64_t images = 0, channels = 0, group_channels = 0, out[2] = {};
    bool transposed = false;
};

struct Problem {
    int64_t m = 0, n = 0, k = 0;  // of one position of the batch
    std::vector<BatchAxis> batch;
    std::optional<Gather> gather;
    int a = -1, b = -1, bias = -1;                 // inputs of the region; bias -1: none
    bool packed = false;                           // B is a constant that is laid out as [batch, k, n]
    int64_t a_row = 0, a_k = 1, b_k = 0, b_n = 1;  // strides, but for gathers and packed B
    double alpha = 1;

    int64_t batches() const {
        int64_t count = 1;
        for (const BatchAxis& axis : batch) count *= axis.extent;
        return count;
    }
    int64_t groups() const { return gather ? batches() : 1; }
    int64_t output_row() const { return n * groups(); }
    int64_t flops() const { return 2 * batches() * m * n * k; }
};

/// The input of the region that `bias` is. nullopt: it lies inside the body.
std::optional<int> bias_input(const RegionView& region, const Value* bias) {
    if (bias == nullptr) return -1;
    const int input = region.input_index(bias);
    return input >= 0 ? std::optional(input) : std::nullopt;
}

std::optional<Problem> read_gemm(const RegionView& region) {
    const Node& root = region.root();
    const Dims a = root.input(0)->dims(), b = root.input(1)->dims();
    const bool trans_a = root.integer("transA") != 0, trans_b = root.integer("transB") != 0;
    Problem p;
    p.m = trans_a ? a[1] : a[0];
    p.k = trans_a ? a[0] : a[1];
    p.n = trans_b ? b[0] : b[1];
    p.a_row = trans_a ? 1 : p.k;
    p.a_k = trans_a ? p.m : 1;
    p.b_k = trans_b ? 1 : p.n;
    p.b_n = trans_b ? p.k : 1;
    p.alpha = root.real("alpha");
    if (const Value* c = root.input(2)) {
        const Dims dims = c->dims();
        const bool channel = element_count(dims) == p.n && (dims.size() == 1 || dims[0] == 1);
        const auto bias = bias_input(region, c);
        if (!channel || root.real("beta") != 1 || !is_f32(c) || !bias) return std::nullopt;
        p.bias = *bias;
    }
    return p;
}

/// Axes of the batch that an operand of `dims` steps over, aligned with those of the output; 0: broadcast.
std::vector<int64_t> batch_strides(const Dims& dims, size_t axes) {
    std::vector<int64_t> strides(axes, 0);
    int64_t stride = dims[dims.size() - 2] * dims.back();
    for (size_t i = dims.size() - 2, to = axes; i-- > 0; stride *= dims[i])
        if (--to, dims[i] != 1) strides[to] = stride;
    return strides;
}

std::optional<Problem> read_matmul(const RegionView& region) {
    const Node& root = region.root();
    Dims a = root.input(0)->dims();
    const Dims b = root.input(1)->dims();
    if (a.empty() || b.size() < 2) return std::nullopt;
    if (a.size() == 1) a.insert(a.begin(), 1);
    Problem p;
    p.m = a[a.size() - 2];
    p.k = a.back();
    p.n = b.back();
    p.a_row = p.k;
    p.b_k = p.n;
    if (element_count(Dims(b.begin(), b.end() - 2)) == 1 && a.size() >= b.size()) {
        p.m = std::accumulate(a.begin(), a.end() - 1, int64_t{1}, std::multiplies<>());
        return p;
    }
    const size_t axes = std::max(a.size(), b.size()) - 2;
    const auto a_strides = batch_strides(a, axes), b_strides = batch_strides(b, axes);
    for (size_t i = 0; i < axes; ++i) {
        const auto extent = [&](const Dims& dims) {
            const size_t lead = axes + 2 - dims.size();
            return i < lead ? 1 : dims[i - lead];
        };
        const BatchAxis axis{std::max(extent(a), extent(b)), a_strides[i], b_strides[i]};
        if (axis.extent == 1) continue;
        // Two axes that both operands walk as one are one.
        if (BatchAxis* outer = p.batch.empty() ? nullptr : &p.batch.back();
            outer != nullptr && outer->a == axis.extent * axis.a && outer->b == axis.extent * axis.b)
            *outer = {outer->extent * axis.extent, axis.a, axis.b};
        else
            p.batch.push_back(axis);
    }
    return p;
}

std::optional<Problem> read_convolution(const RegionView& region) {
    const Node& conv = region.root();
    const Dims x = conv.input(0)->dims(), w = conv.input(1)->dims(), y = conv.output()->dims();
    if (x.size() != 3 && x.size() != 4) return std::nullopt;
    const int64_t groups = conv.integer("group");
    Gather gather;
    gather.transposed = conv.is("ConvTranspose");
    const Dims kernel(w.begin() + 2, w.end());
    gather.window = image_window(conv, kernel);
    if (gather.transposed) {
        const Dims sizes(x.begin() + 2, x.end());
        infer::TransposedWindow window = infer::transposed_window_of(conv, sizes.size(), kernel);
        infer::resolve_transposed(window, conv, sizes);
        for (size_t i = 0; i < sizes.size(); ++i)
            gather.window.begin[2 - sizes.size() + i] = window.window.pads_begin[i];
    }
    gather.images = x[0];
    gather.channels = x[1];
    gather.group_channels = x[1] / groups;
    gather.out[0] = y.size() == 3 ? 1 : y[2];
    gather.out[1] = y.back();
    Problem p;
    p.n = y[1] / groups;
    p.m = x[0] * gather.out[0] * gather.out[1];
    p.k = gather.group_channels * gather.window.kernel[0] * gather.window.kernel[1];
    p.packed = true;
    p.batch = {{groups, 0, p.k * p.n}};  // the stride of A depends on its layout
    const auto bias = bias_input(region, conv.input(2));
    if (!bias) return std::nullopt;
    p.bias = *bias;
    p.gather = gather;
    return p;
}

bool is_convolution(const Node& node) {
    return node.is("Conv") || node.is("ConvTranspose");
}

std::optional<Problem> read_problem(const RegionView& region) {
    const Node& root = region.root();
    auto p = is_convolution(root) ? read_convolution(region)
             : root.is("Gemm")    ? read_gemm(region)
                                  : read_matmul(region);
    if (!p) return std::nullopt;
    p->a = region.input_index(root.input(0));
    p->b = region.input_index(root.input(1));
    // Matrices that are stored the other way round are turned, so that loads are runs.
    p->packed = p->packed || (p->b >= 0 && p->b_n != 1 && region.constant(root.input(1)) != nullptr);
    constexpr int64_t kMost = std::numeric_limits<int>::max() / 2, kMostBlocks = 65535;
    const auto a = element_count(root.input(0)->dims());
    if (p->a < 0 || p->b < 0 || p->m == 0 || p->n == 0 || p->k == 0 || p->batches() == 0 || p->m > kMost ||
        p->n > kMostBlocks * 8 || p->k > kMost || p->output_row() > kMost || p->batches() > kMostBlocks ||
        p->batch.size() > kConvSimtBatchAxes || (p->gather && a / std::max<int64_t>(p->gather->images, 1) > kMost))
        return std::nullopt;
    return p;
}

std::optional<EpilogueCode> epilogue_of(const RegionView& region, const Problem& problem,
                                        const Environment& environment) {
    const int64_t axis =
        is_convolution(region.root()) ? 1 : static_cast<int64_t>(region.root().output()->dims().size()) - 1;
    return read_epilogue(region, axis, environment, problem.bias >= 0 ? std::optional(problem.bias) : std::nullopt);
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    const Node& root = region.root();
    if (!is_convolution(root) && !root.is("Gemm") && !root.is("MatMul")) return Refusal::op_not_handled;
    if (!is_f32(root.input(0)) || !is_f32(root.input(1))) return Refusal::dtype_not_handled;
    if (is_convolution(root) && region.constant(root.input(1)) == nullptr) return Refusal::weights_not_constant;
    const auto problem = read_problem(region);
    if (!problem) return Refusal::shape_not_handled;
    if (!epilogue_of(region, *problem, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

/// Images are read as they lie, matrices in the type that they have: no conversion is worth a pass of its own. Operands
/// for each channel are float32, as sums are, and tensors lie as the output does.
Formats simt_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    const Problem problem = *read_problem(region);
    Formats formats =
        problem.gather ? image_formats(region, available, environment) : plain_formats(region, available, environment);
    for (const int i : {problem.a, problem.b}) {
        const Format& from = available[static_cast<size_t>(i)];
        Format& to = formats.inputs[static_cast<size_t>(i)];
        const bool is_float = from.dtype == DType::f32 || from.dtype == DType::f16 || from.dtype == DType::bf16;
        if (!is_float || region.node().input(i)->is_constant()) continue;
        to.dtype = from.dtype;
        if (problem.gather) to.layout = from.layout;
    }
    const EpilogueCode epilogue = *epilogue_of(region, problem, environment);
    for (const auto& operand : epilogue.operands)
        formats.inputs[static_cast<size_t>(operand.input)] =
            operand.channel ? Format{Layout::plain, DType::f32} : formats.outputs[0];
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
double estimate(const Tile& tile, const Problem& p, const Environment& environment) {
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
    const Problem problem = *read_problem(region);
    std::vector<Tactic> tactics;
    for (const Tile& tile : kTiles) {
        const bool narrow = tile.n > 8 && problem.n <= tile.n / 2, low = tile.m > 32 && problem.m <= tile.m / 2;
        const bool fits = divide_up(problem.n, tile.n) <= 65535;
        if (fits && (!narrow || tile.n == 32) && !low)
            tactics.push_back({tile.name(), estimate(tile, problem, environment)});
    }
    std::stable_sort(tactics.begin(), tactics.end(),
                     [](const Tactic& a, const Tactic& b) { return a.seconds < b.seconds; });
    return tactics;
}

// ---- Compilation ----------------------------------------------------------------------------------------------------

/// To [groups, taps, channels, n] in `dtype`; matrices to [k, n].
Tensor pack_weights(const Tensor& weights, const Problem& p, DType dtype) {
    const int64_t groups = p.groups();
    Tensor packed(DType::f32, {groups, p.k, p.n});
    const auto from = weights.data<float>();
    const auto to = packed.data<float>();
    const int64_t channels = p.gather ? p.gather->group_channels : p.k, taps = p.k / channels;
    // Conv has [groups * n, channels, taps], ConvTranspose [groups * channels, n, taps].
    const bool transposed = p.gather && p.gather->transposed;
    const int64_t stride_n = transposed ? taps : p.gather ? channels * taps : p.b_n;
    const int64_t stride_channel = transposed ? p.n * taps : p.gather ? taps : p.b_k;
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t c = 0; c < channels; ++c)
                for (int64_t n = 0; n < p.n; ++n)
                    to[static_cast<size_t>(((g * taps + tap) * channels + c) * p.n + n)] =
                        from[static_cast<size_t>(g * p.k * p.n + n * stride_n + c * stride_channel + tap)];
    return stored(packed, {Layout::plain, dtype});
}

/// Strides of A and B in elements, the batch filled up with axes of one position.
ConvSimtParams make_params(const Problem& p, const Formats& formats) {
    ConvSimtParams params{};
    params.m = static_cast<int>(p.m);
    params.n = static_cast<int>(p.n);
    params.k = static_cast<int>(p.k);
    params.ldc = static_cast<int>(p.output_row());
    params.alpha = static_cast<float>(p.alpha);
    params.input_image = p.a_row;
    params.input_channel = static_cast<int>(p.a_k);
    params.weights_k = p.packed ? p.n : p.b_k;
    params.weights_n = static_cast<int>(p.packed ? 1 : p.b_n);
    params.output_step = p.gather ? p.n : p.m * p.n;
    params.channel_step = static_cast<int>(p.gather ? p.n : 0);
    if (p.gather) {
        const Gather& g = *p.gather;
        const ImageWindow& w = g.window;
        const bool last = formats.inputs[static_cast<size_t>(p.a)].layout == Layout::channels_last;
        params.input_image = g.channels * w.in[0] * w.in[1];
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
    for (ConvSimtBatchAxis& axis : params.batch) axis = {0, 0, 1};
    for (size_t i = 0; i < p.batch.size(); ++i) {
        const BatchAxis& axis = p.batch[i];
        const int64_t a = p.gather ? p.gather->group_channels * params.input_channel : axis.a;
        params.batch[kConvSimtBatchAxes - p.batch.size() + i] = {a, axis.b, static_cast<int>(axis.extent)};
    }
    return params;
}

/// Whether every run of four neighbours along K begins at a multiple of its bytes, and ends with its tap.
bool input_runs(const Problem& p, const ConvSimtParams& params) {
    if (params.input_channel != 1) return false;
    if (p.gather) return p.gather->group_channels % 4 == 0;
    return p.k % 4 == 0 && p.a_row % 4 == 0 &&
           std::all_of(p.batch.begin(), p.batch.end(), [](const BatchAxis& axis) { return axis.a % 4 == 0; });
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Problem p = *read_problem(region);
    const EpilogueCode epilogue = *epilogue_of(region, p, environment);
    const auto choice =
        std::find_if(std::begin(kTiles), std::end(kTiles), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != std::end(kTiles) ? *choice : kTiles[2];
    const ConvSimtParams params = make_params(p, formats);
    const DType a = formats.inputs[static_cast<size_t>(p.a)].dtype, out = formats.outputs[0].dtype;
    const DType b = p.packed ? environment.storage : formats.inputs[static_cast<size_t>(p.b)].dtype;
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
    if (p.packed) {
        const auto weights = region.constant(region.root().input(1));
        const std::string packing =
            fmt::format("cuda simt {} {}", short_name(b),
                        is_convolution(region.root()) ? fmt::format("{} groups={}", region.root().op().name, p.groups())
                                                      : std::string("turned"));
        const int packed = kernel.add_constant(
            environment.packed->get(weights, packing, [&] { return pack_weights(*weights, p, b); }));
        launch.bind(offsetof(ConvSimtParams, weights), constant(packed));
        kernel.consumed = {p.b};
    } else {
        launch.bind(offsetof(ConvSimtParams, weights), input(p.b));
    }
    for (size_t i = 0; i < epilogue.operands.size(); ++i) {
        const auto& operand = epilogue.operands[i];
        launch.bind(offsetof(ConvSimtParams, operands) + i * sizeof(void*), input(operand.input));
        if (!operand.channel && operand.input != p.a && operand.input != p.b) kernel.in_place.push_back(operand.input);
    }
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kConvSimt{"simt", can_multiply, simt_formats, compile, simt_tactics};
}  // namespace families

}  // namespace planish::cuda
