// Dim: canonical polynomials over atoms.
#include "ir/dim.hpp"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <charconv>

#include "planish/error.hpp"

namespace planish {
namespace {

enum class AtomKind : uint8_t { symbol, unknown, floor_div, max, min };

struct Atom {
    AtomKind kind;
    std::string text;  // canonical, and the key by which atoms compare
    Dim a, b;          // operands of floor_div, max, min
};

// Products of sums grow as fast as they are written; no network's shapes come near this, a hostile plan's may.
constexpr size_t kMaxTerms = 512;

using Monomial = std::vector<std::string>;  // sorted atom texts; empty: the constant term

int64_t floor_div_int(int64_t a, int64_t b) {
    if (b == -1) {  // the one quotient that may not fit
        int64_t r;
        if (__builtin_sub_overflow(int64_t{0}, a, &r)) fail(ErrorCode::invalid_model, "a dimension overflows 64 bits");
        return r;
    }
    const int64_t q = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

int64_t checked_add(int64_t a, int64_t b) {
    int64_t r;
    if (__builtin_add_overflow(a, b, &r)) fail(ErrorCode::invalid_model, "a dimension overflows 64 bits");
    return r;
}

int64_t checked_mul(int64_t a, int64_t b) {
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r)) fail(ErrorCode::invalid_model, "a dimension overflows 64 bits");
    return r;
}

bool is_plain_symbol_char(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '?';
}

std::string quote_symbol(const std::string& name) {
    bool plain = !name.empty() && !std::isdigit(static_cast<unsigned char>(name[0])) && name != "floor" &&
                 name != "max" && name != "min";
    for (char c : name) plain = plain && is_plain_symbol_char(c);
    if (plain) return name;
    std::string quoted = "'";
    for (char c : name)
        if (c != '\'') quoted += c;
    return quoted + "'";
}

}  // namespace

struct Dim::Poly {
    std::map<Monomial, int64_t> terms;
    std::map<std::string, std::shared_ptr<const Atom>> atoms;
    std::string text;

    static Dim finish(Poly&& p) {
        std::erase_if(p.terms, [](const auto& t) { return t.second == 0; });
        if (p.terms.empty()) return Dim(0);
        if (p.terms.size() == 1 && p.terms.begin()->first.empty()) return Dim(p.terms.begin()->second);
        std::map<std::string, std::shared_ptr<const Atom>> used;
        for (const auto& [monomial, coefficient] : p.terms)
            for (const std::string& atom : monomial) used.emplace(atom, p.atoms.at(atom));
        p.atoms = std::move(used);
        // Text: terms in order, the constant last.
        auto append = [&](const Monomial& m, int64_t c) {
            const bool negative = c < 0;
            const uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(c) : static_cast<uint64_t>(c);
            p.text += p.text.empty() ? (negative ? "-" : "") : (negative ? " - " : " + ");
            if (m.empty() || magnitude != 1) p.text += std::to_string(magnitude) + (m.empty() ? "" : "*");
            for (size_t i = 0; i < m.size(); ++i) p.text += (i ? "*" : "") + m[i];
        };
        for (const auto& [m, c] : p.terms)
            if (!m.empty()) append(m, c);
        if (const auto it = p.terms.find({}); it != p.terms.end()) append({}, it->second);
        return Dim(std::make_shared<const Poly>(std::move(p)));
    }

    static Poly of(const Dim& d) {
        if (d.poly_) {
            Poly p = *d.poly_;
            p.text.clear();
            return p;
        }
        Poly p;
        if (d.constant_ != 0) p.terms[{}] = d.constant_;
        return p;
    }

    static Dim of_atom(AtomKind kind, std::string text, Dim a = 0, Dim b = 0) {
        Poly p;
        p.terms[{text}] = 1;
        p.atoms[text] = std::make_shared<const Atom>(Atom{kind, text, std::move(a), std::move(b)});
        return finish(std::move(p));
    }
};

Dim::Dim(std::shared_ptr<const Poly> poly) : poly_(std::move(poly)) {}

namespace {
std::atomic<uint64_t> next_unknown{0};
}

Dim Dim::symbol(std::string name) {
    uint64_t number = 0;
    if (name.size() > 1 && name.size() < 16 && name[0] == '?' &&
        std::from_chars(name.data() + 1, name.data() + name.size(), number).ptr == name.data() + name.size()) {
        // An unknown read back from text keeps its number; fresh ones start above it.
        uint64_t seen = next_unknown.load();
        while (seen <= number && !next_unknown.compare_exchange_weak(seen, number + 1)) {
        }
        return Poly::of_atom(AtomKind::unknown, std::move(name));
    }
    return Poly::of_atom(AtomKind::symbol, quote_symbol(name));
}

Dim Dim::unknown() {
    return Poly::of_atom(AtomKind::unknown, "?" + std::to_string(next_unknown++));
}

bool Dim::is_symbol() const {
    return poly_ && poly_->terms.size() == 1 && poly_->terms.begin()->second == 1 && poly_->atoms.size() == 1 &&
           poly_->terms.begin()->first.size() == 1 && poly_->atoms.begin()->second->kind == AtomKind::symbol;
}

bool Dim::contains_unknown() const {
    if (!poly_) return false;
    for (const auto& [text, atom] : poly_->atoms)
        if (atom->kind == AtomKind::unknown || atom->a.contains_unknown() || atom->b.contains_unknown()) return true;
    return false;
}

Dim operator+(const Dim& a, const Dim& b) {
    if (!a.poly_ && !b.poly_) return checked_add(a.constant_, b.constant_);
    Dim::Poly p = Dim::Poly::of(a);
    const Dim::Poly q = Dim::Poly::of(b);
    for (const auto& [m, c] : q.terms) p.terms[m] = checked_add(p.terms[m], c);
    p.atoms.insert(q.atoms.begin(), q.atoms.end());
    return Dim::Poly::finish(std::move(p));
}

Dim operator-(const Dim& a, const Dim& b) {
    return a + b * Dim(-1);
}

Dim operator*(const Dim& a, const Dim& b) {
    if (!a.poly_ && !b.poly_) return checked_mul(a.constant_, b.constant_);
    const Dim::Poly p = Dim::Poly::of(a), q = Dim::Poly::of(b);
    if (p.terms.size() * q.terms.size() > kMaxTerms) fail(ErrorCode::invalid_model, "a dimension is too complex");
    Dim::Poly r;
    r.atoms = p.atoms;
    r.atoms.insert(q.atoms.begin(), q.atoms.end());
    for (const auto& [m, c] : p.terms)
        for (const auto& [n, d] : q.terms) {
            Monomial product = m;
            product.insert(product.end(), n.begin(), n.end());
            std::sort(product.begin(), product.end());
            r.terms[product] = checked_add(r.terms[product], checked_mul(c, d));
        }
    return Dim::Poly::finish(std::move(r));
}

bool operator==(const Dim& a, const Dim& b) {
    if (!a.poly_ || !b.poly_) return !a.poly_ && !b.poly_ && a.constant_ == b.constant_;
    return a.poly_ == b.poly_ || a.poly_->text == b.poly_->text;
}

std::optional<Dim> Dim::exact_div(const Dim& a, const Dim& b) {
    if (a == b && !(b == Dim(0))) return Dim(1);
    if (b.poly_ && b.poly_->terms.size() != 1) return std::nullopt;
    if (!b.poly_ && b.constant_ == 0) return std::nullopt;
    const Poly q = Poly::of(b);
    const auto& [divisor, coefficient] = *q.terms.begin();
    Poly p = Poly::of(a);
    std::map<Monomial, int64_t> terms;
    for (const auto& [m, c] : p.terms) {
        if (coefficient != -1 && c % coefficient != 0) return std::nullopt;
        Monomial rest = m;
        for (const std::string& atom : divisor) {
            const auto it = std::find(rest.begin(), rest.end(), atom);
            if (it == rest.end()) return std::nullopt;
            rest.erase(it);
        }
        terms[rest] = floor_div_int(c, coefficient);
    }
    p.terms = std::move(terms);
    return Poly::finish(std::move(p));
}

Dim Dim::floor_div(const Dim& a, const Dim& b) {
    if (!b.poly_ && b.constant_ == 0) fail(ErrorCode::invalid_model, "a dimension is divided by zero");
    if (!a.poly_ && !b.poly_) return floor_div_int(a.constant_, b.constant_);
    if (const auto exact = exact_div(a, b)) return *exact;
    if (!b.poly_) {
        // floor((b*x + r) / b) = x + floor(r / b)
        Poly whole, rest;
        for (const auto& [m, c] : a.poly_->terms) {
            const int64_t q = floor_div_int(c, b.constant_);
            const bool divides = b.constant_ == -1 || c % b.constant_ == 0;
            if (divides || m.empty()) whole.terms[m] = q;
            if (!divides) rest.terms[m] = m.empty() ? c - q * b.constant_ : c;
        }
        whole.atoms = rest.atoms = a.poly_->atoms;
        const Dim quotient = Poly::finish(std::move(whole));
        const Dim remainder = Poly::finish(std::move(rest));
        if (!remainder.poly_) return quotient + Dim(floor_div_int(remainder.constant_, b.constant_));
        return quotient + Poly::of_atom(AtomKind::floor_div,
                                        "floor(" + remainder.to_string() + ", " + b.to_string() + ")", remainder, b);
    }
    return Poly::of_atom(AtomKind::floor_div, "floor(" + a.to_string() + ", " + b.to_string() + ")", a, b);
}

Dim Dim::ceil_div(const Dim& a, const Dim& b) {
    return floor_div(a + b - Dim(1), b);
}

namespace {
Dim ordered_pair(AtomKind kind, const Dim& a, const Dim& b, Dim (*make)(AtomKind, std::string, Dim, Dim)) {
    const char* name = kind == AtomKind::max ? "max(" : "min(";
    const bool swap = b.to_string() < a.to_string();
    const Dim &x = swap ? b : a, &y = swap ? a : b;
    return make(kind, name + x.to_string() + ", " + y.to_string() + ")", x, y);
}
}  // namespace

Dim Dim::max(const Dim& a, const Dim& b) {
    if (a == b) return a;
    if (const auto d = (a - b).value()) return *d >= 0 ? a : b;
    return ordered_pair(AtomKind::max, a, b, &Poly::of_atom);
}

Dim Dim::min(const Dim& a, const Dim& b) {
    if (a == b) return a;
    if (const auto d = (a - b).value()) return *d <= 0 ? a : b;
    return ordered_pair(AtomKind::min, a, b, &Poly::of_atom);
}

Dim Dim::substitute(const SymbolTable& symbols) const {
    if (!poly_) return *this;
    std::map<std::string, Dim> replaced;
    for (const auto& [text, atom] : poly_->atoms) {
        switch (atom->kind) {
            case AtomKind::symbol: {
                const std::string name = text.front() == '\'' ? text.substr(1, text.size() - 2) : text;
                const auto it = symbols.find(name);
                if (it != symbols.end()) replaced.emplace(text, Dim(it->second));
                break;
            }
            case AtomKind::unknown:
                break;
            case AtomKind::floor_div:
                replaced.emplace(text, floor_div(atom->a.substitute(symbols), atom->b.substitute(symbols)));
                break;
            case AtomKind::max:
                replaced.emplace(text, max(atom->a.substitute(symbols), atom->b.substitute(symbols)));
                break;
            case AtomKind::min:
                replaced.emplace(text, min(atom->a.substitute(symbols), atom->b.substitute(symbols)));
                break;
        }
    }
    Dim sum = 0;
    for (const auto& [monomial, coefficient] : poly_->terms) {
        Dim product = coefficient;
        for (const std::string& text : monomial) {
            const auto it = replaced.find(text);
            if (it != replaced.end()) {
                product = product * it->second;
            } else {
                Poly single;
                single.terms[{text}] = 1;
                single.atoms[text] = poly_->atoms.at(text);
                product = product * Poly::finish(std::move(single));
            }
        }
        sum = sum + product;
    }
    return sum;
}

std::string Dim::to_string() const {
    return poly_ ? poly_->text : std::to_string(constant_);
}

void Dim::collect_symbols(std::vector<std::string>& names) const {
    if (!poly_) return;
    for (const auto& [text, atom] : poly_->atoms) {
        if (atom->kind == AtomKind::symbol)
            names.push_back(text.front() == '\'' ? text.substr(1, text.size() - 2) : text);
        atom->a.collect_symbols(names);
        atom->b.collect_symbols(names);
    }
}

namespace {

// expression = term (('+' | '-') term)* ; term = factor ('*' factor)* ; factor = integer | symbol | f(e, e) | (e)
class DimParser {
  public:
    explicit DimParser(std::string_view text) : text_(text) {}

    Dim parse() {
        const Dim result = expression();
        skip();
        if (at_ != text_.size()) error();
        return result;
    }

  private:
    [[noreturn]] void error() const {
        fail(ErrorCode::invalid_argument, "'" + std::string(text_) + "' is not a dimension",
             "write an integer, a name, or an expression like 2*S + 1");
    }
    void skip() {
        while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    }
    bool take(char c) {
        skip();
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    void expect(char c) {
        if (!take(c)) error();
    }
    Dim expression() {
        if (++depth_ > 64) error();
        Dim sum = take('-') ? Dim(0) - term() : term();
        for (;;) {
            if (take('+'))
                sum = sum + term();
            else if (take('-'))
                sum = sum - term();
            else
                break;
        }
        --depth_;
        return sum;
    }
    Dim term() {
        Dim product = factor();
        while (take('*')) product = product * factor();
        return product;
    }
    Dim factor() {
        skip();
        if (at_ >= text_.size()) error();
        if (take('(')) {
            const Dim inner = expression();
            expect(')');
            return inner;
        }
        if (take('\'')) {
            const size_t end = text_.find('\'', at_);
            if (end == std::string_view::npos) error();
            std::string name(text_.substr(at_, end - at_));
            at_ = end + 1;
            return Dim::symbol(std::move(name));
        }
        size_t end = at_;
        while (end < text_.size() && is_plain_symbol_char(text_[end])) ++end;
        const std::string_view word = text_.substr(at_, end - at_);
        if (word.empty()) error();
        at_ = end;
        if (std::isdigit(static_cast<unsigned char>(word[0]))) {
            int64_t value = 0;
            const auto [rest, code] = std::from_chars(word.data(), word.data() + word.size(), value);
            if (code != std::errc() || rest != word.data() + word.size()) error();
            return value;
        }
        if ((word == "floor" || word == "max" || word == "min") && take('(')) {
            const Dim a = expression();
            expect(',');
            const Dim b = expression();
            expect(')');
            return word == "floor" ? Dim::floor_div(a, b) : word == "max" ? Dim::max(a, b) : Dim::min(a, b);
        }
        return Dim::symbol(std::string(word));
    }

    std::string_view text_;
    size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace

Dim Dim::parse(std::string_view text) {
    return DimParser(text).parse();
}

std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + shape[i].to_string();
    return text + "]";
}

std::optional<std::vector<int64_t>> static_dims(const Shape& shape) {
    std::vector<int64_t> dims;
    dims.reserve(shape.size());
    for (const Dim& d : shape) {
        if (!d.is_constant()) return std::nullopt;
        dims.push_back(*d.value());
    }
    return dims;
}

Shape to_shape(const std::vector<int64_t>& dims) {
    return Shape(dims.begin(), dims.end());
}

}  // namespace planish
