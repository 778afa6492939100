// The graph without some of its channels.
#include <algorithm>
#include <map>
#include <numeric>

#include "passes/rewrite.hpp"
#include "planish/error.hpp"
#include "sparsity/channels.hpp"
#include "sparsity/couplings.hpp"

namespace planish::sparsity {
namespace {

class Shrinker {
  public:
    Shrinker(const Graph& graph, const Channels& channels, const std::vector<bool>& removed)
        : graph_(graph.clone()), removed_(removed) {
        // Values that nothing reads are not part of the copy.
        for (const ChannelAxis& axis : channels.axes)
            if (const Value* value = graph_->find_value(axis.value->name)) axes_[{value, axis.axis}] = &axis;
    }

    std::unique_ptr<Graph> run() {
        for (Node* node : graph_->node_list()) adjust(*node);
        for (const auto& [place, axis] : axes_) {
            if (!place.first->is_constant()) continue;
            auto* value = const_cast<Value*>(place.first);
            const std::vector<int64_t> kept = kept_indices(*axis, removed_);
            if (kept.empty()) fail(ErrorCode::internal, "no channel of '" + value->name + "' would be left");
            if (kept.size() == axis->channel.size()) continue;
            value->constant = std::make_shared<const Tensor>(take(*value->constant, place.second, kept));
            value->type.shape = to_shape(value->constant->dims());
        }
        graph_->infer();
        check(*graph_);
        return std::move(graph_);
    }

  private:
    bool shrinks(const Value* value, int64_t axis) const { return left(value, axis) != size_of(value, axis); }

    /// How many indices of the axis stay.
    int64_t left(const Value* value, int64_t axis) const {
        const auto it = axes_.find({value, static_cast<int>(axis)});
        return it == axes_.end() ? size_of(value, axis)
                                 : static_cast<int64_t>(kept_indices(*it->second, removed_).size());
    }

    /// How many indices below `index` stay.
    int64_t left_below(const Value* value, int64_t axis, int64_t index) const {
        const auto it = axes_.find({value, static_cast<int>(axis)});
        if (it == axes_.end()) return index;
        const std::vector<int64_t> kept = kept_indices(*it->second, removed_);
        return std::lower_bound(kept.begin(), kept.end(), index) - kept.begin();
    }

    void set_integers(Node& node, int input, const std::vector<int64_t>& values) {
        graph_->set_input(&node, input, passes::make_integers(*graph_, values, node.name + "_pruned"));
    }

    // What a node states of sizes. Types are those from before.
    void adjust(Node& node) {
        if (!node.op().domain.empty()) return;
        if (node.is("Conv")) {
            const int64_t group = node.integer("group");
            if (group != 1) node.attributes["group"] = left(node.input(0), 1) / left(node.input(1), 1);
        } else if (node.is("Reshape") || node.is("Expand")) {
            adjust_shape(node);
        } else if (node.is("Split")) {
            adjust_split(node);
        } else if (node.is("Slice")) {
            adjust_slice(node);
        } else if (node.is("Attention")) {
            for (const auto& [name, input] : {std::pair("q_num_heads", 0), std::pair("kv_num_heads", 1)})
                if (rank_of(node.input(input)) == 3)
                    node.attributes[name] =
                        node.integer(name) * left(node.input(input), 2) / size_of(node.input(input), 2);
        }
    }

    void adjust_shape(Node& node) {
        const Value* y = node.output();
        auto target = passes::integers(node.input(1));
        if (!target) return;
        const int64_t shift = rank_of(y) - static_cast<int64_t>(target->size());
        bool changed = false;
        for (size_t i = 0; i < target->size(); ++i) {
            const int64_t axis = static_cast<int64_t>(i) + shift;
            if ((*target)[i] <= 1 || !shrinks(y, axis)) continue;
            (*target)[i] = left(y, axis);
            changed = true;
        }
        if (changed) set_integers(node, 1, *target);
    }

    void adjust_split(Node& node) {
        const Value* x = node.input(0);
        const int64_t axis = (node.integer("axis") + rank_of(x)) % rank_of(x);
        if (!shrinks(x, axis)) return;
        std::vector<int64_t> sizes;
        for (const Value* part : node.outputs()) sizes.push_back(left(part, axis));
        set_integers(node, 1, sizes);
        node.attributes.erase("num_outputs");
    }

    void adjust_slice(Node& node) {
        const Value* x = node.input(0);
        auto starts = passes::integers(node.input(1)), ends = passes::integers(node.input(2));
        auto axes = passes::integers(node.input(3));
        if (!starts || !ends) return;
        if (!axes) {
            axes.emplace(starts->size());
            std::iota(axes->begin(), axes->end(), 0);
        }
        bool changed = false;
        for (size_t i = 0; i < axes->size(); ++i) {
            const int64_t axis = ((*axes)[i] + rank_of(x)) % rank_of(x), size = size_of(x, axis);
            if (!shrinks(x, axis)) continue;
            int64_t start = (*starts)[i];
            start = std::clamp<int64_t>(start < 0 ? start + size : start, 0, size);
            (*starts)[i] = left_below(x, axis, start);
            (*ends)[i] = left_below(x, axis, start + size_of(node.output(), axis));
            changed = true;
        }
        if (!changed) return;
        set_integers(node, 1, *starts);
        set_integers(node, 2, *ends);
    }

    std::unique_ptr<Graph> graph_;
    const std::vector<bool>& removed_;
    std::map<std::pair<const Value*, int>, const ChannelAxis*> axes_;
};

}  // namespace

std::unique_ptr<Graph> shrink(const Graph& graph, const Channels& channels, const std::vector<bool>& removed) {
    return Shrinker(graph, channels, removed).run();
}

}  // namespace planish::sparsity
