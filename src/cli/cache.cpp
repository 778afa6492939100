// `planish cache`: look into timing caches, join them, thin them out.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "cli/common.hpp"
#include "cli/terminal.hpp"
#include "tuner/timing_cache.hpp"

namespace planish::cli {
namespace {

using tuner::Timing;
using tuner::TimingCache;

struct Options {
    std::string file, match;
    std::vector<std::string> from;
    bool other_versions = false, json = false;
};

std::filesystem::path file_of(const Options& options) {
    const std::filesystem::path path =
        options.file.empty() ? tuner::default_timing_cache() : std::filesystem::path(options.file);
    if (path.empty()) fail(ErrorCode::invalid_argument, "there is no default timing cache here", "name a file");
    return path;
}

bool matches(const std::string& key, const Timing& timing, const std::string& text) {
    for (const std::string* field : {&key, &timing.machine, &timing.version, &timing.region})
        if (field->find(text) != std::string::npos) return true;
    return false;
}

TimingCache read_existing(const std::filesystem::path& path) {
    if (!std::filesystem::exists(path))
        fail(ErrorCode::not_found, "there is no timing cache '" + path.string() + "'",
             "`planish build --timing-cache FILE` makes one");
    return TimingCache::read(path);
}

int show(const Options& options) {
    const std::filesystem::path path = file_of(options);
    const TimingCache cache = read_existing(path);
    Json rows = Json::array();
    std::set<std::string> machines;
    Table table({"region", "machine", "fastest", ">time", "others"});
    for (const auto& [key, timing] : cache.entries()) {
        if (!matches(key, timing, options.match)) continue;
        Json nanoseconds = Json::object();
        for (const auto& [tactic, ns] : timing.nanoseconds) nanoseconds[tactic] = ns;
        rows.push_back({{"key", key},
                        {"machine", timing.machine},
                        {"version", timing.version},
                        {"region", timing.region},
                        {"turns", timing.turns},
                        {"nanoseconds", nanoseconds}});
        machines.insert(timing.machine);
        auto times = timing.nanoseconds;
        std::stable_sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
        std::string others;
        for (size_t i = 1; i < times.size(); ++i)
            others += fmt::format("{}{} {}", i == 1 ? "" : ", ", times[i].first,
                                  format_seconds(static_cast<double>(times[i].second) * 1e-9));
        table.add({shorten(timing.region, 56), shorten(timing.machine, 40), times[0].first,
                   format_seconds(static_cast<double>(times[0].second) * 1e-9), others});
    }
    if (options.json) {
        fmt::print("{}\n", Json{{"file", path.string()}, {"entries", rows}}.dump(2, ' ', false,
                                                                                 Json::error_handler_t::replace));
        return 0;
    }
    fmt::print("{}: {} entries{}, {} machines\n", paint(path.string(), Colour::bold), rows.size(),
               rows.size() == cache.entries().size() ? "" : fmt::format(" of {}", cache.entries().size()),
               machines.size());
    fmt::print("{}", table.text());
    return 0;
}

void print_change(const Options& options, const std::filesystem::path& path, size_t before, size_t after) {
    if (options.json)
        fmt::print("{}\n", Json{{"file", path.string()}, {"before", before}, {"after", after}}.dump(2));
    else
        fmt::print("{}: {} entries, {} before\n", path.string(), after, before);
}

int merge(const Options& options) {
    TimingCache all;
    for (const std::string& from : options.from) all.merge(read_existing(from));
    size_t before = 0, after = 0;
    TimingCache::update(options.file, [&](TimingCache& cache) {
        before = cache.entries().size();
        cache.merge(all);
        after = cache.entries().size();
    });
    print_change(options, options.file, before, after);
    return 0;
}

int prune(const Options& options) {
    if (options.match.empty() && !options.other_versions)
        fail(ErrorCode::invalid_argument, "nothing says which entries to remove", "give --match or --other-versions");
    const std::filesystem::path path = file_of(options);
    read_existing(path);
    size_t before = 0, after = 0;
    TimingCache::update(path, [&](TimingCache& cache) {
        before = cache.entries().size();
        cache.remove_if([&](const std::string& key, const Timing& timing) {
            return (options.other_versions && timing.version != version()) ||
                   (!options.match.empty() && matches(key, timing, options.match));
        });
        after = cache.entries().size();
    });
    print_change(options, path, before, after);
    return 0;
}

}  // namespace

Verb add_cache(CLI::App& app) {
    auto options = std::make_shared<Options>();
    CLI::App* verb = app.add_subcommand("cache", "Show, merge and prune timing caches: what `build` measured");
    verb->require_subcommand(1);
    verb->footer(
        "Examples:\n"
        "  planish cache show\n"
        "  planish cache show timing.json --match Conv --json\n"
        "  planish cache merge team.json laptop.json server.json\n"
        "  planish cache prune timing.json --other-versions");
    CLI::App* shows = verb->add_subcommand("show", "List the entries of a timing cache");
    CLI::App* merges = verb->add_subcommand("merge", "Add the entries of other timing caches to one");
    CLI::App* prunes = verb->add_subcommand("prune", "Remove entries from a timing cache");
    for (CLI::App* one : {shows, prunes})
        one->add_option("file", options->file, "Timing cache (default: the one that `build` uses)");
    merges->add_option("into", options->file, "Timing cache to add to; made when it is not there")->required();
    merges
        ->add_option("from", options->from,
                     "Timing caches to read; of two entries for one region the one that was "
                     "measured more often stays, then the faster one")
        ->required();
    shows->add_option("--match", options->match, "Only entries with this text in region, machine, version or key");
    prunes->add_option("--match", options->match, "Entries with this text in region, machine, version or key");
    prunes->add_flag("--other-versions", options->other_versions, "Entries of other versions of Planish");
    for (CLI::App* one : {shows, merges, prunes}) one->add_flag("--json", options->json, "Print as JSON");
    return [options, shows, merges] {
        if (shows->parsed()) return show(*options);
        if (merges->parsed()) return merge(*options);
        return prune(*options);
    };
}

}  // namespace planish::cli
