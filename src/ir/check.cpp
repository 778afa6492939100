// The IR's rules, executable. Run after every pass.
#include <unordered_map>
#include <unordered_set>

#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish {
namespace {

class Checker {
  public:
    explicit Checker(const Graph& graph) : graph_(graph) {}

    void run() {
        for (const Value* input : graph_.inputs()) {
            define(input);
            require(input->producer == nullptr && !input->is_constant(), *input, "is an input with a producer");
        }
        for (const Value* value : graph_.values()) {
            require(graph_.find_value(value->name) == value, *value, "is not found under its name");
            if (value->is_constant()) {
                define(value);
                const Tensor& tensor = *value->constant;
                require(value->type.kind == Kind::tensor && value->type.dtype == tensor.dtype() && value->type.shape &&
                            *value->type.shape == to_shape(tensor.dims()),
                        *value, "is a constant whose type differs from its tensor");
            }
        }
        for (const auto& node : graph_.nodes()) check_node(*node);
        for (const Value* output : graph_.outputs()) {
            if (output == nullptr) fail(ErrorCode::internal, "graph '" + graph_.name + "' has a null output");
            require(defined_.contains(output), *output, "is a graph output that nothing defines");
        }
    }

  private:
    void require(bool condition, const Value& value, const char* message) const {
        if (!condition) fail(ErrorCode::internal, "value '" + value.name + "' " + message);
    }
    void require(bool condition, const Node& node, const std::string& message) const {
        if (!condition)
            fail(ErrorCode::internal, "node '" + node.name + "' (" + std::string(node.op().name) + ") " + message);
    }
    void define(const Value* value) { require(defined_.insert(value).second, *value, "is defined twice"); }

    void check_node(const Node& node) {
        const OpDef& op = node.op();
        const int given = node.input_count();
        require(given >= op.min_inputs, node, "has too few inputs");
        require(op.max_inputs < 0 || given <= op.max_inputs || has(op.traits, Trait::body_captures), node,
                "has too many inputs");
        const int produced = static_cast<int>(node.outputs().size());
        require(produced >= op.min_outputs && (op.max_outputs < 0 || produced <= op.max_outputs), node,
                "has a wrong number of outputs");
        const int required = node.is("Loop") ? 0 : op.min_inputs;  // Loop's trip count and condition may be omitted
        for (int i = 0; i < given; ++i) {
            const Value* input = node.input(i);
            require(input != nullptr || i >= required, node, "omits its required input " + std::to_string(i));
            if (input == nullptr) continue;
            require(defined_.contains(input), node, "reads '" + input->name + "' before it is defined");
            int uses = 0;
            for (const Use& use : input->uses) uses += use.node == &node && use.index == i;
            require(uses == 1, node, "and the use list of '" + input->name + "' disagree");
        }
        for (const auto& [name, value] : node.attributes) {
            const AttrDef* def = op.attribute(name);
            require(def != nullptr, node, "has an attribute '" + name + "' that its op does not know");
            require(def->type == type_of(value), node, "has an attribute '" + name + "' of the wrong type");
            if (const GraphPtr* body = std::get_if<GraphPtr>(&value)) {
                require(*body != nullptr, node, "has an empty body '" + name + "'");
                check(**body);
            }
        }
        for (const AttrDef& def : op.attributes)
            require(!def.required || node.attributes.contains(def.name), node,
                    "misses its attribute '" + def.name + "'");
        for (int i = 0; i < produced; ++i) {
            const Value* output = node.output(i);
            if (output == nullptr) continue;
            require(output->producer == &node && output->output_index == i, node, "does not own its output");
            define(output);
            for (const Use& use : output->uses)
                require(use.node->input(use.index) == output, node, "has a stale use of '" + output->name + "'");
        }
        check_types(node);
    }

    // The recorded types must not contradict what the op's rule says of the inputs.
    void check_types(const Node& node) const {
        if (node.op().infer == nullptr) return;
        InferContext context(node);
        node.op().infer(context);
        for (size_t i = 0; i < context.outputs.size(); ++i) {
            const Value* output = node.output(static_cast<int>(i));
            if (output == nullptr) continue;
            const Type& rule = context.outputs[i];
            if (rule.dtype == DType::undefined) continue;
            require(rule.kind == output->type.kind && rule.dtype == output->type.dtype, node,
                    "produces '" + output->name + "' of type " + to_string(output->type) + " but its rule says " +
                        to_string(rule));
            if (!rule.shape || !output->type.shape) continue;
            bool agree = rule.shape->size() == output->type.shape->size();
            for (size_t d = 0; agree && d < rule.shape->size(); ++d) {
                const Dim &a = (*rule.shape)[d], &b = (*output->type.shape)[d];
                agree = a == b || !a.is_constant() || !b.is_constant();
            }
            require(agree, node,
                    "produces '" + output->name + "' of shape " + to_string(*output->type.shape) +
                        " but its rule says " + to_string(*rule.shape));
        }
    }

    const Graph& graph_;
    std::unordered_set<const Value*> defined_;
};

}  // namespace

void check(const Graph& graph) {
    Checker(graph).run();
}

}  // namespace planish
