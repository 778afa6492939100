// Convolutions and products with constant weights, read and written as one matrix form.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/graph.hpp"

namespace planish::sparsity {

/// weights[o][c][k]: output o, input channel c, place k of the kernel (one for products).
struct Weights {
    int64_t outputs = 0, channels = 0, kernel = 1;
    std::vector<double> values;

    double& at(int64_t o, int64_t c, int64_t k) { return values[static_cast<size_t>((o * channels + c) * kernel + k)]; }
    double at(int64_t o, int64_t c, int64_t k) const { return const_cast<Weights*>(this)->at(o, c, k); }
};

/// y = W x along one axis of x: Conv without groups, Gemm and MatMul whose weights are a constant of their own.
struct Product {
    Node* node;
    int64_t channel_axis;  // of node->input(0)

    std::string layer() const;
};

std::optional<Product> as_product(const Node& node);
std::vector<Product> products_of(const Graph& graph);

Weights read_weights(const Product& product);
void write_weights(const Product& product, const Weights& weights);

/// Can a number be added to every output: is there a bias, or may one be made?
bool takes_bias(const Product& product, bool may_add);
/// Adds shift[o] to output o. Call takes_bias first.
void add_to_bias(const Product& product, const std::vector<double>& shift);

}  // namespace planish::sparsity
