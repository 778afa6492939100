// Input checks: dtype, rank, dimensions, symbols.
#include "runtime/input_check.hpp"

#include <map>

#include "planish/error.hpp"

namespace planish::runtime {
namespace {

std::string expected(const Value& input) {
    return std::string(to_string(input.type.dtype)) + (input.type.shape ? to_string(*input.type.shape) : "[any shape]");
}

std::string brackets(const Dims& dims) {
    std::string result = "[";
    for (size_t i = 0; i < dims.size(); ++i) result += (i ? ", " : "") + std::to_string(dims[i]);
    return result + "]";
}

std::string quoted(std::string_view name) {
    return "'" + std::string(name) + "'";
}

bool could_be(const Dim& dim, int64_t size) {
    const auto value = dim.value();
    return !value || *value == size;
}

bool could_be(const Shape& shape, const Dims& dims) {
    bool fits = shape.size() == dims.size();
    for (size_t i = 0; fits && i < dims.size(); ++i) fits = could_be(shape[i], dims[i]);
    return fits;
}

[[noreturn]] void fail_shape(const Value& input, const Dims& given, const std::string& detail) {
    std::string hint = shape_hint(*input.type.shape, given);
    if (hint.empty()) hint = "give " + quoted(input.name) + " the shape " + to_string(*input.type.shape);
    fail(ErrorCode::invalid_argument,
         "input " + quoted(input.name) + " has shape " + brackets(given) + ", expected " +
             to_string(*input.type.shape) + detail,
         std::move(hint));
}

}  // namespace

std::string name_list(std::span<Value* const> values) {
    std::string result;
    for (const Value* value : values) result += (result.empty() ? "" : ", ") + quoted(value->name);
    return result.empty() ? "none" : result;
}

void fail_unknown_name(std::string_view what, std::string_view name, std::span<Value* const> known) {
    fail(ErrorCode::invalid_argument, "there is no " + std::string(what) + " named " + quoted(name),
         "the " + std::string(what) + "s are: " + name_list(known));
}

void fail_missing(const Value& input, std::span<Value* const> known) {
    fail(ErrorCode::invalid_argument, "input " + quoted(input.name) + " (" + expected(input) + ") is missing",
         "the inputs are: " + name_list(known));
}

std::string shape_hint(const Shape& shape, const Dims& given) {
    if (shape.size() == 4 && given.size() == 4 && could_be(shape, {given[0], given[3], given[1], given[2]}) &&
        shape[1].is_constant())
        return "it looks channels-last (NHWC): move the channels to axis 1, in NumPy x.transpose(0, 3, 1, 2)";
    if (given.size() + 1 == shape.size()) {
        Dims batched = {1};
        batched.insert(batched.end(), given.begin(), given.end());
        if (could_be(shape, batched)) return "add the leading batch axis, in NumPy x[None]";
        if (shape.size() == 4 && given.size() == 3 && could_be(shape, {1, given[2], given[0], given[1]}))
            return "it looks like one HWC image: in NumPy x.transpose(2, 0, 1)[None]";
    }
    if (given.size() == shape.size() + 1 && given[0] == 1 && could_be(shape, Dims(given.begin() + 1, given.end())))
        return "remove the leading axis of size 1, in NumPy x[0]";
    return {};
}

void check_inputs(const Graph& graph, std::span<const TensorView* const> views) {
    struct Binding {
        int64_t size;
        std::string where;
    };
    std::map<std::string, Binding> bound;
    SymbolTable symbols;
    for (size_t i = 0; i < views.size(); ++i) {
        const Value& input = *graph.inputs()[i];
        const TensorView& view = *views[i];
        if (view.dtype != input.type.dtype)
            fail(ErrorCode::invalid_argument,
                 "input " + quoted(input.name) + " is " + std::string(to_string(view.dtype)) + ", expected " +
                     expected(input),
                 "convert it, in NumPy x.astype(\"" + std::string(to_string(input.type.dtype)) + "\")");
        for (int64_t d : view.dims)
            if (d < 0)
                fail(ErrorCode::invalid_argument,
                     "input " + quoted(input.name) + " has a negative dimension: " + brackets(view.dims));
        if (view.data == nullptr && element_count(view.dims) > 0)
            fail(ErrorCode::invalid_argument, "input " + quoted(input.name) + " has no data (null pointer)");
        if (!input.type.shape) continue;
        const Shape& shape = *input.type.shape;
        if (view.dims.size() != shape.size())
            fail_shape(
                input, view.dims,
                " (" + std::to_string(shape.size()) + " dimensions, got " + std::to_string(view.dims.size()) + ")");
        for (size_t d = 0; d < shape.size(); ++d) {
            if (!could_be(shape[d], view.dims[d]))
                fail_shape(input, view.dims, " (axis " + std::to_string(d) + " differs)");
            if (!shape[d].is_symbol()) continue;
            const std::string symbol = shape[d].to_string();
            const std::string where = "axis " + std::to_string(d) + " of " + quoted(input.name);
            const auto [it, fresh] = bound.try_emplace(symbol, Binding{view.dims[d], where});
            if (!fresh && it->second.size != view.dims[d])
                fail(ErrorCode::invalid_argument,
                     "dimension " + quoted(symbol) + " is " + std::to_string(it->second.size) + " by " +
                         it->second.where + " but " + std::to_string(view.dims[d]) + " by " + where,
                     "both must have the same size");
            std::vector<std::string> names;
            shape[d].collect_symbols(names);
            for (const std::string& name : names) symbols[name] = view.dims[d];
        }
    }
    // Compound dimensions ("2*S + 1") once every symbol has its size.
    for (size_t i = 0; i < views.size(); ++i) {
        const Value& input = *graph.inputs()[i];
        if (!input.type.shape) continue;
        for (size_t d = 0; d < input.type.shape->size(); ++d) {
            const Dim& dim = (*input.type.shape)[d];
            if (dim.is_constant() || dim.is_symbol()) continue;
            const auto size = dim.substitute(symbols).value();
            if (size && *size != views[i]->dims[d])
                fail_shape(
                    input, views[i]->dims,
                    " (axis " + std::to_string(d) + ": " + dim.to_string() + " = " + std::to_string(*size) + ")");
        }
    }
}

}  // namespace planish::runtime
