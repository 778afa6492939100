// Scaled dot-product attention that never writes the score matrix: kernels/attention_wgmma.cuh on Hopper,
// kernels/attention.cuh on tensor cores, kernels/attention_simt.cuh for float32 and for head sizes that tensor cores do
// not take.
//
// A region of kind "attention" is the op with the Slices of the one product that its queries, keys and values are
// columns of: the kernels read those with strides.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "backends/cuda/implementation.hpp"
#include "backends/cuda/kernels/attention_params.h"
#include "backends/cuda/kernels/attention_wgmma_params.h"

namespace planish::cuda {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr int kUnbounded = 1 << 29;  // positions differ by less, and sums with it do not overflow
constexpr int64_t kMaxHeadDim = 256;

int64_t round_up(int64_t a, int64_t to) {
    return divide_up(a, to) * to;
}

// ---- What is computed -----------------------------------------------------------------------------------------------

/// Q, K or V: columns of one of the region's inputs.
struct Projection {
    int input = -1;
    int64_t first = 0;  // in elements
    Dims dims;          // as the op sees it
    int64_t width = 0;  // of the input's last axis
};

struct Problem {
    const Node* op = nullptr;
    Projection query, key, value;
    int mask = -1, lengths = -1;  // inputs of the region; -1: none
    int64_t head_dim = 0, value_dim = 0;
    AttentionParams params{};

    bool grouped() const { return params.kv_heads != params.heads; }
    bool bounded() const {
        return params.left < kUnbounded || params.right < kUnbounded || params.offset != 0 || lengths >= 0;
    }
    bool soft_capped() const { return params.softcap > 0; }
};

const Node& attention_of(const RegionView& region) {
    return region.has_body() ? *region.body().nodes().back() : region.node();
}

std::optional<int64_t> integer_constant(const RegionView& region, const Value* value) {
    const auto tensor = region.constant(value);
    if (tensor == nullptr || tensor->size() != 1) return std::nullopt;
    return static_cast<int64_t>(tensor->at_double(0));
}

std::optional<Projection> projection(const RegionView& region, const Value* value) {
    Projection p;
    p.dims = value->dims();
    if (const Node* slice = value->producer; region.has_body() && slice != nullptr) {
        // Slice(x, first, end, axis 2) of [B, S, width]
        if (!slice->is("Slice") || slice->input_count() < 4 || slice->input(0)->dims().size() != 3) return std::nullopt;
        const auto first = integer_constant(region, slice->input(1)), axis = integer_constant(region, slice->input(3));
        if (!first || *first < 0 || !axis || (*axis != 2 && *axis != -1)) return std::nullopt;
        if (slice->input(4) != nullptr && integer_constant(region, slice->input(4)) != 1) return std::nullopt;
        p.first = *first;
        value = slice->input(0);
    }
    p.width = value->dims().back();
    p.input = region.input_index(value);
    if (p.input < 0) return std::nullopt;
    return p;
}

/// [B, H, S, D], or [B, S, H * D] as columns of rows of `width`.
AttentionStrides strides_of(const Dims& d, int64_t heads, int64_t width) {
    if (d.size() == 4) return {d[1] * d[2] * d[3], d[2] * d[3], d[3]};
    return {d[1] * width, d[2] / heads, width};
}

std::optional<Problem> read_problem(const RegionView& region) {
    Problem problem;
    const Node& op = attention_of(region);
    if (!op.is("Attention")) return std::nullopt;
    problem.op = &op;
    const auto q = projection(region, op.input(0)), k = projection(region, op.input(1)),
               v = projection(region, op.input(2));
    if (!q || !k || !v) return std::nullopt;
    problem.query = *q, problem.key = *k, problem.value = *v;
    AttentionParams& p = problem.params;
    const Dims &qd = q->dims, &kd = k->dims, &vd = v->dims;
    if (qd.size() != kd.size() || qd.size() != vd.size()) return std::nullopt;
    const bool split = qd.size() == 4;
    const int64_t heads = split ? qd[1] : op.integer("q_num_heads"), kv = split ? kd[1] : op.integer("kv_num_heads");
    if (heads < 1 || kv < 1 || heads % kv != 0) return std::nullopt;
    p.batch = static_cast<int>(qd[0]);
    p.heads = static_cast<int>(heads);
    p.kv_heads = static_cast<int>(kv);
    p.queries = static_cast<int>(split ? qd[2] : qd[1]);
    p.keys = static_cast<int>(split ? kd[2] : kd[1]);
    problem.head_dim = split ? qd[3] : qd[2] / heads;
    problem.value_dim = split ? vd[3] : vd[2] / kv;
    p.query_strides = strides_of(qd, heads, q->width);
    p.key_strides = strides_of(kd, kv, k->width);
    p.value_strides = strides_of(vd, kv, v->width);
    const Dims out = op.output()->dims();
    p.output_strides = strides_of(out, heads, out.back());

    const double scale =
        op.attributes.contains("scale") ? op.real("scale") : 1 / std::sqrt(static_cast<double>(problem.head_dim));
    const double softcap = op.real("softcap");
    p.softcap = static_cast<float>(softcap > 0 ? softcap * kLog2e : 0);
    p.scale = static_cast<float>(softcap > 0 ? scale / softcap : scale * kLog2e);
    // Rounded down, so that the lowest number times both is still one.
    p.mask_scale = softcap > 0 ? static_cast<float>(kLog2e) : std::nextafter(1 / p.scale, 0.0f);
    const auto window = [&](const char* name) {
        const int64_t size = op.integer(name);
        return size < 0 ? kUnbounded : static_cast<int>(std::min<int64_t>(size, kUnbounded));
    };
    p.left = window("left_window_size");
    p.right = op.integer("is_causal") != 0 ? 0 : window("right_window_size");

    if (const Value* mask = op.input(3)) {
        problem.mask = region.input_index(mask);
        Dims d = mask->dims();
        if (problem.mask < 0 || d.empty() || d.size() > 4 || d.back() != p.keys) return std::nullopt;
        d.insert(d.begin(), 4 - d.size(), 1);
        if ((d[0] != 1 && d[0] != p.batch) || (d[1] != 1 && d[1] != p.heads) || (d[2] != 1 && d[2] != p.queries))
            return std::nullopt;
        p.mask_strides = {d[0] == 1 ? 0 : d[1] * d[2] * d[3], d[1] == 1 ? 0 : d[2] * d[3], d[2] == 1 ? 0 : d[3]};
    }
    if (const Value* lengths = op.input(6)) {
        problem.lengths = region.input_index(lengths);
        if (problem.lengths < 0) return std::nullopt;
    }
    return problem;
}

Refusal can_attend(const RegionView& region, const Environment& environment) {
    if (region.has_body() && region.node().text("kind") != "attention") return Refusal::post_op_not_handled;
    const Node& op = attention_of(region);
    for (int i = 0; i < 3; ++i)
        if (!is_f32(op.input(i))) return Refusal::dtype_not_handled;
    const Value *mask = op.input(3), *lengths = op.input(6);
    if (mask != nullptr && !is_f32(mask) && mask->type.dtype != DType::boolean) return Refusal::dtype_not_handled;
    if (lengths != nullptr && lengths->type.dtype != DType::i64) return Refusal::dtype_not_handled;
    if (op.input(4) != nullptr || op.input(5) != nullptr || uses_later_outputs(op))
        return Refusal::attribute_not_handled;
    const auto problem = read_problem(region);
    if (!problem || element_count(op.output()->dims()) == 0 || problem->params.keys == 0)
        return Refusal::shape_not_handled;
    if (problem->head_dim > kMaxHeadDim || problem->value_dim > kMaxHeadDim || problem->params.batch > 65535 ||
        problem->params.heads > 65535)
        return Refusal::shape_not_handled;
    if (environment.storage != DType::f32 && environment.storage != DType::f16 && environment.storage != DType::bf16)
        return Refusal::dtype_not_handled;
    return Refusal::none;
}

/// Masks are read as they lie: those of float32 keep exporters' -3.4e38, which float16 does not hold.
Formats attention_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats formats = plain_formats(region, available, environment);
    const auto problem = read_problem(region);
    if (problem->mask >= 0) {
        const auto i = static_cast<size_t>(problem->mask);
        if (available[i].dtype != DType::undefined) formats.inputs[i].dtype = available[i].dtype;
    }
    return formats;
}

// ---- Shared by both kernels -----------------------------------------------------------------------------------------

std::string_view element(DType dtype) {
    switch (dtype) {
        case DType::f16:
            return "planish::f16";
        case DType::bf16:
            return "planish::bf16";
        case DType::boolean:
            return "unsigned char";
        default:
            return "float";
    }
}

DType mask_dtype(const Problem& problem, const Formats& formats) {
    return problem.mask < 0 ? DType::f32 : formats.inputs[static_cast<size_t>(problem.mask)].dtype;
}

std::string_view mask_kind(const Problem& problem, const Formats& formats) {
    if (problem.mask < 0) return "none";
    return mask_dtype(problem, formats) == DType::boolean ? "boolean" : "additive";
}

/// The part of the traits that both kernels read.
std::string common_traits(const Problem& problem, const Formats& formats) {
    return fmt::format(
        "    using T = {};\n    using Mask = {};\n"
        "    static constexpr int kHeadDim = {}, kValueDim = {};\n"
        "    static constexpr auto kMask = planish::MaskKind::{};\n"
        "    static constexpr bool kSoftcap = {}, kBounded = {};\n",
        element(formats.outputs[0].dtype), element(mask_dtype(problem, formats)), problem.head_dim, problem.value_dim,
        mask_kind(problem, formats), problem.soft_capped(), problem.bounded());
}

std::string suffix(const Problem& problem, const Formats& formats) {
    std::string s;
    if (problem.mask >= 0) s += fmt::format("_mask_{}", short_name(mask_dtype(problem, formats)));
    if (problem.soft_capped()) s += "_softcap";
    if (problem.bounded()) s += "_bounded";
    return s;
}

void bind(Launch& launch, const Problem& problem, DType dtype) {
    const auto bytes = [&](int64_t elements) { return byte_size(dtype, elements); };
    launch.bind(offsetof(AttentionParams, query), input(problem.query.input, bytes(problem.query.first)))
        .bind(offsetof(AttentionParams, key), input(problem.key.input, bytes(problem.key.first)))
        .bind(offsetof(AttentionParams, value), input(problem.value.input, bytes(problem.value.first)))
        .bind(offsetof(AttentionParams, output), output());
    if (problem.mask >= 0) launch.bind(offsetof(AttentionParams, mask), input(problem.mask));
    if (problem.lengths >= 0) launch.bind(offsetof(AttentionParams, lengths), input(problem.lengths));
}

int64_t flops(const Problem& problem) {
    const AttentionParams& p = problem.params;
    return 2LL * p.batch * p.heads * p.queries * p.keys * (problem.head_dim + problem.value_dim);
}

// ---- Tensor cores ---------------------------------------------------------------------------------------------------

struct Tile {
    int row_tiles = 1, row_warps = 4, key_warps = 1, key_block = 64, stages = 2;
    int blocks = 1;  // that share a multiprocessor: bounds the registers
    int splits = 1;  // of the keys, over the grid

    int rows() const { return 16 * row_tiles * row_warps; }
    int step() const { return key_block * key_warps; }
    int threads() const { return 32 * row_warps * key_warps; }
    std::string name() const {
        std::string s =
            fmt::format("q{}x{}k{}x{}s{}o{}", row_warps, 16 * row_tiles, key_warps, key_block, stages, blocks);
        return splits > 1 ? s + fmt::format("_split{}", splits) : s;
    }
};

/// Mirrors AttentionTile::kSharedBytes.
int64_t shared_bytes(const Tile& tile, const Problem& problem) {
    const int64_t k = round_up(problem.head_dim, 16), v = round_up(problem.value_dim, 16);
    const int64_t loop = 2 * (tile.rows() * (std::max(k, v) + 8) + tile.stages * tile.step() * (k + v + 16));
    const int64_t join = tile.key_warps > 1 ? tile.key_warps * tile.rows() * 4 * (v + 10) : 0;
    return std::max(loop, join);
}

/// Query heads of one key head that are rows of one tile: few queries fill it so.
int packed_heads(const Problem& problem) {
    const AttentionParams& p = problem.params;
    return problem.grouped() && p.queries < 64 ? p.heads / p.kv_heads : 1;
}

int64_t row_blocks(const Tile& tile, const Problem& problem) {
    const AttentionParams& p = problem.params;
    const int pack = packed_heads(problem);
    return divide_up(static_cast<int64_t>(p.queries) * pack, tile.rows()) * (p.heads / pack) * p.batch;
}

/// Seconds, from measurements on an H100 (head size 64; ViT-B and BERT at batch 1, 8, 128): what a block waits for its
/// data and at its barriers, what its warps compute, and the bytes that a multiprocessor takes from the L2.
double estimate(const Tile& tile, const Problem& problem, const Environment& environment) {
    const AttentionParams& p = problem.params;
    const DeviceProperties& device = environment.device;
    const double dims = static_cast<double>(problem.head_dim + problem.value_dim);
    const int64_t blocks = row_blocks(tile, problem) * tile.splits;
    const int64_t keys = divide_up(p.keys, tile.splits), steps = divide_up(keys, tile.step());
    const double multiprocessors = device.multiprocessors;
    // Tiles of 16 rows and 64 keys: of one warp, and of all for each scheduler. Fewer, larger blocks overlap less.
    const double clocks = 600 * dims / 128 * (tile.row_tiles == 2 ? 1.65 : tile.blocks == 1 ? 1.1 : 1.0);
    const double alone = static_cast<double>(steps * tile.row_tiles * tile.key_block) / 64;
    const double rows = static_cast<double>(divide_up(int64_t{p.queries} * packed_heads(problem), 16)) /
                        packed_heads(problem) * p.heads * p.batch;
    const double shared = rows * static_cast<double>(divide_up(p.keys, 16)) / 4 / (4 * multiprocessors);
    const double bytes = 2.0 * (static_cast<double>(keys) * dims + tile.rows() * static_cast<double>(problem.head_dim));
    const double blocks_each = std::max(std::min(std::ceil(static_cast<double>(blocks) / multiprocessors), 4.0),
                                        static_cast<double>(blocks) / multiprocessors);
    const double total = std::max(alone, shared) * clocks + static_cast<double>(steps) * 900 + bytes * blocks_each / 32;
    return 1.6e-6 + (tile.key_warps > 1 ? 0.4e-6 : 0) + (tile.splits > 1 ? 2.5e-6 : 0) + total / device.clock;
}

bool fits(const Tile& tile, const Problem& problem, const Environment& environment) {
    if (shared_bytes(tile, problem) > environment.device.shared_per_block) return false;
    if (tile.stages == 1 && problem.params.keys > tile.step()) return false;
    const int64_t size = std::max(problem.head_dim, problem.value_dim);
    if (size > 128 && (tile.key_block > 32 || tile.row_tiles > 1)) return false;  // registers
    if (size > 64 && tile.row_tiles > 1) return false;
    if (problem.mask >= 0 && problem.params.keys % 2 != 0 && tile.row_tiles > 1) return false;  // a register an element
    if (size > 64 && tile.blocks > 2) return false;
    return true;
}

std::vector<Tile> tiles(const Problem& problem, const Environment& environment) {
    constexpr Tile kTiles[] = {
        {2, 4, 1, 64, 2, 1}, {1, 4, 1, 64, 2, 4}, {1, 4, 1, 64, 2, 1}, {1, 2, 2, 64, 2, 1},
        {1, 2, 4, 64, 1, 1}, {1, 1, 4, 64, 1, 1}, {1, 1, 4, 32, 2, 1}, {1, 4, 1, 32, 2, 1},
    };
    std::vector<Tile> result;
    for (Tile tile : kTiles) {
        if (problem.mask >= 0) tile.blocks = std::min(tile.blocks, 3);  // registers for what is read ahead
        if (fits(tile, problem, environment)) result.push_back(tile);
    }
    // Few rows before many keys: blocks for all multiprocessors, each with at least 256 keys.
    if (!environment.batch_invariant) {
        Tile tile{1, 1, 4, std::max(problem.head_dim, problem.value_dim) > 64 ? 32 : 64, 2, 1};
        const int64_t idle = environment.device.multiprocessors / std::max<int64_t>(1, row_blocks(tile, problem));
        tile.splits = static_cast<int>(std::min<int64_t>({idle, problem.params.keys / 256, 32}));
        if (tile.splits > 1 && fits(tile, problem, environment)) result.push_back(tile);
    }
    return result;
}

Refusal can_attend_on_tensor_cores(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_attend(region, environment); r != Refusal::none) return r;
    if (!environment.arch.at_least(80)) return Refusal::isa_missing;
    if (environment.storage == DType::f32) return Refusal::dtype_not_handled;
    const Problem problem = *read_problem(region);
    // Rows of 16-byte vectors; the maximum is taken before the scale is applied.
    const auto vectors = [](int64_t v) { return v % 8 == 0; };
    const auto aligned = [&](const AttentionStrides& s) {
        return vectors(s.batch) && vectors(s.head) && vectors(s.row);
    };
    const AttentionParams& p = problem.params;
    if (!vectors(problem.head_dim) || !vectors(problem.value_dim) || !aligned(p.query_strides) ||
        !aligned(p.key_strides) || !aligned(p.value_strides) || !aligned(p.output_strides) ||
        !vectors(problem.query.first) || !vectors(problem.key.first) || !vectors(problem.value.first) || p.scale <= 0)
        return Refusal::shape_not_handled;
    return tiles(problem, environment).empty() ? Refusal::shape_not_handled : Refusal::none;
}

CudaKernel compile_mma(const RegionView& region, const Formats& formats, std::string_view tactic,
                       const Environment& environment) {
    Problem problem = *read_problem(region);
    const auto choices = tiles(problem, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const Tile& tile) { return tile.name() == tactic; });
    const Tile tile = choice != choices.end() ? *choice : choices.front();
    const int pack = packed_heads(problem);
    const DType dtype = formats.outputs[0].dtype;
    AttentionParams& p = problem.params;
    p.splits = tile.splits;
    p.keys_per_split = static_cast<int>(round_up(divide_up(p.keys, tile.splits), tile.step()));

    const std::string traits =
        "#include \"planish/attention.cuh\"\nstruct Traits {\n" + common_traits(problem, formats) +
        fmt::format(
            "    static constexpr int kRowTiles = {}, kRowWarps = {}, kKeyWarps = {}, kKeyBlock = {};\n"
            "    static constexpr int kStages = {}, kPack = {};\n"
            "    static constexpr bool kMaskPairs = {}, kSplit = {};\n}};\n",
            tile.row_tiles, tile.row_warps, tile.key_warps, tile.key_block, tile.stages, pack, p.keys % 2 == 0,
            tile.splits > 1);
    const auto kernel_source = [&](std::string_view name, int threads, int blocks, std::string_view function) {
        return traits + fmt::format(
                            "extern \"C\" __global__ void __launch_bounds__({}, {}) {}(const __grid_constant__ "
                            "planish::AttentionParams p) {{\n    planish::{}<Traits>(p);\n}}\n",
                            threads, blocks, name, function);
    };
    KernelSpec spec;
    spec.name = fmt::format("attention_{}_{}x{}_{}{}{}", short_name(dtype), problem.head_dim, problem.value_dim,
                            tile.name(), pack > 1 ? fmt::format("_p{}", pack) : "", suffix(problem, formats));
    spec.threads = tile.threads();
    spec.shared_bytes = static_cast<int>(shared_bytes(tile, problem));
    spec.max_registers = std::min(255, 65536 / (tile.threads() * tile.blocks) / 8 * 8);
    spec.source = kernel_source(spec.name, spec.threads, tile.blocks, "attention");

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = flops(problem);
    const std::array<unsigned, 3> grid{
        static_cast<unsigned>(divide_up(static_cast<int64_t>(p.queries) * pack, tile.rows()) * tile.splits),
        static_cast<unsigned>(p.heads / pack), static_cast<unsigned>(p.batch)};
    Launch launch = make_launch(spec, grid, p);
    launch.pdl = true;
    bind(launch, problem, dtype);
    if (tile.splits > 1) {
        const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
        kernel.workspace = round_up(tile.splits * rows * (problem.value_dim + 2) * int64_t{sizeof(float)}, 256);
        launch.bind(offsetof(AttentionParams, partial), workspace());
        kernel.launches.push_back(launch);
        constexpr int kThreads = 128;
        spec.name += "_combine";
        spec.threads = kThreads;
        spec.shared_bytes = 0;
        spec.max_registers = 96;
        spec.source = kernel_source(spec.name, kThreads, 1, "attention_combine");
        Launch combine =
            make_launch(spec, {static_cast<unsigned>(divide_up(rows * problem.value_dim, kThreads)), 1, 1}, p);
        combine.pdl = true;
        combine.bind(offsetof(AttentionParams, partial), workspace()).bind(offsetof(AttentionParams, output), output());
        kernel.launches.push_back(std::move(combine));
    } else {
        kernel.launches.push_back(std::move(launch));
    }
    return kernel;
}

// ---- Hopper ---------------------------------------------------------------------------------------------------------

/// Constants of kernels/attention_wgmma.cuh.
struct WgmmaTile {
    int consumers = 2, key_block = 128, stages = 2, query_stages = 2;
    int blocks = 1;  // that share a multiprocessor

    int rows() const { return 64 * consumers; }
    int threads() const { return consumers == 1 ? 160 : 384; }
    std::string name() const {
        return fmt::format("wg{}k{}s{}q{}o{}", consumers, key_block, stages, query_stages, blocks);
    }
};

/// Mirrors AttentionWgmma::kShared.
int64_t shared_bytes(const WgmmaTile& tile, const Problem& problem) {
    const int64_t k = divide_up(problem.head_dim, 64), v = divide_up(problem.value_dim, 64);
    return 1024 + int64_t{tile.query_stages} * tile.rows() * 128 * std::max(k, v) +
           int64_t{tile.stages} * tile.key_block * 128 * (k + v) +
           8 * (4 * tile.stages + 2 * tile.query_stages * tile.consumers);
}

/// None where that kernel is none: without a soft cap, with half of a warpgroup's rows at least.
std::vector<WgmmaTile> wgmma_tiles(const Problem& problem, const Environment& environment) {
    if (!environment.arch.is_hopper() || problem.soft_capped() || problem.params.queries < 32) return {};
    constexpr WgmmaTile kTiles[] = {{2, 128, 2, 2, 1}, {2, 192, 2, 2, 1}, {2, 64, 3, 2, 1},
                                    {1, 128, 2, 1, 2}, {1, 64, 2, 1, 3},  {2, 64, 2, 1, 1}};
    const int64_t size = std::max(problem.head_dim, problem.value_dim), keys = problem.params.keys;
    std::vector<WgmmaTile> result;
    for (const WgmmaTile& tile : kTiles) {
        if (tile.blocks * (shared_bytes(tile, problem) + 1024) > environment.device.shared_per_block + 1024) continue;
        // Registers: of scores, weights and output, and of the mask.
        const bool masked = problem.mask >= 0;
        if (tile.key_block > (size > 128 ? 64 : size > 64 ? (masked ? 64 : 128) : masked ? 128 : 192)) continue;
        if (tile.consumers == 1 && (size > 64 || (masked && tile.key_block > 64))) continue;
        if (tile.key_block > 64 && keys <= tile.key_block / 2) continue;
        result.push_back(tile);
    }
    return result;
}

/// Seconds: a multiprocessor's blocks of keys, each with products on tensor cores and exponentials, one under the other
/// where there is another warpgroup or block, and what a tile's begin and end cost.
double estimate(const WgmmaTile& tile, const Problem& problem, const Environment& environment) {
    const AttentionParams& p = problem.params;
    const DeviceProperties& device = environment.device;
    const double seen = problem.bounded() && p.right == 0 ? 0.5 : 1.0;
    const int64_t tiles = divide_up(p.queries, tile.rows()) * p.heads * p.batch;
    const double steps = std::max(1.0, seen * static_cast<double>(divide_up(p.keys, tile.key_block)));
    const double scores = 64.0 * tile.key_block;  // of a warpgroup and step
    const double products = scores * static_cast<double>(problem.head_dim + problem.value_dim) / (0.8 * 2048);
    const double softmax = scores * (problem.mask >= 0 ? 0.18 : 0.13) + 200;
    // A tensor core waits for its own warpgroup alone unless there are others; all share the multiprocessor.
    const double alone = products + softmax + 300, groups = tile.consumers * tile.blocks;
    const double step = std::max(alone, groups * std::max(products, softmax) * 1.1);
    constexpr double kTile = 1800, kStart = 3000;
    const double waves = static_cast<double>(divide_up(tiles, int64_t{device.multiprocessors} * tile.blocks));
    return (kStart + waves * (steps * step + kTile)) / device.clock;
}

/// Columns of one head, rows and heads as they follow one another in memory.
TensorMapDesc head_map(DType dtype, int64_t size, int64_t rows, int64_t heads, int64_t batch,
                       const AttentionStrides& strides, bool heads_in_rows, int box_rows) {
    const auto bytes = [&](int64_t elements) { return byte_size(dtype, elements); };
    TensorMapDesc map;
    map.dtype = dtype;
    map.rank = 4;
    if (heads_in_rows) {
        map.dims = {size, heads, rows, batch};
        map.strides = {bytes(strides.head), bytes(strides.row), bytes(strides.batch)};
        map.box = {64, 1, box_rows, 1};
    } else {
        map.dims = {size, rows, heads, batch};
        map.strides = {bytes(strides.row), bytes(strides.head), bytes(strides.batch)};
        map.box = {64, box_rows, 1, 1};
    }
    return map;
}

CudaKernel compile_wgmma(const RegionView& region, const Formats& formats, std::string_view tactic,
                         const Environment& environment) {
    Problem problem = *read_problem(region);
    const auto choices = wgmma_tiles(problem, environment);
    const auto choice =
        std::find_if(choices.begin(), choices.end(), [&](const WgmmaTile& tile) { return tile.name() == tactic; });
    if (choice == choices.end()) return compile_mma(region, formats, "", environment);
    const WgmmaTile tile = *choice;
    const DType dtype = formats.outputs[0].dtype;
    const bool heads_in_rows = problem.query.dims.size() == 3;

    KernelSpec spec;
    spec.name = fmt::format("attention_{}_{}x{}_{}{}{}", short_name(dtype), problem.head_dim, problem.value_dim,
                            tile.name(), heads_in_rows ? "" : "_heads", suffix(problem, formats));
    spec.threads = tile.threads();
    spec.shared_bytes = static_cast<int>(shared_bytes(tile, problem));
    // A scheduler's part of the registers, by the warps that it may get.
    spec.max_registers = static_cast<int>(512 / divide_up(tile.threads() / 32 * tile.blocks, 4) / 8 * 8);
    spec.source =
        "#include \"planish/attention_wgmma.cuh\"\nstruct Traits {\n" + common_traits(problem, formats) +
        fmt::format(
            "    static constexpr int kConsumers = {}, kKeyBlock = {}, kStages = {}, kQueryStages = {}, kPack = 1;\n"
            "    static constexpr bool kMaskPairs = {}, kHeadsInRows = {};\n}};\n"
            "static_assert(planish::AttentionWgmma<Traits>::kShared == {});\n"
            "extern \"C\" __global__ void __launch_bounds__({}, {}) {}(const __grid_constant__ "
            "planish::AttentionWgmmaParams p) {{\n    planish::attention_wgmma<Traits>(p);\n}}\n",
            tile.consumers, tile.key_block, tile.stages, tile.query_stages, problem.params.keys % 2 == 0, heads_in_rows,
            spec.shared_bytes, spec.threads, tile.blocks, spec.name);

    AttentionWgmmaParams params{};
    AttentionParams& p = params.attention = problem.params;
    p.splits = 1;
    params.row_blocks = static_cast<int>(divide_up(p.queries, tile.rows()));
    params.tiles = params.row_blocks * p.heads * p.batch;

    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = flops(problem);
    const int resident = environment.device.multiprocessors * tile.blocks;
    Launch launch =
        make_launch(std::move(spec), {static_cast<unsigned>(std::min(params.tiles, resident)), 1, 1}, params);
    launch.pdl = true;
    const auto bind_map = [&](size_t offset, Operand operand, int64_t size, int64_t rows, int64_t heads,
                              const AttentionStrides& strides, int box_rows) {
        launch.bind(offset, operand, head_map(dtype, size, rows, heads, p.batch, strides, heads_in_rows, box_rows));
    };
    const auto columns = [&](const Projection& of) { return input(of.input, byte_size(dtype, of.first)); };
    bind_map(offsetof(AttentionWgmmaParams, query), columns(problem.query), problem.head_dim, p.queries, p.heads,
             p.query_strides, 64);
    bind_map(offsetof(AttentionWgmmaParams, key), columns(problem.key), problem.head_dim, p.keys, p.kv_heads,
             p.key_strides, tile.key_block);
    bind_map(offsetof(AttentionWgmmaParams, value), columns(problem.value), problem.value_dim, p.keys, p.kv_heads,
             p.value_strides, tile.key_block);
    bind_map(offsetof(AttentionWgmmaParams, output), output(), problem.value_dim, p.queries, p.heads, p.output_strides,
             64);
    constexpr size_t kRest = offsetof(AttentionWgmmaParams, attention);
    if (problem.mask >= 0) launch.bind(kRest + offsetof(AttentionParams, mask), input(problem.mask));
    if (problem.lengths >= 0) launch.bind(kRest + offsetof(AttentionParams, lengths), input(problem.lengths));
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

std::vector<Tactic> attention_tactics(const RegionView& region, const Environment& environment) {
    const Problem problem = *read_problem(region);
    std::vector<Tactic> tactics;
    for (const Tile& tile : tiles(problem, environment))
        tactics.push_back({tile.name(), estimate(tile, problem, environment)});
    for (const WgmmaTile& tile : wgmma_tiles(problem, environment))
        tactics.push_back({tile.name(), estimate(tile, problem, environment)});
    sort_by_estimate(tactics);
    return tactics;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view tactic,
                   const Environment& environment) {
    const auto compile_by = tactic.starts_with("wg") ? compile_wgmma : compile_mma;
    return compile_by(region, formats, tactic, environment);
}

// ---- Ordinary cores -------------------------------------------------------------------------------------------------

/// Mirrors SimtAttentionTile::kSharedBytes.
int64_t simt_shared_bytes(int rows_of_thread, const Problem& problem) {
    const int64_t rows = 16 * rows_of_thread, keys = 32;
    return 4 * ((rows + keys) * (round_up(problem.head_dim, 4) + 4) + keys * (round_up(problem.value_dim, 32) + 4) +
                rows * (keys + 4));
}

std::vector<int> simt_rows(const Problem& problem, const Environment& environment) {
    std::vector<int> result;
    for (const int rows : {4, 2, 1})
        if (simt_shared_bytes(rows, problem) <= environment.device.shared_per_block &&
            (rows < 4 || std::max(problem.head_dim, problem.value_dim) <= 128))
            result.push_back(rows);
    return result;
}

Refusal can_attend_on_simt(const RegionView& region, const Environment& environment) {
    if (const Refusal r = can_attend(region, environment); r != Refusal::none) return r;
    return simt_rows(*read_problem(region), environment).empty() ? Refusal::shape_not_handled : Refusal::none;
}

std::vector<Tactic> simt_tactics(const RegionView& region, const Environment& environment) {
    const Problem problem = *read_problem(region);
    const AttentionParams& p = problem.params;
    std::vector<Tactic> tactics;
    for (const int rows : simt_rows(problem, environment)) {
        const int64_t blocks = divide_up(p.queries, 16 * rows) * p.heads * p.batch;
        const double waves =
            static_cast<double>(divide_up(blocks, environment.device.multiprocessors * (rows == 1 ? 6 : 4)));
        // Shared memory feeds the multiplications: a thread of more rows reads less for each.
        const double rate = 0.5 * environment.device.f32_flops * rows / (rows + 1.0);
        const double alone = 2e-6 + static_cast<double>(p.keys) * static_cast<double>(problem.head_dim) * rows * 2e-10;
        tactics.push_back(
            {fmt::format("r{}", rows), std::max(waves * alone, static_cast<double>(flops(problem)) / rate + alone)});
    }
    sort_by_estimate(tactics);
    return tactics;
}

CudaKernel compile_simt(const RegionView& region, const Formats& formats, std::string_view tactic,
                        const Environment& environment) {
    Problem problem = *read_problem(region);
    const std::vector<int> choices = simt_rows(problem, environment);
    int rows = choices.front();
    for (const int choice : choices)
        if (fmt::format("r{}", choice) == tactic) rows = choice;
    const DType dtype = formats.outputs[0].dtype;
    AttentionParams& p = problem.params;
    p.splits = 1;
    const auto fours = [](int64_t v) { return v % 4 == 0; };
    const auto aligned = [&](const AttentionStrides& s) { return fours(s.batch) && fours(s.head) && fours(s.row); };
    const bool vector = dtype == DType::f32 && fours(problem.head_dim) && fours(problem.value_dim) &&
                        aligned(p.query_strides) && aligned(p.key_strides) && aligned(p.value_strides) &&
                        fours(problem.query.first) && fours(problem.key.first) && fours(problem.value.first);
    KernelSpec spec;
    spec.name = fmt::format("attention_{}_{}x{}_simt_r{}{}{}", short_name(dtype), problem.head_dim, problem.value_dim,
                            rows, vector ? "" : "_scalar", suffix(problem, formats));
    spec.threads = 128;
    spec.shared_bytes = static_cast<int>(simt_shared_bytes(rows, problem));
    spec.max_registers = 255;
    spec.source = "#include \"planish/attention_simt.cuh\"\nstruct Traits {\n" + common_traits(problem, formats) +
                  fmt::format(
                      "    static constexpr int kRowsOfThread = {};\n    static constexpr bool kVector = {};\n}};\n"
                      "extern \"C\" __global__ void __launch_bounds__(128) {}(const __grid_constant__ "
                      "planish::AttentionParams p) {{\n    planish::attention_simt<Traits>(p);\n}}\n",
                      rows, vector, spec.name);
    CudaKernel kernel;
    kernel.name = spec.name;
    kernel.flops = flops(problem);
    const std::array<unsigned, 3> grid{static_cast<unsigned>(divide_up(p.queries, 16 * rows)),
                                       static_cast<unsigned>(p.heads), static_cast<unsigned>(p.batch)};
    Launch launch = make_launch(spec, grid, p);
    launch.pdl = true;
    bind(launch, problem, dtype);
    kernel.launches.push_back(std::move(launch));
    return kernel;
}

}  // namespace

namespace families {
const Implementation kAttention{"attention_flash", can_attend_on_tensor_cores, attention_formats, compile,
                                attention_tactics};
const Implementation kAttentionSimt{"attention_simt", can_attend_on_simt, attention_formats, compile_simt,
                                    simt_tactics};
}  // namespace families

}  // namespace planish::cuda
