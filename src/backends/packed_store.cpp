// PackedStore: look up, pack once, forget what nobody can ask for again.
#include "backends/packed_store.hpp"

namespace planish {

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

int64_t PackedStore::bytes() const {
    const std::lock_guard lock(mutex_);
    int64_t total = 0;
    for (const auto& [key, entry] : entries_)
        if (!entry.constant.expired()) total += entry.packed.bytes();
    return total;
}

}  // namespace planish
