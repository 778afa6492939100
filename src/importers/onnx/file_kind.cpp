// Magic numbers of the formats that people hand to an ONNX importer by mistake.
#include "importers/onnx/file_kind.hpp"

#include <algorithm>
#include <string_view>

#include "planish/error.hpp"

namespace planish::onnx_import {
namespace {

struct Foreign {
    std::string_view magic;
    size_t offset;
    std::string_view what;
    std::string_view hint;
};

using namespace std::string_view_literals;

constexpr std::string_view kTorchHint =
    "export it with torch.onnx.export, or give the torch.nn.Module itself to planish.build";

constexpr Foreign kForeign[] = {
    {"PLANISH\0"sv, 0, "a Planish plan, not an ONNX model",
     "it is built already: use planish.load or `planish run`, or give the ONNX file it was built from"},
    {"\x89HDF\r\n"sv, 0, "an HDF5 file (Keras?), not an ONNX model", "convert it with tf2onnx"},
    {"TFL3"sv, 4, "a TensorFlow Lite model, not an ONNX model", "convert it with tf2onnx --tflite"},
    {"ORTM"sv, 4, "a model in ONNX Runtime's own format, not an ONNX model", "give the .onnx file it was made from"},
    {"\x93NUMPY"sv, 0, "a NumPy array, not an ONNX model", "give the .onnx file"},
    {"\x1f\x8b"sv, 0, "gzip-compressed", "decompress it first (gunzip)"},
    {"BZh"sv, 0, "bzip2-compressed", "decompress it first (bunzip2)"},
    {"\xfd"
     "7zXZ"sv,
     0, "xz-compressed", "decompress it first (unxz)"},
    {"7z\xbc\xaf"sv, 0, "a 7-zip archive", "unpack it first"},
    {"ustar"sv, 257, "a tar archive", "unpack it and give the .onnx file inside"},
    {"GGUF"sv, 0, "a GGUF file (llama.cpp), not an ONNX model", "export the original model to ONNX"},
    {"\x7f"
     "ELF"sv,
     0, "a program or shared library, not an ONNX model", "give the .onnx file"},
};

constexpr std::pair<std::string_view, Foreign> kText[] = {
    {"version https://git-lfs",
     {{}, 0, "a Git LFS pointer, not the model itself", "fetch the file with `git lfs pull`"}},
    {"<!DOCTYPE html",
     {{}, 0, "an HTML page, not an ONNX model", "the download probably failed: fetch the file again"}},
    {"<html", {{}, 0, "an HTML page, not an ONNX model", "the download probably failed: fetch the file again"}},
    {"<?xml", {{}, 0, "XML (OpenVINO IR?), not an ONNX model", "give the .onnx file that it was made from"}},
};

// No control characters, and mostly ASCII (text in other scripts still has its spaces and punctuation).
bool is_text(std::string_view head) {
    const bool printable = std::all_of(head.begin(), head.end(), [](unsigned char c) {
        return (c >= 0x20 && c != 0x7f) || c == '\n' || c == '\r' || c == '\t';
    });
    const auto ascii = std::count_if(head.begin(), head.end(), [](unsigned char c) { return c < 0x80; });
    return printable && static_cast<size_t>(ascii) * 2 > head.size();
}

[[noreturn]] void refuse(const std::string& name, std::string_view what, std::string_view hint) {
    fail(ErrorCode::invalid_model, name + " is " + std::string(what), std::string(hint));
}

}  // namespace

void refuse_foreign(std::span<const std::byte> bytes, const std::string& name) {
    const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (all.empty()) refuse(name, "empty", "the export or download did not finish: write the model again");
    for (const Foreign& f : kForeign)
        if (all.size() >= f.offset && all.substr(f.offset).starts_with(f.magic)) refuse(name, f.what, f.hint);

    const std::string_view head = all.substr(0, 4096);
    if (head.starts_with("PK\x03\x04")) {
        if (head.find("data.pkl") != head.npos || head.find("archive_format") != head.npos ||
            head.find("models/model.json") != head.npos)
            refuse(name, "a PyTorch checkpoint or program (.pt), not an ONNX model", kTorchHint);
        if (head.find(".npy") != head.npos)
            refuse(name, "an .npz archive of arrays, not an ONNX model", "give the .onnx file");
        refuse(name, "a zip archive, not an ONNX model", "unpack it and give the .onnx file inside");
    }
    // Pickle protocols 2-5: PROTO opcode, then a frame, a mapping, a global or a long (PyTorch's legacy magic).
    if (head.size() > 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
        refuse(name, "a Python pickle (an old PyTorch checkpoint?), not an ONNX model", kTorchHint);
    if (head.size() >= 8 && is_text(head)) {
        const std::string_view body = head.substr(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
        for (const auto& [start, f] : kText)
            if (body.starts_with(start)) refuse(name, f.what, f.hint);
        if (body.starts_with("{") || body.starts_with("["))
            refuse(name, "JSON text, not an ONNX model", "give the binary .onnx file");
        refuse(name, "text, not an ONNX model (which is binary protobuf)",
               "give the .onnx file; text made with onnx.printer is turned back by onnx.parser");
    }
}

}  // namespace planish::onnx_import
