// KernelSpec to machine code: by the plan that carries it, by the cache on disk, else by NVRTC, many at a time.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "backends/cuda/device.hpp"
#include "backends/cuda/kernel.hpp"

namespace planish::cuda {

/// What the assembler said about a kernel; -1: not known, because it was not compiled now.
struct Resources {
    int registers = -1;
    int spilled_bytes = -1;  // stores and loads
    int static_shared = -1;
};

/// Machine code of one kernel: a cubin, or PTX text (null-terminated) where NVRTC does not know the architecture.
struct Binary {
    std::string key;
    std::vector<std::byte> code;
    Resources resources;
};

/// The name of a kernel's code: a hash of its source, of the headers that it includes, the options and `arch`.
std::string binary_key(const KernelSpec& spec, const Arch& arch);

/// $XDG_CACHE_HOME/planish/kernels or ~/.cache/planish/kernels, PLANISH_KERNEL_CACHE instead when it is set (empty: no
/// cache). Content-addressed, written atomically, bounded: the files used least recently go first.
class KernelCache {
  public:
    explicit KernelCache(std::filesystem::path folder, int64_t bytes = int64_t{1} << 30)
        : folder_(std::move(folder)), limit_(bytes) {}
    static KernelCache of_user();

    /// Null when it is not there or damaged.
    std::shared_ptr<const Binary> find(const std::string& key) const;
    /// A cache that cannot be written is no error.
    void add(const Binary& binary) const;
    void trim() const;
    const std::filesystem::path& folder() const { return folder_; }
    /// Files and bytes in it.
    std::pair<int64_t, int64_t> size() const;

  private:
    std::filesystem::path path(const std::string& key) const;
    std::filesystem::path folder_;
    int64_t limit_;
};

/// Code for every spec, in order; equal ones share it. `given` is looked at first: what a plan carries.
/// Errors: unsupported, when something has to be compiled and NVRTC is not there; internal with NVRTC's log, when it
/// refuses.
std::vector<std::shared_ptr<const Binary>> compile_kernels(std::span<const KernelSpec* const> specs, const Arch& arch,
                                                           const KernelBinaries* given, const KernelCache& cache);

/// One kernel, by NVRTC, now.
std::shared_ptr<const Binary> compile_kernel(const KernelSpec& spec, const Arch& arch);

}  // namespace planish::cuda
