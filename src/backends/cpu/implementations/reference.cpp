// The last resort of every implementation list: the reference interpreter on plain memory.
#include <cstring>

#include "backends/cpu/implementation.hpp"
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
        for (size_t i = 0; i < outputs.size(); ++i)
            if (outputs[i].tensor && outputs[i].tensor.bytes() > 0)
                std::memcpy(launch.out[i], outputs[i].tensor.raw(), static_cast<size_t>(outputs[i].tensor.bytes()));
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
