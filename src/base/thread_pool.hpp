// The one thread pool of the process: data-parallel loops, no allocation per call, idle workers sleep.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/function_ref.hpp"

namespace planish {

/// What the loops of one thread cost, for profiles: from construction to destruction, on the thread that made it, every
/// loop that it shares with other threads is recorded. At most one at a time in a thread.
class LoopRecorder {
  public:
    using TimePoint = std::chrono::steady_clock::time_point;
    struct Span {
        int thread;  ///< as the tasks saw it, from their first to their last; kWhole: the loop, waiting included
        TimePoint begin, end;
    };
    static constexpr int kWhole = -1;

    LoopRecorder();
    ~LoopRecorder();
    LoopRecorder(const LoopRecorder&) = delete;
    LoopRecorder& operator=(const LoopRecorder&) = delete;

    /// What was recorded since the last call. Not while a loop is running.
    std::vector<Span> take();

  private:
    friend class ThreadPool;
    void add(int thread, TimePoint begin);

    std::mutex mutex_;
    std::vector<Span> spans_;
};

/// Worker threads shared by every engine and context of the process.
///
/// A loop takes only workers that are idle at that moment, and the calling thread always takes part: so any number of
/// callers can run at once, no caller ever waits for another, and the machine is not oversubscribed. Workers spin for
/// about 60 microseconds after their last task, to catch a network's next layer, then sleep in the kernel. On a machine
/// that others keep busy, workers keep off their caller's core, and a caller that has to wait for one that lost its own
/// core takes it in: within the affinity that the process has given them.
class ThreadPool {
  public:
    /// The process's pool, started at the first call with process_cpu_budget().logical threads. After fork() the child
    /// starts a pool of its own at its first call.
    static ThreadPool& process();

    /// `threads` counts the calling thread: a pool of 1 has no workers. Only tests need a pool of their own.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    /// The most threads that one loop can use, the caller included.
    int size() const { return worker_count_ + 1; }

    /// Calls fn(task, thread) once for each task in [0, tasks), on at most min(max_threads, size()) threads.
    /// `thread` < max_threads and no two concurrent calls of one loop share it, so it can pick per-thread scratch;
    /// 0 is the caller. Each thread starts on a contiguous range of its own, so consecutive loops over equal task
    /// counts find their data in the same core's cache; whoever is done early takes over what others have left.
    /// Nested calls, and max_threads 1, run inline with thread 0. The first exception thrown by a task is rethrown
    /// after all threads have left the loop; tasks not yet started are then skipped.
    void parallel_for(int64_t tasks, int max_threads, FunctionRef<void(int64_t task, int thread)> fn);

    /// parallel_for where neighbours are best computed together: fn(begin, end, thread) for ranges that make up
    /// [0, items). Of its own range a thread takes half at a time, in multiples of `grain` and no less, so that calls
    /// are long at first and short when others may soon be waiting; it continues where its last call ended. One that is
    /// done takes over the latter half of another's range.
    void parallel_ranges(int64_t items, int64_t grain, int max_threads,
                         FunctionRef<void(int64_t begin, int64_t end, int thread)> fn);

  private:
    enum class Pieces { single, halves };
    struct Job;
    struct Worker;

    static void work(Worker& self);
    void share(int64_t items, int64_t grain, Pieces pieces, int max_threads,
               FunctionRef<void(int64_t begin, int64_t end, int thread)> fn);

    int worker_count_ = 0;
    std::unique_ptr<Worker[]> workers_;
};

/// Cuts a range of items that lie in rows of equal length where one row ends and the next begins:
/// fn(row, begin, end), counted from the start of that row.
template <typename F>
void for_each_row(int64_t begin, int64_t end, int64_t row_items, F&& fn) {
    while (begin < end) {
        const int64_t row = begin / row_items, first = row * row_items, next = std::min(end, first + row_items);
        fn(row, begin - first, next - first);
        begin = next;
    }
}

}  // namespace planish
