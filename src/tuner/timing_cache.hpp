// The timing cache: what was measured on which machine, kept in a file so that nothing is measured twice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace planish::tuner {

/// The times of every tactic that can run one region on one machine. An entry is complete or not there.
struct Timing {
    std::string machine;  // "AMD EPYC 9B14, cpu:avx512, 2 threads"
    std::string version;  // of Planish
    std::string region;   // for people: "Conv+Clip float32[1, 32, 112, 112]"
    int64_t turns = 0;    // of each candidate: its time is the least of the medians of so many
    std::vector<std::pair<std::string, int64_t>> nanoseconds;  // by tactic, the default first
    int64_t noise = 0;  // nanoseconds: by how much the best two turns of one tactic differed, at most

    friend bool operator==(const Timing&, const Timing&) = default;
};

/// Entries by key: a hash of what decides the times (see tuner.cpp). Equal contents give equal bytes.
class TimingCache {
  public:
    /// A missing or empty file is an empty cache. Errors: io_error; invalid_argument for a file that is no timing
    /// cache, or one of a newer Planish.
    static TimingCache read(const std::filesystem::path& path);
    /// `where` names the source in errors.
    static TimingCache parse(std::string_view text, const std::string& where);

    const Timing* find(const std::string& key) const;
    const std::map<std::string, Timing>& entries() const { return entries_; }
    /// Replaces what was there.
    void insert(const std::string& key, Timing timing) { entries_[key] = std::move(timing); }
    /// The union. Of two entries for a key the one of more turns stays, then the faster one: merging is commutative,
    /// associative and idempotent.
    void merge(const TimingCache& other);
    /// Returns the number of entries removed.
    template <typename Predicate>
    int64_t remove_if(Predicate&& gone) {
        return static_cast<int64_t>(
            std::erase_if(entries_, [&](const auto& item) { return gone(item.first, item.second); }));
    }

    /// JSON, one entry a line, sorted by key.
    std::string text() const;

    /// Merges these entries into the file: safe against other processes that do the same at the same time, and readers
    /// see the former file or the new one. Makes missing folders.
    void add_to(const std::filesystem::path& path) const;
    /// Replaces the file by what `change` makes of its content, under the same lock.
    static void update(const std::filesystem::path& path, const std::function<void(TimingCache&)>& change);

  private:
    std::map<std::string, Timing> entries_;
};

/// $XDG_CACHE_HOME/planish/timing.json, else ~/.cache/planish/timing.json; empty where neither is set.
std::filesystem::path default_timing_cache();

}  // namespace planish::tuner
