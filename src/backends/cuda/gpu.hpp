// A GPU of this process: its context, memory, and the modules loaded on it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cuda/compiler.hpp"
#include "backends/cuda/device.hpp"
#include "backends/cuda/library.hpp"
#include "planish/tensor.hpp"

namespace planish::cuda {

class Gpu;

/// Makes the GPU's context current on this thread while it lives.
class Current {
  public:
    explicit Current(const Gpu& gpu);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

  private:
    const Driver& driver_;
};

/// Device memory, zero or more bytes.
class DeviceBuffer {
  public:
    DeviceBuffer() = default;
    DeviceBuffer(Gpu& gpu, size_t bytes);
    ~DeviceBuffer();
    DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
    DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    DevicePointer address() const { return address_; }
    size_t size() const { return size_; }

  private:
    void swap(DeviceBuffer& other) noexcept;
    Gpu* gpu_ = nullptr;
    DevicePointer address_ = 0;
    size_t size_ = 0;
};

/// Page-locked host memory, which the GPU copies from and to while the CPU goes on.
class PinnedBuffer {
  public:
    PinnedBuffer() = default;
    PinnedBuffer(Gpu& gpu, size_t bytes);
    ~PinnedBuffer();
    PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
    PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    std::byte* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void swap(PinnedBuffer& other) noexcept;
    Gpu* gpu_ = nullptr;
    std::byte* data_ = nullptr;
    size_t size_ = 0;
};

/// Loaded machine code of one kernel.
class Module {
  public:
    Module(Gpu& gpu, const Binary& binary, const KernelSpec& spec);
    ~Module();
    Module(const Module&) = delete;
    Module& operator=(const Module&) = delete;
    CUfunction function() const { return function_; }

  private:
    Gpu& gpu_;
    CUmodule module_ = nullptr;
    CUfunction function_ = nullptr;
};

class Gpu {
  public:
    /// Lives as long as the process. Errors: unsupported (no driver, no GPU), invalid_argument (no such ordinal).
    static Gpu& get(int ordinal);
    /// How many there are; 0 without a driver.
    static int count();

    const Driver& driver() const { return driver_; }
    CUcontext context() const { return context_; }
    int ordinal() const { return ordinal_; }
    const Arch& arch() const { return arch_; }
    const DeviceProperties& properties() const { return properties_; }
    /// Whether `pointer` is in this GPU's memory. Errors: invalid_argument when it is in that of another GPU.
    bool owns(const void* pointer) const;
    /// Free bytes of device memory now.
    int64_t free_bytes() const;

    /// Throws with the driver's own words: resource_exhausted when memory ran out, internal otherwise.
    void check(CUresult result, std::string_view what) const;
    std::shared_ptr<const Module> module(const Binary& binary, const KernelSpec& spec);

    Gpu(const Driver& driver, int ordinal);

  private:
    const Driver& driver_;
    int ordinal_;
    CUcontext context_ = nullptr;
    Arch arch_;
    DeviceProperties properties_;
    std::mutex mutex_;
    std::map<std::string, std::weak_ptr<const Module>> modules_;  // by binary key
};

/// Waits for a stream of the caller's on that GPU.
void synchronize_stream(uintptr_t stream, int ordinal);

/// One GPU as the driver describes it; its bandwidth and arithmetic where the driver does not say, by its architecture.
DeviceProperties describe_gpu(const Driver& driver, CUdevice device, Arch& arch);

}  // namespace planish::cuda
