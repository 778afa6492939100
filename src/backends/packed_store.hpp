// Packed weights shared by programs, dropped when the constant that they were made from is gone.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "backends/packing.hpp"
#include "base/aligned_buffer.hpp"
#include "planish/tensor.hpp"

namespace planish {

/// The same constant in the same layout is packed once. A constant that folding made for one set of shapes lives as
/// long as its program, and its packed form as long as that: memory stays flat however many shapes an engine sees.
class PackedStore {
  public:
    /// The packed form of `constant`: its own memory where it is stored so, else made on up to `threads` threads on
    /// first use.
    Tensor get(const std::shared_ptr<const Tensor>& constant, const Packing& packing, int threads);
    /// As above for what is more than a permutation. `layout` is the grammar of the form, for example
    /// "winograd k=64 n=64 nr=32 vector=16".
    Tensor get(const std::shared_ptr<const Tensor>& constant, const std::string& layout,
               const std::function<Tensor()>& pack);
    /// As above, for `count` floats that `fill` writes, all of them. They lie one behind the other in the order of
    /// their making, mostly in huge pages: a network that reads all its weights once a run would else miss the TLB at
    /// each 4 KiB. Throws `internal` where the form was made with another count: its grammar leaves something out.
    Tensor get(const std::shared_ptr<const Tensor>& constant, const std::string& layout, int64_t count,
               const std::function<void(std::span<float>)>& fill);
    /// A constant that is made of `constant`, the same one each time. `form` is the grammar of what is done to it.
    std::shared_ptr<const Tensor> derived(const std::shared_ptr<const Tensor>& constant, const std::string& form,
                                          const std::function<std::shared_ptr<const Tensor>()>& make);
    /// Of the forms that were made here: weights that are stored packed cost nothing twice.
    int64_t bytes() const;

  private:
    struct Entry {
        std::weak_ptr<const Tensor> constant;
        Tensor packed;
        std::shared_ptr<const Tensor> derived = nullptr;  // whose memory `packed` is; null: of a packed form
    };
    Tensor allocate(int64_t count);

    mutable std::mutex mutex_;
    std::shared_ptr<AlignedBuffer> slab_;  // that new tensors are cut from; it lives as long as they do
    size_t used_ = 0;                      // bytes of it
    std::map<std::pair<const Tensor*, std::string>, Entry> entries_;
};

}  // namespace planish
