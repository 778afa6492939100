// How many channels each group loses.
#pragma once

#include <functional>
#include <vector>

#include "sparsity/importance.hpp"

namespace planish::sparsity {

/// How many channels of the group may be gone: none, or as many as leave a multiple of `multiple` indices in the
/// weights; ascending. At least a tenth of them stays.
std::vector<size_t> allowed_removals(const ChannelGroup& group, int multiple);

/// Removals, one count a group.
using Counts = std::vector<size_t>;

/// From nothing removed on, each entry after the one step with the least loss for its gain. `gain` says what a state is
/// better by than the one where nothing is removed: channels gone, or predicted seconds saved.
std::vector<Counts> removal_path(const std::vector<Curve>& curves, const std::vector<std::vector<size_t>>& allowed,
                                 const std::function<double(const Counts&)>& gain);

/// The channels that are gone.
std::vector<bool> removed_channels(const Channels& channels, const std::vector<Curve>& curves, const Counts& counts);

}  // namespace planish::sparsity
