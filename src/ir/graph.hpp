// Graph: nodes in topological order over single-assignment values. The one data structure between all stages.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ir/op.hpp"

namespace planish {

class Graph;

struct Use {
    Node* node;
    int index;  // which of the node's inputs
    friend bool operator==(const Use&, const Use&) = default;
};

/// One value of the graph: an input, a constant, or a node's output. Owned by its Graph; address is stable.
struct Value {
    std::string name;  // unique within the graph; the user's tensor name where there is one
    Type type;
    Node* producer = nullptr;  // null: graph input or constant
    int output_index = 0;      // of the producer
    std::vector<Use> uses;
    std::shared_ptr<const Tensor> constant;    // set: an initializer
    std::optional<std::vector<Dim>> symbolic;  // known values of a small integer tensor (shape arithmetic)

    bool is_constant() const { return constant != nullptr; }
    bool has_static_shape() const { return type.shape && static_dims(*type.shape).has_value(); }
    Dims dims() const;  ///< static shape; throws internal when it is not static
};

/// One operation. Inputs may be null (omitted optional input). Owned by its Graph; address is stable.
class Node {
  public:
    const OpDef& op() const { return *op_; }
    bool is(std::string_view name, std::string_view domain = "") const {
        return op_->name == name && op_->domain == domain;
    }
    std::span<Value* const> inputs() const { return inputs_; }
    std::span<Value* const> outputs() const { return outputs_; }
    int input_count() const { return static_cast<int>(inputs_.size()); }
    Value* input(int i) const { return i < input_count() ? inputs_[static_cast<size_t>(i)] : nullptr; }
    Value* output(int i = 0) const {
        return i < static_cast<int>(outputs_.size()) ? outputs_[static_cast<size_t>(i)] : nullptr;
    }
    Graph& graph() const { return *graph_; }

    std::string name;                  // the user's node name, or made from the op and its first output
    std::vector<std::string> origins;  // names of the user's layers that this node stands for (itself when empty)
    Attributes attributes;

    // Attribute readers with the row's default. Throw internal when the row has no such attribute.
    const Attribute* find(std::string_view attribute) const;  ///< given value, else the row's default, else null
    int64_t integer(std::string_view attribute) const;
    double real(std::string_view attribute) const;
    const std::string& text(std::string_view attribute) const;
    const std::vector<int64_t>& integers(std::string_view attribute) const;  ///< empty when absent
    const std::vector<double>& reals(std::string_view attribute) const;
    const Tensor& tensor(std::string_view attribute) const;
    const GraphPtr& subgraph(std::string_view attribute) const;

  private:
    friend class Graph;
    const OpDef* op_ = nullptr;
    Graph* graph_ = nullptr;
    std::vector<Value*> inputs_;
    std::vector<Value*> outputs_;
    std::list<std::unique_ptr<Node>>::iterator position_;
};

class Graph {
  public:
    explicit Graph(std::string name = "graph");
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    /// Deep copy of the structure (constants are shared, subgraphs cloned), dead values dropped.
    std::unique_ptr<Graph> clone() const;

    std::string name;
    const std::vector<Value*>& inputs() const { return inputs_; }
    const std::vector<Value*>& outputs() const { return outputs_; }
    /// Nodes in topological order. Safe against erasing the node being visited if the iterator was advanced first;
    /// passes use node_list() snapshots.
    const std::list<std::unique_ptr<Node>>& nodes() const { return nodes_; }
    std::vector<Node*> node_list() const;
    std::vector<Value*> values() const;  ///< inputs, constants, then node outputs in order
    Value* find_value(std::string_view name) const;

    Value* add_input(std::string name, Type type);
    Value* add_constant(std::string name, Tensor tensor);
    void add_output(Value* value);
    void set_output(int index, Value* value);

    /// Creates a node before `before` (null: at the end). Output names may be "" (made unique) and are made unique
    /// when taken. Output types are inferred by the op's rule. Throws when the op is unknown.
    Node* add_node(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {}, int outputs = 1,
                   std::string name = {}, Node* before = nullptr, std::string_view domain = "",
                   std::vector<std::string> output_names = {});
    void set_input(Node* node, int index, Value* value);  ///< grows the input list when index is past its end
    void set_inputs(Node* node, std::vector<Value*> inputs);
    void replace_all_uses(Value* from, Value* to);  ///< graph outputs included; a graph output keeps its name
    void erase(Node* node);                         ///< its outputs must be unused
    void erase_constant(Value* value);              ///< must be unused
    void remove_input(Value* value);                ///< must be unused
    void move_before(Node* node, Node* before);     ///< null: to the end
    bool is_output(const Value* value) const;
    void rename(Value* value, std::string name);
    std::string unique_name(std::string_view hint);

    /// Re-runs the type rule of one node, or of all in order (subgraphs included).
    void infer(Node* node);
    void infer();
    /// Restores topological order after rewiring (stable: keeps the present order where it is legal).
    void sort();

    std::vector<std::pair<std::string, std::string>> metadata;  // user metadata of the model, kept in the plan

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    std::vector<Value*> inputs_;
    std::vector<Value*> outputs_;
    std::list<std::unique_ptr<Node>> nodes_;
};

/// The IR's rules, executable: single assignment, order, arity, attribute types, types agree with the rules, uses
/// consistent. Throws internal naming the node ("after pass X" is added by the driver).
void check(const Graph& graph);

/// Text form: prints and parses losslessly but for constants above `max_constant` elements, which print as
/// `dense<sha...>` and parse back as zeros (max_constant = -1 prints all).
std::string print(const Graph& graph, int64_t max_constant = 16);
std::unique_ptr<Graph> parse_graph(std::string_view text);

}  // namespace planish
