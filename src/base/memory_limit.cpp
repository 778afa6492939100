// The limit is one atomic number, read at each allocation of tensor memory.
#include "base/memory_limit.hpp"

#include <unistd.h>

#include <atomic>
#include <limits>

namespace planish {
namespace {

int64_t physical_memory() {
    const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
    int64_t bytes = 0;
    if (pages <= 0 || page <= 0 || __builtin_mul_overflow(pages, page, &bytes))
        return std::numeric_limits<int64_t>::max();
    return bytes;
}

std::atomic<int64_t>& limit() {
    static std::atomic<int64_t> bytes{physical_memory()};
    return bytes;
}

}  // namespace

int64_t memory_limit() {
    return limit().load(std::memory_order_relaxed);
}

MemoryLimit::MemoryLimit(int64_t bytes) : before_(limit().exchange(bytes)) {}

MemoryLimit::~MemoryLimit() {
    limit() = before_;
}

}  // namespace planish
