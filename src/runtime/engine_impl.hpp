// Inside Engine and Context: what the C ABI, Python and the command line use beyond the public API.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/packed_store.hpp"
#include "base/aligned_buffer.hpp"
#include "plan/contents.hpp"
#include "planish/planish.hpp"
#include "reference/ref_context.hpp"
#include "runtime/program_cache.hpp"

namespace planish {

struct Engine::Impl {
    Impl(std::shared_ptr<const plan::PlanContents> contents, const LoadOptions& options);

    const Graph& graph() const { return *contents->graph; }
    int input_index(std::string_view name) const;   ///< -1: none
    int output_index(std::string_view name) const;  ///< -1: none
    /// The program for these shapes (engine order), compiled now when it is met for the first time.
    std::shared_ptr<const runtime::Prepared> prepare(std::span<const int64_t> key,
                                                     const std::vector<Dims>& shapes) const;
    /// The plan's tactics are replayed for the shapes that they were chosen for.
    CompileOptions options_for(const std::vector<Dims>& shapes) const;
    EngineInfo info() const;

    std::shared_ptr<const plan::PlanContents> contents;
    runtime::Device device;
    CompileOptions compile_options;
    std::map<std::string, std::string> tactics;  // of the plan's section for this device
    KernelBinaries binaries;                     // likewise
    int threads = 1;
    bool tensors_only = true;  // every input is a tensor
    bool compiled_at_load = false;
    std::vector<TensorInfo> inputs, outputs;
    mutable PackedStore packed;
    mutable runtime::ProgramCache cache;
};

struct Context::Impl {
    explicit Impl(std::shared_ptr<const Engine::Impl> engine);

    void run(std::span<const NamedView> inputs, std::span<const NamedView> outputs);
    std::span<const TensorView> run(std::span<const NamedView> inputs);
    /// Values of any kind, by input name; results in engine order, in fresh memory.
    std::vector<RefValue> run_values(const std::map<std::string, RefValue>& inputs);

    /// Matches the inputs and selects the program for their shapes.
    void bind(std::span<const NamedView> inputs);
    void select();

    /// After bind() and select(): one pointer for each engine output (null: into this context's own memory).
    void execute();
    std::vector<RefValue> interpret();
    void* own_buffer(size_t output, size_t bytes);

    std::shared_ptr<const Engine::Impl> engine;
    std::shared_ptr<const runtime::Prepared> current;
    AlignedBuffer arena;
    std::unique_ptr<DeviceState> state;  // on a GPU
    uintptr_t stream = 0;                // of the next run: the caller's, 0: the state's own
    std::vector<int64_t> key, current_key;
    std::vector<const TensorView*> views;     // by engine input
    std::vector<void*> targets;               // by engine output
    std::vector<const void*> input_pointers;  // by program port
    std::vector<AlignedBuffer> buffers;       // by engine output
    std::vector<TensorView> results;          // by engine output
    std::vector<RefValue> interpreted;        // results of the interpreter that `results` points into
};

}  // namespace planish
