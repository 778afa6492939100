// The text form of a graph: printer and parser. The grammar, by example:
//
//   graph "name" {
//     input %x : float32[N, 3, 8, 8]
//     const %w : float32[2] = [0.5, 1.0]
//     %y, %z = planish.Region(%x, _, %w) {kind = "conv", pads = [1, 1], body = graph "b" { ... }} name "conv1"
//         origins ["conv1", "relu1"] : float32[N, 2], float32[N]
//     output %y
//   }
//
// `_` is an omitted input. Names and types of nodes may be left out when parsing: they are made and inferred.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

bool is_name_char(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_.:/-?", c) != nullptr;
}

std::string quote(std::string_view text) {
    std::string result = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') result += '\\';
        if (c == '\n')
            result += "\\n";
        else
            result += c;
    }
    return result + "\"";
}

std::string value_name(std::string_view name) {
    bool plain = !name.empty();
    for (char c : name) plain = plain && c != '\0' && is_name_char(c);
    return "%" + (plain ? std::string(name) : quote(name));
}

std::string real_text(double value) {
    char buffer[40];
    for (int digits : {9, 17}) {  // the shortest of float and double precision that reads back the same
        std::snprintf(buffer, sizeof buffer, "%.*g", digits, value);
        if (std::strtod(buffer, nullptr) == value) break;
    }
    std::string text = buffer;
    if (text.find_first_of(".en") == std::string::npos) text += ".0";
    return text;
}

uint64_t fnv1a(const void* data, size_t bytes) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
    return hash;
}

std::string elements_text(const Tensor& tensor, int64_t limit) {
    if (limit >= 0 && tensor.size() > limit) {
        char buffer[32];
        const uint64_t hash =
            tensor.dtype() == DType::string ? 0 : fnv1a(tensor.raw(), static_cast<size_t>(tensor.bytes()));
        std::snprintf(buffer, sizeof buffer, "dense<%016llx>", static_cast<unsigned long long>(hash));
        return buffer;
    }
    std::string text = "[";
    for (int64_t i = 0; i < tensor.size(); ++i) {
        if (i) text += ", ";
        if (tensor.dtype() == DType::string)
            text += quote(tensor.strings()[static_cast<size_t>(i)]);
        else if (is_float(tensor.dtype()))
            text += real_text(tensor.at_double(i));
        else
            text += std::to_string(tensor.at_int64(i));
    }
    return text + "]";
}

class Printer {
  public:
    explicit Printer(int64_t limit) : limit_(limit) {}

    std::string graph(const Graph& g, const std::string& indent) const {
        std::string text = "graph " + quote(g.name) + " {\n";
        const std::string inner = indent + "  ";
        for (const Value* input : g.inputs())
            text += inner + "input " + value_name(input->name) + " : " + to_string(input->type) + "\n";
        for (const Value* value : g.values())
            if (value->is_constant())
                text += inner + "const " + value_name(value->name) + " : " + to_string(value->type) + " = " +
                        elements_text(*value->constant, limit_) + "\n";
        for (const auto& n : g.nodes()) text += inner + node(*n, inner) + "\n";
        text += inner + "output";
        for (size_t i = 0; i < g.outputs().size(); ++i) text += (i ? ", " : " ") + value_name(g.outputs()[i]->name);
        return text + "\n" + indent + "}";
    }

  private:
    std::string node(const Node& n, const std::string& indent) const {
        std::string text, types;
        for (size_t i = 0; i < n.outputs().size(); ++i) {
            const Value* output = n.outputs()[i];
            text += (i ? ", " : "") + (output ? value_name(output->name) : std::string("_"));
            types += (i ? ", " : " : ") + (output ? to_string(output->type) : std::string("_"));
        }
        text +=
            " = " + (n.op().domain.empty() ? "" : std::string(n.op().domain) + ".") + std::string(n.op().name) + "(";
        for (int i = 0; i < n.input_count(); ++i)
            text += (i ? ", " : "") + (n.input(i) ? value_name(n.input(i)->name) : std::string("_"));
        text += ")";
        if (!n.attributes.empty()) {
            text += " {";
            bool first = true;
            for (const auto& [key, value] : n.attributes) {
                text += (first ? "" : ", ") + key + " = " + attribute(value, indent);
                first = false;
            }
            text += "}";
        }
        const std::string made = n.outputs().empty() || !n.output()
                                     ? std::string(n.op().name)
                                     : std::string(n.op().name) + "(" + n.output()->name + ")";
        if (n.name != made) text += " name " + quote(n.name);
        if (!n.origins.empty()) text += " origins " + attribute(n.origins, indent);
        return text + types;
    }

    std::string attribute(const Attribute& a, const std::string& indent) const {
        auto list = [](const auto& items, auto&& show) {
            std::string text = "[";
            for (size_t i = 0; i < items.size(); ++i) text += (i ? ", " : "") + show(items[i]);
            return text + "]";
        };
        switch (type_of(a)) {
            case AttrType::integer:
                return std::to_string(std::get<int64_t>(a));
            case AttrType::real:
                return real_text(std::get<double>(a));
            case AttrType::text:
                return quote(std::get<std::string>(a));
            case AttrType::integers:
                return list(std::get<std::vector<int64_t>>(a), [](int64_t v) { return std::to_string(v); });
            case AttrType::reals:
                return list(std::get<std::vector<double>>(a), real_text);
            case AttrType::texts:
                return list(std::get<std::vector<std::string>>(a), quote);
            case AttrType::tensor: {
                const Tensor& t = std::get<Tensor>(a);
                return "tensor " + to_string(Type{Kind::tensor, t.dtype(), to_shape(t.dims()), Kind::tensor}) + " " +
                       elements_text(t, limit_);
            }
            case AttrType::graph:
                return graph(*std::get<GraphPtr>(a), indent);
        }
        return {};
    }

    int64_t limit_;
};

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text) {}

    std::unique_ptr<Graph> parse() {
        auto result = graph();
        skip();
        if (at_ != text_.size()) error("expected the end");
        return result;
    }

  private:
    [[noreturn]] void error(const std::string& what) const {
        const size_t line =
            1 + static_cast<size_t>(std::count(text_.begin(), text_.begin() + static_cast<long>(at_), '\n'));
        fail(ErrorCode::invalid_model, "graph text, line " + std::to_string(line) + ": " + what + " at '" +
                                           std::string(text_.substr(at_, 24)) + "'");
    }
    void skip() {
        while (at_ < text_.size()) {
            if (std::isspace(static_cast<unsigned char>(text_[at_])))
                ++at_;
            else if (text_[at_] == '#')
                while (at_ < text_.size() && text_[at_] != '\n') ++at_;
            else
                break;
        }
    }
    char peek() {
        skip();
        return at_ < text_.size() ? text_[at_] : '\0';
    }
    bool take(std::string_view token) {
        skip();
        if (!text_.substr(at_).starts_with(token)) return false;
        const bool word = is_name_char(token.back()) && token.back() != '-';
        if (word && at_ + token.size() < text_.size() && is_name_char(text_[at_ + token.size()])) return false;
        at_ += token.size();
        return true;
    }
    void expect(std::string_view token) {
        if (!take(token)) error("expected '" + std::string(token) + "'");
    }
    std::string word() {
        skip();
        const size_t begin = at_;
        while (at_ < text_.size() && is_name_char(text_[at_])) ++at_;
        if (begin == at_) error("expected a name");
        return std::string(text_.substr(begin, at_ - begin));
    }
    std::string quoted() {
        expect("\"");
        std::string result;
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] == '\\' && at_ + 1 < text_.size()) {
                ++at_;
                result += text_[at_] == 'n' ? '\n' : text_[at_];
            } else {
                result += text_[at_];
            }
            ++at_;
        }
        if (at_ >= text_.size()) error("unterminated string");
        ++at_;
        return result;
    }
    std::string value_ref() {
        expect("%");
        return at_ < text_.size() && text_[at_] == '"' ? quoted() : word();
    }

    Type type() {
        if (take("sequence(")) {
            Type t = type();
            t.kind = Kind::sequence;
            expect(")");
            return t;
        }
        if (take("optional(")) {
            Type t = type();
            t.element_kind = t.kind;
            t.kind = Kind::optional;
            expect(")");
            return t;
        }
        const std::string name = word();
        const auto dtype = dtype_from_string(name);
        if (!dtype && name != "undefined") error("unknown dtype '" + name + "'");
        Type result{Kind::tensor, dtype.value_or(DType::undefined), std::nullopt, Kind::tensor};
        expect("[");
        if (take("*")) {
            expect("]");
            return result;
        }
        Shape shape;
        while (!take("]")) {
            // A dimension ends at a comma or bracket outside of parentheses and quotes.
            skip();
            size_t end = at_;
            int depth = 0;
            bool in_quote = false;
            for (; end < text_.size(); ++end) {
                const char c = text_[end];
                if (c == '\'') in_quote = !in_quote;
                if (in_quote) continue;
                if (c == '(') ++depth;
                if (c == ')') --depth;
                if (depth == 0 && (c == ',' || c == ']')) break;
            }
            shape.push_back(Dim::parse(text_.substr(at_, end - at_)));
            at_ = end;
            take(",");
        }
        result.shape = std::move(shape);
        return result;
    }

    bool at_number() {
        const char c = peek();
        return std::isdigit(static_cast<unsigned char>(c)) || c == '-' || c == '+' || take_is_special();
    }
    bool take_is_special() { return text_.substr(at_).starts_with("inf") || text_.substr(at_).starts_with("nan"); }
    // An integer, or a real when the text has a point, an exponent, inf or nan.
    Attribute number() {
        skip();
        size_t end = at_;
        while (end < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[end])) || text_[end] == '.' ||
                                      text_[end] == '-' || text_[end] == '+'))
            ++end;
        const std::string token(text_.substr(at_, end - at_));
        at_ = end;
        if (token.find_first_of(".enai") == std::string::npos) {
            int64_t value = 0;
            const auto [rest, code] = std::from_chars(token.data(), token.data() + token.size(), value);
            if (code == std::errc() && rest == token.data() + token.size()) return value;
        }
        char* rest = nullptr;
        const double value = std::strtod(token.c_str(), &rest);
        if (token.empty() || *rest != '\0') error("'" + token + "' is not a number");
        return value;
    }
    static double as_real(const Attribute& a) {
        return std::holds_alternative<int64_t>(a) ? static_cast<double>(std::get<int64_t>(a)) : std::get<double>(a);
    }

    Tensor tensor(const Type& t) {
        const auto dims = t.shape ? static_dims(*t.shape) : std::nullopt;
        if (!dims) error("a constant needs a static shape");
        Tensor result(t.dtype, *dims);
        if (take("dense<")) {
            word();
            expect(">");
            return result;
        }
        expect("[");
        int64_t i = 0;
        while (!take("]")) {
            if (i >= result.size()) error("too many elements");
            if (t.dtype == DType::string) {
                result.strings()[static_cast<size_t>(i++)] = quoted();
            } else {
                const Attribute n = number();
                if (t.dtype == DType::i64 && std::holds_alternative<int64_t>(n))
                    result.data<int64_t>()[static_cast<size_t>(i++)] = std::get<int64_t>(n);
                else
                    result.set_double(i++, as_real(n));
            }
            take(",");
        }
        if (i != result.size())
            error("expected " + std::to_string(result.size()) + " elements, got " + std::to_string(i));
        return result;
    }

    Attribute attribute(const AttrDef& def) {
        if (peek() == '"') return quoted();
        if (take("tensor")) {
            const Type t = type();
            return tensor(t);
        }
        if (text_.substr(at_).starts_with("graph")) return GraphPtr(graph());
        if (take("[")) {
            std::vector<int64_t> integers;
            std::vector<double> reals;
            std::vector<std::string> texts;
            while (!take("]")) {
                if (peek() == '"') {
                    texts.push_back(quoted());
                } else {
                    const Attribute n = number();
                    reals.push_back(as_real(n));
                    if (std::holds_alternative<int64_t>(n)) integers.push_back(std::get<int64_t>(n));
                }
                take(",");
            }
            if (def.type == AttrType::texts) return texts;
            if (def.type == AttrType::reals) return reals;
            return integers;
        }
        const Attribute n = number();
        return def.type == AttrType::real ? Attribute(as_real(n)) : n;
    }

    void node(Graph& g) {
        std::vector<std::string> outputs;
        do outputs.push_back(take("_") ? "" : value_ref());
        while (take(","));
        expect("=");
        std::string op = word(), domain;
        if (const size_t dot = op.rfind('.'); dot != std::string::npos) {
            domain = op.substr(0, dot);
            op = op.substr(dot + 1);
        }
        const OpDef* def = find_op(op, domain);
        if (def == nullptr) error("unknown operator '" + op + "'");
        std::vector<Value*> inputs;
        expect("(");
        while (!take(")")) {
            if (take("_")) {
                inputs.push_back(nullptr);
            } else {
                const std::string name = value_ref();
                Value* value = g.find_value(name);
                if (value == nullptr) error("value '" + name + "' is not defined");
                inputs.push_back(value);
            }
            take(",");
        }
        Attributes attributes;
        if (take("{")) {
            while (!take("}")) {
                const std::string key = word();
                const AttrDef* attribute_def = def->attribute(key);
                if (attribute_def == nullptr) error("op " + op + " has no attribute '" + key + "'");
                expect("=");
                attributes[key] = attribute(*attribute_def);
                take(",");
            }
        }
        std::string name;
        if (take("name")) name = quoted();
        std::vector<std::string> origins;
        if (take("origins"))
            origins = std::get<std::vector<std::string>>(attribute({"origins", AttrType::texts, false, {}}));
        Node* made = g.add_node(op, std::move(inputs), std::move(attributes), static_cast<int>(outputs.size()), name,
                                nullptr, domain, outputs);
        made->origins = std::move(origins);
        if (!take(":")) return;
        for (size_t i = 0; i < outputs.size(); ++i) {
            if (i) expect(",");
            if (take("_")) continue;
            const Type t = type();
            Type& known = made->output(static_cast<int>(i))->type;
            if (known.dtype == DType::undefined || !known.shape) known = t;
        }
    }

    std::unique_ptr<Graph> graph() {
        if (++depth_ > 64) error("graphs are nested too deeply");
        expect("graph");
        auto g = std::make_unique<Graph>(quoted());
        expect("{");
        while (!take("}")) {
            if (take("input")) {
                const std::string name = value_ref();
                expect(":");
                g->add_input(name, type());
            } else if (take("const")) {
                const std::string name = value_ref();
                expect(":");
                const Type t = type();
                expect("=");
                g->add_constant(name, tensor(t));
            } else if (take("output")) {
                if (peek() != '%') continue;
                do {
                    const std::string name = value_ref();
                    Value* value = g->find_value(name);
                    if (value == nullptr) error("output '" + name + "' is not defined");
                    g->add_output(value);
                } while (take(","));
            } else {
                node(*g);
            }
        }
        --depth_;
        return g;
    }

    std::string_view text_;
    size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace

std::string print(const Graph& graph, int64_t max_constant) {
    return Printer(max_constant).graph(graph, "") + "\n";
}

std::unique_ptr<Graph> parse_graph(std::string_view text) {
    return Parser(text).parse();
}

}  // namespace planish
