// Products and convolutions on tensor cores of sm_80 and later: kernels/gemm_mma.cuh. Float16, bfloat16, and float32
// where the program allows tf32; any group, stride and dilation, first layers, transposed convolutions, batches. Of
// quantised regions: bytes.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backends/cuda/implementations/product.hpp"
#include "backends/cuda/kernels/gemm_mma_params.h"

namespace planish::cuda {
namespace {

/// Bytes that the longest step takes along K: packed weights are filled up to a multiple of them.
constexpr int kLongestStep = 128;
constexpr int64_t kMostElementTaps = 4096;

// ---- What is computed -----------------------------------------------------------------------------------------------

struct Problem {
    Product product;
    int unit = 8;                  // elements of 16 bytes
    bool by_element = false;       // A has no 16 bytes in a row
    bool weights_along_n = false;  // B is an activation that lies as [k, n]

    int64_t element_bytes() const { return 16 / unit; }
    int64_t padded_k() const {
        return divide_up(product.k, kLongestStep / element_bytes()) * kLongestStep / element_bytes();
    }
};

/// Taps along an axis that a row tests one by one: one stands for all where no window leaves the image.
int64_t tested_taps(const Product::Gather& gather, size_t axis) {
    const ImageWindow& w = gather.window;
    const int64_t last = (gather.out[axis] - 1) * w.stride[axis] + (w.kernel[axis] - 1) * w.dilation[axis];
    const bool stays = !gather.transposed && w.begin[axis] == 0 && last < w.in[axis];
    return stays ? 1 : w.kernel[axis];
}

/// Whether every run of 16 bytes along K is there, and begins at a multiple of its size.
bool has_units(const Product& p, int unit) {
    if (p.gather) return p.gather->group_channels % unit == 0;
    return p.a_k == 1 && p.k % unit == 0 && p.a_row % unit == 0 &&
           std::all_of(p.batch.begin(), p.batch.end(), [&](const Product::Axis& axis) { return axis.a % unit == 0; });
}

std::optional<Problem> read_problem(const RegionView& region, const Environment& environment) {
    auto product = is_of_bytes(region) ? read_product_of_bytes(region) : read_product(region);
    if (!product) return std::nullopt;
    const Product& p = *product;
    constexpr int64_t kMost = std::numeric_limits<int>::max() / 2, kMostBlocks = 65535;
    if (p.batches() > kMostBlocks || element_count(region.input(p.a).dims()) > kMost ||
        element_count(region.input(p.b).dims()) > kMost)
        return std::nullopt;
    if (p.gather && std::max(tested_taps(*p.gather, 0), tested_taps(*p.gather, 1)) > kGemmMmaMostTaps)
        return std::nullopt;
    Problem problem;
    problem.unit = p.bytes ? 16 : environment.storage == DType::f32 ? 4 : 8;
    problem.by_element = !has_units(p, problem.unit);
    if (problem.by_element && p.k > kMostElementTaps) return std::nullopt;
    if (!p.constant) {
        problem.weights_along_n = p.b_n == 1;
        const int64_t run = problem.weights_along_n ? p.n : p.k;
        if (run % problem.unit != 0) return std::nullopt;  // then all strides are, too
    }
    problem.product = std::move(*product);
    const Product& read = problem.product;
    if (read.constant && read.batches() * read.n * problem.padded_k() > kMost) return std::nullopt;
    return problem;
}

std::optional<EpilogueCode> epilogue_of(const RegionView& region, const Problem& problem,
                                        const Environment& environment) {
    const Product& p = problem.product;
    return p.bytes ? byte_epilogue(region, p, environment) : product_epilogue(region, p, environment);
}

Refusal can_multiply_bytes(const RegionView& region, const Environment& environment) {
    const auto problem = read_problem(region, environment);
    if (!problem) return Refusal::shape_not_handled;
    if (const Refusal refusal = check_arch(problem->product, environment.arch); refusal != Refusal::none)
        return refusal;
    return epilogue_of(region, *problem, environment) ? Refusal::none : Refusal::post_op_not_handled;
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (!environment.arch.at_least(80)) return Refusal::isa_missing;
    if (environment.storage == DType::f32 ? !environment.tf32
                                          : environment.storage != DType::f16 && environment.storage != DType::bf16)
        return Refusal::dtype_not_handled;
    if (const Refusal refusal = check_product(region); refusal != Refusal::none) return refusal;
    const auto problem = read_problem(region, environment);
    if (!problem) return Refusal::shape_not_handled;
    if (!product_epilogue(region, problem->product, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

/// By elements A is read as it lies, in the type that it has: the first layer takes the caller's image.
Formats mma_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    const Problem problem = *read_problem(region, environment);
    const Product& p = problem.product;
    Formats formats =
        p.gather ? image_formats(region, available, environment) : plain_formats(region, available, environment);
    const Format& from = available[static_cast<size_t>(p.a)];
    const bool is_read = p.bytes.has_value() || is_read_as_float(from.dtype);
    if (problem.by_element && is_read && !region.node().input(p.a)->is_constant()) {
        Format& to = formats.inputs[static_cast<size_t>(p.a)];
        to.dtype = from.dtype;
        if (p.gather) to.layout = from.layout;
    }
    set_epilogue_formats(formats, *epilogue_of(region, problem, environment));
    return formats;
}

// ---- Tactics --------------------------------------------------------------------------------------------------------

struct Tile {
    int m, n, warps_m, warps_n, step_bytes, stages;
    int split = 1;  // blocks that share one tile's K

    int threads() const { return 32 * warps_m * warps_n; }
    int warp_m() const { return m / warps_m; }
    int warp_n() const { return n / warps_n; }
    int shared_bytes() const {
        return std::max(stages * (m + n) * step_bytes, warps_m * warps_n * 16 * (warp_n() + 8) * 4);
    }
    int64_t steps(const Problem& problem) const {
        return divide_up(problem.product.k, step_bytes / problem.element_bytes());
    }
    /// Of a thread: sums, two sets of fragments, and what addresses take.
    int registers() const { return std::min(255, warp_m() * warp_n() / 32 + warp_m() / 2 + warp_n() / 2 + 64); }
    std::string name(const Problem& problem) const {
        return fmt::format("{}x{}x{}_s{}{}", m, n, step_bytes / problem.element_bytes(), stages,
                           split > 1 ? fmt::format("_k{}", split) : "");
    }
};

constexpr Tile kTiles[] = {
    {256, 128, 4, 2, 64, 3}, {128, 256, 2, 4, 64, 3}, {128, 128, 2, 2, 64, 4}, {128, 64, 2, 2, 64, 4},
    {64, 128, 2, 2, 64, 4},  {64, 64, 2, 2, 64, 4},   {64, 64, 2, 2, 128, 4},  {128, 32, 4, 1, 64, 4},
    {32, 64, 2, 2, 128, 4},  {64, 32, 2, 2, 128, 4},  {16, 128, 1, 4, 128, 4}, {16, 64, 1, 4, 128, 4},
};
// Elements go through registers: few of them for a thread, and no more stages than hide the weights' copies.
constexpr Tile kElementTiles[] = {
    {128, 128, 4, 2, 64, 3}, {128, 64, 4, 2, 64, 3}, {128, 32, 8, 1, 64, 3},
    {64, 64, 2, 2, 64, 3},   {32, 64, 2, 2, 64, 3},
};

/// Seconds: whole waves of blocks that share a multiprocessor's tensor cores, its shared memory and its part of the
/// L2 cache's rate, or wait for their copies where they are few; or the bytes, where they take longer.
double estimate(const Tile& tile, const Problem& problem, const EpilogueCode& epilogue,
                const Environment& environment) {
    const Product& p = problem.product;
    const DeviceProperties& device = environment.device;
    const double step_k = tile.step_bytes / static_cast<double>(problem.element_bytes());
    // Multiply-adds of a multiprocessor a clock. Hopper and Blackwell have other instructions for their full rate.
    const double share = environment.arch.major == 9 ? 0.6 : environment.arch.major == 10 ? 0.3 : 1;
    const double rate = share * device.tensor_flops / 2 / device.multiprocessors / device.clock *
                        (problem.unit == 4    ? 0.5
                         : problem.unit == 16 ? 2
                                              : 1);
    constexpr double kCopyRate = 40, kSharedRate = 128;  // bytes of a multiprocessor, a clock
    const double products = tile.m * tile.n * step_k / (0.9 * rate);
    const double fragments =
        tile.warps_m * tile.warps_n * (tile.warp_m() + tile.warp_n()) * tile.step_bytes / kSharedRate;
    const double copies = (tile.m + tile.n) * tile.step_bytes / kCopyRate;
    // Six instructions an element, of four schedulers that issue one for 32 lanes each.
    const double elements = problem.by_element ? tile.m * step_k * 6 / 128 : 0;
    const double step = std::max({products, fragments, copies}) + elements + 20;
    constexpr double kLatency = 800, kStart = 3500;  // clocks: of a copy; of a launch
    const double lone_step = std::max(step, kLatency / (problem.by_element ? 1 : tile.stages - 1));
    const double steps = static_cast<double>(divide_up(tile.steps(problem), tile.split));
    // Four schedulers issue the epilogue's instructions for 32 elements each.
    const double finish = tile.m * tile.n / 128.0 * (10 + 4 * epilogue.operations);
    const double join = tile.split > 1 ? 1500 + tile.m * tile.n * 8 / kCopyRate : 0;

    const int64_t blocks = divide_up(p.m, tile.m) * divide_up(p.n, tile.n) * p.batches() * tile.split;
    const int64_t resident =
        std::max(1, std::min({device.shared_per_multiprocessor / (tile.shared_bytes() + 1024),
                              device.registers_per_multiprocessor / (tile.registers() * tile.threads()),
                              device.threads_per_multiprocessor / tile.threads()}));
    const auto wave = [&](int64_t together) {
        const auto n = static_cast<double>(together);
        return std::max(n * (steps * step + 0.7 * finish), steps * lone_step + finish) + join + 500;
    };
    const int64_t full = blocks / (resident * device.multiprocessors),
                  rest = blocks % (resident * device.multiprocessors);
    double clocks = kStart + static_cast<double>(full) * wave(resident);
    if (rest > 0) clocks += wave(divide_up(rest, device.multiprocessors));
    const double bytes = static_cast<double>(problem.element_bytes()) *
                         (p.elements() + epilogue.tensors() * static_cast<double>(p.output_elements()));
    const double bandwidth = bytes < static_cast<double>(device.l2_bytes) / 2 ? 2 * device.bandwidth : device.bandwidth;
    return std::max(clocks / (0.88 * device.clock), bytes / (0.85 * bandwidth) + kStart / device.clock);
}

/// Tiles that the problem fills by half at least, and splits of K where blocks are few.
std::vector<Tile> tiles(const Problem& problem, const Environment& environment) {
    const Product& p = problem.product;
    std::vector<Tile> result;
    const auto add = [&](Tile tile) {
        // B's rows along n want eight units for their permutation.
        if (problem.weights_along_n && tile.n < 8 * problem.unit) return;
        const bool low = tile.m > 32 && p.m <= tile.m / 2, narrow = tile.n > 64 && p.n <= tile.n / 2;
        if (low || narrow || tile.shared_bytes() > environment.device.shared_per_block) return;
        if (tile.m == 16 && p.m > 64) return;
        const int64_t blocks = divide_up(p.m, tile.m) * divide_up(p.n, tile.n) * p.batches();
        for (const int split : {1, 2, 4, 8, 16}) {
            const bool worth = blocks * split <= 2 * int64_t{environment.device.multiprocessors} &&
                               tile.steps(problem) >= 4 * split && !environment.batch_invariant;
            if (split > 1 && !worth) continue;
            tile.split = split;
            result.push_back(tile);
        }
    };
    if (problem.by_element)
        for (const Tile& tile : kElementTiles) add(tile);
    else
        for (const Tile& tile : kTiles) add(tile);
    return result;
}

std::vector<Tactic> mma_tactics(const RegionView& region, const Environment& environment) {
    const Problem problem = *read_problem(region, environment);
    const EpilogueCode epilogue = *epilogue_of(region, problem, environment);
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(problem, environment))
        tactics.push_back({tile.name(problem), estimate(tile, problem, epilogue, environment)});
    sort_by_estimate(tactics);
    // Beside Hopper's own products the best few are worth the tuner's time.
    const size_t most = environment.arch.is_hopper() ? 3 : 8;
    if (tactics.size() > most) tactics.resize(most);
    return tactics;
}

bool pays(const RegionView& region, const Environment& environment) {
    const Implementation& other = is_of_bytes(region) ? families::kByteWgmma : families::kWgmma;
    return other.can_implement(region, environment) != Refusal::none;
}

// ---- Compilation ----------------------------------------------------------------------------------------------------

struct Strides {
    int64_t row, pixel, channel;
};
Strides image_strides(const Product::Gather& gather, Layout layout) {
    if (layout == Layout::channels_last) return {gather.window.in[1] * gather.channels, gather.channels, 1};
    return {gather.window.in[1], 1, gather.window.in[0] * gather.window.in[1]};
}

/// GemmMmaTap for every unit (or element) along K, and for one step behind.
Tensor make_taps(const Problem& problem, const Strides& strides) {
    const Product& p = problem.product;
    const int64_t each = problem.by_element ? 1 : problem.unit;
    const int64_t count = (problem.padded_k() + kLongestStep / problem.element_bytes()) / each;
    Tensor table(DType::i32, {count, 2});
    const auto to = table.data<int32_t>();
    for (int64_t i = 0; i < count; ++i) {
        const int64_t k = i * each;
        int64_t offset = 0;
        unsigned inside = kGemmMmaNowhere;
        if (k < p.k && p.gather) {
            const Product::Gather& gather = *p.gather;
            const ImageWindow& w = gather.window;
            const int64_t tap = k / gather.group_channels, channel = k % gather.group_channels;
            const int64_t at[2] = {tap / w.kernel[1], tap % w.kernel[1]};
            int64_t away[2];
            for (size_t axis = 0; axis < 2; ++axis)
                away[axis] =
                    gather.transposed ? -(at[axis] * w.dilation[axis] / w.stride[axis]) : at[axis] * w.dilation[axis];
            offset = away[0] * strides.row + away[1] * strides.pixel + channel * strides.channel;
            inside =
                1u << (tested_taps(gather, 0) > 1 ? at[0] : 0) | 1u << (16 + (tested_taps(gather, 1) > 1 ? at[1] : 0));
        } else if (k < p.k) {
            offset = k * p.a_k;
            inside = 1;
        }
        to[static_cast<size_t>(2 * i)] = static_cast<int32_t>(offset);
        to[static_cast<size_t>(2 * i + 1)] = static_cast<int32_t>(inside);
    }
    return table;
}

GemmMmaParams make_params(const Tile& tile, const Problem& problem, const Strides& strides) {
    const Product& p = problem.product;
    GemmMmaParams params{};
    set_batch(params.batch, p, p.gather ? p.gather->group_channels * strides.channel : 0);
    params.output_step = p.gather ? p.n : p.m * p.n;
    params.channel_step = static_cast<int>(p.gather ? p.n : 0);
    params.m = static_cast<int>(p.m);
    params.n = static_cast<int>(p.n);
    params.k = static_cast<int>(p.k);
    params.ldc = static_cast<int>(p.output_row());
    params.alpha = p.bytes ? 1 : static_cast<float>(p.alpha);
    if (p.bytes) params.zero = static_cast<unsigned>(p.bytes->a.zero()) * 0x01010101u;
    params.a_row = static_cast<int>(p.a_row);
    params.b_row = static_cast<int>(p.constant ? problem.padded_k() : problem.weights_along_n ? p.b_k : p.b_n);
    params.b_depth = static_cast<int>(p.constant ? problem.padded_k() : p.k);
    if (p.constant)  // groups of packed weights
        for (BatchAxis& axis : params.batch) axis.weights = axis.extent > 1 ? p.n * problem.padded_k() : 0;
    params.steps = static_cast<int>(tile.steps(problem));
    params.tiles_m = static_cast<int>(divide_up(p.m, tile.m));
    params.tiles_n = static_cast<int>(divide_up(p.n, tile.n));
    params.group = 8;
    if (p.gather) {
        const Product::Gather& gather = *p.gather;
        params.image = static_cast<int>(gather.image_elements());
        params.row = static_cast<int>(strides.row);
        params.pixel = static_cast<int>(strides.pixel);
        params.h = static_cast<int>(gather.window.in[0]);
        params.w = static_cast<int>(gather.window.in[1]);
        params.out_h = static_cast<int>(gather.out[0]);
        params.out_w = static_cast<int>(gather.out[1]);
        params.pad_top = static_cast<int>(gather.window.begin[0]);
        params.pad_left = static_cast<int>(gather.window.begin[1]);
    }
    return params;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Problem problem = *read_problem(region, environment);
    const Product& p = problem.product;
    const EpilogueCode epilogue = *epilogue_of(region, problem, environment);
    const auto choices = tiles(problem, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name(problem) == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();
    const Format& a = formats.inputs[static_cast<size_t>(p.a)];
    const DType out = formats.outputs[0].dtype;
    const Strides strides = p.gather ? image_strides(*p.gather, a.layout) : Strides{};
    // Lanes walk along rows where pixels are neighbours in memory.
    const bool rows_first = problem.by_element && (p.gather ? strides.channel != 1 : p.a_k != 1);
    const DType element = p.bytes ? p.bytes->a.dtype : environment.storage;
    int64_t run = std::min<int64_t>(8, 16 / byte_size(out, 1));
    while (p.n % run != 0) run /= 2;

    KernelSpec spec;
    spec.name = fmt::format("{}_{}_mma_{}{}", p.gather ? p.gather->transposed ? "conv_transpose" : "conv" : "gemm",
                            problem.unit == 4 ? "tf32" : short_name(p.bytes ? element : out), tile.name(problem),
                            problem.by_element ? "_e" : "");
    spec.threads = tile.threads();
    spec.shared_bytes = tile.shared_bytes();
    spec.max_registers = 255;
    const ImageWindow window = p.gather ? p.gather->window : ImageWindow{};
    spec.source =
        "#include \"planish/gemm_mma.cuh\"\n" + epilogue.source +
        fmt::format(
            "struct Config {{\n"
            "    using Element = {};\n    using Input = {};\n    using Output = {};\n"
            "    static constexpr int kTileM = {}, kTileN = {}, kWarpsM = {}, kWarpsN = {};\n"
            "    static constexpr int kStepBytes = {}, kStages = {}, kSplit = {}, kRun = {};\n"
            "    static constexpr bool kGather = {}, kTransposed = {}, kByElement = {}, kRowsFirst = {};\n"
            "    static constexpr bool kAlongN = {}, kConstantWeights = {};\n"
            "    static constexpr int kKernelH = {}, kKernelW = {}, kStrideH = {}, kStrideW = {};\n"
            "    static constexpr int kDilationH = {}, kDilationW = {};\n"
            "}};\n"
            "static_assert(planish::GemmMma<Config, Epilogue>::kShared == {});\n"
            "extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ "
            "planish::GemmMmaParams p) {{\n    planish::gemm_mma<Config, Epilogue>(p);\n}}\n",
            element_type(element), element_type(a.dtype), element_type(out), tile.m, tile.n, tile.warps_m, tile.warps_n,
            tile.step_bytes, tile.stages, tile.split, run, p.gather.has_value(), p.gather && p.gather->transposed,
            problem.by_element, rows_first, problem.weights_along_n, p.constant,
            p.gather ? tested_taps(*p.gather, 0) : 1, p.gather ? tested_taps(*p.gather, 1) : 1, window.stride[0],
            window.stride[1], window.dilation[0], window.dilation[1], tile.shared_bytes(), tile.threads(), spec.name);

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = p.flops();
    const GemmMmaParams params = make_params(tile, problem, strides);
    const int64_t blocks = int64_t{params.tiles_m} * params.tiles_n;
    Launch launch = make_launch(
        std::move(spec),
        {static_cast<unsigned>(blocks), static_cast<unsigned>(tile.split), static_cast<unsigned>(p.batches())}, params);
    launch.pdl = true;
    launch.bind(offsetof(GemmMmaParams, a), input(p.a)).bind(offsetof(GemmMmaParams, output), output());
    if (p.constant) {
        const WeightOrder order{true, problem.padded_k(), 1, problem.unit == 4};
        launch.bind(offsetof(GemmMmaParams, b),
                    constant(add_weights(kernel, p, order, p.bytes ? p.bytes->b.dtype : element, environment)));
    } else {
        launch.bind(offsetof(GemmMmaParams, b), input(p.b));
    }
    if (p.gather || problem.by_element)
        launch.bind(offsetof(GemmMmaParams, taps), constant(kernel.add_constant(make_taps(problem, strides))));
    if (tile.split > 1) {
        kernel.workspace = blocks * p.batches() * tile.split * tile.m * tile.n * 4;
        kernel.semaphores = blocks * p.batches() * 4;
        launch.bind(offsetof(GemmMmaParams, parts), workspace()).bind(offsetof(GemmMmaParams, arrived), semaphore());
    }
    bind_epilogue(kernel, launch, offsetof(GemmMmaParams, operands), epilogue, {p.a, p.b});
    if (p.bytes) bind_columns(kernel, launch, offsetof(GemmMmaParams, operands), p);
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kMma{"mma", can_multiply, mma_formats, compile, mma_tactics, pays};
const Implementation kByteMma{"mma_u8", can_multiply_bytes, mma_formats, compile, mma_tactics, pays};
}  // namespace families

}  // namespace planish::cuda
