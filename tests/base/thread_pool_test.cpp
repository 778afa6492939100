// The pool's promises: every task once, thread index in range, many callers, nesting, exceptions, fork, idleness.
#include "base/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace planish {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceWithDistinctThreadIndices) {
    ThreadPool pool(4);
    for (int max_threads : {1, 2, 3, 4, 9}) {
        for (int64_t tasks : {0, 1, 2, 3, 7, 64, 1001}) {
            std::vector<std::atomic<int>> hits(static_cast<size_t>(tasks));
            std::vector<std::atomic<int>> inside(static_cast<size_t>(max_threads));
            pool.parallel_for(tasks, max_threads, [&](int64_t task, int thread) {
                ASSERT_GE(thread, 0);
                ASSERT_LT(thread, max_threads);
                EXPECT_EQ(inside[thread].fetch_add(1), 0);
                hits[task].fetch_add(1);
                inside[thread].fetch_sub(1);
            });
            for (auto& hit : hits) EXPECT_EQ(hit.load(), 1);
        }
    }
}

// Plain (non-atomic) writes by the tasks are visible to the caller afterwards; thread sanitizer checks the claim.
TEST(ThreadPool, ResultsAreVisibleToTheCaller) {
    ThreadPool pool(3);
    std::vector<int64_t> out(257);
    for (int64_t round = 0; round < 2000; ++round) {
        pool.parallel_for(257, 3, [&](int64_t task, int) { out[task] = task + round; });
        for (int64_t task = 0; task < 257; ++task) ASSERT_EQ(out[task], task + round);
    }
}

TEST(ThreadPool, ManyCallersAtOnce) {
    ThreadPool pool(3);
    std::vector<std::thread> callers;
    std::atomic<int64_t> total{0};
    for (int c = 0; c < 6; ++c) {
        callers.emplace_back([&] {
            for (int round = 0; round < 500; ++round) {
                std::vector<int> seen(40);
                pool.parallel_for(40, 3, [&](int64_t task, int) { ++seen[task]; });
                for (int count : seen) total += count;
            }
        });
    }
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(total.load(), 6 * 500 * 40);
}

TEST(ThreadPool, NestedLoopsRunInline) {
    ThreadPool pool(4);
    std::atomic<int> inner{0};
    pool.parallel_for(8, 4, [&](int64_t, int) {
        const auto self = std::this_thread::get_id();
        pool.parallel_for(5, 4, [&](int64_t, int thread) {
            EXPECT_EQ(thread, 0);
            EXPECT_EQ(std::this_thread::get_id(), self);
            ++inner;
        });
    });
    EXPECT_EQ(inner.load(), 40);
}

TEST(ThreadPool, FirstExceptionReachesTheCallerAndThePoolSurvives) {
    ThreadPool pool(4);
    for (int round = 0; round < 50; ++round) {
        EXPECT_THROW(pool.parallel_for(100, 4,
                                       [&](int64_t task, int) {
                                           if (task == round) throw std::runtime_error("task failed");
                                       }),
                     std::runtime_error);
        std::atomic<int> count{0};
        pool.parallel_for(10, 4, [&](int64_t, int) { ++count; });
        EXPECT_EQ(count.load(), 10);
    }
}

TEST(ThreadPool, InlineLoopStopsAtItsException) {
    ThreadPool pool(1);
    EXPECT_EQ(pool.size(), 1);
    int ran = 0;
    EXPECT_THROW(pool.parallel_for(5, 1,
                                   [&](int64_t task, int) {
                                       ++ran;
                                       if (task == 2) throw std::runtime_error("stop");
                                   }),
                 std::runtime_error);
    EXPECT_EQ(ran, 3);
}

// A long task on the caller's range must not keep the tasks behind it waiting.
TEST(ThreadPool, OthersTakeOverTheRangeOfABusyThread) {
    ThreadPool pool(2);
    std::atomic<int> finished{0};
    pool.parallel_for(16, 2, [&](int64_t task, int) {
        if (task == 0) {
            const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
            while (finished.load() < 15 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
            EXPECT_EQ(finished.load(), 15);
        }
        ++finished;
    });
}

TEST(ThreadPool, RangesCoverEveryItemOnce) {
    ThreadPool pool(4);
    std::mt19937 random(3);
    for (int loop = 0; loop < 300; ++loop) {
        const int64_t items = std::uniform_int_distribution<int64_t>(0, 200)(random);
        const int64_t grain = std::uniform_int_distribution<int64_t>(1, 12)(random);
        const int threads = std::uniform_int_distribution<int>(1, 5)(random);
        std::vector<std::atomic<int>> seen(static_cast<size_t>(items));
        std::atomic<int> short_calls{0};
        pool.parallel_ranges(items, grain, threads, [&](int64_t begin, int64_t end, int thread) {
            ASSERT_LT(begin, end);
            ASSERT_LT(thread, threads);
            short_calls += (end - begin) % grain != 0;
            for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const auto& count : seen) ASSERT_EQ(count, 1) << items << " items by " << grain;
        // Only the end of a thread's share is not a multiple of the grain.
        EXPECT_LE(short_calls, threads);
    }
}

TEST(ThreadPool, RangesAreHalvesAndABusyThreadsShareIsTakenOver) {
    ThreadPool pool(2);
    std::vector<std::pair<int64_t, int64_t>> calls;
    std::atomic<int64_t> done{0}, others{0};
    pool.parallel_ranges(16, 1, 2, [&](int64_t begin, int64_t end, int thread) {
        if (thread == 0) {
            calls.emplace_back(begin, end);
            done += end - begin;
            return;
        }
        // The worker, if it comes at all, is busy with its first call until the caller has done all else.
        others += end - begin;
        const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        while (done + others < 16 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
        EXPECT_EQ(done + others, 16);
    });
    EXPECT_EQ(done + others, 16);
    ASSERT_GE(calls.size(), 4U);
    const std::vector<std::pair<int64_t, int64_t>> own(calls.begin(), calls.begin() + 4);
    EXPECT_EQ(own, (std::vector<std::pair<int64_t, int64_t>>{{0, 4}, {4, 6}, {6, 7}, {7, 8}}));
}

TEST(ThreadPool, RangesOfMoreItemsThanAWordCounts) {
    ThreadPool pool(3);
    constexpr int64_t kItems = (int64_t{1} << 33) + 5, kGrain = int64_t{1} << 28;
    std::atomic<int64_t> sum{0}, last{0};
    pool.parallel_ranges(kItems, kGrain, 3, [&](int64_t begin, int64_t end, int) {
        sum += end - begin;
        for (int64_t seen = last; seen < end && !last.compare_exchange_weak(seen, end);) {
        }
    });
    EXPECT_EQ(sum, kItems);
    EXPECT_EQ(last, kItems);
}

TEST(ThreadPool, WakesAfterSleeping) {
    ThreadPool pool(3);
    for (int round = 0; round < 20; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        std::atomic<int> count{0};
        pool.parallel_for(30, 3, [&](int64_t, int) {
            ++count;
            std::this_thread::sleep_for(std::chrono::microseconds(30));
        });
        EXPECT_EQ(count.load(), 30);
    }
}

TEST(ThreadPool, IdleWorkersTakeNoTime) {
    ThreadPool pool(4);
    pool.parallel_for(64, 4, [](int64_t, int) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto cpu_seconds = [] {
        rusage usage{};
        getrusage(RUSAGE_SELF, &usage);
        return double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               1e-6 * double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    };
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_LT(cpu_seconds() - before, 0.5 * 0.01);
}

TEST(ThreadPool, OnABusyMachineStaysWithinTheProcesssAffinity) {
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    // Threads that never rest on every core: workers are preempted in the middle of their tasks.
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (int i = 0; i < CPU_COUNT(&allowed); ++i)
        others.emplace_back([&] {
            while (!stop.load(std::memory_order_relaxed)) {
            }
        });
    ThreadPool pool(3);
    std::vector<int64_t> sums(3, 0);
    std::atomic<int> outside{0};
    for (int loop = 0; loop < 300; ++loop)
        pool.parallel_for(12, 3, [&](int64_t task, int thread) {
            volatile int64_t work = 0;
            for (int64_t i = 0; i < 20000; ++i) work = work + 1;
            sums[static_cast<size_t>(thread)] += task + work - 20000;
            cpu_set_t mine, both;
            sched_getaffinity(0, sizeof mine, &mine);
            CPU_AND(&both, &mine, &allowed);
            outside += CPU_EQUAL(&both, &mine) ? 0 : 1;
        });
    stop = true;
    for (std::thread& other : others) other.join();
    EXPECT_EQ(sums[0] + sums[1] + sums[2], 300 * 66);
    EXPECT_EQ(outside, 0);
}

TEST(ThreadPool, RecordsTheLoopsOfOneCaller) {
    ThreadPool pool(3);
    const auto loop = [&](int threads) {
        pool.parallel_for(12, threads, [](int64_t, int) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
    };
    loop(3);
    LoopRecorder recorder;
    EXPECT_TRUE(recorder.take().empty());
    loop(1);  // shared with nobody
    EXPECT_TRUE(recorder.take().empty());
    std::thread(loop, 3).join();
    EXPECT_TRUE(recorder.take().empty());
    loop(3);
    const auto spans = recorder.take();
    const auto& whole = spans.back();
    EXPECT_EQ(whole.thread, LoopRecorder::kWhole);
    std::vector<int> seen(3);
    for (size_t i = 0; i + 1 < spans.size(); ++i) {
        ASSERT_GE(spans[i].thread, 0);
        ++seen.at(static_cast<size_t>(spans[i].thread));
        EXPECT_LE(whole.begin, spans[i].begin);
        EXPECT_LE(spans[i].begin, spans[i].end);
        EXPECT_LE(spans[i].end, whole.end);
    }
    EXPECT_EQ(seen[0], 1);
    EXPECT_LE(seen[1], 1);
    EXPECT_LE(seen[2], 1);
    EXPECT_TRUE(recorder.take().empty());
}

#if !defined(__SANITIZE_THREAD__)  // the sanitizer does not follow threads across fork
TEST(ThreadPool, ForkedChildGetsAPoolOfItsOwn) {
    ThreadPool::process().parallel_for(100, 8, [](int64_t, int) {});
    const pid_t child = fork();
    if (child == 0) {
        std::atomic<int> count{0};
        ThreadPool::process().parallel_for(100, 8, [&](int64_t, int) { ++count; });
        _exit(count.load() == 100 ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

}  // namespace
}  // namespace planish
