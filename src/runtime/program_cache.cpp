// ProgramCache: a short list under one mutex; compilation runs outside of it.
#include "runtime/program_cache.hpp"

#include <algorithm>

namespace planish::runtime {

std::shared_ptr<ProgramCache::Slot> ProgramCache::touch(std::span<const int64_t> key) {
    for (auto it = slots_.begin(); it != slots_.end(); ++it) {
        if (!std::ranges::equal((*it)->key, key)) continue;
        slots_.splice(slots_.begin(), slots_, it);
        return slots_.front();
    }
    return nullptr;
}

std::shared_ptr<const Prepared> ProgramCache::wait(const std::shared_ptr<Slot>& slot,
                                                   std::unique_lock<std::mutex>& lock) {
    changed_.wait(lock, [&] { return slot->done; });
    if (slot->error) std::rethrow_exception(slot->error);
    return slot->prepared;
}

std::shared_ptr<const Prepared> ProgramCache::find(std::span<const int64_t> key) {
    std::unique_lock lock(mutex_);
    const std::shared_ptr<Slot> slot = touch(key);
    return slot ? wait(slot, lock) : nullptr;
}

std::shared_ptr<const Prepared> ProgramCache::get(std::span<const int64_t> key,
                                                  FunctionRef<std::shared_ptr<const Prepared>()> make) {
    std::unique_lock lock(mutex_);
    if (const std::shared_ptr<Slot> slot = touch(key)) return wait(slot, lock);
    auto slot = std::make_shared<Slot>();
    slot->key.assign(key.begin(), key.end());
    slots_.push_front(slot);
    lock.unlock();
    std::shared_ptr<const Prepared> prepared;
    std::exception_ptr error;
    try {
        prepared = make();
    } catch (...) {
        error = std::current_exception();
    }
    lock.lock();
    slot->prepared = prepared;
    slot->error = error;
    slot->done = true;
    if (error) slots_.remove(slot);
    // Slots still being compiled are kept: their threads will look for them here.
    for (auto it = slots_.end(); slots_.size() > capacity_ && it != slots_.begin();) {
        --it;
        if ((*it)->done && *it != slot) it = slots_.erase(it);
    }
    changed_.notify_all();
    lock.unlock();
    if (error) std::rethrow_exception(error);
    return prepared;
}

void ProgramCache::for_each(FunctionRef<void(const Prepared&)> fn) const {
    const std::lock_guard lock(mutex_);
    for (const auto& slot : slots_)
        if (slot->done && slot->prepared) fn(*slot->prepared);
}

}  // namespace planish::runtime
