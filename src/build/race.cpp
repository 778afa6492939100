// Networks against each other, each as a whole.
#include <fmt/format.h>

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

const Program* NetworkCompiler::timed_program(const Network& network) const {
    const auto p = timed_target(network);
    return p ? network.programs[*p].get() : nullptr;
}

std::unique_ptr<tuner::Stopwatch> NetworkCompiler::stopwatch_for(const Network& network) const {
    return make_stopwatch(*passes::specialise(*network.graph, *shapes_));
}

const tuner::Timing* NetworkCompiler::measured(const Network& network, const std::string& key, const std::string& title,
                                               const std::function<void(tuner::Timing&)>& measure) {
    const tuner::Timing* known = cache_.find(key);
    if (known != nullptr) return known;
    if (options_.replay_only)
        fail(ErrorCode::not_found, "the timing cache does not know the times of '" + title + "' here",
             "build once without --replay-only on such a machine and keep its timing cache");
    const auto p = timed_target(network);
    if (!p || !measures()) return nullptr;
    tuner::Timing timing{machine_of(runtime::full_target(options_.targets[*p])),
                         std::string(version()),
                         title,
                         tuner::turns_of(effort()),
                         {},
                         0};
    try {
        measure(timing);
    } catch (const tuner::CannotMeasure&) {  // tune() has said why
        return nullptr;
    }
    cache_.insert(key, std::move(timing));
    return cache_.find(key);
}

std::optional<std::pair<double, double>> NetworkCompiler::race(const Network& network, const Network& rival,
                                                               const std::string& key,
                                                               const std::pair<std::string, std::string>& names) {
    const tuner::Timing* timing =
        measured(network, key, "network: " + names.first + " or " + names.second, [&](tuner::Timing& result) {
            const auto stopwatch = stopwatch_for(network);
            const std::vector<double> seconds =
                tuner::race(std::array{timed_program(network), timed_program(rival)}, *stopwatch, effort(), [&] {
                    stages_.update(names.first + " against " + names.second, 1);
                    return true;
                });
            result.nanoseconds = {{names.first, std::llround(seconds[0] * 1e9)},
                                  {names.second, std::llround(seconds[1] * 1e9)}};
        });
    if (timing == nullptr) return std::nullopt;
    return std::pair(static_cast<double>(timing->nanoseconds[0].second) * 1e-9,
                     static_cast<double>(timing->nanoseconds[1].second) * 1e-9);
}

std::optional<std::pair<std::vector<double>, std::vector<double>>> NetworkCompiler::race_steps(const Network& network,
                                                                                               const Network& rival,
                                                                                               const std::string& key) {
    const std::array programs = {timed_program(network), timed_program(rival)};
    const tuner::Timing* timing = measured(network, key, "regions of two networks", [&](tuner::Timing& result) {
        const auto stopwatch = stopwatch_for(network);
        const auto seconds = tuner::race_steps(programs, *stopwatch, effort(), [&] {
            stages_.update("times of regions", 1);
            return true;
        });
        for (size_t i = 0; i < programs.size(); ++i) {
            const std::vector<StepInfo> steps = programs[i]->steps();
            for (size_t s = 0; s < steps.size(); ++s)
                // Steps of one name would be one entry of the file.
                result.nanoseconds.emplace_back(fmt::format("{}.{:04} {}", i, s, steps[s].name),
                                                std::llround(seconds[i][s] * 1e9));
        }
    });
    if (timing == nullptr) return std::nullopt;
    std::array<std::vector<double>, 2> seconds;
    auto next = timing->nanoseconds.begin();
    for (size_t i = 0; i < programs.size(); ++i)
        for (size_t s = programs[i]->steps().size(); s > 0 && next != timing->nanoseconds.end(); --s, ++next)
            seconds[i].push_back(static_cast<double>(next->second) * 1e-9);
    // Another choice of tactics would have other steps.
    if (next != timing->nanoseconds.end() || seconds[1].size() != programs[1]->steps().size()) return std::nullopt;
    return std::pair(std::move(seconds[0]), std::move(seconds[1]));
}

std::optional<NetworkCompiler::Loss> NetworkCompiler::require_gain(Network& network, std::unique_ptr<Graph> floats,
                                                                   const std::string& key) {
    // Tuning gains less than a quarter, so where the untuned float network is slower by more, it need not be tuned.
    constexpr double kMostGain = 0.75;
    if (!timed_target(network) || !shapes_) return std::nullopt;
    const bool known = cache_.find(key) != nullptr;
    if (!known && !measures() && !options_.replay_only) return std::nullopt;
    Network rival = compile(std::move(floats));
    bool tuned = false;
    if (!known && measures()) {
        try {
            const std::array programs = {timed_program(network), timed_program(rival)};
            const std::vector<double> untuned = tuner::race(programs, *stopwatch_for(network), 1, [&] {
                stages_.update(options_.precision + " against floats", 1);
                return true;
            });
            if (untuned[0] > kMostGain * untuned[1]) {
                tune(rival);
                tuned = true;
            }
        } catch (const tuner::CannotMeasure&) {
            return std::nullopt;  // tune() has said why
        }
    }
    const auto seconds = race(network, rival, key, {options_.precision, "fp32"});
    if (!seconds || seconds->first < seconds->second) return std::nullopt;
    if (!tuned) tune(rival);
    network = std::move(rival);
    network.gave_way = true;
    return Loss{seconds->first, seconds->second};
}

}  // namespace planish
