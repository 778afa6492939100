// .npy: a magic, a header that is a Python dict literal, then the elements. .npz: a zip of them, stored.
#include "cli/npy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "base/atomic_file.hpp"
#include "base/mapped_file.hpp"
#include "planish/error.hpp"

namespace planish::cli {
namespace {

using Bytes = std::span<const std::byte>;

[[noreturn]] void bad(const std::string& where, const std::string& what, std::string hint = {}) {
    fail(ErrorCode::invalid_argument, "'" + where + "' " + what, std::move(hint));
}

struct TypeRow {
    std::string_view code;
    DType dtype;
};
constexpr TypeRow kTypes[] = {{"f4", DType::f32}, {"f8", DType::f64},  {"f2", DType::f16}, {"i1", DType::i8},
                              {"i2", DType::i16}, {"i4", DType::i32},  {"i8", DType::i64}, {"u1", DType::u8},
                              {"u2", DType::u16}, {"u4", DType::u32},  {"u8", DType::u64}, {"b1", DType::boolean},
                              {"c8", DType::c64}, {"c16", DType::c128}};

template <typename T>
T read_as(Bytes bytes, size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
}

/// The text after `'key':` in the header's dict literal.
std::string_view field(std::string_view header, std::string_view key, const std::string& where) {
    const size_t at = header.find(fmt::format("'{}':", key));
    if (at == std::string_view::npos) bad(where, "is not a valid .npy file: its header has no " + std::string(key));
    std::string_view rest = header.substr(at + key.size() + 3);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    return rest;
}

/// Column-major elements put in row-major order.
Tensor from_fortran(const Tensor& source) {
    Tensor result(source.dtype(), source.dims());
    const auto size = static_cast<size_t>(byte_size(source.dtype(), 1));
    const auto rank = static_cast<size_t>(source.rank());
    std::vector<int64_t> index(rank, 0), stride(rank, 1);
    for (size_t d = 1; d < rank; ++d) stride[d] = stride[d - 1] * source.dims()[d - 1];
    for (int64_t i = 0; i < source.size(); ++i) {
        int64_t from = 0;
        for (size_t d = 0; d < rank; ++d) from += index[d] * stride[d];
        std::memcpy(static_cast<std::byte*>(result.raw()) + static_cast<size_t>(i) * size,
                    static_cast<const std::byte*>(source.raw()) + static_cast<size_t>(from) * size, size);
        for (size_t d = rank; d-- > 0;) {
            if (++index[d] < source.dims()[d]) break;
            index[d] = 0;
        }
    }
    return result;
}

Tensor parse_npy(Bytes bytes, const std::string& where) {
    constexpr std::string_view kMagic = "\x93NUMPY";
    if (bytes.size() < 10 || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
        bad(where, "is not a .npy file", "write it with numpy.save");
    const int major = std::to_integer<int>(bytes[6]);
    size_t start = 10, length = 0;
    if (major == 1) {
        length = read_as<uint16_t>(bytes, 8);
    } else {
        if (bytes.size() < 12) bad(where, "is truncated");
        length = read_as<uint32_t>(bytes, 8);
        start = 12;
    }
    if (length > bytes.size() - start) bad(where, "is truncated");
    const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + start, length);
    const Bytes payload = bytes.subspan(start + length);

    const std::string_view descr = field(header, "descr", where);
    const size_t quote = descr.find('\'', 1);
    if (!descr.starts_with('\'') || quote == std::string_view::npos || quote < 3)
        bad(where, "holds structured elements", "save one plain array");
    const char order = descr[1];
    const std::string_view code = descr.substr(2, quote - 2);
    const auto* row =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeRow& r) { return r.code == code; });
    if (row == std::end(kTypes) || order == '>')
        bad(where, "has element type " + std::string(descr.substr(0, quote + 1)) + ", which is not read here",
            "convert it, in NumPy x.astype(\"float32\")");

    Dims dims;
    std::string_view shape = field(header, "shape", where);
    shape = shape.substr(0, shape.find(')'));
    for (size_t i = 0; i < shape.size();) {
        int64_t value = 0;
        const auto [end, error] = std::from_chars(shape.data() + i, shape.data() + shape.size(), value);
        if (error == std::errc()) {
            dims.push_back(value);
            i = static_cast<size_t>(end - shape.data());
        } else {
            ++i;
        }
    }
    const auto needed = static_cast<uint64_t>(byte_size(row->dtype, element_count(dims)));
    if (needed > payload.size())
        bad(where, fmt::format("is truncated: shape {} needs {} bytes of data, {} are there", to_string(dims), needed,
                               payload.size()));
    Tensor tensor(row->dtype, dims);
    if (needed > 0) std::memcpy(tensor.raw(), payload.data(), needed);
    return field(header, "fortran_order", where).starts_with("True") ? from_fortran(tensor) : tensor;
}

std::string npy_bytes(const Tensor& tensor) {
    std::string_view code;
    for (const TypeRow& row : kTypes)
        if (row.dtype == tensor.dtype()) code = row.code;
    Dims dims = tensor.dims();
    if (code.empty()) {
        if (tensor.dtype() == DType::string)
            fail(ErrorCode::unsupported, "strings cannot be written as .npy", "use --json to see them");
        code = bit_width(tensor.dtype()) == 16 ? "u2" : "u1";
        if (bit_width(tensor.dtype()) < 8) dims = {tensor.bytes()};
    }
    std::string shape;
    for (int64_t d : dims) shape += std::to_string(d) + (dims.size() == 1 ? "," : &d == &dims.back() ? "" : ", ");
    const char order = code == "i1" || code == "u1" || code == "b1" ? '|' : '<';
    std::string header =
        fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}), }}", order, code, shape);
    // The data begins at a multiple of 64 bytes; the header ends in a newline.
    header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
    header += '\n';
    std::string result = "\x93NUMPY";
    result += '\x01';
    result += '\0';
    result += static_cast<char>(header.size() & 0xff);
    result += static_cast<char>(header.size() >> 8);
    result += header;
    result.append(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
    return result;
}

uint32_t crc32(std::string_view bytes) {
    static const auto table = [] {
        std::array<uint32_t, 256> t{};
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t c = i;
            for (int k = 0; k < 8; ++k) c = (c >> 1) ^ ((c & 1) ? 0xedb88320u : 0);
            t[i] = c;
        }
        return t;
    }();
    uint32_t c = 0xffffffffu;
    for (char byte : bytes) c = table[(c ^ static_cast<uint8_t>(byte)) & 0xff] ^ (c >> 8);
    return ~c;
}

void put(std::string& out, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

}  // namespace

Tensor read_npy(const std::filesystem::path& path) {
    const MappedFile file(path);
    return parse_npy(file.bytes(), path.string());
}

std::map<std::string, Tensor> read_npz(const std::filesystem::path& path) {
    const MappedFile file(path);
    const Bytes bytes = file.bytes();
    const std::string where = path.string();
    // The end-of-central-directory record lies in the last 64 kB.
    size_t end = std::string::npos;
    for (size_t i = bytes.size() < 22 ? 0 : bytes.size() - 21; i-- > 0 && bytes.size() - i < 65558;)
        if (read_as<uint32_t>(bytes, i) == 0x06054b50u) {
            end = i;
            break;
        }
    if (end == std::string::npos) bad(where, "is not an .npz archive", "write it with numpy.savez");
    const uint32_t count = read_as<uint16_t>(bytes, end + 10);
    size_t at = read_as<uint32_t>(bytes, end + 16);
    std::map<std::string, Tensor> result;
    for (uint32_t i = 0; i < count; ++i) {
        if (at > bytes.size() || bytes.size() - at < 46 || read_as<uint32_t>(bytes, at) != 0x02014b50u)
            bad(where, "has a damaged directory");
        const int method = read_as<uint16_t>(bytes, at + 10);
        const uint64_t size = read_as<uint32_t>(bytes, at + 20);
        const size_t name_length = read_as<uint16_t>(bytes, at + 28);
        const size_t skip = name_length + read_as<uint16_t>(bytes, at + 30) + read_as<uint16_t>(bytes, at + 32);
        const size_t local = read_as<uint32_t>(bytes, at + 42);
        if (bytes.size() - at - 46 < skip || local > bytes.size() || bytes.size() - local < 30)
            bad(where, "has a damaged directory");
        std::string name(reinterpret_cast<const char*>(bytes.data()) + at + 46, name_length);
        if (method != 0) bad(where, "is compressed", "write it with numpy.savez, not savez_compressed");
        const size_t data = local + 30 + read_as<uint16_t>(bytes, local + 26) + read_as<uint16_t>(bytes, local + 28);
        if (data > bytes.size() || size > bytes.size() - data) bad(where, "is truncated at '" + name + "'");
        const Tensor tensor = parse_npy(bytes.subspan(data, size), where + ":" + name);
        if (name.ends_with(".npy")) name.resize(name.size() - 4);
        result[name] = tensor;
        at += 46 + skip;
    }
    return result;
}

void write_npy(const std::filesystem::path& path, const Tensor& tensor) {
    const std::string bytes = npy_bytes(tensor);
    write_file_atomically(path, std::as_bytes(std::span(bytes)));
}

void write_npz(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors) {
    std::string out, directory;
    for (const auto& [name, tensor] : tensors) {
        const std::string content = npy_bytes(tensor), entry = name + ".npy";
        if (out.size() + content.size() > 0xffffffffu)
            fail(ErrorCode::unsupported, "an .npz of more than 4 GB is not written here", "write one .npy per output");
        std::string common;
        put(common, 20, 2);      // version needed
        put(common, 0, 2);       // flags
        put(common, 0, 2);       // stored
        put(common, 0, 2);       // time
        put(common, 0x0021, 2);  // 1980-01-01
        put(common, crc32(content), 4);
        put(common, content.size(), 4);
        put(common, content.size(), 4);
        put(common, entry.size(), 2);
        put(common, 0, 2);
        put(directory, 0x02014b50u, 4);
        put(directory, 20, 2);
        directory += common;
        put(directory, 0, 2 + 2 + 2);  // comment, disk, internal attributes
        put(directory, 0, 4);
        put(directory, out.size(), 4);
        directory += entry;
        put(out, 0x04034b50u, 4);
        out += common + entry + content;
    }
    const size_t start = out.size();
    out += directory;
    put(out, 0x06054b50u, 4);
    put(out, 0, 4);
    put(out, tensors.size(), 2);
    put(out, tensors.size(), 2);
    put(out, directory.size(), 4);
    put(out, start, 4);
    put(out, 0, 2);
    write_file_atomically(path, std::as_bytes(std::span(out)));
}

}  // namespace planish::cli
