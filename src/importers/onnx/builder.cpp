// One walk over the model: names become values, functions are expanded where they are called, subgraphs become graphs
// whose captures are explicit, and every node passes through the adapters of its opset.
#include "importers/onnx/builder.hpp"

#include <fmt/format.h>
#include <onnx/checker.h>
#include <onnx/defs/schema.h>

#include <algorithm>
#include <unordered_map>

#include "importers/onnx/draft.hpp"
#include "importers/onnx/model_index.hpp"
#include "importers/onnx/node_order.hpp"
#include "importers/onnx/tensor_proto.hpp"
#include "planish/error.hpp"

namespace planish::onnx_import {
namespace {

constexpr int kMaxDepth = 200;  // of functions and subgraphs in each other

struct Scope;

// An attribute and the scope in which the names inside it (of a graph) mean something.
struct BoundAttribute {
    const pb::AttributeProto* proto;
    Scope* scope;
};
using BoundAttributes = std::map<std::string, BoundAttribute>;

// Where names are looked up: a graph, or the inside of a function call (which adds to the caller's graph).
struct Scope {
    Graph* graph;
    Scope* outer = nullptr;  // seen through: a subgraph sees its surroundings, a function does not
    const Opsets* opsets = nullptr;
    Ownership ownership = Ownership::copy;       // of tensors in the protos read here
    const BoundAttributes* arguments = nullptr;  // of the function call around, for ref_attr_name
    std::string prefix;                          // of names made here: "call/"
    std::string origin;                          // the user's node that these nodes stand for; "": they are the user's
    int depth = 0;
    std::unordered_map<std::string, Value*> values;             // null: an omitted input of the function
    std::unordered_map<std::string, std::string> output_names;  // of a function: inner name -> the caller's
    std::unordered_map<std::string, const pb::TypeProto*> hints;
};

// The value of a name where it is defined, of this or an outer graph.
Value* const* find_name(const Scope& scope, const std::string& name) {
    for (const Scope* s = &scope; s; s = s->outer)
        if (const auto it = s->values.find(name); it != s->values.end()) return &it->second;
    return nullptr;
}

std::string label(const pb::NodeProto& node) {
    if (!node.name().empty()) return node.name();
    for (const auto& output : node.output())
        if (!output.empty()) return node.op_type() + "(" + output + ")";
    return node.op_type();
}

[[noreturn]] void invalid(
    std::string message,
    std::string hint = "the model breaks ONNX's rules: export it again, or check it with onnx.checker") {
    fail(ErrorCode::invalid_model, std::move(message), std::move(hint));
}

bool same_value(const Attribute& a, const Attribute& b) {
    if (a.index() != b.index()) return false;
    return std::visit(
        [&]<typename T>(const T& x) {
            if constexpr (std::is_same_v<T, Tensor> || std::is_same_v<T, GraphPtr>)
                return false;
            else
                return x == std::get<T>(b);
        },
        a);
}

class Builder {
  public:
    Builder(pb::ModelProto& model, ExternalData& external) : model_(model), external_(external), index_(model) {}

    std::unique_ptr<Graph> build();

  private:
    void import_initializers(const pb::GraphProto& proto, Scope& scope);
    void import_nodes(const google::protobuf::RepeatedPtrField<pb::NodeProto>& nodes, Scope& scope);
    void import_node(const pb::NodeProto& proto, Scope& scope);
    void import_constant(const pb::NodeProto& proto, const BoundAttributes& attributes, Scope& scope);
    void import_call(const pb::NodeProto& proto, const FunctionBody& body, const BoundAttributes& attributes,
                     const std::vector<Value*>& inputs, Scope& scope);
    bool import_operator(const pb::NodeProto& proto, const BoundAttributes& attributes, std::vector<Value*> inputs,
                         Scope& scope);
    void set_outputs(const pb::GraphProto& proto, Scope& scope);

    GraphPtr import_body(const pb::GraphProto& proto, Scope& scope, const Draft& node);
    std::vector<Value*> captures_of(const BoundAttributes& attributes, const Scope& scope, const std::string& node);

    BoundAttributes bind_attributes(const pb::NodeProto& proto, Scope& scope);
    Attribute to_attribute(const BoundAttribute& bound, const Draft& node);
    void fit_attributes(Draft& draft, const OpDef& row);
    int64_t version_of(const pb::NodeProto& proto, const Scope& scope);
    void check_against_schema(const pb::NodeProto& proto, int64_t version);

    Value* resolve(Scope& scope, const std::string& name);
    void bind(Scope& scope, const std::string& name, Value* value);
    std::string wanted_name(const Scope& scope, const std::string& name);
    void apply_hint(Scope& scope, const std::string& name, Value& value);

    pb::ModelProto& model_;
    ExternalData& external_;
    ModelIndex index_;
};

// ---- Names ----

Value* Builder::resolve(Scope& scope, const std::string& name) {
    Value* const* found = find_name(scope, name);
    if (found == nullptr) return nullptr;
    Value* value = *found;
    if (value == nullptr || scope.values.contains(name)) return value;
    // Known outside only: values were captured before the body was entered, so this is a constant of another graph,
    // or a value of this very graph seen from inside a function.
    if (scope.graph->find_value(value->name) == value) return value;
    if (!value->is_constant())
        fail(ErrorCode::unsupported, "'" + name + "' is used inside a subgraph that was passed through a function",
             "inline the function first (onnx.inliner)");
    Value* copy = scope.graph->add_constant(value->name, *value->constant);
    scope.values.emplace(name, copy);
    return copy;
}

void Builder::bind(Scope& scope, const std::string& name, Value* value) {
    if (name.empty()) return;
    if (!scope.values.emplace(name, value).second)
        invalid("two nodes, inputs or initializers are called '" + name + "'",
                "tensor names must be unique: export the model again");
}

std::string Builder::wanted_name(const Scope& scope, const std::string& name) {
    if (name.empty()) return name;
    if (const auto it = scope.output_names.find(name); it != scope.output_names.end()) return it->second;
    return scope.prefix + name;
}

// The model's own statement of a value's type counts where the op's rule cannot tell: the element type and the rank,
// never a size, for what depends on data is stated as it was in the exporter's one example.
void Builder::apply_hint(Scope& scope, const std::string& name, Value& value) {
    const bool has_shape = value.type.shape.has_value() || value.type.kind != Kind::tensor;
    if (value.type.dtype != DType::undefined && has_shape) return;
    const auto it = scope.hints.find(name);
    if (it == scope.hints.end()) return;
    Type hint = to_type(*it->second, name, unknown_dim);
    if (hint.dtype == DType::undefined) return;
    if (hint.shape)
        for (Dim& dim : *hint.shape) dim = Dim::unknown();
    if (value.type.dtype == DType::undefined)
        value.type = std::move(hint);
    else if (hint.kind == value.type.kind && hint.dtype == value.type.dtype)
        value.type.shape = std::move(hint.shape);
}

// ---- Attributes ----

BoundAttributes Builder::bind_attributes(const pb::NodeProto& proto, Scope& scope) {
    BoundAttributes result;
    for (const auto& attribute : proto.attribute()) {
        BoundAttribute bound{&attribute, &scope};
        if (!attribute.ref_attr_name().empty()) {
            if (scope.arguments == nullptr)
                invalid("node '" + label(proto) + "' refers to the function attribute '" + attribute.ref_attr_name() +
                        "' outside a function");
            const auto it = scope.arguments->find(attribute.ref_attr_name());
            if (it == scope.arguments->end()) continue;  // not given to the function: absent here too
            bound = it->second;
        }
        if (!result.emplace(attribute.name(), bound).second)
            invalid("node '" + label(proto) + "' has the attribute '" + attribute.name() + "' twice");
    }
    return result;
}

Attribute Builder::to_attribute(const BoundAttribute& bound, const Draft& node) {
    const pb::AttributeProto& a = *bound.proto;
    switch (a.type()) {
        case pb::AttributeProto::INT:
            return static_cast<int64_t>(a.i());
        case pb::AttributeProto::FLOAT:
            return static_cast<double>(a.f());
        case pb::AttributeProto::STRING:
            return a.s();
        case pb::AttributeProto::INTS:
            return std::vector<int64_t>(a.ints().begin(), a.ints().end());
        case pb::AttributeProto::FLOATS:
            return std::vector<double>(a.floats().begin(), a.floats().end());
        case pb::AttributeProto::STRINGS:
            return std::vector<std::string>(a.strings().begin(), a.strings().end());
        case pb::AttributeProto::TENSOR:
            return to_tensor(a.t(), external_, bound.scope->ownership);
        case pb::AttributeProto::SPARSE_TENSOR:
            return to_tensor(a.sparse_tensor(), external_);
        case pb::AttributeProto::GRAPH:
            return import_body(a.g(), *bound.scope, node);
        default:
            fail(ErrorCode::unsupported,
                 fmt::format("attribute '{}' of node '{}' is of a kind that no operator of this build takes", a.name(),
                             node.name),
                 "export with standard ONNX operators");
    }
}

// Attributes as the row has them: defaults left out, empty lists of the right kind, nothing unknown that matters.
void Builder::fit_attributes(Draft& draft, const OpDef& row) {
    const pb::OpSchema* schema = pb::OpSchemaRegistry::Schema(draft.op, draft.domain);
    for (auto it = draft.attributes.begin(); it != draft.attributes.end();) {
        const auto& [name, value] = *it;
        const AttrDef* def = row.attribute(name);
        if (def == nullptr) {
            bool harmless = false;
            if (schema && schema->attributes().contains(name)) {
                const auto& standard = schema->attributes().at(name);
                harmless = standard.default_value.type() != pb::AttributeProto::UNDEFINED &&
                           same_value(value, to_attribute({&standard.default_value, nullptr}, draft));
            }
            if (!harmless)
                draft.unsupported("has an attribute '" + name + "' that this build does not know",
                                  "export without it, or report the operator and its opset");
            it = draft.attributes.erase(it);
            continue;
        }
        if (type_of(value) != def->type) {
            const auto* whole = std::get_if<int64_t>(&value);
            const auto* ints = std::get_if<std::vector<int64_t>>(&value);
            const auto* reals = std::get_if<std::vector<double>>(&value);
            const auto* texts = std::get_if<std::vector<std::string>>(&value);
            const bool empty = (ints && ints->empty()) || (reals && reals->empty()) || (texts && texts->empty());
            if (def->type == AttrType::real && whole)
                it->second = static_cast<double>(*whole);
            else if (def->type == AttrType::integers && empty)
                it->second = std::vector<int64_t>{};
            else if (def->type == AttrType::reals && empty)
                it->second = std::vector<double>{};
            else if (def->type == AttrType::texts && empty)
                it->second = std::vector<std::string>{};
            else
                draft.invalid("has an attribute '" + name + "' of the wrong type");
        }
        if (def->default_value && same_value(it->second, *def->default_value))
            it = draft.attributes.erase(it);
        else
            ++it;
    }
    for (const AttrDef& def : row.attributes)
        if (def.required && !draft.attributes.contains(def.name))
            draft.invalid("misses its attribute '" + def.name + "'");
}

int64_t Builder::version_of(const pb::NodeProto& proto, const Scope& scope) {
    const std::string domain = normal_domain(proto.domain());
    if (const auto it = scope.opsets->find(domain); it != scope.opsets->end()) return it->second;
    if (domain.empty()) invalid("node '" + label(proto) + "' is an ONNX operator, but no opset of ONNX is imported");
    return 1;  // exporters forget to import contributed domains
}

void Builder::check_against_schema(const pb::NodeProto& proto, int64_t version) {
    const pb::OpSchema* schema = schema_of(proto, version);
    if (schema == nullptr || schema->deprecated()) return;
    try {
        schema->Verify(proto);
    } catch (const std::exception& e) {
        std::string what = e.what();
        std::replace(what.begin(), what.end(), '\n', ' ');
        invalid(fmt::format("node '{}' ({}, opset {}) is not valid: {}", label(proto), proto.op_type(), version, what));
    }
}

// ---- Subgraphs ----

// Every non-constant value of this graph that the node's bodies use, each once.
std::vector<Value*> Builder::captures_of(const BoundAttributes& attributes, const Scope& scope,
                                         const std::string& node) {
    std::vector<Value*> captured;
    for (const auto& [_, bound] : attributes) {
        if (!bound.proto->has_g()) continue;
        for (const std::string& name : free_names(bound.proto->g())) {
            Value* const* found = find_name(*bound.scope, name);
            if (found == nullptr)
                invalid("a subgraph of node '" + node + "' uses '" + name + "', which nothing defines");
            Value* value = *found;
            if (value == nullptr || value->is_constant()) continue;
            if (scope.graph->find_value(value->name) != value)
                fail(ErrorCode::unsupported, "node '" + node + "' has a subgraph that was passed through a function",
                     "inline the function first (onnx.inliner)");
            if (std::find(captured.begin(), captured.end(), value) == captured.end()) captured.push_back(value);
        }
    }
    return captured;
}

// What is known of a body's formal input from the node, where the body itself does not say.
Type formal_type(const Draft& node, int index) {
    Type type;
    auto element_of = [&](size_t input) {
        if (!node.has_input(input)) return;
        type = node.inputs[input]->type;
        type.shape.reset();
    };
    const auto i = static_cast<size_t>(index);
    if (node.op == "Loop") {
        if (i < 2)
            type = {Kind::tensor, i == 0 ? DType::i64 : DType::boolean, Shape{}, Kind::tensor};
        else
            element_of(i);
    } else if (node.op == "Scan" || node.op == "SequenceMap") {
        element_of(i);
        if (node.op == "SequenceMap") type.kind = Kind::tensor;
    }
    return type;
}

GraphPtr Builder::import_body(const pb::GraphProto& proto, Scope& scope, const Draft& node) {
    auto body = std::make_shared<Graph>(proto.name().empty() ? node.name + "/body" : proto.name());
    Scope inner{body.get(), &scope};
    inner.opsets = scope.opsets;
    inner.ownership = scope.ownership;
    inner.arguments = scope.arguments;
    inner.prefix = scope.prefix;
    inner.origin = scope.origin;
    inner.depth = scope.depth + 1;
    if (inner.depth > kMaxDepth)
        invalid("functions and subgraphs are nested more than " + std::to_string(kMaxDepth) + " deep");

    for (int i = 0; i < proto.input_size(); ++i) {
        const auto& input = proto.input(i);
        Type type = to_type(input.type(), input.name(), unknown_dim);
        if (type.dtype == DType::undefined) type = formal_type(node, i);
        bind(inner, input.name(), body->add_input(input.name(), std::move(type)));
    }
    std::unordered_map<const Value*, Value*> inside;
    for (Value* value : node.captured) inside[value] = body->add_input(value->name, value->type);
    for (const std::string& name : free_names(proto))
        if (Value* const* found = find_name(scope, name))
            if (const auto it = inside.find(*found); it != inside.end()) inner.values.emplace(name, it->second);
    import_initializers(proto, inner);
    import_nodes(proto.node(), inner);
    set_outputs(proto, inner);
    return body;
}

// ---- Nodes ----

void Builder::import_initializers(const pb::GraphProto& proto, Scope& scope) {
    for (const auto& tensor : proto.initializer()) {
        if (tensor.name().empty()) invalid("an initializer has no name");
        bind(scope, tensor.name(),
             scope.graph->add_constant(scope.prefix + tensor.name(), to_tensor(tensor, external_, scope.ownership)));
    }
    for (const auto& tensor : proto.sparse_initializer()) {
        const std::string& name = tensor.values().name();
        if (name.empty()) invalid("a sparse initializer has no name");
        bind(scope, name, scope.graph->add_constant(scope.prefix + name, to_tensor(tensor, external_)));
    }
    for (const auto& info : proto.value_info()) scope.hints.emplace(info.name(), &info.type());
    for (const auto& info : proto.output()) scope.hints.emplace(info.name(), &info.type());
}

void Builder::import_nodes(const google::protobuf::RepeatedPtrField<pb::NodeProto>& nodes, Scope& scope) {
    for (const pb::NodeProto* node : in_order(nodes)) import_node(*node, scope);
}

void Builder::import_node(const pb::NodeProto& proto, Scope& scope) {
    std::vector<Value*> inputs;
    for (const auto& name : proto.input()) {
        if (name.empty()) {
            inputs.push_back(nullptr);
            continue;
        }
        if (find_name(scope, name) == nullptr)
            invalid(fmt::format("node '{}' ({}) reads '{}', which no node, input or initializer defines", label(proto),
                                proto.op_type(), name));
        inputs.push_back(resolve(scope, name));
    }
    const BoundAttributes attributes = bind_attributes(proto, scope);

    if (const auto* function = index_.local_function(proto))
        return import_call(proto, {function, nullptr, false}, attributes, inputs, scope);
    const int64_t version = version_of(proto, scope);
    check_against_schema(proto, version);
    if (normal_domain(proto.domain()).empty() && proto.op_type() == "Constant")
        return import_constant(proto, attributes, scope);
    if (import_operator(proto, attributes, inputs, scope)) return;

    pb::NodeProto resolved = proto;  // a body that depends on the node must see the attributes' values
    resolved.clear_attribute();
    for (const auto& [name, bound] : attributes) {
        auto* copy = resolved.add_attribute();
        *copy = *bound.proto;
        copy->set_name(name);
    }
    std::vector<pb::TypeProto> types;
    for (const Value* value : inputs)
        types.push_back(value && value->type.dtype != DType::undefined ? to_proto(value->type) : pb::TypeProto());
    const FunctionBody body = schema_function(resolved, version, types);
    if (body.proto == nullptr)
        fail(ErrorCode::unsupported,
             fmt::format("node '{}' uses the operator {}, which this build cannot run in this form", label(proto),
                         operator_name(normal_domain(proto.domain()), proto.op_type())),
             "export with other ONNX operators, or give it as a model-local function");
    import_call(proto, body, attributes, inputs, scope);
}

void Builder::import_constant(const pb::NodeProto& proto, const BoundAttributes& attributes, Scope& scope) {
    const std::string node = label(proto);
    if (attributes.size() != 1 || proto.output_size() != 1)
        invalid("constant node '" + node + "' does not have exactly one value");
    const auto& [name, bound] = *attributes.begin();
    const pb::AttributeProto& a = *bound.proto;
    const auto floats = [](const auto& list) { return std::vector<float>(list.begin(), list.end()); };
    Tensor tensor;
    if (name == "value" && a.has_t()) {
        tensor = to_tensor(a.t(), external_, bound.scope->ownership);
    } else if (name == "sparse_value" && a.has_sparse_tensor()) {
        tensor = to_tensor(a.sparse_tensor(), external_);
    } else if (name == "value_float") {
        tensor = Tensor::scalar(a.f());
    } else if (name == "value_int") {
        tensor = Tensor::scalar(static_cast<int64_t>(a.i()));
    } else if (name == "value_string") {
        tensor = Tensor::from_strings({a.s()}, {});
    } else if (name == "value_floats") {
        tensor = Tensor::from(std::span<const float>(floats(a.floats())), {a.floats_size()});
    } else if (name == "value_ints") {
        tensor = Tensor::from(std::span<const int64_t>(std::vector<int64_t>(a.ints().begin(), a.ints().end())),
                              {a.ints_size()});
    } else if (name == "value_strings") {
        tensor = Tensor::from_strings({a.strings().begin(), a.strings().end()}, {a.strings_size()});
    } else {
        invalid("constant node '" + node + "' has no value in its attribute '" + name + "'");
    }
    bind(scope, proto.output(0), scope.graph->add_constant(wanted_name(scope, proto.output(0)), std::move(tensor)));
}

// A function's nodes go into the caller's graph; its formal names mean the call's values.
void Builder::import_call(const pb::NodeProto& proto, const FunctionBody& body, const BoundAttributes& attributes,
                          const std::vector<Value*>& inputs, Scope& scope) {
    const pb::FunctionProto& function = *body.proto;
    const std::string node = label(proto);
    if (static_cast<int>(inputs.size()) > function.input_size() || proto.output_size() > function.output_size())
        invalid(fmt::format("node '{}' calls function '{}' with {} inputs and {} outputs; it has {} and {}", node,
                            function.name(), inputs.size(), proto.output_size(), function.input_size(),
                            function.output_size()));
    Opsets opsets = read_opsets(function.opset_import(), "function '" + function.name() + "'");
    opsets.insert(scope.opsets->begin(), scope.opsets->end());

    BoundAttributes arguments;
    for (const auto& fallback : function.attribute_proto())
        arguments.emplace(fallback.name(), BoundAttribute{&fallback, &scope});
    // What an operator's schema gives as default, its function body may ask for.
    if (body.from_schema)
        if (const pb::OpSchema* schema = schema_of(proto, version_of(proto, scope)))
            for (const auto& [name, attribute] : schema->attributes())
                if (attribute.default_value.type() != pb::AttributeProto::UNDEFINED)
                    arguments.insert_or_assign(name, BoundAttribute{&attribute.default_value, &scope});
    for (const auto& [name, bound] : attributes) arguments.insert_or_assign(name, bound);

    Scope inner{scope.graph};
    inner.outer = body.from_schema ? &scope : nullptr;  // SequenceMap's body is part of the function made for it
    inner.opsets = &opsets;
    inner.arguments = &arguments;
    inner.prefix = scope.prefix + node + "/";
    inner.origin = scope.origin.empty() ? node : scope.origin;
    inner.depth = scope.depth + 1;
    if (inner.depth > kMaxDepth)
        invalid("functions and subgraphs are nested more than " + std::to_string(kMaxDepth) + " deep");
    for (int i = 0; i < function.input_size(); ++i)
        bind(inner, function.input(i), i < static_cast<int>(inputs.size()) ? inputs[static_cast<size_t>(i)] : nullptr);
    for (int i = 0; i < proto.output_size(); ++i)
        if (!proto.output(i).empty())
            inner.output_names.emplace(function.output(i), wanted_name(scope, proto.output(i)));
    for (const auto& info : function.value_info()) inner.hints.emplace(info.name(), &info.type());

    import_nodes(function.node(), inner);
    for (int i = 0; i < proto.output_size(); ++i) {
        if (proto.output(i).empty()) continue;
        if (find_name(inner, function.output(i)) == nullptr)
            invalid(fmt::format("function '{}' does not define its output '{}'", function.name(), function.output(i)));
        Value* result = resolve(inner, function.output(i));
        if (result) apply_hint(scope, proto.output(i), *result);
        bind(scope, proto.output(i), result);
    }
}

// False: the operator has no row; nothing was done.
bool Builder::import_operator(const pb::NodeProto& proto, const BoundAttributes& attributes, std::vector<Value*> inputs,
                              Scope& scope) {
    const std::string domain = normal_domain(proto.domain());
    const int64_t version = version_of(proto, scope);
    if (!find_op(proto.op_type(), domain) && !next_adapter(domain, proto.op_type(), version)) return false;

    Draft draft{*scope.graph, domain, proto.op_type(), version, scope.prefix + label(proto), std::move(inputs)};
    for (const auto& output : proto.output()) draft.outputs.push_back(wanted_name(scope, output));
    while (!draft.outputs.empty() && draft.outputs.back().empty()) draft.outputs.pop_back();

    draft.captured = captures_of(attributes, scope, draft.name);
    for (const auto& [name, bound] : attributes) {
        if (name == "consumed_inputs" && domain.empty() && version < 6) continue;  // a memory hint of opset 1
        if (bound.proto->type() == pb::AttributeProto::TYPE_PROTO) {  // of an empty Optional, as its row has it
            const Type type = to_type(bound.proto->tp(), draft.name, unknown_dim);
            draft.attributes["dtype"] = static_cast<int64_t>(type.dtype);
            draft.attributes["element_kind"] = std::string(type.kind == Kind::sequence ? "sequence" : "tensor");
            continue;
        }
        draft.attributes.insert_or_assign(name, to_attribute(bound, draft));
    }
    while (const Adapter* adapter = draft.finished ? nullptr : next_adapter(draft.domain, draft.op, draft.version)) {
        adapter->apply(draft);
        draft.version = adapter->until;
    }
    if (!draft.finished) {
        const OpDef* row = find_op(draft.op, draft.domain);
        if (row == nullptr)
            fail(ErrorCode::unsupported,
                 fmt::format("node '{}' uses the operator {}, which this build cannot run", draft.name,
                             operator_name(draft.domain, draft.op)),
                 "export with other ONNX operators, or give it as a model-local function");
        if (draft.captured.empty()) {
            while (!draft.inputs.empty() && draft.inputs.back() == nullptr) draft.inputs.pop_back();
        } else {
            if (draft.op == "Loop" && draft.inputs.size() < 2) draft.inputs.resize(2, nullptr);
            draft.attributes["captures"] = static_cast<int64_t>(draft.captured.size());
            draft.inputs.insert(draft.inputs.end(), draft.captured.begin(), draft.captured.end());
        }
        if (draft.domain.empty()) draft.require_inputs(draft.op, draft.inputs);
        fit_attributes(draft, *row);
        const int count = std::max(static_cast<int>(draft.outputs.size()), row->min_outputs);
        if (row->max_outputs >= 0 && count > row->max_outputs)
            draft.invalid(fmt::format("has {} outputs, at most {} are allowed", count, row->max_outputs));
        Node* node = scope.graph->add_node(draft.op, std::move(draft.inputs), std::move(draft.attributes), count,
                                           draft.name, nullptr, draft.domain, draft.outputs);
        if (!scope.origin.empty()) node->origins = {scope.origin};
        draft.results.assign(node->outputs().begin(), node->outputs().end());
    }
    for (int i = 0; i < proto.output_size(); ++i) {
        const auto place = static_cast<size_t>(i);
        if (proto.output(i).empty() || place >= draft.results.size() || !draft.results[place]) continue;
        apply_hint(scope, proto.output(i), *draft.results[place]);
        bind(scope, proto.output(i), draft.results[place]);
    }
    return true;
}

// ---- The whole ----

// An output's value carries the output's name, and each output is a value of its own.
void Builder::set_outputs(const pb::GraphProto& proto, Scope& scope) {
    Graph& graph = *scope.graph;
    for (const auto& output : proto.output()) {
        const std::string& name = output.name();
        if (find_name(scope, name) == nullptr)
            invalid(fmt::format("output '{}' of graph '{}' is not made by any node", name, graph.name));
        Value* value = resolve(scope, name);
        if (value == nullptr)
            invalid(fmt::format("output '{}' of graph '{}' is an omitted input of a function", name, graph.name));
        const std::string wanted = scope.depth == 0 ? name : wanted_name(scope, name);
        if (value->name != wanted || graph.is_output(value)) {
            if (Value* other = graph.find_value(wanted); other && other != value && !graph.is_output(other))
                graph.rename(other, graph.unique_name(wanted + "_inner"));
            value = graph.add_node("Identity", {value}, {}, 1, "output_" + wanted, nullptr, "", {wanted})->output();
        }
        graph.add_output(value);
    }
}

std::unique_ptr<Graph> Builder::build() {
    const pb::GraphProto& proto = model_.graph();
    const Opsets opsets = read_opsets(model_.opset_import(), "the model");
    index_.require_bounded_size();
    index_.require_known_operators();

    auto graph = std::make_unique<Graph>(proto.name().empty() ? "model" : proto.name());
    Scope scope{graph.get()};
    scope.opsets = &opsets;
    scope.ownership = Ownership::take;

    // An initializer that is listed as an input too is a default that the caller might replace; it stays a constant.
    std::unordered_map<std::string, bool> is_initializer;
    for (const auto& tensor : proto.initializer()) is_initializer[tensor.name()] = true;
    for (const auto& tensor : proto.sparse_initializer()) is_initializer[tensor.values().name()] = true;
    for (const auto& input : proto.input()) {
        if (is_initializer.contains(input.name())) continue;
        if (input.name().empty()) invalid("an input has no name");
        Type type = to_type(input.type(), input.name(), named_dim);
        if (type.dtype == DType::undefined) invalid("input '" + input.name() + "' has no element type");
        bind(scope, input.name(), graph->add_input(input.name(), std::move(type)));
    }
    if (proto.output_size() == 0) invalid("the model has no outputs", "name what it should compute when exporting");
    import_initializers(proto, scope);
    import_nodes(proto.node(), scope);
    set_outputs(proto, scope);

    auto note = [&](const char* key, const std::string& value) {
        if (!value.empty() && value != "0") graph->metadata.emplace_back(key, value);
    };
    note("onnx.producer_name", model_.producer_name());
    note("onnx.producer_version", model_.producer_version());
    note("onnx.domain", model_.domain());
    note("onnx.model_version", std::to_string(model_.model_version()));
    note("onnx.doc_string", model_.doc_string());
    note("onnx.ir_version", std::to_string(model_.ir_version()));
    for (const auto& [domain, version] : opsets)
        note(("onnx.opset" + (domain.empty() ? "" : "." + domain)).c_str(), std::to_string(version));
    for (const auto& entry : model_.metadata_props()) graph->metadata.emplace_back(entry.key(), entry.value());
    return graph;
}

}  // namespace

std::unique_ptr<Graph> build_graph(pb::ModelProto& model, ExternalData& external) {
    return Builder(model, external).build();
}

}  // namespace planish::onnx_import
