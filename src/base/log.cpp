// The level is one atomic; the sink is called under a lock.
#include "base/log.hpp"

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace planish {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"trace", "debug", "info", "warning", "error", "off"};

struct Sink {
    std::mutex mutex;
    LogSink write;
};

// Never destroyed, so that destructors of other statics may still log.
Sink& sink() {
    static Sink& instance = *new Sink;
    return instance;
}

void write_to_stderr(LogLevel level, std::string_view message) {
    std::string line = "planish: ";
    line.append(to_string(level)).append(": ").append(message).append("\n");
    std::fwrite(line.data(), 1, line.size(), stderr);
}

LogLevel level_of_environment() {
    const char* value = std::getenv("PLANISH_LOG");
    if (!value || !*value) return LogLevel::warning;
    for (size_t i = 0; i < kNames.size(); ++i)
        if (kNames[i] == value) return static_cast<LogLevel>(i);
    write_to_stderr(LogLevel::warning, std::string("PLANISH_LOG='") + value +
                                           "' is not a level (use trace, debug, info, warning, error or off)");
    return LogLevel::warning;
}

std::atomic<LogLevel>& current_level() {
    static std::atomic<LogLevel> level{level_of_environment()};
    return level;
}

}  // namespace

std::string_view to_string(LogLevel level) {
    return kNames[static_cast<size_t>(level)];
}

LogLevel log_level() {
    return current_level().load(std::memory_order_relaxed);
}

void set_log_level(LogLevel level) {
    current_level().store(level, std::memory_order_relaxed);
}

void log(LogLevel level, std::string_view message) {
    if (level == LogLevel::off || !log_enabled(level)) return;
    std::lock_guard lock(sink().mutex);
    if (sink().write)
        sink().write(level, message);
    else
        write_to_stderr(level, message);
}

void set_log_sink(LogSink replacement) {
    std::lock_guard lock(sink().mutex);
    sink().write = std::move(replacement);
}

}  // namespace planish
