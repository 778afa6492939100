// Attention, depthwise convolutions and inverted residuals: which implementation takes what, and that the kernels of
// every tactic compile for every architecture within their stated resources. No GPU is needed, but NVRTC.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/cuda/compiler.hpp"
#include "backends/cuda/implementation.hpp"
#include "backends/cuda/kernels/attention_wgmma_params.h"
#include "backends/cuda/library.hpp"
#include "cuda/machine_code.hpp"
#include "passes/pass.hpp"

namespace planish::cuda {
namespace {

/// The last node of a specialised graph, as the CUDA backend sees it on an architecture.
struct Subject {
    Subject(std::string_view text, std::string_view arch, DType storage) {
        graph = parse_graph(text);
        passes::run(*graph, passes::portable_pipeline());
        std::vector<Dims> shapes;
        for (const Value* input : graph->inputs()) shapes.push_back(input->dims());
        graph = passes::specialise(*graph, shapes);
        environment.arch = *Arch::parse(arch);
        environment.device = known_device(environment.arch)->properties;
        environment.storage = storage;
        environment.packed = &packed;
        region.emplace(*graph->node_list().back());
    }
    const Implementation* taken() const {
        for (const Implementation* candidate : implementations(*region))
            if (candidate->can_implement(*region, environment) == Refusal::none) return candidate;
        return nullptr;
    }
    Formats formats(const Implementation& implementation) const {
        std::vector<Format> available;
        for (const Value* input : region->node().inputs())
            available.push_back({Layout::plain, input != nullptr ? environment.stored_as(*input) : DType::undefined});
        return implementation.formats(*region, available, environment);
    }

    std::unique_ptr<Graph> graph;
    PackedStore packed;
    Environment environment;
    std::optional<RegionView> region;
};

std::string attention_text(std::string_view inputs, std::string_view call) {
    return "graph \"g\" { " + std::string(inputs) + " %y = Attention(" + std::string(call) + " output %y }";
}

const std::string kVit = R"(graph "g" { input %x : float32[1, 197, 2304]
    const %zero : int64[1] = [0] const %one : int64[1] = [768] const %two : int64[1] = [1536] const %three : int64[1] = [2304]
    const %axis : int64[1] = [2] %q = Slice(%x, %zero, %one, %axis) %k = Slice(%x, %one, %two, %axis)
    %v = Slice(%x, %two, %three, %axis) %y = Attention(%q, %k, %v) {q_num_heads = 12, kv_num_heads = 12} output %y })";

const std::string kMasked = attention_text(
    "input %q : float32[2, 3, 61, 80] input %k : float32[2, 3, 130, 80] input %v : float32[2, 3, 130, 96]"
    " input %m : float32[2, 1, 61, 130]",
    "%q, %k, %v, %m) {softcap = 5.0}");

const std::string kBert = attention_text(
    "input %q : float32[8, 12, 128, 64] input %k : float32[8, 12, 128, 64] input %v : float32[8, 12, 128, 64]"
    " input %m : float32[8, 1, 128, 128]",
    "%q, %k, %v, %m) {}");

const std::string kDecode = attention_text(
    "input %q : float32[1, 32, 1, 128] input %k : float32[1, 8, 4096, 128] input %v : float32[1, 8, 4096, 128]"
    " input %m : bool[1, 4096]",
    "%q, %k, %v, %m) {}");

const std::string kCausal =
    attention_text("input %q : float32[2, 300, 768] input %k : float32[2, 300, 768] input %v : float32[2, 300, 768]",
                   "%q, %k, %v) {q_num_heads = 3, kv_num_heads = 3, is_causal = 1}");

const std::string kOddHeads =
    attention_text("input %q : float32[2, 3, 5, 20] input %k : float32[2, 3, 6, 20] input %v : float32[2, 3, 6, 12]",
                   "%q, %k, %v) {}");

std::string depthwise_text(int channels, int size, int kernel, int stride, int dilation = 1) {
    const std::string c = std::to_string(channels), k = std::to_string(kernel), s = std::to_string(stride),
                      d = std::to_string(dilation), p = std::to_string(kernel / 2 * dilation);
    return "graph \"g\" { input %x : float32[1, " + c + ", " + std::to_string(size) + ", " + std::to_string(size) +
           "] const %w : float32[" + c + ", 1, " + k + ", " + k + "] = dense<0> const %b : float32[" + c +
           "] = dense<0> %c = Conv(%x, %w, %b) {group = " + c + ", pads = [" + p + ", " + p + ", " + p + ", " + p +
           "], strides = [" + s + ", " + s + "], dilations = [" + d + ", " + d + "]} %y = Relu(%c) output %y }";
}

const std::string kResidual =
    R"(graph "g" { input %x : float32[1, 64, 14, 14] const %w1 : float32[384, 64, 1, 1] = dense<0>
    const %w2 : float32[384, 1, 3, 3] = dense<0> const %w3 : float32[64, 384, 1, 1] = dense<0> const %b1 : float32[384] = dense<0>
    const %b2 : float32[384] = dense<0> const %b3 : float32[64] = dense<0>
    %a = Conv(%x, %w1, %b1) %e = Relu(%a) %b = Conv(%e, %w2, %b2) {group = 384, pads = [1, 1, 1, 1]} %d = Relu(%b)
    %c = Conv(%d, %w3, %b3) %y = Add(%c, %x) output %y })";

const std::string kExpandDepthwise =
    R"(graph "g" { input %x : float32[1, 24, 28, 28] const %w1 : float32[144, 24, 1, 1] = dense<0>
    const %w2 : float32[144, 1, 5, 5] = dense<0>
    %a = Conv(%x, %w1) %e = Relu(%a) %b = Conv(%e, %w2) {group = 144, pads = [2, 2, 2, 2], strides = [2, 2]} %y = Sigmoid(%b) output %y })";

TEST(FusedKernels, WhoTakesWhat) {
    const auto taken = [](const std::string& text, DType storage, std::string_view arch = "sm_90a") {
        const Subject subject(text, arch, storage);
        const Implementation* implementation = subject.taken();
        return implementation != nullptr ? std::string(implementation->name) : "none";
    };
    EXPECT_EQ(taken(kVit, DType::f16), "attention_flash");
    EXPECT_EQ(taken(kVit, DType::bf16), "attention_flash");
    EXPECT_EQ(taken(kVit, DType::f32), "attention_simt");
    EXPECT_EQ(taken(kOddHeads, DType::f16), "attention_simt");
    EXPECT_EQ(taken(kResidual, DType::f16), "conv_chain");
    EXPECT_EQ(taken(kResidual, DType::f32), "none");  // dissolved
    EXPECT_EQ(taken(depthwise_text(12, 9, 3, 2), DType::f32), "depthwise");
    EXPECT_EQ(taken(attention_text("input %q : float32[1, 2, 3, 8] input %p : float32[1, 2, 5, 8]",
                                   "%q, %q, %q, _, %p, %p) {}"),
                    DType::f16),
              "reference");  // a cache
}

TEST(FusedKernels, FewRowsBeforeManyKeysSplitTheKeys) {
    const Subject subject(kDecode, "sm_90a", DType::f16);
    const Implementation& flash = *subject.taken();
    const auto tactics = flash.tactics(*subject.region, subject.environment);
    EXPECT_NE(tactics.front().name.find("_split"), std::string::npos) << tactics.front().name;
    const CudaKernel kernel =
        flash.compile(*subject.region, subject.formats(flash), tactics.front().name, subject.environment);
    EXPECT_EQ(kernel.launches.size(), 2u);
    EXPECT_GT(kernel.workspace, 0);
    EXPECT_NE(kernel.name.find("_p4"), std::string::npos) << kernel.name;  // four heads share a tile
}

TEST(FusedKernels, BatchInvariantNeverSplits) {
    Subject subject(kDecode, "sm_90a", DType::f16);
    subject.environment.batch_invariant = true;
    for (const Tactic& tactic : subject.taken()->tactics(*subject.region, subject.environment))
        EXPECT_EQ(tactic.name.find("_split"), std::string::npos) << tactic.name;
}

// ---- Attention on warpgroups ----------------------------------------------------------------------------------------

bool on_warpgroups(const Tactic& tactic) {
    return tactic.name.starts_with("wg");
}

TEST(AttentionWgmma, TakesManyQueriesOnHopper) {
    const auto takes = [](const std::string& text, std::string_view arch) {
        const Subject subject(text, arch, DType::f16);
        const auto tactics = subject.taken()->tactics(*subject.region, subject.environment);
        return std::any_of(tactics.begin(), tactics.end(), on_warpgroups);
    };
    EXPECT_TRUE(takes(kVit, "sm_90a"));
    EXPECT_TRUE(takes(kBert, "sm_90a"));
    EXPECT_FALSE(takes(kVit, "sm_89"));
    EXPECT_FALSE(takes(kDecode, "sm_90a"));  // one query
    EXPECT_FALSE(takes(kMasked, "sm_90a"));  // a soft cap
}

// Heads that are columns of one product's rows: the copy engine sees each in its place.
TEST(AttentionWgmma, MapsHeadsOfRows) {
    const Subject subject(kVit, "sm_90a", DType::f16);
    const CudaKernel kernel = families::kAttention.compile(*subject.region, subject.formats(families::kAttention),
                                                           "wg2k128s2q2o1", subject.environment);
    ASSERT_EQ(kernel.launches.size(), 1u);
    const Launch& launch = kernel.launches[0];
    ASSERT_EQ(launch.maps.size(), 4u);
    const TensorMapPatch &query = launch.maps[0], &value = launch.maps[2], &output = launch.maps[3];
    EXPECT_EQ(query.desc.dims, (std::array<int64_t, 5>{64, 12, 197, 1, 0}));
    EXPECT_EQ(query.desc.strides, (std::array<int64_t, 4>{128, 2304 * 2, 197 * 2304 * 2, 0}));
    EXPECT_EQ(query.desc.box, (std::array<int, 5>{64, 1, 64, 1, 0}));
    EXPECT_EQ(value.operand.offset, 1536 * 2);
    EXPECT_EQ(value.desc.box, (std::array<int, 5>{64, 1, 128, 1, 0}));
    EXPECT_EQ(output.desc.strides, (std::array<int64_t, 4>{128, 768 * 2, 197 * 768 * 2, 0}));
    AttentionWgmmaParams params;
    std::memcpy(&params, launch.params.data(), sizeof(params));
    EXPECT_EQ(params.row_blocks, 2);
    EXPECT_EQ(params.tiles, 24);
    EXPECT_EQ(launch.grid[0], 24u);
}

TEST(AttentionWgmma, EveryTacticCompilesWithinItsBounds) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    const auto heads = [](int query_heads, int kv_heads, int queries, int keys, int dim, int value_dim,
                          const std::string& mask, const std::string& attributes) {
        const auto dims = [](int a, int b, int c) {
            return " : float32[2, " + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + "] ";
        };
        return attention_text("input %q" + dims(query_heads, queries, dim) + "input %k" + dims(kv_heads, keys, dim) +
                                  "input %v" + dims(kv_heads, keys, value_dim) + mask,
                              std::string("%q, %k, %v") + (mask.empty() ? "" : ", %m") + ") {" + attributes + "}");
    };
    const std::pair<std::string, DType> cases[] = {
        {kVit, DType::f16},
        {kBert, DType::f16},
        {kCausal, DType::bf16},
        {heads(4, 2, 300, 300, 128, 128, "", "is_causal = 1"), DType::f16},
        {heads(3, 3, 61, 130, 80, 96, "input %m : bool[61, 130] ", ""), DType::bf16},
        {heads(2, 2, 64, 99, 256, 256, "input %m : float32[2, 1, 64, 99] ", ""), DType::f16},
    };
    for (const auto& [text, storage] : cases) {
        Subject subject(text, "sm_90a", storage);
        const Implementation& attention = *subject.taken();
        ASSERT_EQ(attention.name, "attention_flash") << text;
        Formats formats = subject.formats(attention);
        // A network's input is float32.
        if (formats.inputs.size() > 3 && formats.inputs[3].dtype != DType::boolean)
            formats.inputs[3].dtype = DType::f32;
        std::vector<Tactic> tactics = attention.tactics(*subject.region, subject.environment);
        std::erase_if(tactics, [](const Tactic& tactic) { return !on_warpgroups(tactic); });
        EXPECT_GE(tactics.size(), 1u) << text;
        for (const Tactic& tactic : tactics) {
            EXPECT_GT(tactic.seconds, 0) << tactic.name;
            const CudaKernel kernel = attention.compile(*subject.region, formats, tactic.name, subject.environment);
            const KernelSpec& spec = kernel.launches[0].spec;
            SCOPED_TRACE(spec.name + "\n" + spec.source);
            EXPECT_LE(spec.shared_bytes, subject.environment.device.shared_per_block);
            const auto binary = compile_kernel(spec, subject.environment.arch);
            EXPECT_LE(binary->resources.registers, spec.max_registers);
            EXPECT_EQ(binary->resources.spilled_bytes, 0);
            // Scores: of the first block of keys and of the others. Their values: of the block before, and in the end.
            EXPECT_GE(count_instructions(*binary, kHgmma), 2u * 4);
            EXPECT_GE(count_instructions(*binary, kHeldHgmma), 2u * 4);
        }
    }
}

class Resources : public testing::TestWithParam<std::string_view> {};

TEST_P(Resources, EveryTacticCompilesWithinItsBounds) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    const std::string_view arch = GetParam();
    const size_t tactics = arch == "sm_90a" ? 3 : 1;  // of each case, best first
    const std::pair<std::string, DType> cases[] = {
        {kVit, DType::f16},
        {kVit, DType::f32},
        {kMasked, DType::bf16},
        {kBert, DType::f16},
        {kDecode, DType::f16},
        {kCausal, DType::bf16},
        {kOddHeads, DType::f16},
        {kResidual, DType::f16},
        {kExpandDepthwise, DType::bf16},
        {depthwise_text(96, 56, 3, 1), DType::f16},
        {depthwise_text(48, 28, 5, 2), DType::f32},
        {depthwise_text(64, 14, 7, 1), DType::bf16},
        {depthwise_text(6, 17, 3, 1, 2), DType::f16},
    };
    std::vector<CudaKernel> kernels;
    for (const auto& [text, storage] : cases) {
        const Subject subject(text, arch, storage);
        const Implementation* implementation = subject.taken();
        ASSERT_NE(implementation, nullptr) << text;
        ASSERT_NE(implementation->name, "reference") << text;
        std::vector<Tactic> list = implementation->tactics(*subject.region, subject.environment);
        std::erase_if(list, on_warpgroups);  // they have a test of their own
        list.resize(std::min(list.size(), tactics));
        for (const Tactic& tactic : list) {
            EXPECT_GT(tactic.seconds, 0) << tactic.name;
            kernels.push_back(implementation->compile(*subject.region, subject.formats(*implementation), tactic.name,
                                                      subject.environment));
            for (const Launch& launch : kernels.back().launches)
                EXPECT_LE(launch.spec.shared_bytes, subject.environment.device.shared_per_block) << launch.spec.name;
        }
    }
    std::vector<const KernelSpec*> specs;
    for (const CudaKernel& kernel : kernels)
        for (const Launch& launch : kernel.launches) specs.push_back(&launch.spec);
    const auto binaries = compile_kernels(specs, *Arch::parse(arch), nullptr, KernelCache(""));
    for (size_t i = 0; i < specs.size(); ++i) {
        const auto& resources = binaries[i]->resources;
        EXPECT_GT(resources.registers, 0) << specs[i]->name;
        EXPECT_LE(resources.registers, specs[i]->max_registers) << specs[i]->name;
        EXPECT_LE(resources.spilled_bytes, 16) << specs[i]->name;  // a register or two, outside of loops
    }
}

INSTANTIATE_TEST_SUITE_P(All, Resources, testing::Values("sm_80", "sm_89", "sm_90a"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace planish::cuda
