// Owned memory aligned for vector loads; large blocks ask for huge pages.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

namespace planish {

/// Uninitialised bytes, aligned to a cache line (64 bytes); from 1 MiB on whole pages of 2 MiB, with a hint to use
/// them. Memory for `size` rounded up to 64 is accessible, so a kernel may read a whole last vector.
class AlignedBuffer {
  public:
    static constexpr size_t kAlignment = 64;

    AlignedBuffer() = default;
    /// Throws Error(resource_exhausted) that states the size.
    explicit AlignedBuffer(size_t size);
    ~AlignedBuffer();
    AlignedBuffer(AlignedBuffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    std::byte* data() { return data_; }
    const std::byte* data() const { return data_; }
    size_t size() const { return size_; }
    std::span<std::byte> bytes() { return {data_, size_}; }
    std::span<const std::byte> bytes() const { return {data_, size_}; }
    template <typename T>
    T* as() {
        return reinterpret_cast<T*>(data_);
    }
    template <typename T>
    const T* as() const {
        return reinterpret_cast<const T*>(data_);
    }

  private:
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace planish
