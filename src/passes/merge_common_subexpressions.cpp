// Merge common subexpressions: f(a, b) computed twice is computed once; equal constants become one.
#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

void append(std::string& key, const void* data, size_t bytes) {
    key.append(static_cast<const char*>(data), bytes);
}

template <typename T>
void append(std::string& key, const T& number) {
    append(key, &number, sizeof number);
}

void append_text(std::string& key, std::string_view text) {
    append(key, text.size());
    key += text;
}

/// Bytes that two tensors share exactly when they are identical; nullopt when comparing them is not worth it.
bool append_tensor(std::string& key, const Tensor& t) {
    constexpr int64_t kMaxBytes = 4096;
    append(key, t.dtype());
    append(key, t.rank());
    for (int64_t d : t.dims()) append(key, d);
    if (t.dtype() == DType::string) {
        for (const std::string& s : t.strings()) append_text(key, s);
        return true;
    }
    if (t.bytes() > kMaxBytes)
        append(key, t.source() ? static_cast<const void*>(t.source()) : t.raw());  // large ones: when they share memory
    else if (t.bytes() > 0)
        append(key, t.raw(), static_cast<size_t>(t.bytes()));
    return true;
}

bool append_attribute(std::string& key, const Attribute& attribute) {
    append(key, attribute.index());
    return std::visit(
        [&](const auto& value) {
            using T = std::decay_t<decltype(value)>;
            if constexpr (std::is_arithmetic_v<T>) {
                append(key, value);
            } else if constexpr (std::is_same_v<T, std::string>) {
                append_text(key, value);
            } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
                append(key, value.size());
                for (const std::string& s : value) append_text(key, s);
            } else if constexpr (std::is_same_v<T, Tensor>) {
                return append_tensor(key, value);
            } else if constexpr (std::is_same_v<T, GraphPtr>) {
                return false;
            } else {
                append(key, value.size());
                if (!value.empty()) append(key, value.data(), value.size() * sizeof value[0]);
            }
            return true;
        },
        attribute);
}

/// A text that equal computations share; empty: never merged.
std::string key_of(const Node& node) {
    const OpDef& op = node.op();
    if (has(op.traits, Trait::nondeterministic)) return {};
    std::string key;
    append(key, &op);
    append(key, node.outputs().size());
    std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
    if (has(op.traits, Trait::commutative)) std::sort(inputs.begin(), inputs.end());
    append(key, inputs.size());
    for (Value* input : inputs) append(key, input);
    for (const AttrDef& def : op.attributes) {
        const Attribute* attribute = node.find(def.name);
        append(key, attribute != nullptr);
        if (attribute != nullptr && !append_attribute(key, *attribute)) return {};
    }
    return key;
}

}  // namespace

int merge_common_subexpressions(Graph& graph) {
    int changes = 0;
    std::unordered_map<std::string, Value*> constants;
    for (Value* value : graph.values()) {
        if (!value->is_constant()) continue;
        std::string key;
        append_tensor(key, *value->constant);
        const auto [it, inserted] = constants.emplace(std::move(key), value);
        if (inserted || graph.is_output(value)) continue;
        graph.replace_all_uses(value, it->second);
        graph.erase_constant(value);
        ++changes;
    }
    std::unordered_map<std::string, Node*> seen;
    for (Node* node : graph.node_list()) {
        std::string key = key_of(*node);
        if (key.empty()) continue;
        const auto [it, inserted] = seen.emplace(std::move(key), node);
        if (inserted) continue;
        Node* kept = it->second;
        // Two graph outputs keep two names: they stay apart.
        bool both_public = false;
        for (size_t i = 0; i < node->outputs().size(); ++i) {
            const Value *a = kept->outputs()[i], *b = node->outputs()[i];
            both_public |=
                (a == nullptr) != (b == nullptr) || (a != nullptr && graph.is_output(a) && graph.is_output(b));
        }
        if (both_public) continue;
        for (size_t i = 0; i < node->outputs().size(); ++i)
            if (node->outputs()[i] != nullptr) graph.replace_all_uses(node->outputs()[i], kept->outputs()[i]);
        kept->origins = origins_of(*kept);
        add_origins(kept, {node});
        graph.erase(node);
        ++changes;
    }
    return changes;
}

}  // namespace planish::passes
