// Formats that many implementations share, and elements as device memory holds them.
#include "backends/cuda/implementation.hpp"

#include <algorithm>

#include "base/small_float.hpp"
#include "planish/error.hpp"

namespace planish::cuda {

void sort_by_estimate(std::vector<Tactic>& tactics) {
    std::stable_sort(tactics.begin(), tactics.end(),
                     [](const Tactic& a, const Tactic& b) { return a.seconds < b.seconds; });
}

bool is_read_as_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

Formats plain_formats(const RegionView& region, std::span<const Format>, const Environment& environment) {
    Formats formats;
    for (const Value* value : region.node().inputs())
        formats.inputs.push_back({Layout::plain, value ? environment.stored_as(*value) : DType::undefined});
    for (const Value* value : region.node().outputs())
        formats.outputs.push_back({Layout::plain, environment.stored_as(*value)});
    return formats;
}

Formats following_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    std::vector<Layout> layouts;
    for (const Format& format : available) layouts.push_back(format.layout);
    const Layouts followed = following_layouts(region, layouts);
    Formats formats = plain_formats(region, available, environment);
    for (size_t i = 0; i < formats.inputs.size(); ++i) formats.inputs[i].layout = followed.inputs[i];
    for (size_t i = 0; i < formats.outputs.size(); ++i) formats.outputs[i].layout = followed.outputs[i];
    return formats;
}

Formats image_formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats formats = plain_formats(region, available, environment);
    const size_t rank = region.output().dims().size();
    if (rank < 3) return formats;
    // The epilogue's tensors lie as the output does.
    for (int i = 0; i < region.node().input_count(); ++i) {
        const Value* value = region.node().input(i);
        if (value == nullptr || value->dims().size() != rank) continue;
        const bool image = i == 0 || (!value->is_constant() && value->dims() == region.output().dims());
        if (image) formats.inputs[static_cast<size_t>(i)].layout = Layout::channels_last;
    }
    formats.outputs[0].layout = Layout::channels_last;
    return formats;
}

Tensor stored(const Tensor& tensor, Format format) {
    Tensor rounded = tensor;
    if (tensor.dtype() != format.dtype) {
        rounded = Tensor(format.dtype, tensor.dims());
        const bool small = format.dtype == DType::f16 || format.dtype == DType::bf16;
        if (small && tensor.dtype() == DType::f32) {
            const auto from = tensor.data<float>();
            auto* to = static_cast<uint16_t*>(rounded.raw());
            for (size_t i = 0; i < from.size(); ++i)
                to[i] = static_cast<uint16_t>(encode_small_float(format.dtype, from[i], false));
        } else {
            for (int64_t i = 0; i < tensor.size(); ++i) rounded.set_double(i, tensor.at_double(i));
        }
    }
    if (format.layout == Layout::plain || layouts_coincide(tensor.dims())) return rounded;
    Tensor moved(format.dtype, tensor.dims());
    reorder(static_cast<const std::byte*>(rounded.raw()), Layout::plain, static_cast<std::byte*>(moved.raw()),
            format.layout, tensor.dims(), byte_size(format.dtype, 1));
    return moved;
}

std::string_view cuda_type(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return "float";
        case DType::f16:
            return "__half";
        case DType::bf16:
            return "__nv_bfloat16";
        case DType::f64:
            return "double";
        case DType::i8:
            return "signed char";
        case DType::u8:
            return "unsigned char";
        case DType::boolean:
            return "bool";
        case DType::i16:
            return "short";
        case DType::u16:
            return "unsigned short";
        case DType::i32:
            return "int";
        case DType::u32:
            return "unsigned";
        case DType::i64:
            return "long long";
        case DType::u64:
            return "unsigned long long";
        default:
            fail(ErrorCode::internal, "no CUDA type for " + std::string(to_string(dtype)));
    }
}

std::string_view moved_type(int64_t bytes) {
    switch (bytes) {
        case 1:
            return "unsigned char";
        case 2:
            return "unsigned short";
        case 4:
            return "unsigned";
        case 8:
            return "unsigned long long";
        case 16:
            return "planish::Bytes16";
        default:
            fail(ErrorCode::internal, "no moves of " + std::to_string(bytes) + " bytes on a GPU");
    }
}

std::string_view short_name(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return "f32";
        case DType::f16:
            return "f16";
        case DType::bf16:
            return "bf16";
        case DType::f64:
            return "f64";
        default:
            return to_string(dtype);
    }
}

}  // namespace planish::cuda
