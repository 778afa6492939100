// Times of networks and of their regions, and what a smaller network is predicted to take.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "sparsity/observe.hpp"
#include "sparsity/select.hpp"

namespace planish::sparsity {

/// One input for the clock: calibration data, else random numbers of the shapes given, else of the model's with open
/// batches at one. Errors: invalid_argument (another size is open).
TensorMap timing_sample(const Graph& graph, const std::vector<TensorMap>& calibration,
                        const std::map<std::string, ShapeRange>& shapes);

/// Seconds of the region that holds a layer, by the region's first layer; and which layers it holds.
struct RegionTime {
    std::vector<std::string> layers;
    double seconds = 0;
};
std::vector<RegionTime> region_times(const Graph& graph, const TensorMap& inputs, int threads);

/// A region takes time in proportion to what is left of each group that its layers have to do with.
class TimeModel {
  public:
    TimeModel(const Graph& graph, const Channels& channels, const std::vector<RegionTime>& regions);
    double seconds(const Counts& removed) const;

  private:
    struct Region {
        double seconds;
        std::vector<size_t> groups;
    };
    std::vector<Region> regions_;
    std::vector<double> sizes_;
};

/// Median seconds of one run of each, by turns, so that noise of the machine hits both.
std::pair<double, double> time_both(Context& a, Context& b, const TensorMap& inputs);

}  // namespace planish::sparsity
