// Matrix products and convolutions of float16, bfloat16 and of quantised regions' bytes on Hopper's warpgroup products:
// kernels/gemm_wgmma.cuh.
#include <fmt/format.h>

#include <algorithm>

#include "backends/cuda/implementations/product.hpp"
#include "backends/cuda/kernels/gemm_wgmma_params.h"

namespace planish::cuda {
namespace {

constexpr int kStepBytes = 128;  // along K: what one copy swizzles

// ---- What is computed: C[m, n] = A[m, taps * channels] B[n, taps, channels]^T ---------------------------------------

int64_t channels_of(const Product& p) {
    return p.gather ? p.gather->channels : p.k;
}
int64_t element_bytes(const Product& p) {
    return p.bytes ? 1 : 2;
}
int step_of(const Product& p) {
    return static_cast<int>(kStepBytes / element_bytes(p));
}
int64_t steps_of(const Product& p) {
    return p.k / channels_of(p) * divide_up(channels_of(p), step_of(p));
}
/// Products of 32 bytes in a step that have something to multiply.
int64_t products_of(const Product& p) {
    return std::min<int64_t>(4, divide_up(channels_of(p) * element_bytes(p), 32));
}
/// Columns of the output in 16 bytes, what the copy engine wants a multiple of.
int64_t unit_of(const Product& p) {
    return p.bytes && p.bytes->result ? 16 : 8;
}

/// Whether an im2col map holds the window: offsets of taps have eight bits, corners seven and a sign, steps go to 8.
bool has_map(const Product::Gather& gather) {
    for (size_t i = 0; i < 2; ++i) {
        const ImageWindow& w = gather.window;
        const int64_t upper = (gather.out[i] - 1) * w.stride[i] + 1 - w.in[i] - w.begin[i];
        if (w.begin[i] < 0 || w.begin[i] > 128 || upper < -128 || upper > 127 || w.stride[i] > 8 ||
            (w.kernel[i] - 1) * w.dilation[i] > 255)
            return false;
    }
    return true;
}

/// Whether a window leaves the image.
bool is_padded(const Product::Gather& gather) {
    for (size_t i = 0; i < 2; ++i) {
        const ImageWindow& w = gather.window;
        const int64_t last = (gather.out[i] - 1) * w.stride[i] + (w.kernel[i] - 1) * w.dilation[i] - w.begin[i];
        if (w.begin[i] > 0 || last >= w.in[i]) return true;
    }
    return false;
}

std::optional<Product> read_problem(const RegionView& region) {
    auto p = is_of_bytes(region) ? read_product_of_bytes(region) : read_product(region);
    // The copy engine wants rows of whole 16 bytes and 32-bit coordinates.
    if (!p || !p->constant || p->batches() != 1 || p->a_k != 1 || channels_of(*p) * element_bytes(*p) % 16 != 0 ||
        p->n % unit_of(*p) != 0)
        return std::nullopt;
    if (p->gather && (p->gather->transposed || !has_map(*p->gather))) return std::nullopt;
    // It fills what is outside of the image with zero bytes, which must stand for zeros.
    if (p->gather && p->bytes && p->bytes->a.zero() != 0 && is_padded(*p->gather)) return std::nullopt;
    return p;
}

std::optional<EpilogueCode> epilogue_of(const RegionView& region, const Product& p, const Environment& environment) {
    return p.bytes ? byte_epilogue(region, p, environment) : product_epilogue(region, p, environment);
}

/// Whether rows of A are gathered, and not those of a matrix already.
bool gathers(const Product& p) {
    return p.gather && !p.gather->is_identity();
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (!environment.arch.is_hopper()) return Refusal::isa_missing;
    if (environment.storage != DType::f16 && environment.storage != DType::bf16) return Refusal::dtype_not_handled;
    if (const Refusal refusal = check_product(region); refusal != Refusal::none) return refusal;
    if (region.constant(region.root().input(1)) == nullptr) return Refusal::weights_not_constant;
    const auto problem = read_problem(region);
    if (!problem) return Refusal::shape_not_handled;
    if (!product_epilogue(region, *problem, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

Refusal can_multiply_bytes(const RegionView& region, const Environment& environment) {
    if (!environment.arch.is_hopper()) return Refusal::isa_missing;
    const auto problem = read_problem(region);
    if (!problem) return Refusal::shape_not_handled;
    if (!problem->bytes->result && environment.storage != DType::f16 && environment.storage != DType::bf16)
        return Refusal::dtype_not_handled;
    return epilogue_of(region, *problem, environment) ? Refusal::none : Refusal::post_op_not_handled;
}

Formats product_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    const Product problem = *read_problem(region);
    Formats formats =
        problem.gather ? image_formats(region, available, environment) : plain_formats(region, available, environment);
    set_epilogue_formats(formats, *epilogue_of(region, problem, environment));
    return formats;
}

// ---- Tactics --------------------------------------------------------------------------------------------------------

/// Config of kernels/gemm_wgmma.cuh.
struct Tile {
    int m, n, stages, consumers;
    bool ping_pong = false;
    int cluster_m = 1;  // blocks that share the weights' tiles
    int split = 1;      // blocks that share one tile's K
    int chunks = 2;

    int cluster() const { return cluster_m * split; }
    int threads() const { return consumers == 1 ? 192 : 384; }
    int rows() const { return ping_pong ? m : m / consumers; }
    /// Bytes of a row of the output that are stored at once; `unit`: its columns in 16 bytes.
    int chunk_row(int unit) const {
        const int row = n / unit * 16;
        return row % 128 == 0 ? 128 : row % 64 == 0 ? 64 : 32;
    }
    int shared_bytes(int unit) const {
        // Chunks of the output; of a split tile, the parts of the columns that a block sums.
        const int buffers = split > 1 ? split * ((n / unit + split - 1) / split) * m * unit * 4
                                      : consumers * chunks * rows() * chunk_row(unit);
        return 1024 + stages * (m + n) * kStepBytes + buffers + 8 * (2 * stages + 3 + 2 * consumers * chunks);
    }
    std::string name() const {
        std::string s = fmt::format("{}x{}s{}{}", m, n, stages, consumers == 1 ? "" : ping_pong ? "p" : "c");
        if (cluster_m > 1) s += fmt::format("x{}", cluster_m);
        if (split > 1) s += fmt::format("k{}", split);
        return s;
    }
};

/// Seconds: whole waves of blocks, each with the products or the copies of its steps, whichever takes longer, and an
/// epilogue that only ping-pong hides; or the bytes, where they take longer.
double estimate(const Tile& tile, const Product& p, const EpilogueCode& epilogue, const Environment& environment) {
    const DeviceProperties& device = environment.device;
    const int64_t tiles = divide_up(p.m, int64_t{tile.m} * tile.cluster_m) * divide_up(p.n, tile.n);  // of clusters
    const int64_t resident = device.multiprocessors / tile.cluster();
    const double waves = static_cast<double>(divide_up(tiles, resident));
    const double steps = static_cast<double>(divide_up(steps_of(p), tile.split));
    // Multiply-adds of a multiprocessor and its share of the L2 cache's rate in bytes, a clock.
    constexpr double kCopyRate = 44;
    const double rate = 4096 / static_cast<double>(element_bytes(p));
    const double multiplied = static_cast<double>(step_of(p) * products_of(p)) / 4;
    const double filled = tile.n >= 128 ? 0.92 : tile.n == 96 ? 0.8 : tile.n == 64 ? 0.7 : 0.45;
    const double products = tile.m * tile.n * multiplied / rate / filled;
    const double copies = 128.0 * (tile.m + static_cast<double>(tile.n) / tile.cluster_m) / kCopyRate;
    // Blocks that share copies wait for one another.
    const double step = std::max(products, copies) * (tile.cluster_m > 1 ? 1.1 : 1);
    // Four schedulers issue the epilogue's instructions for 32 elements each.
    const double finish = tile.m * tile.n / 128.0 * (8 + 4 * epilogue.operations) + 600;
    constexpr double kStart = 2200, kSum = 1500;
    double clocks = waves * (steps * step + (tile.ping_pong ? std::max(0.0, finish - steps * step) : finish));
    clocks += kStart + (tile.split > 1 ? kSum : 0) + (tile.ping_pong ? finish : 0);
    const double outputs = static_cast<double>(p.m * p.n), output_bytes = 16 / static_cast<double>(unit_of(p));
    const double bytes = static_cast<double>(element_bytes(p)) * (p.elements() - outputs) +
                         output_bytes * (1 + epilogue.tensors()) * outputs;
    const double bandwidth = bytes < static_cast<double>(device.l2_bytes) / 2 ? 2 * device.bandwidth : device.bandwidth;
    return std::max(clocks / (0.88 * device.clock), bytes / (0.85 * bandwidth) + kStart / device.clock);
}

std::vector<Tile> tiles(const Product& p, const Environment& environment) {
    constexpr Tile kLarge[] = {
        {128, 256, 4, 2, false, 2}, {128, 256, 4, 2, false, 1},      {128, 192, 4, 2, false, 1},
        {128, 128, 4, 2, true, 2},  {128, 128, 4, 2, true, 1},       {256, 128, 3, 2, false, 1},
        {64, 256, 3, 2, true, 2},   {128, 64, 6, 2, true, 1},        {256, 64, 4, 2, false, 1},
        {128, 96, 5, 2, true, 1},   {128, 128, 3, 2, true, 1, 1, 3},
    };
    constexpr Tile kSmall[] = {{64, 192, 5, 1}, {64, 128, 6, 1}, {64, 96, 6, 1}, {64, 64, 6, 1}, {64, 32, 8, 1}};
    std::vector<Tile> result;
    const auto add = [&](const Tile& tile) {
        if (tile.shared_bytes(static_cast<int>(unit_of(p))) <= environment.device.shared_per_block)
            result.push_back(tile);
    };
    for (const Tile& tile : kLarge)
        if (p.m > tile.m / 2 && p.n > tile.n / 2) add(tile);
    for (Tile tile : kSmall) {
        if (p.n <= tile.n / 2 && tile.n > 32) continue;
        // More blocks than multiprocessors do not run together.
        const int64_t count = divide_up(p.m, tile.m) * divide_up(p.n, tile.n);
        for (const int split : {1, 2, 4, 8}) {
            if (split > 1 && (environment.batch_invariant || steps_of(p) < split ||
                              count * split > 2 * int64_t{environment.device.multiprocessors}))
                continue;
            tile.split = split;
            add(tile);
        }
        // Few rows read the weights again for every tile of them: neighbours share what comes of the L2 cache.
        tile.split = 1;
        for (const int cluster : {2, 4}) {
            if (tile.n < 64 || p.m <= int64_t{tile.m} * cluster / 2) continue;
            tile.cluster_m = cluster;
            add(tile);
        }
    }
    return result;
}

std::vector<Tactic> product_tactics(const RegionView& region, const Environment& environment) {
    const Product problem = *read_problem(region);
    const EpilogueCode epilogue = *epilogue_of(region, problem, environment);
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(problem, environment))
        tactics.push_back({tile.name(), estimate(tile, problem, epilogue, environment)});
    sort_by_estimate(tactics);
    // The estimate is seldom off by more than these many places, and each costs a build its time.
    constexpr size_t kTimed = 12;
    if (tactics.size() > kTimed) tactics.resize(kTimed);
    return tactics;
}

// ---- Compilation ----------------------------------------------------------------------------------------------------

TensorMapDesc matrix_map(DType dtype, int64_t columns, int64_t rows, int box_columns, int box_rows) {
    TensorMapDesc map;
    map.dtype = dtype;
    map.rank = 2;
    map.dims = {columns, rows};
    map.strides = {byte_size(dtype, columns)};
    map.box = {box_columns, box_rows};
    const int64_t row = byte_size(dtype, box_columns);
    using Swizzle = TensorMapDesc::Swizzle;
    map.swizzle = row == 128 ? Swizzle::bytes128 : row == 64 ? Swizzle::bytes64 : Swizzle::bytes32;
    return map;
}

TensorMapDesc weights_map(DType dtype, const Product& p, int box_rows) {
    TensorMapDesc map;
    map.dtype = dtype;
    map.rank = 3;
    map.dims = {channels_of(p), p.k / channels_of(p), p.n};
    map.strides = {byte_size(dtype, channels_of(p)), byte_size(dtype, p.k)};
    map.box = {step_of(p), 1, box_rows};
    return map;
}

/// The bounding box holds the first tap of every output pixel: from the padding on, as many steps as there are outputs.
TensorMapDesc image_map(DType dtype, const Product& p, int pixels) {
    const Product::Gather& gather = *p.gather;
    const ImageWindow& w = gather.window;
    const int64_t pixel = byte_size(dtype, gather.channels), row = pixel * w.in[1];
    TensorMapDesc map;
    map.mode = TensorMapDesc::Mode::im2col;
    map.dtype = dtype;
    map.rank = 4;
    map.dims = {gather.channels, w.in[1], w.in[0], gather.images};
    map.strides = {pixel, row, row * w.in[0]};
    for (size_t i = 0; i < 2; ++i) {
        const size_t axis = 1 - i;  // of the window: w, then h
        map.lower_corner[i] = static_cast<int>(-w.begin[axis]);
        map.upper_corner[i] =
            static_cast<int>((gather.out[axis] - 1) * w.stride[axis] + 1 - w.in[axis] - w.begin[axis]);
        map.element_strides[1 + i] = static_cast<int>(w.stride[axis]);
    }
    map.channels = step_of(p);
    map.pixels = pixels;
    return map;
}

std::string kernel_source(const Tile& tile, const Product& p, const EpilogueCode& epilogue, DType element, DType out,
                          std::string_view name) {
    return "#include \"planish/gemm_wgmma.cuh\"\n" + epilogue.source +
           fmt::format(
               "struct Config {{\n"
               "    using Element = {};\n    using Output = {};\n"
               "    static constexpr int kTileM = {}, kTileN = {}, kStages = {}, kConsumers = {};\n"
               "    static constexpr int kProducts = {};\n"
               "    static constexpr bool kPingPong = {}, kConvolution = {};\n"
               "    static constexpr int kClusterM = {}, kClusterN = 1, kSplitK = {}, kChunks = {};\n"
               "}};\n"
               "static_assert(planish::GemmWgmma<Config, Epilogue>::kShared == {});\n"
               "extern \"C\" __global__ void __cluster_dims__({}, 1, 1) __launch_bounds__({}, 1)\n"
               "{}(const __grid_constant__ planish::GemmWgmmaParams p) {{\n"
               "    planish::gemm_wgmma<Config, Epilogue>(p);\n}}\n",
               element_type(element), element_type(out), tile.m, tile.n, tile.stages, tile.consumers, products_of(p),
               tile.ping_pong, gathers(p), tile.cluster_m, tile.split, tile.chunks,
               tile.shared_bytes(static_cast<int>(unit_of(p))), tile.cluster(), tile.threads(), name);
}

GemmWgmmaParams make_params(const Tile& tile, const Product& p) {
    GemmWgmmaParams params{};
    params.m = static_cast<int>(p.m);
    params.n = static_cast<int>(p.n);
    params.steps = static_cast<int>(steps_of(p));
    params.tiles_m = static_cast<int>(divide_up(p.m, int64_t{tile.m} * tile.cluster_m));
    params.tiles_n = static_cast<int>(divide_up(p.n, tile.n));
    params.group = 8;
    params.constant_weights = 1;
    params.channel_steps = static_cast<int>(divide_up(channels_of(p), step_of(p)));
    if (gathers(p)) {
        const ImageWindow& w = p.gather->window;
        params.kernel_w = static_cast<int>(w.kernel[1]);
        params.dilation_h = static_cast<int>(w.dilation[0]);
        params.dilation_w = static_cast<int>(w.dilation[1]);
        params.out_h = static_cast<int>(p.gather->out[0]);
        params.out_w = static_cast<int>(p.gather->out[1]);
        params.stride_h = static_cast<int>(w.stride[0]);
        params.stride_w = static_cast<int>(w.stride[1]);
        params.pad_top = static_cast<int>(w.begin[0]);
        params.pad_left = static_cast<int>(w.begin[1]);
    }
    return params;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Product p = *read_problem(region);
    const EpilogueCode epilogue = *epilogue_of(region, p, environment);
    const DType out = formats.outputs[0].dtype, element = p.bytes ? p.bytes->a.dtype : out;
    const int unit = static_cast<int>(unit_of(p)), step = step_of(p);
    const auto choices = tiles(p, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();

    KernelSpec spec;
    spec.name = fmt::format("{}_{}_wgmma_{}", gathers(p) ? "conv" : "gemm", short_name(element), tile.name());
    spec.source = kernel_source(tile, p, epilogue, element, out, spec.name);
    spec.threads = tile.threads();
    spec.shared_bytes = tile.shared_bytes(unit);
    spec.cluster = tile.cluster();
    spec.max_registers = tile.consumers == 1 ? 255 : 168;

    const GemmWgmmaParams params = make_params(tile, p);
    const int64_t clusters = int64_t{params.tiles_m} * params.tiles_n;
    // Blocks of a split tile have one each; others are as many as run together and walk the tiles.
    const int64_t resident = environment.device.multiprocessors / tile.cluster();
    const int64_t launched = tile.split > 1 ? clusters : std::min(clusters, resident);

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = p.flops();
    const WeightOrder order{true, p.k, p.bytes ? 1 : p.alpha, false, unit == 16};
    const DType weights = p.bytes ? p.bytes->b.dtype : element;
    const int packed = add_weights(kernel, p, order, weights, environment);

    Launch launch = make_launch(std::move(spec), {static_cast<unsigned>(launched * tile.cluster()), 1, 1}, params);
    launch.pdl = true;
    const int chunk = tile.chunk_row(unit) / 16 * unit;
    const TensorMapDesc output_map = matrix_map(out, p.n, p.m, chunk, tile.rows());
    launch
        .bind(offsetof(GemmWgmmaParams, a), input(p.a),
              gathers(p) ? image_map(element, p, tile.m) : matrix_map(element, p.k, p.m, step, tile.m))
        .bind(offsetof(GemmWgmmaParams, b), constant(packed), weights_map(weights, p, tile.n / tile.cluster_m))
        .bind(offsetof(GemmWgmmaParams, c), output(), output_map)
        .bind(offsetof(GemmWgmmaParams, output), output());
    bind_epilogue(kernel, launch, offsetof(GemmWgmmaParams, operands), epilogue, {p.a});
    if (p.bytes) bind_columns(kernel, launch, offsetof(GemmWgmmaParams, operands), p);
    const auto residual = std::find_if(epilogue.operands.begin(), epilogue.operands.end(),
                                       [](const auto& operand) { return !operand.channel; });
    if (residual != epilogue.operands.end())
        launch.bind(offsetof(GemmWgmmaParams, residual), input(residual->input), output_map);
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kWgmma{"wgmma", can_multiply, product_formats, compile, product_tactics};
const Implementation kByteWgmma{"wgmma_u8", can_multiply_bytes, product_formats, compile, product_tactics};
}  // namespace families

}  // namespace planish::cuda
