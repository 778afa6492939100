// Recognise GELU: x/2 (1 + erf(x/√2)) and x/2 (1 + tanh(√(2/π)(x + 0.044715 x³))), however the product is written.
#include <array>
#include <cmath>

#include "passes/pass.hpp"
#include "passes/rewrite.hpp"

namespace planish::passes {
namespace {

constexpr int kDegree = 3;
using Polynomial = std::array<double, kDegree + 1>;  // coefficients of 1, x, x², x³

std::optional<Polynomial> multiply(const Polynomial& a, const Polynomial& b) {
    Polynomial r{};
    for (int i = 0; i <= kDegree; ++i)
        for (int j = 0; j <= kDegree; ++j) {
            const double term = a[static_cast<size_t>(i)] * b[static_cast<size_t>(j)];
            if (term == 0) continue;
            if (i + j > kDegree) return std::nullopt;
            r[static_cast<size_t>(i + j)] += term;
        }
    return r;
}

/// `value` as a polynomial of degree ≤ 3 in `x`, when sums, products and powers of x and constants make it.
std::optional<Polynomial> polynomial_of(const Value* value, const Value* x, int depth = 0) {
    if (value == x) return Polynomial{0, 1, 0, 0};
    if (const auto s = scalar(value)) return Polynomial{*s, 0, 0, 0};
    const Node* node = value != nullptr ? value->producer : nullptr;
    if (node == nullptr || depth > 8 || node->input_count() != 2) return std::nullopt;
    const bool known = node->is("Add") || node->is("Sub") || node->is("Mul") || node->is("Div") || node->is("Pow");
    if (!known) return std::nullopt;
    const auto a = polynomial_of(node->input(0), x, depth + 1), b = polynomial_of(node->input(1), x, depth + 1);
    if (!a || !b) return std::nullopt;
    if (node->is("Mul")) return multiply(*a, *b);
    const bool number = (*b)[1] == 0 && (*b)[2] == 0 && (*b)[3] == 0;
    Polynomial r = *a;
    if (node->is("Div")) {
        if (!number || (*b)[0] == 0) return std::nullopt;
        for (double& c : r) c /= (*b)[0];
    } else if (node->is("Pow")) {
        if (!number || ((*b)[0] != 2 && (*b)[0] != 3)) return std::nullopt;
        std::optional<Polynomial> power = a;
        for (int i = 1; power && i < static_cast<int>((*b)[0]); ++i) power = multiply(*power, *a);
        return power;
    } else {
        for (size_t i = 0; i <= kDegree; ++i) r[i] += node->is("Add") ? (*b)[i] : -(*b)[i];
    }
    return r;
}

bool agrees(const Polynomial& a, const Polynomial& b) {
    for (size_t i = 0; i <= kDegree; ++i)
        // Published approximations of √(2/π) have 7 digits or more.
        if (std::fabs(a[i] - b[i]) > 1e-6 * std::max(1.0, std::fabs(b[i]))) return false;
    return true;
}

/// The product scale · x · (1 + f) that `sum` = 1 + f is a factor of, up to where scale is 1/2.
struct Product {
    Node* last = nullptr;
    Value* x = nullptr;
    std::vector<const Node*> nodes;
};

std::optional<Product> half_product(const Graph& graph, Value* sum) {
    Product p;
    double scale = 1;
    for (Value* current = sum;;) {
        if (p.x != nullptr && is_near(scale, 0.5)) return p;
        if (!only_use(graph, current)) return std::nullopt;
        Node* next = current->uses[0].node;
        if (!next->is("Mul") && !next->is("Div")) return std::nullopt;
        const bool divides = next->is("Div");
        if (divides && next->input(0) != current) return std::nullopt;
        Value* other = next->input(next->input(0) == current ? 1 : 0);
        if (other == current) return std::nullopt;
        if (const auto s = scalar(other)) {
            scale = divides ? scale / *s : scale * *s;
        } else {
            if (p.x != nullptr || divides) return std::nullopt;
            p.x = other;
            // x may come halved: (x * 0.5) * (1 + f).
            Node* half = other->producer;
            if (half != nullptr && (half->is("Mul") || half->is("Div")))
                if (const auto with = with_scalar(half);
                    with && is_near(half->is("Mul") ? with->second : 1 / with->second, 0.5)) {
                    p.x = with->first;
                    scale *= 0.5;
                    p.nodes.push_back(half);
                }
        }
        p.nodes.push_back(next);
        p.last = next;
        current = next->output();
    }
}

bool recognise(Graph& graph, Node* function) {
    const bool erf = function->is("Erf");
    if (!only_use(graph, function->output())) return false;
    Node* sum = only_reader(graph, function->output(), "Add");
    const auto with = with_scalar(sum);
    if (!with || !is_near(with->second, 1)) return false;
    const auto product = half_product(graph, sum->output());
    if (!product || !same_shape(product->x, product->last->output())) return false;
    const auto argument = polynomial_of(function->input(0), product->x);
    const double c = std::sqrt(2 / M_PI);
    const Polynomial expected = erf ? Polynomial{0, std::sqrt(0.5), 0, 0} : Polynomial{0, c, 0, c * 0.044715};
    if (!argument || !agrees(*argument, expected)) return false;
    Node* gelu = graph.add_node("Gelu", {product->x}, {{"approximate", std::string(erf ? "none" : "tanh")}}, 1,
                                product->last->name, product->last);
    gelu->origins = origins_of(*function);
    add_origins(gelu, {sum});
    for (const Node* node : product->nodes) add_origins(gelu, {node});
    replace(graph, product->last, gelu->output());
    return true;
}

}  // namespace

int recognise_gelu(Graph& graph) {
    int changes = 0;
    for (Node* node : nodes_of(graph, {"Erf", "Tanh"})) changes += recognise(graph, node) ? 1 : 0;
    return changes;
}

}  // namespace planish::passes
