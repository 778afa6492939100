// The CPU's Program: a list of kernel launches over one arena.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/cpu/implementation.hpp"
#include "backends/memory_plan.hpp"

namespace planish::cpu {

struct Step {
    std::shared_ptr<const Kernel> kernel;
    const Node* region = nullptr;  // null: a reorder or copy that the layout asked for
    std::vector<Slot> inputs, outputs;
    Layouts layouts;               // of inputs and outputs; empty where region is null
    int64_t workspace_offset = 0;  // into the arena
    StepInfo info;
};

class CpuProgram final : public Program {
  public:
    struct Parts {
        std::unique_ptr<Graph> graph;
        std::vector<Step> steps;
        std::vector<RegionInfo> regions;
        std::vector<std::string> ignored_tactics;
        std::vector<Port> inputs, outputs;
        std::vector<std::shared_ptr<const void>> keep_alive;  // tensors behind absolute slots
        std::unique_ptr<PackedStore> own_packed;              // when the caller gave none
        std::vector<ConstantUse> packed_constants;
        int64_t arena_bytes = 0;
        int64_t constant_bytes = 0;
    };
    explicit CpuProgram(Parts parts) : p_(std::move(parts)) {}

    std::span<const Port> inputs() const override { return p_.inputs; }
    std::span<const Port> outputs() const override { return p_.outputs; }
    int64_t arena_bytes() const override { return p_.arena_bytes; }
    int64_t constant_bytes() const override { return p_.constant_bytes; }
    std::vector<ConstantUse> packed_constants() const override { return p_.packed_constants; }
    std::vector<StepInfo> steps() const override;
    std::vector<RegionInfo> regions() const override { return p_.regions; }
    std::vector<std::string> ignored_tactics() const override { return p_.ignored_tactics; }
    void run(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
             int threads) const override;
    void run_observed(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                      int threads, const StepObserver& observer) const override;
    void run_profiled(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                      int threads, std::span<Timeline> timelines) const override;

  private:
    class Memory;
    template <typename Around>
    void execute(const Memory& memory, int threads, Around&& around) const;

    Parts p_;
};

}  // namespace planish::cpu
