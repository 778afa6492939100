// The GPU's Program: launches over one arena, replayed as captured graphs.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/cuda/gpu.hpp"
#include "backends/cuda/implementation.hpp"
#include "backends/memory_plan.hpp"

namespace planish::cuda {

struct Step {
    CudaKernel kernel;
    const Node* region = nullptr;       // null: a conversion that the formats asked for
    std::vector<Slot> inputs, outputs;  // Base::absolute: Slot::index of CudaProgram::Parts::constants
    Formats formats;                    // of inputs and outputs; empty where region is null
    std::vector<int64_t> input_bytes, output_bytes;
    int first_constant = 0;                               // of kernel.constants in Parts::constants
    int64_t workspace_offset = 0;                         // into the arena
    int64_t semaphore_offset = 0;                         // into the semaphores
    std::vector<std::shared_ptr<const Binary>> binaries;  // by launch
    StepInfo info;
};

class CudaProgram final : public Program {
  public:
    struct Parts {
        std::unique_ptr<Graph> graph;
        Environment environment;
        std::vector<Step> steps;
        std::vector<RegionInfo> regions;
        std::vector<std::string> ignored_tactics;
        std::vector<Port> inputs, outputs;
        std::vector<Tensor> constants;
        std::unique_ptr<PackedStore> own_packed;  // when the caller gave none
        std::shared_ptr<DeviceStore> store;       // null: made when it is first run
        int64_t arena_bytes = 0, semaphore_bytes = 0;
        int device = -1;  // ordinal; -1: compiled without a GPU at hand
    };
    explicit CudaProgram(Parts parts);
    ~CudaProgram() override;

    std::span<const Port> inputs() const override { return p_.inputs; }
    std::span<const Port> outputs() const override { return p_.outputs; }
    int64_t arena_bytes() const override { return 0; }  // of host scratch
    int64_t device_arena_bytes() const override { return p_.arena_bytes + p_.semaphore_bytes; }
    int64_t constant_bytes() const override;
    std::vector<StepInfo> steps() const override;
    std::vector<RegionInfo> regions() const override { return p_.regions; }
    std::vector<std::string> ignored_tactics() const override { return p_.ignored_tactics; }
    KernelBinaries binaries() const override;

    void run(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
             int threads) const override;
    void run_observed(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                      int threads, const StepObserver& observer) const override;
    void run_profiled(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                      int threads, std::span<Timeline> timelines) const override;
    void run_in(std::span<const void* const> inputs, std::span<void* const> outputs, DeviceState& state,
                uintptr_t stream) const override;

    const Parts& parts() const { return p_; }

    /// On the GPU: functions by launch, addresses of constants. Loaded when the program is first run.
    struct Loaded {
        std::shared_ptr<DeviceStore> store;
        std::vector<std::vector<std::shared_ptr<const Module>>> modules;  // by step, launch
        std::vector<std::shared_ptr<const void>> keep_alive;
        std::vector<DevicePointer> constants;
    };
    const Loaded& load(Gpu& gpu) const;
    /// Alive as long as the program: what a state keeps for it goes when this has.
    const std::shared_ptr<const int>& token() const { return token_; }

  private:
    DeviceState& own_state() const;

    Parts p_;
    std::shared_ptr<const int> token_ = std::make_shared<const int>(0);
    mutable std::mutex mutex_;  // of what follows; the state is used under own_run_
    mutable std::unique_ptr<Loaded> loaded_;
    mutable std::mutex own_run_;
    mutable std::unique_ptr<DeviceState> own_state_;
};

std::unique_ptr<DeviceState> make_state(Gpu& gpu);
std::shared_ptr<DeviceStore> make_store(Gpu& gpu);

}  // namespace planish::cuda
