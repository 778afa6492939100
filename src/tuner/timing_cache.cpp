// Reading, merging and writing timing caches.
#include "tuner/timing_cache.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "base/atomic_file.hpp"
#include "planish/error.hpp"

namespace planish::tuner {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr const char* kMark = "planish_timing_cache";

[[noreturn]] void not_a_cache(const std::string& where, const std::string& why) {
    fail(ErrorCode::invalid_argument, where + " is not a timing cache: " + why,
         "give another path, or delete the file to begin a new one");
}

/// Of two entries for one key the greater stays.
bool less(const Timing& a, const Timing& b) {
    auto total = [](const Timing& t) {
        int64_t sum = 0;
        for (const auto& [_, ns] : t.nanoseconds) sum += ns;
        return sum;
    };
    return std::tuple(a.turns, -total(a), a.nanoseconds, a.region, a.machine, a.version) <
           std::tuple(b.turns, -total(b), b.nanoseconds, b.region, b.machine, b.version);
}

std::string read_text(int fd, const std::filesystem::path& path) {
    std::string text;
    char buffer[1 << 16];
    for (;;) {
        const ssize_t got = ::read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            fail(ErrorCode::io_error, "cannot read the timing cache '" + path.string() + "': " + std::strerror(errno));
        if (got == 0) return text;
        text.append(buffer, static_cast<size_t>(got));
    }
}

/// The file opened and locked against other writers. A writer renames a new file over the old one, so whoever waited
/// for the old one starts again.
class LockedFile {
  public:
    explicit LockedFile(const std::filesystem::path& path) {
        std::error_code ignored;
        if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
        for (;;) {
            fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
            if (fd_ < 0)
                fail(ErrorCode::io_error,
                     "cannot write the timing cache '" + path.string() + "': " + std::strerror(errno),
                     "choose another file");
            while (flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
            }
            struct stat locked {
            }, present{};
            if (fstat(fd_, &locked) == 0 && stat(path.c_str(), &present) == 0 && locked.st_ino == present.st_ino &&
                locked.st_dev == present.st_dev)
                return;
            close(fd_);
        }
    }
    ~LockedFile() { close(fd_); }
    LockedFile(const LockedFile&) = delete;
    LockedFile& operator=(const LockedFile&) = delete;
    int descriptor() const { return fd_; }

  private:
    int fd_ = -1;
};

}  // namespace

TimingCache TimingCache::parse(std::string_view text, const std::string& where) {
    TimingCache cache;
    if (text.empty()) return cache;
    const Json json = Json::parse(text, nullptr, false);
    if (json.is_discarded()) not_a_cache(where, "it is not JSON");
    if (!json.is_object() || !json.contains(kMark) || !json[kMark].is_number_integer())
        not_a_cache(where, std::string("it has no field '") + kMark + "'");
    if (json[kMark].get<int64_t>() != kFormat)
        not_a_cache(where, "its format is " + json[kMark].dump() + ", this version of Planish reads format " +
                               std::to_string(kFormat));
    try {
        for (const auto& [key, row] : json.at("entries").items()) {
            Timing timing{row.at("machine"), row.at("version"), row.at("region"), row.at("turns"), {}, row.at("noise")};
            for (const auto& [tactic, ns] : row.at("nanoseconds").items()) {
                if (ns.get<int64_t>() < 0) not_a_cache(where, "entry " + key + " has a negative time");
                timing.nanoseconds.emplace_back(tactic, ns.get<int64_t>());
            }
            if (timing.nanoseconds.empty()) not_a_cache(where, "entry " + key + " has no times");
            cache.insert(key, std::move(timing));
        }
    } catch (const Json::exception& error) {
        not_a_cache(where, error.what());
    }
    return cache;
}

TimingCache TimingCache::read(const std::filesystem::path& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return {};
    if (fd < 0)
        fail(ErrorCode::io_error, "cannot read the timing cache '" + path.string() + "': " + std::strerror(errno));
    const struct Closer {
        int fd;
        ~Closer() { close(fd); }
    } closer{fd};
    return parse(read_text(fd, path), "'" + path.string() + "'");
}

const Timing* TimingCache::find(const std::string& key) const {
    const auto it = entries_.find(key);
    return it == entries_.end() ? nullptr : &it->second;
}

void TimingCache::merge(const TimingCache& other) {
    for (const auto& [key, timing] : other.entries_) {
        const auto [it, fresh] = entries_.try_emplace(key, timing);
        if (!fresh && less(it->second, timing)) it->second = timing;
    }
}

std::string TimingCache::text() const {
    std::string lines;
    for (const auto& [key, timing] : entries_) {
        Json row = {{"machine", timing.machine}, {"version", timing.version}, {"region", timing.region},
                    {"turns", timing.turns},     {"noise", timing.noise},     {"nanoseconds", Json::object()}};
        for (const auto& [tactic, ns] : timing.nanoseconds) row["nanoseconds"][tactic] = ns;
        lines += (lines.empty() ? "\n" : ",\n") + Json(key).dump() + ": " +
                 row.dump(-1, ' ', false, Json::error_handler_t::replace);
    }
    return std::string("{\"") + kMark + "\": " + std::to_string(kFormat) + ",\n\"entries\": {" + lines + "\n}}\n";
}

void TimingCache::update(const std::filesystem::path& path, const std::function<void(TimingCache&)>& change) {
    const LockedFile file(path);
    const std::string before = read_text(file.descriptor(), path);
    TimingCache cache = parse(before, "'" + path.string() + "'");
    change(cache);
    const std::string text = cache.text();
    if (text == before) return;
    write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

void TimingCache::add_to(const std::filesystem::path& path) const {
    update(path, [&](TimingCache& cache) { cache.merge(*this); });
}

std::filesystem::path default_timing_cache() {
    for (const auto& [variable, below] : {std::pair("XDG_CACHE_HOME", ""), std::pair("HOME", ".cache")})
        if (const char* folder = std::getenv(variable); folder != nullptr && *folder != '\0')
            return std::filesystem::path(folder) / below / "planish" / "timing.json";
    return {};
}

}  // namespace planish::tuner
