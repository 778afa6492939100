// Values between Python and Planish. The package's Python side reduces every array to a "feed": a tuple
// (dtype name, shape, address) whose memory it keeps alive during the call, or, for what has no such memory,
// ("string", shape, [str]), ("sequence", [feed]), ("optional", feed or None).
#pragma once

#include <nanobind/nanobind.h>

#include <map>
#include <string>
#include <vector>

#include "planish/planish.hpp"
#include "reference/ref_context.hpp"

namespace planish::python {

namespace nb = nanobind;

/// Borrows the feed's memory. Call with the GIL.
RefValue from_feed(nb::handle feed);
std::map<std::string, RefValue> from_feeds(nb::dict feeds);

/// A tensor as a NumPy array that owns it: typed for NumPy's own dtypes, raw unsigned integers for the others, which
/// the package reinterprets; (shape, [str]) for strings; a list for a sequence; None for an empty optional.
/// Returned as (dtype name, object).
nb::object to_python(RefValue value);

}  // namespace planish::python
