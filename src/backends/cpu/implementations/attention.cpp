// Scaled dot-product attention that never writes the score matrix. A region of kind "attention" is the op with the
// Slices that its queries, keys and values are columns by: they are read with strides.
#include <fmt/format.h>

#include <cmath>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"
#include "backends/quantized.hpp"

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
AttentionShape attention_shape(const RegionView& region) {
    const Node& node = attention_of(region);
    const Dims q = node.input(0)->dims(), k = node.input(1)->dims(), v = node.input(2)->dims();
    AttentionShape args;
    auto strides = [&](const Dims& d, int64_t heads, int64_t width) -> AttentionShape::Strides {
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

// What `region`, an Attention or a region of one, must be for any of the kernels.
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
    const AttentionShape args = attention_shape(region);
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

// Enough items for every thread, without making the blocks too small to be efficient.
void split_queries(AttentionShape& args, int threads) {
    while (attention_items(args) < threads) {
        const int64_t block = args.query_block ? args.query_block : std::min(kAttentionQueryBlock, args.queries);
        if (block <= 24) break;
        args.query_block = (block + 1) / 2;
    }
}

/// A kernel that calls function(args, begin, end, scratch) for the items of `args`, whose pointers bind(args, launch)
/// sets. `scratch`: floats of a thread.
template <typename Args, typename Function, typename Bind>
std::unique_ptr<Kernel> make_attention(std::string name, const Args& args, int64_t scratch, int threads,
                                       Function function, Bind bind) {
    const int64_t items = attention_items(args), products = args.batch * args.heads * args.queries * args.keys;
    const int64_t cost = products * (args.head_dim + args.value_dim) / 32;
    scratch = (scratch + 15) / 16 * 16;
    auto kernel = make_kernel(std::move(name), [=](const Launch& launch) {
        Args a = args;
        bind(a, launch);
        auto* memory = reinterpret_cast<float*>(launch.workspace);
        split_items(launch, items, cost / items,
                    [&](int64_t b, int64_t e, int t) { function(a, b, e, memory + t * scratch); });
    });
    kernel->workspace = static_cast<size_t>(scratch * threads) * sizeof(float);
    kernel->flops = 2 * products * (args.head_dim + args.value_dim);
    return kernel;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    AttentionArgs args{attention_shape(region)};
    split_queries(args, environment.threads);
    const Value* mask = attention_of(region).input(3);
    const int mask_input = mask != nullptr ? region.input_index(mask) : -1;
    const Source query = source_of(region, 0), key = source_of(region, 1), value = source_of(region, 2);
    return make_attention(fmt::format("attention_f32_{}", to_string(environment.isa)), args, attention_scratch(args),
                          environment.threads, kernels(environment.isa).attention,
                          [=](AttentionArgs& a, const Launch& launch) {
                              a.query = launch.f32(query.input) + query.first;
                              a.key = launch.f32(key.input) + key.first;
                              a.value = launch.f32(value.input) + value.first;
                              a.mask = launch.f32(mask_input);
                              a.output = launch.out_f32();
                          });
}

// Queries, keys and values in bytes, the mask in float32.
struct ByteAttention {
    ByteAttentionArgs args;
    Source sources[3];  // of bytes of the outer region
    int mask = -1;
};

std::optional<ByteScale> byte_scale(const std::optional<Quantization>& q) {
    if (!q || !q->is_bytes()) return std::nullopt;
    return ByteScale{q->scale(), static_cast<float>(q->zero())};
}

Refusal read(const RegionView& region, const Environment& environment, ByteAttention& attention) {
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    if (const Refusal r = can_attend(inner, environment); r != Refusal::none) return r;
    static_cast<AttentionShape&>(attention.args) = attention_shape(inner);
    if (!takes_byte_attention(attention.args)) return Refusal::shape_not_handled;
    ByteScale* const stored[] = {&attention.args.stored_query, &attention.args.stored_key,
                                 &attention.args.stored_value};
    for (int i = 0; i < 3; ++i) {
        Source source = source_of(inner, i);
        const QuantizedRegion::Operand& operand = quantized->operand(source.input);
        const auto scale = byte_scale(operand.quantization);
        if (!scale || operand.input < 0) return Refusal::dtype_not_handled;
        *stored[i] = *scale;
        source.input = operand.input;
        attention.sources[i] = source;
    }
    if (const Value* mask = attention_of(inner).input(3)) {
        const QuantizedRegion::Operand& operand = quantized->operand(inner.input_index(mask));
        if (operand.quantization || operand.input < 0) return Refusal::dtype_not_handled;
        attention.mask = operand.input;
    }
    if (quantized->result()) {
        const auto scale = byte_scale(quantized->result());
        if (!scale) return Refusal::dtype_not_handled;
        attention.args.stored_output = *scale;
    }
    return Refusal::none;
}

Refusal can_attend_bytes(const RegionView& region, const Environment& environment) {
    ByteAttention attention;
    return read(region, environment, attention);
}

std::unique_ptr<Kernel> compile_bytes(const RegionView& region, const Layouts&, const Environment& environment) {
    ByteAttention attention;
    read(region, environment, attention);
    split_queries(attention.args, environment.threads);
    const bool bytes = region.output().type.dtype == DType::u8;
    auto kernel =
        make_attention(fmt::format("attention_i8_{}_{}", bytes ? "u8" : "f32", to_string(environment.isa)),
                       attention.args, byte_attention_scratch(attention.args), environment.threads,
                       kernels(environment.isa).byte_attention, [=](ByteAttentionArgs& a, const Launch& launch) {
                           const auto at = [&](const Source& source) {
                               const std::byte* data = launch.in[static_cast<size_t>(source.input)];
                               return reinterpret_cast<const uint8_t*>(data) + source.first;
                           };
                           a.query = at(attention.sources[0]);
                           a.key = at(attention.sources[1]);
                           a.value = at(attention.sources[2]);
                           a.mask = launch.f32(attention.mask);
                           if (bytes)
                               a.bytes = reinterpret_cast<uint8_t*>(launch.out[0]);
                           else
                               a.floats = launch.out_f32();
                       });
    kernel->factor_roundoff = 0x1p-16;  // of weights
    return kernel;
}

}  // namespace

const Implementation kAttention{"attention_flash", can_attend, plain_layouts, compile};
const Implementation kQuantizedAttention{"quantized_attention", can_attend_bytes, plain_layouts, compile_bytes};

}  // namespace planish::cpu::families
