// Packed weights shared by programs, dropped when the constant that they were made from is gone.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "planish/tensor.hpp"

namespace planish {

/// The same constant in the same layout is packed once. A constant that folding made for one set of shapes lives as
/// long as its program, and its packed form as long as that: memory stays flat however many shapes an engine sees.
class PackedStore {
  public:
    /// The packed form of `constant`, made by `pack` on first use. `layout` is the grammar of the packing, for example
    /// "gemm k=768 n=3072 nr=32 transposed=0".
    Tensor get(const std::shared_ptr<const Tensor>& constant, const std::string& layout,
               const std::function<Tensor()>& pack);
    int64_t bytes() const;

  private:
    struct Entry {
        std::weak_ptr<const Tensor> constant;
        Tensor packed;
    };
    mutable std::mutex mutex_;
    std::map<std::pair<const Tensor*, std::string>, Entry> entries_;
};

}  // namespace planish
