// Convolutions of images of few channels, as first layers are: kernels/conv_stem.cuh.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backends/cuda/implementations/product.hpp"
#include "backends/cuda/kernels/conv_stem_params.h"

namespace planish::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMostColumns = 64;  // of a block

/// Mirrors ConvStem of the kernel.
struct Stem {
    Product product;
    int64_t pixel = 4;    // elements
    int64_t columns = 0;  // of a block

    const ImageWindow& window() const { return product.gather->window; }
    int64_t padded_columns() const { return divide_up(product.n, columns) * columns; }
    int64_t row_k() const { return divide_up(window().kernel[1] * pixel, 16) * 16; }
    int64_t k() const { return window().kernel[0] * row_k(); }
};

struct Tile {
    int products;  // of 16 outputs in a row, of each warp

    int height() const { return 4 * products; }
    int64_t shared_bytes(const Stem& stem) const {
        const ImageWindow& w = stem.window();
        const int64_t patch_h = (height() - 1) * w.stride[0] + w.kernel[0];
        const int64_t patch_w = divide_up(15 * w.stride[1] + stem.row_k() / stem.pixel, 2) * 2;
        return stem.columns * (stem.k() + 8) * 2 + patch_h * patch_w * stem.pixel * 2;
    }
    std::string name() const { return fmt::format("{}x16", height()); }
};

std::vector<Tile> tiles(const Stem& stem, const Environment& environment) {
    std::vector<Tile> result;
    for (const int products : {4, 2, 1}) {
        const Tile tile{products};
        if (tile.shared_bytes(stem) <= std::min<int64_t>(environment.device.shared_per_block, 100 << 10) &&
            (products == 1 || tile.height() < 2 * stem.product.gather->out[0]))
            result.push_back(tile);
    }
    return result;
}

std::optional<Stem> read_stem(const RegionView& region, const Environment& environment) {
    auto product = read_product(region);
    if (!product || !product->gather || !product->constant || product->batches() != 1 || product->alpha != 1)
        return std::nullopt;
    const Product::Gather& gather = *product->gather;
    const ImageWindow& w = gather.window;
    if (gather.transposed || gather.channels > 8 || w.dilation[0] * w.dilation[1] != 1 || product->n % 4 != 0 ||
        gather.image_elements() > std::numeric_limits<int>::max() / 2)
        return std::nullopt;
    Stem stem;
    // From an output to the next it must be 16 bytes times an odd number.
    stem.pixel = gather.channels <= 4 && w.stride[1] % 4 == 2 ? 4 : 8;
    if (stem.pixel * w.stride[1] % 16 != 8) return std::nullopt;
    const int64_t padded = divide_up(product->n, 16) * 16;
    for (stem.columns = std::min(padded, kMostColumns); padded % stem.columns != 0;) stem.columns -= 16;
    stem.product = std::move(*product);
    if (tiles(stem, environment).empty()) return std::nullopt;
    return stem;
}

Refusal can_convolve(const RegionView& region, const Environment& environment) {
    if (!environment.arch.at_least(80)) return Refusal::isa_missing;
    if (environment.storage != DType::f16 && environment.storage != DType::bf16) return Refusal::dtype_not_handled;
    if (const Refusal refusal = check_product(region); refusal != Refusal::none) return refusal;
    const auto stem = read_stem(region, environment);
    if (!stem) return Refusal::shape_not_handled;
    if (!product_epilogue(region, stem->product, environment)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

/// The image is read as it lies, in the type that it has: it is the caller's.
Formats stem_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    const Stem stem = *read_stem(region, environment);
    Formats formats = image_formats(region, available, environment);
    const auto a = static_cast<size_t>(stem.product.a);
    const Format& from = available[a];
    if (is_read_as_float(from.dtype) && !region.node().input(stem.product.a)->is_constant()) formats.inputs[a] = from;
    set_epilogue_formats(formats, *product_epilogue(region, stem.product, environment));
    return formats;
}

struct Grid {
    int64_t tiles_y, tiles_x, tiles, columns;
};
Grid grid_of(const Stem& stem, const Tile& tile) {
    const Product::Gather& gather = *stem.product.gather;
    const int64_t y = divide_up(gather.out[0], tile.height()), x = divide_up(gather.out[1], 16);
    return {y, x, y * x * gather.images, stem.padded_columns() / stem.columns};
}

/// Seconds: waves of blocks, each of which loads, multiplies and stores; or the bytes, where they take longer.
double estimate(const Stem& stem, const Tile& tile, const Environment& environment) {
    const DeviceProperties& device = environment.device;
    const Product& p = stem.product;
    const ImageWindow& w = stem.window();
    const Grid grid = grid_of(stem, tile);
    // Multiply-adds of a multiprocessor a clock: Hopper and Blackwell have other instructions for their full rate.
    const double share = environment.arch.major == 9 ? 0.6 : environment.arch.major == 10 ? 0.3 : 1;
    const double rate = 0.6 * share * device.tensor_flops / 2 / device.multiprocessors / device.clock;
    const double products = tile.height() * 16.0 * static_cast<double>(stem.columns * stem.k()) / rate;
    const double patch = static_cast<double>(((tile.height() - 1) * w.stride[0] + w.kernel[0]) *
                                             (15 * w.stride[1] + stem.row_k() / stem.pixel));
    const double loads = patch * static_cast<double>(p.gather->channels + 8) / 128;
    const double stores = tile.height() * 16.0 * static_cast<double>(stem.columns) * 12 / 128;
    const double blocks = static_cast<double>(grid.tiles * grid.columns);
    const double waves = std::max(1.0, blocks / device.multiprocessors);
    constexpr double kStart = 2500, kLatency = 1500;  // clocks: of a launch; of loads and barriers
    const double clocks = kStart + kLatency + waves * (products + loads + stores + kLatency / 4);
    const double bytes = 4.0 * static_cast<double>(p.gather->images * p.gather->image_elements()) +
                         2.0 * static_cast<double>(p.output_elements());
    return std::max(clocks / (0.88 * device.clock), bytes / (0.8 * device.bandwidth) + kStart / device.clock);
}

std::vector<Tactic> stem_tactics(const RegionView& region, const Environment& environment) {
    const Stem stem = *read_stem(region, environment);
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(stem, environment))
        tactics.push_back({tile.name(), estimate(stem, tile, environment)});
    sort_by_estimate(tactics);
    return tactics;
}

/// [out_channels, channels, kh, kw] to [columns in the kernel's order, kh, kw and channels with zeros up to row_k].
Tensor pack_weights(const Stem& stem, DType dtype) {
    const Tensor& weights = *stem.product.weights;
    const int64_t channels = weights.dim(1), kernel_h = weights.dim(2), kernel_w = weights.dim(3);
    Tensor packed(DType::f32, {stem.padded_columns(), kernel_h, stem.row_k()});
    const auto to = packed.data<float>();
    std::fill(to.begin(), to.end(), 0.0F);
    const auto from = weights.data<float>();
    size_t next = 0;
    for (int64_t n = 0; n < weights.dim(0); ++n) {
        const int64_t place = place_in_fours(n);
        for (int64_t c = 0; c < channels; ++c)
            for (int64_t y = 0; y < kernel_h; ++y)
                for (int64_t x = 0; x < kernel_w; ++x)
                    to[static_cast<size_t>((place * kernel_h + y) * stem.row_k() + x * stem.pixel + c)] = from[next++];
    }
    return stored(packed, {Layout::plain, dtype});
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Stem stem = *read_stem(region, environment);
    const Product& p = stem.product;
    const Product::Gather& gather = *p.gather;
    const ImageWindow& w = stem.window();
    const EpilogueCode epilogue = *product_epilogue(region, p, environment);
    const auto choices = tiles(stem, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();
    const Format& image = formats.inputs[static_cast<size_t>(p.a)];
    const DType dtype = formats.outputs[0].dtype;

    KernelSpec spec;
    spec.name = fmt::format("conv_{}_stem_{}x{}s{}_n{}_{}", short_name(dtype), w.kernel[0], w.kernel[1], w.stride[1],
                            stem.columns, tile.name());
    spec.threads = kThreads;
    spec.shared_bytes = static_cast<int>(tile.shared_bytes(stem));
    spec.max_registers = 255;
    spec.source =
        "#include \"planish/conv_stem.cuh\"\n" + epilogue.source +
        fmt::format(
            "struct Config {{\n"
            "    using T = {};\n    using Input = {};\n"
            "    static constexpr int kChannels = {}, kPixel = {}, kKernelH = {}, kKernelW = {};\n"
            "    static constexpr int kStrideH = {}, kStrideW = {}, kTiles = {}, kColumns = {};\n"
            "}};\n"
            "static_assert(planish::ConvStem<Config>::kShared == {});\n"
            "extern \"C\" __global__ void __launch_bounds__({}, {}) {}(const __grid_constant__ planish::ConvStemParams "
            "p) {{\n    planish::conv_stem<Config, Epilogue>(p);\n}}\n",
            memory_type(dtype), memory_type(image.dtype), gather.channels, stem.pixel, w.kernel[0], w.kernel[1],
            w.stride[0], w.stride[1], tile.products, stem.columns, tile.shared_bytes(stem), kThreads,
            tile.products * stem.columns >= 256 ? 2 : 3, spec.name);

    const Grid grid = grid_of(stem, tile);
    const bool last = image.layout == Layout::channels_last;
    ConvStemParams params{};
    params.image = gather.image_elements();
    params.row = static_cast<int>(w.in[1] * (last ? gather.channels : 1));
    params.pixel = static_cast<int>(last ? gather.channels : 1);
    params.channel = static_cast<int>(last ? 1 : w.in[0] * w.in[1]);
    params.h = static_cast<int>(w.in[0]), params.w = static_cast<int>(w.in[1]);
    params.out_h = static_cast<int>(gather.out[0]), params.out_w = static_cast<int>(gather.out[1]);
    params.pad_top = static_cast<int>(w.begin[0]), params.pad_left = static_cast<int>(w.begin[1]);
    params.out_channels = static_cast<int>(p.n);
    params.tiles = static_cast<int>(grid.tiles);
    params.tiles_y = static_cast<int>(grid.tiles_y), params.tiles_x = static_cast<int>(grid.tiles_x);

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = p.flops();
    kernel.consumed = {p.b};
    const int packed = kernel.add_constant(environment.packed->get(
        p.weights, fmt::format("cuda stem {} {} {}", short_name(dtype), stem.pixel, stem.columns),
        [&] { return pack_weights(stem, dtype); }));
    // As many blocks as run together keep their weights and walk the tiles.
    const int64_t resident =
        std::clamp<int64_t>(environment.device.shared_per_multiprocessor / (spec.shared_bytes + 1024), 1, 8) *
        environment.device.multiprocessors;
    Launch launch =
        make_launch(std::move(spec),
                    {static_cast<unsigned>(std::min(grid.tiles, std::max<int64_t>(1, resident / grid.columns))),
                     static_cast<unsigned>(grid.columns), 1},
                    params);
    launch.pdl = true;
    launch.bind(offsetof(ConvStemParams, input), input(p.a))
        .bind(offsetof(ConvStemParams, weights), constant(packed))
        .bind(offsetof(ConvStemParams, output), output());
    bind_epilogue(kernel, launch, offsetof(ConvStemParams, operands), epilogue, {p.a, p.b});
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kConvStem{"stem", can_convolve, stem_formats, compile, stem_tactics};
}  // namespace families

}  // namespace planish::cuda
