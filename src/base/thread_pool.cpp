// Each worker is driven by one futex word that holds the whole hand-over protocol; a loop's state is on its caller's
// stack.
#include "base/thread_pool.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "base/cpu_budget.hpp"

namespace planish {
namespace {

constexpr auto kSpin = std::chrono::microseconds(60);
constexpr auto kLate = std::chrono::microseconds(10);  // a thread that has not run for as long has lost its core

// idle -> claimed -> posted -> running -> done -> idle. `asleep` is idle in the kernel, `running_awaited` tells the
// worker that the caller sleeps until it is done; such a worker sleeps next, on what may be its caller's core: done ->
// asleep. A posted worker that has not started can be revoked: posted -> claimed.
enum State : uint32_t { idle, asleep, claimed, posted, running, running_awaited, done, stop };

thread_local bool inside_loop = false;
thread_local LoopRecorder* recorder = nullptr;

void futex_wait(std::atomic<uint32_t>& word, uint32_t expected) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void pause() {
    __builtin_ia32_pause();
}

/// Processor time that a thread has used; it stands still while others have its core.
std::chrono::nanoseconds cpu_time(clockid_t clock) {
    timespec time{};
    if (clock_gettime(clock, &time) != 0) return {};
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// Spins until `ready` or the time is over; reads the clock only now and then. True when ready.
template <typename Ready>
bool spin_until(const Ready& ready, std::chrono::nanoseconds time = kSpin) {
    for (int i = 0; i < 64; ++i) {
        if (ready()) return true;
        pause();
    }
    const auto end = std::chrono::steady_clock::now() + time;
    do {
        for (int i = 0; i < 32; ++i) {
            if (ready()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

LoopRecorder::LoopRecorder() {
    recorder = this;
}

LoopRecorder::~LoopRecorder() {
    recorder = nullptr;
}

void LoopRecorder::add(int thread, TimePoint begin) {
    const TimePoint end = std::chrono::steady_clock::now();
    const std::lock_guard lock(mutex_);
    spans_.push_back({thread, begin, end});
}

std::vector<LoopRecorder::Span> LoopRecorder::take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(spans_, {});
}

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);

// What a thread has left of a loop: items [begin, end) in one word, so that its owner and others take from it with one
// exchange each. Items are given out once, so a word that comes back stands for the same items.
class alignas(64) ItemRange {
  public:
    struct Piece {
        int64_t begin = 0, end = 0;

        int64_t size() const { return end - begin; }
    };

    void set(Piece items) { left_.store(pack(items), std::memory_order_relaxed); }

    /// The first `count(left)` items, at least one; none when nothing is left.
    template <typename Count>
    Piece take_front(const Count& count) {
        uint64_t word = left_.load(std::memory_order_relaxed);
        for (;;) {
            const Piece left = unpack(word);
            if (left.size() == 0) return {};
            const int64_t cut = left.begin + count(left.size());
            if (left_.compare_exchange_weak(word, pack({cut, left.end}), std::memory_order_relaxed))
                return {left.begin, cut};
        }
    }

    /// `count(left)` items for a thread whose last ones ended at `at`: the first ones where they follow, since then the
    /// owner has not begun, else the last ones.
    template <typename Count>
    Piece take_over(int64_t at, const Count& count) {
        uint64_t word = left_.load(std::memory_order_relaxed);
        for (;;) {
            const Piece left = unpack(word);
            if (left.size() == 0) return {};
            const int64_t taken = count(left.size());
            const bool front = left.begin == at;
            const Piece piece = front ? Piece{at, at + taken} : Piece{left.end - taken, left.end};
            const Piece rest = front ? Piece{piece.end, left.end} : Piece{left.begin, piece.begin};
            if (left_.compare_exchange_weak(word, pack(rest), std::memory_order_relaxed)) return piece;
        }
    }

    ItemRange* following = nullptr;  // the participants form a ring, so that thieves start beside themselves

  private:
    static uint64_t pack(Piece p) { return static_cast<uint64_t>(p.begin) << 32 | static_cast<uint64_t>(p.end); }
    static Piece unpack(uint64_t word) {
        return {static_cast<int64_t>(word >> 32), static_cast<int64_t>(word & UINT32_MAX)};
    }

    std::atomic<uint64_t> left_{0};
};

struct ThreadPool::Job {
    FunctionRef<void(int64_t, int64_t, int)> fn;
    int64_t grain = 1;
    Pieces pieces = Pieces::single;
    LoopRecorder* recorder = nullptr;
    ItemRange own{};
    std::atomic<bool> failed{false};
    std::exception_ptr error{};  // written by the one that sets `failed`

    // Half of what is left, in multiples of the grain; all of it where that would be less than one.
    int64_t half(int64_t left) const { return std::min(left, std::max(grain, left / 2 / grain * grain)); }

    void run(ItemRange& range, int thread) noexcept {
        const auto begin = recorder ? std::chrono::steady_clock::now() : LoopRecorder::TimePoint{};
        const auto next = [&](int64_t left) { return pieces == Pieces::single ? 1 : half(left); };
        int64_t at = -1;  // where the last piece ended
        do {
            for (;;) {
                const ItemRange::Piece piece = range.take_front(next);
                if (piece.size() == 0 || failed.load(std::memory_order_relaxed)) break;
                at = piece.end;
                try {
                    fn(piece.begin, piece.end, thread);
                } catch (...) {
                    if (!failed.exchange(true)) error = std::current_exception();
                }
            }
        } while (!failed.load(std::memory_order_relaxed) && take_over(range, at));
        if (recorder) recorder->add(thread, begin);
    }

    // False when nobody has anything left.
    bool take_over(ItemRange& range, int64_t at) const {
        for (ItemRange* victim = range.following; victim != &range; victim = victim->following) {
            const ItemRange::Piece piece = victim->take_over(at, [&](int64_t left) { return half(left); });
            if (piece.size() == 0) continue;
            range.set(piece);
            return true;
        }
        return false;
    }
};

struct alignas(64) ThreadPool::Worker {
    std::atomic<uint32_t> state{idle};
    bool was_asleep = false;  // when it was claimed, so that posting wakes it
    bool sleeps = false;      // once it is done
    int thread = 0;
    Job* job = nullptr;
    std::atomic<int> core{-1};       // where it was last seen running
    pid_t id = 0;                    // of the thread, once it has been started
    clockid_t clock{};               // its processor time
    cpu_set_t allowed{}, set{};      // where the process wants it, and where move_to() has put it instead
    Worker* next_claimed = nullptr;  // the caller's list of the workers that it holds
    ItemRange range;
    std::thread os_thread;

    void sleep_while(std::initializer_list<State> states);
    void wait_until_done();
    void move_to(int core, bool there);
};

// Lets the thread run on `core` only, or anywhere else but there, as far as the process allows.
void ThreadPool::Worker::move_to(int core, bool there) {
    cpu_set_t now;
    if (core < 0 || sched_getaffinity(id, sizeof now, &now) != 0) return;
    if (!CPU_EQUAL(&now, &set)) allowed = now;
    cpu_set_t wanted = allowed;
    if (there) {
        if (!CPU_ISSET(static_cast<unsigned>(core), &allowed)) return;
        CPU_ZERO(&wanted);
        CPU_SET(static_cast<unsigned>(core), &wanted);
    } else {
        CPU_CLR(static_cast<unsigned>(core), &wanted);
    }
    if (CPU_COUNT(&wanted) > 0 && sched_setaffinity(id, sizeof wanted, &wanted) == 0) set = wanted;
}

void ThreadPool::Worker::sleep_while(std::initializer_list<State> states) {
    for (;;) {
        const uint32_t now = state.load(std::memory_order_relaxed);
        if (std::ranges::find(states, now) == states.end()) return;
        futex_wait(state, now);
    }
}

// A worker that another process keeps from its core, in the middle of a task, would keep its caller waiting for the
// rest of a time slice, which is longer than most networks' runs. The caller has nothing left to do, so it moves such a
// worker to its own core and sleeps.
void ThreadPool::Worker::wait_until_done() {
    const auto finished = [&] { return state.load(std::memory_order_acquire) == done; };
    if (spin_until(finished, kLate)) return;  // as most do, without a call of the system
    bool late = false;
    for (auto left = kSpin; left.count() > 0 && !late; left -= kLate) {
        const auto used = cpu_time(clock);
        if (spin_until(finished, kLate)) return;
        late = cpu_time(clock) == used;
    }
    // Announced first: a worker that arrives here spins on if nobody waits, and its caller cannot get past it.
    uint32_t expected = running;
    sleeps = state.compare_exchange_strong(expected, running_awaited, std::memory_order_acq_rel);
    if (!sleeps) return;
    const int here = sched_getcpu();
    if (late) move_to(here, true);
    while (!finished()) futex_wait(state, running_awaited);
    if (late) move_to(here, false);
}

ThreadPool& ThreadPool::process() {
    // Never destroyed: workers may outlive static destructors. Held by pointer, so that a forked child can drop it.
    static constinit std::atomic<ThreadPool*> pool{nullptr};
    static constinit std::mutex mutex;
    if (ThreadPool* existing = pool.load(std::memory_order_acquire)) return *existing;
    std::lock_guard lock(mutex);
    if (ThreadPool* existing = pool.load(std::memory_order_relaxed)) return *existing;
    static const int registered = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                                                 [] {
                                                     // The workers do not exist in the child.
                                                     pool.store(nullptr, std::memory_order_relaxed);
                                                     inside_loop = false;
                                                     mutex.unlock();
                                                 });
    (void)registered;
    auto* started = new ThreadPool(process_cpu_budget().logical);
    pool.store(started, std::memory_order_release);
    return *started;
}

ThreadPool::ThreadPool(int threads) : worker_count_(std::max(threads, 1) - 1) {
    workers_ = std::make_unique<Worker[]>(static_cast<size_t>(worker_count_));
    int started = 0;
    try {
        for (; started < worker_count_; ++started)
            workers_[started].os_thread = std::thread([worker = &workers_[started]] { work(*worker); });
    } catch (const std::exception&) {
        worker_count_ = started;  // the system grants no more threads: the loops run on fewer
    }
}

ThreadPool::~ThreadPool() {
    for (int i = 0; i < worker_count_; ++i) {
        workers_[i].state.store(stop);
        futex_wake(workers_[i].state);
    }
    for (int i = 0; i < worker_count_; ++i) workers_[i].os_thread.join();
}

void ThreadPool::work(Worker& self) {
    pthread_setname_np(pthread_self(), "planish");
    inside_loop = true;  // loops inside a task run inline
    self.id = gettid();
    pthread_getcpuclockid(pthread_self(), &self.clock);
    for (;;) {
        const auto wanted = [&] {
            const uint32_t state = self.state.load(std::memory_order_relaxed);
            return state == posted || state == stop;
        };
        if (!spin_until(wanted)) {
            uint32_t expected = idle;
            if (self.state.compare_exchange_strong(expected, asleep)) self.sleep_while({asleep});
            continue;
        }
        uint32_t expected = posted;
        if (!self.state.compare_exchange_strong(expected, running, std::memory_order_acq_rel)) {
            if (expected == stop) return;
            continue;
        }
        self.core.store(sched_getcpu(), std::memory_order_release);
        self.job->run(self.range, self.thread);
        if (self.state.exchange(done, std::memory_order_acq_rel) == running_awaited) {
            futex_wake(self.state);
            self.sleep_while({done, asleep});
        }
    }
}

void ThreadPool::parallel_for(int64_t tasks, int max_threads, FunctionRef<void(int64_t task, int thread)> fn) {
    share(tasks, 1, Pieces::single, max_threads, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t task = begin; task < end; ++task) fn(task, thread);
    });
}

void ThreadPool::parallel_ranges(int64_t items, int64_t grain, int max_threads,
                                 FunctionRef<void(int64_t begin, int64_t end, int thread)> fn) {
    share(items, std::max<int64_t>(grain, 1), Pieces::halves, max_threads, fn);
}

void ThreadPool::share(int64_t items, int64_t grain, Pieces pieces, int max_threads,
                       FunctionRef<void(int64_t begin, int64_t end, int thread)> fn) {
    if (items <= 0) return;
    const int wanted = static_cast<int>(std::min<int64_t>({(items - 1) / grain + 1, max_threads, size()}));
    if (wanted <= 1 || inside_loop) return fn(0, items, 0);
    if (items > UINT32_MAX) {  // more than a range's word can count
        share(UINT32_MAX, grain, pieces, max_threads, fn);
        return share(items - UINT32_MAX, grain, pieces, max_threads,
                     [&](int64_t begin, int64_t end, int thread) { fn(begin + UINT32_MAX, end + UINT32_MAX, thread); });
    }

    // Claim idle workers, the same ones each time where possible: their caches hold this caller's data.
    Worker* held = nullptr;
    Worker** tail = &held;
    const int here = sched_getcpu();
    int threads = 1;
    for (int i = 0; i < worker_count_ && threads < wanted; ++i) {
        Worker& worker = workers_[i];
        uint32_t state = worker.state.load(std::memory_order_relaxed);
        if (state != idle && state != asleep) continue;
        if (!worker.state.compare_exchange_strong(state, claimed, std::memory_order_acquire)) continue;
        worker.was_asleep = state == asleep;
        worker.sleeps = false;
        // The kernel likes to wake a thread on the core of the one that wakes it, where it could only wait.
        if (worker.core.load(std::memory_order_acquire) == here) {
            worker.move_to(here, false);
            worker.core.store(-1, std::memory_order_relaxed);
        }
        worker.thread = threads++;
        worker.next_claimed = nullptr;
        *tail = &worker;
        tail = &worker.next_claimed;
    }
    if (threads == 1) {
        inside_loop = true;
        struct Leave {
            ~Leave() { inside_loop = false; }
        } leave;
        return fn(0, items, 0);
    }

    const auto begin = recorder ? std::chrono::steady_clock::now() : LoopRecorder::TimePoint{};
    Job job{fn, grain, pieces, recorder};
    const auto deal = [&](ItemRange& range, int thread) {
        const auto first = [&](int64_t t) { return (items * t + threads - 1) / threads; };
        range.set({first(thread), first(thread + 1)});
    };
    deal(job.own, 0);
    ItemRange* last = &job.own;
    for (Worker* worker = held; worker; worker = worker->next_claimed) {
        deal(worker->range, worker->thread);
        worker->job = &job;
        last = last->following = &worker->range;
    }
    last->following = &job.own;
    // All ranges are complete before the first worker starts, since it may steal from any of them.
    for (Worker* worker = held; worker; worker = worker->next_claimed) {
        worker->state.store(posted, std::memory_order_release);
        if (worker->was_asleep) futex_wake(worker->state);
    }

    inside_loop = true;
    job.run(job.own, 0);
    inside_loop = false;

    // Every range is drained. A worker that has not even woken is not waited for.
    for (Worker* worker = held; worker; worker = worker->next_claimed) {
        uint32_t state = posted;
        if (worker->state.compare_exchange_strong(state, claimed, std::memory_order_acquire)) continue;
        worker->wait_until_done();
    }
    // Only now may others claim them: until here a thief may still have been reading any worker's range.
    while (held) {
        Worker* worker = held;
        held = worker->next_claimed;
        worker->state.store(worker->sleeps ? asleep : idle, std::memory_order_release);
    }
    if (recorder) recorder->add(LoopRecorder::kWhole, begin);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace planish
