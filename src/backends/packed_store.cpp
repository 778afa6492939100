// PackedStore: look up, pack once, forget what nobody can ask for again.
#include "backends/packed_store.hpp"

#include <algorithm>

#include "planish/error.hpp"

namespace planish {

Tensor PackedStore::get(const std::shared_ptr<const Tensor>& constant, const Packing& packing, int threads) {
    const PackedSource* stored = packed_source(*constant);
    if (stored != nullptr && stored->packing() == packing) return stored->packed();
    return get(constant, to_string(packing), packing.size(),
               [&](std::span<float> packed) { packing.pack(constant->raw(), packed.data(), threads); });
}

Tensor PackedStore::get(const std::shared_ptr<const Tensor>& constant, const std::string& layout,
                        const std::function<Tensor()>& pack) {
    const std::lock_guard lock(mutex_);
    const std::pair key(constant.get(), layout);
    if (const auto it = entries_.find(key); it != entries_.end() && !it->second.constant.expired())
        return it->second.packed;
    std::erase_if(entries_, [](const auto& item) { return item.second.constant.expired(); });
    Tensor packed = pack();
    entries_[key] = {constant, packed};
    return packed;
}

Tensor PackedStore::get(const std::shared_ptr<const Tensor>& constant, const std::string& layout, int64_t count,
                        const std::function<void(std::span<float>)>& fill) {
    Tensor packed = get(constant, layout, [&] {
        Tensor made = allocate(count);
        fill(made.data<float>());
        return made;
    });
    if (packed.size() != count)
        fail(ErrorCode::internal, "packed weights of form '" + layout + "' have " + std::to_string(packed.size()) +
                                      " floats where " + std::to_string(count) + " are read");
    return packed;
}

std::shared_ptr<const Tensor> PackedStore::derived(const std::shared_ptr<const Tensor>& constant,
                                                   const std::string& form,
                                                   const std::function<std::shared_ptr<const Tensor>()>& make) {
    const std::lock_guard lock(mutex_);
    const std::pair key(constant.get(), form);
    if (const auto it = entries_.find(key); it != entries_.end() && !it->second.constant.expired())
        return it->second.derived;
    std::shared_ptr<const Tensor> made = make();
    entries_[key] = {constant, *made, made};
    return made;
}

// Slabs grow, so that a small network does not take the memory of a large one.
Tensor PackedStore::allocate(int64_t count) {
    constexpr size_t kFirstSlab = size_t{512} << 10, kSlab = size_t{8} << 20;
    const auto bytes = static_cast<size_t>(byte_size(DType::f32, count));
    const size_t rounded =
        (bytes + AlignedBuffer::kAlignment - 1) / AlignedBuffer::kAlignment * AlignedBuffer::kAlignment;
    if (slab_ == nullptr || slab_->size() - used_ < rounded) {
        slab_ = std::make_shared<AlignedBuffer>(std::max(rounded, slab_ == nullptr ? kFirstSlab : kSlab));
        used_ = 0;
    }
    const std::byte* at = slab_->data() + used_;
    used_ += rounded;
    return Tensor(DType::f32, {count}, at, slab_);
}

int64_t PackedStore::bytes() const {
    const std::lock_guard lock(mutex_);
    int64_t total = 0;
    for (const auto& [key, entry] : entries_)
        if (!entry.constant.expired()) total += entry.packed.bytes();
    return total;
}

}  // namespace planish
