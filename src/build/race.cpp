// Networks against each other, each as a whole.
#include <array>
#include <cmath>

#include "base/hash.hpp"
#include "build/network.hpp"
#include "passes/pass.hpp"
#include "runtime/compile.hpp"

namespace planish {

/// Of the first target that this machine can run; nullopt: there is none.
std::optional<size_t> NetworkCompiler::timed_target(const Network& network) const {
    for (size_t p = 0; p < network.programs.size(); ++p)
        if (network.programs[p] != nullptr &&
            !runtime::device_of(runtime::full_target(options_.targets[p])).name.empty())
            return p;
    return std::nullopt;
}

std::string NetworkCompiler::key_of(const Network& network, std::string_view purpose) const {
    const auto p = timed_target(network);
    if (!p) return {};
    Hasher hasher;
    hasher.update(version()).update(purpose).update(machine_of(runtime::full_target(options_.targets[*p])));
    for (const RegionInfo& region : network.programs[*p]->regions()) {
        hasher.update(region.path).update(region.signature);
        for (const std::string& candidate : region.candidates) hasher.update(candidate);
    }
    return hasher.digest().to_hex();
}

std::optional<NetworkCompiler::Loss> NetworkCompiler::require_gain(Network& network, std::unique_ptr<Graph> floats,
                                                                   const std::string& key) {
    // Tuning gains less than a quarter, so where the untuned float network is slower by more, it need not be tuned.
    constexpr double kMostGain = 0.75;
    const auto p = timed_target(network);
    if (!p || !shapes_) return std::nullopt;
    if (cache_.find(key) == nullptr && options_.replay_only)
        fail(ErrorCode::not_found, "the timing cache does not know whether integers are faster than floats here",
             "build once without --replay-only on such a machine and keep its timing cache");
    if (cache_.find(key) == nullptr && !measures()) return std::nullopt;
    Network rival = compile(std::move(floats));
    bool tuned = false;
    if (cache_.find(key) == nullptr) {
        const auto stopwatch = make_stopwatch(*passes::specialise(*rival.graph, *shapes_));
        const auto race = [&] {
            return tuner::race(std::array<const Program*, 2>{network.programs[*p].get(), rival.programs[*p].get()},
                               *stopwatch, effort(), [&] {
                                   stages_.update("integers against floats", 1);
                                   return true;
                               });
        };
        try {
            std::vector<double> seconds = race();
            if (seconds[0] > kMostGain * seconds[1]) {
                tune(rival);
                tuned = true;
                seconds = race();
            }
            tuner::Timing timing{machine_of(runtime::full_target(options_.targets[*p])),
                                 std::string(version()),
                                 "network: int8 or fp32",
                                 tuner::turns_of(effort()),
                                 {},
                                 0};
            timing.nanoseconds = {{"int8", std::llround(seconds[0] * 1e9)}, {"fp32", std::llround(seconds[1] * 1e9)}};
            cache_.insert(key, std::move(timing));
        } catch (const tuner::CannotMeasure&) {  // tune() has said why
        }
    }
    const tuner::Timing* timing = cache_.find(key);
    if (timing == nullptr || timing->nanoseconds[0].second < timing->nanoseconds[1].second) return std::nullopt;
    if (!tuned) tune(rival);
    network = std::move(rival);
    return Loss{static_cast<double>(timing->nanoseconds[0].second) * 1e-9,
                static_cast<double>(timing->nanoseconds[1].second) * 1e-9};
}

}  // namespace planish
