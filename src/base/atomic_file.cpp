// mkstemp, write, fsync, rename; permissions follow the replaced file or the process's umask.
#include "base/atomic_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "planish/error.hpp"

namespace planish {
namespace {

// What a plain open(O_CREAT, 0666) would have given; the umask itself can only be read by changing it, which races.
mode_t new_file_mode() {
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    char text[1024];
    const ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (size > 0) {
        text[size] = 0;
        if (const char* line = std::strstr(text, "\nUmask:"))
            return 0666 & ~static_cast<mode_t>(std::strtoul(line + 7, nullptr, 8));
    }
    return 0644;
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path target) : target_(std::move(target)) {
    if (std::error_code ignored; std::filesystem::is_directory(target_, ignored))
        fail(ErrorCode::io_error, "cannot write '" + target_.string() + "': it is a folder", "give the path of a file");
    // A symbolic link stays a link: what it points at is replaced.
    if (std::error_code ignored; std::filesystem::is_symlink(target_, ignored)) {
        std::error_code failed;
        auto resolved = std::filesystem::weakly_canonical(target_, failed);
        if (!failed) target_ = std::move(resolved);
    }
    temporary_ = target_.string() + ".XXXXXX";
    fd_ = mkostemp(temporary_.data(), O_CLOEXEC);
    if (fd_ < 0) {
        temporary_.clear();
        fail_errno("cannot write");
    }
    struct stat existing {};
    const mode_t mode = stat(target_.c_str(), &existing) == 0 ? existing.st_mode & 0777 : new_file_mode();
    (void)fchmod(fd_, mode);  // some network file systems have no modes
}

AtomicFile::~AtomicFile() {
    if (fd_ >= 0) close(fd_);
    if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) fail_errno("cannot write");
        size_ += static_cast<size_t>(written);
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
}

void AtomicFile::commit() {
    if (fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail_errno("cannot flush");
    const int closed = close(fd_);
    fd_ = -1;
    if (closed != 0 && errno != EINTR) fail_errno("cannot close");
    if (rename(temporary_.c_str(), target_.c_str()) != 0) fail_errno("cannot replace");
    temporary_.clear();
}

void AtomicFile::fail_errno(const char* what) {
    const int cause = errno;
    std::string hint;
    if (cause == ENOENT) hint = "create the folder '" + target_.parent_path().string() + "' first";
    if (cause == EACCES || cause == EPERM || cause == EROFS) hint = "choose a folder that this user may write to";
    if (cause == ENOSPC || cause == EDQUOT) hint = "free some space or choose another disk";
    fail(ErrorCode::io_error, std::string(what) + " '" + target_.string() + "': " + std::strerror(cause), hint);
}

void write_file_atomically(const std::filesystem::path& target, std::span<const std::byte> bytes) {
    AtomicFile file(target);
    file.write(bytes);
    file.commit();
}

}  // namespace planish
