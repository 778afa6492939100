// The C ABI: planish.h over the C++ API. Every function catches everything.
#include <algorithm>
#include <cstring>
#include <new>

#include "planish/planish.h"
#include "planish/planish.hpp"
#include "runtime/engine_impl.hpp"

namespace {

using planish::ErrorCode;

struct LastError {
    planish_status status = PLANISH_OK;
    std::string message, hint;
};
thread_local LastError last_error;

planish_status status_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::invalid_argument:
            return PLANISH_INVALID_ARGUMENT;
        case ErrorCode::invalid_model:
            return PLANISH_INVALID_MODEL;
        case ErrorCode::invalid_plan:
            return PLANISH_INVALID_PLAN;
        case ErrorCode::unsupported:
            return PLANISH_UNSUPPORTED;
        case ErrorCode::not_found:
            return PLANISH_NOT_FOUND;
        case ErrorCode::io_error:
            return PLANISH_IO_ERROR;
        case ErrorCode::verification_failed:
            return PLANISH_VERIFICATION_FAILED;
        case ErrorCode::resource_exhausted:
            return PLANISH_RESOURCE_EXHAUSTED;
        case ErrorCode::internal:
            return PLANISH_INTERNAL;
    }
    return PLANISH_INTERNAL;
}

planish_status set_error(planish_status status, const char* message, const char* hint) noexcept {
    last_error.status = status;
    try {
        last_error.message = message;
        last_error.hint = hint;
    } catch (...) {
        last_error.message.clear();
        last_error.hint.clear();
    }
    return status;
}

/// Runs `fn`; whatever it throws becomes the thread's last error.
template <typename Fn>
planish_status guard(Fn&& fn) noexcept {
    try {
        fn();
        return PLANISH_OK;
    } catch (const planish::Error& error) {
        return set_error(status_of(error.code()), error.message().c_str(), error.hint().c_str());
    } catch (const std::bad_alloc&) {
        return set_error(PLANISH_RESOURCE_EXHAUSTED, "out of memory", "");
    } catch (const std::exception& error) {
        return set_error(PLANISH_INTERNAL, error.what(), "");
    } catch (...) {
        return set_error(PLANISH_INTERNAL, "unknown exception", "");
    }
}

void require(const void* pointer, const char* what) {
    if (pointer == nullptr) planish::fail(ErrorCode::invalid_argument, std::string(what) + " is NULL");
}

/// A TensorInfo in the C layout.
struct InfoRow {
    std::string name;
    std::vector<int64_t> dims;
    std::vector<std::string> texts;
    std::vector<const char*> symbols;
    planish_tensor_info info{};

    explicit InfoRow(const planish::TensorInfo& source) : name(source.name), texts(source.shape) {
        for (const std::string& text : texts) {
            const bool number = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
            dims.push_back(number ? std::stoll(text) : -1);
            symbols.push_back(text.c_str());
        }
        info = {name.c_str(), static_cast<int32_t>(source.dtype),
                source.ranked ? static_cast<int32_t>(dims.size()) : -1, dims.data(), symbols.data()};
    }
    InfoRow(const InfoRow&) = delete;
};

planish::LoadOptions convert(const planish_load_options* options) {
    planish::LoadOptions result;
    if (options == nullptr) return result;
    if (options->device != nullptr) result.device = options->device;
    result.threads = options->threads;
    if (options->cached_shapes != 0) result.cached_shapes = options->cached_shapes;
    return result;
}

planish::TensorView view_of(const planish_tensor& tensor) {
    const std::string name = tensor.name;
    if (tensor.dtype <= 0 || tensor.dtype > static_cast<int32_t>(planish::DType::i2) ||
        tensor.dtype == static_cast<int32_t>(planish::DType::string))
        planish::fail(ErrorCode::invalid_argument, "tensor '" + name + "' has dtype " + std::to_string(tensor.dtype),
                      "use ONNX's TensorProto.DataType numbers; strings are not carried by the C ABI");
    if (tensor.rank < 0 || tensor.rank > 64)
        planish::fail(ErrorCode::invalid_argument, "tensor '" + name + "' has rank " + std::to_string(tensor.rank));
    if (tensor.rank > 0) require(tensor.dims, "a tensor's dims");
    planish::TensorView view{static_cast<planish::DType>(tensor.dtype), {}, tensor.data};
    if (tensor.rank > 0) view.dims.assign(tensor.dims, tensor.dims + tensor.rank);
    return view;
}

}  // namespace

struct planish_engine {
    planish::Engine engine;
    std::vector<std::unique_ptr<InfoRow>> inputs, outputs;

    explicit planish_engine(planish::Engine loaded) : engine(std::move(loaded)) {
        for (const auto& info : engine.inputs()) inputs.push_back(std::make_unique<InfoRow>(info));
        for (const auto& info : engine.outputs()) outputs.push_back(std::make_unique<InfoRow>(info));
    }
};

struct planish_context {
    planish::Context::Impl context;
    std::vector<planish::NamedView> inputs;
    std::vector<size_t> indices;               // of the outputs asked for
    std::vector<planish::TensorView> results;  // of all outputs

    explicit planish_context(const planish::Engine& engine) : context(engine.shared_impl()) {}

    /// Runs into the caller's memory where it was given, else into the context's.
    void run(planish_tensor* outputs, size_t count) {
        results.resize(context.targets.size());
        context.bind(inputs);
        const planish::Program* program = context.current->compiled.program.get();
        if (program == nullptr) {
            const auto views = context.run(inputs);
            results.assign(views.begin(), views.end());
            return;
        }
        std::fill(context.targets.begin(), context.targets.end(), nullptr);
        for (size_t i = 0; i < count; ++i) {
            const planish::Port& port = program->outputs()[indices[i]];
            if (outputs[i].data == nullptr) continue;
            const auto bytes = static_cast<size_t>(byte_size(port.dtype, planish::element_count(port.dims)));
            if (outputs[i].bytes < bytes) fail_too_small(outputs[i], bytes);
            context.targets[indices[i]] = outputs[i].data;
        }
        context.execute();
        for (size_t k = 0; k < results.size(); ++k) {
            results[k].dtype = program->outputs()[k].dtype;
            results[k].dims = program->outputs()[k].dims;
            results[k].data = context.targets[k];
        }
    }

    [[noreturn]] static void fail_too_small(const planish_tensor& output, size_t bytes) {
        planish::fail(ErrorCode::invalid_argument, "output '" + std::string(output.name) + "' needs " +
                                                       std::to_string(bytes) + " bytes, its memory has " +
                                                       std::to_string(output.bytes));
    }
};

extern "C" {

const char* planish_version(void) {
    static const std::string text(planish::version());
    return text.c_str();
}

planish_status planish_last_error_code(void) {
    return last_error.status;
}
const char* planish_last_error_message(void) {
    return last_error.message.c_str();
}
const char* planish_last_error_hint(void) {
    return last_error.hint.c_str();
}

const char* planish_status_name(planish_status status) {
    if (status == PLANISH_OK) return "ok";
    for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code)
        if (status_of(static_cast<ErrorCode>(code)) == status)
            return to_string(static_cast<ErrorCode>(code)).data();  // a literal: ends in NUL
    return "unknown";
}

planish_status planish_load(const char* path, const planish_load_options* options, planish_engine** engine) {
    return guard([&] {
        require(path, "path");
        require(engine, "engine");
        *engine = nullptr;
        *engine = new planish_engine(planish::load(std::filesystem::path(path), convert(options)));
    });
}

planish_status planish_load_bytes(const void* data, size_t size, const planish_load_options* options,
                                  planish_engine** engine) {
    return guard([&] {
        if (size > 0) require(data, "data");
        require(engine, "engine");
        *engine = nullptr;
        const std::span bytes(static_cast<const std::byte*>(data), size);
        *engine = new planish_engine(planish::load(bytes, convert(options)));
    });
}

void planish_engine_free(planish_engine* engine) {
    delete engine;
}

size_t planish_input_count(const planish_engine* engine) {
    return engine ? engine->inputs.size() : 0;
}
size_t planish_output_count(const planish_engine* engine) {
    return engine ? engine->outputs.size() : 0;
}

static planish_status tensor_info(const planish_engine* engine, bool input, size_t index, planish_tensor_info* info) {
    return guard([&] {
        require(engine, "engine");
        require(info, "info");
        const auto& rows = input ? engine->inputs : engine->outputs;
        if (index >= rows.size())
            planish::fail(ErrorCode::invalid_argument,
                          "index " + std::to_string(index) + " of " + std::to_string(rows.size()));
        *info = rows[index]->info;
    });
}

planish_status planish_input_info(const planish_engine* engine, size_t index, planish_tensor_info* info) {
    return tensor_info(engine, true, index, info);
}
planish_status planish_output_info(const planish_engine* engine, size_t index, planish_tensor_info* info) {
    return tensor_info(engine, false, index, info);
}

planish_status planish_context_create(const planish_engine* engine, planish_context** context) {
    return guard([&] {
        require(engine, "engine");
        require(context, "context");
        *context = nullptr;
        *context = new planish_context(engine->engine);
    });
}

void planish_context_free(planish_context* context) {
    delete context;
}

planish_status planish_run(planish_context* context, const planish_tensor* inputs, size_t input_count,
                           planish_tensor* outputs, size_t output_count) {
    return guard([&] {
        require(context, "context");
        if (input_count > 0) require(inputs, "inputs");
        if (output_count > 0) require(outputs, "outputs");
        context->inputs.clear();
        for (size_t i = 0; i < input_count; ++i) {
            require(inputs[i].name, "an input's name");
            const planish::TensorView view = view_of(inputs[i]);
            const int64_t bytes = byte_size(view.dtype, planish::element_count(view.dims));
            if (static_cast<uint64_t>(bytes) > inputs[i].bytes)
                planish::fail(ErrorCode::invalid_argument, "input '" + std::string(inputs[i].name) + "' needs " +
                                                               std::to_string(bytes) + " bytes and has " +
                                                               std::to_string(inputs[i].bytes));
            context->inputs.push_back({inputs[i].name, view});
        }
        context->indices.clear();
        for (size_t i = 0; i < output_count; ++i) {
            require(outputs[i].name, "an output's name");
            const int index = context->context.engine->output_index(outputs[i].name);
            if (index < 0)
                planish::fail(ErrorCode::invalid_argument,
                              "there is no output named '" + std::string(outputs[i].name) + "'");
            context->indices.push_back(static_cast<size_t>(index));
        }
        context->run(outputs, output_count);
        for (size_t i = 0; i < output_count; ++i) {
            planish::TensorView& result = context->results[context->indices[i]];
            if (result.dtype == planish::DType::string)
                planish::fail(ErrorCode::unsupported, "output '" + std::string(outputs[i].name) +
                                                          "' holds strings, which the C ABI cannot carry");
            const auto bytes = static_cast<size_t>(byte_size(result.dtype, planish::element_count(result.dims)));
            if (outputs[i].data == nullptr) {
                outputs[i].data = result.data;
            } else if (outputs[i].data != result.data) {
                if (outputs[i].bytes < bytes) planish_context::fail_too_small(outputs[i], bytes);
                std::memcpy(outputs[i].data, result.data, bytes);
            }
            outputs[i].dtype = static_cast<int32_t>(result.dtype);
            outputs[i].rank = static_cast<int32_t>(result.dims.size());
            outputs[i].dims = result.dims.data();
            outputs[i].bytes = bytes;
        }
    });
}

}  // extern "C"
