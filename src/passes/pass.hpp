// A pass: a named rewrite of a Graph. pipeline.cpp lists them in order, each with its reason.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.hpp"

namespace planish::passes {

struct Pass {
    std::string_view name;  // kebab-case: "fold-constants"
    std::string_view why;   // why at this place of the pipeline
    int (*run)(Graph&);     // returns the number of changes made
};

struct PassReport {
    std::string name;
    int changes = 0;
    double seconds = 0;
};

struct PassOptions {
    std::vector<std::string> disabled;    // names that are skipped; unknown names are an error
    std::vector<std::string> dump_after;  // names (or "all") whose result goes to `dump`
    std::function<void(std::string_view pass, const Graph&)> dump;
    bool check_after_each = true;  // run the IR checker after every pass
    std::function<void(std::string_view pass, int index, int count)> progress;
    int stop_after = -1;  // run only the first n passes (bisection), -1: all
};

/// Runs `passes` in order. An error from a pass or from the checker names the pass.
std::vector<PassReport> run(Graph& graph, std::span<const Pass> passes, const PassOptions& options = {});

/// Target-independent simplification of the symbolic graph; its result is the plan's portable core.
std::span<const Pass> portable_pipeline();
/// Run again once the input shapes are bound: folds everything that the shapes decide.
std::span<const Pass> specialise_pipeline();

/// A clone of `graph` with its inputs' shapes bound to `shapes` (in input order), inferred and folded again.
std::unique_ptr<Graph> specialise(const Graph& graph, const std::vector<Dims>& shapes);

// One pass a file; declared here, listed in pipeline.cpp.
int fold_constants(Graph& graph);
int eliminate_dead_code(Graph& graph);
int merge_common_subexpressions(Graph& graph);
int fold_shapes(Graph& graph);
int simplify_identities(Graph& graph);  // Identity, Dropout, no-op Reshape/Transpose/Cast/Slice/Pad/Concat, x*1, x+0
int simplify_transposes(Graph& graph);
int fold_batch_norm(Graph& graph);
int unflatten_gemm(Graph& graph);  // Gemm between reshapes -> MatMul
int fold_padding(Graph& graph);    // Pad of zeros into the convolution behind it
int recognise_softmax(Graph& graph);
int recognise_layer_norm(Graph& graph);
int recognise_gelu(Graph& graph);
int recognise_activations(Graph& graph);  // x*sigmoid(x) -> Swish, HardSwish, Clip from Min/Max, ...
int recognise_attention(Graph& graph);
int merge_projections(Graph& graph);          // x Wq, x Wk, x Wv before attention -> x [Wq|Wk|Wv]
int slice_attention(Graph& graph);            // attention with the slices that it reads
int chain_convolutions(Graph& graph);         // expand -> depthwise -> project
int chain_excitations(Graph& graph);          // 1x1 -> 1x1 -> product with the image, of squeeze-and-excitation
int fuse_reductions(Graph& graph);            // a point-wise expression -> its only reader, a reduction
int lower_quantised_operators(Graph& graph);  // QLinearConv -> DequantizeLinear, Conv, QuantizeLinear
int simplify_quantisation(Graph& graph);      // QuantizeLinear and DequantizeLinear to where fewest bytes move
int form_quantized_regions(Graph& graph);     // a node and the DequantizeLinear and QuantizeLinear around it
int form_regions(Graph& graph);               // Conv/MatMul/Gemm + bias + activation + residual; point-wise chains

}  // namespace planish::passes
