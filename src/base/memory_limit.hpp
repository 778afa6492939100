// How much memory one tensor or buffer may take: shapes come from files and callers, so a size may be absurd.
#pragma once

#include <cstdint>

namespace planish {

/// The machine's physical memory, or what the innermost MemoryLimit says. Bytes.
int64_t memory_limit();

/// Lowers the limit for the process while it lives: for tests, and for hosts that load plans of strangers.
class MemoryLimit {
  public:
    explicit MemoryLimit(int64_t bytes);
    ~MemoryLimit();
    MemoryLimit(const MemoryLimit&) = delete;
    MemoryLimit& operator=(const MemoryLimit&) = delete;

  private:
    int64_t before_;
};

}  // namespace planish
