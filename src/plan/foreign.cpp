// What a file is that is not a plan, so that the error can say what to do with it.
#include <algorithm>
#include <cstring>
#include <string>

#include "plan/container.hpp"
#include "plan/plan_io.hpp"

namespace planish::plan {
namespace {

bool starts_with(std::span<const std::byte> head, std::string_view magic) {
    return head.size() >= magic.size() && std::memcmp(head.data(), magic.data(), magic.size()) == 0;
}

bool is_text(std::span<const std::byte> head) {
    return std::all_of(head.begin(), head.end(), [](std::byte b) {
        const auto c = std::to_integer<unsigned char>(b);
        return c >= 0x20 || c == '\n' || c == '\r' || c == '\t';
    });
}

// A ModelProto begins with field 1 (ir_version, varint: tag 0x08), then usually field 2 (producer_name, tag 0x12) or
// 7 (graph, tag 0x3a) or 8 (opset_import, tag 0x42).
bool is_onnx(std::span<const std::byte> head) {
    if (head.size() < 4 || head[0] != std::byte{0x08}) return false;
    const auto version = std::to_integer<int>(head[1]);
    const auto next = std::to_integer<int>(head[2]);
    return version >= 1 && version < 64 &&
           (next == 0x12 || next == 0x1a || next == 0x22 || next == 0x3a || next == 0x42);
}

}  // namespace

std::string describe_foreign(std::span<const std::byte> head) {
    head = head.subspan(0, std::min<size_t>(head.size(), 512));
    if (head.empty()) return "an empty file";
    if (starts_with(head, std::string_view(kMagic, sizeof kMagic))) return {};
    if (is_onnx(head)) return "an ONNX model";
    if (starts_with(head, "PK\x03\x04")) return "a zip archive (a PyTorch checkpoint, a TorchScript or an .npz file)";
    if (starts_with(head, "\x93NUMPY")) return "a NumPy array";
    if (starts_with(head, "\x89HDF")) return "an HDF5 file";
    if (starts_with(head, "\x80\x02") || starts_with(head, "\x80\x04")) return "a Python pickle";
    if (head.size() >= 8 && starts_with(head.subspan(4), "TFL3")) return "a TensorFlow Lite model";
    if (is_text(head)) return "text";
    return "of an unknown format";
}

}  // namespace planish::plan
