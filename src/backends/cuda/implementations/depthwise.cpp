// Depthwise convolution of channels-last images: kernels/depthwise.cuh and, by rows, kernels/depthwise_rows.cuh.
#include "backends/cuda/implementations/depthwise.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/kernels/depthwise_params.h"
#include "backends/image_window.hpp"

namespace planish::cuda {

bool ConvShape::is_pointwise() const {
    return groups == 1 && kernel[0] * kernel[1] == 1 && stride[0] * stride[1] == 1 && out[0] == in[0] &&
           out[1] == in[1];
}

std::optional<ConvShape> conv_shape(const Node& conv) {
    if (!conv.is("Conv") || !is_f32(conv.input(0)) || !is_f32(conv.input(1))) return std::nullopt;
    const Dims x = conv.input(0)->dims(), w = conv.input(1)->dims(), y = conv.output()->dims();
    if ((x.size() != 3 && x.size() != 4) || element_count(y) == 0) return std::nullopt;
    const ImageWindow window = image_window(conv, Dims(w.begin() + 2, w.end()));
    ConvShape s;
    s.n = x[0];
    s.channels = x[1];
    s.out_channels = w[0];
    s.groups = conv.integer("group");
    for (size_t i = 0; i < 2; ++i) {
        s.in[i] = window.in[i];
        s.out[i] = y.size() == 3 ? (i == 0 ? 1 : y[2]) : y[2 + i];
        s.kernel[i] = window.kernel[i];
        s.stride[i] = window.stride[i];
        s.dilation[i] = window.dilation[i];
        s.begin[i] = window.begin[i];
        s.end[i] = window.end[i];
        if (s.begin[i] < 0 || s.end[i] < 0) return std::nullopt;
    }
    return s;
}

namespace {

constexpr int kThreads = 128;  // of depthwise.cuh
constexpr int kStages = 8;     // of depthwise_rows.cuh

/// Outputs of a thread; by rows: those of a block below one another, and of a thread side by side.
struct Tile {
    int h = 1, w = 1;
    bool all_rows = false;  // the loads of all rows in flight together
    bool by_rows = false;

    std::string name() const { return fmt::format("{}{}x{}{}", by_rows ? "rows" : "", h, w, all_rows ? "a" : ""); }
};

/// Channels of a thread: 16 bytes, or less where they do not divide.
int64_t vector_of(int64_t channels, DType dtype) {
    int64_t vector = 16 / byte_size(dtype, 1);
    while (channels % vector != 0) vector /= 2;
    return vector;
}

int64_t threads_of(const ConvShape& s, const Tile& tile, int64_t vector) {
    return s.n * divide_up(s.out[0], tile.h) * divide_up(s.out[1], tile.w) * (s.channels / vector);
}

/// Registers of a thread, roughly: sums, a row of the input and of weights, addresses.
int64_t registers_of(const ConvShape& s, const Tile& tile, int64_t vector, DType dtype) {
    const int64_t row = (tile.w - 1) * s.stride[1] + (s.kernel[1] - 1) * s.dilation[1] + 1;
    const int64_t loads = row * (tile.all_rows ? (tile.h - 1) * s.stride[0] + s.kernel[0] : 1);
    return 40 + tile.h * tile.w * vector + (loads + s.kernel[1]) * vector * byte_size(dtype, 1) / 4;
}

/// How the blocks of depthwise_rows.cuh lie: vectors of channels and columns of each.
struct RowBlocks {
    int64_t units = 0, columns = 0;

    int64_t threads(const Tile& tile) const { return units * (columns / tile.w); }
    int64_t shared_bytes(const ConvShape& s) const {
        return kStages * ((columns - 1) * s.stride[1] + s.kernel[1]) * units * 16;
    }
    unsigned count_x(const ConvShape& s, int64_t vector) const {
        return static_cast<unsigned>(s.channels / vector / units * divide_up(s.out[1], columns));
    }
};
/// About 128 threads. Nullopt: channels that are no whole vectors, or more weights than registers hold.
std::optional<RowBlocks> row_blocks(const ConvShape& s, const Tile& tile, DType dtype) {
    const int64_t vectors = s.channels / vector_of(s.channels, dtype);
    if (vector_of(s.channels, dtype) * byte_size(dtype, 1) != 16 || s.kernel[0] > 3 || s.kernel[1] > 3 ||
        s.dilation[0] * s.dilation[1] != 1 || s.stride[0] > s.kernel[0] || s.stride[1] > 2 || s.n > 65535)
        return std::nullopt;
    RowBlocks blocks;
    for (const int64_t units : {8, 6, 4, 7, 5, 3, 2, 1})
        if (blocks.units == 0 && vectors % units == 0) blocks.units = units;
    const int64_t most = std::max<int64_t>(1, 160 / blocks.units) * tile.w;
    blocks.columns = divide_up(divide_up(s.out[1], divide_up(s.out[1], most)), tile.w) * tile.w;
    return blocks;
}

std::vector<Tile> tiles(const ConvShape& s, DType dtype) {
    constexpr Tile kTiles[] = {{1, 1, true},  {1, 2, true},  {1, 1, false}, {1, 2, false}, {2, 2, false},
                               {1, 4, false}, {2, 4, false}, {4, 2, false}, {1, 7, false}, {2, 7, false}};
    std::vector<Tile> result;
    for (const Tile& tile : kTiles)
        if (registers_of(s, tile, vector_of(s.channels, dtype), dtype) <= 200) result.push_back(tile);
    if (result.empty()) result.push_back({1, 1, false});
    for (const int w : {1, 2})
        for (const int64_t parts : {1, 4}) {
            const Tile tile{static_cast<int>(divide_up(s.out[0], parts)), w, false, true};
            if ((parts == 1 || tile.h >= 7) && row_blocks(s, tile, dtype)) result.push_back(tile);
        }
    return result;
}

/// By rows: every byte once, but for columns and rows that blocks share.
double estimate_rows(const ConvShape& s, const Tile& tile, const Environment& environment) {
    const DeviceProperties& device = environment.device;
    const RowBlocks at = *row_blocks(s, tile, environment.storage);
    const int64_t vector = vector_of(s.channels, environment.storage), row_parts = divide_up(s.out[0], tile.h);
    const double blocks = static_cast<double>(at.count_x(s, vector) * row_parts * s.n);
    const double input_rows = static_cast<double>((tile.h - 1) * s.stride[0] + s.kernel[0]);
    const double columns = static_cast<double>((at.columns - 1) * s.stride[1] + s.kernel[1]);
    const double bytes =
        blocks * static_cast<double>(at.units) * 16 * (input_rows * columns + static_cast<double>(tile.h * at.columns));
    const double taps = static_cast<double>(s.kernel[0] * s.kernel[1] * vector * tile.w);
    const double instructions = taps / static_cast<double>(s.stride[0]) + 100 + 50 * tile.w;  // of a row of the input
    const double threads = static_cast<double>(divide_up(at.threads(tile), 32) * 32);
    const double resident = std::floor(std::min(32.0, 65536 / (200 * threads))) * device.multiprocessors;
    const double row = std::max(250.0, resident / device.multiprocessors * threads * instructions / (128 * 0.7));
    const double clocks = std::max(1.0, blocks / resident) * (1000 + input_rows * row);
    const double bandwidth = bytes < static_cast<double>(device.l2_bytes) / 2 ? 2 * device.bandwidth : device.bandwidth;
    return std::max(clocks / device.clock, bytes / (0.9 * bandwidth) + 1000 / device.clock);
}

double estimate(const ConvShape& s, const Tile& tile, const Environment& environment) {
    if (tile.by_rows) return estimate_rows(s, tile, environment);
    const DeviceProperties& device = environment.device;
    const int64_t vector = vector_of(s.channels, environment.storage);
    const int64_t rows = (tile.h - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
    const int64_t columns = (tile.w - 1) * s.stride[1] + (s.kernel[1] - 1) * s.dilation[1] + 1;
    const int64_t taps = s.kernel[0] * s.kernel[1];
    // Instructions of a thread: multiply-adds, conversions, loads; and the chain of its loads' latencies.
    const double instructions = static_cast<double>(tile.h * tile.w * taps * vector + rows * columns * (vector + 4) +
                                                    tile.h * taps * (vector + 2) + tile.h * tile.w * 2 * vector + 80);
    const double latency = 800.0 * (tile.all_rows ? 1.2 : 0.6 * static_cast<double>(rows) + 0.4) + instructions * 2;
    const double threads = static_cast<double>(threads_of(s, tile, vector));
    const int64_t resident =
        std::min<int64_t>(65536 / std::min<int64_t>(255, registers_of(s, tile, vector, environment.storage)), 2048);
    const double waves = std::max(1.0, threads / static_cast<double>(resident * device.multiprocessors));
    const double issue = threads * instructions / (device.multiprocessors * 128 * 0.7);
    const double clocks = std::max(waves * latency, issue + latency);
    const double bytes =
        static_cast<double>(byte_size(environment.storage, s.n * s.channels * s.in[0] * s.in[1] + s.outputs()));
    const double bandwidth = bytes < static_cast<double>(device.l2_bytes) / 2 ? 2 * device.bandwidth : device.bandwidth;
    return std::max(clocks / device.clock, bytes / (0.9 * bandwidth) + latency / device.clock);
}

Refusal can_convolve(const RegionView& region, const Environment& environment) {
    const Node& conv = region.root();
    if (!conv.is("Conv")) return Refusal::op_not_handled;
    if (environment.storage != DType::f32 && environment.storage != DType::f16 && environment.storage != DType::bf16)
        return Refusal::dtype_not_handled;
    const auto shape = conv_shape(conv);
    if (!shape || !shape->is_depthwise()) return Refusal::shape_not_handled;
    if (threads_of(*shape, {}, vector_of(shape->channels, environment.storage)) >= int64_t{1} << 31)
        return Refusal::shape_not_handled;
    if (region.constant(conv.input(1)) == nullptr) return Refusal::weights_not_constant;
    if (region.input_index(conv.input(0)) < 0 || !optional_input(region, conv.input(2))) return Refusal::op_not_handled;
    if (!read_epilogue(region, 1, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

Formats depthwise_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats formats = image_formats(region, available, environment);
    if (const int bias = *optional_input(region, region.root().input(2)); bias >= 0)
        formats.inputs[static_cast<size_t>(bias)] = {Layout::plain, DType::f32};
    set_epilogue_formats(formats, *read_epilogue(region, 1, environment));
    return formats;
}

std::vector<Tactic> depthwise_tactics(const RegionView& region, const Environment& environment) {
    const ConvShape shape = *conv_shape(region.root());
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(shape, environment.storage))
        tactics.push_back({tile.name(), estimate(shape, tile, environment)});
    sort_by_estimate(tactics);
    return tactics;
}

/// [channels, 1, kh, kw] to [kh, kw, channels].
Tensor pack_weights(const Tensor& weights, DType dtype) {
    const int64_t channels = weights.dim(0), taps = weights.size() / channels;
    Tensor packed(DType::f32, {taps, channels});
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t t = 0; t < taps; ++t)
            packed.data<float>()[static_cast<size_t>(t * channels + c)] =
                weights.data<float>()[static_cast<size_t>(c * taps + t)];
    return stored(packed, {Layout::plain, dtype});
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Node& conv = region.root();
    const ConvShape s = *conv_shape(conv);
    const EpilogueCode epilogue = *read_epilogue(region, 1, environment);
    const DType dtype = formats.outputs[0].dtype;
    const auto choices = tiles(s, environment.storage);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();
    const int64_t vector = vector_of(s.channels, dtype);
    const int x = region.input_index(conv.input(0)), w = region.input_index(conv.input(1));

    KernelSpec spec;
    spec.name = fmt::format("depthwise_{}_{}x{}s{}_c{}v{}_{}", short_name(dtype), s.kernel[0], s.kernel[1], s.stride[1],
                            s.channels, vector, tile.name());
    std::string traits, function;
    std::array<unsigned, 3> grid{1, 1, 1};
    if (tile.by_rows) {
        const RowBlocks blocks = *row_blocks(s, tile, dtype);
        // The rows of a block are no part of the code.
        spec.name = fmt::format("depthwise_{}_{}x{}s{}_c{}_rows_{}x{}x{}", short_name(dtype), s.kernel[0], s.kernel[1],
                                s.stride[1], s.channels, blocks.units, blocks.columns, tile.w);
        spec.threads = static_cast<int>(blocks.threads(tile));
        spec.shared_bytes = static_cast<int>(blocks.shared_bytes(s));
        grid = {blocks.count_x(s, vector), static_cast<unsigned>(divide_up(s.out[0], tile.h)),
                static_cast<unsigned>(s.n)};
        function = "depthwise_rows";
        traits = fmt::format("    static constexpr int kUnits = {}, kTileW = {}, kRun = {}, kStages = {};\n",
                             blocks.units, blocks.columns, tile.w, kStages);
    } else {
        spec.threads = kThreads;
        grid[0] = static_cast<unsigned>(divide_up(threads_of(s, tile, vector), kThreads));
        function = "depthwise";
        traits = fmt::format(
            "    static constexpr int kVector = {}, kDilationH = {}, kDilationW = {}, kTileH = {}, kTileW = {};\n"
            "    static constexpr bool kAllRows = {};\n",
            vector, s.dilation[0], s.dilation[1], tile.h, tile.w, tile.all_rows);
    }
    spec.max_registers = 255;
    spec.source = fmt::format(
        "#include \"planish/{1}.cuh\"\n{2}"
        "struct Traits {{\n"
        "    using T = {3};\n"
        "    using E = Epilogue;\n"
        "    static constexpr int kChannels = {4}, kKernelH = {5}, kKernelW = {6}, kStrideH = {7}, kStrideW = {8};\n"
        "{9}}};\n"
        "extern \"C\" __global__ void __launch_bounds__({10}) {0}(const __grid_constant__ planish::DepthwiseParams p) "
        "{{\n    planish::{1}<Traits>(p);\n}}\n",
        spec.name, function, epilogue.source, memory_type(dtype), s.channels, s.kernel[0], s.kernel[1], s.stride[0],
        s.stride[1], traits, spec.threads);

    DepthwiseParams p{};
    p.n = static_cast<int>(s.n);
    p.h = static_cast<int>(s.in[0]), p.w = static_cast<int>(s.in[1]);
    p.out_h = static_cast<int>(s.out[0]), p.out_w = static_cast<int>(s.out[1]);
    p.pad_top = static_cast<int>(s.begin[0]), p.pad_left = static_cast<int>(s.begin[1]);
    p.rows = tile.h;

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = 2 * s.outputs() * s.kernel[0] * s.kernel[1];
    kernel.consumed = {w};
    const auto weights = region.constant(conv.input(1));
    const int packed = kernel.add_constant(environment.packed->get(
        weights, fmt::format("cuda depthwise {}", short_name(dtype)), [&] { return pack_weights(*weights, dtype); }));
    Launch launch = make_launch(std::move(spec), grid, p);
    launch.pdl = true;
    launch.bind(offsetof(DepthwiseParams, input), input(x))
        .bind(offsetof(DepthwiseParams, weights), constant(packed))
        .bind(offsetof(DepthwiseParams, output), output());
    if (const int bias = *optional_input(region, conv.input(2)); bias >= 0)
        launch.bind(offsetof(DepthwiseParams, bias), input(bias));
    bind_epilogue(kernel, launch, offsetof(DepthwiseParams, operands), epilogue, {x});
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kDepthwise{"depthwise", can_convolve, depthwise_formats, compile, depthwise_tactics};
}  // namespace families

}  // namespace planish::cuda
