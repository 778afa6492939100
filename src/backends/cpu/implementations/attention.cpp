// Scaled dot-product attention that never writes the score matrix. A region of kind "attention" is the op with the
// Slices that its queries, keys and values are columns by: they are read with strides.
#include <fmt/format.h>

#include <cmath>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"

namespace planish::cpu::families {
namespace {

const Node& attention_of(const RegionView& region) {
    return region.has_body() ? *region.body().nodes().back() : region.node();
}

// Where Q, K or V (`operand` 0, 1, 2) lie: elements of one of the region's inputs, from `first` on, in rows of `width`.
struct Source {
    int input = -1;
    int64_t first = 0, width = 0;
};

Source source_of(const RegionView& region, int operand) {
    const Value* value = attention_of(region).input(operand);
    Source source;
    if (const Node* slice = value->producer; region.has_body() && slice != nullptr) {
        source.first = static_cast<int64_t>(region.constant(slice->input(1))->at_double(0));
        value = slice->input(0);
    }
    source.input = region.input_index(value);
    source.width = value->dims().back();
    return source;
}

// Heads, lengths and strides of ONNX's Attention in its 4-D ([B, H, S, D]) and 3-D ([B, S, H*D]) forms.
AttentionArgs attention_args(const RegionView& region) {
    const Node& node = attention_of(region);
    const Dims q = node.input(0)->dims(), k = node.input(1)->dims(), v = node.input(2)->dims();
    AttentionArgs args;
    auto strides = [&](const Dims& d, int64_t heads, int64_t width) -> AttentionArgs::Strides {
        if (d.size() == 4) return {d[1] * d[2] * d[3], d[2] * d[3], d[3]};
        return {d[1] * width, d[2] / heads, width};
    };
    args.batch = q[0];
    if (q.size() == 4) {
        args.heads = q[1];
        args.kv_heads = k[1];
        args.queries = q[2];
        args.keys = k[2];
        args.head_dim = q[3];
        args.value_dim = v[3];
    } else {
        args.heads = node.integer("q_num_heads");
        args.kv_heads = node.integer("kv_num_heads");
        args.queries = q[1];
        args.keys = k[1];
        args.head_dim = q[2] / args.heads;
        args.value_dim = v[2] / args.kv_heads;
    }
    const Dims out = node.output()->dims();
    args.query_strides = strides(q, args.heads, source_of(region, 0).width);
    args.key_strides = strides(k, args.kv_heads, source_of(region, 1).width);
    args.value_strides = strides(v, args.kv_heads, source_of(region, 2).width);
    args.output_strides = strides(out, args.heads, out.back());
    args.scale = node.attributes.contains("scale") ? static_cast<float>(node.real("scale"))
                                                   : 1.0f / std::sqrt(static_cast<float>(args.head_dim));
    args.softcap = static_cast<float>(node.real("softcap"));
    args.causal = node.integer("is_causal") != 0;
    if (const Value* mask = node.input(3)) {
        Dims d = mask->dims();
        d.insert(d.begin(), 4 - d.size(), 1);
        args.mask_strides = {d[0] == 1 ? 0 : d[1] * d[2] * d[3], d[1] == 1 ? 0 : d[2] * d[3], d[2] == 1 ? 0 : d[3]};
    }
    return args;
}

Refusal can_attend(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    if (region.has_body() && region.node().text("kind") != "attention") return Refusal::post_op_not_handled;
    const Node& node = attention_of(region);
    for (int i = 0; i < 4; ++i)
        if (!is_f32(node.input(i))) return Refusal::dtype_not_handled;
    for (int i = 4; i < node.input_count(); ++i)
        if (node.input(i)) return Refusal::attribute_not_handled;
    if (uses_later_outputs(node)) return Refusal::attribute_not_handled;
    if (node.integer("left_window_size") >= 0 || node.integer("right_window_size") >= 0)
        return Refusal::attribute_not_handled;
    if (element_count(node.output()->dims()) == 0 || element_count(node.input(1)->dims()) == 0)
        return Refusal::shape_not_handled;
    const AttentionArgs args = attention_args(region);
    if (const Value* mask = node.input(3)) {
        Dims d = mask->dims();
        if (region.input_index(mask) < 0) return Refusal::shape_not_handled;  // of one element: inside the region
        if (d.empty() || d.size() > 4 || d.back() != args.keys) return Refusal::shape_not_handled;
        d.insert(d.begin(), 4 - d.size(), 1);
        if ((d[0] != 1 && d[0] != args.batch) || (d[1] != 1 && d[1] != args.heads) ||
            (d[2] != 1 && d[2] != args.queries))
            return Refusal::shape_not_handled;
    }
    return Refusal::none;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    AttentionArgs args = attention_args(region);
    // Enough items for every thread, without making the blocks too small to be efficient.
    while (attention_items(args) < environment.threads) {
        const int64_t block = args.query_block ? args.query_block : std::min(kAttentionQueryBlock, args.queries);
        if (block <= 24) break;
        args.query_block = (block + 1) / 2;
    }
    const Value* mask = attention_of(region).input(3);
    const int mask_input = mask != nullptr ? region.input_index(mask) : -1;
    const Source query = source_of(region, 0), key = source_of(region, 1), value = source_of(region, 2);
    const int64_t items = attention_items(args), scratch = (attention_scratch(args) + 15) / 16 * 16;
    const int64_t cost = args.batch * args.heads * args.queries * args.keys * (args.head_dim + args.value_dim) / 32;
    auto kernel = make_kernel(fmt::format("attention_f32_{}", to_string(environment.isa)),
                              [args, query, key, value, mask_input, items, scratch, cost,
                               function = kernels(environment.isa).attention](const Launch& launch) {
                                  AttentionArgs a = args;
                                  a.query = launch.f32(query.input) + query.first;
                                  a.key = launch.f32(key.input) + key.first;
                                  a.value = launch.f32(value.input) + value.first;
                                  a.mask = launch.f32(mask_input);
                                  a.output = launch.out_f32();
                                  auto* memory = reinterpret_cast<float*>(launch.workspace);
                                  split_items(launch, items, cost / items, [&](int64_t b, int64_t e, int t) {
                                      function(a, b, e, memory + t * scratch);
                                  });
                              });
    kernel->workspace = static_cast<size_t>(scratch * environment.threads) * sizeof(float);
    kernel->flops = 2 * args.batch * args.heads * args.queries * args.keys * (args.head_dim + args.value_dim);
    return kernel;
}

}  // namespace

const Implementation kAttention{"attention_flash", can_attend, plain_layouts, compile};

}  // namespace planish::cpu::families
