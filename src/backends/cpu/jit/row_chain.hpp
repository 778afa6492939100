// Convolutions one behind the other, computed band by band of rows: what lies between two of them never leaves the
// cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "backends/cpu/jit/conv.hpp"
#include "backends/cpu/jit/depthwise.hpp"
#include "backends/cpu/jit/post_op.hpp"

namespace planish {
class ThreadPool;
}

namespace planish::cpu {

/// One convolution of a chain, for one image: a plan made for rows.
struct ChainLink {
    std::variant<std::shared_ptr<const ConvPlan>, std::shared_ptr<const DepthwisePlan>> plan;
    PostOps post_ops;  ///< those that the plan was made with

    int64_t rows() const;        ///< of its output
    int64_t row_floats() const;  ///< of a row of its output
    int64_t input_floats() const;
    size_t scratch() const;
    std::pair<int64_t, int64_t> input_rows(int64_t begin, int64_t end) const;
    void run_rows(const float* x, const float* weights, float* y, std::span<const float* const> operands, void* scratch,
                  int64_t begin, int64_t end) const;
};

/// What a link reads beside the output of the link before it.
struct LinkArgs {
    const float* weights = nullptr;          ///< packed for its plan
    std::span<const float* const> operands;  ///< of its post-ops; tensors of all images
};

/// Immutable once built: any number of threads may run it at once, each with a workspace of its own. Results do not
/// depend on the number of threads.
class RowChain {
  public:
    static constexpr size_t kMaxLinks = 4, kMaxOperands = 9;

    explicit RowChain(std::vector<ChainLink> links);

    /// Floats held between the links while a band is computed.
    int64_t window_floats() const { return window_floats_; }
    int64_t band_rows() const { return band_rows_; }
    /// Bytes of scratch that `run` needs with at most that many threads (64-byte aligned).
    size_t workspace(int max_threads) const;
    /// `images` images in x and y. `args` has one entry for each link.
    void run(const float* x, float* y, int64_t images, std::span<const LinkArgs> args, void* workspace,
             ThreadPool& pool, int max_threads) const;

  private:
    /// Rows of each link's output that output rows [begin, end) of the last link need.
    std::vector<std::pair<int64_t, int64_t>> rows_needed(int64_t begin, int64_t end) const;
    void add_slack();
    /// Rows that each window holds for bands of that height, wherever they begin.
    std::vector<int64_t> rows_held(int64_t band) const;
    int64_t window_floats_for(const std::vector<int64_t>& rows) const;
    struct Place;
    void run_bands(const float* x, float* y, std::span<const LinkArgs> args, int64_t image, int64_t begin, int64_t end,
                   Place& place) const;

    std::vector<ChainLink> links_;
    std::vector<int64_t> capacity_;  ///< rows that the window behind each link but the last holds
    int64_t band_rows_ = 1;          ///< of the last link's output
    int64_t window_floats_ = 0;
    size_t link_scratch_ = 0;
};

}  // namespace planish::cpu
