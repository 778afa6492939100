#include "backends/tactic_choice.hpp"

#include <algorithm>

#include "backends/quantized.hpp"
#include "passes/inline_region.hpp"

namespace planish {

void TacticChoice::for_each_region(Graph& graph, PackedStore& packed, const std::function<bool(Node&, int)>& choose) {
    struct Work {
        Node* node;
        int parent;
    };
    std::vector<Work> work;
    for (Node* node : graph.node_list()) work.push_back({node, -1});
    for (size_t i = 0; i < work.size(); ++i) {
        const auto [node, parent] = work[i];
        if (is_alias(*node)) continue;
        if (decode_constant(graph, node, packed)) continue;
        const int index = add_region(*node, parent);
        if (!choose(*node, index))
            for (Node* part : passes::inline_region(graph, node)) work.push_back({part, index});
    }
    for (const auto& [path, tactic] : options_.tactics)
        if (!paths_.contains(path)) ignored_.push_back(path + ": " + tactic + " (no region of this name is formed)");
}

int TacticChoice::add_region(const Node& node, int parent) {
    RegionInfo info;
    info.parent = parent;
    info.path = parent < 0 ? node.name : regions_[static_cast<size_t>(parent)].path + " > " + node.name;
    if (const int copies = ++paths_[info.path]; copies > 1)
        paths_.emplace(info.path += " #" + std::to_string(copies), 1);
    info.layers = layers_of(node);
    regions_.push_back(std::move(info));
    return static_cast<int>(regions_.size()) - 1;
}

bool TacticChoice::is_disabled(std::string_view tactic) const {
    return std::any_of(options_.disabled.begin(), options_.disabled.end(),
                       [&](const std::string& prefix) { return tactic.starts_with(prefix); });
}

std::string_view TacticChoice::wanted(const RegionInfo& info) const {
    const auto it = options_.tactics.find(info.path);
    return it == options_.tactics.end() ? std::string_view() : it->second;
}

int TacticChoice::settle(const RegionView& region, std::span<const TacticAnswer> answers, int by_default,
                         RegionInfo& info) {
    const auto name = [&](int index) {
        return index < 0 ? std::string(kDissolve) : answers[static_cast<size_t>(index)].tactic;
    };
    if (options_.list_candidates) {
        const bool divisible = region.has_body() && region.body().nodes().size() > 1 && !is_disabled(kDissolve);
        info.candidates.push_back(name(by_default));
        for (const TacticAnswer& answer : answers)
            if (answer.refusal == Refusal::none && answer.tactic != info.candidates[0])
                info.candidates.push_back(answer.tactic);
        if (by_default >= 0 && divisible) info.candidates.emplace_back(kDissolve);
    }
    int chosen = by_default;
    if (const std::string_view asked = wanted(info); !asked.empty()) {
        const auto it = std::find_if(answers.begin(), answers.end(), [&](const TacticAnswer& answer) {
            return answer.refusal == Refusal::none && answer.tactic == asked;
        });
        if (it != answers.end()) {
            chosen = static_cast<int>(it - answers.begin());
        } else if (asked == kDissolve && region.has_body()) {
            chosen = -1;
        } else {
            // Where an implementation refused, none of its tactics ("implementation:tactic") was listed.
            std::string_view why = "no tactic of this name";
            for (const auto& [tactic, refusal] : answers)
                if (tactic == asked || asked.starts_with(tactic + ":")) why = to_string(refusal);
            ignored_.push_back(info.path + ": " + std::string(asked) + " (" + std::string(why) + ")");
        }
    }
    info.tactic = name(chosen);
    return chosen;
}

}  // namespace planish
