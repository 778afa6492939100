// An optimised network as ONNX and as a plan.
#include "planish/optimised.hpp"

#include "base/sparse_tensor.hpp"
#include "exporters/onnx/exporter.hpp"
#include "plan/contents.hpp"
#include "planish/sparsify.hpp"

namespace planish {

std::vector<std::byte> Optimised::onnx_bytes() const {
    return onnx_export::to_bytes(*graph_);
}

void Optimised::save_onnx(const std::filesystem::path& path) const {
    onnx_export::write(*graph_, path);
}

Plan Optimised::build(const BuildOptions& options) const {
    return planish::build(onnx_bytes(), options);
}

Plan compress_weights(const Plan& plan) {
    constexpr int64_t kLeastBytes = 4096;  // below, there is little to win
    const plan::PlanContents& from = *plan.contents();
    auto contents = std::make_shared<plan::PlanContents>();
    contents->graph = from.graph->clone();
    contents->profiles = from.profiles;
    contents->sections = from.sections;
    contents->provenance = from.provenance;
    for (Value* value : contents->graph->values())
        if (value->is_constant() && value->constant->bytes() >= kLeastBytes)
            value->constant = std::make_shared<const Tensor>(compressed(*value->constant));
    return Plan(std::move(contents), plan.report());
}

}  // namespace planish
