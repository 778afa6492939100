// Products and convolutions on mma.sync: who takes what, which tiles the cost model picks, that kernels of every tactic
// compile within their bounds and do hold those products, and that they agree with the reference when emulated.
#include <gtest/gtest.h>

#include "backends/cuda/compiler.hpp"
#include "backends/cuda/implementation.hpp"
#include "backends/cuda/library.hpp"
#include "cuda/emulated.hpp"
#include "cuda/machine_code.hpp"
#include "passes/pass.hpp"

namespace planish::cuda {
namespace {

/// Numbers that products do not round: tf32 has as many fraction bits as f16.
DType exact(DType storage) {
    return storage == DType::f32 ? DType::f16 : storage;
}

/// A region, as the backend sees it on an architecture; images are available as `layout`.
struct Subject {
    explicit Subject(const std::string& text, std::string_view arch = "sm_80", DType storage = DType::f16,
                     Layout layout = Layout::channels_last)
        : layout(layout) {
        graph = parse_graph("graph \"g\" {\n" + text + "}");
        passes::form_regions(*graph);
        passes::form_quantized_regions(*graph);
        unsigned seed = 100;
        for (Value* value : graph->nodes().front()->inputs())
            if (value != nullptr && value->is_constant() && value->constant->size() > 4 &&
                value->constant->size() < 1 << 22)
                value->constant = std::make_shared<Tensor>(random_tensor(value->type, ++seed, exact(storage)));
        environment.arch = *Arch::parse(arch);
        environment.device = known_device(environment.arch)->properties;
        environment.storage = storage;
        environment.tf32 = storage == DType::f32;
        environment.packed = &packed;
        region.emplace(*graph->nodes().front());
    }
    const Implementation& implementation() const {
        const bool bytes = region->has_body() && region->node().text("kind") == "quantized";
        return bytes ? families::kByteMma : families::kMma;
    }
    Refusal refusal() const { return implementation().can_implement(*region, environment); }
    std::vector<Tactic> tactics() const { return implementation().tactics(*region, environment); }
    Formats formats() const {
        std::vector<Format> available;
        for (const Value* value : region->node().inputs()) {
            const bool image = value != nullptr && value->dims().size() == 4 && !value->is_constant();
            available.push_back(
                {image ? layout : Layout::plain, value != nullptr ? environment.stored_as(*value) : DType::undefined});
        }
        return implementation().formats(*region, available, environment);
    }
    CudaKernel compile(std::string_view tactic) const {
        return implementation().compile(*region, formats(), tactic, environment);
    }

    Layout layout;
    std::unique_ptr<Graph> graph;
    PackedStore packed;
    Environment environment;
    std::optional<RegionView> region;
};

std::string floats(const std::string& name, const std::string& dims) {
    return "input %" + name + " : float32[" + dims + "]\n";
}
std::string weights(const std::string& name, const std::string& dims) {
    return "const %" + name + " : float32[" + dims + "] = dense<0>\n";
}

std::string gemm(int m, int n, int k) {
    const std::string rows = std::to_string(m), columns = std::to_string(n), depth = std::to_string(k);
    return floats("x", rows + ", " + depth) + weights("w", columns + ", " + depth) + weights("b", columns) +
           "%y = Gemm(%x, %w, %b) {transB = 1}\noutput %y\n";
}
std::string conv(int images, int channels, int size, int out, int kernel, int stride) {
    const std::string c = std::to_string(channels), s = std::to_string(size), o = std::to_string(out),
                      k = std::to_string(kernel), p = std::to_string(kernel / 2), d = std::to_string(stride);
    return floats("x", std::to_string(images) + ", " + c + ", " + s + ", " + s) +
           weights("w", o + ", " + c + ", " + k + ", " + k) + weights("b", o) + "%c = Conv(%x, %w, %b) {pads = [" + p +
           ", " + p + ", " + p + ", " + p + "], strides = [" + d + ", " + d + "]}\n%y = Relu(%c)\noutput %y\n";
}
const std::string kStem = conv(1, 3, 224, 64, 7, 2);

TEST(Mma, TakesWhatTensorCoresMultiply) {
    EXPECT_EQ(Subject(gemm(64, 64, 64)).refusal(), Refusal::none);
    EXPECT_EQ(Subject(gemm(64, 64, 64), "sm_89", DType::bf16).refusal(), Refusal::none);
    EXPECT_EQ(Subject(gemm(64, 64, 64), "sm_90a", DType::f32).refusal(), Refusal::none);
    EXPECT_EQ(Subject(gemm(5, 21, 37)).refusal(), Refusal::none);
    EXPECT_EQ(Subject(kStem).refusal(), Refusal::none);
    Subject exact(gemm(64, 64, 64), "sm_80", DType::f32);
    exact.environment.tf32 = false;
    EXPECT_EQ(exact.refusal(), Refusal::dtype_not_handled);
    EXPECT_EQ(Subject(conv(1, 8, 40, 8, 17, 1)).refusal(), Refusal::shape_not_handled);
    EXPECT_EQ(
        Subject(floats("x", "2, 21, 24") + floats("z", "2, 24, 33") + "%y = MatMul(%x, %z)\noutput %y\n").refusal(),
        Refusal::shape_not_handled);  // rows of 66 bytes
}

TEST(Mma, LeavesHopperToItsOwnProducts) {
    const Subject taken(gemm(512, 512, 512), "sm_90a"), stem(kStem, "sm_90a");
    EXPECT_FALSE(families::kMma.pays(*taken.region, taken.environment));
    EXPECT_TRUE(families::kMma.pays(*stem.region, stem.environment));
}

TEST(Mma, ChoosesLargeTilesForLargeProductsAndSplitsSmallOnes) {
    for (const std::string_view arch : {"sm_80", "sm_86", "sm_89"}) {
        SCOPED_TRACE(arch);
        const std::string large = Subject(gemm(8192, 8192, 8192), arch).tactics().front().name;
        EXPECT_TRUE(large.starts_with("256x128") || large.starts_with("128x256") || large.starts_with("128x128"))
            << large;
        Subject small(conv(1, 512, 7, 512, 3, 1), arch);
        EXPECT_NE(small.tactics().front().name.find("_k"), std::string::npos) << small.tactics().front().name;
        small.environment.batch_invariant = true;
        for (const Tactic& tactic : small.tactics()) EXPECT_EQ(tactic.name.find("_k"), std::string::npos);
        EXPECT_TRUE(Subject(gemm(1, 1000, 2048), arch).tactics().front().name.starts_with("16x"));
    }
}

TEST(Mma, IsExpectedToBeatProductsWithoutTensorCores) {
    for (const std::string& text : {gemm(16384, 3072, 768), gemm(1, 1000, 2048), conv(1, 64, 56, 64, 3, 1),
                                    conv(128, 16, 112, 96, 1, 1), kStem}) {
        const Subject subject(text);
        EXPECT_LT(subject.tactics().front().seconds,
                  families::kConvSimt.tactics(*subject.region, subject.environment).front().seconds)
            << text;
    }
}

TEST(Mma, TheTunerTimesFewProductsWithoutTensorCores) {
    const auto count = [](const std::string& text, std::string_view arch, DType storage) {
        const Subject subject(text, arch, storage);
        return families::kConvSimt.tactics(*subject.region, subject.environment).size();
    };
    EXPECT_EQ(count(gemm(512, 512, 512), "sm_80", DType::f16), 1u);
    EXPECT_EQ(count(gemm(512, 512, 512), "sm_90a", DType::bf16), 1u);
    Subject exact(gemm(512, 512, 512), "sm_80", DType::f32);
    exact.environment.tf32 = false;
    EXPECT_GT(families::kConvSimt.tactics(*exact.region, exact.environment).size(), 3u);
}

// ---- Emulation ------------------------------------------------------------------------------------------------------

struct Case {
    std::string name, graph;
    Layout layout = Layout::channels_last;
};

std::vector<Case> cases() {
    return {
        {"rows", floats("x", "3, 50, 96") + weights("w", "96, 136") + floats("r", "3, 50, 136") +
                     "%c = MatMul(%x, %w)\n%y = Add(%c, %r)\noutput %y\n"},
        {"turned", floats("x", "37, 200") + weights("w", "30, 200") + weights("b", "30") +
                       "%c = Gemm(%x, %w, %b) {transB = 1, alpha = 0.5}\n%y = Tanh(%c)\noutput %y\n"},
        {"vector", floats("x", "1, 520") + weights("w", "520, 100") + "%y = MatMul(%x, %w)\noutput %y\n"},
        {"odd", floats("x", "21, 37") + weights("w", "21, 37") + weights("b", "21") +
                    "%y = Gemm(%x, %w, %b) {transB = 1}\noutput %y\n"},
        {"turned_rows", floats("x", "40, 35") + weights("w", "40, 24") + "%y = Gemm(%x, %w) {transA = 1}\noutput %y\n"},
        {"activations", floats("x", "2, 3, 21, 24") + floats("z", "2, 3, 24, 72") + "%y = MatMul(%x, %z)\noutput %y\n"},
        {"broadcast", floats("x", "2, 1, 70, 40") + floats("z", "3, 40, 8") + "%y = MatMul(%x, %z)\noutput %y\n"},
        {"keys", floats("x", "36, 40") + floats("z", "140, 40") + "%y = Gemm(%x, %z) {transB = 1}\noutput %y\n"},
        {"pointwise", floats("x", "2, 24, 9, 7") + weights("w", "40, 24, 1, 1") + weights("b", "40") +
                          floats("r", "2, 40, 9, 7") +
                          "%c = Conv(%x, %w, %b)\n%a = Add(%c, %r)\n%y = Relu(%a)\noutput %y\n"},
        {"window", conv(2, 40, 11, 72, 3, 1)},
        {"strided", floats("x", "1, 16, 13, 11") + weights("w", "20, 16, 3, 2") +
                        "%y = Conv(%x, %w) {strides = [2, 1], dilations = [2, 3], pads = [2, 0, 1, 2]}\noutput %y\n"},
        {"groups", floats("x", "2, 32, 9, 7") + floats("r", "2, 48, 9, 7") + weights("w", "48, 8, 3, 3") +
                       weights("b", "48") +
                       "%c = Conv(%x, %w, %b) {group = 4, pads = [1, 1, 1, 1]}\n%y = Add(%c, %r)\noutput %y\n"},
        {"odd_groups", floats("x", "1, 15, 6, 7") + weights("w", "21, 5, 3, 3") + weights("b", "21") +
                           "%y = Conv(%x, %w, %b) {group = 3, pads = [1, 1, 1, 1]}\noutput %y\n"},
        {"stem", conv(2, 3, 19, 24, 7, 2), Layout::plain},
        {"patches",
         floats("x", "2, 3, 32, 48") + weights("w", "20, 3, 16, 16") +
             "%y = Conv(%x, %w) {strides = [16, 16]}\noutput %y\n",
         Layout::plain},
        {"inner", floats("x", "1, 8, 9, 5") + weights("w", "24, 8, 3, 3") +
                      "%y = Conv(%x, %w) {strides = [2, 1], pads = [0, 1, 0, 1]}\noutput %y\n"},
        {"stem_last", conv(1, 3, 21, 40, 3, 2)},
        {"line", floats("x", "2, 16, 33") + weights("w", "66, 16, 5") +
                     "%y = Conv(%x, %w) {dilations = [3], pads = [6, 6]}\noutput %y\n"},
        {"transposed", floats("x", "2, 16, 6, 5") + weights("w", "16, 12, 3, 3") + weights("b", "24") +
                           "%c = ConvTranspose(%x, %w, %b) {group = 2, strides = [2, 3], pads = [1, 0, 1, 1], "
                           "output_padding = [1, 0], dilations = [1, 2]}\n%y = Sigmoid(%c)\noutput %y\n"},
        {"transposed_odd",
         floats("x", "1, 5, 4, 6") + weights("w", "5, 7, 4, 4") +
             "%y = ConvTranspose(%x, %w) {strides = [2, 2], pads = [1, 1, 1, 1]}\noutput %y\n",
         Layout::plain},
    };
}

/// Factors in bytes; results in bytes, too, or in floats.
std::vector<Case> byte_cases() {
    const auto x = [](const std::string& dims) {
        return "const %sx : float32[] = [0.02]\nconst %zx : uint8[] = [131]\ninput %xq : uint8[" + dims +
               "]\n%x = DequantizeLinear(%xq, %sx, %zx)\n";
    };
    const auto w = [](const std::string& dims, const std::string& columns, int axis) {
        return "const %wq : int8[" + dims + "] = dense<0>\nconst %sw : float32[" + columns +
               "] = dense<0>\n%w = DequantizeLinear(%wq, %sw) {axis = " + std::to_string(axis) + "}\n" +
               weights("b", columns);
    };
    const auto y = [](const std::string& last) {
        return "const %sy : float32[] = [40.0]\nconst %zy : uint8[] = [101]\n%y = QuantizeLinear(%" + last +
               ", %sy, %zy)\noutput %y\n";
    };
    return {
        {"window",
         x("2, 32, 11, 9") + w("40, 32, 3, 3", "40", 0) + "%c = Conv(%x, %w, %b) {pads = [1, 1, 1, 1]}\n" + y("c")},
        {"residual", x("2, 48, 9, 7") + w("40, 48, 1, 1", "40", 0) +
                         "const %sr : float32[] = [30.0]\nconst %zr : uint8[] = [7]\ninput %rq : uint8[2, 40, 9, 7]\n"
                         "%r = DequantizeLinear(%rq, %sr, %zr)\n%c = Conv(%x, %w, %b)\n%a = Add(%c, %r)\n"
                         "%t = Relu(%a)\n" +
                         y("t")},
        {"rows", x("3, 50, 96") + w("96, 136", "136", 1) + floats("r", "3, 50, 136") +
                     "%m = MatMul(%x, %w)\n%c = Add(%m, %b)\n%y = Add(%c, %r)\noutput %y\n"},
        {"odd", x("21, 200") + w("30, 200", "30", 0) + "%c = Gemm(%x, %w, %b) {transB = 1, alpha = 0.5}\n" + y("c")},
        {"split", x("16, 1024") + w("72, 1024", "72", 0) + "%c = Gemm(%x, %w, %b) {transB = 1}\n" + y("c")},
        {"groups", x("1, 64, 8, 7") + w("48, 32, 3, 3", "48", 0) +
                       "%c = Conv(%x, %w, %b) {group = 2, strides = [2, 2], pads = [1, 0, 1, 1]}\n%t = Relu(%c)\n" +
                       y("t")},
        {"stem",
         x("1, 3, 21, 19") + w("24, 3, 3, 3", "24", 0) +
             "%c = Conv(%x, %w, %b) {strides = [2, 2], pads = [1, 1, 1, 1]}\n%t = Relu(%c)\n" + y("t"),
         Layout::plain},
    };
}

/// The same in e4m3, whose zero points are zero; scales of results are such that nothing is rounded twice.
std::vector<Case> float8_cases() {
    std::vector<Case> cases = byte_cases();
    for (Case& c : cases)
        for (const auto& [from, to] : {std::pair<std::string_view, std::string_view>{"uint8", "float8_e4m3fn"},
                                       {": int8", ": float8_e4m3fn"},
                                       {"[131]", "[0]"},
                                       {"[101]", "[0]"},
                                       {"[] = [7]", "[] = [0]"},
                                       {"[0.02]", "[0.015625]"},
                                       {"[40.0]", "[0.125]"},
                                       {"[30.0]", "[0.25]"}})
            for (size_t at = 0; (at = c.graph.find(from, at)) != std::string::npos; at += to.size())
                c.graph.replace(at, from.size(), to);
    return cases;
}

// Sums of at most 1024 exact products in float32, in any order, each term below three times the largest result; then
// rounded to storage.
double tolerance(const EmulatedRun& run, double want, double largest) {
    const double rounding = run.storage == DType::f32 ? 0x1p-24 : run.storage == DType::f16 ? 0x1p-11 : 0x1p-8;
    return 1024 * 0x1p-24 * std::max(1.0, largest) + 1.01 * rounding * std::fabs(want) + 0x1p-24;
}

/// Every `every`-th tactic of each case, beginning with another one for each.
void emulate(const std::vector<Case>& cases, DType storage, size_t every, std::string_view arch = "sm_80") {
    std::vector<std::unique_ptr<Subject>> subjects;
    std::vector<EmulatedRun> runs;
    size_t number = 0;
    for (const Case& c : cases) {
        subjects.push_back(std::make_unique<Subject>(c.graph, arch, storage, c.layout));
        Subject& subject = *subjects.back();
        if (subject.refusal() != Refusal::none) {
            EXPECT_EQ(subject.refusal(), Refusal::none) << c.name;
            continue;
        }
        const auto tactics = subject.tactics();
        bool any = false;
        for (size_t t = 0; t < tactics.size(); ++t) {
            if ((number + t) % every != 0 && (any || t + 1 < tactics.size())) continue;
            any = true;
            const Subject one(c.graph, arch, storage, c.layout);
            EmulatedRun run{c.name + " " + tactics[t].name, storage,       nullptr,
                            one.compile(tactics[t].name),   one.formats(), exact(storage)};
            run.graph = one.graph->clone();
            runs.push_back(std::move(run));
        }
        ++number;
    }
    run_emulated(runs, tolerance);
}

TEST(MmaEmulated, HalvesAgreeWithTheReference) {
    emulate(cases(), DType::f16, 2);
}
TEST(MmaEmulated, BrainFloatsAgreeWithTheReference) {
    emulate(cases(), DType::bf16, 5);
}
TEST(MmaEmulated, Tf32AgreesWithTheReference) {
    emulate(cases(), DType::f32, 3);
}
TEST(MmaEmulated, BytesAgreeWithTheReference) {
    emulate(byte_cases(), DType::f16, 3);
}

TEST(MmaEmulated, FloatsOfEightBitsAgreeWithTheReference) {
    emulate(float8_cases(), DType::f16, 3, "sm_89");
}
TEST(Mma, FloatsOfEightBitsNeedAda) {
    const std::string text = float8_cases().front().graph;
    EXPECT_EQ(Subject(text, "sm_89").refusal(), Refusal::none);
    EXPECT_EQ(Subject(text, "sm_86").refusal(), Refusal::isa_missing);
}
TEST(Mma, FloatsOfEightBitsCompile) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    for (const std::string_view arch : {"sm_89", "sm_90a", "sm_120"}) {
        size_t number = 0;
        for (const Case& c : float8_cases()) {
            const Subject subject(c.graph, arch, DType::f16, c.layout);
            const auto tactics = subject.tactics();
            const CudaKernel kernel = subject.compile(tactics[number++ % tactics.size()].name);
            const auto binary = compile_kernel(kernel.launches.at(0).spec, subject.environment.arch);
            EXPECT_EQ(binary->resources.spilled_bytes, 0) << kernel.name;
        }
    }
}

// ---- Resources ------------------------------------------------------------------------------------------------------

class MmaResources : public ::testing::TestWithParam<const char*> {};

TEST_P(MmaResources, EveryTileCompilesWithinItsBounds) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    const std::string_view arch = GetParam();
    const size_t every = arch == "sm_80" ? 1 : 3;
    std::set<std::string> names;
    const std::string bytes = byte_cases().front().graph;
    for (const auto& [text, storage] :
         {std::pair(gemm(4096, 4096, 1024), DType::f16), std::pair(conv(128, 64, 56, 64, 3, 1), DType::bf16),
          std::pair(conv(8, 256, 14, 256, 3, 1), DType::f32), std::pair(conv(1, 512, 7, 512, 3, 1), DType::f16),
          std::pair(gemm(1, 1000, 2048), DType::f16), std::pair(kStem, DType::f16), std::pair(bytes, DType::f16)}) {
        const Subject subject(text, arch, storage, text == kStem ? Layout::plain : Layout::channels_last);
        size_t number = 0;
        for (const Tactic& tactic : subject.tactics()) {
            const CudaKernel kernel = subject.compile(tactic.name);
            if (number++ % every != 0 || !names.insert(kernel.name).second) continue;
            const Launch& launch = kernel.launches.at(0);
            EXPECT_LE(launch.spec.shared_bytes, subject.environment.device.shared_per_block) << kernel.name;
            const auto binary = compile_kernel(launch.spec, subject.environment.arch);
            EXPECT_LE(binary->resources.registers, launch.spec.max_registers) << kernel.name;
            EXPECT_EQ(binary->resources.spilled_bytes, 0) << kernel.name;
            EXPECT_GE(count_instructions(*binary, text == bytes ? kImma : kHmma), 4u) << kernel.name;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Architectures, MmaResources, ::testing::Values("sm_80", "sm_86", "sm_89", "sm_90a"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace planish::cuda
