// Where the time of a plan goes, region by region, against what the machine can do.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "runtime/engine_impl.hpp"

namespace planish::runtime {

struct ProfileRow {
    StepInfo step;
    double seconds = 0;  ///< median over the runs
    double bound = 0;    ///< seconds that the roofline allows at least
    double busy = 0;     ///< threads at work on average, from 0 to the engine's number of them

    /// Near 1: as fast as the machine goes. Above 1 where an algorithm needs fewer operations than are counted
    /// (Winograd), or operands come from a closer cache than the bandwidth was measured in.
    double roofline() const { return seconds > 0 ? bound / seconds : 0; }
};

struct Profile {
    std::vector<ProfileRow> rows;  ///< in the order in which they run
    Roofline roofline;             ///< of the engine's threads together
    int threads = 1;
    int64_t working_set = 0;  ///< bytes of weights and scratch: what the bandwidth was measured over
    Timeline timeline;        ///< of the run whose duration is the median
    ProfileRow total() const;
};

/// Runs `runs` (>= 1) times. Errors: those of Context::run; unsupported when the interpreter runs the plan.
Profile profile(Context::Impl& context, std::span<const NamedView> inputs, int runs);

/// The timeline in Chrome's trace event format (JSON), which Perfetto and chrome://tracing show: one track for each
/// thread; the user's layers, the kernel and the figures of a region are arguments of its event.
std::string chrome_trace(const Profile& profile, const std::string& title);

}  // namespace planish::runtime
