// A driver without a GPU: device memory is host memory, kernels are functions by name, graphs are lists of launches.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backends/cuda/driver.hpp"

namespace planish::cuda {

/// While it lives, it is the driver of the process. One at a time.
class FakeDriver {
  public:
    explicit FakeDriver(int major = 9, int minor = 0);
    ~FakeDriver();
    FakeDriver(const FakeDriver&) = delete;
    FakeDriver& operator=(const FakeDriver&) = delete;

    struct Kernel {
        size_t params_bytes = 0;
        std::function<void(const std::byte* params)> run;
    };
    std::map<std::string, Kernel> kernels;  // by entry point; one that is not here is an error

    struct Counts {
        int launches = 0, captured = 0, instantiated = 0, graph_launches = 0, params_set = 0, synchronized = 0,
            overlapping = 0, modules = 0, tensor_maps = 0;
    };
    Counts counts;
    size_t device_bytes() const;  // allocated now
    size_t pinned_bytes() const;
    CUresult fail_allocation = kSuccess;  // what MemAlloc answers when it is not success

    // Memory of a caller on the device.
    DevicePointer allocate(size_t bytes);
    void free(DevicePointer address);

    struct State;

  private:
    State* state_;
};

}  // namespace planish::cuda
