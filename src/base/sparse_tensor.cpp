// Bitmap and elements, and back.
#include "base/sparse_tensor.hpp"

#include <bit>
#include <cstring>
#include <span>

namespace planish {
namespace {

constexpr int64_t kWordBits = 64, kWordBytes = 8;

int64_t words_of(int64_t elements) {
    return (elements + kWordBits - 1) / kWordBits;
}

/// 0 where elements are not whole bytes.
int64_t element_bytes(DType dtype) {
    return dtype == DType::string || byte_size(dtype, 2) != 2 * byte_size(dtype, 1) ? 0 : byte_size(dtype, 1);
}

uint64_t word_at(const std::byte* bitmap, int64_t index) {
    uint64_t word = 0;
    std::memcpy(&word, bitmap + index * kWordBytes, sizeof word);
    return word;
}

int64_t count(const std::byte* bitmap, int64_t words) {
    int64_t sum = 0;
    for (int64_t i = 0; i < words; ++i) sum += std::popcount(word_at(bitmap, i));
    return sum;
}

bool is_zero(const std::byte* element, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i)
        if (element[i] != std::byte{0}) return false;
    return true;
}

}  // namespace

bool SparseSource::is_valid(DType dtype, int64_t elements, std::span<const std::byte> stored) {
    const int64_t size = element_bytes(dtype), words = words_of(elements), bytes = std::ssize(stored);
    if (size == 0 || bytes / kWordBytes < words) return false;
    if (elements % kWordBits != 0 && word_at(stored.data(), words - 1) >> (elements % kWordBits) != 0) return false;
    return bytes - words * kWordBytes == count(stored.data(), words) * size;
}

int64_t SparseSource::nonzeros() const {
    return (stored_.bytes() - words_of(elements_) * kWordBytes) / element_bytes(dtype_);
}

Tensor SparseSource::make() const {
    Tensor tensor(dtype_, {elements_});
    const int64_t size = element_bytes(dtype_), words = words_of(elements_);
    const auto* bitmap = static_cast<const std::byte*>(stored_.raw());
    const std::byte* from = bitmap + words * kWordBytes;
    auto* to = static_cast<std::byte*>(tensor.raw());
    std::memset(to, 0, static_cast<size_t>(tensor.bytes()));
    for (int64_t i = 0; i < words; ++i)
        for (uint64_t word = word_at(bitmap, i); word != 0; word &= word - 1) {
            std::memcpy(to + (i * kWordBits + std::countr_zero(word)) * size, from, static_cast<size_t>(size));
            from += size;
        }
    return tensor;
}

Tensor compressed(const Tensor& constant) {
    const int64_t size = element_bytes(constant.dtype()), elements = constant.size(), words = words_of(elements);
    if (size == 0 || sparse_source(constant) != nullptr) return constant;
    const auto* from = static_cast<const std::byte*>(constant.raw());
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < elements; ++i) nonzeros += is_zero(from + i * size, size) ? 0 : 1;
    const int64_t bytes = words * kWordBytes + nonzeros * size;
    if (10 * bytes > 9 * constant.bytes()) return constant;
    Tensor stored(DType::u8, {bytes});
    auto* bitmap = static_cast<std::byte*>(stored.raw());
    std::byte* to = bitmap + words * kWordBytes;
    for (int64_t i = 0; i < words; ++i) {
        uint64_t word = 0;
        for (int64_t bit = 0; bit < std::min(kWordBits, elements - i * kWordBits); ++bit) {
            const std::byte* element = from + (i * kWordBits + bit) * size;
            if (is_zero(element, size)) continue;
            word |= uint64_t{1} << bit;
            std::memcpy(to, element, static_cast<size_t>(size));
            to += size;
        }
        std::memcpy(bitmap + i * kWordBytes, &word, sizeof word);
    }
    return Tensor(constant.dtype(), constant.dims(),
                  std::make_shared<const SparseSource>(constant.dtype(), elements, std::move(stored)));
}

const SparseSource* sparse_source(const Tensor& constant) {
    return dynamic_cast<const SparseSource*>(constant.source());
}

}  // namespace planish
