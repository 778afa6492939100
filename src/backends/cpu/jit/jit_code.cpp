// perf's map of generated code: one line "START SIZE NAME" for each piece, both numbers hexadecimal.
#include "backends/cpu/jit/jit_code.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace planish::cpu {
namespace {

bool wanted() {
    const char* text = std::getenv("PLANISH_PERF");
    return text != nullptr && *text != '\0' && std::string(text) != "0";
}

// Opened anew for each line: a forked child has a map of its own, and no descriptor stays open. What cannot be written
// costs a profile its names and the user nothing else.
void append_to_perf_map(const void* code, size_t bytes, const std::string& name) {
    char line[256];
    const int length =
        std::snprintf(line, sizeof line, "%llx %zx planish.%.200s\n",
                      static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(code)), bytes, name.c_str());
    const std::string path = "/tmp/perf-" + std::to_string(getpid()) + ".map";
    // In a folder that others can write to: a link put there beforehand is not followed.
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) return;
    const ssize_t written = write(file, line, static_cast<size_t>(length));
    (void)written;
    close(file);
}

}  // namespace

void JitCode::publish(const std::string& name) {
    readyRE();
    if (wanted()) append_to_perf_map(getCode(), getSize(), name);
}

}  // namespace planish::cpu
