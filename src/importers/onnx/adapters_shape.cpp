// Adapters for attributes that later opsets turned into inputs.
#include "importers/onnx/draft.hpp"

namespace planish::onnx_import {
namespace {

using Ints = std::vector<int64_t>;

// `attribute` (a list) -> input `index`. Absent stays absent.
void list_to_input(Draft& d, std::string_view attribute, size_t index) {
    if (!d.has(attribute)) return;
    const Ints values = d.integers(attribute);
    d.take(attribute);
    d.set_input(index, d.integers_constant(values, attribute));
}

void axes_to_input(Draft& d) {
    list_to_input(d, "axes", 1);
}

// Opset 1: an attribute, no axes given: the last dimensions' order is not affected.
void slice_1(Draft& d) {
    if (!d.has("starts") || !d.has("ends")) d.invalid("misses 'starts' or 'ends'");
    list_to_input(d, "starts", 1);
    list_to_input(d, "ends", 2);
    list_to_input(d, "axes", 3);
}

void pad_1(Draft& d) {
    if (d.has("paddings")) d.attributes["pads"] = d.take("paddings");
}

void pad_2(Draft& d) {
    if (!d.has("pads")) d.invalid("misses 'pads'");
    list_to_input(d, "pads", 1);
    if (const double value = d.real("value", 0); value != 0) d.set_input(2, d.scalar(d.dtype(0), value, "value"));
    d.attributes.erase("value");
}

void clip_6(Draft& d) {
    const char* names[] = {"min", "max"};
    for (size_t i = 0; i < 2; ++i)
        if (d.has(names[i])) {
            const double bound = d.real(names[i], 0);
            d.take(names[i]);
            d.set_input(i + 1, d.scalar(d.dtype(0), bound, names[i]));
        }
}

void split_1(Draft& d) {
    // Opset 1 could also take the sizes as a second input, as opset 13 does.
    list_to_input(d, "split", 1);
}

// Without sizes the parts are equal; from 18 on their number is an attribute.
void split_13(Draft& d) {
    if (!d.has_input(1)) d.attributes["num_outputs"] = static_cast<int64_t>(d.outputs.size());
}

void topk_1(Draft& d) {
    const int64_t k = d.integer("k", 0);
    d.take("k");
    d.set_input(1, d.integers_constant({k}, "k"));
}

void dropout_1(Draft& d) {
    // Inference only: is_test = 0 asked for training, which nobody exported. The mask of opsets < 10 had x's type.
    d.attributes.erase("is_test");
    d.attributes.erase("ratio");
    if (d.version < 10 && d.wants_output(1)) {
        const std::string mask_name = d.outputs[1];
        const auto made = d.emit_many("Dropout", {d.inputs.at(0)}, {}, 2);
        d.finish({made[0], d.emit("Cast", {made[1]}, {{"to", static_cast<int64_t>(d.dtype(0))}}, "mask")});
    }
}

void upsample_1(Draft& d) {
    d.attributes["scales"] = std::vector<double>{1.0, 1.0, d.real("height_scale", 1), d.real("width_scale", 1)};
    d.attributes.erase("height_scale");
    d.attributes.erase("width_scale");
    if (d.text("mode", "nearest") == "bilinear") d.attributes["mode"] = std::string("linear");
}

void upsample_7(Draft& d) {
    const Attribute scales = d.take("scales");
    const auto* values = std::get_if<std::vector<double>>(&scales);
    if (!values) d.invalid("has 'scales' of the wrong type");
    const std::vector<float> floats(values->begin(), values->end());
    d.set_input(
        1, d.constant(Tensor::from(std::span<const float>(floats), {static_cast<int64_t>(floats.size())}), "scales"));
}

void upsample_9(Draft& d) {
    d.op = "Resize";
}

// x_in = x_out / scale until opset 11 gave that a name; nearest rounded up along axes that shrink, down along others
// (opset 10's tests and ONNX Runtime).
void resize_10(Draft& d) {
    if (d.text("mode", "nearest") == "bilinear") d.attributes["mode"] = std::string("linear");
    d.inputs.resize(2, nullptr);
    d.attributes["coordinate_transformation_mode"] = std::string("asymmetric");
    if (d.text("mode", "nearest") == "nearest") {
        bool shrinks = false, grows = false;
        if (d.has_input(1) && d.inputs[1]->is_constant())
            for (double scale : d.inputs[1]->constant->to_doubles()) (scale < 1 ? shrinks : grows) |= scale != 1;
        if (shrinks && grows)
            d.unsupported("shrinks one axis and enlarges another by opset 10's rule", "export with opset 11 or newer");
        d.attributes["nearest_mode"] = std::string(shrinks ? "ceil" : "floor");
    }
    d.inputs = {d.inputs[0], nullptr, d.inputs[1]};
}

// Exporters write an empty tensor where an input is not used (opset 11 even asked for it).
void resize_empty_inputs(Draft& d) {
    for (size_t i = 1; i < d.inputs.size(); ++i)
        if (d.inputs[i] && d.inputs[i]->is_constant() && d.inputs[i]->constant->size() == 0) d.inputs[i] = nullptr;
    // roi counts in one mode only.
    if (d.text("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize" && d.has_input(1))
        d.inputs[1] = nullptr;
}

void dft_17(Draft& d) {
    const int64_t axis = d.integer("axis", 1);
    d.attributes.erase("axis");
    d.inputs.resize(2, nullptr);
    d.set_input(2, d.constant(Tensor::scalar<int64_t>(axis), "axis"));
}

void reshape_1(Draft& d) {
    list_to_input(d, "shape", 1);
}

void tile_1(Draft& d) {
    const auto rank = d.rank(0);
    if (!rank || d.inputs.size() != 3 || !d.inputs[1]->is_constant() || !d.inputs[2]->is_constant())
        d.unsupported("tiles by inputs of opset 1 that are not constant",
                      "convert the model with onnx.version_converter");
    Ints repeats(static_cast<size_t>(*rank), 1);
    const int64_t axis = d.inputs[2]->constant->at_int64(0);
    if (axis < 0 || axis >= *rank) d.invalid("tiles an axis that its input does not have");
    repeats[static_cast<size_t>(axis)] = d.inputs[1]->constant->at_int64(0);
    d.inputs = {d.inputs[0], d.integers_constant(repeats, "repeats")};
}

constexpr Adapter kAdapters[] = {
    {"", "Clip", 11, clip_6},
    {"", "DFT", 20, dft_17},
    {"", "Dropout", 12, dropout_1},
    {"", "Pad", 2, pad_1},
    {"", "Pad", 11, pad_2},
    {"", "ReduceL1", 18, axes_to_input},
    {"", "ReduceL2", 18, axes_to_input},
    {"", "ReduceLogSum", 18, axes_to_input},
    {"", "ReduceLogSumExp", 18, axes_to_input},
    {"", "ReduceMax", 18, axes_to_input},
    {"", "ReduceMean", 18, axes_to_input},
    {"", "ReduceMin", 18, axes_to_input},
    {"", "ReduceProd", 18, axes_to_input},
    {"", "ReduceSum", 13, axes_to_input},
    {"", "ReduceSumSquare", 18, axes_to_input},
    {"", "Reshape", 5, reshape_1},
    {"", "Resize", 11, resize_10},
    {"", "Resize", kEveryOpset, resize_empty_inputs},
    {"", "Slice", 10, slice_1},
    {"", "Split", 13, split_1},
    {"", "Split", 18, split_13},
    {"", "Squeeze", 13, axes_to_input},
    {"", "Tile", 6, tile_1},
    {"", "TopK", 10, topk_1},
    {"", "Unsqueeze", 13, axes_to_input},
    {"", "Upsample", 7, upsample_1},
    {"", "Upsample", 9, upsample_7},
    {"", "Upsample", 10, upsample_9},
};

}  // namespace

std::span<const Adapter> shape_adapters() {
    return kAdapters;
}

}  // namespace planish::onnx_import
