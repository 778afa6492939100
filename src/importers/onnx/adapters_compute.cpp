// Adapters for operators whose meaning changed between opsets.
#include <algorithm>

#include "importers/onnx/draft.hpp"

namespace planish::onnx_import {
namespace {

// Softmax, LogSoftmax, Hardmax before 13 work on the input seen as a matrix: axes before `axis` (default 1) are rows,
// the rest one long row. On a single axis that is not 1 long this is what they do today.
void softmax_1(Draft& d) {
    const auto rank = d.rank(0);
    int64_t axis = d.integer("axis", 1);
    if (rank) {
        if (axis < -*rank || axis > *rank)
            d.invalid("has axis " + std::to_string(axis) + " for rank " + std::to_string(*rank));
        if (axis < 0) axis += *rank;
        std::vector<int64_t> long_axes;
        for (int64_t i = axis; i < *rank; ++i)
            if (d.constant_dim(0, i) != 1) long_axes.push_back(i);
        if (axis < *rank && long_axes.size() <= 1) {
            d.attributes["axis"] = long_axes.empty() ? axis : long_axes[0];
            return;
        }
    }
    Value* shape = d.emit("Shape", {d.inputs.at(0)});
    Value* matrix = d.emit("Flatten", {d.inputs[0]}, {{"axis", axis}});
    Value* result = d.emit(d.op, {matrix}, {{"axis", int64_t{-1}}});
    d.finish({d.emit_output("Reshape", {result, shape})});
}

void batch_normalization_7(Draft& d) {
    d.attributes.erase("is_test");
    const bool spatial = d.integer("spatial", 1) != 0;
    d.attributes.erase("spatial");
    if (spatial) return;
    // Statistics of shape [C, D1, ...], one for each place: y = (x - mean) / sqrt(var + epsilon) * scale + b.
    if (d.inputs.size() != 5) d.invalid("does not have 5 inputs");
    Value* epsilon = d.scalar(d.dtype(4), d.real("epsilon", 1e-5), "epsilon");
    Value* deviation = d.emit("Sqrt", {d.emit("Add", {d.inputs[4], epsilon}, {}, "Add_epsilon")});
    Value* normal = d.emit("Div", {d.emit("Sub", {d.inputs[0], d.inputs[3]}), deviation});
    d.finish({d.emit_output("Add", {d.emit("Mul", {normal, d.inputs[1]}), d.inputs[2]})});
}

// Outputs beyond the first were for training, which from 14 on is asked for by an attribute.
void batch_normalization_9(Draft& d) {
    d.outputs.resize(std::min<size_t>(d.outputs.size(), 1));
}

void grid_sample_16(Draft& d) {
    const std::string mode = d.text("mode", "bilinear");
    if (mode == "bilinear") d.attributes["mode"] = std::string("linear");
    if (mode == "bicubic") d.attributes["mode"] = std::string("cubic");
}

// Scale and bias had one value a group; now they have one a channel: repeat each C/G times.
void group_normalization_18(Draft& d) {
    const int64_t groups = d.integer("num_groups", 0);
    if (d.inputs.size() != 3 || groups <= 0) d.invalid("does not have 3 inputs and a positive 'num_groups'");
    for (size_t i = 1; i < 3; ++i) {
        const std::string part = i == 1 ? "scale" : "bias";
        Value* column =
            d.emit("Reshape", {d.inputs[i], d.integers_constant({groups, 1}, part + "_column")}, {}, "Reshape_" + part);
        Value* repeats;
        if (const auto channels = d.constant_dim(0, 1)) {
            repeats = d.integers_constant({1, *channels / groups}, part + "_repeats");
        } else {
            Value* c = d.emit("Shape", {d.inputs[0]}, {{"start", int64_t{1}}, {"end", int64_t{2}}}, "Shape_" + part);
            Value* each = d.emit("Div", {c, d.integers_constant({groups}, part + "_groups")}, {}, "Div_" + part);
            repeats = d.emit("Concat", {d.integers_constant({1}, part + "_one"), each}, {{"axis", int64_t{0}}},
                             "Concat_" + part);
        }
        Value* tiled = d.emit("Tile", {column, repeats}, {}, "Tile_" + part);
        d.inputs[i] = d.emit("Reshape", {tiled, d.integers_constant({-1}, part + "_flat")}, {}, "Flatten_" + part);
    }
}

void roi_align_10(Draft& d) {
    if (!d.has("coordinate_transformation_mode"))
        d.attributes["coordinate_transformation_mode"] = std::string("output_half_pixel");
}

void scatter_9(Draft& d) {
    d.op = "ScatterElements";
}

// Opset 11 let the three-way choice of "tf_half_pixel_for_nn": x_in = (x_out + 0.5) / scale, gone since 13.
void resize_11(Draft& d) {
    if (d.text("coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn")
        d.unsupported("uses the coordinate mode tf_half_pixel_for_nn, which ONNX dropped in opset 13",
                      "export with opset 13 or newer");
}

// Opset 8 scanned every element of a batch on its own, along its second axis. That is a scan over the batch, without
// state, whose body is the scan of one element as it is today.
void scan_8(Draft& d) {
    if (d.has_input(0))
        d.unsupported("has sequence lengths, which ONNX dropped in opset 9", "export with opset 9 or newer");
    d.inputs.erase(d.inputs.begin());
    auto each = std::make_shared<Graph>(d.name + "/batch");
    std::vector<Value*> inside;
    for (size_t i = 0; i < d.inputs.size() + d.captured.size(); ++i) {
        const bool formal = i < d.inputs.size();
        const Value* from = formal ? d.inputs[i] : d.captured[i - d.inputs.size()];
        if (from == nullptr) d.invalid("misses its input " + std::to_string(i + 1));
        Type type = from->type;
        if (formal && type.shape && !type.shape->empty()) type.shape->erase(type.shape->begin());
        inside.push_back(each->add_input(from->name, std::move(type)));
    }
    if (d.has("directions")) d.attributes["scan_input_directions"] = d.take("directions");
    Attributes attributes = std::move(d.attributes);
    if (!d.captured.empty()) attributes["captures"] = static_cast<int64_t>(d.captured.size());
    const auto outputs = static_cast<int>(d.outputs.size());
    Node* scan = each->add_node("Scan", std::move(inside), std::move(attributes), outputs, d.name);
    for (Value* output : scan->outputs()) each->add_output(output);
    d.attributes = {{"body", std::move(each)}, {"num_scan_inputs", static_cast<int64_t>(d.inputs.size())}};
}

// ---- Opsets 1-6 ----

// b's axes lie at `axis` of a (default: at the end): append ones to b until NumPy's broadcasting does the same.
void broadcast_6(Draft& d) {
    const bool broadcast = d.integer("broadcast", 0) != 0;
    const bool has_axis = d.has("axis");
    const int64_t given_axis = d.integer("axis", 0);
    d.attributes.erase("broadcast");
    d.attributes.erase("axis");
    if (!broadcast || !has_axis) return;
    const auto a = d.rank(0), b = d.rank(1);
    if (!a || !b)
        d.unsupported("broadcasts along 'axis' between inputs of unknown rank",
                      "convert the model with onnx.version_converter");
    const int64_t axis = given_axis < 0 ? given_axis + *a : given_axis;
    const int64_t missing = *a - axis - *b;
    if (axis < 0 || missing < 0)
        d.invalid("broadcasts along axis " + std::to_string(given_axis) + ", where its second input does not fit");
    if (missing == 0) return;
    std::vector<int64_t> axes;
    for (int64_t i = 0; i < missing; ++i) axes.push_back(*b + i);
    d.inputs[1] = d.emit("Unsqueeze", {d.inputs[1], d.integers_constant(axes, "axes")});
}

// One slope a channel, which is axis 1; today slopes broadcast from the right.
void prelu_6(Draft& d) {
    const auto x = d.rank(0), slope = d.rank(1);
    if (!x || !slope) d.unsupported("has inputs of unknown rank", "convert the model with onnx.version_converter");
    if (*slope != 1 || *x < 3 || d.constant_dim(1, 0) == 1) return;
    std::vector<int64_t> axes;
    for (int64_t i = 1; i < *x - 1; ++i) axes.push_back(i);
    d.inputs[1] = d.emit("Unsqueeze", {d.inputs[1], d.integers_constant(axes, "axes")});
}

void gemm_6(Draft& d) {
    d.attributes.erase("broadcast");
}

void cast_1(Draft& d) {
    if (!d.has("to") || !std::holds_alternative<std::string>(d.attributes.find("to")->second)) return;
    std::string name = d.text("to", "");
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    if (name == "float") name = "float32";
    if (name == "double") name = "float64";
    const auto dtype = dtype_from_string(name);
    if (!dtype) d.invalid("casts to the unknown type '" + name + "'");
    d.attributes["to"] = static_cast<int64_t>(*dtype);
}

void concat_1(Draft& d) {
    if (!d.has("axis")) d.attributes["axis"] = int64_t{1};
}

void rnn_1(Draft& d) {
    d.attributes.erase("output_sequence");
}

void lp_pool_1(Draft& d) {
    if (d.has("p") && std::holds_alternative<double>(d.attributes.find("p")->second))
        d.attributes["p"] = static_cast<int64_t>(d.real("p", 2));
}

constexpr Adapter kAdapters[] = {
    {"", "Add", 7, broadcast_6},
    {"", "And", 7, broadcast_6},
    {"", "BatchNormalization", 9, batch_normalization_7},
    {"", "BatchNormalization", 14, batch_normalization_9},
    {"", "Cast", 6, cast_1},
    {"", "Concat", 4, concat_1},
    {"", "Div", 7, broadcast_6},
    {"", "Equal", 7, broadcast_6},
    {"", "GRU", 7, rnn_1},
    {"", "Gemm", 7, gemm_6},
    {"", "GlobalLpPool", 2, lp_pool_1},
    {"", "Greater", 7, broadcast_6},
    {"", "GridSample", 20, grid_sample_16},
    {"", "GroupNormalization", 21, group_normalization_18},
    {"", "Hardmax", 13, softmax_1},
    {"", "LSTM", 7, rnn_1},
    {"", "Less", 7, broadcast_6},
    {"", "LogSoftmax", 13, softmax_1},
    {"", "LpPool", 2, lp_pool_1},
    {"", "Mul", 7, broadcast_6},
    {"", "Or", 7, broadcast_6},
    {"", "PRelu", 7, prelu_6},
    {"", "Pow", 7, broadcast_6},
    {"", "RNN", 7, rnn_1},
    {"", "Resize", 13, resize_11},
    {"", "RoiAlign", 16, roi_align_10},
    {"", "Scan", 9, scan_8},
    {"", "Scatter", 11, scatter_9},
    {"", "Softmax", 13, softmax_1},
    {"", "Sub", 7, broadcast_6},
    {"", "Xor", 7, broadcast_6},
};

}  // namespace

std::span<const Adapter> compute_adapters() {
    return kAdapters;
}

}  // namespace planish::onnx_import
