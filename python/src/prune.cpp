// planish::prune as the package's Python side sees it.
#include "planish/prune.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "convert.hpp"
#include "ir/graph.hpp"

namespace planish::python {
namespace {

nb::dict to_dict(const PruneReport& report) {
    nb::dict d;
    nb::list layers;
    for (const PruneRow& row : report.layers) {
        nb::dict r;
        r["layer"] = row.layer;
        r["op"] = row.op;
        r["inputs_before"] = row.inputs_before;
        r["inputs"] = row.inputs;
        r["channels_before"] = row.channels_before;
        r["channels"] = row.channels;
        r["error"] = row.error;
        r["seconds_before"] = row.seconds_before;
        r["seconds"] = row.seconds;
        r["bytes_before"] = row.bytes_before;
        r["bytes"] = row.bytes;
        layers.append(r);
    }
    d["layers"] = layers;
    d["criterion"] = report.criterion;
    d["channels_before"] = report.channels_before;
    d["channels"] = report.channels;
    d["seconds_before"] = report.seconds_before;
    d["seconds"] = report.seconds;
    d["bytes_before"] = report.bytes_before;
    d["bytes"] = report.bytes;
    d["warnings"] = report.warnings;
    return d;
}

/// The dict that planish.prune assembles. Calibration data is borrowed from it.
PruneOptions prune_options(nb::dict given) {
    PruneOptions options;
    options.ratio = nb::cast<double>(given["ratio"]);
    options.speedup = nb::cast<double>(given["speedup"]);
    options.global = nb::cast<bool>(given["global"]);
    options.criterion = nb::cast<std::string>(given["criterion"]);
    options.multiple = nb::cast<int>(given["multiple"]);
    for (nb::handle sample : nb::cast<nb::list>(given["calibration"])) {
        TensorMap map;
        for (auto& [name, value] : from_feeds(nb::cast<nb::dict>(sample))) map[name] = value.tensor;
        options.calibration.push_back(std::move(map));
    }
    options.reconstruct = nb::cast<bool>(given["reconstruct"]);
    options.ridge = nb::cast<double>(given["ridge"]);
    options.rows = nb::cast<int64_t>(given["rows"]);
    options.keep = nb::cast<std::vector<std::string>>(given["keep"]);
    options.keep_parameters = nb::cast<bool>(given["keep_parameters"]);
    using Range = std::vector<Dims>;
    for (auto& [name, range] : nb::cast<std::map<std::string, Range>>(given["shapes"]))
        options.shapes[name] = {range.at(0), range.at(1), range.at(2)};
    options.measure = nb::cast<bool>(given["measure"]);
    options.threads = nb::cast<int>(given["threads"]);
    const nb::object progress = given["progress"];
    // Also without a progress function: lets Ctrl-C end a long run.
    options.progress = [progress](const Progress& p) {
        const nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (progress.is_none()) return true;
        const nb::object answer = progress(std::string(p.stage), std::string(p.detail), p.fraction);
        return !answer.is(nb::handle(Py_False));
    };
    return options;
}

template <typename Prune>
Pruned prune_without_gil(nb::dict given, Prune&& prune) {
    PruneOptions options = prune_options(given);
    struct Restore {  // the options hold Python objects: they must go while the GIL is held
        PruneOptions& options;
        ~Restore() { options.progress = nullptr; }
    } restore{options};
    const nb::gil_scoped_release release;
    return prune(options);
}

/// Every constant by its name.
nb::dict constants(const Pruned& pruned) {
    nb::dict d;
    for (const Value* value : pruned.graph().values())
        if (value->is_constant()) d[value->name.c_str()] = to_python(value->constant->clone());
    return d;
}

/// By the name of its weights, how many groups each convolution has.
nb::dict groups(const Pruned& pruned) {
    nb::dict d;
    for (const auto& node : pruned.graph().nodes())
        if (node->is("Conv")) d[node->input(1)->name.c_str()] = node->integer("group");
    return d;
}

}  // namespace

void bind_prune(nb::module_& m) {
    nb::class_<Pruned>(m, "Pruned")
        .def("report", [](const Pruned& pruned) { return to_dict(pruned.report()); })
        .def("onnx_bytes",
             [](const Pruned& pruned) {
                 std::vector<std::byte> bytes;
                 {
                     const nb::gil_scoped_release release;
                     bytes = pruned.onnx_bytes();
                 }
                 return nb::bytes(bytes.data(), bytes.size());
             })
        .def(
            "save_onnx", [](const Pruned& pruned, const std::string& path) { pruned.save_onnx(path); },
            nb::call_guard<nb::gil_scoped_release>())
        .def("constants", &constants)
        .def("groups", &groups);
    m.def("prune_path", [](const std::string& path, nb::dict options) {
        return prune_without_gil(options, [&](const PruneOptions& o) { return prune(std::filesystem::path(path), o); });
    });
    m.def("prune_bytes", [](const nb::bytes& model, nb::dict options) {
        const std::span bytes(static_cast<const std::byte*>(model.data()), model.size());
        return prune_without_gil(options, [&](const PruneOptions& o) { return prune(bytes, o); });
    });
}

}  // namespace planish::python
