// Mapping through POSIX, with an Error that names the path for every way in which it can fail.
#include "base/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "planish/error.hpp"

namespace planish {
namespace {

struct Descriptor {
    int fd;
    ~Descriptor() {
        if (fd >= 0) close(fd);
    }
};

[[noreturn]] void fail_errno(const std::filesystem::path& path, const char* what) {
    const int cause = errno;
    const std::string message = std::string(what) + " '" + path.string() + "': " + std::strerror(cause);
    if (cause == ENOENT || cause == ENOTDIR) fail(ErrorCode::not_found, message, "check the path");
    if (cause == EACCES || cause == EPERM)
        fail(ErrorCode::io_error, message, "give this user read permission on the file and its folders");
    fail(ErrorCode::io_error, message);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
    // Non-blocking, so that a pipe is refused below instead of waiting here for its writer.
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.fd < 0) fail_errno(path, "cannot open");
    struct stat status {};
    if (fstat(file.fd, &status) != 0) fail_errno(path, "cannot examine");
    if (S_ISDIR(status.st_mode))
        fail(ErrorCode::invalid_argument, "'" + path.string() + "' is a folder", "give the path of a file");
    if (!S_ISREG(status.st_mode))
        fail(ErrorCode::invalid_argument, "'" + path.string() + "' is not a regular file",
             "pipes and devices cannot be mapped: copy the data into a file first");
    if (static_cast<uint64_t>(status.st_size) > SIZE_MAX)
        fail(ErrorCode::resource_exhausted, "'" + path.string() + "' is larger than the address space");
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0) return;
    void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (mapped == MAP_FAILED) fail_errno(path, "cannot map");
    data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() {
    unmap();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    if (this != &other) {
        unmap();
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

void MappedFile::will_need() const {
    if (data_) madvise(const_cast<std::byte*>(data_), size_, MADV_WILLNEED);
}

void MappedFile::unmap() noexcept {
    if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace planish
