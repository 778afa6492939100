// The parts of the module that have a file of their own.
#pragma once

#include <nanobind/nanobind.h>

namespace planish::python {

void bind_optimised(nanobind::module_& m);  ///< before those that derive from it
void bind_prune(nanobind::module_& m);
void bind_sparsify(nanobind::module_& m);

}  // namespace planish::python
