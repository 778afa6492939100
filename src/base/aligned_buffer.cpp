// posix_memalign, and madvise for what is large enough to gain from huge pages.
#include "base/aligned_buffer.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/memory_limit.hpp"
#include "planish/error.hpp"

namespace planish {

AlignedBuffer::AlignedBuffer(size_t size) : size_(size) {
    constexpr size_t kHugePage = size_t{2} << 20;
    if (size == 0) return;
    const bool huge = size >= kHugePage / 2;
    const size_t alignment = huge ? kHugePage : kAlignment;
    void* memory = nullptr;
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    if (rounded < size || rounded > static_cast<size_t>(memory_limit()) ||
        posix_memalign(&memory, alignment, rounded) != 0) {
        size_ = 0;
        fail(ErrorCode::resource_exhausted, "cannot allocate " + std::to_string(size) + " bytes",
             "use smaller shapes or fewer contexts, or give the process more memory");
    }
    if (huge) madvise(memory, rounded, MADV_HUGEPAGE);  // a hint: refusal costs nothing
    data_ = static_cast<std::byte*>(memory);
}

AlignedBuffer::~AlignedBuffer() {
    std::free(data_);
}

}  // namespace planish
