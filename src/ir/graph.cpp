// Graph: ownership, wiring and order. Type rules are called here and written elsewhere (infer_*.cpp).
#include "ir/graph.hpp"

#include <algorithm>
#include <unordered_map>

#include "planish/error.hpp"

namespace planish {

Dims Value::dims() const {
    if (type.shape)
        if (auto result = static_dims(*type.shape)) return *result;
    fail(ErrorCode::internal, "value '" + name + "' of type " + to_string(type) + " has no static shape");
}

// ---- Node ----

const Attribute* Node::find(std::string_view attribute) const {
    if (const auto it = attributes.find(attribute); it != attributes.end()) return &it->second;
    const AttrDef* def = op_->attribute(attribute);
    if (def == nullptr)
        fail(ErrorCode::internal,
             "op " + std::string(op_->name) + " has no attribute '" + std::string(attribute) + "'");
    return def->default_value ? &*def->default_value : nullptr;
}

namespace {
template <typename T>
const T& get_attribute(const Node& node, std::string_view name) {
    static const T kEmpty{};
    const Attribute* a = node.find(name);
    if (a == nullptr) return kEmpty;
    if (const T* value = std::get_if<T>(a)) return *value;
    fail(ErrorCode::invalid_model,
         "attribute '" + std::string(name) + "' of node '" + node.name + "' has the wrong type");
}
}  // namespace

int64_t Node::integer(std::string_view a) const {
    return get_attribute<int64_t>(*this, a);
}
double Node::real(std::string_view a) const {
    return get_attribute<double>(*this, a);
}
const std::string& Node::text(std::string_view a) const {
    return get_attribute<std::string>(*this, a);
}
const std::vector<int64_t>& Node::integers(std::string_view a) const {
    return get_attribute<std::vector<int64_t>>(*this, a);
}
const std::vector<double>& Node::reals(std::string_view a) const {
    return get_attribute<std::vector<double>>(*this, a);
}
const Tensor& Node::tensor(std::string_view a) const {
    return get_attribute<Tensor>(*this, a);
}
const GraphPtr& Node::subgraph(std::string_view a) const {
    return get_attribute<GraphPtr>(*this, a);
}

// ---- Graph ----

struct Graph::Impl {
    std::unordered_map<std::string, std::unique_ptr<Value>> values;
    std::vector<Value*> constants;
    std::unordered_map<std::string, int> name_counters;
};

Graph::Graph(std::string graph_name) : name(std::move(graph_name)), impl_(std::make_unique<Impl>()) {}
Graph::~Graph() = default;

std::string Graph::unique_name(std::string_view hint) {
    std::string base(hint.empty() ? "value" : hint);
    if (!impl_->values.contains(base)) return base;
    int& counter = impl_->name_counters[base];
    std::string candidate;
    do candidate = base + "_" + std::to_string(++counter);
    while (impl_->values.contains(candidate));
    return candidate;
}

Value* Graph::find_value(std::string_view value_name) const {
    const auto it = impl_->values.find(std::string(value_name));
    return it == impl_->values.end() ? nullptr : it->second.get();
}

namespace {
template <typename Map>
Value* insert_value(Map& values, std::string name) {
    auto value = std::make_unique<Value>();
    value->name = name;
    Value* raw = value.get();
    values.emplace(std::move(name), std::move(value));
    return raw;
}

void drop_use(Value* value, const Node* node, int index) {
    if (value == nullptr) return;
    const auto it = std::find_if(value->uses.begin(), value->uses.end(),
                                 [&](const Use& u) { return u.node == node && u.index == index; });
    if (it != value->uses.end()) value->uses.erase(it);
}
}  // namespace

Value* Graph::add_input(std::string input_name, Type type) {
    Value* value = insert_value(impl_->values, unique_name(input_name));
    value->type = std::move(type);
    inputs_.push_back(value);
    return value;
}

Value* Graph::add_constant(std::string constant_name, Tensor tensor) {
    Value* value = insert_value(impl_->values, unique_name(constant_name.empty() ? "constant" : constant_name));
    value->type = {Kind::tensor, tensor.dtype(), to_shape(tensor.dims()), Kind::tensor};
    value->constant = std::make_shared<const Tensor>(std::move(tensor));
    impl_->constants.push_back(value);
    return value;
}

void Graph::add_output(Value* value) {
    outputs_.push_back(value);
}
void Graph::set_output(int index, Value* value) {
    outputs_[static_cast<size_t>(index)] = value;
}

bool Graph::is_output(const Value* value) const {
    return std::find(outputs_.begin(), outputs_.end(), value) != outputs_.end();
}

Node* Graph::add_node(std::string_view op, std::vector<Value*> inputs, Attributes attributes, int outputs,
                      std::string node_name, Node* before, std::string_view domain,
                      std::vector<std::string> output_names) {
    const OpDef* def = find_op(op, domain);
    if (def == nullptr)
        fail(ErrorCode::unsupported, "unknown operator '" + std::string(domain) + (domain.empty() ? "" : ".") +
                                         std::string(op) + "'" +
                                         (node_name.empty() ? "" : " of node '" + node_name + "'"));
    auto owned = std::make_unique<Node>();
    Node* node = owned.get();
    node->op_ = def;
    node->graph_ = this;
    node->attributes = std::move(attributes);
    node->position_ = nodes_.insert(before ? before->position_ : nodes_.end(), std::move(owned));
    for (int i = 0; i < outputs; ++i) {
        const bool named = i < static_cast<int>(output_names.size()) && !output_names[static_cast<size_t>(i)].empty();
        const std::string hint = named               ? output_names[static_cast<size_t>(i)]
                                 : node_name.empty() ? std::string(op) + "_out"
                                                     : node_name + (i ? "_out" + std::to_string(i) : "_out");
        Value* value = insert_value(impl_->values, unique_name(hint));
        value->producer = node;
        value->output_index = i;
        node->outputs_.push_back(value);
    }
    node->name = !node_name.empty()       ? std::move(node_name)
                 : node->outputs_.empty() ? std::string(op)
                                          : std::string(op) + "(" + node->outputs_[0]->name + ")";
    set_inputs(node, std::move(inputs));
    try {
        infer(node);
    } catch (...) {
        erase(node);
        throw;
    }
    return node;
}

void Graph::set_input(Node* node, int index, Value* value) {
    const auto i = static_cast<size_t>(index);
    if (i >= node->inputs_.size()) node->inputs_.resize(i + 1, nullptr);
    if (node->inputs_[i] == value) return;
    drop_use(node->inputs_[i], node, index);
    node->inputs_[i] = value;
    if (value != nullptr) value->uses.push_back({node, index});
}

void Graph::set_inputs(Node* node, std::vector<Value*> inputs) {
    for (size_t i = 0; i < node->inputs_.size(); ++i) drop_use(node->inputs_[i], node, static_cast<int>(i));
    node->inputs_ = std::move(inputs);
    for (size_t i = 0; i < node->inputs_.size(); ++i)
        if (node->inputs_[i] != nullptr) node->inputs_[i]->uses.push_back({node, static_cast<int>(i)});
}

void Graph::replace_all_uses(Value* from, Value* to) {
    if (from == to) return;
    const std::vector<Use> uses = from->uses;
    for (const Use& use : uses) set_input(use.node, use.index, to);
    if (!is_output(from)) return;
    for (Value*& output : outputs_)
        if (output == from) output = to;
    // An output's name is part of the model's interface: it moves to the value that now is the output, unless that
    // one is itself a named part of the interface (an input, or another output).
    const bool to_is_fixed = to->producer == nullptr || std::count(outputs_.begin(), outputs_.end(), to) > 1;
    if (to_is_fixed) {
        Node* copy = add_node("Identity", {to}, {}, 1, "output_" + from->name);
        for (Value*& output : outputs_) {
            if (output == to) {
                output = copy->output();
                break;
            }
        }
        to = copy->output();
    }
    const std::string public_name = from->name;
    rename(from, unique_name(public_name + "_replaced"));
    rename(to, public_name);
}

void Graph::rename(Value* value, std::string new_name) {
    if (value->name == new_name) return;
    if (impl_->values.contains(new_name)) fail(ErrorCode::internal, "value name '" + new_name + "' is taken");
    auto handle = impl_->values.extract(value->name);
    handle.key() = new_name;
    value->name = std::move(new_name);
    impl_->values.insert(std::move(handle));
}

void Graph::erase(Node* node) {
    for (Value* output : node->outputs_)
        if (output != nullptr && (!output->uses.empty() || is_output(output)))
            fail(ErrorCode::internal,
                 "node '" + node->name + "' is erased while its output '" + output->name + "' is used");
    set_inputs(node, {});
    for (Value* output : node->outputs_)
        if (output != nullptr) impl_->values.erase(std::string(output->name));
    nodes_.erase(node->position_);
}

void Graph::erase_constant(Value* value) {
    if (!value->uses.empty() || is_output(value))
        fail(ErrorCode::internal, "constant '" + value->name + "' is erased while it is used");
    std::erase(impl_->constants, value);
    impl_->values.erase(std::string(value->name));
}

void Graph::remove_input(Value* value) {
    if (!value->uses.empty() || is_output(value))
        fail(ErrorCode::internal, "input '" + value->name + "' is removed while it is used");
    std::erase(inputs_, value);
    impl_->values.erase(std::string(value->name));
}

void Graph::move_before(Node* node, Node* before) {
    nodes_.splice(before ? before->position_ : nodes_.end(), nodes_, node->position_);
}

std::vector<Node*> Graph::node_list() const {
    std::vector<Node*> list;
    list.reserve(nodes_.size());
    for (const auto& node : nodes_) list.push_back(node.get());
    return list;
}

std::vector<Value*> Graph::values() const {
    std::vector<Value*> list = inputs_;
    list.insert(list.end(), impl_->constants.begin(), impl_->constants.end());
    for (const auto& node : nodes_)
        for (Value* output : node->outputs())
            if (output != nullptr) list.push_back(output);
    return list;
}

std::unique_ptr<Graph> Graph::clone() const {
    auto copy = std::make_unique<Graph>(name);
    copy->metadata = metadata;
    std::unordered_map<const Value*, Value*> map;
    auto copy_value = [&](const Value* value) {
        Value* made = insert_value(copy->impl_->values, value->name);
        made->type = value->type;
        made->symbolic = value->symbolic;
        made->constant = value->constant;
        made->output_index = value->output_index;
        map[value] = made;
        return made;
    };
    for (const Value* input : inputs_) copy->inputs_.push_back(copy_value(input));
    for (const Value* constant : impl_->constants)
        if (!constant->uses.empty() || is_output(constant)) copy->impl_->constants.push_back(copy_value(constant));
    for (const auto& node : nodes_) {
        auto owned = std::make_unique<Node>();
        Node* made = owned.get();
        made->op_ = node->op_;
        made->graph_ = copy.get();
        made->name = node->name;
        made->origins = node->origins;
        made->attributes = node->attributes;
        for (auto& [key, attribute] : made->attributes)
            if (GraphPtr* body = std::get_if<GraphPtr>(&attribute)) *body = (*body)->clone();
        made->position_ = copy->nodes_.insert(copy->nodes_.end(), std::move(owned));
        for (const Value* output : node->outputs_) {
            Value* value = output ? copy_value(output) : nullptr;
            if (value) value->producer = made;
            made->outputs_.push_back(value);
        }
        std::vector<Value*> inputs;
        for (const Value* input : node->inputs_) inputs.push_back(input ? map.at(input) : nullptr);
        copy->set_inputs(made, std::move(inputs));
    }
    for (const Value* output : outputs_) copy->outputs_.push_back(map.at(output));
    return copy;
}

void Graph::infer(Node* node) {
    InferContext context(*node);
    const OpDef& op = node->op();
    const int given = node->input_count();
    if (given < op.min_inputs || (op.max_inputs >= 0 && given > op.max_inputs && !has(op.traits, Trait::body_captures)))
        context.error("has " + std::to_string(given) + " inputs, " + std::string(op.name) + " takes " +
                      std::to_string(op.min_inputs) +
                      (op.max_inputs < 0 ? " or more" : " to " + std::to_string(op.max_inputs)));
    // Rules rely on what the row promises.
    for (const AttrDef& def : op.attributes) {
        const auto it = node->attributes.find(def.name);
        if (it == node->attributes.end() ? def.required : type_of(it->second) != def.type)
            context.error((def.required ? "needs an attribute '" : "has a wrong type of attribute '") + def.name + "'");
        const GraphPtr* body = it == node->attributes.end() ? nullptr : std::get_if<GraphPtr>(&it->second);
        if (body != nullptr && *body == nullptr) context.error("has an empty body '" + def.name + "'");
    }
    if (op.infer == nullptr) return;
    op.infer(context);
    for (size_t i = 0; i < node->outputs_.size(); ++i) {
        Value* output = node->outputs_[i];
        if (output == nullptr) continue;
        Type& inferred = context.outputs[i];
        // A rule that cannot tell keeps what was known before (a hint from the model).
        if (inferred.dtype == DType::undefined) inferred.dtype = output->type.dtype;
        if (!inferred.shape && output->type.shape && inferred.kind == output->type.kind)
            inferred.shape = output->type.shape;
        output->type = std::move(inferred);
        output->symbolic = std::move(context.output_symbolic[i]);
    }
}

void Graph::infer() {
    for (const auto& node : nodes_) infer(node.get());
}

void Graph::sort() {
    // Depth-first over producers, in the present order: a node comes after what it reads and otherwise keeps its place.
    enum class Mark : uint8_t { unseen, open, done };
    std::unordered_map<const Node*, Mark> marks;
    std::vector<Node*> order;
    order.reserve(nodes_.size());
    std::vector<std::pair<Node*, size_t>> stack;  // node and its next input to look at
    for (const auto& seed : nodes_) {
        if (marks[seed.get()] == Mark::done) continue;
        stack.emplace_back(seed.get(), 0);
        marks[seed.get()] = Mark::open;
        while (!stack.empty()) {
            auto& [node, next] = stack.back();
            if (next == node->inputs_.size()) {
                marks[node] = Mark::done;
                order.push_back(node);
                stack.pop_back();
                continue;
            }
            const Value* input = node->inputs_[next++];
            Node* producer = input ? input->producer : nullptr;
            if (producer == nullptr) continue;
            Mark& mark = marks[producer];
            if (mark == Mark::open)
                fail(ErrorCode::internal, "graph '" + name + "' has a cycle through '" + producer->name + "'");
            if (mark == Mark::unseen) {
                mark = Mark::open;
                stack.emplace_back(producer, 0);
            }
        }
    }
    for (Node* node : order) nodes_.splice(nodes_.end(), nodes_, node->position_);
}

}  // namespace planish
