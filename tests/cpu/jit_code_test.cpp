// What profilers are told of generated code.
#include "backends/cpu/jit/jit_code.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace planish::cpu {
namespace {

struct Answer : JitCode {
    explicit Answer(const std::string& name) : JitCode(64) {
        mov(eax, 42);
        ret();
        publish(name);
    }
};

/// The line of perf's map that covers `address`, or "".
std::string perf_line(const void* address) {
    std::ifstream map("/tmp/perf-" + std::to_string(getpid()) + ".map");
    for (std::string line; std::getline(map, line);) {
        uint64_t start = 0, size = 0;
        if (std::sscanf(line.c_str(), "%lx %lx", &start, &size) != 2) continue;
        const auto at = reinterpret_cast<uint64_t>(address);
        if (at >= start && at < start + size) return line;
    }
    return "";
}

TEST(JitCode, RunsAndIsNamedForPerfOnlyWhenAsked) {
    unsetenv("PLANISH_PERF");
    const Answer quiet("quiet");
    EXPECT_EQ(quiet.getCode<int (*)()>()(), 42);
    EXPECT_EQ(perf_line(quiet.getCode<const void*>()), "");

    setenv("PLANISH_PERF", "1", 1);
    const Answer named("answer_42");
    unsetenv("PLANISH_PERF");
    EXPECT_EQ(named.getCode<int (*)()>()(), 42);
    const std::string line = perf_line(named.getCode<const void*>());
    EXPECT_TRUE(line.ends_with(" planish.answer_42")) << line;
    std::remove(("/tmp/perf-" + std::to_string(getpid()) + ".map").c_str());
}

}  // namespace
}  // namespace planish::cpu
