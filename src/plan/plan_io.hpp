// Plans as bytes: a container of 64-byte aligned blobs (weights) beside a FlatBuffers description.
//
//     offset 0    Header: magic "PLANISH\0", format version, file length, where the description lies, checksums
//     64          blobs, each at a multiple of 64 bytes, each distinct content once
//     ...         description (plan.fbs), which names blobs by offset, length and checksum
//
// Offsets are 64 bits wide. Equal contents give equal bytes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "plan/contents.hpp"

namespace planish::plan {

/// Writes through a temporary file beside `path` and a rename. Errors: io_error naming the path.
void write(const PlanContents& contents, const std::filesystem::path& path);
std::vector<std::byte> write_bytes(const PlanContents& contents);

/// Throws what write() would throw for a `path` that cannot be written, before the work of making a plan.
void check_writable(const std::filesystem::path& path);

struct ReadOptions {
    /// Compare every weight with its checksum, at about the speed of memory. The description is always compared.
    bool verify_blobs = true;
};

/// Maps the file; constants borrow the mapping. Damaged input gives invalid_plan, never undefined behaviour: the
/// description is verified, every offset, size, dtype and index is checked, and the graph passes the IR's checker.
PlanContents read(const std::filesystem::path& path, const ReadOptions& options = {});
/// `keep_alive` holds the bytes alive; null: they are copied first.
PlanContents read(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive,
                  const ReadOptions& options = {});

/// "an ONNX model", "a zip archive (PyTorch checkpoint?)", "text", ...; empty when the bytes begin like a plan.
std::string describe_foreign(std::span<const std::byte> head);

}  // namespace planish::plan
