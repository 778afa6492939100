// The last resort of every implementation list: the reference interpreter on the CPU, between two copies.
#include "backends/cuda/implementation.hpp"
#include "reference/interpreter.hpp"

namespace planish::cuda::families {
namespace {

// Regions are dissolved before they come here, so that their parts find implementations on the GPU.
Refusal can_implement(const RegionView& region, const Environment&) {
    return region.has_body() ? Refusal::op_not_handled : Refusal::none;
}

// Plain, in the types that the graph states.
Formats formats(const RegionView& region, std::span<const Format>, const Environment&) {
    Formats result;
    for (const Value* value : region.node().inputs())
        result.inputs.push_back({Layout::plain, value ? value->type.dtype : DType::undefined});
    for (const Value* value : region.node().outputs()) result.outputs.push_back({Layout::plain, value->type.dtype});
    return result;
}

CudaKernel compile(const RegionView& region, const Formats&, std::string_view, const Environment&) {
    CudaKernel kernel;
    kernel.name = "reference." + std::string(region.node().op().name);
    kernel.host = [&node = region.node()](std::span<const std::byte* const> in, std::span<std::byte* const> out) {
        reference::run_node_into(node, in, out);  // the node is of the program's own graph
    };
    return kernel;
}

}  // namespace

const Implementation kReference{"reference", can_implement, formats, compile};

}  // namespace planish::cuda::families
