// ONNX Runtime's attention and embedding operators as products, masks and Softmax, which the passes recognise again.
#include <array>
#include <cmath>

#include "importers/onnx/draft.hpp"
#include "ir/op.hpp"

namespace planish::onnx_import {
namespace {

using Ints = std::vector<int64_t>;

Value* optional_input(const Draft& d, size_t i) {
    return d.has_input(i) ? d.inputs[i] : nullptr;
}

// [B, S, heads * size] -> [B, heads, S, size]
Value* split_heads(Draft& d, Value* x, int64_t heads, const std::string& what) {
    Value* parts =
        d.emit("Reshape", {x, d.integers_constant({0, 0, heads, -1}, what + "_heads")}, {}, "Reshape_" + what);
    return d.emit("Transpose", {parts}, {{"perm", Ints{0, 2, 1, 3}}}, "Transpose_" + what);
}

// [1, .., n, ..] of int64: 0, 1, ... up to the size of x's axis.
Value* positions(Draft& d, Value* x, int64_t axis, const Ints& insert_axes, const std::string& what) {
    Value* size = d.emit("Shape", {x}, {{"start", axis}, {"end", axis + 1}}, "Shape_" + what);
    Value* length = d.emit("Squeeze", {size}, {}, "Squeeze_" + what);
    Value* range = d.emit("Range",
                          {d.constant(Tensor::scalar<int64_t>(0), what + "_first"), length,
                           d.constant(Tensor::scalar<int64_t>(1), what + "_step")},
                          {}, "Range_" + what);
    return d.emit("Unsqueeze", {range, d.integers_constant(insert_axes, what + "_axes")}, {}, "Unsqueeze_" + what);
}

// The additive mask of a key padding mask: [B] lengths, [B, T] or [B, S, T] with 0 where a key does not count.
Value* padding_mask(Draft& d, Value* mask, Value* keys, double filter) {
    if (!mask->type.shape) d.unsupported("has a mask of unknown rank", "export with static ranks");
    const size_t rank = mask->type.shape->size();
    Value* visible;
    if (rank == 1) {
        Value* lengths = d.emit(
            "Cast", {d.emit("Unsqueeze", {mask, d.integers_constant({1, 2, 3}, "mask_axes")}, {}, "Unsqueeze_mask")},
            {{"to", static_cast<int64_t>(DType::i64)}}, "Cast_mask");
        visible = d.emit("Less", {positions(d, keys, 2, {0, 1, 2}, "key"), lengths}, {}, "Less_mask");
    } else if (rank == 2 || rank == 3) {
        Value* wide = d.emit("Unsqueeze", {mask, d.integers_constant(rank == 2 ? Ints{1, 2} : Ints{1}, "mask_axes")},
                             {}, "Unsqueeze_mask");
        visible = d.emit("Cast", {wide}, {{"to", static_cast<int64_t>(DType::boolean)}}, "Cast_mask");
    } else {
        d.unsupported("has a mask of rank " + std::to_string(rank), "export without ONNX Runtime's optimisations");
    }
    return d.emit("Where", {visible, d.scalar(d.dtype(0), 0, "visible"), d.scalar(d.dtype(0), filter, "hidden")}, {},
                  "Where_mask");
}

// softmax(q k^T * scale + masks) v, heads merged again. q, k, v are [B, heads, S or T, size].
Value* attend(Draft& d, Value* q, Value* k, Value* v, double scale, const std::vector<Value*>& masks) {
    Value* scores = d.emit("MatMul", {q, d.emit("Transpose", {k}, {{"perm", Ints{0, 1, 3, 2}}}, "Transpose_kt")}, {},
                           "MatMul_scores");
    scores = d.emit("Mul", {scores, d.scalar(d.dtype(0), scale, "scale")}, {}, "Mul_scale");
    for (Value* mask : masks) scores = d.emit("Add", {scores, mask}, {}, "Add_mask");
    Value* weights = d.emit("Softmax", {scores}, {{"axis", int64_t{-1}}});
    Value* heads = d.emit("Transpose", {d.emit("MatMul", {weights, v}, {}, "MatMul_values")},
                          {{"perm", Ints{0, 2, 1, 3}}}, "Transpose_out");
    return d.emit_output("Reshape", {heads, d.integers_constant({0, 0, -1}, "merged")});
}

// input [B, S, D], weights [D, 3H], bias [3H], mask, past, attention bias
void attention(Draft& d) {
    const int64_t heads = d.integer("num_heads", 0);
    if (heads <= 0 || !d.has_input(1)) d.invalid("misses its weights or 'num_heads'");
    if (d.has_input(4) || d.has_input(6) || d.wants_output(1) || d.integer("do_rotary", 0) != 0)
        d.unsupported("keeps past keys and values or rotates them", "export without ONNX Runtime's optimisations");
    Ints sizes = d.integers("qkv_hidden_sizes");
    if (sizes.empty()) {
        const auto width = d.constant_dim(1, -1);
        if (!width || *width % 3 != 0) d.unsupported("has weights of unknown size", "export with constant weights");
        sizes.assign(3, *width / 3);
    }
    if (sizes.size() != 3 || sizes[0] % heads != 0) d.invalid("has 'qkv_hidden_sizes' that do not fit 'num_heads'");
    Value* qkv = d.emit("MatMul", {d.inputs[0], d.inputs[1]}, {}, "MatMul_qkv");
    if (d.has_input(2)) qkv = d.emit("Add", {qkv, d.inputs[2]}, {}, "Add_qkv");
    const auto parts = d.emit_many("Split", {qkv, d.integers_constant(sizes, "qkv_sizes")}, {{"axis", int64_t{-1}}}, 3);
    Value* q = split_heads(d, parts[0], heads, "q");
    Value* k = split_heads(d, parts[1], heads, "k");
    Value* v = split_heads(d, parts[2], heads, "v");

    const double filter = d.real("mask_filter_value", -10000);
    std::vector<Value*> masks;
    if (d.has_input(3)) masks.push_back(padding_mask(d, d.inputs[3], k, filter));
    if (d.integer("unidirectional", 0) != 0) {
        Value* seen = d.emit("LessOrEqual", {positions(d, k, 2, {0}, "column"), positions(d, q, 2, {1}, "row")}, {},
                             "LessOrEqual_causal");
        masks.push_back(d.emit(
            "Where", {seen, d.scalar(d.dtype(0), 0, "past_visible"), d.scalar(d.dtype(0), filter, "future_hidden")}, {},
            "Where_causal"));
    }
    if (d.has_input(5)) masks.push_back(d.inputs[5]);
    const double given = d.real("scale", 0);
    const double scale = given != 0 ? given : 1 / std::sqrt(static_cast<double>(sizes[0] / heads));
    d.finish({attend(d, q, k, v, scale, masks)});
}

// query [B, S, H], key and value [B, T, H], bias [3H], key padding mask, attention bias
void multi_head_attention(Draft& d) {
    const int64_t heads = d.integer("num_heads", 0);
    const auto hidden = d.constant_dim(0, -1);
    if (heads <= 0) d.invalid("misses 'num_heads'");
    if (!d.has_input(1) || !d.has_input(2) || d.rank(0) != 3 || d.rank(1) != 3 || !hidden || d.has_input(6) ||
        d.has_input(7) || d.wants_output(1) || d.integer("unidirectional", 0) != 0)
        d.unsupported("has packed inputs, past keys and values, or an unknown hidden size",
                      "export without ONNX Runtime's optimisations");
    Value* in[3] = {d.inputs[0], d.inputs[1], d.inputs[2]};
    if (d.has_input(3)) {
        const auto width = d.constant_dim(3, 0);
        if (!width || *width < 2 * *hidden) d.unsupported("has a bias of unknown size", "export with constant weights");
        const auto bias = d.emit_many(
            "Split", {d.inputs[3], d.integers_constant({*hidden, *hidden, *width - 2 * *hidden}, "bias_sizes")},
            {{"axis", int64_t{0}}}, 3, "Split_bias");
        for (size_t i = 0; i < 3; ++i) in[i] = d.emit("Add", {in[i], bias[i]}, {}, "Add_bias" + std::to_string(i));
    }
    Value* q = split_heads(d, in[0], heads, "q");
    Value* k = split_heads(d, in[1], heads, "k");
    Value* v = split_heads(d, in[2], heads, "v");
    std::vector<Value*> masks;
    if (d.has_input(4)) masks.push_back(padding_mask(d, d.inputs[4], k, d.real("mask_filter_value", -10000)));
    if (d.has_input(5)) masks.push_back(d.inputs[5]);
    const double given = d.real("scale", 0);
    const double scale = given != 0 ? given : 1 / std::sqrt(static_cast<double>(*hidden / heads));
    d.finish({attend(d, q, k, v, scale, masks)});
}

// LayerNormalization(word[ids] + position[0..S) + segment[segments]); output 1: how many tokens of each row count.
void embed_layer_norm(Draft& d) {
    if (!d.has_input(2) || !d.has_input(3) || !d.has_input(5)) d.invalid("misses its tables or scale");
    Value* sum = d.emit("Gather", {d.inputs[2], d.inputs[0]}, {}, "Gather_word");
    Value* places = optional_input(d, 8);
    if (!places) places = positions(d, d.inputs[0], 1, {0}, "position");
    sum = d.emit("Add", {sum, d.emit("Gather", {d.inputs[3], places}, {}, "Gather_position")}, {}, "Add_position");
    if (d.has_input(1) && d.has_input(4))
        sum =
            d.emit("Add", {sum, d.emit("Gather", {d.inputs[4], d.inputs[1]}, {}, "Gather_segment")}, {}, "Add_segment");
    Value* y = d.emit_output("LayerNormalization", {sum, d.inputs[5], optional_input(d, 6)},
                             {{"axis", int64_t{-1}}, {"epsilon", d.real("epsilon", 1e-12)}});
    Value* count = nullptr;
    if (d.wants_output(1)) {
        if (d.has_input(7)) {
            count =
                d.emit("ReduceSum", {d.inputs[7], d.integers_constant({1}, "mask_axis")}, {{"keepdims", int64_t{0}}});
        } else {
            Value* rows = d.emit("Shape", {d.inputs[0]}, {{"start", int64_t{0}}, {"end", int64_t{1}}}, "Shape_rows");
            count = d.emit("ConstantOfShape", {rows},
                           {{"value", Tensor::from(std::span<const int32_t>(std::array<int32_t, 1>{0}), {1})}});
        }
    }
    d.finish({y, count, sum});
}

constexpr std::string_view kMs = "com.microsoft";

constexpr Adapter kAdapters[] = {
    {kMs, "Attention", kEveryOpset, attention},
    {kMs, "EmbedLayerNormalization", kEveryOpset, embed_layer_norm},
    {kMs, "MultiHeadAttention", kEveryOpset, multi_head_attention},
};

}  // namespace

std::span<const Adapter> contrib_attention_adapters() {
    return kAdapters;
}

}  // namespace planish::onnx_import
