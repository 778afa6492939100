// Generated device code as a shared library of the host.
#pragma once

#include <dlfcn.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace planish::cuda {

/// Compiles `source`, which finds "device.hpp" and the kernels' headers as "planish/NAME". Tests run in the source
/// folder.
class HostLibrary {
  public:
    explicit HostLibrary(const std::string& source, const std::string& options = "-O0") {
        std::string pattern = std::filesystem::temp_directory_path() / "planish_XXXXXX";
        folder_ = mkdtemp(pattern.data());
        std::filesystem::create_directory(folder_ / "planish");
        for (const char* folder : {"src/backends/cuda/kernels", "tests/cuda/emulation"})  // the later one's count
            for (const auto& file : std::filesystem::directory_iterator(folder))
                std::filesystem::copy(file.path(), folder_ / "planish" / file.path().filename(),
                                      std::filesystem::copy_options::overwrite_existing);
        std::ofstream(folder_ / "unit.cpp") << "#include \"planish/device.hpp\"\n" << source;
        const char* compiler = std::getenv("CXX") != nullptr ? std::getenv("CXX") : "c++";
        const std::string command = std::string(compiler) + " -std=c++17 -w -shared -fPIC -fno-strict-aliasing " +
                                    options + " -I" + folder_.string() + " -o " + (folder_ / "unit.so").string() + " " +
                                    (folder_ / "unit.cpp").string();
        if (std::system(command.c_str()) == 0) handle_ = dlopen((folder_ / "unit.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    ~HostLibrary() {
        if (handle_ != nullptr) dlclose(handle_);
        std::filesystem::remove_all(folder_);
    }
    HostLibrary(const HostLibrary&) = delete;
    HostLibrary& operator=(const HostLibrary&) = delete;
    bool is_open() const { return handle_ != nullptr; }

    template <typename Function>
    Function* get(const std::string& name) const {
        return reinterpret_cast<Function*>(dlsym(handle_, name.c_str()));
    }

  private:
    std::filesystem::path folder_;
    void* handle_ = nullptr;
};

}  // namespace planish::cuda
