// Form quantised regions: a node between quantised tensors becomes one Region node with the DequantizeLinear nodes
// before and the QuantizeLinear node behind it: what a backend runs on integers.
//
//   y = Q(f(DQ(x), DQ(w), b))   ->   y = Region(x, w, b) { Q(f(DQ(x), DQ(w), b)) }
//
// f is a node or a region of form_regions or slice_attention. A product joins when both of its factors are quantised,
// the first one perhaps by a scale that DynamicQuantizeLinear finds at run time, an attention when its queries, keys
// and values are, anything else of the list below when a value that it reads or the only one that it makes is. A
// DequantizeLinear that several nodes read is copied into each of their regions. A matrix product of float32 with
// weights that are stored in 4 or 8 bits is a region, too: kernels decode them on the way. A backend without such
// kernels dissolves the region and finds f again.
#include <algorithm>
#include <array>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

constexpr std::string_view kProducts[] = {"Conv", "Gemm", "MatMul"};
constexpr std::string_view kReductions[] = {"AveragePool", "GlobalAveragePool", "ReduceMean"};
constexpr std::string_view kRows[] = {"LayerNormalization", "RMSNormalization", "Softmax"};

bool is_scalar_constant(const Value* value) {
    return value == nullptr || (value->is_constant() && value->constant->size() == 1);
}

/// Integers or floats of 8 bits that kernels multiply as they are stored.
bool is_byte(DType dtype) {
    return dtype == DType::u8 || dtype == DType::i8 || dtype == DType::f8e4m3fn;
}

/// DequantizeLinear of an 8-bit tensor to float32, its scale a constant or found at run time.
Node* decoder(const Value* value, bool at_run_time = false) {
    Node* dq = producer(value, "DequantizeLinear");
    if (dq == nullptr || value->type.dtype != DType::f32 || !value->has_static_shape()) return nullptr;
    const DType stored = dq->input(0)->type.dtype;
    const bool constant = dq->input(1)->is_constant() && (dq->input(2) == nullptr || dq->input(2)->is_constant());
    const bool known = constant || (at_run_time && producer(dq->input(1), "DynamicQuantizeLinear") != nullptr);
    return is_byte(stored) && known && dq->integer("block_size") == 0 ? dq : nullptr;
}

/// DequantizeLinear of constants in 4 or 8 bits to float32, by whatever scales: weights of a product of floats.
Node* weight_decoder(const Value* value) {
    Node* dq = producer(value, "DequantizeLinear");
    if (dq == nullptr || value->type.dtype != DType::f32) return nullptr;
    for (const Value* input : dq->inputs())
        if (input != nullptr && !input->is_constant()) return nullptr;
    const DType stored = dq->input(0)->type.dtype;
    return stored == DType::u4 || stored == DType::i4 || stored == DType::u8 || stored == DType::i8 ? dq : nullptr;
}

/// The only reader of `value`, when it stores it as 8 bits with one scale.
Node* encoder(const Graph& graph, const Value* value) {
    Node* q = only_reader(graph, value, "QuantizeLinear");
    if (q == nullptr || value->type.dtype != DType::f32 || q->input(0) != value) return nullptr;
    const DType stored = q->output()->type.dtype;
    const bool whole = q->input(1)->is_constant() && is_scalar_constant(q->input(1)) && is_scalar_constant(q->input(2));
    const bool saturates = stored != DType::f8e4m3fn || q->integer("saturate") != 0;
    return is_byte(stored) && whole && saturates ? q : nullptr;
}

/// The node that names what `node` computes: its region's product, or itself.
const Node& root_of(const Node& node) {
    return node.is("Region", "planish") && node.text("kind") != "pointwise" ? *node.subgraph("body")->nodes().front()
                                                                            : node;
}

bool is_one_of(const Node& node, std::span<const std::string_view> ops) {
    return node.op().domain.empty() && std::find(ops.begin(), ops.end(), node.op().name) != ops.end();
}

/// Whether integer kernels may take it, as far as its own kind says.
bool is_candidate(const Node& node) {
    if (node.outputs().size() != 1) return false;
    if (node.is("Region", "planish")) {
        const std::string& kind = node.text("kind");
        return kind == "conv" || kind == "matmul" || kind == "pointwise" || kind == "attention";
    }
    if (node.is("QuantizeLinear") || node.is("DequantizeLinear")) return false;
    return node.is("Attention") || is_one_of(node, kProducts) || is_one_of(node, kReductions) ||
           is_one_of(node, kRows) ||
           (has(node.op().traits, Trait::elementwise) && node.output()->type.dtype == DType::f32);
}

/// The node's own value that stands for `value` of its body, or `value` where it has none.
const Value* outer_value(const Node& node, const Value* value) {
    if (!node.is("Region", "planish")) return value;
    const auto& inputs = node.subgraph("body")->inputs();
    const auto at = std::find(inputs.begin(), inputs.end(), value);
    return at == inputs.end() ? nullptr : node.input(static_cast<int>(at - inputs.begin()));
}

/// A product's operand as the node reads it; null: computed within the node, or no product.
const Value* factor(const Node& node, int i) {
    const Node& root = root_of(node);
    return is_one_of(root, kProducts) ? outer_value(node, root.input(i)) : nullptr;
}

/// Whether all that is multiplied there is quantised: products with floats are computed in floats.
bool has_quantised_factors(const Node& node) {
    const bool region = node.is("Region", "planish");
    const Node& last = region ? *node.subgraph("body")->nodes().back() : node;
    const bool attends = last.is("Attention");
    const Node& root = attends ? last : root_of(node);
    if (!attends && !is_one_of(root, kProducts)) return true;
    for (int i = 0; i < (attends ? 3 : 2); ++i) {
        const Value* value = root.input(i);
        if (region && attends && value->producer != nullptr) value = value->producer->input(0);  // of a slice
        const Value* outer = outer_value(node, value);
        if (outer == nullptr || !decoder(outer, !attends && i == 0)) return false;
    }
    return true;
}

}  // namespace

int form_quantized_regions(Graph& graph) {
    int changes = 0;
    std::vector<Node*> candidates = graph.node_list();  // regions take in borders, which are none
    std::erase_if(candidates, [](const Node* node) { return !is_candidate(*node); });
    for (Node* node : candidates) {
        const Value *multiplied = factor(*node, 0), *weights = nullptr;  // weights: those of a product of floats
        if (!has_quantised_factors(*node)) {
            weights = factor(*node, 1);
            if (root_of(*node).is("Conv") || !weight_decoder(weights)) continue;
        }
        std::vector<Node*> members;
        std::vector<const Value*> met;
        for (int i = 0; i < node->input_count(); ++i) {
            Value* input = node->input(i);
            Node* dq = weights == nullptr ? decoder(input, input == multiplied)
                       : input == weights ? weight_decoder(input)
                                          : nullptr;
            if (dq == nullptr) continue;
            if (std::find(met.begin(), met.end(), input) != met.end()) continue;
            met.push_back(input);
            if (!only_use(graph, input)) {
                Node* copy = graph.add_node(dq->op().name, {dq->inputs().begin(), dq->inputs().end()}, dq->attributes,
                                            1, dq->name, node);
                for (int j = i; j < node->input_count(); ++j)
                    if (node->input(j) == input) graph.set_input(node, j, copy->output());
                met.push_back(copy->output());
                dq = copy;
            }
            members.push_back(dq);
        }
        members.push_back(node);
        if (Node* q = weights == nullptr ? encoder(graph, node->output()) : nullptr) members.push_back(q);
        if (members.size() == 1) continue;
        const std::vector<std::string> origins = origins_of(*node);
        make_region(graph, members, *node, "quantized")->origins = origins;
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
