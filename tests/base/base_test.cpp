// Small parts of src/base: CPU quota, hash, aligned memory, log, function reference.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "base/aligned_buffer.hpp"
#include "base/cpu_budget.hpp"
#include "base/function_ref.hpp"
#include "base/glob.hpp"
#include "base/hash.hpp"
#include "base/log.hpp"
#include "base/matrix.hpp"
#include "base/median.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

namespace fs = std::filesystem;

class Cgroup : public testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "planish_cgroup_XXXXXX").string();
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        root_ = pattern;
    }
    void TearDown() override { fs::remove_all(root_); }
    void write(const std::string& path, const std::string& text) {
        fs::create_directories(fs::path(root_ + path).parent_path());
        std::ofstream(root_ + path) << text;
    }

    std::string root_;
};

TEST_F(Cgroup, UnlimitedWithoutFiles) {
    EXPECT_EQ(cgroup_cpu_quota(root_), 0);
}

TEST_F(Cgroup, Version2TakesTheTightestAncestor) {
    write("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
    write("/proc/self/cgroup", "0::/a/b\n");
    write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    EXPECT_EQ(cgroup_cpu_quota(root_), 0);
    write("/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_), 1.5);
    write("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_), 1.5);
}

TEST_F(Cgroup, Version1InAContainer) {
    // The container's own group is mounted, while the process's path is the host's.
    write("/proc/self/mountinfo",
          "30 23 0:26 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
          "31 23 0:27 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
    write("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(cgroup_cpu_quota(root_), 0);
    write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
    EXPECT_DOUBLE_EQ(cgroup_cpu_quota(root_), 2.5);
}

// A quota of one and a half CPUs is worth two threads, one of half a CPU still one.
TEST_F(Cgroup, QuotaLimitsTheBudget) {
    const int allowed = cpu_budget(root_).logical;
    write("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    write("/proc/self/cgroup", "0::/a\n");
    for (const auto& [quota, threads] : {std::pair{"50000", 1}, {"100000", 1}, {"150000", 2}, {"99900000", 999}}) {
        write("/sys/fs/cgroup/a/cpu.max", std::string(quota) + " 100000\n");
        EXPECT_EQ(cpu_budget(root_).logical, std::min(threads, allowed)) << quota;
        EXPECT_LE(cpu_budget(root_).cores, threads) << quota;
    }
}

TEST(CpuBudget, FollowsTheAffinityOfTheCallingThread) {
    std::thread([] {  // whose mask is nobody else's
        cpu_set_t all, one;
        ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
        int cpu = 0;
        while (!CPU_ISSET(cpu, &all)) ++cpu;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
        EXPECT_EQ(cpu_budget().logical, 1);
        EXPECT_EQ(cpu_budget().cores, 1);
    })
        .join();
}

TEST(CpuBudget, IsPositiveAndOrdered) {
    const CpuBudget budget = cpu_budget();
    EXPECT_GE(budget.cores, 1);
    EXPECT_GE(budget.logical, budget.cores);
}

TEST(Hash, IsXxh3AndPiecewiseEqual) {
    EXPECT_EQ(hash128("").to_hex(), "99aa06d3014798d86001c324468d497f");  // the value published with XXH3_128bits
    const std::string text(5000, 'p');
    Hasher hasher;
    hasher.update_bytes(std::as_bytes(std::span(text.data(), 17)));
    hasher.update_bytes(std::as_bytes(std::span(text.data() + 17, text.size() - 17)));
    EXPECT_EQ(hasher.digest(), hash128(text));
    Hasher ab, a;
    EXPECT_NE(ab.update("ab").update("c").digest(), a.update("a").update("bc").digest());
}

TEST(AlignedBuffer, AlignmentMoveAndRefusal) {
    for (size_t size : {size_t{1}, size_t{100}, size_t{5} << 20}) {
        AlignedBuffer buffer(size);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
        buffer.data()[size - 1] = std::byte{1};
        AlignedBuffer moved = std::move(buffer);
        EXPECT_EQ(moved.size(), size);
        EXPECT_EQ(moved.data()[size - 1], std::byte{1});
    }
    EXPECT_EQ(AlignedBuffer(0).data(), nullptr);
    EXPECT_THROW(AlignedBuffer{SIZE_MAX}, Error);
#if !defined(__SANITIZE_ADDRESS__)  // which aborts at an impossible size instead of refusing it
    EXPECT_THROW(AlignedBuffer{SIZE_MAX / 2}, Error);
#endif
}

TEST(Log, LevelAndSink) {
    std::vector<std::string> seen;
    const LogLevel before = log_level();
    set_log_sink([&](LogLevel level, std::string_view message) {
        seen.push_back(std::string(to_string(level)) + " " + std::string(message));
    });
    set_log_level(LogLevel::info);
    log(LogLevel::debug, "hidden");
    log(LogLevel::info, "shown");
    set_log_level(LogLevel::off);
    log(LogLevel::error, "hidden");
    set_log_sink({});
    set_log_level(before);
    EXPECT_EQ(seen, std::vector<std::string>{"info shown"});
}

int twice(int x) {
    return 2 * x;
}

TEST(FunctionRef, LambdasFunctionsAndReferences) {
    int sum = 0;
    auto add = [&](int x) { return sum += x; };
    FunctionRef<int(int)> ref = add;
    ref(3);
    FunctionRef<int(int)> copy = ref;
    EXPECT_EQ(copy(4), 7);
    EXPECT_EQ(FunctionRef<int(int)>(twice)(21), 42);
}

TEST(Matches, StarsAndASingleCharacterWhereOneIsNamed) {
    EXPECT_TRUE(matches("*", ""));
    EXPECT_TRUE(matches("/head/*", "/head/fc/Gemm"));
    EXPECT_TRUE(matches("*Gemm", "/head/fc/Gemm"));
    EXPECT_FALSE(matches("head", "/head"));
    EXPECT_TRUE(matches("block.?.conv", "block.3.conv", '?'));
    EXPECT_FALSE(matches("block.?.conv", "block.13.conv", '?'));
    EXPECT_FALSE(matches("block.?.conv", "block.3.conv"));
    EXPECT_TRUE(matches("block.?.conv", "block.?.conv"));
}

TEST(Median, IsTheUpperOneInTheMiddle) {
    EXPECT_EQ(median({3}), 3);
    EXPECT_EQ(median({5, 1, 3}), 3);
    EXPECT_EQ(median({4, 1, 3, 2}), 3);
}

TEST(Matrix, TransposedAndCentred) {
    Matrix<float> a(18, 3);  // more rows than a tile has
    for (int64_t i = 0; i < 18; ++i)
        for (int64_t j = 0; j < 3; ++j) a.at(i, j) = static_cast<float>(10 * i + j);
    const Matrix<float> t = transposed(a);
    ASSERT_EQ(t.rows, 3);
    for (int64_t i = 0; i < 18; ++i)
        for (int64_t j = 0; j < 3; ++j) EXPECT_EQ(t.at(j, i), a.at(i, j));
    EXPECT_EQ(centre_columns(a), (std::vector<double>{85, 86, 87}));
    EXPECT_EQ(a.at(0, 2), -85.0f);
}

}  // namespace
}  // namespace planish
