// Values between Python and Planish. The package's Python side reduces every array to a "feed": a tuple
// (dtype name, shape, address) whose memory it keeps alive during the call, or, for what has no such memory,
// ("string", shape, [str]), ("sequence", [feed]), ("optional", feed or None).
#pragma once

#include <nanobind/nanobind.h>

#include <functional>
#include <map>
#include <span>
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

/// One dict for each row, as `fill(dict, row)` makes it.
template <typename Row, typename Fill>
nb::list dicts_of(const std::vector<Row>& rows, Fill&& fill) {
    nb::list list;
    for (const Row& row : rows) {
        nb::dict d;
        fill(d, row);
        list.append(d);
    }
    return list;
}

// ---- Of the dicts of options that the package's Python side assembles ----

/// One map for each dict of feeds in a list, borrowed like them.
std::vector<TensorMap> samples_of(nb::handle list);
/// Name -> [min, opt, max].
std::map<std::string, ShapeRange> shapes_of(nb::handle ranges);
/// `function` may be None: then, too, it lets Ctrl-C end a long piece of work.
std::function<bool(const Progress&)> progress_of(nb::object function);

inline std::span<const std::byte> span_of(const nb::bytes& bytes) {
    return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

/// `make(options)` without the GIL. Functions among the options hold Python objects: they go while the GIL is held.
template <typename Options, typename Make>
auto without_gil(Options options, Make&& make) {
    struct Restore {
        Options& options;
        ~Restore() {
            options.progress = nullptr;
            if constexpr (requires { options.accuracy; }) options.accuracy.metric = nullptr;
        }
    } restore{options};
    const nb::gil_scoped_release release;
    return make(options);
}

/// What `make()` gives without the GIL, as bytes.
template <typename Make>
nb::bytes bytes_without_gil(Make&& make) {
    std::vector<std::byte> bytes;
    {
        const nb::gil_scoped_release release;
        bytes = make();
    }
    return nb::bytes(bytes.data(), bytes.size());
}

}  // namespace planish::python
