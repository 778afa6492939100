// The one interface between the compiler and what runs: a Backend compiles a specialised graph into a Program.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/packed_store.hpp"
#include "ir/graph.hpp"

namespace planish {

/// Why an implementation refused a region. A closed vocabulary: --explain prints it, tests match it.
enum class Refusal : uint8_t {
    none,
    op_not_handled,
    dtype_not_handled,
    layout_not_handled,
    shape_not_handled,
    attribute_not_handled,
    post_op_not_handled,
    isa_missing,
    weights_not_constant,
    slower,  // than another one: measured by the tuner, else by estimate
    disabled,
};
std::string_view to_string(Refusal refusal);

/// An input or output of a program: plain row-major memory of the caller.
struct Port {
    std::string name;
    DType dtype = DType::undefined;
    Dims dims;
};

/// One launch of a program: what a profile, `inspect` and `compare` show as a row.
struct StepInfo {
    std::string name;                 // the region's name: its user's main layer
    std::vector<std::string> layers;  // every user layer that runs inside it
    std::string op;                   // "Conv+Clip", "MatMul+Add+Gelu", ...
    std::string implementation;       // kernel grammar: operation, types, tile, ISA; "reference.X" for the fallback
    std::string placement = "cpu";    // "cuda" on a GPU
    DType dtype = DType::undefined;   // that results are stored as
    double unit_roundoff = 0x1p-24;   // of float32 values where they are stored
    double factor_roundoff = 0;       // by which a product moves its factors beforehand (tf32); 0: not at all
    bool integer = false;             // its `flops` are of 8-bit integers
    int64_t flops = 0;
    int64_t bytes = 0;                                         // read + written at least once
    std::vector<std::pair<std::string, std::string>> refused;  // implementation -> reason
    std::vector<int> regions;  // of Program::regions(): whose choice of implementation this step's time speaks for
};

/// The tactic of a region that does not run as one step: its parts are regions of their own.
inline constexpr std::string_view kDissolve = "dissolve";

/// A region, what runs it and what else could.
struct RegionInfo {
    std::string path;  // its name, after its parents' where they were dissolved: "block > conv". Unique in a program
    int parent = -1;   // index of the dissolved region that it was a part of
    std::vector<std::string> layers;
    std::string tactic;  // the implementation's name, or kDissolve
    // With CompileOptions::list_candidates only:
    std::vector<std::string> candidates;  // every tactic that can run it, the one taken without measurements first
    std::string signature;                // what it computes and in which layouts it finds its inputs
    std::string title;                    // the same in short, for people: "Conv+Clip float32[1, 32, 112, 112]"
};

/// Lets an observer read the operands of the running step as plain row-major tensors (copies). An input may be gone
/// once the step has run in its place.
class ValueReader {
  public:
    virtual ~ValueReader() = default;
    virtual Tensor read(const Value& value) const = 0;
};

struct StepObserver {
    /// `region` is the graph node that step executes.
    std::function<void(int step, const Node&region, const ValueReader&)> before, after;
};

/// When each step of one run was launched and who worked on it: seconds since the run's start.
struct Timeline {
    struct Span {
        int step, thread;  // thread 0 is the caller
        double begin, end;
    };
    std::vector<Span> steps;   // one for each step, in order
    std::vector<Span> work;    // what the threads, the caller included, did of the loops that they shared
    std::vector<double> busy;  // by step: seconds of all threads together, without waiting for each other
};

/// What a device can do at most, as measured on it.
struct Roofline {
    double flops = 0;        // per second
    double integer_ops = 0;  // per second: products of 8-bit integers, and their sums
    double bandwidth = 0;    // bytes per second
    /// The least time that a step can take, in seconds.
    double bound(const StepInfo& step) const {
        return std::max(static_cast<double>(step.flops) / (step.integer ? integer_ops : flops),
                        static_cast<double>(step.bytes) / bandwidth);
    }
};

/// What one context needs of a device beyond host scratch: arena, staging memory, captured graphs. For one run at a
/// time; made by Backend::create_state. The CPU needs none.
class DeviceState {
  public:
    virtual ~DeviceState() = default;
    virtual int64_t device_bytes() const = 0;
    virtual int64_t pinned_bytes() const = 0;
    /// Waits until what was started in this state is done.
    virtual void synchronize() = 0;
};

/// Constants in device memory, uploaded once for all programs and contexts of an engine.
class DeviceStore {
  public:
    virtual ~DeviceStore() = default;
    virtual int64_t bytes() const = 0;
};

/// Machine code by key, as a plan carries it. The bytes belong to the plan.
using KernelBinaries = std::map<std::string, std::span<const std::byte>>;

/// A constant and the order in which a program reads it; no packing: row by row, or transformed.
struct ConstantUse {
    std::shared_ptr<const Tensor> constant;
    std::optional<Packing> packing;
};

/// Compiled for one set of input shapes. Immutable, shared by contexts; all that changes while running is in `arena`.
class Program {
  public:
    virtual ~Program() = default;
    virtual std::span<const Port> inputs() const = 0;
    virtual std::span<const Port> outputs() const = 0;
    virtual int64_t arena_bytes() const = 0;                  // 64-byte aligned scratch that run() needs
    virtual int64_t device_arena_bytes() const { return 0; }  // of a GPU's memory, in each context
    virtual int64_t constant_bytes() const = 0;  // packed weights that this program keeps beyond the plan's own
    /// The constants that this program reads in one packed order only: a plan that stores them so needs no others.
    virtual std::vector<ConstantUse> packed_constants() const { return {}; }
    virtual std::vector<StepInfo> steps() const = 0;
    virtual std::vector<RegionInfo> regions() const = 0;           // parents before their parts
    virtual std::vector<std::string> ignored_tactics() const = 0;  // of CompileOptions::tactics: which, and why
    /// Inputs and outputs in port order. No allocation unless a step is a reference fallback.
    virtual void run(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                     int threads) const = 0;
    /// As run(), with calls around every step.
    virtual void run_observed(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                              int threads, const StepObserver& observer) const = 0;
    /// As run(), once for each of `timelines`, noting when each step ran.
    virtual void run_profiled(std::span<const void* const> inputs, std::span<void* const> outputs, std::byte* arena,
                              int threads, std::span<Timeline> timelines) const = 0;
    /// As run(), in the caller's state, for a program on a GPU. Inputs and outputs may lie in the memory of the device.
    /// `stream`: a handle of the driver or runtime, in which the run is enqueued; 0: the state's own, and the call
    /// returns when the outputs are there. With a stream it returns at once unless host memory or a step on the CPU
    /// makes it wait.
    virtual void run_in(std::span<const void* const> inputs, std::span<void* const> outputs, DeviceState& state,
                        uintptr_t stream) const;
    /// Machine code that a plan may carry so that this program needs no compiler.
    virtual KernelBinaries binaries() const { return {}; }
};

struct CompileOptions {
    std::string target = "cpu";                  // "cpu", "cpu:avx2", "cuda:sm_90a", ...
    std::string precision = "fp32";              // on a GPU: fp32, tf32, fp16, bf16
    int device = -1;                             // ordinal of the GPU that will run it; -1: none is at hand
    std::shared_ptr<DeviceStore> store;          // null: the program keeps its own
    const KernelBinaries* binaries = nullptr;    // looked at before anything is compiled by NVRTC
    int threads = 0;                             // threads that run() will be given; 0: the whole pool
    PackedStore* packed = nullptr;               // null: the program keeps its own
    std::map<std::string, std::string> tactics;  // RegionInfo::path -> tactic; one that cannot be is ignored and said
    bool list_candidates = false;                // fill in RegionInfo for the tuner
    bool only_reference = false;                 // every step by the reference interpreter
    std::vector<std::string> disabled;           // implementation names (prefixes) that must not be used
};

class Backend {
  public:
    virtual ~Backend() = default;
    virtual std::string_view name() const = 0;
    /// `graph` is specialised: every value's shape is static. The backend forms regions, lays out, plans memory.
    /// The program keeps what it needs of the graph.
    virtual std::unique_ptr<Program> compile(std::unique_ptr<Graph> graph, const CompileOptions& options) const = 0;
    /// How many calls of compile() are worth running at once: more than one where kernels take a compiler's time.
    virtual int concurrent_compilations() const { return 1; }
    /// Measures, in a fraction of a second, arithmetic in float32 with the target's instructions, and reading memory of
    /// `working_set` bytes again and again: so it comes from the cache that can hold as much.
    virtual Roofline measure_roofline(const std::string& target, int threads, int64_t working_set) const = 0;
    /// For the device of that ordinal; null where none is needed.
    virtual std::unique_ptr<DeviceState> create_state(int device) const;
    virtual std::shared_ptr<DeviceStore> create_store(int device) const;
    /// Is it memory of a GPU, which the CPU cannot read?
    virtual bool is_device_memory(const void* pointer, int device) const;
};

const Backend& cpu_backend();
const Backend& cuda_backend();

/// True when every value of the graph has a static shape and tensor kind, so that a backend can compile it.
bool is_static(const Graph& graph);

}  // namespace planish
