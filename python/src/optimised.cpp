// What planish.prune and planish.sparsify give back have this in common.
#include "planish/optimised.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "convert.hpp"
#include "ir/graph.hpp"

namespace planish::python {
namespace {

/// Every constant by its name.
nb::dict constants(const Optimised& network) {
    nb::dict d;
    for (const Value* value : network.graph().values())
        if (value->is_constant()) d[value->name.c_str()] = to_python(value->constant->clone());
    return d;
}

}  // namespace

void bind_optimised(nb::module_& m) {
    nb::class_<Optimised>(m, "Optimised")
        .def("onnx_bytes", [](const Optimised& n) { return bytes_without_gil([&] { return n.onnx_bytes(); }); })
        .def(
            "save_onnx", [](const Optimised& n, const std::string& path) { n.save_onnx(path); },
            nb::call_guard<nb::gil_scoped_release>())
        .def("constants", &constants);
}

}  // namespace planish::python
