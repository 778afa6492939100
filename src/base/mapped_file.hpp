// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace planish {

/// Pages are read on first use and shared with other processes that map the same file. An empty file maps to an empty
/// span. Truncating the file while it is mapped makes reads past its new end fatal, as with every mapping: writers
/// therefore replace files (see write_file_atomically) instead of changing them.
class MappedFile {
  public:
    MappedFile() = default;
    /// Throws Error: not_found when the path does not exist, invalid_argument when it is not a regular file, io_error
    /// when the system refuses (permissions, address space).
    explicit MappedFile(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;

    std::span<const std::byte> bytes() const { return {data_, size_}; }
    /// Asks the kernel to read the whole file ahead in the background.
    void will_need() const;

  private:
    void unmap() noexcept;

    const std::byte* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace planish
