// Parameters of the attention kernels, read by host and device: plain C++ without headers.
#pragma once

namespace planish {

/// Elements from one batch, head and row (token) to the next.
struct AttentionStrides {
    long long batch, head, row;
};

struct AttentionParams {
    const void *query, *key, *value;  // T; any strides: they may be slices of one product [B, S, heads * size]
    const void* mask;                 // additive (any float type) or boolean (bytes); last axis dense
    const void* lengths;              // int64 [batch], keys that are no padding; null: all
    void* output;                     // T
    void* partial;                    // f32: of each split, sums [splits][rows][value_dim], then (max, total) of each
    AttentionStrides query_strides, key_strides, value_strides, output_strides, mask_strides;
    int batch, heads, kv_heads, queries, keys;
    int splits, keys_per_split;  // the keys of a split; a multiple of the key block
    int offset;                  // position of query 0 among the keys
    int left, right;             // a query at position i sees keys i - left .. i + right
    float scale;                 // of the scores, times log2(e); with a soft cap: scale / softcap
    float softcap;               // softcap times log2(e)
    float mask_scale;            // of what a mask adds to products before they are scaled: 1 / scale; with a soft cap:
                                 // to capped scores, log2(e)
};

}  // namespace planish
