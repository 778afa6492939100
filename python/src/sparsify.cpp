// planish::sparsify as the package's Python side sees it.
#include "planish/sparsify.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "convert.hpp"

namespace planish::python {
namespace {

nb::dict to_dict(const SparsifyReport& report) {
    nb::dict d;
    d["layers"] = dicts_of(report.layers, [](nb::dict& r, const SparsifyRow& row) {
        r["layer"] = row.layer;
        r["op"] = row.op;
        r["weights"] = row.weights;
        r["zeros_before"] = row.zeros_before;
        r["zeros"] = row.zeros;
        r["error"] = row.error;
        r["bytes_before"] = row.bytes_before;
        r["bytes"] = row.bytes;
        r["note"] = row.note;
    });
    d["outputs"] = dicts_of(report.outputs, [](nb::dict& r, const OutputAccuracyRow& row) {
        r["name"] = row.name;
        r["sqnr"] = row.sqnr;
        r["cosine"] = row.cosine;
        r["agreement"] = row.agreement;
    });
    d["pattern"] = report.pattern;
    d["criterion"] = report.criterion;
    d["samples"] = report.samples;
    d["tests"] = report.tests;
    d["weights"] = report.weights;
    d["zeros_before"] = report.zeros_before;
    d["zeros"] = report.zeros;
    d["bytes_before"] = report.bytes_before;
    d["bytes"] = report.bytes;
    d["seconds_before"] = report.seconds_before;
    d["seconds"] = report.seconds;
    return d;
}

/// The dict that planish.sparsify assembles. Samples are borrowed from it.
SparsifyOptions sparsify_options(nb::dict given) {
    SparsifyOptions options;
    options.pattern = nb::cast<std::string>(given["pattern"]);
    options.sparsity = nb::cast<double>(given["sparsity"]);
    options.criterion = nb::cast<std::string>(given["criterion"]);
    options.calibration = samples_of(given["calibration"]);
    options.test = samples_of(given["test"]);
    options.damping = nb::cast<double>(given["damping"]);
    options.keep = nb::cast<std::vector<std::string>>(given["keep"]);
    options.shapes = shapes_of(given["shapes"]);
    options.measure = nb::cast<bool>(given["measure"]);
    options.threads = nb::cast<int>(given["threads"]);
    options.progress = progress_of(given["progress"]);
    return options;
}

}  // namespace

void bind_sparsify(nb::module_& m) {
    nb::class_<Sparsified, Optimised>(m, "Sparsified").def("report", [](const Sparsified& s) {
        return to_dict(s.report());
    });
    m.def("sparsify_path", [](const std::string& path, nb::dict options) {
        return without_gil(sparsify_options(options),
                           [&](const SparsifyOptions& o) { return sparsify(std::filesystem::path(path), o); });
    });
    m.def("sparsify_bytes", [](const nb::bytes& model, nb::dict options) {
        return without_gil(sparsify_options(options),
                           [&](const SparsifyOptions& o) { return sparsify(span_of(model), o); });
    });
    m.def("compress_weights", &compress_weights, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace planish::python
