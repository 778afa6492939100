// Sparse weights: two zeros in each four, as sparse tensor cores take them, or zeros anywhere, for smaller files.
//
//     planish::SparsifyOptions options;
//     options.calibration = samples;
//     planish::Sparsified sparse = planish::sparsify("model.onnx", options);
//     planish::compress_weights(sparse.build()).save("sparse.plan");
#pragma once

#include "planish/optimised.hpp"

namespace planish {

struct SparsifyOptions {
    std::string pattern = "2:4";     ///< "2:4": of four neighbouring input channels two; "unstructured": anywhere
    double sparsity = 0.5;           ///< of "unstructured": the share of each layer's weights that are zeros
    std::string criterion = "auto";  ///< "magnitude", "wanda", "sparsegpt"; "auto": sparsegpt with calibration data

    std::vector<TensorMap> calibration;  ///< inputs as the network will see them; 100 or so are enough
    std::vector<TensorMap> test;         ///< that the report's accuracy is measured on; empty: the last fifth of
                                         ///< the calibration data, which then no weight sees
    double damping = 0.1;                ///< how strongly weights hold on to what they were, relative to their inputs
    int64_t memory = int64_t{3} << 29;   ///< bytes that values of samples may take

    std::vector<std::string> keep;             ///< layers that stay dense; '*' stands for anything
    std::map<std::string, ShapeRange> shapes;  ///< for timing, where there is no calibration data
    bool measure = true;                       ///< time the network before and after
    int threads = 0;                           ///< 0: one for each core

    std::function<bool(const Progress&)> progress;  ///< false cancels (Error)
};

/// A layer with weights.
struct SparsifyRow {
    std::string layer;
    std::string op;
    int64_t weights = 0;
    int64_t zeros_before = 0, zeros = 0;
    double error = 0;  ///< of its output on the calibration data, of its weights where there is none; relative
    int64_t bytes_before = 0, bytes = 0;  ///< of its weights; stored without zeros
    std::string note;                     ///< why it stays dense
};

/// An output on the test samples, against that of the network as it was.
struct OutputAccuracyRow {
    std::string name;
    double sqnr = 0;       ///< signal to noise, in dB
    double cosine = 1;     ///< mean over the samples
    double agreement = 0;  ///< share of its rows (the last axis) whose largest element is where it was
};

struct SparsifyReport {
    std::vector<SparsifyRow> layers;
    std::vector<OutputAccuracyRow> outputs;  ///< empty: there are no samples
    int64_t weights = 0, zeros_before = 0, zeros = 0;
    int64_t bytes_before = 0, bytes = 0;     ///< of all constants; stored without zeros
    double seconds_before = 0, seconds = 0;  ///< one run, medians of interleaved runs; 0: not measured
    int samples = 0, tests = 0;
    std::string pattern, criterion;
};

/// A network with sparse weights.
class PLANISH_API Sparsified : public Optimised {
  public:
    Sparsified(std::shared_ptr<const Graph> graph, SparsifyReport report);
    const SparsifyReport& report() const { return *report_; }

  private:
    std::shared_ptr<const SparsifyReport> report_;
};

/// Sparsifies an ONNX model or the portable graph of a plan.
/// Errors: those of build; invalid_argument (options; no layer can be sparse).
PLANISH_API Sparsified sparsify(const std::filesystem::path& model, const SparsifyOptions& options = {});
PLANISH_API Sparsified sparsify(std::span<const std::byte> model, const SparsifyOptions& options = {},
                                const std::filesystem::path& external_data_folder = {});

/// The same plan, but that constants with many zeros are stored without them: one bit for each element, then those that
/// are not zero. They are restored at load, whose time and memory grow.
PLANISH_API Plan compress_weights(const Plan& plan);

}  // namespace planish
