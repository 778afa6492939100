// TensorSource: elements that a Tensor makes when somebody asks for them.
#pragma once

#include <atomic>
#include <mutex>

#include "planish/tensor.hpp"

namespace planish {

/// Thread-safe. All copies of a tensor share one source, so elements are made at most once.
class TensorSource {
  public:
    TensorSource() = default;
    TensorSource(const TensorSource&) = delete;
    TensorSource& operator=(const TensorSource&) = delete;
    virtual ~TensorSource() = default;

    const void* elements() const {
        std::call_once(once_, [this] {
            made_ = make();
            is_made_.store(true, std::memory_order_release);
        });
        return made_.raw();
    }
    /// Whether the elements take up memory.
    bool is_made() const { return is_made_.load(std::memory_order_acquire); }

  private:
    /// Row-major, of the tensor's own dtype and number of elements.
    virtual Tensor make() const = 0;

    mutable std::once_flag once_;
    mutable std::atomic<bool> is_made_ = false;
    mutable Tensor made_;
};

}  // namespace planish
