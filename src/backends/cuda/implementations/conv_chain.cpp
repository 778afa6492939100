// Inverted residuals as one kernel: kernels/conv_chain.cuh.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backends/cuda/implementations/depthwise.hpp"
#include "backends/cuda/kernels/conv_chain_params.h"

namespace planish::cuda {
namespace {

int64_t round_up(int64_t a, int64_t to) {
    return divide_up(a, to) * to;
}

// ---- What is computed -----------------------------------------------------------------------------------------------

// A link as the region's own values see it.
struct Link {
    RegionView view;
    ConvShape shape;
    EpilogueCode epilogue;
    int bias = -1;  // input of the link

    const Node& conv() const { return view.root(); }
    /// The region's input behind an input of the link, -1 when the chain computes it.
    int outer(const RegionView& region, int input) const { return region.input_index(view.node().input(input)); }
};

struct Chain {
    std::vector<Link> links;
    int depthwise = 0;  // index of that link

    bool expands() const { return depthwise == 1; }
    bool projects() const { return static_cast<size_t>(depthwise) + 1 < links.size(); }
    const Link& middle() const { return links[static_cast<size_t>(depthwise)]; }
    const ConvShape& shape() const { return middle().shape; }
    int64_t channels() const { return links.front().shape.channels; }
    int64_t expanded() const { return shape().channels; }
    int64_t out() const { return links.back().shape.out_channels; }
};

Refusal read_chain(const RegionView& region, const Environment& environment, Chain& chain) {
    if (!region.has_body() || region.node().text("kind") != "conv_chain") return Refusal::op_not_handled;
    const auto& nodes = region.body().nodes();
    const Value* carried = nullptr;
    int depthwise = -1;
    for (const auto& node : nodes) {
        RegionView view(*node, &region);
        const auto shape = conv_shape(view.root());
        if (!shape) return Refusal::shape_not_handled;
        const int index = static_cast<int>(chain.links.size());
        if (shape->is_depthwise() && depthwise < 0)
            depthwise = index;
        else if (!shape->is_pointwise())
            return Refusal::shape_not_handled;
        if (region.constant(node->input(view.input_index(view.root().input(1)))) == nullptr)
            return Refusal::weights_not_constant;
        const auto bias = optional_input(view, view.root().input(2));
        auto epilogue = read_epilogue(view, 1, environment);
        if (!bias || !epilogue) return Refusal::post_op_not_handled;
        if (*bias >= 0 && region.constant(node->input(*bias)) == nullptr) return Refusal::weights_not_constant;
        const int x = view.input_index(view.root().input(0));
        if (carried != nullptr && (x < 0 || node->input(x) != carried)) return Refusal::op_not_handled;
        carried = node->output();
        chain.links.push_back({std::move(view), *shape, std::move(*epilogue), *bias});
    }
    if (depthwise < 0 || depthwise > 1 || nodes.size() > static_cast<size_t>(depthwise) + 2)
        return Refusal::shape_not_handled;
    chain.depthwise = depthwise;
    for (const Link& link : chain.links)
        for (const auto& operand : link.epilogue.operands) {
            if (link.outer(region, operand.input) < 0) return Refusal::post_op_not_handled;
            if (!operand.channel && &link != &chain.links.back()) return Refusal::post_op_not_handled;
        }
    return Refusal::none;
}

// ---- How ------------------------------------------------------------------------------------------------------------

struct Tile {
    int h = 7, w = 7, chunk = 48, groups = 1, run = 1, warps = 8;

    int pixels() const { return h * w; }
    std::string name() const { return fmt::format("{}x{}_c{}_g{}_r{}_w{}", h, w, chunk, groups, run, warps); }
};

/// The warps' arrangement in the project step: the fewest products for the warp that has most.
int warp_rows(const Tile& tile, int64_t out) {
    const int64_t row_tiles = divide_up(tile.pixels(), 16), column_tiles = divide_up(out, 16);
    int best = 1;
    int64_t least = -1;
    for (int rows = 1; rows <= tile.warps; rows *= 2) {
        const int64_t products = divide_up(row_tiles, rows) * divide_up(column_tiles, tile.warps / rows);
        if (least < 0 || products < least) best = rows, least = products;
    }
    return best;
}

int64_t sums_of_thread(const Tile& tile, const Chain& chain) {
    if (!chain.projects()) return 0;
    const int rows = warp_rows(tile, chain.out());
    return 8 * divide_up(divide_up(tile.pixels(), 16), rows) * divide_up(divide_up(chain.out(), 16), tile.warps / rows);
}

/// The sizes that ConvChainTile computes on the device.
struct Sizes {
    int64_t chunks, steps, chunk_bytes, shared_bytes, grid;
};

Sizes sizes_of(const Tile& tile, const Chain& chain) {
    const ConvShape& s = chain.shape();
    const int64_t in = round_up(chain.channels(), 16), out = round_up(chain.out(), 16), chunk = tile.chunk;
    const int64_t stride = chunk + 8, taps = s.kernel[0] * s.kernel[0];
    const int64_t grid = ((tile.h - 1) * s.stride[0] + s.kernel[0]) * ((tile.w - 1) * s.stride[0] + s.kernel[0]);
    const int64_t rest = taps * chunk * 2 + 2 * chunk * 4;
    Sizes sizes{};
    sizes.grid = grid;
    sizes.chunks = chain.expanded() / chunk;
    sizes.steps = divide_up(sizes.chunks, tile.groups);
    sizes.chunk_bytes = (chain.expands() ? chunk * in * 2 : 0) + (chain.projects() ? out * chunk * 2 : 0) + rest;
    const int64_t shared_chunk =
        (chain.expands() ? chunk * (in + 8) * 2 : 0) + (chain.projects() ? out * stride * 2 : 0) + rest;
    const int64_t loop = (sizes.steps > 1 ? 2 : 1) * shared_chunk +
                         (chain.expands() ? round_up(grid, 16) * (in + 8) * 2 : 0) + grid * stride * 2 +
                         (chain.projects() ? round_up(tile.pixels(), 16) * stride * 2 : 0);
    const int64_t sums = chain.projects() ? round_up(tile.pixels(), 16) * (out + 4) * 4 : 0;
    sizes.shared_bytes = std::max(loop, sums);
    return sizes;
}

/// Seconds: blocks come in waves; a block waits for its data, then each chunk is three products between barriers.
double estimate(const Tile& tile, const Chain& chain, const Environment& environment) {
    const DeviceProperties& device = environment.device;
    const ConvShape& s = chain.shape();
    const Sizes sizes = sizes_of(tile, chain);
    const int64_t in = chain.expands() ? round_up(chain.channels(), 16) : 0;
    const int64_t out = chain.projects() ? round_up(chain.out(), 16) : 0;
    const int64_t blocks = s.n * divide_up(s.out[0], tile.h) * divide_up(s.out[1], tile.w) * tile.groups;
    const int64_t resident = std::clamp<int64_t>(device.shared_per_multiprocessor / (sizes.shared_bytes + 1024), 1, 3);
    const double macs = static_cast<double>(round_up(sizes.grid, 16) * tile.chunk * in +
                                            round_up(tile.pixels(), 16) * tile.chunk * out);
    const double depthwise =
        static_cast<double>(tile.pixels() * tile.chunk * s.kernel[0] * s.kernel[0]) * (tile.run > 1 ? 1.6 : 2.6) / 128;
    // Alone, a block reaches about a third of the cores' rate; barriers and latencies come on top.
    const double busy = macs / 1000 + depthwise, alone = (tile.warps > 8 ? 1.9 : 2.5) * busy + 700;
    const double bytes = static_cast<double>(sizes.chunk_bytes);
    const double fixed = 2200 + static_cast<double>(sizes.grid * in * 2) / 32 + (tile.groups > 1 ? 1500 : 500);
    const double block = fixed + static_cast<double>(sizes.steps) * std::max(alone, bytes / 40);
    const double waves = static_cast<double>(divide_up(blocks, resident * device.multiprocessors));
    const double work = static_cast<double>(blocks * sizes.steps) * (busy + bytes / 64) / device.multiprocessors;
    return std::max(waves * block, work + block) / device.clock;
}

std::vector<Tile> tiles(const Chain& chain, const Environment& environment) {
    const ConvShape& s = chain.shape();
    constexpr std::pair<int, int> kShapes[] = {{7, 7},  {4, 7},   {2, 7}, {1, 7}, {7, 14}, {4, 14},
                                               {2, 14}, {14, 14}, {8, 8}, {4, 8}, {8, 16}, {4, 16}};
    std::vector<Tile> result;
    for (const auto& [h, w] : kShapes) {
        // Tiles that hang over the image compute what nobody reads.
        const int64_t covered = round_up(s.out[0], h) * round_up(s.out[1], w);
        if (covered * 4 > s.out[0] * s.out[1] * 5) continue;
        for (const int chunk : {32, 48, 64, 96, 144, 160, 192, 16}) {
            if (chain.expanded() % chunk != 0 || (chunk == 16 && chain.expanded() % 48 * chain.expanded() % 32 == 0))
                continue;
            for (const int groups : {1, 2, 3, 4, 5, 6, 8}) {
                if (groups > chain.expanded() / chunk) continue;
                if (groups > 1 && chain.projects() && !environment.arch.at_least(90)) continue;  // clusters
                const int run = s.n * s.out[0] * s.out[1] >= 4096 ? (w % 7 == 0 ? 7 : 4) : 1;
                for (const int warps : {8, 16}) {
                    if (warps > 8 && s.kernel[0] > 3) continue;  // the window does not fit into 128 registers
                    const Tile tile{h, w, chunk, groups, run, warps};
                    if (sizes_of(tile, chain).shared_bytes > environment.device.shared_per_block) continue;
                    if (sums_of_thread(tile, chain) > (warps > 8 ? 48 : 112)) continue;
                    result.push_back(tile);
                }
            }
        }
    }
    // Few are worth timing.
    std::stable_sort(result.begin(), result.end(), [&](const Tile& a, const Tile& b) {
        return estimate(a, chain, environment) < estimate(b, chain, environment);
    });
    if (result.size() > 10) result.resize(10);
    return result;
}

Refusal can_chain(const RegionView& region, const Environment& environment) {
    if (environment.storage != DType::f16 && environment.storage != DType::bf16) return Refusal::dtype_not_handled;
    if (!environment.arch.at_least(80)) return Refusal::isa_missing;
    Chain chain;
    if (const Refusal r = read_chain(region, environment, chain); r != Refusal::none) return r;
    const ConvShape& s = chain.shape();
    if (s.kernel[0] != s.kernel[1] || s.stride[0] != s.stride[1] || s.dilation[0] != 1 || s.dilation[1] != 1 ||
        s.n > 65535 || chain.channels() % 8 != 0 || chain.expanded() % 16 != 0 || chain.out() % 8 != 0)
        return Refusal::shape_not_handled;
    return tiles(chain, environment).empty() ? Refusal::shape_not_handled : Refusal::none;
}

Chain chain_of(const RegionView& region, const Environment& environment) {
    Chain chain;
    read_chain(region, environment, chain);
    return chain;
}

std::vector<Tactic> chain_tactics(const RegionView& region, const Environment& environment) {
    const Chain chain = chain_of(region, environment);
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(chain, environment))
        tactics.push_back({tile.name(), estimate(tile, chain, environment)});
    return tactics;
}

/// Measured on an H100 with the blocks of mobilenet_v2 against three kernels, with the best tile each: for one image
/// 0.49 to 0.83 of their time, for 8 images 0.91 in all, for 128 images 1.02.
bool chain_pays(const RegionView& region, const Environment& environment) {
    return chain_of(region, environment).shape().n == 1;
}

/// Operands for each channel are float32, images channels-last.
Formats chain_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats formats = plain_formats(region, available, environment);
    const Chain chain = chain_of(region, environment);
    const auto set = [&](int i, Format format) { formats.inputs[static_cast<size_t>(i)] = format; };
    for (const Link& link : chain.links) {
        if (link.bias >= 0) set(link.outer(region, link.bias), {Layout::plain, DType::f32});
        for (const auto& operand : link.epilogue.operands)
            set(link.outer(region, operand.input), operand.channel
                                                       ? Format{Layout::plain, DType::f32}
                                                       : Format{Layout::channels_last, environment.storage});
    }
    const Link& first = chain.links.front();
    set(first.outer(region, first.view.input_index(first.conv().input(0))),
        {Layout::channels_last, environment.storage});
    formats.outputs[0].layout = Layout::channels_last;
    return formats;
}

// ---- Weights --------------------------------------------------------------------------------------------------------

/// Appends elements to a chunk's bytes.
class Bytes {
  public:
    explicit Bytes(DType dtype) : dtype_(dtype) {}
    /// `count` values of f(i) in the storage type.
    template <typename F>
    void elements(int64_t count, F&& f) {
        Tensor values(DType::f32, {count});
        for (int64_t i = 0; i < count; ++i) values.data<float>()[static_cast<size_t>(i)] = f(i);
        append(stored(values, {Layout::plain, dtype_}));
    }
    template <typename F>
    void floats(int64_t count, F&& f) {
        Tensor values(DType::f32, {count});
        for (int64_t i = 0; i < count; ++i) values.data<float>()[static_cast<size_t>(i)] = f(i);
        append(values);
    }
    Tensor tensor() const {
        Tensor t(DType::u8, {static_cast<int64_t>(bytes_.size())});
        std::memcpy(t.raw(), bytes_.data(), bytes_.size());
        return t;
    }

  private:
    void append(const Tensor& t) {
        const auto* from = static_cast<const std::byte*>(t.raw());
        bytes_.insert(bytes_.end(), from, from + byte_size(t.dtype(), t.size()));
    }
    DType dtype_;
    std::vector<std::byte> bytes_;
};

std::shared_ptr<const Tensor> constant_of(const RegionView& region, const Link& link, const Value* value) {
    const int input = link.view.input_index(value);
    return input < 0 ? nullptr : region.constant(link.view.node().input(input));
}

/// Chunk by chunk, as ConvChainTile says.
Tensor pack_weights(const RegionView& region, const Chain& chain, const Tile& tile, DType dtype) {
    const auto data = [&](const Link& link, int input) -> const float* {
        const auto tensor = constant_of(region, link, link.conv().input(input));
        return tensor == nullptr ? nullptr : tensor->data<float>().data();
    };
    const Link& middle = chain.middle();
    const float* const taps = data(middle, 1);
    const float* const b2 = data(middle, 2);
    const float* const w1 = chain.expands() ? data(chain.links.front(), 1) : nullptr;
    const float* const b1 = chain.expands() ? data(chain.links.front(), 2) : nullptr;
    const float* const w2 = chain.projects() ? data(chain.links.back(), 1) : nullptr;
    const int64_t channels = chain.channels(), expanded = chain.expanded(), out = chain.out(), chunk = tile.chunk;
    const int64_t in = round_up(channels, 16), kernel = middle.shape.kernel[0] * middle.shape.kernel[1];
    Bytes bytes(dtype);
    for (int64_t first = 0; first < expanded; first += chunk) {
        if (w1 != nullptr)
            bytes.elements(chunk * in, [&](int64_t i) {
                return i % in < channels ? w1[(first + i / in) * channels + i % in] : 0.0f;
            });
        if (w2 != nullptr)
            bytes.elements(round_up(out, 16) * chunk, [&](int64_t i) {
                return i / chunk < out ? w2[i / chunk * expanded + first + i % chunk] : 0.0f;
            });
        bytes.elements(kernel * chunk, [&](int64_t i) { return taps[(first + i % chunk) * kernel + i / chunk]; });
        bytes.floats(chunk, [&](int64_t i) { return b1 != nullptr ? b1[first + i] : 0.0f; });
        bytes.floats(chunk, [&](int64_t i) { return b2 != nullptr ? b2[first + i] : 0.0f; });
    }
    return bytes.tensor();
}

// ---- The kernel -----------------------------------------------------------------------------------------------------

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const Chain chain = chain_of(region, environment);
    const ConvShape& s = chain.shape();
    const DType dtype = formats.outputs[0].dtype;
    const auto choices = tiles(chain, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();
    const Sizes sizes = sizes_of(tile, chain);
    const Link& first = chain.links.front();
    const Link& last = chain.links.back();

    KernelSpec spec;
    spec.name = fmt::format("chain_{}_{}x{}x{}_k{}s{}_{}", short_name(dtype), chain.channels(), chain.expanded(),
                            chain.out(), s.kernel[0], s.stride[0], tile.name());
    spec.threads = 32 * tile.warps;
    spec.shared_bytes = static_cast<int>(sizes.shared_bytes);
    spec.cluster = chain.projects() ? tile.groups : 1;
    spec.max_registers = tile.warps > 8 ? 128 : 255;
    spec.source = "#include \"planish/conv_chain.cuh\"\n#include \"planish/math.cuh\"\n" +
                  (chain.expands() ? first : chain.middle()).epilogue.in_namespace("expand") +
                  chain.middle().epilogue.in_namespace("depthwise") + last.epilogue.in_namespace("project") +
                  fmt::format(
                      "struct Traits {{\n"
                      "    using T = {};\n"
                      "    using ExpandEpilogue = expand::Epilogue;\n"
                      "    using DepthwiseEpilogue = depthwise::Epilogue;\n"
                      "    using ProjectEpilogue = project::Epilogue;\n"
                      "    static constexpr bool kExpand = {}, kProject = {};\n"
                      "    static constexpr int kChannels = {}, kExpanded = {}, kOut = {}, kChunk = {}, kGroups = {};\n"
                      "    static constexpr int kKernel = {}, kStride = {}, kTileH = {}, kTileW = {}, kRun = {};\n"
                      "    static constexpr int kWarps = {}, kWarpRows = {};\n"
                      "}};\n"
                      "extern \"C\" __global__ void __launch_bounds__({}) {}(const __grid_constant__ "
                      "planish::ConvChainParams p) {{\n    planish::conv_chain<Traits>(p);\n}}\n",
                      memory_type(dtype), chain.expands(), chain.projects(), chain.channels(), chain.expanded(),
                      chain.out(), tile.chunk, tile.groups, s.kernel[0], s.stride[0], tile.h, tile.w, tile.run,
                      tile.warps, warp_rows(tile, chain.out()), spec.threads, spec.name);

    ConvChainParams p{};
    p.n = static_cast<int>(s.n);
    p.h = static_cast<int>(s.in[0]), p.w = static_cast<int>(s.in[1]);
    p.out_h = static_cast<int>(s.out[0]), p.out_w = static_cast<int>(s.out[1]);
    p.pad_top = static_cast<int>(s.begin[0]), p.pad_left = static_cast<int>(s.begin[1]);
    p.tiles_h = static_cast<int>(divide_up(p.out_h, tile.h)), p.tiles_w = static_cast<int>(divide_up(p.out_w, tile.w));

    CudaKernel kernel;
    kernel.name = spec.name;
    std::string key = fmt::format("cuda chain {} c{}", short_name(dtype), tile.chunk);
    for (const Link& link : chain.links) {
        const ConvShape& l = link.shape;
        kernel.flops += 2 * l.outputs() * l.kernel[0] * l.kernel[1] * (l.channels / l.groups);
        kernel.consumed.push_back(link.outer(region, link.view.input_index(link.conv().input(1))));
        if (link.bias >= 0 && &link != &last) kernel.consumed.push_back(link.outer(region, link.bias));
        key += fmt::format(" {}", fmt::ptr(constant_of(region, link, link.conv().input(1)).get()));
    }
    // A bias of the last link that is a depthwise one is packed too.
    if (!chain.projects() && last.bias >= 0) kernel.consumed.push_back(last.outer(region, last.bias));
    const auto weights = constant_of(region, chain.middle(), chain.middle().conv().input(1));
    const int packed = kernel.add_constant(
        environment.packed->get(weights, key, [&] { return pack_weights(region, chain, tile, dtype); }));

    Launch launch =
        make_launch(std::move(spec),
                    {static_cast<unsigned>(p.tiles_h * p.tiles_w * tile.groups), static_cast<unsigned>(p.n), 1}, p);
    launch.pdl = true;
    launch
        .bind(offsetof(ConvChainParams, input),
              input(first.outer(region, first.view.input_index(first.conv().input(0)))))
        .bind(offsetof(ConvChainParams, weights), constant(packed))
        .bind(offsetof(ConvChainParams, output), output());
    if (chain.projects() && last.bias >= 0)
        launch.bind(offsetof(ConvChainParams, bias), input(last.outer(region, last.bias)));
    const auto bind_operands = [&](const Link& link, size_t offset) {
        for (size_t i = 0; i < link.epilogue.operands.size(); ++i)
            launch.bind(offset + i * sizeof(void*), input(link.outer(region, link.epilogue.operands[i].input)));
    };
    if (chain.expands()) bind_operands(first, offsetof(ConvChainParams, expand_operands));
    bind_operands(chain.middle(), offsetof(ConvChainParams, depthwise_operands));
    if (chain.projects()) bind_operands(last, offsetof(ConvChainParams, project_operands));
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kConvChain{"conv_chain", can_chain, chain_formats, compile, chain_tactics, chain_pays};
}  // namespace families

}  // namespace planish::cuda
