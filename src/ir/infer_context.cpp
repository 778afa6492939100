// InferContext: what a shape rule sees of its node. Type: text form.
#include "ir/graph.hpp"
#include "planish/error.hpp"

namespace planish {

InferContext::InferContext(const Node& node)
    : outputs(node.outputs().size()), output_symbolic(node.outputs().size()), node_(node) {}

int InferContext::input_count() const {
    return node_.input_count();
}
bool InferContext::has_input(int i) const {
    return node_.input(i) != nullptr;
}

const Type& InferContext::input(int i) const {
    if (!has_input(i)) error("misses its input " + std::to_string(i));
    return node_.input(i)->type;
}

bool InferContext::has_shape(int i) const {
    return has_input(i) && node_.input(i)->type.shape.has_value();
}
const Shape& InferContext::shape(int i) const {
    return *input(i).shape;
}
const Tensor* InferContext::constant(int i) const {
    return has_input(i) ? node_.input(i)->constant.get() : nullptr;
}

std::optional<std::vector<Dim>> InferContext::symbolic(int i) const {
    if (!has_input(i)) return std::nullopt;
    const Value& value = *node_.input(i);
    constexpr int64_t kLargest = 256;  // shape arithmetic is small; large integer data is not
    if (value.constant != nullptr) {
        const Tensor& t = *value.constant;
        if ((!is_integer(t.dtype()) && t.dtype() != DType::boolean) || t.size() > kLargest) return std::nullopt;
        std::vector<Dim> result;
        for (int64_t k = 0; k < t.size(); ++k) result.emplace_back(t.at_int64(k));
        return result;
    }
    return value.symbolic;
}

int64_t InferContext::integer(std::string_view name) const {
    return node_.integer(name);
}
double InferContext::real(std::string_view name) const {
    return node_.real(name);
}
const std::string& InferContext::text(std::string_view name) const {
    return node_.text(name);
}
const std::vector<int64_t>& InferContext::integers(std::string_view name) const {
    return node_.integers(name);
}
bool InferContext::has(std::string_view name) const {
    return node_.find(name) != nullptr;
}

int64_t InferContext::axis(std::string_view name, int64_t rank) const {
    const int64_t axis = integer(name);
    if (axis < -rank || axis >= rank)
        error("has " + std::string(name) + " " + std::to_string(axis) + ", out of range for rank " +
              std::to_string(rank));
    return axis < 0 ? axis + rank : axis;
}

void InferContext::set_output(int i, Type type) {
    if (i < static_cast<int>(outputs.size())) outputs[static_cast<size_t>(i)] = std::move(type);
}

void InferContext::set_output(int i, DType dtype, std::optional<Shape> shape) {
    set_output(i, Type{Kind::tensor, dtype, std::move(shape), Kind::tensor});
}

void InferContext::set_symbolic(int i, std::vector<Dim> values) {
    if (i < static_cast<int>(outputs.size())) output_symbolic[static_cast<size_t>(i)] = std::move(values);
}

void InferContext::error(std::string message) const {
    fail(ErrorCode::invalid_model, "node '" + node_.name + "' (" + std::string(node_.op().name) + ") " + message);
}

std::string to_string(const Type& type) {
    const std::string tensor =
        std::string(to_string(type.dtype)) + (type.shape ? to_string(*type.shape) : std::string("[*]"));
    if (type.kind == Kind::sequence) return "sequence(" + tensor + ")";
    if (type.kind == Kind::optional)
        return type.element_kind == Kind::sequence ? "optional(sequence(" + tensor + "))" : "optional(" + tensor + ")";
    return tensor;
}

}  // namespace planish
