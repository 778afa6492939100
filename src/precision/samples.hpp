// What of a layer's inputs calibration looks at.
#pragma once

#include <span>
#include <vector>

#include "precision/layer.hpp"
#include "precision/rehearsal.hpp"

namespace planish::precision {

/// Which tokens of each sample are none, as the model's own input says: attention_mask, 0 for padding. What a network
/// computes for them is read by nobody, but there may be more of them than of others.
class Padding {
  public:
    explicit Padding(std::span<const TensorMap> samples);
    /// Rows of a tensor [batch, tokens, ...] of a sample that belong to tokens, of `rows` in all; of any other tensor
    /// all of them.
    std::vector<int64_t> rows(const Dims& dims, int64_t rows, size_t sample) const;
    /// The tensor without those rows, flat.
    Tensor strip(const Tensor& x, size_t sample) const;

  private:
    std::vector<Tensor> masks_;
};

/// Places evenly over all samples, a random one in each stretch.
std::vector<std::vector<int64_t>> choose_places(const Layer& layer, Rehearsal& values, const Value* input,
                                                int64_t wanted, const Padding& padding);

/// One row for each of them.
Matrix gather(const Layer& layer, Rehearsal& values, const Value* input, int64_t group,
              const std::vector<std::vector<int64_t>>& places);

}  // namespace planish::precision
