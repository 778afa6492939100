// Reference functions of control flow and regions: bodies are run by the interpreter.
#include <algorithm>

#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/interpreter.hpp"

namespace planish::reference {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}

void append_captures(RefContext& c, std::vector<RefValue>& inputs) {
    const int captures = static_cast<int>(c.integer("captures"));
    for (int i = c.input_count() - captures; i < c.input_count(); ++i) inputs.push_back(c.value(i));
}

/// Tensors of equal shape put side by side along a new axis.
Tensor stack(const std::vector<Tensor>& parts, int64_t axis, bool reversed, const Type& type) {
    if (parts.empty()) {  // no iteration ran: what the body's type says, with no element
        Dims dims{0};
        if (type.shape)
            for (const Dim& d : *type.shape) dims.push_back(d.value().value_or(0));
        return Tensor(type.dtype == DType::undefined ? DType::f32 : type.dtype, dims);
    }
    const Dims& slice = parts.front().dims();
    if (axis < 0) axis += static_cast<int64_t>(slice.size()) + 1;
    Dims dims = slice;
    dims.insert(dims.begin() + axis, static_cast<int64_t>(parts.size()));
    Tensor out(parts.front().dtype(), dims);
    Dims strides = row_major_strides(dims);
    const int64_t step = strides[at(axis)];
    strides.erase(strides.begin() + axis);
    for (size_t i = 0; i < parts.size(); ++i) {
        if (parts[i].dims() != slice)
            fail(ErrorCode::invalid_argument, "iterations give scan outputs of different shapes, " + to_string(slice) +
                                                  " and " + to_string(parts[i].dims()));
        const int64_t place = static_cast<int64_t>(reversed ? parts.size() - 1 - i : i);
        copy_strided(out, {place * step, strides}, parts[i], {0, row_major_strides(slice)}, slice);
    }
    return out;
}

Tensor slice_at(const Tensor& x, int64_t axis, int64_t index) {
    Dims dims = x.dims(), strides = row_major_strides(dims);
    const int64_t offset = index * strides[at(axis)];
    dims.erase(dims.begin() + axis);
    strides.erase(strides.begin() + axis);
    Tensor out(x.dtype(), dims);
    copy_strided(out, {0, row_major_strides(dims)}, x, {offset, strides}, dims);
    return out;
}

int64_t list_item(const std::vector<int64_t>& list, int64_t i) {
    return i < static_cast<int64_t>(list.size()) ? list[at(i)] : 0;
}

}  // namespace

void region(RefContext& c) {
    std::vector<RefValue> inputs;
    for (int i = 0; i < c.input_count(); ++i) inputs.push_back(c.value(i));
    std::vector<RefValue> outputs = run_graph(*c.node().subgraph("body"), std::move(inputs));
    for (size_t i = 0; i < outputs.size(); ++i) c.set_output(static_cast<int>(i), std::move(outputs[i]));
}

void if_(RefContext& c) {
    if (c.input(0).size() != 1) c.error("the condition is not a scalar");
    const bool taken = c.input(0).at_int64(0) != 0;
    std::vector<RefValue> inputs;
    append_captures(c, inputs);
    std::vector<RefValue> outputs =
        run_graph(*c.node().subgraph(taken ? "then_branch" : "else_branch"), std::move(inputs));
    for (size_t i = 0; i < outputs.size(); ++i) c.set_output(static_cast<int>(i), std::move(outputs[i]));
}

void loop(RefContext& c) {
    const Graph& body = *c.node().subgraph("body");
    const int carried = c.input_count() - static_cast<int>(c.integer("captures")) - 2;
    const int scanned = static_cast<int>(body.outputs().size()) - 1 - carried;
    const int64_t trips = c.has_input(0) ? c.input(0).at_int64(0) : INT64_MAX;
    bool condition = !c.has_input(1) || c.input(1).at_int64(0) != 0;
    std::vector<RefValue> state;
    for (int i = 0; i < carried; ++i) state.push_back(c.value(2 + i));
    std::vector<std::vector<Tensor>> scans(at(scanned));
    for (int64_t t = 0; t < trips && condition; ++t) {
        std::vector<RefValue> inputs{Tensor::scalar(t), Tensor::scalar(condition)};
        inputs.insert(inputs.end(), state.begin(), state.end());
        append_captures(c, inputs);
        std::vector<RefValue> outputs = run_graph(body, std::move(inputs));
        condition = outputs[0].tensor.at_int64(0) != 0;
        for (int i = 0; i < carried; ++i) state[at(i)] = std::move(outputs[at(1 + i)]);
        for (int i = 0; i < scanned; ++i) scans[at(i)].push_back(std::move(outputs[at(1 + carried + i)].tensor));
    }
    for (int i = 0; i < carried; ++i) c.set_output(i, std::move(state[at(i)]));
    for (int i = 0; i < scanned; ++i)
        c.set_output(carried + i, stack(scans[at(i)], 0, false, body.outputs()[at(1 + carried + i)]->type));
}

void scan(RefContext& c) {
    const Graph& body = *c.node().subgraph("body");
    const int64_t scanned = c.integer("num_scan_inputs");
    const int64_t states = c.input_count() - c.integer("captures") - scanned;
    const int64_t results = static_cast<int64_t>(body.outputs().size()) - states;
    std::vector<int64_t> axes;
    int64_t length = -1;
    for (int64_t i = 0; i < scanned; ++i) {
        const Tensor& x = c.input(static_cast<int>(states + i));
        int64_t axis = list_item(c.integers("scan_input_axes"), i);
        if (axis < 0) axis += x.rank();
        if (axis < 0 || axis >= x.rank()) c.error("a scanned axis does not exist");
        if (length >= 0 && x.dim(axis) != length) c.error("the scanned inputs differ in length");
        length = x.dim(axis);
        axes.push_back(axis);
    }
    std::vector<RefValue> state;
    for (int64_t i = 0; i < states; ++i) state.push_back(c.value(static_cast<int>(i)));
    std::vector<std::vector<Tensor>> scans(at(results));
    for (int64_t t = 0; t < length; ++t) {
        std::vector<RefValue> inputs = state;
        for (int64_t i = 0; i < scanned; ++i) {
            const bool backward = list_item(c.integers("scan_input_directions"), i) != 0;
            inputs.emplace_back(
                slice_at(c.input(static_cast<int>(states + i)), axes[at(i)], backward ? length - 1 - t : t));
        }
        append_captures(c, inputs);
        std::vector<RefValue> outputs = run_graph(body, std::move(inputs));
        for (int64_t i = 0; i < states; ++i) state[at(i)] = std::move(outputs[at(i)]);
        for (int64_t i = 0; i < results; ++i) scans[at(i)].push_back(std::move(outputs[at(states + i)].tensor));
    }
    for (int64_t i = 0; i < states; ++i) c.set_output(static_cast<int>(i), std::move(state[at(i)]));
    for (int64_t i = 0; i < results; ++i)
        c.set_output(static_cast<int>(states + i), stack(scans[at(i)], list_item(c.integers("scan_output_axes"), i),
                                                         list_item(c.integers("scan_output_directions"), i) != 0,
                                                         body.outputs()[at(states + i)]->type));
}

void sequence_map(RefContext& c) {
    const Graph& body = *c.node().subgraph("body");
    const int given = c.input_count() - static_cast<int>(c.integer("captures"));
    const size_t length = c.value(0).sequence.size();
    std::vector<RefValue> results(body.outputs().size());
    for (RefValue& r : results) r.kind = Kind::sequence;
    for (size_t t = 0; t < length; ++t) {
        std::vector<RefValue> inputs;
        for (int i = 0; i < given; ++i) {
            const RefValue& v = c.value(i);
            if (v.kind != Kind::sequence) {
                inputs.push_back(v);
            } else {
                if (v.sequence.size() != length) c.error("the sequences differ in length");
                inputs.emplace_back(v.sequence[t]);
            }
        }
        append_captures(c, inputs);
        std::vector<RefValue> outputs = run_graph(body, std::move(inputs));
        for (size_t i = 0; i < outputs.size(); ++i) results[i].sequence.push_back(std::move(outputs[i].tensor));
    }
    for (size_t i = 0; i < results.size(); ++i) c.set_output(static_cast<int>(i), std::move(results[i]));
}

}  // namespace planish::reference
