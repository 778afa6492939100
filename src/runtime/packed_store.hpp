// Packed weights shared by the programs of one engine, dropped when the constant they were made from is gone.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "backends/backend.hpp"

namespace planish::runtime {

/// A constant that folding made for one set of shapes lives as long as its program, so its packed form is dropped
/// with it: memory stays flat however many shapes an engine sees.
class EnginePackedStore final : public PackedStore {
  public:
    Tensor get(const std::shared_ptr<const Tensor>& constant, const std::string& layout,
               const std::function<Tensor()>& pack) override;
    int64_t bytes() const;

  private:
    struct Entry {
        std::weak_ptr<const Tensor> constant;
        Tensor packed;
    };
    mutable std::mutex mutex_;
    std::map<std::pair<const Tensor*, std::string>, Entry> entries_;
};

}  // namespace planish::runtime
