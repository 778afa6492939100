// Runs a network node by node on many samples side by side: what calibration looks at is in memory for all of them.
#pragma once

#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/function_ref.hpp"
#include "ir/graph.hpp"
#include "planish/planish.hpp"
#include "reference/ref_context.hpp"

namespace planish::precision {

/// One node by the CPU's kernels where its types allow, else by the interpreter. Compiled once for each set of shapes.
class NodeRunner {
  public:
    /// `replaced`: constants that stand in for those of the node, by input.
    NodeRunner(const Node& node, std::map<int, Tensor> replaced, int threads);
    ~NodeRunner();
    std::vector<RefValue> run(const std::vector<const RefValue*>& inputs);

  private:
    struct Compiled;
    const Compiled& compiled(const std::vector<const RefValue*>& inputs);

    const Node& node_;
    std::map<int, Tensor> replaced_;
    int threads_;
    std::map<std::vector<Dims>, std::unique_ptr<Compiled>> programs_;
};

class Rehearsal {
  public:
    /// Errors: invalid_argument naming an input that a sample lacks or that has another type.
    Rehearsal(const Graph& graph, std::span<const TensorMap> samples, int threads);

    size_t samples() const { return values_.size(); }
    /// Of `sample`; it must have been computed, and have a reader left.
    Tensor& tensor(const Value* value, size_t sample) { return values_[sample].at(value).tensor; }
    bool has(const Value* value) const { return values_.front().contains(value); }

    /// Computes the node's outputs for all samples and drops what nobody will read any more. Nodes come in order.
    void run(const Node& node, const std::map<int, Tensor>& replaced = {});

    /// The same for a node of one output, which is `fn` of its first input.
    void map(const Node& node, FunctionRef<Tensor(const Tensor&)> fn);

    /// Most bytes that one sample ever held.
    int64_t peak_bytes() const { return peak_; }

  private:
    /// Stores the node's results for all samples and drops inputs without a reader left.
    void advance(const Node& node, FunctionRef<std::vector<RefValue>(const std::vector<const RefValue*>&)> compute);

    int threads_;
    std::vector<std::unordered_map<const Value*, RefValue>> values_;  // by sample
    std::unordered_map<const Value*, int> readers_;
    int64_t held_ = 0, peak_ = 0;  // of the first sample
};

}  // namespace planish::precision
