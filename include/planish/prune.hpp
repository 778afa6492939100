// Structured pruning: whole channels and attention heads leave the network, which becomes smaller and faster for real.
//
//     planish::PruneOptions options;
//     options.speedup = 1.5;
//     options.calibration = samples;
//     planish::Pruned pruned = planish::prune("model.onnx", options);
//     pruned.save_onnx("pruned.onnx");
//     pruned.build().save("pruned.plan");
#pragma once

#include "planish/optimised.hpp"

namespace planish {

struct PruneOptions {
    double ratio = 0.5;  ///< share of the channels that can go which does, in [0, 1)
    double speedup = 0;  ///< > 1: in place of a ratio, how many times as fast the measured network shall be
    bool global = true;  ///< the ratio holds over all layers together, the least important channels going first; false:
                         ///< in each layer
    std::string criterion =
        "auto";        ///< "l1", "l2", "bn", "activation", "taylor"; "auto": activation with calibration data, else l2
    int multiple = 8;  ///< what is left of a layer's channels is a multiple of this, which kernels like

    std::vector<TensorMap> calibration;  ///< inputs as the network will see them; some dozens are enough
    bool reconstruct = true;             ///< with calibration data: adapt the weights that are left, by least squares
    double ridge = 1e-3;                 ///< how strongly they hold on to what they were, relative to their inputs
    /// Of "taylor": by name of a layer's weights, [samples, input channels], the first-order change of some function of
    /// the network's outputs for a sample when that layer no longer reads that channel.
    std::map<std::string, Tensor> gradients;
    int64_t rows = 4096;  ///< places of each layer's input that the adaptation looks at

    std::vector<std::string> keep;  ///< layers whose channels all stay; '*' stands for anything
    bool keep_parameters = false;   ///< constants keep their names: no batch normalisation is folded, no bias is made
    std::map<std::string, ShapeRange> shapes;  ///< for timing, where there is no calibration data
    bool measure = true;                       ///< time the network before and after
    int threads = 0;                           ///< 0: one for each core

    std::function<bool(const Progress&)> progress;  ///< false cancels (Error)
};

/// A layer with weights, before and after.
struct PruneRow {
    std::string layer;
    std::string op;
    int64_t inputs_before = 0, inputs = 0;      ///< channels that it reads
    int64_t channels_before = 0, channels = 0;  ///< channels that it makes
    double error = 0;  ///< of its output on the calibration data, relative; 0 where nothing changed or none is given
    double seconds_before = 0, seconds = 0;  ///< of the region that it is the first layer of; 0: part of another's
    int64_t bytes_before = 0, bytes = 0;     ///< of its constants
};

struct PruneReport {
    std::vector<PruneRow> layers;
    int64_t channels_before = 0, channels = 0;  ///< that could go, and that are left of them
    double seconds_before = 0, seconds = 0;     ///< one run, medians of interleaved runs; 0: not measured
    int64_t bytes_before = 0, bytes = 0;        ///< weights
    std::string criterion;
    std::vector<std::string> warnings;
};

/// A pruned network.
class PLANISH_API Pruned : public Optimised {
  public:
    Pruned(std::shared_ptr<const Graph> graph, PruneReport report);

    const PruneReport& report() const { return *report_; }

  private:
    std::shared_ptr<const PruneReport> report_;
};

/// Prunes an ONNX model or the portable graph of a plan.
/// Errors: those of build; invalid_argument (options; nothing can be pruned; the speed-up cannot be reached).
PLANISH_API Pruned prune(const std::filesystem::path& model, const PruneOptions& options = {});
PLANISH_API Pruned prune(std::span<const std::byte> model, const PruneOptions& options = {},
                         const std::filesystem::path& external_data_folder = {});

}  // namespace planish
