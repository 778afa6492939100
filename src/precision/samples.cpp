// Tokens that are padding, and places of samples.
#include "precision/samples.hpp"

#include <algorithm>

namespace planish::precision {

Padding::Padding(std::span<const TensorMap> samples) {
    for (const TensorMap& sample : samples) {
        const auto it = sample.find("attention_mask");
        const bool usable = it != sample.end() && it->second.rank() == 2 && it->second.dtype() != DType::string;
        masks_.push_back(usable ? it->second : Tensor());
    }
}

std::vector<int64_t> Padding::rows(const Dims& dims, int64_t rows, size_t sample) const {
    std::vector<int64_t> kept;
    const Tensor& mask = masks_[sample];
    const bool masked = mask && dims.size() >= 3 && dims[0] == mask.dims()[0] && dims[1] == mask.dims()[1] &&
                        rows % std::max<int64_t>(mask.size(), 1) == 0;
    const int64_t each = masked ? rows / mask.size() : 1;
    for (int64_t i = 0; i < rows; ++i)
        if (!masked || mask.at_double(i / each) != 0) kept.push_back(i);
    return kept;
}

Tensor Padding::strip(const Tensor& x, size_t sample) const {
    if (!masks_[sample] || x.rank() < 3 || x.size() == 0) return x;
    const int64_t width = x.dims().back(), count = x.size() / width;
    const std::vector<int64_t> kept = rows(x.dims(), count, sample);
    if (static_cast<int64_t>(kept.size()) == count) return x;
    Tensor result(x.dtype(), {static_cast<int64_t>(kept.size()), width});
    for (size_t i = 0; i < kept.size(); ++i)
        std::copy_n(x.data<float>().data() + kept[i] * width, width,
                    result.data<float>().data() + static_cast<int64_t>(i) * width);
    return result;
}

std::vector<std::vector<int64_t>> choose_places(const Layer& layer, Rehearsal& values, const Value* input,
                                                int64_t wanted, const Padding& padding) {
    std::vector<std::vector<int64_t>> candidates;
    int64_t total = 0;
    for (size_t s = 0; s < values.samples(); ++s) {
        const Dims& dims = values.tensor(input, s).dims();
        candidates.push_back(padding.rows(layer.node().is("Conv") ? Dims{} : dims, layer.places(dims), s));
        total += static_cast<int64_t>(candidates.back().size());
    }
    std::vector<std::vector<int64_t>> chosen(candidates.size());
    uint64_t state = 1;
    for (size_t s = 0; s < chosen.size(); ++s) {
        const auto count = static_cast<int64_t>(candidates[s].size());
        const int64_t share = total <= wanted ? count : std::min(count, std::max<int64_t>(1, wanted * count / total));
        for (int64_t i = 0; i < share; ++i) {
            const int64_t begin = i * count / share, end = (i + 1) * count / share;
            state = state * 6364136223846793005u + 1442695040888963407u;
            const auto at = begin + static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(end - begin));
            chosen[s].push_back(candidates[s][static_cast<size_t>(at)]);
        }
    }
    return chosen;
}

Matrix gather(const Layer& layer, Rehearsal& values, const Value* input, int64_t group,
              const std::vector<std::vector<int64_t>>& places) {
    int64_t count = 0;
    for (const auto& list : places) count += static_cast<int64_t>(list.size());
    Matrix rows(count, layer.terms());
    int64_t first = 0;
    for (size_t s = 0; s < places.size(); ++s) {
        layer.gather(values.tensor(input, s), places[s], group, rows, first);
        first += static_cast<int64_t>(places[s].size());
    }
    return rows;
}

}  // namespace planish::precision
