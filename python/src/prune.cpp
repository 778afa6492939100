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
    d["layers"] = dicts_of(report.layers, [](nb::dict& r, const PruneRow& row) {
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
    });
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
    options.calibration = samples_of(given["calibration"]);
    if (std::vector<TensorMap> gradients = samples_of(given["gradients"]); !gradients.empty())
        options.gradients = std::move(gradients.front());
    options.reconstruct = nb::cast<bool>(given["reconstruct"]);
    options.ridge = nb::cast<double>(given["ridge"]);
    options.rows = nb::cast<int64_t>(given["rows"]);
    options.keep = nb::cast<std::vector<std::string>>(given["keep"]);
    options.keep_parameters = nb::cast<bool>(given["keep_parameters"]);
    options.shapes = shapes_of(given["shapes"]);
    options.measure = nb::cast<bool>(given["measure"]);
    options.threads = nb::cast<int>(given["threads"]);
    options.progress = progress_of(given["progress"]);
    return options;
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
    nb::class_<Pruned, Optimised>(m, "Pruned")
        .def("report", [](const Pruned& pruned) { return to_dict(pruned.report()); })
        .def("groups", &groups);
    m.def("prune_path", [](const std::string& path, nb::dict options) {
        return without_gil(prune_options(options),
                           [&](const PruneOptions& o) { return prune(std::filesystem::path(path), o); });
    });
    m.def("prune_bytes", [](const nb::bytes& model, nb::dict options) {
        return without_gil(prune_options(options), [&](const PruneOptions& o) { return prune(span_of(model), o); });
    });
}

}  // namespace planish::python
