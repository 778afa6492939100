// The pipelines: which passes run, in which order, and why there.
#include <array>

#include "passes/pass.hpp"

namespace planish::passes {

std::span<const Pass> portable_pipeline() {
    static constexpr Pass kPasses[] = {
        {"lower-quantised-operators", "float operators between borders are the one form that all else knows",
         lower_quantised_operators},
        {"fold-constants", "everything later matches on constants", fold_constants},
        {"fold-shapes", "Reshape targets become constants, so that shape arithmetic dies", fold_shapes},
        {"eliminate-dead-code", "shape arithmetic that nothing reads would block single-use guards",
         eliminate_dead_code},
        {"merge-common-subexpressions", "patterns are matched once, on values that are equal by identity",
         merge_common_subexpressions},
        {"simplify-identities", "no-ops between the ops of a pattern would hide it", simplify_identities},
        {"recognise-activations", "before constants are folded away from them into weights", recognise_activations},
        {"simplify-transposes", "transposes meet and cancel before products look at their operands",
         simplify_transposes},
        {"fold-batch-norm", "convolutions have their final weights before regions form", fold_batch_norm},
        {"fold-padding", "a convolution pads while it reads; a Pad is a memory pass", fold_padding},
        {"recognise-softmax", "attention is matched on Softmax", recognise_softmax},
        {"recognise-layer-norm", "a decomposed normalisation is ten memory passes, one op is two",
         recognise_layer_norm},
        {"recognise-gelu", "one function that an epilogue can hold", recognise_gelu},
        {"recognise-attention", "last of the patterns: it is made of the others", recognise_attention},
        {"unflatten-gemm", "a product between reshapes stops transposes and epilogues", unflatten_gemm},
        {"simplify-transposes", "those of the sequence axis around attention now meet", simplify_transposes},
        {"eliminate-dead-code", "what attention no longer reads would count as readers of its operands",
         eliminate_dead_code},
        {"merge-projections", "attention's operands are bare products with biases only now", merge_projections},
        {"fold-constants", "weights that rewrites have transposed or scaled", fold_constants},
        {"merge-common-subexpressions", "rewrites make equal helper constants", merge_common_subexpressions},
        {"eliminate-dead-code", "the plan holds nothing that nobody reads", eliminate_dead_code},
    };
    return kPasses;
}

std::span<const Pass> specialise_pipeline() {
    static constexpr Pass kPasses[] = {
        {"fold-shapes", "known sizes make every remaining shape computation a constant", fold_shapes},
        {"simplify-identities", "an Expand or Slice that these sizes make a no-op", simplify_identities},
        {"simplify-transposes", "removed no-ops bring transposes together", simplify_transposes},
        {"recognise-attention", "sizes that only now are known to agree", recognise_attention},
        {"merge-common-subexpressions", "folded shapes make computations equal", merge_common_subexpressions},
        {"eliminate-dead-code", "folded shape arithmetic", eliminate_dead_code},
        {"simplify-quantisation", "borders of regions stand where fewest bytes move", simplify_quantisation},
        {"form-regions", "regions hide their ops from all passes before", form_regions},
        {"slice-attention", "after all that moves slices", slice_attention},
        {"form-quantized-regions", "around the regions that float kernels know", form_quantized_regions},
        {"chain-convolutions", "its links are convolutions with their epilogues", chain_convolutions},
        {"chain-excitations", "its links are convolutions with their epilogues, too", chain_excitations},
        {"fuse-reductions", "what is fused is a whole point-wise region that no product has taken", fuse_reductions},
    };
    return kPasses;
}

}  // namespace planish::passes
