// The union-find.
#include "sparsity/couplings.hpp"

#include <numeric>

namespace planish::sparsity {

int64_t rank_of(const Value* value) {
    return value->type.shape ? static_cast<int64_t>(value->type.shape->size()) : -1;
}

int64_t size_of(const Value* value, int64_t axis) {
    if (axis < 0 || axis >= rank_of(value)) return -1;
    return (*value->type.shape)[static_cast<size_t>(axis)].value().value_or(-1);
}

Couplings::Couplings(const Graph& graph, Pivots pivots) : pivots_(std::move(pivots)) {
    int count = 0;
    for (const Value* value : graph.values()) {
        std::vector<int>& ids = first_[value];
        for (int64_t axis = 0; axis < rank_of(value); ++axis) {
            const int64_t size = size_of(value, axis);
            ids.push_back(size > 1 ? count : -1);
            if (size > 1) count += static_cast<int>(size);
        }
    }
    parent_.resize(static_cast<size_t>(count));
    std::iota(parent_.begin(), parent_.end(), 0);
    stays_.assign(static_cast<size_t>(count), false);
    for (const Value* value : graph.inputs()) keep(value);
    for (const Value* value : graph.outputs()) keep(value);
    for (const Value* value : graph.values())
        if (value->is_constant() && bit_width(value->type.dtype) < 8) keep(value);
}

int Couplings::first(const Value* value, int64_t axis) const {
    const std::vector<int>& ids = first_.at(value);
    return axis >= 0 && axis < static_cast<int64_t>(ids.size()) ? ids[static_cast<size_t>(axis)] : -1;
}

int Couplings::root(int id) {
    auto at = static_cast<size_t>(id);
    while (parent_[at] != static_cast<int>(at)) {
        parent_[at] = parent_[static_cast<size_t>(parent_[at])];
        at = static_cast<size_t>(parent_[at]);
    }
    return static_cast<int>(at);
}

// The lower id represents, so that channels are numbered as the first axis that has them.
void Couplings::unite(int a, int b) {
    a = root(a);
    b = root(b);
    if (a == b) return;
    if (a > b) std::swap(a, b);
    parent_[static_cast<size_t>(b)] = a;
    stays_[static_cast<size_t>(a)] = stays_[static_cast<size_t>(a)] || stays_[static_cast<size_t>(b)];
}

void Couplings::tie(const Value* a, int64_t axis_a, const Value* b, int64_t axis_b) {
    mark_known(a, axis_a);
    mark_known(b, axis_b);
    const int64_t size_a = size_of(a, axis_a), size_b = size_of(b, axis_b);
    if (size_a == 1 || size_b == 1) return;
    if (size_a != size_b || size_a < 0) {
        keep(a, axis_a);
        keep(b, axis_b);
        return;
    }
    const int from = first(a, axis_a), to = first(b, axis_b);
    if (from < 0) return;
    for (int i = 0; i < size_a; ++i) unite(from + i, to + i);
}

void Couplings::tie(const Value* a, int64_t axis_a, int64_t i, const Value* b, int64_t axis_b, int64_t j) {
    mark_known(a, axis_a);
    mark_known(b, axis_b);
    const int from = first(a, axis_a), to = first(b, axis_b);
    if (from >= 0 && to >= 0) {
        unite(from + static_cast<int>(i), to + static_cast<int>(j));
    } else {
        keep(a, axis_a);
        keep(b, axis_b);
    }
}

void Couplings::keep(const Value* value, int64_t axis, int64_t index) {
    mark_known(value, axis);
    if (const int from = first(value, axis); from >= 0)
        stays_[static_cast<size_t>(root(from + static_cast<int>(index)))] = true;
}

void Couplings::keep(const Value* value, int64_t axis) {
    mark_known(value, axis);
    const int from = first(value, axis);
    if (from < 0) return;
    for (int i = 0; i < size_of(value, axis); ++i) stays_[static_cast<size_t>(root(from + i))] = true;
}

void Couplings::keep(const Value* value) {
    for (int64_t axis = 0; axis < rank_of(value); ++axis) keep(value, axis);
}

size_t Couplings::pivot(const Node& node) const {
    const auto it = pivots_.find(&node);
    return it == pivots_.end() ? 0 : it->second;
}

void Couplings::note_split(const Node& node, const Value* value, std::span<const int64_t> axes) {
    splits_.push_back({&node, value, {axes.begin(), axes.end()}});
}

// Axes that are taken apart go first: those made of several follow from what reaches them.
std::optional<Couplings::Pivots> Couplings::better_pivots() {
    Pivots better = pivots_;
    for (const bool apart : {true, false}) {
        for (const Split& split : splits_) {
            const size_t at = pivot(*split.node);
            if ((split.value->producer == split.node) != apart || at + 1 >= split.axes.size()) continue;
            const int64_t axis = split.axes[at];
            bool stays = true;
            for (int64_t i = 0; i < size_of(split.value, axis); ++i) stays = stays && find(split.value, axis, i) < 0;
            if (stays) better[split.node] = at + 1;
        }
        if (better != pivots_) return better;
    }
    return std::nullopt;
}

void Couplings::add(const Node& node) {
    known_.clear();
    const bool has_rule = apply_rule(node, *this);
    for (const auto list : {node.inputs(), node.outputs()})
        for (const Value* value : list)
            if (value != nullptr)
                for (int64_t axis = 0; axis < rank_of(value); ++axis)
                    if (!has_rule || !known_.contains({value, axis})) keep(value, axis);
}

int Couplings::find(const Value* value, int64_t axis, int64_t index) {
    const int from = first(value, axis);
    if (from < 0) return -1;
    const int id = root(from + static_cast<int>(index));
    return stays_[static_cast<size_t>(id)] ? -1 : id;
}

}  // namespace planish::sparsity
