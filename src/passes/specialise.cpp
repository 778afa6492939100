// Specialise: the symbolic graph for one set of input shapes.
#include "passes/pass.hpp"
#include "planish/error.hpp"

namespace planish::passes {
namespace {

/// Symbols that a declared shape and the given one settle. Fails naming the input where they contradict.
void bind_symbols(const Value& input, const Dims& dims, SymbolTable& symbols) {
    if (!input.type.shape) return;
    const Shape& declared = *input.type.shape;
    const auto mismatch = [&] {
        fail(ErrorCode::invalid_argument,
             "input '" + input.name + "' has shape " + to_string(dims) + " where the model declares " +
                 to_string(declared),
             "give it the declared number of axes and sizes; equal names mean equal sizes");
    };
    if (declared.size() != dims.size()) mismatch();
    for (size_t i = 0; i < dims.size(); ++i) {
        if (const auto number = declared[i].value()) {
            if (*number != dims[i]) mismatch();
        } else if (declared[i].is_symbol()) {
            std::vector<std::string> name;
            declared[i].collect_symbols(name);
            const auto [it, inserted] = symbols.emplace(name.front(), dims[i]);
            if (!inserted && it->second != dims[i]) mismatch();
        }
    }
}

}  // namespace

std::unique_ptr<Graph> specialise(const Graph& graph, const std::vector<Dims>& shapes) {
    if (shapes.size() != graph.inputs().size())
        fail(ErrorCode::invalid_argument, std::to_string(shapes.size()) + " input shapes are given for " +
                                              std::to_string(graph.inputs().size()) + " inputs");
    std::unique_ptr<Graph> bound = graph.clone();
    SymbolTable symbols;
    for (size_t i = 0; i < shapes.size(); ++i) bind_symbols(*graph.inputs()[i], shapes[i], symbols);
    for (size_t i = 0; i < shapes.size(); ++i) bound->inputs()[i]->type.shape = to_shape(shapes[i]);
    // What the model says of shapes that the rules cannot tell is kept, with its symbols bound.
    for (const auto& node : bound->nodes())
        for (Value* output : node->outputs())
            if (output != nullptr && output->type.shape)
                for (Dim& d : *output->type.shape) d = d.substitute(symbols);
    PassOptions options;
    options.check_after_each = false;  // the pipeline is checked where it is built and tested; this runs at load
    run(*bound, specialise_pipeline(), options);
    return bound;
}

}  // namespace planish::passes
