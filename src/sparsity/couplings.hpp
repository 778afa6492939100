// Indices of axes, tied by the operations between them: a union-find over every index of every axis of known size.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ir/graph.hpp"

namespace planish::sparsity {

class Couplings {
  public:
    /// Where a Reshape makes one axis of several, one of these decides and the others stay whole: the outermost, or as
    /// many further in as `pivots` says.
    using Pivots = std::map<const Node*, size_t>;
    explicit Couplings(const Graph& graph, Pivots pivots = {});

    /// Axes of the same size: index i of one goes with index i of the other. A size of 1 repeats and ties nothing; any
    /// other difference, or a size that is not known, keeps both.
    void tie(const Value* a, int64_t axis_a, const Value* b, int64_t axis_b);
    /// One index of each.
    void tie(const Value* a, int64_t axis_a, int64_t i, const Value* b, int64_t axis_b, int64_t j);
    /// The axis stays whole.
    void keep(const Value* value, int64_t axis, int64_t index);
    void keep(const Value* value, int64_t axis);
    void keep(const Value* value);
    /// The rule has looked at the axis: it repeats one index, or which indices are left of it does not matter.
    void mark_known(const Value* value, int64_t axis) { known_.emplace(value, axis); }

    size_t pivot(const Node& node) const;
    /// Notes that `axes` of `value` are what the node makes one axis of, or takes it apart into.
    void note_split(const Node& node, const Value* value, std::span<const int64_t> axes);
    /// The pivots moved inwards where the axis at the pivot stays whole anyway; nullopt: there is none to move.
    std::optional<Pivots> better_pivots();

    /// Applies the rule of the node's operator. What the rule says nothing of stays.
    void add(const Node& node);

    /// The representative of an index; -1 where it stays.
    int find(const Value* value, int64_t axis, int64_t index);

  private:
    int first(const Value* value, int64_t axis) const;  ///< the id of index 0; -1: size unknown or 1
    int root(int id);
    void unite(int a, int b);

    std::unordered_map<const Value*, std::vector<int>> first_;
    std::vector<int> parent_;
    std::vector<bool> stays_;
    std::set<std::pair<const Value*, int64_t>> known_;  // of the node being added
    struct Split {
        const Node* node;
        const Value* value;
        std::vector<int64_t> axes;
    };
    std::vector<Split> splits_;
    Pivots pivots_;
};

/// The size of an axis; -1: not known.
int64_t size_of(const Value* value, int64_t axis);
/// -1: not known.
int64_t rank_of(const Value* value);

/// Ties what the node's operator ties. False: the operator or this form of it has no rule.
bool apply_rule(const Node& node, Couplings& couplings);

}  // namespace planish::sparsity
