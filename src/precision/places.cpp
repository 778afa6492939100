// Choice of the tensors that are quantised.
#include "precision/places.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "passes/rewrite.hpp"

namespace planish::precision {
namespace {

constexpr std::string_view kArithmetic[] = {"Add", "Sub", "Mul"};
constexpr std::string_view kPools[] = {"AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool"};
constexpr std::string_view kSameGrid[] = {"Concat", "MaxPool", "GlobalMaxPool"};

bool is_one_of(const Node& node, std::span<const std::string_view> ops) {
    return node.op().domain.empty() && std::find(ops.begin(), ops.end(), node.op().name) != ops.end();
}

bool is_image(const Value* value) {
    return value->type.kind == Kind::tensor && value->type.dtype == DType::f32 && value->type.shape &&
           value->type.shape->size() >= 4;
}

class Selection {
  public:
    Selection(const Graph& graph, std::span<const Layer> layers, const std::function<bool(const Node&)>& wanted)
        : graph_(graph) {
        for (const Layer& layer : layers) layers_.emplace(&layer.node(), &layer);
        int position = 0;
        for (const auto& node : graph.nodes()) positions_[node.get()] = position++;
        for (const auto& node : graph.nodes())
            if (node->is("Attention") && attends_layers(*node) && wanted(*node)) attentions_.insert(node.get());
    }

    std::vector<Place> run() {
        for (Value* value : graph_.values()) {
            if (value->is_constant() || value->type.kind != Kind::tensor || value->type.dtype != DType::f32) continue;
            Place place{value, {}, 0, false, attention_of(*value)};
            bool read_by_layer = false;
            for (const Use& use : value->uses) {
                const bool layer = use.index == 0 && layers_.contains(use.node);
                read_by_layer = read_by_layer || layer;
                if (layer || place.attention != nullptr || reads_bytes(use, *value)) place.uses.push_back(use);
            }
            if (place.uses.empty() || (!read_by_layer && !lies_between(*value, place))) continue;
            chosen_.insert(value);
            places_.push_back(std::move(place));
        }
        join_groups();
        return std::move(places_);
    }

  private:
    /// Where queries, keys and values come from: an input, or what it is a slice of.
    static const Value* operand_of(const Node& attention, int i) {
        const Value* value = attention.input(i);
        return passes::producer(value, "Slice") != nullptr ? value->producer->input(0) : value;
    }

    bool attends_layers(const Node& node) const {
        for (int i = 0; i < 3; ++i)
            if (node.input(i) == nullptr || maker(operand_of(node, i)) == nullptr) return false;
        return true;
    }

    /// The one attention that all readers of `value` belong to; null: there is none.
    Node* attention_of(const Value& value) const {
        Node* found = nullptr;
        const auto reads = [&](const Use& use) {
            if (!attentions_.contains(use.node) || use.index > 2 || (found != nullptr && found != use.node))
                return false;
            found = use.node;
            return true;
        };
        for (const Use& use : value.uses) {
            if (use.node->is("Slice") && use.index == 0) {
                const Value* slice = use.node->output();
                if (slice->uses.empty() || !std::all_of(slice->uses.begin(), slice->uses.end(), reads)) return nullptr;
            } else if (!reads(use)) {
                return nullptr;
            }
        }
        return found;
    }

    /// Readers, beside layers, that have something of bytes.
    bool reads_bytes(const Use& use, const Value& value) const {
        const Node& node = *use.node;
        if (!is_image(&value)) return false;
        if (is_one_of(node, kPools) || node.is("Concat")) return true;
        // A factor or summand that is spread over the other's shape is too small to matter.
        return is_one_of(node, kArithmetic) && passes::same_shape(&value, node.output());
    }

    /// The layer that makes `value`, through the point-wise ops behind it.
    const Layer* maker(const Value* value) const {
        while (value->producer != nullptr) {
            const auto it = layers_.find(value->producer);
            if (it != layers_.end()) return it->second;
            const Node& node = *value->producer;
            if (!has(node.op().traits, Trait::elementwise)) return nullptr;
            const Value* next = nullptr;
            for (const Value* input : node.inputs())
                if (input != nullptr && !input->is_constant() && next == nullptr) next = input;
            if (next == nullptr || !passes::only_use(graph_, next)) return nullptr;
            value = next;
        }
        return nullptr;
    }

    /// Sums, concatenations and pools of what is stored in bytes.
    bool computes_bytes(const Node& node) const {
        if (!is_one_of(node, kPools) && !node.is("Concat") && !is_one_of(node, kArithmetic)) return false;
        return std::any_of(node.inputs().begin(), node.inputs().end(),
                           [&](const Value* input) { return chosen_.contains(input); });
    }

    /// Is `value` made by something quantised, and stored at all?
    bool lies_between(const Value& value, const Place& place) const {
        if (value.producer == nullptr) return false;
        const Layer* layer = maker(&value);
        if ((layer == nullptr && !computes_bytes(*value.producer)) || place.uses.size() != value.uses.size())
            return false;
        if (layer == nullptr || value.uses.size() != 1 || !is_one_of(*value.uses[0].node, kArithmetic)) return true;
        // The layer itself adds the other operand, unless that comes later.
        const Node& sum = *value.uses[0].node;
        const Value* other = sum.input(1 - value.uses[0].index);
        const Layer* rival = other->is_constant() || !passes::only_use(graph_, other) ? nullptr : maker(other);
        return rival != nullptr && positions_.at(&rival->node()) > positions_.at(&layer->node());
    }

    void join_groups() {
        std::vector<int> parents(places_.size());
        std::iota(parents.begin(), parents.end(), 0);
        const auto root = [&](int i) {
            while (parents[static_cast<size_t>(i)] != i) i = parents[static_cast<size_t>(i)];
            return i;
        };
        std::unordered_map<const Value*, int> index;
        for (size_t i = 0; i < places_.size(); ++i) index[places_[i].value] = static_cast<int>(i);
        for (const Place& place : places_)
            for (const Use& use : place.uses) {
                if (!is_one_of(*use.node, kSameGrid)) continue;
                const auto it = index.find(use.node->output());
                if (it != index.end()) parents[static_cast<size_t>(root(index.at(place.value)))] = root(it->second);
            }
        for (size_t i = 0; i < places_.size(); ++i) places_[i].group = root(static_cast<int>(i));
    }

    const Graph& graph_;
    std::unordered_map<const Node*, const Layer*> layers_;
    std::unordered_map<const Node*, int> positions_;
    std::unordered_set<const Node*> attentions_;  // that quantised layers feed
    std::unordered_set<const Value*> chosen_;
    std::vector<Place> places_;
};

}  // namespace

std::vector<Layer> find_layers(const Graph& graph, const std::function<bool(const Node&)>& wanted) {
    std::vector<Layer> layers;
    for (const auto& node : graph.nodes())
        if (auto layer = Layer::read(*node); layer && wanted(*node)) layers.push_back(std::move(*layer));
    return layers;
}

std::vector<Place> find_places(const Graph& graph, std::span<const Layer> layers,
                               const std::function<bool(const Node&)>& wanted) {
    return Selection(graph, layers, wanted).run();
}

}  // namespace planish::precision
