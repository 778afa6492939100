// The last resort of every implementation list: the reference interpreter on plain memory.
#include <cstring>

#include "backends/cpu/implementation.hpp"
#include "planish/error.hpp"
#include "reference/interpreter.hpp"

namespace planish::cpu::families {
namespace {

class ReferenceKernel final : public Kernel {
  public:
    explicit ReferenceKernel(const Node& node) : node_(node) { name = "reference." + std::string(node.op().name); }

    void run(const Launch& launch) const override {
        std::vector<RefValue> values(static_cast<size_t>(node_.input_count()));
        std::vector<const RefValue*> inputs;
        for (size_t i = 0; i < values.size(); ++i) {
            const Value* value = node_.inputs()[i];
            if (value == nullptr) {
                inputs.push_back(nullptr);
                continue;
            }
            values[i].tensor = value->is_constant() ? *value->constant
                                                    : Tensor(value->type.dtype, value->dims(), launch.in[i], nullptr);
            inputs.push_back(&values[i]);
        }
        const std::vector<RefValue> outputs = reference::run_node(node_, inputs);
        for (size_t i = 0; i < outputs.size(); ++i) {
            const Value* value = node_.outputs()[i];
            if (value == nullptr || !outputs[i].tensor) continue;
            // Memory was planned for the declared type, which for shapes that depend on data is only what the plan
            // says.
            if (outputs[i].tensor.dtype() != value->type.dtype || outputs[i].tensor.dims() != value->dims())
                fail(ErrorCode::invalid_model,
                     "node '" + node_.name + "' (" + std::string(node_.op().name) + ") gives '" + value->name +
                         "' of type " + std::string(planish::to_string(outputs[i].tensor.dtype())) + " " +
                         planish::to_string(std::span<const int64_t>(outputs[i].tensor.dims())) +
                         " where the model declares " + planish::to_string(value->type));
            if (outputs[i].tensor.bytes() > 0)
                std::memcpy(launch.out[i], outputs[i].tensor.raw(), static_cast<size_t>(outputs[i].tensor.bytes()));
        }
    }

  private:
    const Node& node_;  // of the program's own graph
};

// Regions are dissolved before they come here, so that their parts find faster implementations.
Refusal can_implement(const RegionView& region, const Environment&) {
    return region.has_body() ? Refusal::op_not_handled : Refusal::none;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment&) {
    return std::make_unique<ReferenceKernel>(region.node());
}

}  // namespace

const Implementation kReference{"reference", can_implement, plain_layouts, compile};

}  // namespace planish::cpu::families
