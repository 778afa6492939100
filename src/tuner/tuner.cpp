// Rounds of whole-network programs, medians, decisions.
#include "tuner/tuner.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <set>

#include "base/hash.hpp"
#include "base/median.hpp"
#include "base/thread_pool.hpp"
#include "planish/error.hpp"
#include "planish/planish.hpp"

namespace planish::tuner {
namespace {

constexpr double kMargin = 0.03;        // by which a challenger must beat the default, and by more than the noise seen
constexpr double kUnknownNoise = 0.1;   // of the default's time, after one turn
constexpr int64_t kLeastGain = 100;     // nanoseconds: below it the clock itself is what is timed
constexpr int kTurns = 5;               // of each program
constexpr int kMostTurns = 15;          // where noise hides a gain
constexpr double kLeastShare = 0.003;   // of the network's time that such a gain must be worth
constexpr double kSecondsATurn = 0.05;  // that its timed runs take together, one run at least
constexpr int kMostRuns = 20;           // in one turn
constexpr double kPassShare = 0.8;      // of the remaining progress: how many passes there will be is not known

/// Regions of one key are timed together: they compute the same in the same layouts.
struct Group {
    std::string key;
    std::vector<int> regions;                  // of the program that the candidates were listed for
    std::vector<std::string> candidates;       // the default first
    std::vector<std::vector<double>> medians;  // seconds of one region, by candidate and turn
    int colour = 0;                            // another one than its neighbours'
};

/// The candidate to use: the default unless another one beats it clearly.
const std::string& decide(const Timing& timing) {
    const auto& times = timing.nanoseconds;
    const auto least =
        std::min_element(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    const int64_t gain = times.front().second - least->second;
    const bool clearly = gain > std::max(kLeastGain, timing.noise) &&
                         static_cast<double>(gain) > kMargin * static_cast<double>(times.front().second);
    return clearly ? least->first : times.front().first;
}

/// Short networks run often, so that a median means something; of long ones a run is many samples by itself. `runs`: 0
/// at first, then how many are enough.
std::vector<std::vector<double>> take_turn_of(const Program& program, Stopwatch& stopwatch, int& runs) {
    if (runs > 0) return stopwatch.time(program, runs);
    auto first = stopwatch.time(program, 1);
    const double seconds = std::accumulate(first[0].begin(), first[0].end(), 0.0);
    runs = static_cast<int>(std::clamp<double>(kSecondsATurn / std::max(seconds, 1e-9), 1, kMostRuns));
    return runs == 1 ? first : stopwatch.time(program, runs);
}

class Tuner {
  public:
    Tuner(const Graph& graph, const Backend& backend, const CompileOptions& options, const TuneOptions& how,
          Stopwatch& stopwatch, TimingCache& cache)
        : graph_(graph),
          backend_(backend),
          options_(options),
          how_(how),
          stopwatch_(stopwatch),
          cache_(cache),
          deadline_(stopwatch.now() + how.budget.value_or(INFINITY)) {
        options_.list_candidates = true;
    }

    Tuned run(std::unique_ptr<Program> untuned) {
        for (const RegionInfo& region : untuned->regions()) signatures_.push_back(region.signature);
        result_.program = std::move(untuned);
        // Each pass settles the regions in sight; those that are dissolved bring their parts into sight.
        for (;;) {
            std::vector<Group> groups = unsettled(*result_.program);
            if (groups.empty()) break;
            std::vector<Group*> missing;
            for (Group& group : groups)
                if (!known(group)) missing.push_back(&group);
            if (!missing.empty() && how_.replay_only) miss(*missing[0]);
            std::set<std::string> measured;
            if (!missing.empty() && how_.measure) measured = measure(missing);
            bool changed = false;
            for (const Group& group : groups) changed = settle(group, measured.contains(group.key)) || changed;
            if (changed) result_.program = compile(result_.tactics);
        }
        confirm();
        return std::move(result_);
    }

  private:
    std::unique_ptr<Program> compile(const std::map<std::string, std::string>& tactics) const {
        CompileOptions options = options_;
        options.tactics = tactics;
        return backend_.compile(graph_.clone(), options);
    }

    std::vector<Group> unsettled(const Program& program) {
        regions_ = program.regions();
        std::vector<Group> groups;
        std::map<std::string, size_t> index;
        std::vector<bool> open(regions_.size());  // undecided, or a part of such a region
        for (size_t i = 0; i < regions_.size(); ++i) {
            const RegionInfo& region = regions_[i];
            open[i] = region.parent >= 0 && open[static_cast<size_t>(region.parent)];
            if (open[i] || region.candidates.size() < 2 || settled_.contains(region.path)) continue;
            open[i] = true;
            const std::string key = key_of(region);
            const auto [it, fresh] = index.try_emplace(key, groups.size());
            if (fresh) groups.push_back({key, {}, region.candidates, {}});
            groups[it->second].regions.push_back(static_cast<int>(i));
        }
        return groups;
    }

    // What decides the times: the computation, the ways to do it, the machine, and the kernels' version.
    std::string key_of(const RegionInfo& region) const {
        Hasher hasher;
        hasher.update(version()).update(how_.machine).update(region.signature);
        for (const std::string& candidate : region.candidates) hasher.update(candidate);
        return hasher.digest().to_hex();
    }

    bool known(const Group& group) const {
        const Timing* timing = cache_.find(group.key);
        if (timing == nullptr) return false;
        return !how_.measure || how_.replay_only || how_.effort == 1 || timing->turns >= turns_of(how_.effort);
    }

    [[noreturn]] void miss(const Group& group) const {
        const RegionInfo& region = regions_[static_cast<size_t>(group.regions[0])];
        fail(ErrorCode::not_found, "the timing cache does not know region '" + region.path + "' on " + how_.machine,
             "build once without --replay-only on such a machine and keep its timing cache");
    }

    // ---- measuring ----

    struct Round {
        std::unique_ptr<Program> program;
        std::vector<std::vector<int>> steps;  // by group: those whose time is its regions'
        std::vector<bool> timed;              // by group: whether this round times its candidate
        size_t candidate = 0;
        int runs = 0;  // in a turn
    };

    /// Times every candidate of `groups`; the complete ones go into the cache. Returns their keys.
    std::set<std::string> measure(const std::vector<Group*>& groups) {
        size_t count = 0;
        for (Group* group : groups) {
            count = std::max(count, group->candidates.size());
            group->medians.assign(group->candidates.size(), {});
        }
        std::vector<Round> rounds = make_rounds(groups, count);
        int turn = 0;
        try {
            int turns = turns_of(how_.effort);
            for (; turn < turns; ++turn) {
                if (!take_turn(groups, rounds, turn, turns)) break;
                if (turn + 1 == turns && turns < kMostTurns * how_.effort && is_undecided(groups, turn + 1)) ++turns;
            }
        } catch (const CannotMeasure& error) {
            result_.failure = error.what();
        }
        done_ += (1 - done_) * kPassShare;
        std::set<std::string> keys;
        if (turn == 0) return keys;
        for (const Group* group : groups) {
            cache_.insert(group->key, timing_of(*group, turn));
            keys.insert(group->key);
        }
        return keys;
    }

    Timing timing_of(const Group& group, int turns) const {
        const RegionInfo& region = regions_[static_cast<size_t>(group.regions[0])];
        Timing timing{how_.machine, std::string(version()), region.title, turns, {}, 0};
        size_t least = 0;
        std::vector<std::vector<double>> sorted = group.medians;
        for (size_t k = 0; k < sorted.size(); ++k) {
            if (sorted[k].empty()) continue;
            std::sort(sorted[k].begin(), sorted[k].end());
            timing.nanoseconds.emplace_back(group.candidates[k], std::llround(sorted[k][0] * 1e9));
            if (sorted[k][0] < sorted[least][0]) least = k;
        }
        for (const std::vector<double>& medians : {sorted[0], sorted[least]}) {
            const double noise = medians.size() > 1 ? medians[1] - medians[0] : kUnknownNoise * medians[0];
            timing.noise = std::max<int64_t>(timing.noise, std::llround(noise * 1e9));
        }
        return timing;
    }

    /// Is there a gain that more turns would tell from noise, and that the network would notice?
    bool is_undecided(const std::vector<Group*>& groups, int turns) const {
        double network = 0;
        std::vector<double> hidden;
        for (const Group* group : groups) {
            const Timing timing = timing_of(*group, turns);
            const auto regions = static_cast<double>(group->regions.size());
            const auto present = static_cast<double>(timing.nanoseconds.front().second);
            network += regions * present;
            Timing exact = timing;
            exact.noise = 0;
            if (decide(timing) == decide(exact)) continue;
            int64_t least = timing.nanoseconds.front().second;
            for (const auto& [tactic, time] : timing.nanoseconds) least = std::min(least, time);
            hidden.push_back(regions * (present - static_cast<double>(least)));
        }
        return std::any_of(hidden.begin(), hidden.end(), [&](double gain) { return gain > kLeastShare * network; });
    }

    /// Every program once more; false when the time is up before the last of them.
    bool take_turn(const std::vector<Group*>& groups, std::vector<Round>& rounds, int turn, int turns) {
        for (size_t k = 0; k < rounds.size(); ++k) {
            const double part = static_cast<double>(k) / static_cast<double>(rounds.size());
            progress(std::to_string(rounds.size()) + " candidates, turn " + std::to_string(turn + 1) + " of " +
                         std::to_string(turns),
                     0.1 + 0.9 * (turn + part) / turns);
            if (stopwatch_.now() >= deadline_) return false;
            const auto samples = take_turn_of(*rounds[k].program, stopwatch_, rounds[k].runs);
            for (size_t g = 0; g < groups.size(); ++g) {
                if (!rounds[k].timed[g]) continue;
                std::vector<double> totals;
                for (const std::vector<double>& run : samples) {
                    double total = 0;
                    for (const int step : rounds[k].steps[g]) total += run[static_cast<size_t>(step)];
                    totals.push_back(total / static_cast<double>(groups[g]->regions.size()));
                }
                groups[g]->medians[rounds[k].candidate].push_back(median(std::move(totals)));
            }
        }
        return true;
    }

    /// Gives groups whose regions follow each other different colours, and says how many it took. A region that runs
    /// between neighbours that were changed too would find other caches than in the network that comes of it.
    int colour(const std::vector<Group*>& groups) const {
        std::map<int, Group*> group_of;  // by region: in the order in which they run
        for (Group* group : groups) {
            group->colour = -1;
            for (const int region : group->regions) group_of[region] = group;
        }
        std::map<const Group*, std::set<const Group*>> neighbours;
        const Group* last = nullptr;
        for (const auto& [region, group] : group_of) {
            if (last) neighbours[last].insert(group), neighbours[group].insert(last);
            last = group;
        }
        int colours = 1;
        for (Group* group : groups) {
            std::set<int> taken;
            for (const Group* neighbour : neighbours[group]) taken.insert(neighbour->colour);
            do ++group->colour;
            while (taken.contains(group->colour));
            colours = std::max(colours, group->colour + 1);
        }
        return colours;
    }

    /// The defaults, then every place in the lists of candidates for every colour.
    std::vector<Round> make_rounds(const std::vector<Group*>& groups, size_t count) const {
        std::vector<std::pair<size_t, int>> places = {{0, 0}};
        const int colours = colour(groups);
        for (size_t k = 1; k < count; ++k)
            for (int c = 0; c < colours; ++c) places.emplace_back(k, c);
        std::vector<Round> rounds(places.size());
        std::atomic<int> done{0};
        ThreadPool::process().parallel_for(
            static_cast<int64_t>(places.size()), backend_.concurrent_compilations(), [&](int64_t i, int thread) {
                // The caller's own thread, which may be a Python interpreter's.
                if (thread == 0) progress("compiling candidates", 0.1 * done / static_cast<double>(places.size()));
                const auto [k, c] = places[static_cast<size_t>(i)];
                rounds[static_cast<size_t>(i)] = make_round(groups, k, c);
                ++done;
            });
        std::erase_if(rounds, [](const Round& round) {
            return std::find(round.timed.begin(), round.timed.end(), true) == round.timed.end();
        });
        return rounds;
    }

    /// The program in which every region of `groups` takes its default (k = 0), or in which those of one colour take
    /// their k-th candidate where they have one.
    Round make_round(const std::vector<Group*>& groups, size_t k, int colour) const {
        Round round;
        round.candidate = k;
        for (const Group* group : groups)
            round.timed.push_back(k == 0 || (k < group->candidates.size() && group->colour == colour));
        for (;;) {
            auto tactics = result_.tactics;
            std::map<std::string, size_t> group_of;
            for (size_t g = 0; g < groups.size(); ++g)
                for (const int region : groups[g]->regions) {
                    const std::string& path = regions_[static_cast<size_t>(region)].path;
                    group_of[path] = g;
                    if (round.timed[g] && k > 0) tactics[path] = groups[g]->candidates[k];
                }
            round.program = compile(tactics);
            round.steps.assign(groups.size(), {});
            const std::vector<RegionInfo> regions = round.program->regions();
            const std::vector<StepInfo> steps = round.program->steps();
            bool again = false;
            for (size_t s = 0; s < steps.size(); ++s) {
                std::set<size_t> charged;
                for (int r : steps[s].regions)
                    for (; r >= 0; r = regions[static_cast<size_t>(r)].parent)
                        if (const auto it = group_of.find(regions[static_cast<size_t>(r)].path); it != group_of.end())
                            charged.insert(it->second);
                for (const size_t g : charged) {
                    round.steps[g].push_back(static_cast<int>(s));
                    // A part that only the interpreter can run would take ages to find out what is known.
                    if (k > 0 && round.timed[g] && steps[s].implementation.starts_with("reference.")) {
                        round.timed[g] = false;
                        again = true;
                    }
                }
            }
            if (!again) return round;
        }
    }

    // ---- deciding ----

    /// Adopts what the cache says of a group, or the default. True when that changes the program.
    bool settle(const Group& group, bool measured) {
        const Timing* timing = cache_.find(group.key);
        const std::string chosen = timing ? decide(*timing) : group.candidates[0];
        ++(timing == nullptr ? result_.missed : measured ? result_.timed : result_.replayed);
        for (const int index : group.regions) {
            const RegionInfo& region = regions_[static_cast<size_t>(index)];
            settled_.insert(region.path);
            TacticRow row{region.path, region.layers, chosen, {}, timing != nullptr && !measured};
            if (timing)
                for (const auto& [tactic, ns] : timing->nanoseconds)
                    row.seconds.emplace_back(tactic, static_cast<double>(ns) * 1e-9);
            result_.rows.push_back(std::move(row));
            if (chosen != group.candidates[0]) result_.tactics[region.path] = chosen;
        }
        return chosen != group.candidates[0];
    }

    using Tactics = std::map<std::string, std::string>;

    /// Regions were timed one by one, and what one gains its successor may lose (a result that is no longer in the
    /// cache). So the network as a whole decides between all choices, those of implementations alone, and none.
    void confirm() {
        if (result_.tactics.empty()) return;
        Tactics kernels;
        for (const auto& [path, tactic] : result_.tactics)
            if (tactic != kDissolve && !is_part(path)) kernels.emplace(path, tactic);
        std::vector<std::pair<std::string, Tactics>> variants = {{"default", {}}};
        if (!kernels.empty() && kernels != result_.tactics) variants.emplace_back("fused", kernels);
        variants.emplace_back("tuned", result_.tactics);

        Hasher hasher;
        hasher.update(version()).update(how_.machine).update("network");
        for (const std::string& signature : signatures_) hasher.update(signature);
        for (const auto& [path, tactic] : result_.tactics) hasher.update(path).update(tactic);
        const std::string key = hasher.digest().to_hex();
        const bool known = cache_.find(key) != nullptr;
        if (!known && how_.replay_only)
            fail(ErrorCode::not_found, "the timing cache does not know the network as a whole on " + how_.machine,
                 "build once without --replay-only on such a machine and keep its timing cache");
        if (!known && !measure_networks(key, variants)) return;
        const Timing& timing = *cache_.find(key);
        const auto least = std::min_element(timing.nanoseconds.begin(), timing.nanoseconds.end(),
                                            [](const auto& a, const auto& b) { return a.second < b.second; });
        TacticRow row{"(network)", {}, least->first, {}, known};
        for (const auto& [name, time] : timing.nanoseconds)
            row.seconds.emplace_back(name, static_cast<double>(time) * 1e-9);
        for (const auto& [name, tactics] : variants)
            if (name == least->first && tactics != result_.tactics) adopt(tactics);
        result_.rows.push_back(std::move(row));
    }

    /// Was the region made by dissolving another one?
    bool is_part(const std::string& path) const {
        const auto it = std::find_if(regions_.begin(), regions_.end(), [&](const auto& r) { return r.path == path; });
        return it != regions_.end() && it->parent >= 0;
    }

    /// Compiles with `tactics`, and makes the rows say so.
    void adopt(const Tactics& tactics) {
        result_.tactics = tactics;
        result_.program = compile(tactics);
        std::map<std::string, std::string> present;
        for (const RegionInfo& region : result_.program->regions()) present[region.path] = region.tactic;
        std::erase_if(result_.rows, [&](const TacticRow& row) { return !present.contains(row.region); });
        for (TacticRow& row : result_.rows) row.chosen = present.at(row.region);
    }

    /// False when they cannot or may not be measured: then the regions' own measurements stand.
    bool measure_networks(const std::string& key, const std::vector<std::pair<std::string, Tactics>>& variants) {
        if (!how_.measure || !result_.failure.empty()) return false;
        std::vector<std::unique_ptr<Program>> programs;
        std::vector<const Program*> runners;
        for (const auto& [name, tactics] : variants) runners.push_back(programs.emplace_back(compile(tactics)).get());
        const std::vector<double> best = race(runners, stopwatch_, how_.effort, [&] {
            progress("the network as a whole", 1);
            return stopwatch_.now() < deadline_;
        });
        if (best.empty()) return false;
        Timing timing{how_.machine, std::string(version()), "network", turns_of(how_.effort), {}, 0};
        for (size_t i = 0; i < best.size(); ++i)
            timing.nanoseconds.emplace_back(variants[i].first, std::llround(best[i] * 1e9));
        cache_.insert(key, std::move(timing));
        return true;
    }

    void progress(std::string_view detail, double fraction) const {
        if (how_.progress) how_.progress(detail, done_ + (1 - done_) * kPassShare * fraction);
    }

    const Graph& graph_;
    const Backend& backend_;
    CompileOptions options_;
    const TuneOptions& how_;
    Stopwatch& stopwatch_;
    TimingCache& cache_;
    double deadline_;
    double done_ = 0;  // of the progress
    Tuned result_;
    std::vector<RegionInfo> regions_;      // of the program that was compiled last
    std::vector<std::string> signatures_;  // of the untuned network's regions
    std::set<std::string> settled_;        // paths
};

}  // namespace

int turns_of(int effort) {
    return kTurns * effort;
}

namespace {

/// Programs take turns; `see(program, samples)` gets the steps' seconds in each run of a turn. False: `go_on` ended it.
bool take_turns(std::span<const Program* const> programs, Stopwatch& stopwatch, int effort,
                const std::function<bool()>& go_on,
                const std::function<void(size_t, const std::vector<std::vector<double>>&)>& see) {
    std::vector<int> runs(programs.size(), 0);
    for (int turn = 0; turn < turns_of(effort); ++turn)
        for (size_t i = 0; i < programs.size(); ++i) {
            if (!go_on()) return false;
            see(i, take_turn_of(*programs[i], stopwatch, runs[i]));
        }
    return true;
}

}  // namespace

std::vector<double> race(std::span<const Program* const> programs, Stopwatch& stopwatch, int effort,
                         const std::function<bool()>& go_on) {
    std::vector<double> best(programs.size(), INFINITY);
    const bool finished = take_turns(programs, stopwatch, effort, go_on, [&](size_t i, const auto& samples) {
        std::vector<double> totals;
        for (const auto& run : samples) totals.push_back(std::accumulate(run.begin(), run.end(), 0.0));
        best[i] = std::min(best[i], median(std::move(totals)));
    });
    return finished ? best : std::vector<double>();
}

std::vector<std::vector<double>> race_steps(std::span<const Program* const> programs, Stopwatch& stopwatch, int effort,
                                            const std::function<bool()>& go_on) {
    std::vector<std::vector<double>> best(programs.size());
    const bool finished = take_turns(programs, stopwatch, effort, go_on, [&](size_t i, const auto& samples) {
        best[i].resize(samples[0].size(), INFINITY);
        for (size_t step = 0; step < best[i].size(); ++step) {
            std::vector<double> seconds;
            for (const auto& run : samples) seconds.push_back(run[step]);
            best[i][step] = std::min(best[i][step], median(std::move(seconds)));
        }
    });
    return finished ? best : std::vector<std::vector<double>>();
}

Tuned tune(std::unique_ptr<Program> untuned, const Graph& graph, const Backend& backend, const CompileOptions& options,
           const TuneOptions& how, Stopwatch& stopwatch, TimingCache& cache) {
    return Tuner(graph, backend, options, how, stopwatch, cache).run(std::move(untuned));
}

}  // namespace planish::tuner
