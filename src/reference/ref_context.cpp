// RefContext: checked access to a node's dense inputs, and storage for its outputs.
#include "reference/ref_context.hpp"

#include "planish/error.hpp"

namespace planish {

RefContext::RefContext(const Node& node, std::vector<const RefValue*> inputs)
    : node_(node), inputs_(std::move(inputs)), outputs_(node.outputs().size()) {}

const RefValue& RefContext::value(int i) const {
    if (!has_input(i)) fail(ErrorCode::invalid_model, "required input " + std::to_string(i) + " is omitted");
    return *inputs_[static_cast<size_t>(i)];
}

const Tensor& RefContext::input(int i) const {
    const RefValue& v = value(i);
    if (v.kind == Kind::sequence || (v.kind == Kind::optional && (!v.present || v.holds_sequence)))
        fail(ErrorCode::invalid_model, "input " + std::to_string(i) + " is not a tensor");
    return v.tensor;
}

int RefContext::output_count() const {
    int count = static_cast<int>(node_.outputs().size());
    while (count > 0 && node_.outputs()[static_cast<size_t>(count - 1)] == nullptr) --count;
    return count;
}

Tensor& RefContext::output(int i, DType dtype, Dims dims) {
    set_output(i, Tensor(dtype, std::move(dims)));
    return outputs_[static_cast<size_t>(i)].tensor;
}

void RefContext::set_output(int i, RefValue value) {
    if (static_cast<size_t>(i) >= outputs_.size()) outputs_.resize(static_cast<size_t>(i) + 1);
    outputs_[static_cast<size_t>(i)] = std::move(value);
}

int64_t RefContext::axis(std::string_view name, int64_t rank) const {
    const int64_t given = integer(name);
    if (given < -rank || given >= rank)
        error("attribute '" + std::string(name) + "' is " + std::to_string(given) + ", outside [-" +
              std::to_string(rank) + ", " + std::to_string(rank) + ")");
    return given < 0 ? given + rank : given;
}

void RefContext::error(std::string message) const {
    fail(ErrorCode::invalid_argument, std::move(message));
}

}  // namespace planish
