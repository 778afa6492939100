// Quantised regions taken apart.
#include "backends/quantized.hpp"

#include <string>

#include "base/hash.hpp"
#include "reference/interpreter.hpp"

namespace planish {
namespace {

/// x = (q - zero) * scale of constants: the weights of a program that computes in float32.
std::shared_ptr<const Tensor> decode(const Node& node) {
    const Tensor &x = *node.input(0)->constant, &scales = *node.input(1)->constant;
    const Tensor* zeros = node.input(2) != nullptr ? node.input(2)->constant.get() : nullptr;
    const bool plain = x.dtype() == DType::i8 && scales.dtype() == DType::f32 && node.integer("block_size") == 0;
    if (!plain) {
        std::vector<RefValue> values;
        std::vector<const RefValue*> operands;
        values.reserve(static_cast<size_t>(node.input_count()));
        for (const Value* input : node.inputs()) {
            if (input != nullptr) values.emplace_back(*input->constant);
            operands.push_back(input != nullptr ? &values.back() : nullptr);
        }
        return std::make_shared<const Tensor>(std::move(reference::run_node(node, operands)[0].tensor));
    }
    const int64_t places = scales.size();
    int64_t run = x.size(), axis = node.integer("axis");  // elements in a row that share a scale
    if (places > 1) {
        run = 1;
        if (axis < 0) axis += static_cast<int64_t>(x.dims().size());
        for (auto i = static_cast<size_t>(axis) + 1; i < x.dims().size(); ++i) run *= x.dims()[i];
    }
    auto result = std::make_shared<Tensor>(DType::f32, x.dims());
    const auto from = x.data<int8_t>();
    const auto to = result->data<float>();
    for (int64_t at = 0, place = 0; at < x.size(); at += run, place = (place + 1) % places) {
        const float scale = scales.data<float>()[static_cast<size_t>(place)];
        const int zero = zeros != nullptr ? static_cast<int>(zeros->at_int64(place)) : 0;
        for (auto i = static_cast<size_t>(at); i < static_cast<size_t>(at + run); ++i)
            to[i] = scale * static_cast<float>(from[i] - zero);
    }
    return result;
}

}  // namespace

bool Quantization::symmetric() const {
    if (zeros == nullptr) return true;
    for (int64_t i = 0; i < zeros->size(); ++i)
        if (zero(i) != 0) return false;
    return true;
}

std::optional<Quantization> read_quantization(const RegionView& region, const Node& border) {
    const Value* stored = border.is("QuantizeLinear") ? border.output() : border.input(0);
    Quantization q{stored->type.dtype, border.integer("axis"), border.integer("block_size"),
                   region.constant(border.input(1)), nullptr};
    if (q.axis < 0) q.axis += static_cast<int64_t>(stored->dims().size());
    if (border.input(1)->type.dtype != DType::f32) return std::nullopt;
    if (q.at_run_time()) {
        if (q.block != 0) return std::nullopt;
        q.scale_input = region.input_index(border.input(1));
        if (q.scale_input < 0 || element_count(border.input(1)->dims()) != 1) return std::nullopt;
        if (border.input(2) == nullptr) return q;
        q.zero_input = region.input_index(border.input(2));
        return q.zero_input < 0 ? std::nullopt : std::optional(q);
    }
    if (border.input(2) != nullptr) {
        q.zeros = region.constant(border.input(2));
        if (q.zeros == nullptr) return std::nullopt;
    }
    return q;
}

std::optional<QuantizedRegion> QuantizedRegion::read(const RegionView& region) {
    if (!region.has_body() || region.node().text("kind") != "quantized") return std::nullopt;
    QuantizedRegion result;
    for (const auto& node : region.body().nodes())
        if (!node->is("DequantizeLinear") && !node->is("QuantizeLinear"))
            result.inner_ = std::make_unique<RegionView>(*node, &region);
    if (result.inner_ == nullptr) return std::nullopt;
    const Node& inner = result.inner_->node();
    for (const Value* input : inner.inputs()) {
        Operand operand;
        const Node* dq = input != nullptr ? input->producer : nullptr;
        if (dq != nullptr) {
            operand.input = region.input_index(dq->input(0));
            operand.quantization = read_quantization(region, *dq);
            if (!operand.quantization) return std::nullopt;
            for (int i = 1; i < dq->input_count() && !operand.quantization->at_run_time(); ++i)
                if (const int at = dq->input(i) != nullptr ? region.input_index(dq->input(i)) : -1; at >= 0)
                    operand.scale_inputs.push_back(at);
        } else if (input != nullptr) {
            operand.input = region.input_index(input);
        }
        result.operands_.push_back(std::move(operand));
    }
    const Node* last = region.body().outputs()[0]->producer;
    if (last->is("QuantizeLinear")) {
        result.result_ = read_quantization(region, *last);
        if (!result.result_ || !result.result_->per_tensor()) return std::nullopt;
    }
    return result;
}

bool decode_constant(Graph& graph, Node* node, PackedStore& store) {
    if (!node->is("DequantizeLinear") || node->output()->type.dtype != DType::f32) return false;
    std::string form = "decoded axis=" + std::to_string(node->integer("axis")) +
                       " block=" + std::to_string(node->integer("block_size"));
    for (int i = 0; i < node->input_count(); ++i) {
        if (node->input(i) == nullptr) continue;
        if (!node->input(i)->is_constant()) return false;
        const Tensor& t = *node->input(i)->constant;
        if (i > 0)
            form += " " + hash128({static_cast<const std::byte*>(t.raw()), static_cast<size_t>(t.bytes())}).to_hex();
    }
    std::shared_ptr<const Tensor> constant =
        store.derived(node->input(0)->constant, form, [&] { return decode(*node); });
    Value* value = graph.add_constant(node->output()->name + "_decoded", *constant);
    value->constant = std::move(constant);
    graph.replace_all_uses(node->output(), value);
    graph.erase(node);
    return true;
}

}  // namespace planish
