// What an optimisation gives back: a network, to be written as ONNX, built, or optimised again.
#pragma once

#include "planish/planish.hpp"

namespace planish {

class Graph;

/// Immutable; copies share their content.
class PLANISH_API Optimised {
  public:
    const Graph& graph() const { return *graph_; }
    std::vector<std::byte> onnx_bytes() const;
    void save_onnx(const std::filesystem::path& path) const;
    Plan build(const BuildOptions& options = {}) const;

  protected:
    explicit Optimised(std::shared_ptr<const Graph> graph) : graph_(std::move(graph)) {}

  private:
    std::shared_ptr<const Graph> graph_;
};

}  // namespace planish
