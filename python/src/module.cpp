// planish._planish: the C++ library as the package's Python side sees it. Users see python/planish/*.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdio>
#include <mutex>

#include "backends/cuda/gpu.hpp"
#include "bindings.hpp"
#include "cli/cli.hpp"
#include "convert.hpp"
#include "plan/plan_io.hpp"
#include "runtime/engine_impl.hpp"
#include "runtime/profile.hpp"

namespace planish::python {
namespace {

/// planish::Error -> planish.Error(code, message, hint).
void translate(const std::exception_ptr& thrown, void*) {
    try {
        std::rethrow_exception(thrown);
    } catch (const Error& error) {
        const nb::object type = nb::module_::import_("planish._errors").attr("Error");
        const nb::object instance = type(std::string(to_string(error.code())), error.message(), error.hint());
        PyErr_SetObject(type.ptr(), instance.ptr());
    }
}

/// Contexts that are free at the moment, so that Engine.run from many threads neither waits nor allocates arenas anew.
class EngineHandle {
  public:
    explicit EngineHandle(Engine engine) : engine_(std::move(engine)) {}

    const Engine& engine() const { return engine_; }

    template <typename Fn>
    auto with_context(Fn&& fn) {
        Context::Impl* raw = nullptr;
        std::unique_ptr<Context::Impl> context = take();
        raw = context.get();
        auto result = fn(*raw);
        const std::lock_guard lock(mutex_);
        if (idle_.size() < 64) idle_.push_back(std::move(context));
        return result;
    }

  private:
    std::unique_ptr<Context::Impl> take() {
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                auto context = std::move(idle_.back());
                idle_.pop_back();
                return context;
            }
        }
        return std::make_unique<Context::Impl>(engine_.shared_impl());
    }

    Engine engine_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Context::Impl>> idle_;
};

/// Runs without the GIL; the caller's arrays are held by the frames above.
nb::list run(Context::Impl& context, nb::dict feeds) {
    const std::map<std::string, RefValue> inputs = from_feeds(feeds);
    std::vector<RefValue> results;
    {
        const nb::gil_scoped_release release;
        results = context.run_values(inputs);
    }
    nb::list list;
    for (RefValue& value : results) list.append(to_python(std::move(value)));
    return list;
}

/// A stream holds for one run.
struct Reset {
    Context::Impl& context;
    ~Reset() { context.stream = 0; }
};

TensorView view_of(const RefValue& value, const std::string& name) {
    if (value.kind != Kind::tensor || value.tensor.dtype() == DType::string)
        fail(ErrorCode::unsupported, "'" + name + "' has no flat memory to write into", "leave it out of `outputs`");
    return {value.tensor.dtype(), value.tensor.dims(), const_cast<void*>(value.tensor.raw())};
}

void run_into(Context::Impl& context, nb::dict feeds, nb::dict outputs, uintptr_t stream) {
    const std::map<std::string, RefValue> inputs = from_feeds(feeds), targets = from_feeds(outputs);
    std::vector<NamedView> in, out;
    for (const auto& [name, value] : inputs) {
        if (value.kind == Kind::tensor && value.tensor.dtype() == DType::string)
            in.push_back(
                {name, {DType::string, value.tensor.dims(), const_cast<std::string*>(value.tensor.strings().data())}});
        else
            in.push_back({name, view_of(value, name)});
    }
    for (const auto& [name, value] : targets) out.push_back({name, view_of(value, name)});
    const nb::gil_scoped_release release;
    context.stream = stream;
    const Reset reset{context};
    context.run(in, out);
}

/// (address, shape, dtype, device type, device id, contiguous) of an object with DLPack.
nb::tuple dlpack_info(const nb::ndarray<nb::ro>& array) {
    std::vector<int64_t> shape;
    bool contiguous = true;
    int64_t expected = 1;
    for (size_t i = array.ndim(); i-- > 0;) {
        contiguous = contiguous && (array.shape(i) == 1 || array.stride(i) == expected);
        expected *= static_cast<int64_t>(array.shape(i));
        shape.insert(shape.begin(), static_cast<int64_t>(array.shape(i)));
    }
    const nb::dlpack::dtype type = array.dtype();
    static constexpr const char* kKinds[] = {"int", "uint", "float", "", "bfloat", "complex", "bool"};
    std::string name = type.code < std::size(kKinds) ? kKinds[type.code] : "";
    if (name != "bool") name += std::to_string(type.bits);
    return nb::make_tuple(reinterpret_cast<uintptr_t>(array.data()), nb::tuple(nb::cast(shape)), name,
                          array.device_type(), array.device_id(), contiguous && type.lanes == 1);
}

/// Types and shapes of the outputs for these input shapes; None where the interpreter runs the plan.
nb::object output_types(const Engine& engine, const std::vector<Dims>& shapes) {
    std::vector<std::pair<DType, Dims>> types;
    {
        const nb::gil_scoped_release release;
        types = engine.output_types(shapes);
    }
    if (types.empty()) return nb::none();
    nb::list list;
    for (const auto& [dtype, dims] : types)
        list.append(nb::make_tuple(std::string(to_string(dtype)), nb::tuple(nb::cast(dims))));
    return list;
}

nb::dict to_dict(const EngineInfo& info) {
    nb::dict d;
    d["device"] = info.device;
    d["target"] = info.target;
    d["precision"] = info.precision;
    d["device_weight_bytes"] = info.device_weight_bytes;
    d["compiled_at_load"] = info.compiled_at_load;
    d["threads"] = info.threads;
    d["weight_bytes"] = info.weight_bytes;
    d["packed_bytes"] = info.packed_bytes;
    d["arena_bytes"] = info.arena_bytes;
    d["programs"] = info.programs;
    d["interpreted"] = info.interpreted;
    d["ignored_tactics"] = info.ignored_tactics;
    nb::dict provenance;
    for (const auto& [key, value] : info.provenance) provenance[key.c_str()] = value;
    d["provenance"] = provenance;
    return d;
}

nb::dict to_dict(const LayerRow& row) {
    nb::dict d;
    d["name"] = row.name;
    d["layers"] = row.layers;
    d["op"] = row.op;
    d["implementation"] = row.implementation;
    d["placement"] = row.placement;
    d["dtype"] = std::string(to_string(row.dtype));
    d["flops"] = row.flops;
    d["bytes"] = row.bytes;
    d["refused"] = row.refused;
    return d;
}

nb::dict to_dict(const runtime::ProfileRow& row) {
    nb::dict d;
    d["name"] = row.step.name;
    d["layers"] = row.step.layers;
    d["op"] = row.step.op;
    d["implementation"] = row.step.implementation;
    d["seconds"] = row.seconds;
    d["flops"] = row.step.flops;
    d["bytes"] = row.step.bytes;
    d["roofline"] = row.roofline();
    d["busy_threads"] = row.busy;
    return d;
}

nb::dict profile(Context::Impl& context, nb::dict feeds, int runs) {
    const std::map<std::string, RefValue> inputs = from_feeds(feeds);
    std::vector<NamedView> views;
    for (const auto& [name, value] : inputs) views.push_back({name, view_of(value, name)});
    runtime::Profile result;
    std::string trace;
    {
        const nb::gil_scoped_release release;
        result = runtime::profile(context, views, runs);
        trace = runtime::chrome_trace(result, "planish");
    }
    nb::list regions;
    for (const runtime::ProfileRow& row : result.rows) regions.append(to_dict(row));
    nb::dict d;
    d["threads"] = result.threads;
    d["peak_flops"] = result.roofline.flops;
    d["peak_bandwidth"] = result.roofline.bandwidth;
    d["seconds"] = result.total().seconds;
    d["regions"] = regions;
    d["trace"] = trace;
    return d;
}

nb::dict to_dict(const BuildReport& report) {
    nb::dict d;
    d["tactics"] = dicts_of(report.tactics, [](nb::dict& r, const TacticRow& row) {
        nb::dict times;
        for (const auto& [tactic, time] : row.seconds) times[tactic.c_str()] = time;
        r["region"] = row.region;
        r["layers"] = row.layers;
        r["chosen"] = row.chosen;
        r["seconds"] = times;
        r["from_cache"] = row.from_cache;
    });
    d["passes"] = dicts_of(report.passes, [](nb::dict& r, const PassRow& row) {
        r["name"] = row.name;
        r["changes"] = row.changes;
        r["seconds"] = row.seconds;
    });
    d["verification"] = dicts_of(report.verification, [](nb::dict& r, const VerificationRow& row) {
        r["name"] = row.name;
        r["layers"] = row.layers;
        r["implementation"] = row.implementation;
        r["error"] = row.error;
        r["tolerance"] = row.tolerance;
        r["passed"] = row.passed;
        r["note"] = row.note;
    });
    d["precision"] = dicts_of(report.precision, [](nb::dict& r, const PrecisionRow& row) {
        r["layer"] = row.layer;
        r["op"] = row.op;
        r["before"] = row.before;
        r["after"] = row.after;
        r["sqnr"] = row.sqnr;
        r["note"] = row.note;
    });
    d["output_errors"] = dicts_of(report.output_errors, [](nb::dict& r, const OutputErrorRow& row) {
        r["name"] = row.name;
        r["sqnr"] = row.sqnr;
        r["cosine"] = row.cosine;
    });
    d["groups"] = dicts_of(report.groups, [](nb::dict& r, const PrecisionGroupRow& row) {
        nb::dict choices;
        for (const PrecisionGroupRow::Choice& choice : row.choices) {
            nb::dict c;
            c["seconds"] = choice.seconds;
            c["noise"] = choice.noise;
            choices[choice.precision.c_str()] = c;
        }
        r["layers"] = row.layers;
        r["choices"] = choices;
        r["chosen"] = row.chosen;
    });
    d["mixes"] = dicts_of(report.mixes, [](nb::dict& r, const MixRow& row) {
        r["name"] = row.name;
        r["layers"] = row.layers;
        r["seconds"] = row.seconds;
        r["accuracy"] = row.accuracy;
        r["held_out"] = row.held_out;
        r["met"] = row.met;
        r["on_front"] = row.on_front;
        r["chosen"] = row.chosen;
    });
    nb::list layers;
    for (const LayerRow& row : report.layers) layers.append(to_dict(row));
    d["layers"] = layers;
    d["budget"] = report.budget;
    d["timing_cache"] = report.timing_cache;
    nb::dict seconds;
    for (const auto& [stage, time] : report.seconds) seconds[stage.c_str()] = time;
    d["seconds"] = seconds;
    d["warnings"] = report.warnings;
    return d;
}

nb::list infos(std::span<const TensorInfo> rows) {
    nb::list list;
    for (const TensorInfo& row : rows)
        list.append(nb::make_tuple(row.name, std::string(to_string(row.dtype)), row.kind,
                                   row.ranked ? nb::cast(row.shape) : nb::none()));
    return list;
}

/// The dict that planish.build assembles -> BuildOptions. Samples are borrowed from it.
BuildOptions build_options(nb::dict given) {
    BuildOptions options;
    options.targets = nb::cast<std::vector<std::string>>(given["targets"]);
    options.precision = nb::cast<std::string>(given["precision"]);
    options.shapes = shapes_of(given["shapes"]);
    options.threads = nb::cast<int>(given["threads"]);
    options.optimization_level = nb::cast<int>(given["optimization_level"]);
    options.timing_cache = nb::cast<std::string>(given["timing_cache"]);
    options.time_budget = nb::cast<double>(given["time_budget"]);
    options.replay_only = nb::cast<bool>(given["replay_only"]);
    options.verify = nb::cast<bool>(given["verify"]);
    options.metadata = nb::cast<StringPairs>(given["metadata"]);
    options.disabled_passes = nb::cast<std::vector<std::string>>(given["disabled_passes"]);
    options.disabled_implementations = nb::cast<std::vector<std::string>>(given["disabled_implementations"]);
    options.only_reference = nb::cast<bool>(given["only_reference"]);
    options.samples = samples_of(given["samples"]);
    CalibrationOptions& calibration = options.calibration;
    calibration.samples = samples_of(given["calibration"]);
    calibration.method = nb::cast<std::string>(given["calibration_method"]);
    calibration.table = nb::cast<std::string>(given["calibration_table"]);
    calibration.save_table = nb::cast<std::string>(given["save_calibration_table"]);
    calibration.layer_precision = nb::cast<StringPairs>(given["layer_precision"]);
    calibration.accuracy_budget = nb::cast<double>(given["accuracy_budget"]);
    AccuracyOptions& accuracy = options.accuracy;
    accuracy.budget = nb::cast<std::string>(given["budget"]);
    accuracy.held_out = samples_of(given["held_out"]);
    if (const nb::object metric = given["metric"]; !metric.is_none())
        accuracy.metric = [metric](const Plan& plan) {
            const nb::gil_scoped_acquire acquire;
            return nb::cast<double>(metric(plan));
        };
    accuracy.command = nb::cast<std::string>(given["metric_command"]);
    accuracy.mixes = nb::cast<int>(given["mixes"]);
    accuracy.time_limit = nb::cast<double>(given["search_time"]);
    options.progress = progress_of(given["progress"]);
    return options;
}

LoadOptions load_options(const std::string& device, int threads, int cached_shapes, bool only_reference) {
    return {device, threads, cached_shapes, only_reference};
}

}  // namespace

NB_MODULE(_planish, m) {
    nb::register_exception_translator(translate);
    m.attr("__version__") = std::string(version());

    nb::class_<Plan>(m, "Plan")
        .def(
            "save", [](const Plan& plan, const std::string& path) { plan.save(path); },
            nb::call_guard<nb::gil_scoped_release>())
        .def("bytes", [](const Plan& plan) { return bytes_without_gil([&] { return plan.bytes(); }); })
        .def(
            "export_onnx", [](const Plan& plan, const std::string& path) { export_onnx(plan, path); },
            nb::call_guard<nb::gil_scoped_release>())
        .def("report", [](const Plan& plan) { return to_dict(plan.report()); })
        .def("text", [](const Plan& plan) { return print(*plan.contents()->graph); });

    m.def("check_writable", [](const std::string& path) { plan::check_writable(path); });
    m.def(
        "export_onnx_path",
        [](const std::string& plan, const std::string& path) { export_onnx(std::filesystem::path(plan), path); },
        nb::call_guard<nb::gil_scoped_release>());
    m.def("build_path", [](const std::string& path, nb::dict options) {
        return without_gil(build_options(options),
                           [&](const BuildOptions& o) { return build(std::filesystem::path(path), o); });
    });
    m.def("build_bytes", [](const nb::bytes& model, nb::dict options) {
        return without_gil(build_options(options), [&](const BuildOptions& o) { return build(span_of(model), o); });
    });

    bind_optimised(m);
    bind_prune(m);
    bind_sparsify(m);

    nb::class_<Context::Impl>(m, "Context").def("run", &run).def("run_into", &run_into);

    nb::class_<EngineHandle>(m, "Engine")
        .def("inputs", [](const EngineHandle& e) { return infos(e.engine().inputs()); })
        .def("outputs", [](const EngineHandle& e) { return infos(e.engine().outputs()); })
        .def("run",
             [](EngineHandle& e, nb::dict feeds) { return e.with_context([&](auto& c) { return run(c, feeds); }); })
        .def("run_into",
             [](EngineHandle& e, nb::dict feeds, nb::dict outputs, uintptr_t stream) {
                 e.with_context([&](auto& c) {
                     run_into(c, feeds, outputs, stream);
                     return 0;
                 });
             })
        .def("profile", [](EngineHandle& e, nb::dict feeds,
                           int runs) { return e.with_context([&](auto& c) { return profile(c, feeds, runs); }); })
        .def("create_context", [](const EngineHandle& e) { return new Context::Impl(e.engine().shared_impl()); })
        .def(
            "prepare", [](const EngineHandle& e, const std::vector<Dims>& shapes) { e.engine().prepare(shapes); },
            nb::call_guard<nb::gil_scoped_release>())
        .def("layers",
             [](const EngineHandle& e, const std::vector<Dims>& shapes) {
                 std::vector<LayerRow> rows;
                 {
                     const nb::gil_scoped_release release;
                     rows = e.engine().layers(shapes);
                 }
                 nb::list list;
                 for (const LayerRow& row : rows) list.append(to_dict(row));
                 return list;
             })
        .def("output_types",
             [](const EngineHandle& e, const std::vector<Dims>& shapes) { return output_types(e.engine(), shapes); })
        .def("info", [](const EngineHandle& e) { return to_dict(e.engine().info()); });

    m.def("load_path", [](const std::string& path, const std::string& device, int threads, int cached, bool reference) {
        const nb::gil_scoped_release release;
        return new EngineHandle(load(std::filesystem::path(path), load_options(device, threads, cached, reference)));
    });
    m.def("load_bytes", [](const nb::bytes& bytes, const std::string& device, int threads, int cached, bool reference) {
        const auto span = span_of(bytes);
        const nb::gil_scoped_release release;
        return new EngineHandle(load(span, load_options(device, threads, cached, reference)));
    });
    m.def("load_plan", [](const Plan& plan, const std::string& device, int threads, int cached, bool reference) {
        const nb::gil_scoped_release release;
        return new EngineHandle(load(plan, load_options(device, threads, cached, reference)));
    });

    m.def("dlpack_info", &dlpack_info);
    m.def("synchronize_stream", [](uintptr_t stream, int device) {
        const nb::gil_scoped_release release;
        cuda::synchronize_stream(stream, device);
    });
    m.def("add_library_folder", [](const std::string& folder) { cuda::add_library_folder(folder); });
    m.def("cli_main", [](const std::vector<std::string>& arguments) {
        std::vector<const char*> argv;
        for (const std::string& argument : arguments) argv.push_back(argument.c_str());
        const nb::gil_scoped_release release;
        const int code = cli::run(static_cast<int>(argv.size()), argv.data());
        std::fflush(stdout);  // the process goes on: what was printed belongs before what Python prints
        return code;
    });
}

}  // namespace planish::python
