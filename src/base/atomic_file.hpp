// Files that are either there completely or not at all: written beside the target, then renamed onto it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace planish {

/// Writes to a temporary file in the target's folder; `commit` makes it the target in one step. Destroyed without a
/// commit, it leaves the target as it was and no temporary behind. Throws Error(io_error) that names the target.
class AtomicFile {
  public:
    explicit AtomicFile(std::filesystem::path target);
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;

    void write(std::span<const std::byte> bytes);
    /// Bytes written so far.
    size_t size() const { return size_; }
    /// Flushes to the device, then renames: after a crash the target holds the former or the complete content.
    void commit();

  private:
    [[noreturn]] void fail_errno(const char* what);

    std::filesystem::path target_;
    std::string temporary_;  // empty once committed or removed
    int fd_ = -1;
    size_t size_ = 0;
};

/// The whole content in one call.
void write_file_atomically(const std::filesystem::path& target, std::span<const std::byte> bytes);

}  // namespace planish
