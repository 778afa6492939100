// Strided copies over CopyPlan.
#include "backends/cpu/strided_copy.hpp"

#include "backends/cpu/split.hpp"

namespace planish::cpu {

std::vector<int64_t> dense_strides(const Dims& dims) {
    std::vector<int64_t> strides(dims.size());
    int64_t stride = 1;
    for (size_t i = dims.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= dims[i];
    }
    return strides;
}

std::vector<int64_t> logical_strides(const Dims& dims, Layout layout) {
    const std::vector<int64_t> physical = dense_strides(physical_dims(dims, layout));
    std::vector<int64_t> strides(dims.size());
    for (size_t i = 0; i < dims.size(); ++i)
        strides[i] = physical[static_cast<size_t>(
            physical_axis(static_cast<int64_t>(i), static_cast<int64_t>(dims.size()), layout))];
    return strides;
}

namespace {
CopyPlan make_plan(const Dims& dims, const std::vector<int64_t>& in, const std::vector<int64_t>& out, int64_t element) {
    std::vector<CopyAxis> axes;
    for (size_t i = 0; i < dims.size(); ++i) axes.push_back({dims[i], in[i] * element, out[i] * element});
    return CopyPlan(axes, element);
}
}  // namespace

StridedCopy::StridedCopy(const Dims& dims, const std::vector<int64_t>& in_strides,
                         const std::vector<int64_t>& out_strides, int64_t in_offset, int64_t out_offset,
                         int64_t element_bytes, Isa isa)
    : plan_(make_plan(dims, in_strides, out_strides, element_bytes)),
      in_offset_(in_offset * element_bytes),
      out_offset_(out_offset * element_bytes),
      table_(kernels(isa)) {}

void StridedCopy::run(const std::byte* in, std::byte* out, const Launch& launch) const {
    const int64_t items = plan_.items();
    split_items(
        launch, items, 2 + plan_.bytes() / (16 * std::max<int64_t>(items, 1)),
        [&](int64_t begin, int64_t end, int) { plan_.run(table_, in + in_offset_, out + out_offset_, begin, end); });
}

}  // namespace planish::cpu
