// Programs by input shapes: bounded, least recently used dropped first, each compiled once however many threads ask.
#pragma once

#include <condition_variable>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/function_ref.hpp"
#include "runtime/compile.hpp"

namespace planish::runtime {

/// Compiled for one set of shapes, with the program's ports matched to the engine's inputs and outputs.
struct Prepared {
    Compiled compiled;
    std::vector<int> input_of_port;  // program input -> engine input
    std::vector<Dims> output_dims;   // by engine output; empty when interpreted
};

class ProgramCache {
  public:
    explicit ProgramCache(int capacity) : capacity_(capacity < 1 ? 1 : static_cast<size_t>(capacity)) {}

    /// The program for `key`, or null. Waits when another thread is compiling it. Allocates nothing.
    std::shared_ptr<const Prepared> find(std::span<const int64_t> key);
    /// The program for `key`, made by `make` unless it is there. An exception from `make` reaches every thread that
    /// waits for it; the next call tries again.
    std::shared_ptr<const Prepared> get(std::span<const int64_t> key,
                                        FunctionRef<std::shared_ptr<const Prepared>()> make);

    void for_each(FunctionRef<void(const Prepared&)> fn) const;

  private:
    struct Slot {
        std::vector<int64_t> key;
        std::shared_ptr<const Prepared> prepared;
        std::exception_ptr error;
        bool done = false;
    };
    std::shared_ptr<Slot> touch(std::span<const int64_t> key);
    std::shared_ptr<const Prepared> wait(const std::shared_ptr<Slot>& slot, std::unique_lock<std::mutex>& lock);

    size_t capacity_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::list<std::shared_ptr<Slot>> slots_;  // most recently used first
};

}  // namespace planish::runtime
