// How a program's regions come by their tactics, whatever the backend: which regions there are, what was asked for,
// what could run each.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "backends/backend.hpp"
#include "backends/region.hpp"

namespace planish {

/// What a tactic said of a region. Refusal::none: it can run it.
struct TacticAnswer {
    std::string tactic;
    Refusal refusal = Refusal::none;
};

class TacticChoice {
  public:
    /// `regions` and `ignored` are filled in: what Program::regions() and ignored_tactics() give.
    TacticChoice(const CompileOptions& options, std::vector<RegionInfo>& regions, std::vector<std::string>& ignored)
        : options_(options), regions_(regions), ignored_(ignored) {}

    /// Asks `choose(node, index of its region)` for each node of the graph that is to be a step. A region for which it
    /// returns false is dissolved, so that its parts get their own chance.
    void for_each_region(Graph& graph, PackedStore& packed, const std::function<bool(Node&, int)>& choose);

    bool is_disabled(std::string_view tactic) const;
    /// The tactic that was asked for; empty: none.
    std::string_view wanted(const RegionInfo& info) const;
    /// Index of the answer whose tactic runs the region, -1: it is dissolved. That is the tactic asked for where it
    /// can, else `by_default` (an index, or -1). Notes it in `info`, with the other candidates where they are asked
    /// for.
    int settle(const RegionView& region, std::span<const TacticAnswer> answers, int by_default, RegionInfo& info);

  private:
    int add_region(const Node& node, int parent);

    const CompileOptions& options_;
    std::vector<RegionInfo>& regions_;
    std::vector<std::string>& ignored_;
    std::unordered_map<std::string, int> paths_;  // how often each was met
};

}  // namespace planish
