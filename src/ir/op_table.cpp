// The op table: every row of ops/*.def, in one sorted array.
#include <algorithm>
#include <charconv>

#include "ir/op.hpp"
#include "planish/error.hpp"

namespace planish {

// First reading of the rows: declare the functions they name.
#define PLANISH_OP(domain, name, in_min, in_max, out_min, out_max, attributes, traits, infer_fn, reference_fn) \
    namespace infer {                                                                                          \
    void infer_fn(InferContext&);                                                                              \
    }                                                                                                          \
    namespace reference {                                                                                      \
    void reference_fn(RefContext&);                                                                            \
    }
#include "ir/ops/all.def"
#undef PLANISH_OP

namespace {

Attribute parse_default(AttrType type, std::string_view text) {
    switch (type) {
        case AttrType::integer:
            return static_cast<int64_t>(std::stoll(std::string(text)));
        case AttrType::real:
            return std::stod(std::string(text));
        case AttrType::text:
            return std::string(text);
        default:
            fail(ErrorCode::internal, "only scalar attributes have defaults in the op table");
    }
}

AttrType parse_type(std::string_view text) {
    constexpr std::string_view kNames[] = {"i", "f", "s", "is", "fs", "ss", "t", "g"};
    for (size_t i = 0; i < std::size(kNames); ++i)
        if (kNames[i] == text) return static_cast<AttrType>(i);
    fail(ErrorCode::internal, "unknown attribute type '" + std::string(text) + "' in the op table");
}

// "axis:i=0 keepdims:i=1 axes:is perm:is!" -> definitions
std::vector<AttrDef> parse_attributes(std::string_view text) {
    std::vector<AttrDef> result;
    while (!text.empty()) {
        const size_t end = std::min(text.find(' '), text.size());
        std::string_view item = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (item.empty()) continue;
        AttrDef def;
        const size_t colon = item.find(':');
        def.name = std::string(item.substr(0, colon));
        std::string_view rest = item.substr(colon + 1);
        const size_t equals = rest.find('=');
        std::string_view type = rest.substr(0, equals);
        if (type.ends_with('!')) {
            def.required = true;
            type.remove_suffix(1);
        }
        def.type = parse_type(type);
        if (equals != std::string_view::npos) def.default_value = parse_default(def.type, rest.substr(equals + 1));
        result.push_back(std::move(def));
    }
    return result;
}

std::vector<OpDef> make_table() {
    std::vector<OpDef> table;
    auto add = [&](std::string_view domain, std::string_view name, int in_min, int in_max, int out_min, int out_max,
                   std::string_view attributes, Trait traits, InferFn infer, ReferenceFn reference) {
        table.push_back(
            {domain, name, in_min, in_max, out_min, out_max, parse_attributes(attributes), traits, infer, reference});
    };
#define PLANISH_OP(domain, name, in_min, in_max, out_min, out_max, attributes, traits, infer_fn, reference_fn) \
    add(domain, #name, in_min, in_max, out_min, out_max, attributes, traits, infer::infer_fn, reference::reference_fn);
    using enum Trait;
#include "ir/ops/all.def"
#undef PLANISH_OP
    std::sort(table.begin(), table.end(),
              [](const OpDef& a, const OpDef& b) { return std::pair(a.domain, a.name) < std::pair(b.domain, b.name); });
    return table;
}

const std::vector<OpDef>& table() {
    static const std::vector<OpDef> ops = make_table();
    return ops;
}

}  // namespace

const AttrDef* OpDef::attribute(std::string_view attribute_name) const {
    for (const AttrDef& def : attributes)
        if (def.name == attribute_name) return &def;
    return nullptr;
}

std::span<const OpDef> all_ops() {
    return table();
}

const OpDef* find_op(std::string_view name, std::string_view domain) {
    const auto& ops = table();
    const auto key = std::pair(domain, name);
    const auto it = std::lower_bound(ops.begin(), ops.end(), key,
                                     [](const OpDef& a, const auto& k) { return std::pair(a.domain, a.name) < k; });
    return it != ops.end() && it->domain == domain && it->name == name ? &*it : nullptr;
}

}  // namespace planish
