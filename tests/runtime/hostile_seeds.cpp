// The seeds: one small valid node each, smallest sizes that still use every attribute.
#include "hostile_seeds.hpp"

#include <map>

namespace planish {
namespace {

constexpr std::string_view
    kSeeds[]
          [2] =
              {
                  {"Conv",
                   R"(graph "g" { input %x : float32[1, 4, 6, 6] const %w : float32[8, 2, 3, 3] = dense<0> const %b : float32[8] = dense<0>
        %y = Conv(%x, %w, %b) {group = 2, strides = [1, 2], pads = [1, 1, 1, 1], dilations = [1, 1]} output %y })"},
                  {"Conv", R"(graph "g" { input %x : float32[1, 8, 6, 6] const %w : float32[8, 1, 3, 3] = dense<0>
        %y = Conv(%x, %w) {group = 8, auto_pad = "SAME_UPPER", kernel_shape = [3, 3]} output %y })"},
                  {"Conv", R"(graph "g" { input %x : float32[1, 8, 6, 6] const %w : float32[8, 8, 3, 3] = dense<0>
        %y = Conv(%x, %w) {pads = [1, 1, 1, 1]} output %y })"},
                  {"Conv", R"(graph "g" { input %x : float32[2, 3, 9] input %w : float32[4, 3, 3]
        %y = Conv(%x, %w) {strides = [2]} output %y })"},
                  {"ConvTranspose",
                   R"(graph "g" { input %x : float32[1, 4, 3, 3] const %w : float32[4, 2, 3, 3] = dense<0> const %b : float32[4] = dense<0>
        %y = ConvTranspose(%x, %w, %b) {group = 2, strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]} output %y })"},
                  {"ConvTranspose", R"(graph "g" { input %x : float32[1, 2, 3] const %w : float32[2, 2, 3] = dense<0>
        %y = ConvTranspose(%x, %w) {output_shape = [7], auto_pad = "SAME_LOWER", strides = [2]} output %y })"},
                  {"DeformConv",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] input %w : float32[2, 2, 2, 2] input %o : float32[1, 8, 3, 3] input %b : float32[2]
        %y = DeformConv(%x, %w, %o, %b) {kernel_shape = [2, 2]} output %y })"},
                  {"ConvInteger",
                   R"(graph "g" { input %x : uint8[1, 2, 4, 4] input %w : uint8[2, 2, 2, 2] input %z : uint8
        %y = ConvInteger(%x, %w, %z) {pads = [1, 0, 0, 1]} output %y })"},
                  {"QLinearConv",
                   R"(graph "g" { input %x : uint8[1, 2, 4, 4] input %s : float32 input %z : uint8 input %w : uint8[2, 2, 2, 2] input %ws : float32[2] input %wz : uint8[2] input %ys : float32 input %yz : uint8 input %b : int32[2]
        %y = QLinearConv(%x, %s, %z, %w, %ws, %wz, %ys, %yz, %b) output %y })"},
                  {"QLinearMatMul",
                   R"(graph "g" { input %x : uint8[2, 3] input %s : float32 input %z : uint8 input %w : uint8[3, 2] input %ws : float32[2] input %wz : uint8[2] input %ys : float32 input %yz : uint8
        %y = QLinearMatMul(%x, %s, %z, %w, %ws, %wz, %ys, %yz) output %y })"},
                  {"MatMulInteger",
                   R"(graph "g" { input %x : uint8[2, 3] input %w : int8[3, 2] input %z : uint8 input %v : int8[2] %y = MatMulInteger(%x, %w, %z, %v) output %y })"},
                  {"MatMul",
                   R"(graph "g" { input %x : float32[2, 3, 4] const %w : float32[4, 5] = dense<0> %y = MatMul(%x, %w) output %y })"},
                  {"MatMul",
                   R"(graph "g" { input %x : float32[2, 1, 3, 4] input %w : float32[3, 4, 5] %y = MatMul(%x, %w) output %y })"},
                  {"Gemm",
                   R"(graph "g" { input %x : float32[4, 3] const %w : float32[5, 4] = dense<0> const %c : float32[5] = dense<0>
        %y = Gemm(%x, %w, %c) {transA = 1, transB = 1, alpha = 0.5, beta = 2.0} output %y })"},
                  {"MaxPool",
                   R"(graph "g" { input %x : float32[1, 2, 6, 6] %y, %i = MaxPool(%x) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1], ceil_mode = 1} output %y })"},
                  {"MaxPool",
                   R"(graph "g" { input %x : float32[1, 2, 6, 6] %y = MaxPool(%x) {kernel_shape = [2, 2], strides = [2, 2]} output %y })"},
                  {"AveragePool",
                   R"(graph "g" { input %x : float32[1, 2, 6, 6] %y = AveragePool(%x) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1} output %y })"},
                  {"LpPool",
                   R"(graph "g" { input %x : float32[1, 2, 6, 6] %y = LpPool(%x) {kernel_shape = [3, 3], strides = [2, 2], p = 2} output %y })"},
                  {"MaxUnpool",
                   R"(graph "g" { input %x : float32[1, 1, 2, 2] const %i : int64[1, 1, 2, 2] = [0, 3, 8, 12] const %s : int64[4] = [1, 1, 5, 5]
        %y = MaxUnpool(%x, %i, %s) {kernel_shape = [2, 2], strides = [2, 2]} output %y })"},
                  {"MaxRoiPool",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] input %r : float32[1, 5] %y = MaxRoiPool(%x, %r) {pooled_shape = [2, 2]} output %y })"},
                  {"RoiAlign",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] input %r : float32[1, 4] input %b : int64[1] %y = RoiAlign(%x, %r, %b) {output_height = 2, output_width = 2, sampling_ratio = 2} output %y })"},
                  {"BatchNormalization",
                   R"(graph "g" { input %x : float32[1, 3, 4] input %s : float32[3] input %b : float32[3] input %m : float32[3] input %v : float32[3]
        %y = BatchNormalization(%x, %s, %b, %m, %v) output %y })"},
                  {"LayerNormalization",
                   R"(graph "g" { input %x : float32[2, 3, 4] const %s : float32[4] = dense<0> const %b : float32[4] = dense<0> %y = LayerNormalization(%x, %s, %b) output %y })"},
                  {"RMSNormalization",
                   R"(graph "g" { input %x : float32[2, 3, 4] const %s : float32[4] = dense<0> %y = RMSNormalization(%x, %s) output %y })"},
                  {"GroupNormalization",
                   R"(graph "g" { input %x : float32[2, 4, 3] const %s : float32[4] = dense<0> const %b : float32[4] = dense<0> %y = GroupNormalization(%x, %s, %b) {num_groups = 2} output %y })"},
                  {"InstanceNormalization",
                   R"(graph "g" { input %x : float32[2, 4, 3] const %s : float32[4] = dense<0> const %b : float32[4] = dense<0> %y = InstanceNormalization(%x, %s, %b) output %y })"},
                  {"Attention",
                   R"(graph "g" { input %q : float32[1, 3, 8] input %k : float32[1, 4, 8] input %v : float32[1, 4, 8] input %m : float32[3, 4]
        %y = Attention(%q, %k, %v, %m) {q_num_heads = 2, kv_num_heads = 2} output %y })"},
                  {"Attention",
                   R"(graph "g" { input %q : float32[1, 4, 3, 8] input %k : float32[1, 2, 4, 8] input %v : float32[1, 2, 4, 8]
        %y = Attention(%q, %k, %v) {is_causal = 1} output %y })"},
                  {"RotaryEmbedding",
                   R"(graph "g" { input %x : float32[1, 2, 3, 4] input %c : float32[5, 2] input %s : float32[5, 2] const %p : int64[1, 3] = [0, 1, 2] %y = RotaryEmbedding(%x, %c, %s, %p) output %y })"},
                  {"LSTM",
                   R"(graph "g" { input %x : float32[3, 2, 4] input %w : float32[1, 12, 4] input %r : float32[1, 12, 3] input %b : float32[1, 24]
        %y, %h, %c = LSTM(%x, %w, %r, %b) {hidden_size = 3} output %y })"},
                  {"GRU",
                   R"(graph "g" { input %x : float32[3, 2, 4] input %w : float32[2, 9, 4] input %r : float32[2, 9, 3]
        %y, %h = GRU(%x, %w, %r) {hidden_size = 3, direction = "bidirectional"} output %y })"},
                  {"RNN",
                   R"(graph "g" { input %x : float32[3, 2, 4] input %w : float32[1, 3, 4] input %r : float32[1, 3, 3] input %b : float32[1, 6] const %l : int32[2] = [2, 3]
        %y, %h = RNN(%x, %w, %r, %b, %l) {hidden_size = 3} output %y })"},
                  {"Resize",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] const %s : float32[4] = [1.0, 1.0, 2.0, 0.6] %y = Resize(%x, _, %s) {mode = "linear"} output %y })"},
                  {"Resize",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] const %s : int64[2] = [6, 3] %y = Resize(%x, _, _, %s) {mode = "cubic", axes = [2, 3]} output %y })"},
                  {"GridSample",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] input %g : float32[1, 3, 3, 2] %y = GridSample(%x, %g) output %y })"},
                  {"AffineGrid",
                   R"(graph "g" { input %t : float32[1, 2, 3] const %s : int64[4] = [1, 2, 3, 4] %y = AffineGrid(%t, %s) output %y })"},
                  {"Col2Im",
                   R"(graph "g" { input %x : float32[1, 8, 9] const %i : int64[2] = [4, 4] const %b : int64[2] = [2, 2] %y = Col2Im(%x, %i, %b) output %y })"},
                  {"QuantizeLinear",
                   R"(graph "g" { input %x : float32[2, 4] input %s : float32[4] input %z : uint8[4] %y = QuantizeLinear(%x, %s, %z) output %y })"},
                  {"DequantizeLinear",
                   R"(graph "g" { input %x : uint8[2, 4] input %s : float32[4] input %z : uint8[4] %y = DequantizeLinear(%x, %s, %z) output %y })"},
                  {"DequantizeLinear",
                   R"(graph "g" { input %x : uint8[2, 4] input %s : float32[2, 2] %y = DequantizeLinear(%x, %s) {block_size = 2} output %y })"},
                  {"NegativeLogLikelihoodLoss",
                   R"(graph "g" { input %x : float32[3, 4] const %t : int64[3] = [0, 3, 1] input %w : float32[4] %y = NegativeLogLikelihoodLoss(%x, %t, %w) output %y })"},
                  {"SoftmaxCrossEntropyLoss",
                   R"(graph "g" { input %x : float32[3, 4, 2] const %t : int64[3, 2] = [0, 3, 1, 1, 1, 1] %y, %l = SoftmaxCrossEntropyLoss(%x, %t) output %y })"},
                  {"Reshape",
                   R"(graph "g" { input %x : float32[2, 3, 4] const %s : int64[3] = [0, -1, 2] %y = Reshape(%x, %s) output %y })"},
                  {"Unsqueeze",
                   R"(graph "g" { input %x : float32[2, 3] const %a : int64[2] = [0, -1] %y = Unsqueeze(%x, %a) output %y })"},
                  {"Squeeze",
                   R"(graph "g" { input %x : float32[2, 1, 3] const %a : int64[1] = [1] %y = Squeeze(%x, %a) output %y })"},
                  {"Transpose",
                   R"(graph "g" { input %x : float32[2, 3, 4] %y = Transpose(%x) {perm = [2, 0, 1]} output %y })"},
                  {"Concat",
                   R"(graph "g" { input %x : float32[2, 3] input %z : float32[2, 4] %y = Concat(%x, %z) {axis = 1} output %y })"},
                  {"Split",
                   R"(graph "g" { input %x : float32[2, 6] const %s : int64[2] = [2, 4] %y, %z = Split(%x, %s) {axis = 1} output %y })"},
                  {"Split",
                   R"(graph "g" { input %x : float32[2, 6] %y, %z = Split(%x) {axis = 1, num_outputs = 2} output %y })"},
                  {"Slice",
                   R"(graph "g" { input %x : float32[4, 6] const %s : int64[2] = [1, -1] const %e : int64[2] = [4, -5] const %a : int64[2] = [0, 1] const %t : int64[2] = [1, -2]
        %y = Slice(%x, %s, %e, %a, %t) output %y })"},
                  {"Expand",
                   R"(graph "g" { input %x : float32[2, 1] const %s : int64[3] = [3, 1, 4] %y = Expand(%x, %s) output %y })"},
                  {"Tile",
                   R"(graph "g" { input %x : float32[2, 3] const %r : int64[2] = [2, 1] %y = Tile(%x, %r) output %y })"},
                  {"Pad",
                   R"(graph "g" { input %x : float32[2, 3] const %p : int64[4] = [0, 1, 1, -1] %y = Pad(%x, %p) {mode = "reflect"} output %y })"},
                  {"Pad",
                   R"(graph "g" { input %x : float32[2, 3] const %p : int64[4] = [0, 1, 1, 1] const %v : float32[] = [1.0] %y = Pad(%x, %p, %v) output %y })"},
                  {"CenterCropPad",
                   R"(graph "g" { input %x : float32[4, 5] const %s : int64[2] = [2, 7] %y = CenterCropPad(%x, %s) output %y })"},
                  {"DepthToSpace",
                   R"(graph "g" { input %x : float32[1, 8, 2, 2] %y = DepthToSpace(%x) {blocksize = 2} output %y })"},
                  {"SpaceToDepth",
                   R"(graph "g" { input %x : float32[1, 2, 4, 4] %y = SpaceToDepth(%x) {blocksize = 2} output %y })"},
                  {"ReverseSequence",
                   R"(graph "g" { input %x : float32[4, 3] const %l : int64[3] = [1, 2, 4] %y = ReverseSequence(%x, %l) output %y })"},
                  {"Gather",
                   R"(graph "g" { input %x : float32[4, 3] const %i : int64[2, 2] = [0, 3, -1, 2] %y = Gather(%x, %i) output %y })"},
                  {"Gather",
                   R"(graph "g" { input %x : float32[4, 3] input %i : int64[2] %y = Gather(%x, %i) {axis = 1} output %y })"},
                  {"GatherElements",
                   R"(graph "g" { input %x : float32[3, 3] const %i : int64[2, 3] = [0, 1, 2, -1, 0, 0] %y = GatherElements(%x, %i) output %y })"},
                  {"GatherND",
                   R"(graph "g" { input %x : float32[3, 3, 2] const %i : int64[2, 2] = [0, 1, 2, -1] %y = GatherND(%x, %i) output %y })"},
                  {"ScatterElements", R"(graph "g" { input %x : float32[3, 3] const %i : int64[2, 3] = [0, 1, 2, -1, 0, 0] input %u : float32[2, 3] %y = ScatterElements(%x, %i, %u) {reduction = "add"} output %y })"},
                  {"ScatterND",
                   R"(graph "g" { input %x : float32[3, 3, 2] const %i : int64[2, 2] = [0, 1, 2, -1] input %u : float32[2, 2] %y = ScatterND(%x, %i, %u) output %y })"},
                  {"TensorScatter",
                   R"(graph "g" { input %x : float32[2, 3, 5, 2] input %u : float32[2, 3, 2, 2] const %i : int64[2] = [0, 3] %y = TensorScatter(%x, %u, %i) output %y })"},
                  {"Compress",
                   R"(graph "g" { input %x : float32[3, 2] input %c : bool[3] %y = Compress(%x, %c) {axis = 0} output %y })"},
                  {"TopK",
                   R"(graph "g" { input %x : float32[3, 5] const %k : int64[1] = [2] %v, %i = TopK(%x, %k) output %v })"},
                  {"NonMaxSuppression",
                   R"(graph "g" { input %b : float32[1, 4, 4] input %s : float32[1, 2, 4] const %m : int64[1] = [3] const %i : float32[] = [0.5] const %t : float32[] = [0.0]
        %y = NonMaxSuppression(%b, %s, %m, %i, %t) output %y })"},
                  {"Range",
                   R"(graph "g" { const %a : int64[] = [0] const %b : int64[] = [10] const %c : int64[] = [3] %y = Range(%a, %b, %c) output %y })"},
                  {"OneHot",
                   R"(graph "g" { input %i : int64[3] const %d : int64[] = [4] const %v : float32[2] = [0.0, 1.0] %y = OneHot(%i, %d, %v) output %y })"},
                  {"ConstantOfShape",
                   R"(graph "g" { const %s : int64[2] = [2, 3] %y = ConstantOfShape(%s) output %y })"},
                  {"CumSum",
                   R"(graph "g" { input %x : float32[3, 4] const %a : int64[] = [1] %y = CumSum(%x, %a) output %y })"},
                  {"ReduceSum",
                   R"(graph "g" { input %x : float32[3, 4, 2] const %a : int64[2] = [1, -1] %y = ReduceSum(%x, %a) output %y })"},
                  {"ReduceMean",
                   R"(graph "g" { input %x : float32[3, 4, 2] const %a : int64[1] = [1] %y = ReduceMean(%x, %a) {keepdims = 0} output %y })"},
                  {"Einsum",
                   R"(graph "g" { input %x : float32[3, 4] input %z : float32[4, 2] %y = Einsum(%x, %z) {equation = "ij,jk->ik"} output %y })"},
                  {"DFT",
                   R"(graph "g" { input %x : float32[1, 5, 1] const %l : int64[] = [4] const %a : int64[] = [1] %y = DFT(%x, %l, %a) output %y })"},
                  {"STFT",
                   R"(graph "g" { input %x : float32[1, 16, 1] const %s : int64[] = [4] input %w : float32[8] const %l : int64[] = [8] %y = STFT(%x, %s, %w, %l) output %y })"},
                  {"HannWindow", R"(graph "g" { const %s : int64[] = [8] %y = HannWindow(%s) output %y })"},
                  {"MelWeightMatrix",
                   R"(graph "g" { const %a : int64[] = [4] const %b : int64[] = [16] const %c : int64[] = [8000] const %d : float32[] = [0.0] const %e : float32[] = [4000.0]
        %y = MelWeightMatrix(%a, %b, %c, %d, %e) output %y })"},
                  {"Det", R"(graph "g" { input %x : float32[2, 3, 3] %y = Det(%x) output %y })"},
                  {"Clip",
                   R"(graph "g" { input %x : float32[2, 3] const %a : float32[] = [0.0] const %b : float32[] = [6.0] %y = Clip(%x, %a, %b) output %y })"},
                  {"Where",
                   R"(graph "g" { input %c : bool[2, 1] input %a : float32[2, 3] input %b : float32[3] %y = Where(%c, %a, %b) output %y })"},
                  {"TfIdfVectorizer",
                   R"(graph "g" { input %x : int32[6] %y = TfIdfVectorizer(%x) {mode = "TF", min_gram_length = 1, max_gram_length = 2, max_skip_count = 0, ngram_counts = [0, 2], ngram_indexes = [0, 1, 2], pool_int64s = [2, 3, 5, 4]} output %y })"},
                  {"If", R"(graph "g" { input %c : bool input %x : float32[2]
        %y = If(%c, %x) {captures = 1, then_branch = graph "t" { input %a : float32[2] %b = Relu(%a) output %b }, else_branch = graph "e" { input %a : float32[2] %b = Neg(%a) output %b }} output %y })"},
                  {"Loop", R"(graph "g" { const %n : int64[] = [3] const %c : bool[] = [1] input %x : float32[2]
        %y, %s = Loop(%n, %c, %x) {body = graph "b" { input %i : int64 input %k : bool input %a : float32[2] %b = Relu(%a) output %k, %b, %b }} output %y })"},
                  {"Scan", R"(graph "g" { input %x : float32[2] input %z : float32[3, 2]
        %y, %s = Scan(%x, %z) {num_scan_inputs = 1, body = graph "b" { input %a : float32[2] input %d : float32[2] %b = Add(%a, %d) output %b, %b }} output %y })"},
                  {"Region",
                   R"(graph "g" { input %x : float32[2, 3] %y = planish.Region(%x) {kind = "pointwise", body = graph "b" { input %a : float32[2, 3] %b = Relu(%a) output %b }} output %y })"},
                  {"Region", R"(graph "g" { input %x : float32[1, 8, 6, 6] const %w : float32[8, 8, 3, 3] = dense<0>
        %y = planish.Region(%x, %w) {kind = "conv", body = graph "b" { input %a : float32[1, 8, 6, 6] input %v : float32[8, 8, 3, 3] %b = Conv(%a, %v) {pads = [1, 1, 1, 1]} %c = Relu(%b) output %c }} output %y })"},
};

}  // namespace

const std::vector<std::string_view>& hostile_seeds(std::string_view op) {
    static const auto table = [] {
        std::map<std::string_view, std::vector<std::string_view>> result;
        for (const auto& [name, text] : kSeeds) result[name].push_back(text);
        return result;
    }();
    static const std::vector<std::string_view> none;
    const auto it = table.find(op);
    return it == table.end() ? none : it->second;
}

const std::vector<std::string_view>& hostile_bodies() {
    static const std::vector<std::string_view> bodies = {
        R"(graph "none" { })",
        R"(graph "in" { input %a : float32[2] })",
        R"(graph "same" { input %a : float32[2] output %a })",
        R"(graph "relu" { input %a : float32[2, 3] %b = Relu(%a) output %b })",
        R"(graph "constant" { const %a : float32[1] = [1.0] output %a })",
        R"(graph "two" { input %a : float32[2] input %b : float32[3] output %b, %a })",
        R"(graph "conv" { input %a : float32[1, 2, 3, 3] input %b : float32[2, 2, 3, 3] %c = Conv(%a, %b) output %c })",
        R"(graph "loop" { input %i : int64 input %k : bool input %a : float32[2] output %k, %a, %i })",
        R"(graph "loop" { input %i : int64 input %k : float32 input %a : float32[2] output %k, %a })",
        R"(graph "grow" { input %i : int64 input %k : bool input %a : float32[2] const %n : bool[] = [0] %b = Concat(%a, %a) {axis = 0} output %n, %b })",
        R"(graph "words" { input %a : string[2] %b = StringConcat(%a, %a) output %b })"};
    return bodies;
}

}  // namespace planish
