// Draft's helpers and the lookup of adapters.
#include "importers/onnx/draft.hpp"

#include <algorithm>
#include <map>

#include "planish/error.hpp"

namespace planish::onnx_import {

void Draft::set_input(size_t i, Value* value) {
    if (i >= inputs.size()) inputs.resize(i + 1, nullptr);
    inputs[i] = value;
}

DType Draft::dtype(size_t i) const {
    return has_input(i) && inputs[i]->type.dtype != DType::undefined ? inputs[i]->type.dtype : DType::f32;
}

std::optional<int64_t> Draft::rank(size_t i) const {
    if (!has_input(i) || !inputs[i]->type.shape) return std::nullopt;
    return static_cast<int64_t>(inputs[i]->type.shape->size());
}

std::optional<int64_t> Draft::constant_dim(size_t i, int64_t axis) const {
    const auto r = rank(i);
    if (!r) return std::nullopt;
    if (axis < 0) axis += *r;
    if (axis < 0 || axis >= *r) return std::nullopt;
    return (*inputs[i]->type.shape)[static_cast<size_t>(axis)].value();
}

namespace {
template <typename T>
const T* find(const Draft& draft, std::string_view name) {
    const auto it = draft.attributes.find(name);
    if (it == draft.attributes.end()) return nullptr;
    if (const T* value = std::get_if<T>(&it->second)) return value;
    draft.invalid("has an attribute '" + std::string(name) + "' of the wrong type");
}
}  // namespace

int64_t Draft::integer(std::string_view attribute, int64_t otherwise) const {
    const auto* value = find<int64_t>(*this, attribute);
    return value ? *value : otherwise;
}

double Draft::real(std::string_view attribute, double otherwise) const {
    const auto* value = find<double>(*this, attribute);
    return value ? *value : otherwise;
}

std::string Draft::text(std::string_view attribute, std::string otherwise) const {
    const auto* value = find<std::string>(*this, attribute);
    return value ? *value : std::move(otherwise);
}

std::vector<int64_t> Draft::integers(std::string_view attribute) const {
    const auto* value = find<std::vector<int64_t>>(*this, attribute);
    return value ? *value : std::vector<int64_t>{};
}

Attribute Draft::take(std::string_view attribute) {
    const auto it = attributes.find(attribute);
    if (it == attributes.end()) invalid("misses its attribute '" + std::string(attribute) + "'");
    Attribute value = std::move(it->second);
    attributes.erase(it);
    return value;
}

Value* Draft::constant(Tensor tensor, std::string_view what) {
    return graph.add_constant(graph.unique_name(name + "/" + std::string(what)), std::move(tensor));
}

Value* Draft::integers_constant(const std::vector<int64_t>& values, std::string_view what) {
    return constant(Tensor::from(std::span<const int64_t>(values), {static_cast<int64_t>(values.size())}), what);
}

Value* Draft::scalar(DType type, double value, std::string_view what) {
    Tensor tensor(type, {});
    tensor.set_double(0, value);
    return constant(std::move(tensor), what);
}

std::vector<Value*> Draft::emit_many(std::string_view emitted, std::vector<Value*> node_inputs,
                                     Attributes node_attributes, int count, std::string_view what) {
    while (!node_inputs.empty() && node_inputs.back() == nullptr) node_inputs.pop_back();
    require_inputs(emitted, node_inputs);
    require_attributes(emitted, node_attributes);
    const std::string suffix(what.empty() ? emitted : what);
    Node* node =
        graph.add_node(emitted, std::move(node_inputs), std::move(node_attributes), count, name + "/" + suffix);
    node->origins = {name};
    return {node->outputs().begin(), node->outputs().end()};
}

Value* Draft::emit(std::string_view emitted, std::vector<Value*> node_inputs, Attributes node_attributes,
                   std::string_view what) {
    return emit_many(emitted, std::move(node_inputs), std::move(node_attributes), 1, what)[0];
}

Value* Draft::emit_output(std::string_view emitted, std::vector<Value*> node_inputs, Attributes node_attributes) {
    while (!node_inputs.empty() && node_inputs.back() == nullptr) node_inputs.pop_back();
    require_inputs(emitted, node_inputs);
    require_attributes(emitted, node_attributes);
    Node* node = graph.add_node(emitted, std::move(node_inputs), std::move(node_attributes), 1, name, nullptr, "",
                                {outputs.empty() ? std::string() : outputs[0]});
    node->origins = {name};
    return node->output();
}

void Draft::require_inputs(std::string_view needing, std::span<Value* const> list) const {
    const OpDef* row = find_op(needing);
    if (row == nullptr || needing == "Loop") return;  // both of a Loop's own inputs may be omitted
    for (size_t i = 0; i < static_cast<size_t>(row->min_inputs); ++i)
        if (i >= list.size() || list[i] == nullptr) invalid("misses its input " + std::to_string(i));
}

void Draft::require_attributes(std::string_view needing, const Attributes& list) const {
    const OpDef* row = find_op(needing);
    if (row == nullptr) return;
    for (const auto& [key, value] : list) {
        const AttrDef* def = row->attribute(key);
        if (def == nullptr)
            unsupported("has an attribute '" + key + "' that this build does not know", "export without it");
        if (def->type != type_of(value)) invalid("has an attribute '" + key + "' of the wrong type");
    }
}

void Draft::finish(std::vector<Value*> values) {
    results = std::move(values);
    finished = true;
}

void Draft::invalid(std::string message) const {
    fail(ErrorCode::invalid_model, "node '" + name + "' (" + op + ") " + message,
         "the model breaks ONNX's rules: export it again, or check it with onnx.checker");
}

void Draft::unsupported(std::string message, std::string hint) const {
    fail(ErrorCode::unsupported, "node '" + name + "' (" + op + ") " + message, std::move(hint));
}

const Adapter* next_adapter(std::string_view domain, std::string_view op, int64_t version) {
    using Key = std::pair<std::string_view, std::string_view>;
    static const auto table = [] {
        std::map<Key, std::vector<const Adapter*>> result;
        for (const auto part : {shape_adapters(), compute_adapters(), contrib_adapters(), contrib_attention_adapters()})
            for (const Adapter& adapter : part) result[{adapter.domain, adapter.op}].push_back(&adapter);
        for (auto& [_, list] : result)
            std::stable_sort(list.begin(), list.end(),
                             [](const Adapter* a, const Adapter* b) { return a->until < b->until; });
        return result;
    }();
    const auto it = table.find({domain, op});
    if (it == table.end()) return nullptr;
    for (const Adapter* adapter : it->second)
        if (version < adapter->until) return adapter;
    return nullptr;
}

}  // namespace planish::onnx_import
