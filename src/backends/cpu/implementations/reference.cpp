// The last resort of every implementation list: the reference interpreter on plain memory.
#include "backends/cpu/implementation.hpp"
#include "reference/interpreter.hpp"

namespace planish::cpu::families {
namespace {

// Regions are dissolved before they come here, so that their parts find faster implementations.
Refusal can_implement(const RegionView& region, const Environment&) {
    return region.has_body() ? Refusal::op_not_handled : Refusal::none;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment&) {
    const Node& node = region.node();  // of the program's own graph
    return make_kernel("reference." + std::string(node.op().name),
                       [&node](const Launch& launch) { reference::run_node_into(node, launch.in, launch.out); });
}

}  // namespace

const Implementation kReference{"reference", can_implement, plain_layouts, compile};

}  // namespace planish::cpu::families
