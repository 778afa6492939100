// Context: binds the caller's memory to a program and runs it. The steady path allocates nothing.
#include <algorithm>
#include <cstring>

#include "reference/interpreter.hpp"
#include "runtime/engine_impl.hpp"
#include "runtime/input_check.hpp"

namespace planish {
namespace {

/// A value that borrows the caller's memory. Strings are copied: their `data` is an array of std::string.
RefValue borrow(const TensorView& view) {
    if (view.dtype != DType::string) return Tensor(view.dtype, view.dims, view.data, nullptr);
    const auto* strings = static_cast<const std::string*>(view.data);
    const auto count = static_cast<size_t>(element_count(view.dims));
    return Tensor::from_strings(std::vector<std::string>(strings, strings + count), view.dims);
}

/// A view of a tensor's own memory; of a string tensor, of its array of std::string.
TensorView view_of(const Tensor& tensor) {
    void* data = tensor.dtype() == DType::string ? const_cast<std::string*>(tensor.strings().data())
                                                 : const_cast<void*>(tensor.raw());
    return {tensor.dtype(), tensor.dims(), data};
}

void check_output(const Value& output, const TensorView& view, DType dtype, const Dims& dims) {
    if (view.dtype == dtype && view.dims == dims && (view.data != nullptr || element_count(dims) == 0)) return;
    fail(ErrorCode::invalid_argument,
         "the array given for output '" + output.name + "' is " + std::string(to_string(view.dtype)) + " " +
             to_string(view.dims) + ", the result is " + std::string(to_string(dtype)) + " " + to_string(dims) +
             (view.data == nullptr ? " (and its data pointer is null)" : ""),
         "give a contiguous array of exactly that shape and element type");
}

void deliver(const Tensor& result, const Value& output, const TensorView& view) {
    check_output(output, view, result.dtype(), result.dims());
    if (result.dtype() == DType::string)
        std::copy(result.strings().begin(), result.strings().end(), static_cast<std::string*>(view.data));
    else if (result.bytes() > 0)
        std::memcpy(view.data, result.raw(), static_cast<size_t>(result.bytes()));
}

/// The interpreter's results may share memory with inputs or with the plan's constants: the caller gets copies.
std::vector<RefValue> own(std::vector<RefValue> values) {
    for (RefValue& value : values) {
        if (value.tensor) value.tensor = value.tensor.clone();
        for (Tensor& element : value.sequence) element = element.clone();
    }
    return values;
}

[[noreturn]] void fail_not_tensor(const Value& value) {
    fail(ErrorCode::unsupported, "'" + value.name + "' is a sequence or an optional, which this call cannot carry",
         "run it through the Python package, where it is a list");
}

}  // namespace

Context::Impl::Impl(std::shared_ptr<const Engine::Impl> shared) : engine(std::move(shared)) {
    views.resize(engine->inputs.size());
    targets.resize(engine->outputs.size());
    buffers.resize(engine->outputs.size());
    results.resize(engine->outputs.size());
}

void Context::Impl::bind(std::span<const NamedView> inputs) {
    const auto& known = engine->graph().inputs();
    std::fill(views.begin(), views.end(), nullptr);
    for (const NamedView& input : inputs) {
        const int index = engine->input_index(input.name);
        if (index < 0) runtime::fail_unknown_name("input", input.name, known);
        if (views[static_cast<size_t>(index)] != nullptr)
            fail(ErrorCode::invalid_argument, "input '" + std::string(input.name) + "' is given twice");
        views[static_cast<size_t>(index)] = &input.tensor;
    }
    for (size_t i = 0; i < views.size(); ++i)
        if (views[i] == nullptr) runtime::fail_missing(*known[i], known);
    if (!engine->tensors_only)
        for (const Value* value : known)
            if (value->type.kind != Kind::tensor) fail_not_tensor(*value);
    select();
}

void Context::Impl::select() {
    key.clear();
    for (const TensorView* view : views) {
        key.push_back(static_cast<int64_t>(view->dtype));
        key.push_back(static_cast<int64_t>(view->dims.size()));
        key.insert(key.end(), view->dims.begin(), view->dims.end());
        if (view->data == nullptr && std::ranges::find(view->dims, 0) == view->dims.end())
            runtime::check_inputs(engine->graph(), views);  // names the input
    }
    if (current && key == current_key) return;
    std::shared_ptr<const runtime::Prepared> found = engine->cache.find(key);
    if (!found) {
        runtime::check_inputs(engine->graph(), views);
        std::vector<Dims> shapes;
        for (const TensorView* view : views) shapes.push_back(view->dims);
        found = engine->prepare(key, shapes);
    }
    if (const Program* program = found->compiled.program.get()) {
        if (!state) state = engine->device.backend->create_state(engine->device.ordinal);
        if (static_cast<size_t>(program->arena_bytes()) > arena.size())
            arena = AlignedBuffer(static_cast<size_t>(program->arena_bytes()));
        input_pointers.resize(found->input_of_port.size());
    }
    current = std::move(found);
    current_key = key;
}

void* Context::Impl::own_buffer(size_t output, size_t bytes) {
    // Never empty: a kernel may be handed the address of a result without elements.
    if (buffers[output].size() < std::max<size_t>(bytes, 1))
        buffers[output] = AlignedBuffer(std::max<size_t>(bytes, 1));
    return buffers[output].data();
}

void Context::Impl::execute() {
    const Program& program = *current->compiled.program;
    for (size_t i = 0; i < targets.size(); ++i) {
        const Port& port = program.outputs()[i];
        if (targets[i] == nullptr)
            targets[i] = own_buffer(i, static_cast<size_t>(byte_size(port.dtype, element_count(port.dims))));
    }
    for (size_t i = 0; i < input_pointers.size(); ++i)
        input_pointers[i] = views[static_cast<size_t>(current->input_of_port[i])]->data;
    if (state)
        program.run_in(input_pointers, targets, *state, stream);
    else
        program.run(input_pointers, targets, arena.data(), engine->threads);
}

std::vector<RefValue> Context::Impl::interpret() {
    for (const TensorView* view : views)
        if (engine->device.ordinal >= 0 && engine->device.backend->is_device_memory(view->data, engine->device.ordinal))
            fail(ErrorCode::unsupported,
                 "the reference interpreter runs this plan on the CPU (" + current->compiled.interpreted +
                     "), it cannot read an array on the GPU",
                 "give host arrays");
    std::vector<RefValue> values;
    for (const TensorView* view : views) values.push_back(borrow(*view));
    return own(reference::run_graph(*current->compiled.graph, std::move(values)));
}

void Context::Impl::run(std::span<const NamedView> inputs, std::span<const NamedView> outputs) {
    const auto& known = engine->graph().outputs();
    for (const NamedView& output : outputs)
        if (engine->output_index(output.name) < 0) runtime::fail_unknown_name("output", output.name, known);
    bind(inputs);
    if (!current->compiled.program) {
        const std::vector<RefValue> values = interpret();
        for (const NamedView& output : outputs) {
            const auto index = static_cast<size_t>(engine->output_index(output.name));
            if (values[index].kind != Kind::tensor) fail_not_tensor(*known[index]);
            deliver(values[index].tensor, *known[index], output.tensor);
        }
        return;
    }
    std::fill(targets.begin(), targets.end(), nullptr);
    for (const NamedView& output : outputs) {
        const auto index = static_cast<size_t>(engine->output_index(output.name));
        const Port& port = current->compiled.program->outputs()[index];
        check_output(*known[index], output.tensor, port.dtype, port.dims);
        if (targets[index] != nullptr)
            fail(ErrorCode::invalid_argument, "output '" + std::string(output.name) + "' is asked for twice");
        targets[index] = output.tensor.data;
    }
    execute();
}

std::span<const TensorView> Context::Impl::run(std::span<const NamedView> inputs) {
    bind(inputs);
    if (!current->compiled.program) {
        interpreted = interpret();
        for (size_t i = 0; i < results.size(); ++i) {
            if (interpreted[i].kind != Kind::tensor) fail_not_tensor(*engine->graph().outputs()[i]);
            results[i] = view_of(interpreted[i].tensor);
        }
        return results;
    }
    std::fill(targets.begin(), targets.end(), nullptr);
    execute();
    for (size_t i = 0; i < results.size(); ++i) {
        const Port& port = current->compiled.program->outputs()[i];
        results[i].dtype = port.dtype;
        results[i].dims = port.dims;
        results[i].data = targets[i];
    }
    return results;
}

std::vector<RefValue> Context::Impl::run_values(const std::map<std::string, RefValue>& inputs) {
    if (!engine->tensors_only) {
        const auto& known = engine->graph().inputs();
        std::vector<RefValue> values(known.size());
        for (const auto& [name, value] : inputs)
            if (engine->input_index(name) < 0) runtime::fail_unknown_name("input", name, known);
        for (size_t i = 0; i < known.size(); ++i) {
            const auto it = inputs.find(known[i]->name);
            if (it == inputs.end()) runtime::fail_missing(*known[i], known);
            values[i] = it->second;
        }
        return own(reference::run_graph(engine->graph(), std::move(values)));
    }
    std::vector<NamedView> named;
    for (const auto& [name, value] : inputs) {
        if (value.kind != Kind::tensor)
            fail(ErrorCode::invalid_argument, "input '" + name + "' is given as a list but is a tensor",
                 "give one array");
        named.push_back({name, view_of(value.tensor)});
    }
    bind(named);
    if (!current->compiled.program) return interpret();
    std::vector<RefValue> values;
    for (size_t i = 0; i < targets.size(); ++i) {
        const Port& port = current->compiled.program->outputs()[i];
        values.emplace_back(Tensor(port.dtype, port.dims));
        targets[i] = values.back().tensor.raw();
    }
    execute();
    return values;
}

// ---- the public face

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;
Context::~Context() = default;

void Context::run(std::span<const NamedView> inputs, std::span<const NamedView> outputs) {
    impl_->run(inputs, outputs);
}

std::span<const TensorView> Context::run(std::span<const NamedView> inputs) {
    return impl_->run(inputs);
}

TensorMap Context::run(const TensorMap& inputs) {
    const std::map<std::string, RefValue> values(inputs.begin(), inputs.end());
    std::vector<RefValue> results = impl_->run_values(values);
    TensorMap map;
    for (size_t i = 0; i < results.size(); ++i) {
        const Value& output = *impl_->engine->graph().outputs()[i];
        if (results[i].kind != Kind::tensor) fail_not_tensor(output);
        map[output.name] = std::move(results[i].tensor);
    }
    return map;
}

}  // namespace planish
