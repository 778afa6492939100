// Type rules of control flow, sequences, optionals and regions. A body is inferred with its inputs typed as the node's.
#include <algorithm>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish::infer {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

/// Types one input of a body. What shape arithmetic knows of the outer value holds inside too.
void bind(Graph& body, int64_t index, const Type& type, const Value* outer = nullptr) {
    Value* inner = body.inputs()[at(index)];
    inner->type = type;
    inner->symbolic = std::nullopt;
    if (outer == nullptr) return;
    inner->symbolic = outer->symbolic;
    if (outer->constant && outer->constant->dtype() == DType::i64 && outer->constant->size() <= 64)
        inner->symbolic = to_shape(outer->constant->to_int64s());
}

void require_inputs(const InferContext& c, const Graph& body, int64_t count) {
    if (static_cast<int64_t>(body.inputs().size()) != count)
        c.error("has a body of " + std::to_string(body.inputs().size()) + " inputs where " + std::to_string(count) +
                " are given");
}

/// The widest claim that holds for both types.
Type merged(const Type& a, const Type& b) {
    Type result = a;
    if (a.dtype == DType::undefined) result.dtype = b.dtype;
    if (!a.shape || !b.shape || a.shape->size() != b.shape->size()) {
        result.shape.reset();
        return result;
    }
    for (size_t i = 0; i < a.shape->size(); ++i)
        if (!((*a.shape)[i] == (*b.shape)[i])) (*result.shape)[i] = Dim::unknown();
    return result;
}

Type element_of(const Type& sequence) {
    return {Kind::tensor, sequence.dtype, sequence.shape, Kind::tensor};
}
Type sequence_of(const Type& element) {
    return {Kind::sequence, element.dtype, element.shape, Kind::tensor};
}

int64_t captures_of(const InferContext& c) {
    const int64_t captures = c.integer("captures");
    if (captures < 0 || captures > c.input_count())
        c.error("has " + std::to_string(captures) + " captures among " + std::to_string(c.input_count()) + " inputs");
    return captures;
}

void bind_captures(InferContext& c, Graph& body) {
    const int64_t captures = captures_of(c);
    const auto inputs = static_cast<int64_t>(body.inputs().size());
    if (captures > inputs) c.error("has more captures than its body has inputs");
    for (int64_t i = 0; i < captures; ++i) {
        const int outer = static_cast<int>(c.input_count() - captures + i);
        bind(body, inputs - captures + i, c.input(outer), c.node().input(outer));
    }
}

}  // namespace

void region(InferContext& c) {
    Graph& body = *c.node().subgraph("body");
    require_inputs(c, body, c.input_count());
    if (body.nodes().empty()) c.error("has a body without nodes");
    if (body.outputs().size() != c.outputs.size())
        c.error("has a body of " + std::to_string(body.outputs().size()) + " outputs, needs " +
                std::to_string(c.outputs.size()));
    for (int i = 0; i < c.input_count(); ++i) bind(body, i, c.input(i), c.node().input(i));
    body.infer();
    for (size_t i = 0; i < body.outputs().size(); ++i) {
        const Value& out = *body.outputs()[i];
        c.set_output(static_cast<int>(i), out.type);
        if (out.symbolic) c.set_symbolic(static_cast<int>(i), *out.symbolic);
    }
}

void if_(InferContext& c) {
    const GraphPtr branches[2] = {c.node().subgraph("then_branch"), c.node().subgraph("else_branch")};
    for (const GraphPtr& branch : branches) {
        require_inputs(c, *branch, captures_of(c));
        if (branch->outputs().size() != c.outputs.size())
            c.error("has a branch of " + std::to_string(branch->outputs().size()) + " outputs, needs " +
                    std::to_string(c.outputs.size()));
        bind_captures(c, *branch);
        branch->infer();
    }
    for (size_t i = 0; i < c.outputs.size(); ++i) {
        const Type &a = branches[0]->outputs()[i]->type, &b = branches[1]->outputs()[i]->type;
        if (a.kind != b.kind) c.error("gives different kinds of values in its branches");
        c.set_output(static_cast<int>(i), merged(a, b));
    }
}

// Body: (iteration, condition, carried..., captures...) -> (condition, carried..., scanned...).
void loop(InferContext& c) {
    Graph& body = *c.node().subgraph("body");
    const int64_t captures = captures_of(c);
    const int64_t carried = c.input_count() - captures - 2;
    require_inputs(c, body, 2 + carried + captures);
    const auto scanned = static_cast<int64_t>(body.outputs().size()) - 1 - carried;
    if (carried < 0 || scanned < 0) c.error("has a body of too few inputs or outputs");
    bind(body, 0, {Kind::tensor, DType::i64, Shape{}});
    bind(body, 1, {Kind::tensor, DType::boolean, Shape{}});
    bind_captures(c, body);
    // A carried value's shape may change from one iteration to the next: it is kept only if the body keeps it.
    std::vector<Type> types;
    for (int64_t i = 0; i < carried; ++i) types.push_back(c.input(static_cast<int>(2 + i)));
    for (bool stable = false; !stable;) {
        for (int64_t i = 0; i < carried; ++i) bind(body, 2 + i, types[at(i)]);
        body.infer();
        stable = true;
        for (int64_t i = 0; i < carried; ++i) {
            const Type& produced = body.outputs()[at(1 + i)]->type;
            Type& type = types[at(i)];
            if (type.dtype == DType::undefined && produced.dtype != DType::undefined) {
                type.dtype = produced.dtype;
                stable = false;
            }
            if (type.shape && produced.shape != type.shape) {
                // Sizes that differ become unknown; an unknown that comes back as another unknown is settled.
                bool changed = !produced.shape || produced.shape->size() != type.shape->size();
                if (changed) {
                    type.shape.reset();
                } else {
                    for (size_t k = 0; k < type.shape->size(); ++k) {
                        Dim& d = (*type.shape)[k];
                        if (d == (*produced.shape)[k] || d.contains_unknown()) continue;
                        d = Dim::unknown();
                        changed = true;
                    }
                }
                stable = stable && !changed;
            }
        }
    }
    for (int64_t i = 0; i < carried; ++i) c.set_output(static_cast<int>(i), types[at(i)]);
    for (int64_t i = 0; i < scanned; ++i) {
        Type type = body.outputs()[at(1 + carried + i)]->type;
        if (type.shape) type.shape->insert(type.shape->begin(), Dim::unknown());
        c.set_output(static_cast<int>(carried + i), type);
    }
}

// Body: (state..., one slice of each scanned input..., captures...) -> (state..., one slice of each scanned output...).
void scan(InferContext& c) {
    Graph& body = *c.node().subgraph("body");
    const int64_t captures = captures_of(c);
    const int64_t scanned = c.integer("num_scan_inputs");
    if (scanned < 1 || scanned > c.input_count() - captures)
        c.error("scans " + std::to_string(scanned) + " of " + std::to_string(c.input_count() - captures) + " inputs");
    const int64_t states = c.input_count() - captures - scanned;
    require_inputs(c, body, states + scanned + captures);
    const auto results = static_cast<int64_t>(body.outputs().size()) - states;
    if (states < 0 || results < 0) c.error("has a body of too few inputs or outputs");
    Dim length = Dim::unknown();
    for (int64_t i = 0; i < states; ++i) bind(body, i, c.input(static_cast<int>(i)));
    for (int64_t i = 0; i < scanned; ++i) {
        Type type = c.input(static_cast<int>(states + i));
        if (type.shape) {
            const std::vector<int64_t>& axes = c.integers("scan_input_axes");
            const int64_t given = i < static_cast<int64_t>(axes.size()) ? axes[at(i)] : 0;
            const int64_t axis = given < 0 ? given + static_cast<int64_t>(type.shape->size()) : given;
            if (axis < 0 || axis >= static_cast<int64_t>(type.shape->size()))
                c.error("scans an axis that does not exist");
            length = (*type.shape)[at(axis)];
            type.shape->erase(type.shape->begin() + axis);
        }
        bind(body, states + i, type);
    }
    bind_captures(c, body);
    body.infer();
    for (int64_t i = 0; i < states; ++i)
        c.set_output(static_cast<int>(i), merged(c.input(static_cast<int>(i)), body.outputs()[at(i)]->type));
    for (int64_t i = 0; i < results; ++i) {
        Type type = body.outputs()[at(states + i)]->type;
        if (type.shape) {
            const std::vector<int64_t>& axes = c.integers("scan_output_axes");
            const int64_t given = i < static_cast<int64_t>(axes.size()) ? axes[at(i)] : 0;
            const int64_t axis = given < 0 ? given + static_cast<int64_t>(type.shape->size()) + 1 : given;
            if (axis < 0 || axis > static_cast<int64_t>(type.shape->size()))
                c.error("stacks on an axis that does not exist");
            type.shape->insert(type.shape->begin() + axis, length);
        }
        c.set_output(static_cast<int>(states + i), type);
    }
}

// Body: (elements of the first sequence and of each further sequence, or the further tensors, captures...) -> elements.
void sequence_map(InferContext& c) {
    Graph& body = *c.node().subgraph("body");
    require_inputs(c, body, c.input_count());
    const int64_t captures = captures_of(c);
    if (c.input(0).kind != Kind::sequence) c.error("needs a sequence");
    for (int i = 0; i < c.input_count(); ++i) {
        const Type& type = c.input(i);
        const bool captured = i >= c.input_count() - captures;
        bind(body, i, !captured && type.kind == Kind::sequence ? element_of(type) : type);
    }
    body.infer();
    for (size_t i = 0; i < body.outputs().size(); ++i)
        c.set_output(static_cast<int>(i), sequence_of(body.outputs()[i]->type));
}

// ---- Sequences: the element's shape is kept while every element has it ----

void sequence_construct(InferContext& c) {
    Type type = c.input(0);
    for (int i = 1; i < c.input_count(); ++i) type = merged(type, c.input(i));
    c.set_output(0, sequence_of(type));
}

void sequence_empty(InferContext& c) {
    c.set_output(0, {Kind::sequence, static_cast<DType>(c.integer("dtype")), std::nullopt, Kind::tensor});
}

void sequence_at(InferContext& c) {
    c.set_output(0, element_of(c.input(0)));
}

void sequence_insert(InferContext& c) {
    c.set_output(0, sequence_of(merged(c.input(0), c.input(1))));
}

void sequence_erase(InferContext& c) {
    c.set_output(0, c.input(0));
}

void sequence_length(InferContext& c) {
    c.set_output(0, DType::i64, Shape{});
}

void split_to_sequence(InferContext& c) {
    Type type = c.input(0);
    if (type.shape) {
        const int64_t axis = c.axis("axis", static_cast<int64_t>(type.shape->size()));
        const bool dropped = !c.has_input(1) && c.integer("keepdims") == 0;
        if (dropped)
            type.shape->erase(type.shape->begin() + axis);
        else
            (*type.shape)[at(axis)] = c.has_input(1) ? Dim::unknown() : Dim(1);
    }
    c.set_output(0, sequence_of(type));
}

void concat_from_sequence(InferContext& c) {
    Type type = element_of(c.input(0));
    if (type.shape) {
        const bool stacks = c.integer("new_axis") != 0;
        const int64_t axis = c.axis("axis", static_cast<int64_t>(type.shape->size()) + (stacks ? 1 : 0));
        if (stacks)
            type.shape->insert(type.shape->begin() + axis, Dim::unknown());
        else
            (*type.shape)[at(axis)] = Dim::unknown();
    }
    c.set_output(0, type);
}

// ---- Optionals ----

void optional(InferContext& c) {
    if (c.has_input(0)) {
        Type type = c.input(0);
        if (type.kind == Kind::optional) return c.set_output(0, type);
        type.element_kind = type.kind;
        type.kind = Kind::optional;
        return c.set_output(0, type);
    }
    c.set_output(0, {Kind::optional, static_cast<DType>(c.integer("dtype")), std::nullopt,
                     c.text("element_kind") == "sequence" ? Kind::sequence : Kind::tensor});
}

void optional_get_element(InferContext& c) {
    Type type = c.input(0);
    if (type.kind == Kind::optional) {
        type.kind = type.element_kind;
        type.element_kind = Kind::tensor;
    }
    c.set_output(0, type);
}

void optional_has_element(InferContext& c) {
    c.set_output(0, DType::boolean, Shape{});
}

}  // namespace planish::infer
