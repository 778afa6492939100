// The parts of the module that have a file of their own.
#pragma once

#include <nanobind/nanobind.h>

namespace planish::python {

void bind_prune(nanobind::module_& m);

}  // namespace planish::python
