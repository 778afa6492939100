// The timing cache: bytes, merging, files shared by processes, damage.
#include "tuner/timing_cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "planish/error.hpp"

namespace planish::tuner {
namespace {

using testing::HasSubstr;

Timing timing(int64_t turns, int64_t first, int64_t second) {
    return {"a machine, cpu:avx2, 2 threads",
            "0.1.0",
            "Conv+Clip float32[1, 8]",
            turns,
            {{"conv_jit", first}, {"dissolve", second}},
            1};
}

class TimingCacheFile : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = std::filesystem::path(testing::TempDir()) /
                  ("planish_timing_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    std::filesystem::path folder_;
};

TEST(TimingCache, TextIsReadBackAndDoesNotDependOnTheOrderOfInsertion) {
    TimingCache a, b;
    a.insert("k1", timing(3, 10, 20));
    a.insert("k2", timing(3, 30, 40));
    b.insert("k2", timing(3, 30, 40));
    b.insert("k1", timing(3, 10, 20));
    EXPECT_EQ(a.text(), b.text());
    const TimingCache back = TimingCache::parse(a.text(), "text");
    EXPECT_EQ(back.entries(), a.entries());
    EXPECT_EQ(back.text(), a.text());
    // The order of tactics is kept: the first is the default.
    EXPECT_EQ(back.find("k1")->nanoseconds[0].first, "conv_jit");
    EXPECT_EQ(back.find("k3"), nullptr);
    EXPECT_TRUE(TimingCache::parse(TimingCache().text(), "text").entries().empty());
}

TEST(TimingCache, MergingIsCommutativeAssociativeAndIdempotent) {
    std::vector<TimingCache> caches(3);
    caches[0].insert("k", timing(3, 10, 20));
    caches[0].insert("only0", timing(1, 1, 1));
    caches[1].insert("k", timing(9, 12, 24));
    caches[2].insert("k", timing(9, 11, 24));
    caches[2].insert("only2", timing(1, 2, 2));
    std::vector<int> order = {0, 1, 2};
    do {
        TimingCache all;
        for (const int i : order) all.merge(caches[static_cast<size_t>(i)]);
        TimingCache rest = caches[static_cast<size_t>(order[1])];
        rest.merge(caches[static_cast<size_t>(order[2])]);
        TimingCache right = caches[static_cast<size_t>(order[0])];
        right.merge(rest);
        EXPECT_EQ(all.entries(), right.entries());
        EXPECT_EQ(all.entries().size(), 3u);
        // More turns win, then the faster one.
        EXPECT_EQ(*all.find("k"), timing(9, 11, 24));
        TimingCache again = all;
        again.merge(all);
        EXPECT_EQ(again.entries(), all.entries());
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST(TimingCache, WhatIsNoTimingCacheIsAnErrorThatSaysWhy) {
    auto message = [](std::string_view text) -> std::string {
        try {
            TimingCache::parse(text, "'f.json'");
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
            EXPECT_FALSE(error.hint().empty());
            return error.message();
        }
        return "no error";
    };
    EXPECT_THAT(message("hello"), HasSubstr("'f.json' is not a timing cache: it is not JSON"));
    EXPECT_THAT(message("{}"), HasSubstr("planish_timing_cache"));
    EXPECT_THAT(message("[1]"), HasSubstr("planish_timing_cache"));
    EXPECT_THAT(message(R"({"planish_timing_cache": 99, "entries": {}})"), HasSubstr("99"));
    EXPECT_THAT(message(R"({"planish_timing_cache": 1})"), HasSubstr("entries"));
    TimingCache cache;
    cache.insert("k", timing(3, 10, 20));
    const std::string text = cache.text();
    for (size_t length = 1; length + 1 < text.size(); ++length)
        EXPECT_THAT(message(text.substr(0, length)), HasSubstr("is not a timing cache")) << length;
    std::string negative = text;
    negative.replace(negative.find(":10"), 3, ":-1");
    EXPECT_THAT(message(negative), HasSubstr("negative"));
}

TEST_F(TimingCacheFile, IsMadeWithItsFolderAndAddedTo) {
    const auto path = folder_ / "new" / "timing.json";
    EXPECT_TRUE(TimingCache::read(path).entries().empty());
    TimingCache a, b;
    a.insert("a", timing(3, 10, 20));
    b.insert("b", timing(3, 30, 40));
    a.add_to(path);
    b.add_to(path);
    a.merge(b);
    EXPECT_EQ(TimingCache::read(path).entries(), a.entries());
    const auto written = std::filesystem::last_write_time(path);
    b.add_to(path);  // nothing new
    EXPECT_EQ(std::filesystem::last_write_time(path), written);
    int files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path.parent_path())) ++files;
    EXPECT_EQ(files, 1);
}

TEST_F(TimingCacheFile, AForeignFileIsNotOverwritten) {
    const auto path = folder_ / "model.onnx";
    std::ofstream(path) << "precious";
    TimingCache cache;
    cache.insert("k", timing(3, 10, 20));
    EXPECT_THROW(cache.add_to(path), Error);
    std::string content;
    std::ifstream(path) >> content;
    EXPECT_EQ(content, "precious");
    EXPECT_THROW(TimingCache::read(folder_), Error);
}

TEST_F(TimingCacheFile, ConcurrentWritersLoseNothing) {
    const auto path = folder_ / "timing.json";
    constexpr int kWriters = 4, kEach = 25;
    std::vector<pid_t> children;
    for (int w = 0; w < kWriters; ++w) {
        const pid_t child = fork();
        if (child == 0) {
            try {
                for (int i = 0; i < kEach; ++i) {
                    TimingCache cache;
                    cache.insert(std::to_string(w) + "/" + std::to_string(i), timing(3, w + 1, i + 1));
                    cache.add_to(path);
                }
                _exit(0);
            } catch (...) {
                _exit(1);
            }
        }
        children.push_back(child);
    }
    for (int reads = 0; reads < 50; ++reads) EXPECT_NO_THROW(TimingCache::read(path));
    for (const pid_t child : children) {
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    EXPECT_EQ(TimingCache::read(path).entries().size(), static_cast<size_t>(kWriters * kEach));
}

TEST(TimingCache, DefaultPlaceFollowsTheEnvironment) {
    setenv("XDG_CACHE_HOME", "/caches", 1);
    EXPECT_EQ(default_timing_cache(), "/caches/planish/timing.json");
    setenv("XDG_CACHE_HOME", "", 1);
    setenv("HOME", "/home/u", 1);
    EXPECT_EQ(default_timing_cache(), "/home/u/.cache/planish/timing.json");
    unsetenv("HOME");
    EXPECT_TRUE(default_timing_cache().empty());
}

}  // namespace
}  // namespace planish::tuner
