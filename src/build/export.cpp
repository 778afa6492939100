// Plans back to ONNX.
#include "exporters/onnx/exporter.hpp"
#include "plan/plan_io.hpp"
#include "planish/planish.hpp"

namespace planish {

void export_onnx(const Plan& plan, const std::filesystem::path& model) {
    onnx_export::write(*plan.contents()->graph, model);
}

void export_onnx(const std::filesystem::path& plan, const std::filesystem::path& model) {
    onnx_export::write(*plan::read(plan).graph, model);
}

std::vector<std::byte> onnx_bytes(const Plan& plan) {
    return onnx_export::to_bytes(*plan.contents()->graph);
}

}  // namespace planish
