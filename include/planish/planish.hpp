// Planish: trained network in, plan out, plan run. Read this file from top to bottom and you know the C++ API.
//
//     planish::Plan plan = planish::build("model.onnx");
//     plan.save("model.plan");
//
//     planish::Engine engine = planish::load("model.plan");
//     planish::TensorMap out = engine.run({{"input", image}});
//
// Everything throws planish::Error (code, message, hint) and nothing else but std::bad_alloc.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "planish/dtype.hpp"
#include "planish/error.hpp"
#include "planish/export.hpp"
#include "planish/report.hpp"
#include "planish/tensor.hpp"

namespace planish {

namespace plan {
struct PlanContents;
}

/// "0.1.0"
PLANISH_API std::string_view version();

using TensorMap = std::map<std::string, Tensor>;
class Plan;

// ---------------------------------------------------------------------------------------------------- building

/// The shapes that an input will have: the plan is compiled and verified for `opt`. Where min = max the size is fixed.
/// Other shapes that the model allows still run; they are compiled when first met.
struct ShapeRange {
    Dims min, opt, max;
};

/// How a float network becomes one of 8-bit integers: docs/quantisation.md.
struct CalibrationOptions {
    std::vector<TensorMap> samples;               ///< real inputs, an array for each input of the model
    std::function<bool(TensorMap& sample)> next;  ///< or these, one a call, until it returns false
    std::filesystem::path table;                  ///< JSON: grids that are taken from here; those it lacks are chosen
    std::filesystem::path save_table;             ///< where the grids go
    std::string method = "mse";                   ///< "min_max", "percentile", "entropy", "mse"
    double percentile = 99.99;
    bool equalise = true;       ///< even out the channels of tensors
    bool compensate = true;     ///< weights make up for errors of their inputs
    bool round_jointly = true;  ///< and for each other's rounding
    bool correct_bias = true;   ///< channels keep their means
    StringPairs
        layer_precision;  ///< pattern of layer names (* and ?) -> "fp32", "int8" or "fp8"; the last match counts
    double accuracy_budget = -1;  ///< least SQNR of every output in dB, on the samples; < 0: whatever is not absurd
};

/// What quantisation may cost, for precision "auto": docs/quantisation.md.
struct AccuracyOptions {
    /// A metric, >= or <=, and a number: "top1>=0.99" (same largest class as in float32), "cosine>=0.999", "sqnr>=25"
    /// (dB), "error<=0.05" (root of noise over signal): of the worst output. Of a metric of one's own "metric>=0.75",
    /// or against float32 "metric>=fp32-0.005".
    std::string budget;
    std::vector<TensorMap> held_out;            ///< to verify with; empty: every fifth of the calibration samples
    std::function<double(const Plan&)> metric;  ///< one's own
    std::string command;     ///< or a shell command that prints it last; {plan} is the plan's file, else it comes last
    int mixes = 6;           ///< most mixes that are built and measured
    double time_limit = -1;  ///< seconds after which no other mix is begun; < 0: none
};

/// Where a build stands. `fraction` runs from 0 to 1 over the whole build.
struct Progress {
    std::string_view stage;   ///< "import", "optimise", "quantise", "compile", "tune", "verify", "write"; of precision
                              ///< "auto" also "fp32", "int8", "mix 1", ...
    std::string_view detail;  ///< the pass, region or file being worked on
    double fraction = 0;
};

struct BuildOptions {
    std::vector<std::string> targets = {"cpu"};  ///< "cpu", "cpu:avx2", "cpu:avx512", "cuda:sm_90a", ...: one plan
    /// Of the GPU targets: "fp32", "tf32", "fp16", "bf16", "int8", "fp8" (sm_89 and later); of the CPU: "fp32", "int8",
    /// "auto" (the fastest mix of these within `accuracy.budget`).
    std::string precision = "fp32";
    std::map<std::string, ShapeRange> shapes;  ///< by input name; inputs not named keep their model's shape
    int threads = 0;  ///< to compile, tune and verify with; 0: one for each core, as LoadOptions

    int optimization_level = 3;      ///< 0 to 5: see docs/tuning.md. Below 3 nothing is timed
    CalibrationOptions calibration;  ///< of precision "int8", "fp8" and "auto"
    AccuracyOptions accuracy;        ///< of precision "auto"
    std::filesystem::path
        timing_cache;          ///< file of measurements to use and to add to; empty: timed for this build only
    double time_budget = -1;   ///< seconds to spend on timing; what was not reached keeps its default; < 0: all
    bool replay_only = false;  ///< time nothing; what the timing cache does not know is an Error(not_found)

    bool verify = true;              ///< compare regions and outputs with the reference; over tolerance = Error
    std::vector<TensorMap> samples;  ///< inputs to verify with; empty: random inputs at the opt shapes
    StringPairs metadata;            ///< kept in the plan, shown by inspect

    std::vector<std::string> disabled_passes;           ///< names from `planish build --list-passes`
    std::vector<std::string> disabled_implementations;  ///< prefixes of kernel names
    bool only_reference = false;              ///< run everything in the interpreter (a baseline to compare with)
    std::vector<std::string> dump_after;      ///< pass names, or "all": the graph's text after them
    std::filesystem::path dump_folder = ".";  ///< where the dumps go

    std::function<bool(const Progress&)> progress;  ///< called on the building thread; false cancels (Error)
};

/// A built plan, in memory. Immutable; copies share their content.
class PLANISH_API Plan {
  public:
    Plan(std::shared_ptr<const plan::PlanContents> contents, BuildReport report);

    /// Writes through a temporary file and a rename: `path` holds the old file or the whole plan, nothing between.
    void save(const std::filesystem::path& path) const;
    std::vector<std::byte> bytes() const;
    const BuildReport& report() const;
    const std::shared_ptr<const plan::PlanContents>& contents() const { return contents_; }

  private:
    std::shared_ptr<const plan::PlanContents> contents_;
    std::shared_ptr<const BuildReport> report_;
};

/// Compiles an ONNX model. External data is looked for beside the file and never outside its folder.
/// Errors: not_found, io_error, invalid_argument, invalid_model, unsupported, verification_failed.
PLANISH_API Plan build(const std::filesystem::path& model, const BuildOptions& options = {});
/// The same from the bytes of a model. `external_data_folder` empty: external data is an error.
PLANISH_API Plan build(std::span<const std::byte> model, const BuildOptions& options = {},
                       const std::filesystem::path& external_data_folder = {});

/// Writes the portable graph of a plan as an ONNX model, in the lowest opset that has its operators. Weights beyond 2
/// GB go to a file beside it, called as the model with ".data" behind. Errors: not_found, invalid_plan, io_error.
PLANISH_API void export_onnx(const Plan& plan, const std::filesystem::path& model);
PLANISH_API void export_onnx(const std::filesystem::path& plan, const std::filesystem::path& model);
/// The same as bytes, weights inside. Errors: resource_exhausted (beyond 2 GB).
PLANISH_API std::vector<std::byte> onnx_bytes(const Plan& plan);

// ---------------------------------------------------------------------------------------------------- running

/// An input or output of an engine. Each dimension is a number ("224") or an expression of symbols ("N", "2*S + 1").
struct TensorInfo {
    std::string name;
    DType dtype = DType::undefined;
    std::vector<std::string> shape;
    bool ranked = true;           ///< false: the model leaves even the rank open, `shape` is empty
    std::string kind = "tensor";  ///< "tensor", "sequence" or "optional"
};

/// A name and memory of the caller.
struct NamedView {
    std::string_view name;
    TensorView tensor;
};

struct LoadOptions {
    std::string device = "auto";  ///< "cpu", "cpu:avx2", "cuda:0": one that is not there is an error, never a silent
                                  ///< fallback; "auto": a GPU that the plan was built for, else the CPU
    int threads = 0;              ///< that one run may use; 0: one for each core that the process may use
    int cached_shapes = 16;  ///< programs kept, one for each set of input shapes, least recently used dropped first
    bool only_reference = false;  ///< run in the reference interpreter
};

/// What an engine is made of. Sizes in bytes.
struct EngineInfo {
    std::string device;             ///< "cpu", "cuda:0"
    std::string target;             ///< what the kernels are made for: "cpu:avx512", "cuda:sm_90a"
    std::string precision;          ///< in which it computes: "fp32", "fp16", "int8", "mixed" (int8 and fp32)
    bool compiled_at_load = false;  ///< the plan has no section for this target: compiled from its portable core
    int threads = 0;
    int64_t weight_bytes = 0;         ///< constants of the plan, shared by all contexts and, when mapped, by processes
    int64_t packed_bytes = 0;         ///< weights kept in another order besides, shared by all contexts
    int64_t device_weight_bytes = 0;  ///< weights in the GPU's memory, shared by all contexts
    int64_t arena_bytes = 0;          ///< scratch of one context, the largest of the programs compiled so far
    int programs = 0;                 ///< input shapes compiled so far and kept
    std::string interpreted;          ///< why the reference interpreter runs this plan; empty: it is compiled
    std::vector<std::string> ignored_tactics;  ///< "region: implementation (why)": replaced by the default order
    StringPairs provenance;                    ///< source, options, versions, metadata
};

class Engine;

/// Scratch memory for one run at a time: one for each thread. Cheap; weights are the engine's.
class PLANISH_API Context {
  public:
    Context(Context&&) noexcept;
    Context& operator=(Context&&) noexcept;
    ~Context();

    /// Runs on the caller's inputs into the caller's outputs. Outputs that are not named are not delivered.
    /// Allocates nothing when the engine and this context have seen the input shapes before.
    /// Errors: invalid_argument (unknown or missing name, dtype, rank, dimension; says what was expected).
    void run(std::span<const NamedView> inputs, std::span<const NamedView> outputs);

    /// Runs into memory of this context, valid until its next run: one view for each output, in engine order.
    std::span<const TensorView> run(std::span<const NamedView> inputs);

    /// Runs and returns every output in fresh memory.
    TensorMap run(const TensorMap& inputs);

    struct Impl;

  private:
    friend class Engine;
    explicit Context(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// A loaded plan: immutable, safe to share between threads, cheap to copy.
class PLANISH_API Engine {
  public:
    std::span<const TensorInfo> inputs() const;
    std::span<const TensorInfo> outputs() const;

    Context create_context() const;
    /// One run in a context of its own; for many runs keep a context.
    TensorMap run(const TensorMap& inputs) const;

    /// Compiles for these input shapes (in the order of inputs()), so that the first run with them does not wait.
    void prepare(std::span<const Dims> input_shapes) const;

    /// Element types and sizes of the outputs for these input shapes; empty when the interpreter runs the plan.
    std::vector<std::pair<DType, Dims>> output_types(std::span<const Dims> input_shapes) const;

    EngineInfo info() const;
    /// The program's launches for these input shapes; empty when the interpreter runs the plan.
    std::vector<LayerRow> layers(std::span<const Dims> input_shapes) const;

    struct Impl;
    explicit Engine(std::shared_ptr<const Impl> impl);
    const std::shared_ptr<const Impl>& shared_impl() const { return impl_; }

  private:
    std::shared_ptr<const Impl> impl_;
};

/// Loads a plan. A file is mapped: its weights are not copied and are shared between processes.
/// Errors: not_found, io_error, invalid_plan (says what the file is instead), unsupported (device).
PLANISH_API Engine load(const std::filesystem::path& plan, const LoadOptions& options = {});
PLANISH_API Engine load(std::span<const std::byte> plan, const LoadOptions& options = {});
PLANISH_API Engine load(const Plan& plan, const LoadOptions& options = {});

}  // namespace planish
