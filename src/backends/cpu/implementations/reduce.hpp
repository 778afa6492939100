// What of a reduction its kernels share: alone, or behind a point-wise expression.
#pragma once

#include <optional>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/cpu/kernels/kernels.hpp"

namespace planish::cpu::families {

/// nullopt: `node` is no reduction.
std::optional<ReduceKind> reduce_kind(const Node& node);

/// The reduced axes of a node of `region`, sorted, logical; nullopt: they are not constant, or there are none.
std::optional<std::vector<int64_t>> reduced_axes(const RegionView& region, const Node& node);

/// The window of a MaxPool or AveragePool over dense channels-last memory, without pointers.
PoolArgs pool_args(const Node& node);

struct Collapsed {
    int64_t outer = 1, n = 1, inner = 1;
};

/// [outer, n, inner] when the reduced axes are neighbours in memory (axes of length 1 do not count).
std::optional<Collapsed> collapse(const Dims& dims, const std::vector<int64_t>& axes, Layout layout);

}  // namespace planish::cpu::families
