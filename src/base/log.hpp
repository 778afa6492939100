// Messages to the user or the host application: one level, one sink.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace planish {

enum class LogLevel : uint8_t { trace, debug, info, warning, error, off };

std::string_view to_string(LogLevel level);

/// The least level that is passed on: environment variable PLANISH_LOG (a name of `to_string`) or `warning`.
/// An unknown name counts as unset and is itself reported as a warning.
LogLevel log_level();
void set_log_level(LogLevel level);

/// Lets a caller skip building a message that nobody reads.
inline bool log_enabled(LogLevel level) {
    return level >= log_level();
}

/// Passes one message, without a trailing newline, to the sink when its level is enabled. Thread-safe; the sink is
/// never called twice at once.
void log(LogLevel level, std::string_view message);

using LogSink = std::function<void(LogLevel, std::string_view)>;
/// Replaces the sink; an empty one restores the default, which writes "planish: LEVEL: message" to standard error.
void set_log_sink(LogSink sink);

}  // namespace planish
