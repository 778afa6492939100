// Kernels of point-wise regions, rows, reductions, windows, movement, products and convolutions: each compiles for
// every architecture, within its stated bound of registers and without spills; emulated on the host, each agrees with
// the reference interpreter.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "backends/cuda/compiler.hpp"
#include "backends/cuda/implementation.hpp"
#include "cuda/emulated.hpp"
#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish::cuda {
namespace {

struct Case {
    std::string name, implementation, graph;  // the graph without its frame; its region's outputs are the graph's
    bool channels_last = false;               // how images are available
    int arch = 80;                            // least architecture
    bool only_halves = false;                 // as storage
};

std::string floats(const std::string& name, const std::string& dims) {
    return "input %" + name + " : float32[" + dims + "]\n";
}

std::string weights(const std::string& name, const std::string& dims) {
    return "const %" + name + " : float32[" + dims + "] = dense<0>\n";
}

std::vector<Case> cases() {
    std::vector<Case> result;
    const auto add = [&](std::string name, std::string implementation, std::string graph, bool last = false) {
        result.push_back({std::move(name), std::move(implementation), std::move(graph), last});
    };
    add("flat", "pointwise",
        floats("x", "3, 5, 7") + floats("z", "3, 5, 7") + "%s = Sigmoid(%x)\n%y = Mul(%s, %z)\noutput %y\n");
    add("broadcast", "pointwise",
        floats("x", "2, 64, 14, 14") + floats("z", "64, 1, 1") + "%y = Add(%x, %z)\noutput %y\n", true);
    add("odd", "pointwise", floats("x", "2, 3, 5, 7") + floats("z", "3, 1, 7") + "%y = PRelu(%x, %z)\noutput %y\n",
        true);
    add("where", "pointwise",
        "input %p : bool[4, 1, 8]\n" + floats("x", "4, 6, 8") +
            "const %c : float32[] = [-inf]\n%y = Where(%p, %c, %x)\noutput %y\n");
    // Exporters' mask: a number that float16 does not hold stays one, not an infinity.
    add("mask", "pointwise",
        "input %p : bool[1, 1, 9]\n" + floats("x", "2, 5, 9") +
            "const %c : float32[] = [-3.0e38]\n%y = Where(%p, %x, %c)\noutput %y\n");
    add("cast", "pointwise", "input %x : int64[4, 96]\n%y = Cast(%x) {to = 1}\noutput %y\n");
    // What stands around a quantised region that no kernel takes, and one that is point-wise.
    const std::string scales = "const %s : float32[] = [0.05]\nconst %z : uint8[] = [117]\n";
    add("encode", "pointwise", floats("x", "5, 37") + scales + "%y = QuantizeLinear(%x, %s, %z)\noutput %y\n");
    add("decode", "pointwise", "input %x : uint8[5, 37]\n" + scales + "%y = DequantizeLinear(%x, %s, %z)\noutput %y\n");
    add("bytes", "pointwise",
        "input %xq : uint8[2, 16, 5, 7]\ninput %zq : uint8[2, 16, 5, 7]\n" + scales +
            "%x = DequantizeLinear(%xq, %s, %z)\n%u = DequantizeLinear(%zq, %s, %z)\n%a = Add(%x, %u)\n"
            "%r = Relu(%a)\n%y = QuantizeLinear(%r, %s, %z)\noutput %y\n",
        true);
    add("norm_bytes", "norm_rows_u8",
        floats("x", "12, 768") + floats("g", "768") + floats("b", "768") + scales +
            "%n = LayerNormalization(%x, %g, %b)\n%y = QuantizeLinear(%n, %s, %z)\noutput %y\n");
    const std::string float8 = "const %s : float32[] = [0.25]\nconst %z : float8_e4m3fn[] = [0]\n";
    add("encode_float8", "pointwise", floats("x", "5, 37") + float8 + "%y = QuantizeLinear(%x, %s, %z)\noutput %y\n");
    result.back().arch = 89;
    add("decode_float8", "pointwise",
        "input %x : float8_e4m3fn[5, 37]\n" + float8 + "%y = DequantizeLinear(%x, %s, %z)\noutput %y\n");
    result.back().arch = 89;
    add("sum_float8", "pointwise",
        "input %xq : float8_e4m3fn[2, 16, 5, 7]\ninput %zq : float8_e4m3fn[2, 16, 5, 7]\n" + float8 +
            "%x = DequantizeLinear(%xq, %s, %z)\n%u = DequantizeLinear(%zq, %s, %z)\n%a = Add(%x, %u)\n"
            "%r = Relu(%a)\n%y = QuantizeLinear(%r, %s, %z)\noutput %y\n",
        true);
    result.back().arch = 89;
    add("norm_float8", "norm_rows_u8",
        floats("x", "12, 768") + floats("g", "768") + float8 +
            "%n = RMSNormalization(%x, %g)\n%y = QuantizeLinear(%n, %s, %z)\noutput %y\n");
    result.back().arch = 89;
    add("compare", "pointwise", floats("x", "33") + floats("z", "33") + "%y = Less(%x, %z)\noutput %y\n");
    for (const char* n : {"10", "64", "197", "768", "1000", "4096", "50257", "100000"}) {
        add(std::string("softmax_") + n, "softmax_rows",
            floats("x", std::string("12, ") + n) + "%y = Softmax(%x)\noutput %y\n");
        add(std::string("layer_norm_") + n, "layer_norm_rows",
            floats("x", std::string("12, ") + n) + floats("s", n) + floats("b", n) +
                "%y = LayerNormalization(%x, %s, %b)\noutput %y\n");
    }
    add("constant_scale", "layer_norm_rows",
        floats("x", "12, 64") +
            "const %s : float32[64] = dense<0000000000000000>\n%y = LayerNormalization(%x, %s)\noutput %y\n");
    add("softmax_columns", "softmax_rows", floats("x", "2, 19, 8, 8") + "%y = Softmax(%x) {axis = 1}\noutput %y\n");
    add("log_softmax", "log_softmax_rows", floats("x", "5, 33") + "%y = LogSoftmax(%x)\noutput %y\n");
    add("rms_norm", "rms_norm_rows",
        floats("x", "5, 512") + floats("s", "512") + "%y = RMSNormalization(%x, %s)\noutput %y\n");
    add("group_norm", "group_norm",
        floats("x", "2, 64, 16, 16") + floats("s", "64") + floats("b", "64") +
            "%y = GroupNormalization(%x, %s, %b) {num_groups = 8}\noutput %y\n");
    add("group_norm_splits", "group_norm",
        floats("x", "1, 6, 300, 300") + floats("s", "6") + floats("b", "6") +
            "%y = GroupNormalization(%x, %s, %b) {num_groups = 2}\noutput %y\n");
    add("instance_norm", "group_norm",
        floats("x", "1, 24, 40, 40") + floats("s", "24") + floats("b", "24") +
            "%y = InstanceNormalization(%x, %s, %b)\noutput %y\n");
    for (const char* op : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                           "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"}) {
        add(op + std::string("_rows"), "reduce_axes",
            floats("x", "7, 96") + "const %a : int64[1] = [-1]\n%y = " + op + "(%x, %a)\noutput %y\n");
        add(op + std::string("_columns"), "reduce_axes",
            floats("x", "7, 30, 24") + "const %a : int64[1] = [1]\n%y = " + op + "(%x, %a)\noutput %y\n");
    }
    add("reduce_all", "reduce_axes", floats("x", "1000, 1000") + "%y = ReduceMean(%x)\noutput %y\n");
    add("reduce_scattered", "reduce_axes",
        floats("x", "4, 6, 5, 7") + "const %a : int64[2] = [0, 2]\n%y = ReduceSum(%x, %a)\noutput %y\n");
    add("global_pool", "reduce_axes", floats("x", "1, 1280, 7, 7") + "%y = GlobalAveragePool(%x)\noutput %y\n", true);
    add("arg_max", "reduce_axes", floats("x", "5, 1000") + "%y = ArgMax(%x) {axis = 1}\noutput %y\n");
    add("arg_min_columns", "reduce_axes",
        floats("x", "5, 100, 6") + "%y = ArgMin(%x) {axis = 1, select_last_index = 1}\noutput %y\n");
    add("integer_sum", "reduce_axes",
        "input %x : int64[3, 40]\nconst %a : int64[1] = [1]\n%y = ReduceSum(%x, %a)\noutput %y\n");
    add("max_pool", "pool_window",
        floats("x", "1, 64, 112, 112") +
            "%y = MaxPool(%x) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]}\noutput %y\n",
        true);
    for (const std::string type : {"uint8", "float8_e4m3fn"}) {
        add(std::string("max_pool_") + type, "pool_window",
            std::string("input %x : ") + type +
                "[2, 24, 13, 11]\n%y = MaxPool(%x) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]}\n"
                "output %y\n",
            true);
        if (type != "uint8") result.back().arch = 89;
    }
    add("average_pool", "pool_window",
        floats("x", "2, 20, 13, 13") +
            "%y = AveragePool(%x) {kernel_shape = [5, 5], pads = [2, 2, 2, 2], count_include_pad = 1}\noutput %y\n",
        true);
    for (const char* mode : {"nearest", "linear", "cubic"})
        add(std::string("resize_") + mode, "resize_image",
            floats("x", "1, 32, 9, 9") +
                "const %s : float32[4] = [1.0, 1.0, 2.0, 2.0]\n%y = Resize(%x, _, %s) {mode = \"" + mode +
                "\"}\noutput %y\n",
            true);
    add("transpose_tiles", "transpose",
        floats("x", "2, 100, 70") + "%y = Transpose(%x) {perm = [0, 2, 1]}\noutput %y\n");
    add("transpose_heads", "transpose",
        floats("x", "1, 197, 12, 64") + "%y = Transpose(%x) {perm = [0, 2, 1, 3]}\noutput %y\n");
    add("transpose_odd", "transpose",
        floats("x", "3, 5, 4, 2") + "%y = Transpose(%x) {perm = [3, 1, 0, 2]}\noutput %y\n");
    add("concat", "concat",
        floats("x", "1, 16, 8, 8") + floats("z", "1, 24, 8, 8") + "%y = Concat(%x, %z) {axis = 1}\noutput %y\n", true);
    add("split", "split",
        floats("x", "2, 9, 10") +
            "const %n : int64[2] = [4, 5]\n%y, %z = Split(%x, %n) {axis = 1}\noutput %y\noutput %z\n");
    add("slice", "slice",
        floats("x", "4, 30, 8") +
            "const %a : int64[2] = [1, 20]\nconst %e : int64[2] = [4, 2]\nconst %i : int64[2] = [0, 1]\nconst %s : "
            "int64[2] = [1, -3]\n%y = Slice(%x, %a, %e, %i, %s)\noutput %y\n");
    add("expand", "expand",
        floats("x", "3, 1, 8") + "const %d : int64[3] = [3, 5, 8]\n%y = Expand(%x, %d)\noutput %y\n");
    add("pad", "pad",
        floats("x", "1, 16, 7, 7") +
            "const %p : int64[8] = [0, 0, 1, 2, 0, 0, 2, -1]\nconst %v : float32[] = [1.5]\n%y = Pad(%x, %p, "
            "%v)\noutput %y\n",
        true);
    add("pad_inner", "pad", floats("x", "3, 5") + "const %p : int64[4] = [0, 1, 0, 2]\n%y = Pad(%x, %p)\noutput %y\n");
    add("gather", "gather", floats("x", "100, 64") + "input %i : int64[2, 7]\n%y = Gather(%x, %i)\noutput %y\n");
    const std::string indices = "input %i : int64[";
    add("gather_elements", "elements",
        floats("x", "5, 9, 6") + indices + "5, 4, 6]\n%y = GatherElements(%x, %i) {axis = 1}\noutput %y\n");
    add("scatter_elements", "elements",
        floats("x", "7, 9") + indices + "3, 8]\n" + floats("u", "3, 8") +
            "%y = ScatterElements(%x, %i, %u) {axis = -1}\noutput %y\n");
    add("gather_nd", "tuples", floats("x", "5, 6, 24") + indices + "3, 4, 2]\n%y = GatherND(%x, %i)\noutput %y\n");
    add("gather_nd_elements", "tuples",
        "input %x : int64[5, 6]\ninput %i : int32[7, 2]\n%y = GatherND(%x, %i)\noutput %y\n");
    add("scatter_nd", "tuples",
        floats("x", "8, 5") + indices + "3, 1]\n" + floats("u", "3, 5") + "%y = ScatterND(%x, %i, %u)\noutput %y\n");
    for (const char* attributes : {"", " {exclusive = 1}", " {reverse = 1}", " {exclusive = 1, reverse = 1}"})
        add(std::string("cum_sum") + attributes, "cum_sum",
            "input %x : int64[3, 40, 5]\nconst %a : int64[] = [1]\n%y = CumSum(%x, %a)" + std::string(attributes) +
                "\noutput %y\n");
    add("cum_sum_floats", "cum_sum",
        floats("x", "4, 50") + "const %a : int64[] = [-1]\n%y = CumSum(%x, %a)\noutput %y\n");
    for (const char* n : {"5", "100", "1500"})
        add(std::string("top_k_") + n, "top_k",
            floats("x", std::string("3, ") + n) + "const %k : int64[1] = [4]\n%y, %i = TopK(%x, %k) {largest = " +
                (n[0] == '5' ? "0" : "1") + "}\noutput %y\noutput %i\n");
    for (const char* mode : {"DCR", "CRD"})
        add(std::string("depth_to_space_") + mode, "rearrange",
            floats("x", "2, 24, 5, 3") + "%y = DepthToSpace(%x) {blocksize = 2, mode = \"" + mode + "\"}\noutput %y\n",
            true);
    add("space_to_depth", "rearrange",
        floats("x", "2, 5, 6, 4") + "%y = SpaceToDepth(%x) {blocksize = 2}\noutput %y\n");
    add("tile", "rearrange",
        floats("x", "3, 1, 4") + "const %r : int64[3] = [2, 3, 2]\n%y = Tile(%x, %r)\noutput %y\n");
    add("conv_stem", "simt",
        floats("x", "2, 3, 19, 17") + weights("w", "24, 3, 3, 3") + weights("b", "24") +
            "%c = Conv(%x, %w, %b) {strides = [2, 2], pads = [1, 1, 1, 1]}\n%y = Relu(%c)\noutput %y\n");
    add("conv_odd", "simt",
        floats("x", "1, 13, 9, 7") + weights("w", "7, 13, 3, 2") +
            "%y = Conv(%x, %w) {strides = [2, 1], dilations = [2, 1], pads = [2, 0, 1, 2]}\noutput %y\n",
        true);
    add("conv_groups", "simt",
        floats("x", "1, 32, 9, 7") + floats("r", "1, 48, 9, 7") + weights("w", "48, 8, 3, 3") + weights("b", "48") +
            "%c = Conv(%x, %w, %b) {group = 4, pads = [1, 1, 1, 1]}\n%y = Add(%c, %r)\noutput %y\n",
        true);
    add("conv_line", "simt",
        floats("x", "2, 5, 33") + weights("w", "66, 5, 5") +
            "%y = Conv(%x, %w) {dilations = [3], pads = [6, 6]}\noutput %y\n");
    add("conv_transpose", "simt",
        floats("x", "2, 12, 6, 5") + weights("w", "12, 5, 3, 3") + weights("b", "10") +
            "%c = ConvTranspose(%x, %w, %b) {group = 2, strides = [2, 3], pads = [1, 0, 1, 1], output_padding = [1, "
            "0], "
            "dilations = [1, 2]}\n%y = Sigmoid(%c)\noutput %y\n",
        true);
    add("gemm_turned", "simt",
        floats("x", "37, 19") + weights("w", "30, 19") + weights("b", "30") +
            "%c = Gemm(%x, %w, %b) {transB = 1, alpha = 0.5}\n%y = Tanh(%c)\noutput %y\n");
    add("gemm_activations", "simt",
        floats("x", "36, 20") + floats("z", "140, 36") + "%y = Gemm(%x, %z) {transA = 1, transB = 1}\noutput %y\n");
    add("matmul_rows", "simt",
        floats("x", "3, 50, 28") + weights("w", "28, 132") + floats("r", "3, 50, 132") +
            "%c = MatMul(%x, %w)\n%y = Add(%c, %r)\noutput %y\n");
    add("matmul_batch", "simt",
        floats("x", "2, 3, 21, 20") + floats("z", "2, 3, 20, 33") + "%y = MatMul(%x, %z)\noutput %y\n");
    add("matmul_broadcast", "simt",
        floats("x", "2, 1, 70, 16") + floats("z", "3, 16, 8") + "%y = MatMul(%x, %z)\noutput %y\n");
    return result;
}

// Depthwise convolutions and excitations.
std::vector<Case> mobile_cases() {
    std::vector<Case> result;
    const auto add = [&](std::string name, int images, int channels, int height, int width, int kernel, int stride,
                         int dilation = 1) {
        const auto dims = fmt::format("{}, {}, {}, {}", images, channels, height, width);
        const int pad = kernel / 2 * dilation;
        std::string text =
            floats("x", dims) + fmt::format(
                                    "const %w : float32[{0}, 1, {1}, {1}] = dense<0>\n"
                                    "const %b : float32[{0}] = dense<0>\n"
                                    "%c = Conv(%x, %w, %b) {{group = {0}, pads = [{2}, {2}, {2}, {2}], strides = "
                                    "[{3}, {3}], dilations = [{4}, {4}]}}\n",
                                    channels, kernel, pad, stride, dilation);
        text += stride == 1 ? floats("r", dims) + "%y = Add(%c, %r)\noutput %y\n" : "%y = Relu(%c)\noutput %y\n";
        result.push_back({std::move(name), "depthwise", std::move(text), true});
    };
    add("depthwise_3x3", 2, 48, 19, 33, 3, 1);
    add("depthwise_3x3_strided", 1, 32, 18, 23, 3, 2);
    add("depthwise_3x3_dilated", 1, 8, 9, 11, 3, 1, 2);
    add("depthwise_odd", 1, 6, 7, 9, 3, 1);
    add("depthwise_5x5", 1, 40, 13, 12, 5, 2);
    add("depthwise_small", 3, 72, 7, 7, 3, 1);
    for (const auto& [channels, hidden, size] : {std::tuple(48, 12, 9), std::tuple(1152, 48, 3), std::tuple(8, 3, 40)})
        result.push_back(
            {fmt::format("excitation_{}", channels), "excitation",
             floats("s", fmt::format("2, {}, 1, 1", channels)) +
                 floats("x", fmt::format("2, {0}, {1}, {1}", channels, size)) +
                 weights("w", fmt::format("{}, {}, 1, 1", hidden, channels)) + weights("b", std::to_string(hidden)) +
                 weights("v", fmt::format("{}, {}, 1, 1", channels, hidden)) + weights("d", std::to_string(channels)) +
                 "%h = Conv(%s, %w, %b)\n%r = Relu(%h)\n%g = Conv(%r, %v, %d)\n%t = Sigmoid(%g)\n"
                 "%y = Mul(%x, %t)\noutput %y\n",
             true});
    return result;
}

// First layers.
std::vector<Case> stem_cases() {
    std::vector<Case> result;
    const auto add = [&](std::string name, std::string image, std::string filters, std::string attributes,
                         std::string tail, bool last = false) {
        std::string text = floats("x", image) + weights("w", filters) +
                           weights("b", filters.substr(0, filters.find(','))) + "%c = Conv(%x, %w, %b) {" + attributes +
                           "}\n" + tail;
        result.push_back({"stem_" + name, "stem", std::move(text), last, 80, true});
    };
    const std::string relu = "%y = Relu(%c)\noutput %y\n", twice = "strides = [2, 2], pads = ";
    add("7x7", "2, 3, 37, 45", "64, 3, 7, 7", twice + "[3, 3, 3, 3]", relu);
    add("3x3", "1, 3, 70, 33", "32, 3, 3, 3", twice + "[1, 1, 1, 1]", relu);
    add("3x3_last", "1, 3, 19, 35", "36, 3, 3, 3", twice + "[0, 0, 1, 1]", relu, true);
    add("3x3_dense", "1, 3, 14, 23", "20, 3, 3, 3", "pads = [1, 1, 1, 1]",
        floats("r", "1, 20, 14, 23") + "%y = Add(%c, %r)\noutput %y\n");
    add("line", "1, 1, 1, 65", "24, 1, 1, 5", "pads = [0, 2, 0, 2]", relu);
    add("six", "1, 6, 11, 18", "16, 6, 5, 3", "strides = [1, 3], pads = [2, 1, 2, 1]", relu);
    return result;
}

std::unique_ptr<Graph> parse(const std::string& text) {
    auto graph = parse_graph("graph \"g\" {\n" + text + "}");
    passes::form_regions(*graph);
    passes::form_quantized_regions(*graph);
    passes::chain_excitations(*graph);
    // Weights that every storage type holds.
    unsigned seed = 100;
    for (Value* value : graph->nodes().front()->inputs())
        if (value != nullptr && value->is_constant() && value->type.dtype == DType::f32 && value->constant->size() > 4)
            value->constant = std::make_shared<Tensor>(random_tensor(value->type, ++seed, DType::f16));
    return graph;
}

Environment environment_of(const Arch& arch, DType storage, PackedStore& packed) {
    Environment environment;
    environment.arch = arch;
    environment.device = known_device(arch)->properties;
    environment.storage = storage;
    environment.packed = &packed;
    return environment;
}

/// What the implementation that takes the case makes of it: by every tactic, best first, or by the first one.
std::vector<CudaKernel> compile(const Case& c, const Graph& graph, const Environment& environment,
                                Formats* formats = nullptr, bool every_tactic = false) {
    EXPECT_EQ(graph.nodes().size(), 1u) << c.name;
    const RegionView region(*graph.nodes().front());
    std::vector<Format> available;
    for (const Value* value : region.node().inputs())
        available.push_back(value == nullptr
                                ? Format{}
                                : Format{c.channels_last && value->dims().size() == 4 && !value->is_constant()
                                             ? Layout::channels_last
                                             : Layout::plain,
                                         environment.stored_as(*value)});
    for (const Implementation* implementation : implementations(region)) {
        const Refusal refusal = implementation->can_implement(region, environment);
        if (refusal != Refusal::none) continue;
        // Without tensor cores everything can be multiplied, so that others come first.
        if (c.implementation == "simt" && implementation->name != "simt") continue;
        EXPECT_EQ(implementation->name, c.implementation) << c.name;
        const Formats chosen = implementation->formats(region, available, environment);
        if (formats != nullptr) *formats = chosen;
        std::vector<Tactic> tactics{{}};
        if (implementation->tactics != nullptr) tactics = implementation->tactics(region, environment);
        if (!every_tactic) tactics.resize(1);
        std::vector<CudaKernel> kernels;
        for (const Tactic& tactic : tactics)
            kernels.push_back(implementation->compile(region, chosen, tactic.name, environment));
        return kernels;
    }
    return {};
}

// Sums of n terms in float32, in a tree of blocks, and a handful of functions of them: 64 eps of the largest result;
// a product of 96 factors: 128. Then the result is rounded to what is stored (f16: at least to multiples of 2^-24).
double tolerance(const std::string& name, double want, double largest, DType storage) {
    const double eps = 0x1p-24, factor = name.starts_with("ReduceProd") ? 128 : 64;
    const double rounding = storage == DType::f32 ? eps : storage == DType::f16 ? 0x1p-11 : 0x1p-8;
    return factor * eps * std::max(1.0, largest) + 1.01 * rounding * std::fabs(want) +
           (storage == DType::f16 ? 0x1p-24 : 0);
}

void emulate(const std::vector<Case>& cases, bool every_tactic) {
    std::vector<EmulatedRun> runs;
    PackedStore packed;
    for (const Case& c : cases)
        for (const DType storage : {DType::f32, DType::f16, DType::bf16}) {
            if (storage == DType::bf16 && c.name != "flat") continue;
            if (storage == DType::f32 && c.only_halves) continue;
            const Environment environment = environment_of({9, 0, true}, storage, packed);
            const auto graph = parse(c.graph);
            Formats formats;
            for (CudaKernel& kernel : compile(c, *graph, environment, &formats, every_tactic))
                runs.push_back({c.name + " " + std::string(short_name(storage)), storage, graph->clone(),
                                std::move(kernel), formats});
        }
    run_emulated(runs, [](const EmulatedRun& run, double want, double largest) {
        return tolerance(run.name, want, largest, run.storage);
    });
}

TEST(RegionKernelsEmulated, AgreeWithTheReference) {
    emulate(cases(), false);
}
TEST(RegionKernelsEmulated, EveryTacticOfMobileNetworksAgreesWithTheReference) {
    emulate(mobile_cases(), true);
}
TEST(RegionKernelsEmulated, EveryTacticOfFirstLayersAgreesWithTheReference) {
    emulate(stem_cases(), true);
}

// ---- Resources ----

class RegionKernels : public ::testing::TestWithParam<const char*> {};

TEST_P(RegionKernels, CompileWithinTheirBounds) {
    const auto arch = *Arch::parse(GetParam());
    std::set<std::string> seen;
    bool compiled = false;
    PackedStore packed;
    auto all = cases();
    for (auto* more : {&mobile_cases, &stem_cases})
        for (Case& c : more()) all.push_back(std::move(c));
    for (const Case& c : all) {
        if (!arch.at_least(c.arch)) continue;
        const auto graph = parse(c.graph);
        for (const DType storage : {DType::f32, DType::f16, DType::bf16}) {
            if (storage == DType::f32 && c.only_halves) continue;
            const Environment environment = environment_of(arch, storage, packed);
            const auto kernels = compile(c, *graph, environment, nullptr, c.name == "depthwise_3x3" || c.only_halves);
            ASSERT_FALSE(kernels.empty()) << c.name;
            // bfloat16 differs from half in conversions only.
            if (storage == DType::bf16 && c.name != "flat") continue;
            std::vector<Launch> launches;
            for (const CudaKernel& kernel : kernels)
                launches.insert(launches.end(), kernel.launches.begin(), kernel.launches.end());
            for (const Launch& launch : launches) {
                if (!seen.insert(launch.spec.source).second) continue;
                try {
                    const auto binary = compile_kernel(launch.spec, arch);
                    compiled = true;
                    EXPECT_LE(binary->resources.registers, launch.spec.max_registers) << launch.spec.name;
                    EXPECT_EQ(binary->resources.spilled_bytes, 0) << launch.spec.name;
                } catch (const Error& error) {
                    if (error.code() == ErrorCode::unsupported && !compiled) GTEST_SKIP() << error.what();
                    ADD_FAILURE() << c.name << ": " << error.what() << "\n" << launch.spec.source;
                    return;
                }
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Architectures, RegionKernels, ::testing::Values("sm_80", "sm_89", "sm_90a"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace planish::cuda
