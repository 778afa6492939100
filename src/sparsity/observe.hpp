// What values of a network are on calibration data.
#pragma once

#include <string>
#include <vector>

#include "ir/graph.hpp"
#include "planish/planish.hpp"
#include "sparsity/least_squares.hpp"

namespace planish::sparsity {

/// An engine on the CPU that runs `graph`.
Engine engine_of(std::unique_ptr<Graph> graph, int threads);

/// A value by its name and the axis of its channels.
struct Tap {
    std::string value;
    int64_t axis;
};

class Observer {
  public:
    /// Of each value at most `rows` places are kept, spread evenly over the samples and over the places of one.
    Observer(std::vector<TensorMap> samples, int64_t rows, int threads)
        : samples_(std::move(samples)), rows_(rows), threads_(threads) {}

    bool empty() const { return samples_.empty(); }
    const std::vector<TensorMap>& samples() const { return samples_; }
    int threads() const { return threads_; }

    /// One matrix a tap: a row for every place (all other axes), a column for every channel. Places are the same ones
    /// in every graph whose values have the same sizes but for their channels.
    std::vector<Matrix> observe(const Graph& graph, const std::vector<Tap>& taps) const;

  private:
    std::vector<TensorMap> samples_;
    int64_t rows_;
    int threads_;
};

/// How far other networks' outputs are from those of one: the squares of what they differ by over the outputs' own,
/// summed over the outputs.
class OutputError {
  public:
    OutputError(const Graph& graph, std::vector<TensorMap> samples, int threads);
    double of(const Graph& other) const;

  private:
    std::vector<TensorMap> samples_, expected_;
    int threads_;
};

}  // namespace planish::sparsity
