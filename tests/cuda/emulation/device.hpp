// Device code on the host: the threads of a block are fibers of one thread, blocks run one after the other. Enough of
// CUDA's built-ins for kernels that need no copy engine and no clusters; included before their headers.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __CUDACC__ 1
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // one block at a time

using std::abs, std::exp, std::exp2, std::log, std::tanh, std::expm1, std::log1p, std::erf, std::erfc, std::fabs,
    std::fmod;
using std::copysign, std::sqrt, std::floor, std::ceil, std::rint, std::pow, std::isinf, std::sin, std::cos, std::atan;

inline float __expf(float x) {
    return std::exp(x);
}
inline float __logf(float x) {
    return std::log(x);
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline float __int_as_float(int bits) {
    return __uint_as_float(static_cast<unsigned>(bits));
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
using std::max, std::min;
inline float2 make_float2(float x, float y) {
    return {x, y};
}
struct Index3 {
    unsigned x, y, z;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

enum class State { runs, waits_for_block, waits_for_warp, done };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    State state = State::runs;
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline void (*kernel)(const void*);
inline const void* kernel_params;

// The block's dynamic shared memory: NaN until somebody writes it.
constexpr unsigned kDynamicBytes = 228 << 10;
alignas(128) inline char dynamic_memory[kDynamicBytes];

// Copies that a thread has asked for, in groups, the last one open. They happen when it waits for them: who reads too
// early finds what was there before.
struct Copy {
    unsigned to;
    const void* from;
    bool exists;
};
inline std::vector<std::vector<std::vector<Copy>>> copies;
inline void finish_copies(size_t pending) {
    auto& groups = copies[current];
    while (groups.size() > pending + 1) {
        for (const Copy& copy : groups.front()) {
            if (copy.exists)
                std::memcpy(dynamic_memory + copy.to, copy.from, 16);
            else
                std::memset(dynamic_memory + copy.to, 0, 16);
        }
        groups.erase(groups.begin());
    }
}

// What the lanes of a warp show one another. Two places take turns: whoever writes one has passed the exchange in the
// other, and so has everybody before it is written again.
constexpr size_t kLaneBytes = 64;
struct Shown {
    alignas(16) char bytes[kLaneBytes];
    unsigned turn;  // of the thread's exchanges
};
inline Shown shown[2][1024];
inline std::vector<unsigned> turns;  // by thread: the next one
inline unsigned first_turn;          // of a block: nothing that an earlier one has shown counts

inline void switch_to_scheduler(State state) {
    Fiber& self = fibers[current];
    self.state = state;
    swapcontext(&self.context, &scheduler);
}
inline void enter() {
    kernel(kernel_params);
    switch_to_scheduler(State::done);
}

/// Lets [begin, end) go on when all of them that are not done wait in `state`.
inline bool release(unsigned begin, unsigned end, State state) {
    bool any = false;
    for (unsigned t = begin; t < end; ++t) {
        if (fibers[t].state != state && fibers[t].state != State::done) return false;
        any = any || fibers[t].state == state;
    }
    for (unsigned t = begin; t < end; ++t)
        if (fibers[t].state == state) fibers[t].state = State::runs;
    return any;
}

inline void run_block(unsigned threads) {
    if (fibers.size() < threads) fibers.resize(threads);
    copies.assign(threads, {{}});
    turns.assign(threads, first_turn += 1u << 16);
    std::memset(dynamic_memory, 0xff, kDynamicBytes);
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        fiber.state = State::runs;
        makecontext(&fiber.context, enter, 0);
    }
    for (bool progress = true; progress;) {
        progress = false;
        for (unsigned t = 0; t < threads; ++t) {
            if (fibers[t].state != State::runs) continue;
            progress = true;
            current = t;
            threadIdx = {t, 0, 0};
            swapcontext(&scheduler, &fibers[t].context);
        }
        for (unsigned warp = 0; warp < threads; warp += 32)
            progress = release(warp, warp + 32 < threads ? warp + 32 : threads, State::waits_for_warp) || progress;
        progress = release(0, threads, State::waits_for_block) || progress;
    }
    for (unsigned t = 0; t < threads; ++t)
        if (fibers[t].state != State::done) {
            std::fprintf(stderr, "thread %u waits for threads that never come\n", t);
            std::abort();
        }
}

inline void run(void (*body)(const void*), const unsigned* grid, unsigned threads, const void* params) {
    kernel = body;
    kernel_params = params;
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
}

/// What every lane of the warp shows, once all have come here.
template <typename Value>
class Lanes {
    static_assert(sizeof(Value) <= kLaneBytes);

  public:
    explicit Lanes(const Value& mine) : turn_(turns[current]++), first_(current / 32 * 32) {
        Shown& place = shown[turn_ % 2][current];
        std::memcpy(place.bytes, &mine, sizeof(Value));
        place.turn = turn_;
        switch_to_scheduler(State::waits_for_warp);
    }
    Value operator[](unsigned lane) const {
        const Shown& place = shown[turn_ % 2][first_ + lane % 32];
        if (place.turn != turn_ || first_ + lane % 32 >= turns.size()) {
            std::fprintf(stderr, "thread %u reads from lane %u, which shows nothing\n", current, lane);
            std::abort();
        }
        Value value;
        std::memcpy(&value, place.bytes, sizeof(Value));
        return value;
    }

  private:
    unsigned turn_, first_;
};

}  // namespace emulation

inline void __syncthreads() {
    emulation::switch_to_scheduler(emulation::State::waits_for_block);
}
inline void __syncwarp() {
    emulation::switch_to_scheduler(emulation::State::waits_for_warp);
}
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* to, unsigned x) {
    const unsigned before = *to;
    *to += x;
    return before;
}

template <typename T>
T __shfl_xor_sync(unsigned, T x, int distance) {
    return emulation::Lanes<T>(x)[(emulation::current ^ static_cast<unsigned>(distance)) % 32];
}
