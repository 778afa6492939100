// What all backends share.
#include "backends/backend.hpp"

#include "planish/error.hpp"

namespace planish {

std::string_view to_string(Refusal refusal) {
    switch (refusal) {
        case Refusal::none:
            return "none";
        case Refusal::op_not_handled:
            return "op_not_handled";
        case Refusal::dtype_not_handled:
            return "dtype_not_handled";
        case Refusal::layout_not_handled:
            return "layout_not_handled";
        case Refusal::shape_not_handled:
            return "shape_not_handled";
        case Refusal::attribute_not_handled:
            return "attribute_not_handled";
        case Refusal::post_op_not_handled:
            return "post_op_not_handled";
        case Refusal::isa_missing:
            return "isa_missing";
        case Refusal::weights_not_constant:
            return "weights_not_constant";
        case Refusal::slower:
            return "slower";
        case Refusal::disabled:
            return "disabled";
    }
    return "none";
}

bool is_static(const Graph& graph) {
    for (const Value* value : graph.values())
        if (value->type.kind != Kind::tensor || value->type.dtype == DType::string || !value->has_static_shape())
            return false;
    return true;
}

void Program::run_in(std::span<const void* const>, std::span<void* const>, DeviceState&, uintptr_t) const {
    fail(ErrorCode::internal, "this program does not run on a device with memory of its own");
}

std::unique_ptr<DeviceState> Backend::create_state(int) const {
    return nullptr;
}

std::shared_ptr<DeviceStore> Backend::create_store(int) const {
    return nullptr;
}

bool Backend::is_device_memory(const void*, int) const {
    return false;
}

}  // namespace planish
