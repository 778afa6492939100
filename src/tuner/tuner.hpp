// The tuner: for every region of a network, the tactic that is fastest in its place.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "planish/report.hpp"
#include "tuner/timing_cache.hpp"

namespace planish::tuner {

/// The network does not run on the inputs that were made up for it: nothing can be measured.
class CannotMeasure : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Runs whole programs. Tests put their own in its place.
class Stopwatch {
  public:
    virtual ~Stopwatch() = default;
    /// Runs `program` once untimed, so that caches are as the network itself leaves them, then `runs` times. The
    /// seconds of each step in each run. Throws CannotMeasure.
    virtual std::vector<std::vector<double>> time(const Program& program, int runs) = 0;
    /// Seconds since some fixed moment.
    virtual double now() const = 0;
};

/// Real time, on real memory: `inputs` in port order.
std::unique_ptr<Stopwatch> make_stopwatch(std::vector<Tensor> inputs, int threads);

struct TuneOptions {
    std::string machine;           // what the times hold for: part of every key
    int effort = 1;                // repetitions, as a multiple of the ordinary
    std::optional<double> budget;  // seconds; absent: until done
    bool measure = true;           // false: only what the cache knows
    bool replay_only = false;      // a miss is an Error(not_found)
    std::function<void(std::string_view detail, double fraction)> progress;
};

struct Tuned {
    std::unique_ptr<Program> program;
    std::map<std::string, std::string> tactics;  // what differs from the default
    std::vector<TacticRow> rows;                 // regions that have a choice
    int timed = 0, replayed = 0, missed = 0;     // distinct regions: measured now, known, neither
    std::string failure;                         // why nothing could be measured
};

/// Turns that each program takes at an effort (TuneOptions::effort).
int turns_of(int effort);

/// Seconds of a run of each, as their steps add up: programs take turns, the least of the medians counts. Empty when
/// `go_on` has ended it.
std::vector<double> race(std::span<const Program* const> programs, Stopwatch& stopwatch, int effort,
                         const std::function<bool()>& go_on);

/// The same by step of each program.
std::vector<std::vector<double>> race_steps(std::span<const Program* const> programs, Stopwatch& stopwatch, int effort,
                                            const std::function<bool()>& go_on);

/// This processor, instruction set and number of threads, for TuneOptions::machine.
std::string describe_machine(const std::string& target, int threads);

/// Chooses tactics for `graph` (specialised) and compiles it with them. `untuned` is its program as compiled by
/// `backend` with `options`, candidates listed. What is measured goes into `cache`.
///
/// The whole network is compiled for every place k in the regions' lists of candidates: each region that is being tuned
/// takes its k-th candidate while its neighbours keep their default, so a tactic is timed where it will run, with the
/// memory and caches that it will have there. Programs take turns, so that noise hits all of them; the time of a tactic
/// is the least of the medians of the turns. The default (the first candidate) gives way only to one that beats it by
/// more than the noise. A dissolved region's parts are tuned in turn.
Tuned tune(std::unique_ptr<Program> untuned, const Graph& graph, const Backend& backend, const CompileOptions& options,
           const TuneOptions& how, Stopwatch& stopwatch, TimingCache& cache);

}  // namespace planish::tuner
