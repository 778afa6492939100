// Vector kernels compiled once for each instruction set, called through a table. They know pointers and sizes, not the
// IR.
//
// Every kernel works on a range [begin, end) of independent items, so that the caller may split it over threads in any
// way: the result is the same bit for bit. Sizes and strides count floats. Input and output may be the same buffer
// where the text says "in place"; otherwise they must not overlap.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.hpp"

namespace planish::cpu {

/// Softmax or log-softmax of scale * x + mask over an axis of n elements that lie `inner` floats apart.
/// Items: rows, numbered outer * inner + i; inner = 1 is the last axis. In place.
struct SoftmaxArgs {
    const float* input = nullptr;
    float* output = nullptr;
    int64_t n = 0;
    int64_t inner = 1;
    float scale = 1;
    /// Additive rows of n floats, or null; row r takes mask row (r / mask_divide) % mask_rows. Only where inner = 1.
    /// [B,1,1,S] against [B,H,Q,S]: divide H*Q, rows B. [1,1,Q,S]: divide 1, rows Q.
    const float* mask = nullptr;
    int64_t mask_divide = 1;
    int64_t mask_rows = 1;
    bool log = false;
};

/// x = input (+ residual); output = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias over each row of n floats, or for
/// rms_norm x / sqrt(mean(x^2) + eps) * scale + bias. Two passes, so no cancellation. Items: rows. In place.
struct NormArgs {
    const float* input = nullptr;
    const float* residual = nullptr;  ///< like input, or null
    float* sum = nullptr;             ///< takes input + residual where not null; may be input or residual itself
    const float* scale = nullptr;     ///< n floats, or null = 1
    const float* bias = nullptr;      ///< n floats, or null = 0
    float* output = nullptr;
    float* mean = nullptr;     ///< one for each row where not null (layer_norm only)
    float* inv_std = nullptr;  ///< 1 / sqrt(var + eps), one for each row where not null
    int64_t n = 0;
    float eps = 1e-5f;
};

/// Group normalisation of a channels-last tensor [batch, pixels, channels]: statistics over all pixels of channels /
/// groups neighbouring channels; groups = channels is instance normalisation. In place.
/// Items: group_norm_items(); scratch for each thread: group_norm_scratch() floats.
struct GroupNormArgs {
    const float* input = nullptr;
    const float* scale = nullptr;  ///< one for each channel, or null = 1
    const float* bias = nullptr;   ///< one for each channel, or null = 0
    float* output = nullptr;
    int64_t batch = 1, pixels = 0, channels = 0, groups = 1;
    float eps = 1e-5f;
};
int64_t group_norm_items(const GroupNormArgs& args);
int64_t group_norm_scratch(const GroupNormArgs& args);

/// As ONNX's Reduce operators: l1 = sum |x|, l2 = sqrt(sum x^2), log_sum = log(sum x), log_sum_exp stabilised by the
/// maximum. An empty axis gives the neutral element: 0, 1 (prod), -inf (max, log_sum, log_sum_exp), +inf (min), NaN
/// (mean).
enum class ReduceKind : uint8_t { sum, mean, max, min, prod, l1, l2, sum_square, log_sum, log_sum_exp };

/// [outer, n, inner] -> [outer, inner]. Items: outputs, numbered outer * inner + i. Global average pooling of a
/// channels-last tensor is mean with n = H*W, inner = C.
struct ReduceArgs {
    const float* input = nullptr;
    float* output = nullptr;
    int64_t n = 0;
    int64_t inner = 1;
    ReduceKind kind = ReduceKind::sum;
};

/// Index of the largest (or smallest) element over an axis laid out as in ReduceArgs; the first NaN wins, as in NumPy.
struct ArgExtremeArgs {
    const float* input = nullptr;
    int64_t* output = nullptr;
    int64_t n = 0;  ///< at least 1
    int64_t inner = 1;
    bool smallest = false;
    bool last_index = false;  ///< of equal elements take the last one
};

/// Window pooling of a channels-last image. Items: output rows, numbered batch * out_height + y.
/// Strides step from one image, row or pixel to the next; the channels of a pixel are neighbours.
struct PoolArgs {
    const float* input = nullptr;
    float* output = nullptr;
    int64_t channels = 0;
    int64_t in_height = 0, in_width = 0, out_height = 0, out_width = 0;
    int64_t in_image_stride = 0, in_row_stride = 0, in_pixel_stride = 0;
    int64_t out_image_stride = 0, out_row_stride = 0, out_pixel_stride = 0;
    int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
    int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
    bool average = false;
    /// Average: divide by the window positions inside the padded image, not only by those on real pixels.
    bool count_include_pad = false;

    /// All strides from the sizes, for dense tensors.
    void set_dense_strides() {
        in_pixel_stride = out_pixel_stride = channels;
        in_row_stride = in_width * channels;
        in_image_stride = in_height * in_row_stride;
        out_row_stride = out_width * channels;
        out_image_stride = out_height * out_row_stride;
    }
};

/// real = scale * (byte - zero), 0 <= zero <= 255.
struct ByteScale {
    float scale = 1;
    float zero = 0;
};

/// Window pooling of bytes, items and strides as PoolArgs. The maximum goes to `bytes` as it is; a mean of `input`'s
/// reals over at most 65793 pixels to `floats` where that is not null, else to `bytes`.
struct BytePoolArgs {
    PoolArgs window;  ///< its pointers are not used
    const uint8_t* input = nullptr;
    uint8_t* bytes = nullptr;
    float* floats = nullptr;
    ByteScale input_scale, output_scale;
};

/// Reals to bytes, saturate(round(real / scale) + zero). Items: elements.
struct EncodeArgs {
    const float* input = nullptr;
    uint8_t* output = nullptr;
    ByteScale scale;
    bool divide = false;  ///< by the scale itself, not with its rounded reciprocal
};
/// The least and the greatest of 0 and the elements, NaN passed over. Items: pieces of the n elements.
struct ExtremesArgs {
    const float* input = nullptr;
    float *least = nullptr, *greatest = nullptr;  ///< one for each piece
    int64_t n = 0, pieces = 1;
};
/// Bytes to reals. Items: elements.
struct DecodeArgs {
    const uint8_t* input = nullptr;
    float* output = nullptr;
    ByteScale scale;
};

/// B[k x n] of reals = scale * (code - zero), where `block` rows of a column have one scale and one zero point. Codes
/// are of 4 or 8 bits without sign. They lie in panels of kPanel columns; a panel is a matrix of words, whose word (i,
/// j) holds column j's codes of the rows from i * rows_per_word() on, the first one in the lowest bits. Where a block
/// ends within a word, it is the last one. What lies past k or n is read and counts for nothing.
struct CodedWeights {
    static constexpr int64_t kPanel = 16;
    const uint32_t* codes = nullptr;  ///< panels() * words() * kPanel
    const float* scales = nullptr;    ///< panels() * blocks() * kPanel
    const uint8_t* zeros = nullptr;   ///< likewise
    int64_t k = 0, n = 0, block = 0;
    int bits = 4;

    int64_t rows_per_word() const { return 32 / bits; }
    int64_t words() const { return (k + rows_per_word() - 1) / rows_per_word(); }
    int64_t blocks() const { return (k + block - 1) / block; }
    int64_t panels() const { return (n + kPanel - 1) / kPanel; }
};
/// C[m x n] = A[m x k] * B. Items: panels. Codes are decoded once for a few rows of A: for small m.
struct CodedProductArgs {
    CodedWeights b;
    const float* a = nullptr;
    float* c = nullptr;
    int64_t m = 0, lda = 0, ldc = 0;
};
/// B to floats: row r of the panels of one call, side by side, goes to output + r * row_stride, whole panels whatever n
/// is. Rows are written in order, so that of rows closer together than they are long the first floats are kept.
/// Items: panels.
struct DecodeWeightsArgs {
    CodedWeights b;
    float* output = nullptr;
    int64_t row_stride = 0;
};

/// TransposeArgs of bytes.
struct ByteTransposeArgs {
    const uint8_t* input = nullptr;
    uint8_t* output = nullptr;
    int64_t columns = 0;
    int64_t input_stride = 0, output_stride = 0;
};

/// x >= 0 ? x : slope[c] * x, or scale[c] * x + shift[c], over rows of `channels` floats. Items: rows. In place.
struct ChannelArgs {
    const float* input = nullptr;
    float* output = nullptr;
    const float* scale = nullptr;  ///< the slope for prelu
    const float* shift = nullptr;  ///< null = 0; unused by prelu
    int64_t channels = 0;
};

/// output[c * output_stride + r] = input[r * input_stride + c] for r < rows, c < columns. Items: input rows.
struct TransposeArgs {
    const float* input = nullptr;
    float* output = nullptr;
    int64_t columns = 0;
    int64_t input_stride = 0, output_stride = 0;
};

/// Each output element is a weighted sum of input pixels of a channels-last image, separable into rows and columns.
/// Items: output rows, numbered batch * out_height + y. Offsets are resize_table()'s indices times the input's row or
/// pixel stride. Output pixels are dense.
struct ResizeArgs {
    const float* input = nullptr;
    float* output = nullptr;
    int64_t channels = 0, out_height = 0, out_width = 0;
    int64_t in_image_stride = 0, out_image_stride = 0, out_row_stride = 0;
    int taps_h = 1, taps_w = 1;
    const int64_t* offset_h = nullptr;  ///< out_height * taps_h
    const int64_t* offset_w = nullptr;  ///< out_width * taps_w
    const float* weight_h = nullptr;    ///< likewise; unused where both taps are 1
    const float* weight_w = nullptr;
};

/// Scaled dot-product attention for a batch of heads, each read where it lies:
///     output[b,h,q,:] = softmax_k(softcap(scale * query[b,h,q,:] . key[b,g,k,:]) + mask[b,h,q,k]) . value[b,g,k,:],
/// g = h / (heads / kv_heads). One pass over the keys with a running maximum (Dao et al., FlashAttention, 2022),
/// blocked so that scores stay in L1 and packed keys and values in L2. A query that sees no key gives zeros, as in
/// ONNX's Attention; NaN among its scores gives NaN. Items: attention_items(); scratch for each thread:
/// attention_scratch() floats, 64-byte aligned.
struct AttentionShape {
    struct Strides {
        int64_t batch = 0, head = 0, row = 0;  ///< the elements of a row are neighbours
    };
    const float* mask = nullptr;  ///< additive, or null; stride 0 broadcasts
    Strides query_strides, key_strides, value_strides, output_strides, mask_strides;
    int64_t batch = 1, heads = 1, kv_heads = 1;
    int64_t queries = 0, keys = 0;
    int64_t head_dim = 0;   ///< of query and key
    int64_t value_dim = 0;  ///< of value and output
    float scale = 1;
    float softcap = 0;  ///< 0 = none, otherwise softcap * tanh(score / softcap)
    bool causal = false;
    int64_t causal_offset = 0;  ///< key k is visible to query q where k <= q + causal_offset
    int64_t query_block = 0;    ///< queries of one item; 0 = kAttentionQueryBlock. Smaller ones give more items.
};
struct AttentionArgs : AttentionShape {
    const float* query = nullptr;
    const float* key = nullptr;
    const float* value = nullptr;
    float* output = nullptr;
};
constexpr int64_t kAttentionQueryBlock = 192;
int64_t attention_items(const AttentionShape& args);
int64_t attention_scratch(const AttentionArgs& args);

/// The same on bytes, real = scale * (byte - zero). Products are summed exactly; each weight exp(score - greatest
/// score) is rounded to 1/32767, all keys at once. Items: attention_items(); scratch: byte_attention_scratch() floats.
struct ByteAttentionArgs : AttentionShape {
    const uint8_t* query = nullptr;
    const uint8_t* key = nullptr;
    const uint8_t* value = nullptr;
    ByteScale stored_query, stored_key, stored_value;
    float* floats = nullptr;   ///< the output, or null:
    uint8_t* bytes = nullptr;  ///< the output, stored by
    ByteScale stored_output;
};
/// head_dim in whole steps of four bytes, sums within 32 bits, and no softcap; scale > 0.
bool takes_byte_attention(const AttentionShape& args);
int64_t byte_attention_scratch(const AttentionShape& args);

/// The point-wise part of one LSTM step. gates: rows of [i | o | f | c], each of `hidden` floats, already x W + h R + b
/// (ONNX's order). Items: batch rows.
struct LstmStepArgs {
    const float* gates = nullptr;
    int64_t gates_stride = 0;
    const float* cell_in = nullptr;
    float* cell_out = nullptr;    ///< may be cell_in
    float* hidden_out = nullptr;  ///< rows of `hidden` floats, hidden_stride apart
    int64_t hidden = 0, hidden_stride = 0;
    const float* peephole = nullptr;  ///< [i | o | f], each of `hidden` floats, or null
};

/// The point-wise part of one GRU step. x_gates and h_gates: rows of [z | r | h] = x W + b and h R + b_R, where the
/// last third of h_gates is (h R_h + b_Rh), or ((r * h) R_h + b_Rh) computed in between when linear_before_reset is
/// false. Items: batch rows.
struct GruStepArgs {
    const float* x_gates = nullptr;
    const float* h_gates = nullptr;
    int64_t gates_stride = 0;
    const float* hidden_in = nullptr;
    float* hidden_out = nullptr;  ///< may be hidden_in
    int64_t hidden = 0, hidden_stride = 0;
    bool linear_before_reset = true;
};

/// Rows of floats, `stride` apart; those from `rows` on count as zeros.
struct BlockView {
    const float* data = nullptr;
    int64_t stride = 0, rows = 0;
};

/// output = x + sign * y; sign 0: x alone. Items: rows of the output.
struct BlockSumArgs {
    BlockView x, y;
    float sign = 0;
    float* output = nullptr;
    int64_t output_stride = 0, columns = 0;
};

/// target += sign * block, or = where the target is written for the first time. Items: rows of the block.
struct BlockAddArgs {
    struct Target {
        float* data = nullptr;  ///< null: none
        int64_t rows = 0;       ///< the block's rows from there on are dropped
        float sign = 1;
        bool first = false;
    };
    const float* block = nullptr;
    int64_t stride = 0, columns = 0;
    Target targets[2];
    int64_t target_stride = 0;
};

/// One function for each kernel; [begin, end) are items as stated above.
struct KernelTable {
    void (*softmax)(const SoftmaxArgs&, int64_t begin, int64_t end) = nullptr;
    void (*layer_norm)(const NormArgs&, int64_t begin, int64_t end) = nullptr;
    void (*rms_norm)(const NormArgs&, int64_t begin, int64_t end) = nullptr;
    void (*group_norm)(const GroupNormArgs&, int64_t begin, int64_t end, float* scratch) = nullptr;
    void (*reduce)(const ReduceArgs&, int64_t begin, int64_t end) = nullptr;
    void (*arg_extreme)(const ArgExtremeArgs&, int64_t begin, int64_t end) = nullptr;
    void (*pool)(const PoolArgs&, int64_t begin, int64_t end) = nullptr;
    void (*prelu)(const ChannelArgs&, int64_t begin, int64_t end) = nullptr;
    void (*scale_shift)(const ChannelArgs&, int64_t begin, int64_t end) = nullptr;
    void (*transpose)(const TransposeArgs&, int64_t begin, int64_t end) = nullptr;
    void (*resize)(const ResizeArgs&, int64_t begin, int64_t end) = nullptr;
    void (*attention)(const AttentionArgs&, int64_t begin, int64_t end, float* scratch) = nullptr;
    /// Null without AVX2.
    void (*byte_attention)(const ByteAttentionArgs&, int64_t begin, int64_t end, float* scratch) = nullptr;
    void (*lstm_step)(const LstmStepArgs&, int64_t begin, int64_t end) = nullptr;
    void (*gru_step)(const GruStepArgs&, int64_t begin, int64_t end) = nullptr;
    void (*block_sum)(const BlockSumArgs&, int64_t begin, int64_t end) = nullptr;
    void (*block_add)(const BlockAddArgs&, int64_t begin, int64_t end) = nullptr;
    void (*byte_pool)(const BytePoolArgs&, int64_t begin, int64_t end) = nullptr;
    void (*encode)(const EncodeArgs&, int64_t begin, int64_t end) = nullptr;
    void (*extremes)(const ExtremesArgs&, int64_t begin, int64_t end) = nullptr;
    void (*decode)(const DecodeArgs&, int64_t begin, int64_t end) = nullptr;
    void (*coded_product)(const CodedProductArgs&, int64_t begin, int64_t end) = nullptr;
    void (*decode_weights)(const DecodeWeightsArgs&, int64_t begin, int64_t end) = nullptr;
    void (*byte_transpose)(const ByteTransposeArgs&, int64_t begin, int64_t end) = nullptr;
};

/// The best table that runs on `isa`; avx512_vnni shares avx512's. The caller vouches that the machine has it.
const KernelTable& kernels(Isa isa);

}  // namespace planish::cpu
