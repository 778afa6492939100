// Which parts of a network compute in which precision: the choices between speed and accuracy that are worth making.
#pragma once

#include <string>
#include <vector>

namespace planish::precision {

/// What one precision takes and costs in one part of a network.
struct Choice {
    std::string precision;
    double seconds = 0;
    double noise = 0;  ///< LayerGroup::noise
};

/// Values that pass between parts: where the two differ in precision, they are converted.
struct Crossing {
    size_t maker, reader;
    double seconds;
};

/// By part: the index of its choice.
using Mix = std::vector<size_t>;

/// As the sums over the parts say: what a mix is expected to take, and the noise that it adds.
double seconds_of(const Mix& mix, const std::vector<std::vector<Choice>>& parts,
                  const std::vector<Crossing>& crossings);
double noise_of(const Mix& mix, const std::vector<std::vector<Choice>>& parts);

/// From the fastest mix to that of least noise: each differs from the one before in the choice of one part, the one
/// that saves most noise for the time it gives away. These are the mixes that minimise seconds + lambda * noise as
/// lambda grows, as far as changing one part at a time finds them. A part of one choice keeps it.
std::vector<Mix> search_path(const std::vector<std::vector<Choice>>& parts, const std::vector<Crossing>& crossings);

}  // namespace planish::precision
