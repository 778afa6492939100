// A folder for files that another program is to read.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "planish/error.hpp"

namespace planish {

/// It goes with all it holds. Throws Error(io_error).
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "planish-XXXXXX").string();
        if (mkdtemp(pattern.data()) == nullptr) fail(ErrorCode::io_error, "cannot create a temporary folder");
        path_ = pattern;
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

}  // namespace planish
