// What one context has on a GPU: arena, staging memory, a stream, and the captured graphs of the programs it ran.
#pragma once

#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backends/cuda/program.hpp"

namespace planish::cuda {

/// Runs programs, one at a time.
///
/// A program is captured once into CUDA graphs, one for each stretch of steps between those on the CPU. When the
/// caller's pointers change, the parameters of the kernels that see them are changed in the instantiated graphs. Host
/// arrays go through pinned memory; device memory of the caller is used where it is, unless its address is not a
/// multiple of 16 bytes.
class State final : public DeviceState {
  public:
    explicit State(Gpu& gpu);
    ~State() override;

    int64_t device_bytes() const override;
    int64_t pinned_bytes() const override { return static_cast<int64_t>(staging_.size() + host_step_.size()); }
    void synchronize() override;

    void run(const CudaProgram& program, std::span<const void* const> inputs, std::span<void* const> outputs,
             CUstream stream);
    void run_observed(const CudaProgram& program, std::span<const void* const> inputs, std::span<void* const> outputs,
                      const StepObserver& observer);
    void run_profiled(const CudaProgram& program, std::span<const void* const> inputs, std::span<void* const> outputs,
                      std::span<Timeline> timelines);

  private:
    friend class StepReader;

    /// A launch with every address filled in.
    struct BoundLaunch {
        size_t step = 0, launch = 0;
        std::vector<std::byte> params;
        bool sees_ports = false;  // reads or writes memory of the caller
        CUgraphNode node = nullptr;
        CUgraphExec graph = nullptr;  // that holds the node
    };
    /// Steps [first, last): captured, or one step on the CPU.
    struct Segment {
        size_t first_launch = 0, last_launch = 0;
        size_t host_step = SIZE_MAX;
        CUgraphExec graph = nullptr;
        CUgraph captured = nullptr;  // what `graph` was made of: its nodes are how launches in `graph` are named
    };
    struct Instance {
        std::weak_ptr<const int> token;
        DeviceBuffer semaphores;
        DevicePointer arena = 0;           // that the graphs were captured with
        std::vector<DevicePointer> ports;  // inputs, then outputs, likewise
        std::vector<BoundLaunch> launches;
        std::vector<Segment> segments;
        bool captured = false;
    };
    /// Where the ports of one run are.
    struct Bound {
        std::vector<DevicePointer> ports;  // inputs, then outputs
        std::vector<std::byte*> pinned;    // by output: staged there; null: the caller's memory is on the device
        bool waits = false;                // host memory takes part
    };

    Instance& instance(const CudaProgram& program);
    void bind(const CudaProgram& program, Instance& instance, const Bound& bound);
    void capture(const CudaProgram& program, Instance& instance);
    void release(Instance& instance) const;
    void fill(const CudaProgram& program, const Instance& instance, BoundLaunch& bound) const;
    void launch(const CudaProgram& program, const BoundLaunch& bound, CUstream stream, bool may_overlap) const;
    void run_on_host(const CudaProgram& program, const Instance& instance, size_t step, CUstream stream);
    DevicePointer resolve(const CudaProgram& program, const Instance& instance, const Slot& slot) const;
    DevicePointer resolve(const CudaProgram& program, const Instance& instance, const Step& step,
                          const Operand& operand) const;
    Bound upload(const CudaProgram& program, std::span<const void* const> inputs, std::span<void* const> outputs,
                 CUstream stream);
    void download(const CudaProgram& program, const Bound& bound, std::span<void* const> outputs, CUstream stream);
    void reserve(DeviceBuffer& buffer, size_t bytes);
    void begin(CUstream stream);

    Gpu& gpu_;
    const Driver& driver_;
    CUstream own_ = nullptr;
    CUstream last_ = nullptr;     // where the latest run was enqueued
    bool pending_ = false;        // it may still be running
    DeviceBuffer arena_, ports_;  // scratch; room for the inputs and outputs that come from the host
    PinnedBuffer staging_, host_step_;
    std::unordered_map<const CudaProgram*, Instance> instances_;
};

}  // namespace planish::cuda
