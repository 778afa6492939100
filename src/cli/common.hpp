// Options and helpers that several verbs share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plan/contents.hpp"
#include "planish/planish.hpp"

namespace planish::cli {

using Json = nlohmann::ordered_json;

/// A verb: adds itself to the app; the returned function runs when the verb was chosen and gives the exit code.
using Verb = std::function<int()>;
Verb add_build(CLI::App& app);
Verb add_quantize(CLI::App& app);
Verb add_run(CLI::App& app);
Verb add_bench(CLI::App& app);
Verb add_inspect(CLI::App& app);
Verb add_compare(CLI::App& app);
Verb add_export(CLI::App& app);
Verb add_prune(CLI::App& app);
Verb add_sparsify(CLI::App& app);
Verb add_cache(CLI::App& app);
Verb add_doctor(CLI::App& app);

/// "NAME=VALUE" split at the first '='; Error(invalid_argument) without one.
std::pair<std::string, std::string> split_assignment(const std::string& text, const std::string& option);

/// "1x3x224x224" -> dims. "scalar" -> {}.
Dims parse_dims(const std::string& text, const std::string& option);

/// "NAME=DIMS" or "NAME=MIN:OPT:MAX".
std::map<std::string, ShapeRange> parse_shapes(const std::vector<std::string>& texts);

/// "NAME=FILE.npy" or "FILE.npz" (its members are names of inputs).
TensorMap read_inputs(const std::vector<std::string>& texts);

/// Samples of a model's inputs: a folder of .npz (one sample each) and .npy files (of a model's only input, whose name
/// is then ""), or an .npz whose arrays hold the samples along their first axis.
std::vector<TensorMap> read_calibration(const std::filesystem::path& path);

/// One shape for each input of the graph: from `inputs`, else from `shapes`, else what the plan was built for, else
/// the graph's own. Error(invalid_argument) naming an input that has none.
std::vector<Dims> input_shapes(const plan::PlanContents& contents, const std::map<std::string, ShapeRange>& shapes,
                               const TensorMap& inputs);

/// Fills in what `inputs` lacks with random values for these shapes.
void add_random_inputs(const plan::PlanContents& contents, const std::vector<Dims>& shapes, TensorMap& inputs);

std::string shape_text(const TensorInfo& info);  // "float32[N, 3, 224, 224]"
Json to_json(const StringPairs& pairs);
Json to_json(const LayerRow& row);
Json to_json(const VerificationRow& row);
Json to_json(const std::vector<PrecisionRow>& rows);
Json to_json(const std::vector<OutputErrorRow>& rows);

/// What quantisation did to each layer and to the outputs.
void print_precision(const std::vector<PrecisionRow>& layers, const std::vector<OutputErrorRow>& outputs);

}  // namespace planish::cli
