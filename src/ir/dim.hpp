// Dim: a symbolic dimension in canonical form, so that equal sizes compare equal ("2*S + 1" == "1 + S*2").
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace planish {

using SymbolTable = std::map<std::string, int64_t, std::less<>>;

/// A polynomial with integer coefficients over atoms. An atom is a symbol ("N"), an opaque operation on other
/// dims (floor(a/b), max, min), or an unknown ("?12") that equals only itself. Immutable, cheap to copy.
class Dim {
  public:
    Dim(int64_t value = 0) : constant_(value) {}
    static Dim symbol(std::string name);
    static Dim unknown();  ///< fresh: equal to nothing but copies of itself
    static Dim floor_div(const Dim& a, const Dim& b);
    static Dim ceil_div(const Dim& a, const Dim& b);
    static Dim max(const Dim& a, const Dim& b);
    static Dim min(const Dim& a, const Dim& b);

    bool is_constant() const { return !poly_; }
    bool is_symbol() const;  ///< exactly one named symbol
    bool contains_unknown() const;
    std::optional<int64_t> value() const { return poly_ ? std::nullopt : std::optional(constant_); }

    friend Dim operator+(const Dim& a, const Dim& b);
    friend Dim operator-(const Dim& a, const Dim& b);
    friend Dim operator*(const Dim& a, const Dim& b);
    friend bool operator==(const Dim& a, const Dim& b);

    /// a / b when b divides a exactly as polynomials (4*S / S = 4), else nullopt.
    static std::optional<Dim> exact_div(const Dim& a, const Dim& b);

    /// Every symbol that `symbols` names replaced by its value.
    Dim substitute(const SymbolTable& symbols) const;
    std::string to_string() const;
    static Dim parse(std::string_view text);  ///< inverse of to_string; throws invalid_argument
    void collect_symbols(std::vector<std::string>& names) const;

    struct Poly;

  private:
    explicit Dim(std::shared_ptr<const Poly> poly);
    int64_t constant_ = 0;
    std::shared_ptr<const Poly> poly_;  // null: the constant
};

using Shape = std::vector<Dim>;
std::string to_string(const Shape& shape);  ///< "[N, 3, 224, 224]"
std::optional<std::vector<int64_t>> static_dims(const Shape& shape);
Shape to_shape(const std::vector<int64_t>& dims);

}  // namespace planish
