// libFuzzer target: any bytes give a graph that passes the checker, or a planish::Error.
// Built with -DPLANISH_FUZZ=ON by clang; run as `planish_fuzz_onnx CORPUS_FOLDER`.
#include <cstddef>
#include <cstdint>
#include <span>

#include "importers/onnx/importer.hpp"
#include "planish/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        planish::check(*planish::onnx_import::import_bytes(std::as_bytes(std::span(data, size))));
    } catch (const planish::Error& e) {
        if (e.code() == planish::ErrorCode::internal) __builtin_trap();
    }
    return 0;
}
