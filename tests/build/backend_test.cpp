// The CPU backend against the reference: small graphs, every implementation, both instruction sets, several threads.
#include "backends/backend.hpp"

#include <gtest/gtest.h>

#include <array>

#include "backends/cpu/isa.hpp"
#include "build/verify.hpp"
#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

struct Case {
    const char* name;
    const char* text;
    const char* implementation;              // prefix that must appear among the steps
    std::vector<std::string> disabled = {};  // what would be taken before it
};

// Weights are written as dense<...>, which parses as zeros: fill() makes them random.
const Case kCases[] = {
    {"conv_relu_residual", R"(graph "g" { input %x : float32[2, 5, 9, 7] const %w : float32[5, 5, 3, 3] = dense<0>
        const %b : float32[5] = dense<0>
        %y = Conv(%x, %w, %b) {pads = [1, 1, 1, 1]} %r = Relu(%y) %z = Add(%r, %x) output %z })",
     "conv_f32"},
    {"conv_to_one_channel", R"(graph "g" { input %x : float32[1, 3, 5, 6] const %w : float32[1, 3, 3, 3] = dense<0>
        const %b : float32[1] = dense<0> %y = Conv(%x, %w, %b) %z = Sigmoid(%y) output %z })",
     "conv_f32"},
    {"pointwise_conv_split_k", R"(graph "g" { input %x : float32[1, 700, 5, 3] input %s : float32[1, 33, 5, 3]
        const %w : float32[33, 700, 1, 1] = dense<0> %y = Conv(%x, %w) %z = Add(%s, %y) output %z })",
     "conv_f32_1x1"},
    {"depthwise_clip", R"(graph "g" { input %x : float32[2, 19, 8, 11] const %w : float32[19, 1, 3, 3] = dense<0>
        const %lo : float32[] = [0.0] const %hi : float32[] = [6.0]
        %y = Conv(%x, %w) {group = 19, strides = [2, 2], pads = [1, 1, 1, 1]} %z = Clip(%y, %lo, %hi) output %z })",
     "depthwise_f32"},
    {"inverted_residual", R"(graph "g" { input %x : float32[2, 8, 40, 40] const %w1 : float32[96, 8, 1, 1] = dense<0>
        const %b1 : float32[96] = dense<0> const %w2 : float32[96, 1, 3, 3] = dense<0> const %w3 : float32[8, 96, 1, 1] = dense<0>
        const %lo : float32[] = [0.0] const %hi : float32[] = [6.0]
        %e = Conv(%x, %w1, %b1) %f = Clip(%e, %lo, %hi) %d = Conv(%f, %w2) {group = 96, pads = [1, 1, 1, 1]}
        %g = Relu(%d) %p = Conv(%g, %w3) %z = Add(%x, %p) output %z })",
     "chain_f32_1x1_dw3x3_1x1"},
    {"stem_and_depthwise", R"(graph "g" { input %x : float32[1, 3, 128, 128] const %w1 : float32[72, 3, 3, 3] = dense<0>
        const %w2 : float32[72, 1, 3, 3] = dense<0>
        %e = Conv(%x, %w1) {strides = [2, 2], pads = [1, 1, 1, 1]} %s = Sigmoid(%e)
        %d = Conv(%s, %w2) {group = 72, strides = [2, 2], pads = [1, 1, 1, 1]} output %d })",
     "chain_f32_3x3_dw3x3"},
    {"grouped_conv", R"(graph "g" { input %x : float32[1, 8, 6, 6] const %w : float32[12, 4, 3, 3] = dense<0>
        %y = Conv(%x, %w) {group = 2, dilations = [2, 2], pads = [2, 2, 2, 2]} output %y })",
     "conv_f32_3x3"},
    {"conv_1d", R"(graph "g" { input %x : float32[2, 6, 20] const %w : float32[7, 6, 5] = dense<0>
        %y = Conv(%x, %w) {auto_pad = "SAME_UPPER", strides = [2]} output %y })",
     "conv_f32"},
    {"conv_transpose", R"(graph "g" { input %x : float32[1, 6, 5, 4] const %w : float32[6, 3, 2, 2] = dense<0>
        const %b : float32[3] = dense<0> %y = ConvTranspose(%x, %w, %b) {strides = [2, 2]} %z = Sigmoid(%y) output %z })",
     "conv_transpose_f32"},
    {"squeeze_excite", R"(graph "g" { input %x : float32[1, 16, 6, 6] const %w : float32[16, 16, 1, 1] = dense<0>
        %p = GlobalAveragePool(%x) %q = Conv(%p, %w) %s = HardSigmoid(%q) %y = Mul(%x, %s) output %y })",
     "pointwise_f32"},
    {"gemm_bias",
     R"(graph "g" { input %x : float32[3, 40] const %w : float32[70, 40] = dense<0> const %b : float32[70] = dense<0>
        %y = Gemm(%x, %w, %b) {transB = 1, alpha = 0.5} %z = Tanh(%y) output %z })",
     "gemm_f32"},
    {"gemm_to_one_column",
     R"(graph "g" { input %x : float32[3, 40] const %w : float32[40, 1] = dense<0> const %b : float32[1] = dense<0>
        %y = Gemm(%x, %w, %b) %z = Sigmoid(%y) output %z })",
     "gemm_f32"},
    {"linear_gelu_residual",
     R"(graph "g" { input %x : float32[2, 5, 24] const %w : float32[24, 24] = dense<0> const %b : float32[24] = dense<0>
        %y = MatMul(%x, %w) %a = Add(%b, %y) %g = Gelu(%a) %z = Add(%x, %g) output %z })",
     "gemm_f32"},
    {"linear_residual_split_k", R"(graph "g" { input %x : float32[1, 197, 3072] input %r : float32[1, 197, 768]
        const %w : float32[3072, 768] = dense<0> const %b : float32[768] = dense<0> %i = Relu(%r) %y = MatMul(%x, %w)
        %a = Add(%b, %y) %z = Add(%i, %a) output %z })",
     "gemm_f32"},
    {"linear_in_halves",
     R"(graph "g" { input %x : float32[1, 67, 1600] input %r : float32[1, 67, 300]
        const %w : float32[1600, 300] = dense<0> const %b : float32[300] = dense<0> %y = MatMul(%x, %w)
        %a = Add(%b, %y) %s = Add(%r, %a) %z = Gelu(%s) output %z })",
     "gemm_f32_strassen",
     {"gemm_jit", "batched_gemm_jit"}},
    {"pixels_in_halves",
     R"(graph "g" { input %x : float32[2, 160, 7, 9] input %r : float32[2, 200, 7, 9]
        const %w : float32[200, 160, 1, 1] = dense<0> const %b : float32[200] = dense<0> %c = Conv(%x, %w, %b)
        %a = Add(%r, %c) %y = Relu(%a) output %y })",
     "conv_f32_strassen",
     {"conv_jit"}},
    {"batched_matmul",
     R"(graph "g" { input %a : float32[2, 3, 7, 9] input %b : float32[1, 3, 9, 5] %y = MatMul(%a, %b) output %y })",
     "batched_gemm_f32"},
    {"softmax_axis_1", R"(graph "g" { input %x : float32[3, 11, 4] %y = Softmax(%x) {axis = 1} output %y })",
     "softmax_f32"},
    {"layer_norm",
     R"(graph "g" { input %x : float32[6, 33] const %s : float32[33] = dense<0> const %b : float32[33] = dense<0>
        %y = LayerNormalization(%x, %s, %b) output %y })",
     "layer_norm_f32"},
    {"instance_norm",
     R"(graph "g" { input %x : float32[2, 5, 4, 3] const %s : float32[5] = dense<0> const %b : float32[5] = dense<0>
        %y = InstanceNormalization(%x, %s, %b) output %y })",
     "group_norm_f32"},
    {"reduce_spatial",
     R"(graph "g" { input %x : float32[2, 5, 4, 3] const %a : int64[2] = [2, 3] %y = ReduceMean(%x, %a) {keepdims = 0} output %y })",
     "reduce_f32"},
    {"reduce_after_conv",
     R"(graph "g" { input %x : float32[1, 5, 4, 3] const %w : float32[6, 5, 1, 1] = dense<0> const %a : int64[1] = [1]
        %c = Conv(%x, %w) %y = ReduceMax(%c, %a) {keepdims = 0} output %y })",
     "reduce_f32"},
    {"reduce_expression",
     R"(graph "g" { input %x : float32[2, 3, 50, 7] input %m : float32[3, 1, 7] input %k : int64[1, 1, 50, 1] const %a : int64[2] = [2, 3]
        const %c : float32[] = [0.5] %f = Cast(%k) {to = 1} %d = Sub(%x, %m) %e = Mul(%d, %d) %g = Mul(%e, %f) %h = Add(%g, %c)
        %y = ReduceMean(%h, %a) {keepdims = 0} output %y })",
     "pointwise_reduce_f32"},
    {"reduce_long_rows",
     R"(graph "g" { input %x : float32[3, 20001] input %m : float32[3, 1] const %a : int64[1] = [1]
        %d = Sub(%x, %m) %e = Abs(%d) %y = ReduceMax(%e, %a) output %y })",
     "pointwise_reduce_f32"},
    {"reduce_channels_of_images",
     R"(graph "g" { input %x : float32[1, 5, 4, 3] const %w : float32[6, 5, 1, 1] = dense<0> const %a : int64[1] = [1]
        %c = Conv(%x, %w) %s = Sigmoid(%c) %p = MaxPool(%s) {kernel_shape = [2, 2]} %e = Exp(%p) %n = Neg(%e) %y = ReduceSum(%n, %a) output %y })",
     "pointwise_reduce_f32"},
    {"max_pool",
     R"(graph "g" { input %x : float32[1, 5, 9, 8] %y = MaxPool(%x) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1} output %y })",
     "max_pool_f32"},
    {"average_pool",
     R"(graph "g" { input %x : float32[1, 5, 9, 8] %y = AveragePool(%x) {kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]} output %y })",
     "average_pool_f32"},
    {"resize_linear", R"(graph "g" { input %x : float32[1, 3, 4, 5] const %s : float32[4] = [1.0, 1.0, 2.0, 1.6]
        %y = Resize(%x, _, %s) {mode = "linear"} output %y })",
     "resize_f32"},
    {"movement",
     R"(graph "g" { input %x : float32[2, 6, 4, 5] const %starts : int64[2] = [1, -1] const %ends : int64[2] = [5, -9]
        const %axes : int64[2] = [1, 3] const %steps : int64[2] = [2, -2] const %pads : int64[8] = [0, 1, 0, 2, 0, 0, 1, 1]
        %s = Slice(%x, %starts, %ends, %axes, %steps) %p = Pad(%s, %pads) %t = Transpose(%p) {perm = [0, 2, 3, 1]}
        %u, %v = Split(%t) {axis = 2, num_outputs = 2} %c = Concat(%v, %u) {axis = 1} output %c })",
     "concat"},
    {"gather_expand",
     R"(graph "g" { input %i : int64[3] const %t : float32[2, 5] = dense<0> const %s : int64[3] = [4, 3, 5]
        %e = Gather(%t, %i) %y = Expand(%e, %s) output %y })",
     "gather"},
    {"channels_last_chain",
     R"(graph "g" { input %x : float32[1, 8, 5, 5] const %w : float32[8, 8, 3, 3] = dense<0> const %s : float32[8] = dense<0>
        %a = Conv(%x, %w) {pads = [1, 1, 1, 1]} %t = Transpose(%a) {perm = [0, 2, 3, 1]} %n = LayerNormalization(%t, %s)
        %u = Transpose(%n) {perm = [0, 3, 1, 2]} %b = Conv(%u, %w) {pads = [1, 1, 1, 1]} %c = Concat(%a, %b) {axis = 1} output %c })",
     "layer_norm_f32"},
    {"pointwise_mixed", R"(graph "g" { input %x : float32[2, 3, 4] input %m : bool[1, 3, 4] input %k : int64[4]
        const %z : float32[] = [-2.5] %f = Cast(%k) {to = 1} %a = Add(%x, %f) %w = Where(%m, %a, %z) %e = Exp(%w) %l = Less(%e, %x) output %e, %l })",
     "pointwise_f32"},
    {"quantize",
     R"(graph "g" { input %x : float32[2, 5, 7] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        %q = QuantizeLinear(%x, %s, %z) output %q })",
     "quantize_i8"},
    {"dequantize",
     R"(graph "g" { input %x : uint8[2, 5, 7] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        %r = DequantizeLinear(%x, %s, %z) output %r })",
     "dequantize_i8"},
    {"quantized_sum",
     R"(graph "g" { input %x : float32[2, 5, 3, 7] input %y : float32[5, 1, 1] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %t : float32[] = [0.03]
        %q = QuantizeLinear(%x, %s, %z) %r = QuantizeLinear(%y, %t) %a = DequantizeLinear(%q, %s, %z) %b = DequantizeLinear(%r, %t)
        %c = Add(%a, %b) %d = Sigmoid(%c) %e = QuantizeLinear(%d, %s) output %e })",
     "pointwise_i8"},
    {"quantized_depthwise",
     R"(graph "g" { input %x : float32[2, 24, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113] const %t : float32[] = [0.5]
        const %w : int8[24, 1, 3, 3] = dense<0> const %ws : float32[24] = dense<0> const %b : float32[24] = dense<0>
        const %lo : float32[] = [0.0] const %hi : float32[] = [6.0]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 0}
        %y = Conv(%a, %wf, %b) {group = 24, pads = [1, 1, 1, 1], strides = [2, 2]} %c = Clip(%y, %lo, %hi)
        %e = QuantizeLinear(%c, %t) output %e })",
     "depthwise_i8_3x3s2"},
    {"quantized_depthwise_to_floats",
     R"(graph "g" { input %x : float32[1, 40, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %w : int8[40, 1, 5, 5] = dense<0> const %ws : float32[] = [0.01] const %b : float32[40] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws)
        %y = Conv(%a, %wf, %b) {group = 40, pads = [2, 2, 2, 2]} %c = HardSwish(%y) %d = Add(%c, %x) output %d })",
     "depthwise_i8_5x5s1"},
    {"quantized_conv",
     R"(graph "g" { input %x : float32[2, 5, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113] const %t : float32[] = [0.05]
        const %w : int8[24, 5, 3, 3] = dense<0> const %ws : float32[24] = dense<0> const %b : float32[24] = dense<0>
        const %lo : float32[] = [0.0] const %hi : float32[] = [6.0]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 0}
        %y = Conv(%a, %wf, %b) {pads = [1, 1, 1, 1], strides = [2, 2]} %c = Clip(%y, %lo, %hi)
        %e = QuantizeLinear(%c, %t) output %e })",
     "conv_i8_u8_3x3"},
    {"quantized_stem",
     R"(graph "g" { input %x : float32[1, 3, 19, 17] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %w : int8[32, 3, 3, 3] = dense<0> const %ws : float32[] = [0.01]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws)
        %y = Conv(%a, %wf) {pads = [1, 1, 1, 1], strides = [2, 2]} %c = HardSwish(%y) output %c })",
     "conv_i8_f32_3x3"},
    {"quantized_inverted_residual",
     R"(graph "g" { input %x : float32[2, 16, 7, 9] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %t : float32[] = [0.04] const %u : float32[] = [0.06] const %v : uint8[] = [90]
        const %w1 : int8[72, 16, 1, 1] = dense<0> const %s1 : float32[72] = dense<0> const %b1 : float32[72] = dense<0>
        const %w2 : int8[16, 72, 1, 1] = dense<0> const %s2 : float32[16] = dense<0> const %b2 : float32[16] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %f1 = DequantizeLinear(%w1, %s1) {axis = 0}
        %c = Conv(%a, %f1, %b1) %d = Relu(%c) %e = QuantizeLinear(%d, %t) %f = DequantizeLinear(%e, %t)
        %f2 = DequantizeLinear(%w2, %s2) {axis = 0} %g = Conv(%f, %f2, %b2) %h = Add(%a, %g)
        %i = QuantizeLinear(%h, %u, %v) output %i })",
     "conv_i8_u8_1x1"},
    {"quantized_groups",
     R"(graph "g" { input %x : float32[1, 8, 6, 6] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %w : int8[12, 4, 3, 3] = dense<0> const %ws : float32[12] = dense<0> const %b : float32[12] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 0}
        %y = Conv(%a, %wf, %b) {group = 2, dilations = [2, 2], pads = [2, 2, 2, 2]} output %y })",
     "conv_i8_f32_3x3"},
    {"quantized_gemm",
     R"(graph "g" { input %x : float32[3, 42] const %s : float32[] = [0.02] const %z : uint8[] = [113] const %t : float32[] = [0.01]
        const %w : int8[70, 42] = dense<0> const %ws : float32[70] = dense<0> const %b : float32[70] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 0}
        %y = Gemm(%a, %wf, %b) {transB = 1, alpha = 0.5} %c = Sigmoid(%y) %e = QuantizeLinear(%c, %t) output %e })",
     "gemm_i8_u8"},
    {"quantized_linear_gelu_residual",
     R"(graph "g" { input %x : float32[2, 5, 24] input %r : float32[2, 5, 40] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %t : float32[] = [0.03] const %v : uint8[] = [120]
        const %w : int8[24, 40] = dense<0> const %ws : float32[40] = dense<0> const %b : float32[40] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 1}
        %y = MatMul(%a, %wf) %c = Add(%b, %y) %g = Gelu(%c) %d = Add(%r, %g) %e = QuantizeLinear(%d, %t, %v) output %e })",
     "gemm_i8_u8"},
    {"quantized_linear_to_floats",
     R"(graph "g" { input %x : float32[1, 67, 768] input %r : float32[1, 67, 300] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %w : int8[768, 300] = dense<0> const %ws : float32[300] = dense<0> const %b : float32[300] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 1}
        %i = Relu(%r) %y = MatMul(%a, %wf) %c = Add(%b, %y) %d = Add(%i, %c) output %d })",
     "gemm_i8_f32"},
    {"dynamic_quantize",
     R"(graph "g" { input %x : float32[3, 70, 131] %q, %s, %z = DynamicQuantizeLinear(%x) output %q, %s, %z })",
     "dynamic_quantize_i8"},
    {"dynamic_dequantize",
     R"(graph "g" { input %x : float32[3, 70, 9] %q, %s, %z = DynamicQuantizeLinear(%x)
        %a = DequantizeLinear(%q, %s, %z) %y = Relu(%a) output %y })",
     "dynamic_dequantize_i8"},
    {"dynamic_linear",
     R"(graph "g" { input %x : float32[2, 9, 42] input %r : float32[2, 9, 70]
        const %w : int8[42, 70] = dense<0> const %ws : float32[70] = dense<0> const %b : float32[70] = dense<0>
        %q, %s, %z = DynamicQuantizeLinear(%x) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 1}
        %y = MatMul(%a, %wf) %c = Add(%y, %b) %g = Gelu(%c) %d = Add(%g, %r) output %d })",
     "gemm_i8_f32"},
    {"dynamic_linear_to_bytes",
     R"(graph "g" { input %x : float32[5, 42] const %w : int8[70, 42] = dense<0> const %ws : float32[] = [0.01] const %t : float32[] = [0.02]
        const %v : uint8[] = [120] %q, %s, %z = DynamicQuantizeLinear(%x) %a = DequantizeLinear(%q, %s, %z)
        %wf = DequantizeLinear(%w, %ws) %y = Gemm(%a, %wf) {transB = 1, alpha = 0.5} %e = QuantizeLinear(%y, %t, %v) output %e })",
     "gemm_i8_u8"},
    {"dynamic_conv",
     R"(graph "g" { input %x : float32[2, 8, 9, 8] const %w : int8[24, 8, 3, 3] = dense<0> const %ws : float32[24] = dense<0>
        const %b : float32[24] = dense<0> %q, %s, %z = DynamicQuantizeLinear(%x) %a = DequantizeLinear(%q, %s, %z)
        %wf = DequantizeLinear(%w, %ws) {axis = 0} %y = Conv(%a, %wf, %b) {pads = [1, 1, 1, 1]} %c = Relu(%y) output %c })",
     "conv_i8_f32_3x3"},
    {"dynamic_depthwise",
     R"(graph "g" { input %x : float32[1, 24, 9, 8] const %w : int8[24, 1, 3, 3] = dense<0> const %ws : float32[24] = dense<0>
        %q, %s, %z = DynamicQuantizeLinear(%x) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws) {axis = 0}
        %y = Conv(%a, %wf) {group = 24, pads = [1, 1, 1, 1]} output %y })",
     "conv_i8_f32_3x3"},
    {"weights_of_4_bits",
     R"(graph "g" { input %x : float32[1, 3, 96] input %r : float32[1, 3, 70] const %w : uint4[96, 70] = dense<0>
        const %ws : float32[3, 70] = dense<0> const %wz : uint4[3, 70] = dense<0> const %b : float32[70] = dense<0>
        %wf = DequantizeLinear(%w, %ws, %wz) {axis = 0, block_size = 32} %y = MatMul(%x, %wf) %c = Add(%y, %b)
        %g = Gelu(%c) %d = Sub(%r, %g) output %d })",
     "gemv_f32_w4_block32"},
    {"weights_of_4_bits_many_rows",
     R"(graph "g" { input %x : float32[37, 96] input %r : float32[37, 150] const %w : int4[150, 96] = dense<0>
        const %ws : float32[150, 6] = dense<0> const %b : float32[150] = dense<0>
        %wf = DequantizeLinear(%w, %ws) {axis = 1, block_size = 16} %y = Gemm(%x, %wf, %b) {transB = 1, alpha = 0.5}
        %g = Gelu(%y) %d = Add(%r, %g) output %d })",
     "gemm_f32_w4_block16"},
    {"weights_of_4_bits_cut_off_block",
     R"(graph "g" { input %x : float32[2, 90] const %w : int4[90, 24] = dense<0> const %ws : float32[3, 24] = dense<0>
        const %wz : int4[3, 24] = dense<0> %wf = DequantizeLinear(%w, %ws, %wz) {axis = 0, block_size = 32}
        %y = MatMul(%x, %wf) output %y })",
     "gemv_f32_w4_block32"},
    {"weights_of_8_bits",
     R"(graph "g" { input %x : float32[1, 90] const %w : int8[90, 24] = dense<0> const %ws : float32[24] = dense<0>
        %wf = DequantizeLinear(%w, %ws) {axis = 1} %y = MatMul(%x, %wf) %c = Sigmoid(%y) output %c })",
     "gemv_f32_w8_avx"},
    {"weights_of_8_bits_many_rows",
     R"(graph "g" { input %x : float32[20, 90] const %w : uint8[90, 24] = dense<0> const %ws : float32[] = [0.01]
        const %wz : uint8[] = [100] %wf = DequantizeLinear(%w, %ws, %wz) %y = MatMul(%x, %wf) output %y })",
     "gemm_f32"},
    {"quantized_depthwise_residual",
     R"(graph "g" { input %x : float32[1, 40, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %w : int8[40, 1, 3, 3] = dense<0> const %ws : float32[] = [0.01]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws)
        %y = Conv(%a, %wf) {group = 40, pads = [1, 1, 1, 1]} %d = Add(%y, %a) %e = QuantizeLinear(%d, %s, %z) output %e })",
     "depthwise_i8_3x3s1"},
    {"byte_max_pool",
     R"(graph "g" { input %x : float32[2, 70, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z)
        %p = MaxPool(%a) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]} %r = DequantizeLinear(%q, %s, %z) output %p, %r })",
     "max_pool_u8"},
    {"byte_average_pool",
     R"(graph "g" { input %x : float32[2, 21, 9, 8] const %s : float32[] = [0.02] const %z : uint8[] = [113] const %t : float32[] = [0.004]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z)
        %p = AveragePool(%a) {kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1}
        %y = QuantizeLinear(%p, %t, %z) output %y })",
     "average_pool_i8"},
    {"byte_global_pool",
     R"(graph "g" { input %x : float32[2, 70, 7, 5] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %axes : int64[2] = [2, 3] %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z)
        %p = ReduceMean(%a, %axes) {keepdims = 0} output %p })",
     "average_pool_i8"},
    {"quantized_layer_norm",
     R"(graph "g" { input %x : float32[3, 5, 37] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %g : float32[37] = dense<0> const %b : float32[37] = dense<0>
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %n = LayerNormalization(%a, %g, %b)
        %y = QuantizeLinear(%n, %s, %z) output %y })",
     "layer_norm_i8"},
    {"quantized_layer_norm_of_bytes",
     R"(graph "g" { input %x : float32[3, 5, 37] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %g : int8[37] = dense<0> const %b : int8[37] = dense<0> const %t : float32[] = [0.01] const %gz : int8[] = [-7]
        %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %gf = DequantizeLinear(%g, %t, %gz)
        %bf = DequantizeLinear(%b, %t) %n = LayerNormalization(%a, %gf, %bf) %y = QuantizeLinear(%n, %s, %z) output %y })",
     "layer_norm_i8"},
    {"quantized_softmax",
     R"(graph "g" { input %x : float32[3, 5, 37] const %s : float32[] = [0.004] %n = Softmax(%x) {axis = -1}
        %y = QuantizeLinear(%n, %s) output %y })",
     "softmax_i8"},
    {"byte_resize",
     R"(graph "g" { input %x : float32[2, 21, 5, 6] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        const %f : float32[4] = [1.0, 1.0, 2.0, 1.5] %q = QuantizeLinear(%x, %s, %z)
        %y = Resize(%q, _, %f) {mode = "nearest"} output %y })",
     "resize_8bit"},
    {"byte_movement",
     R"(graph "g" { input %x : float32[2, 38, 9, 23] const %s : float32[] = [0.02] const %z : uint8[] = [113]
        %q = QuantizeLinear(%x, %s, %z) %t = Transpose(%q) {perm = [0, 2, 3, 1]} %c = Concat(%t, %t) {axis = 3} output %c })",
     "transpose_8bit"},
    {"attention",
     R"(graph "g" { input %q : float32[2, 7, 24] input %k : float32[2, 9, 24] input %v : float32[2, 9, 24] input %m : float32[2, 1, 1, 9]
        %y = Attention(%q, %k, %v, %m) {q_num_heads = 3, kv_num_heads = 3} output %y })",
     "attention_f32"},
    {"attention_of_columns",
     R"(graph "g" { input %x : float32[2, 7, 5] input %m : float32[2, 1, 1, 7] const %wq : float32[5, 24] = dense<0>
        const %wk : float32[5, 24] = dense<0> const %wv : float32[5, 24] = dense<0> %q = MatMul(%x, %wq) %k = MatMul(%x, %wk)
        %v = MatMul(%x, %wv) %y = Attention(%q, %k, %v, %m) {q_num_heads = 3, kv_num_heads = 3} output %y })",
     "attention_f32"},
};

void fill(Graph& graph) {
    uint32_t state = 1;
    for (Value* value : graph.values()) {
        if (!value->is_constant()) continue;
        const Tensor& old = *value->constant;
        if (value->type.dtype == DType::i8 && old.size() > 1) {
            Tensor filled = old.clone();
            for (int8_t& v : filled.data<int8_t>()) {
                state = state * 1664525 + 1013904223;
                v = static_cast<int8_t>(static_cast<int>(state >> 8) % 255 - 127);
            }
            value->constant = std::make_shared<const Tensor>(std::move(filled));
        }
        if (value->type.dtype != DType::f32) continue;
        bool zeros = old.size() > 0;
        for (const float v : old.data<float>()) zeros = zeros && v == 0;
        if (!zeros || old.size() == 1) continue;
        Tensor filled = old.clone();
        for (float& v : filled.data<float>()) {
            state = state * 1664525 + 1013904223;
            v = static_cast<float>(state >> 8) / (1 << 23) - 1;
        }
        value->constant = std::make_shared<const Tensor>(std::move(filled));
    }
}

using Parameter = std::tuple<Case, std::string, int>;
class CpuBackend : public testing::TestWithParam<Parameter> {};

TEST_P(CpuBackend, EveryRegionWithinTolerance) {
    const auto& [test, target, threads] = GetParam();
    if (cpu::detect_isa() < *cpu::parse_isa(target.substr(4))) return;  // the machine's own set is tested in its place
    auto graph = parse_graph(test.text);
    fill(*graph);
    passes::run(*graph, passes::portable_pipeline());
    std::vector<Dims> shapes;
    for (const Value* input : graph->inputs()) shapes.push_back(input->dims());
    auto specialised = passes::specialise(*graph, shapes);
    const std::vector<Tensor> inputs = verification::random_inputs(*specialised, 3);
    CompileOptions options;
    options.target = target;
    options.threads = threads;
    options.disabled = test.disabled;
    const auto program = cpu_backend().compile(std::move(specialised), options);
    std::string listed;
    bool found = false;
    for (const StepInfo& step : program->steps()) {
        listed += step.op + " by " + step.implementation + "\n";
        found = found || step.implementation.starts_with(test.implementation);
        EXPECT_FALSE(step.implementation.starts_with("reference.")) << step.name;
    }
    EXPECT_TRUE(found) << "expected " << test.implementation << " among\n" << listed;
    std::vector<Tensor> first, second;
    for (const VerificationRow& row : verification::verify_regions(*program, inputs, threads, &first))
        EXPECT_TRUE(row.passed) << row.name << " by " << row.implementation << ": " << row.error << " > "
                                << row.tolerance << " " << row.note;
    verification::verify_regions(*program, inputs, 1, &second);
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(identical(first[i], second[i])) << "differs between runs";
}

INSTANTIATE_TEST_SUITE_P(All, CpuBackend,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Values("cpu:avx2", "cpu:avx512", "cpu:avx512-vnni"),
                                          testing::Values(1, 3)),
                         [](const auto& info) {
                             std::string target = std::get<1>(info.param).substr(4);
                             std::replace(target.begin(), target.end(), '-', '_');
                             return std::string(std::get<0>(info.param).name) + "_" + target + "_threads" +
                                    std::to_string(std::get<2>(info.param));
                         });

// An engine packs weights once and compiles a program for each shape that it meets: what one of them packed, all others
// must be able to read.
TEST(CpuProgram, AllShapesShareWhatOneOfThemPacked) {
    const auto quantized = [](int kernel, int channels, int group, int stride) {
        const std::string k = std::to_string(kernel), c = std::to_string(channels), pad = std::to_string(kernel / 2);
        return R"(graph "g" { input %x : float32[n, )" + c + R"(, h, w] const %s : float32[] = [0.02]
            const %z : uint8[] = [113] const %t : float32[] = [0.5] const %w : int8[)" +
               c + ", " + std::to_string(channels / group) + ", " + k + ", " + k +
               R"(] = dense<0> const %ws : float32[] = [0.01]
            %q = QuantizeLinear(%x, %s, %z) %a = DequantizeLinear(%q, %s, %z) %wf = DequantizeLinear(%w, %ws)
            %y = Conv(%a, %wf) {group = )" +
               std::to_string(group) + ", pads = [" + pad + ", " + pad + ", " + pad + ", " + pad + "], strides = [" +
               std::to_string(stride) + ", " + std::to_string(stride) +
               R"(]} %c = HardSwish(%y) %e = QuantizeLinear(%c, %t) output %e })";
    };
    const std::vector<std::string> texts = {
        quantized(3, 40, 40, 1),
        quantized(5, 72, 72, 1),
        quantized(5, 100, 100, 2),
        quantized(7, 40, 40, 1),
        quantized(3, 24, 1, 1),
        quantized(1, 24, 1, 1),
        R"(graph "g" { input %x : float32[n, 40, h, w] const %w : float32[40, 1, 5, 5] = dense<0>
           %y = Conv(%x, %w) {group = 40, pads = [2, 2, 2, 2]} %z = Relu(%y) output %z })",
        R"(graph "g" { input %x : float32[n, 32, h, w] const %w : float32[48, 32, 3, 3] = dense<0>
           %y = Conv(%x, %w) {pads = [1, 1, 1, 1]} %z = Relu(%y) output %z })",
        R"(graph "g" { input %x : float32[n, 8, h, w] const %w1 : float32[96, 8, 1, 1] = dense<0>
           const %w2 : float32[96, 1, 3, 3] = dense<0> const %w3 : float32[8, 96, 1, 1] = dense<0>
           %e = Conv(%x, %w1) %f = Relu(%e) %d = Conv(%f, %w2) {group = 96, pads = [1, 1, 1, 1]}
           %g = Relu(%d) %p = Conv(%g, %w3) output %p })",
        R"(graph "g" { input %x : float32[n, h, w, 48] const %w : float32[48, 70] = dense<0>
           %y = MatMul(%x, %w) output %y })",
    };
    for (const std::string& text : texts) {
        auto graph = parse_graph(text);
        fill(*graph);
        passes::run(*graph, passes::portable_pipeline());
        PackedStore store;
        const auto shape = *graph->inputs()[0]->type.shape;
        const bool images = !shape[3].is_constant();
        for (const auto [n, h, w] : {std::array<int64_t, 3>{1, 8, 8},
                                     {1, 4, 4},
                                     {1, 3, 80},
                                     {2, 1, 1},
                                     {1, 2, 37},
                                     {1, 64, 3},
                                     {3, 5, 17},
                                     {1, 40, 40}}) {
            const Dims dims = images ? Dims{n, *shape[1].value(), h, w} : Dims{n, h, w, 48};
            auto specialised = passes::specialise(*graph, {{dims}});
            const std::vector<Tensor> inputs = verification::random_inputs(*specialised, 3);
            CompileOptions options;
            options.packed = &store;
            const auto program = cpu_backend().compile(std::move(specialised), options);
            for (const VerificationRow& row : verification::verify_regions(*program, inputs, 1))
                EXPECT_TRUE(row.passed) << row.implementation << " on " << n << "x" << h << "x" << w << ": "
                                        << row.error << " > " << row.tolerance << " in " << text;
        }
    }
}

// A program that computes something else must be caught, and the region named.
TEST(Verification, CatchesAWrongRegion) {
    class Liar final : public Program {
      public:
        Liar(std::unique_ptr<Program> honest, bool lies) : honest_(std::move(honest)), lies_(lies) {}
        std::span<const Port> inputs() const override { return honest_->inputs(); }
        std::span<const Port> outputs() const override { return honest_->outputs(); }
        int64_t arena_bytes() const override { return honest_->arena_bytes(); }
        int64_t constant_bytes() const override { return 0; }
        std::vector<StepInfo> steps() const override {
            std::vector<StepInfo> steps = honest_->steps();
            for (StepInfo& step : steps) step.implementation = "kernel";  // the interpreter's results are not compared
            return steps;
        }
        std::vector<RegionInfo> regions() const override { return honest_->regions(); }
        std::vector<std::string> ignored_tactics() const override { return {}; }
        void run(std::span<const void* const> in, std::span<void* const> out, std::byte* arena, int n) const override {
            honest_->run(in, out, arena, n);
        }
        void run_observed(std::span<const void* const> in, std::span<void* const> out, std::byte* arena, int n,
                          const StepObserver& observer) const override {
            StepObserver wrapped = observer;
            wrapped.after = [&](int step, const Node& region, const ValueReader& values) {
                struct Wrong final : ValueReader {
                    const ValueReader& real;
                    bool lies;
                    Wrong(const ValueReader& r, bool l) : real(r), lies(l) {}
                    Tensor read(const Value& value) const override {
                        Tensor t = real.read(value);
                        if (!lies) return t;
                        if (t.dtype() != DType::f32)
                            t.data<uint8_t>()[1] += 1;
                        else
                            t.data<float>()[1] *= 1 + 1e-4f;
                        return t;
                    }
                };
                observer.after(step, region, Wrong(values, lies_));
            };
            honest_->run_observed(in, out, arena, n, wrapped);
        }
        void run_profiled(std::span<const void* const> in, std::span<void* const> out, std::byte* arena, int n,
                          std::span<Timeline> timelines) const override {
            honest_->run_profiled(in, out, arena, n, timelines);
        }

      private:
        std::unique_ptr<Program> honest_;
        bool lies_;
    };
    for (const char* text :
         {R"(graph "g" { input %x : float32[4, 8] %y = Softmax(%x) name "attention_weights" output %y })",
          R"(graph "g" { input %x : float32[4, 8] const %s : float32[] = [0.04]
             %y = QuantizeLinear(%x, %s) name "attention_weights" output %y })",
          R"(graph "g" { input %x : float32[4, 8] const %s : float32[] = [0.01] const %z : float8_e4m3fn[] = [0]
             %y = QuantizeLinear(%x, %s, %z) name "attention_weights" output %y })"})
        for (const bool lies : {false, true}) {
            auto graph = parse_graph(text);
            const std::vector<Tensor> inputs = verification::random_inputs(*graph);
            const Liar liar(cpu_backend().compile(std::move(graph), {}), lies);
            const auto rows = verification::verify_regions(liar, inputs, 1);
            ASSERT_EQ(rows.size(), 1u);
            EXPECT_EQ(rows[0].passed, !lies) << text;
            EXPECT_EQ(rows[0].name, "attention_weights");
        }
}

TEST(CpuProgram, UnknownTargetIsAnError) {
    CompileOptions options;
    options.target = "cpu:sse9";
    EXPECT_THROW(
        cpu_backend().compile(parse_graph(R"(graph "g" { input %x : float32[4] %y = Relu(%x) output %y })"), options),
        Error);
}

TEST(CpuProgram, InputsThatAreOutputsAndRepeatedOutputs) {
    const auto program =
        cpu_backend().compile(parse_graph(R"(graph "g" { input %x : float32[4] const %s : int64[2] = [2, 2]
        %y = Relu(%x) %z = Reshape(%y, %s) output %x, %y, %y, %z })"),
                              {});
    const float x[4] = {-1, 2, -3, 4};
    float out[4][4] = {};
    const void* in[] = {x};
    void* results[] = {out[0], out[1], out[2], out[3]};
    std::vector<std::byte> arena(static_cast<size_t>(program->arena_bytes()) + 64);
    program->run(in, results, arena.data(), 1);
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(out[0][i], x[i]);
        for (int k = 1; k < 4; ++k) EXPECT_EQ(out[k][i], std::max(x[i], 0.0f));
    }
}

}  // namespace
}  // namespace planish
