// Gemm and MatMul with weights as the generators take them: shared by products of floats and of bytes.
#pragma once

#include <optional>

#include "backends/cpu/epilogue.hpp"
#include "backends/cpu/jit/gemm.hpp"

namespace planish::cpu {

/// What of Gemm and MatMul is one product [m x k] * [k x n] with a constant right-hand side.
struct Product {
    GemmShape shape;
    bool transposed = false;  ///< B is stored [n x k]
    float alpha = 1, beta = 1;
};
std::optional<Product> product_of(const Node& node);

/// Gemm's scaling and C come before the region's own post-ops. Nullopt: C is broadcast along the columns only.
std::optional<Epilogue> gemm_epilogue(const RegionView& region, const Product& product);

}  // namespace planish::cpu
