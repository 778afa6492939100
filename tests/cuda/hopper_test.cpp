// Products and convolutions on warpgroup products: who is taken, what the copy engine is told, and that the kernels of
// every tactic compile within their stated resources and do hold those products. No GPU is needed, but NVRTC.
#include <gtest/gtest.h>

#include "backends/cuda/compiler.hpp"
#include "backends/cuda/implementation.hpp"
#include "backends/cuda/kernels/gemm_wgmma_params.h"
#include "backends/cuda/library.hpp"
#include "cuda/machine_code.hpp"
#include "passes/pass.hpp"

namespace planish::cuda {
namespace {

/// The last node of a specialised graph, as the CUDA backend sees it on an architecture.
struct Subject {
    explicit Subject(std::string_view text, std::string_view arch = "sm_90a", DType storage = DType::f16) {
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
    bool is_taken() const { return implementation().can_implement(*region, environment) == Refusal::none; }
    const Implementation& implementation() const {
        const bool bytes = region->has_body() && region->node().text("kind") == "quantized";
        return bytes ? families::kByteWgmma : families::kWgmma;
    }
    std::vector<Tactic> tactics() const { return implementation().tactics(*region, environment); }
    Formats formats() const {
        std::vector<Format> available;
        for (const Value* input : region->node().inputs())
            available.push_back({Layout::plain, input != nullptr ? environment.stored_as(*input) : DType::undefined});
        return implementation().formats(*region, available, environment);
    }
    CudaKernel compile(std::string_view tactic) const {
        return implementation().compile(*region, formats(), tactic, environment);
    }

    std::unique_ptr<Graph> graph;
    PackedStore packed;
    Environment environment;
    std::optional<RegionView> region;
};

std::string product_text(int m, int n, int k, std::string_view rest) {
    const std::string rows = std::to_string(m), columns = std::to_string(n), depth = std::to_string(k);
    return "graph \"g\" { input %x : float32[" + rows + ", " + depth + "] input %r : float32[" + rows + ", " + columns +
           "] const %w : float32[" + columns + ", " + depth + "] = dense<0> const %b : float32[" + columns +
           "] = dense<0> %p = Gemm(%x, %w, %b) {transB = 1} " + std::string(rest) + " output %y }";
}

std::string conv_text(int n, int c, int h, int w, int out, int kernel, int stride, int pad, int dilation = 1) {
    const auto pair = [](int i) { return "[" + std::to_string(i) + ", " + std::to_string(i) + "]"; };
    const std::string p = std::to_string(pad), channels = std::to_string(c);
    return "graph \"g\" { input %x : float32[" + std::to_string(n) + ", " + channels + ", " + std::to_string(h) + ", " +
           std::to_string(w) + "] const %w : float32[" + std::to_string(out) + ", " + channels + ", " +
           std::to_string(kernel) + ", " + std::to_string(kernel) + "] = dense<0> const %b : float32[" +
           std::to_string(out) + "] = dense<0> %c = Conv(%x, %w, %b) {pads = [" + p + ", " + p + ", " + p + ", " + p +
           "], strides = " + pair(stride) + ", dilations = " + pair(dilation) + "} %y = Relu(%c) output %y }";
}

// ---- Bytes ----------------------------------------------------------------------------------------------------------

std::string decoded_bytes(const std::string& name, const std::string& dims, int zero) {
    return "input %" + name + "q : uint8[" + dims + "] const %" + name + "s : float32[] = [0.02] const %" + name +
           "z : uint8[] = [" + std::to_string(zero) + "] %" + name + " = DequantizeLinear(%" + name + "q, %" + name +
           "s, %" + name + "z) ";
}
std::string decoded_weights(const std::string& dims, const std::string& columns) {
    return "const %wq : int8[" + dims + "] = dense<3> const %ws : float32[" + columns +
           "] = dense<0.5> %w = DequantizeLinear(%wq, %ws) {axis = 0} const %b : float32[" + columns + "] = dense<0> ";
}
const std::string kEncoded =
    "const %ys : float32[] = [0.3] const %yz : uint8[] = [7] %y = QuantizeLinear(%t, %ys, %yz) output %y }";

/// `rest` makes %t of %p; `residual`: bytes %r that are decoded.
std::string byte_product(int m, int n, int k, const std::string& rest, bool residual = false) {
    const std::string rows = std::to_string(m), columns = std::to_string(n), depth = std::to_string(k);
    return "graph \"g\" { " + decoded_bytes("x", rows + ", " + depth, 131) +
           (residual ? decoded_bytes("r", rows + ", " + columns, 5) : "") +
           decoded_weights(columns + ", " + depth, columns) + "%p = Gemm(%x, %w, %b) {transB = 1} " + rest;
}
std::string byte_conv(int n, int c, int size, int out, int kernel, int stride, int zero, const std::string& rest,
                      bool residual = false) {
    const std::string channels = std::to_string(c), columns = std::to_string(out), k = std::to_string(kernel),
                      p = std::to_string(kernel / 2), s = std::to_string(stride), images = std::to_string(n),
                      in = std::to_string(size), to = std::to_string((size - 1) / stride + 1);
    return "graph \"g\" { " + decoded_bytes("x", images + ", " + channels + ", " + in + ", " + in, zero) +
           (residual ? decoded_bytes("r", images + ", " + columns + ", " + to + ", " + to, 5) : "") +
           decoded_weights(columns + ", " + channels + ", " + k + ", " + k, columns) +
           "%p = Conv(%x, %w, %b) {pads = [" + p + ", " + p + ", " + p + ", " + p + "], strides = [" + s + ", " + s +
           "]} " + rest;
}
const std::string kRelu = "%t = Relu(%p) " + kEncoded, kSum = "%a = Add(%p, %r) %t = Relu(%a) " + kEncoded,
                  kGelu = "%t = Gelu(%p) " + kEncoded, kFloats = "%y = Gelu(%p) output %y }";

const std::string kMlp = product_text(16384, 3072, 768, "%y = Gelu(%p)");
const std::string kResidual = product_text(128, 768, 3072, "%y = Add(%p, %r)");

TEST(Wgmma, TakesWhatTheCopyEngineCanFetch) {
    EXPECT_TRUE(Subject(kMlp).is_taken());
    EXPECT_TRUE(Subject(kMlp, "sm_90a", DType::bf16).is_taken());
    EXPECT_TRUE(Subject(kResidual).is_taken());
    EXPECT_TRUE(Subject(conv_text(1, 64, 56, 56, 64, 3, 1, 1)).is_taken());
    EXPECT_TRUE(Subject(conv_text(1, 24, 56, 56, 144, 1, 1, 0)).is_taken());
    EXPECT_FALSE(Subject(kMlp, "sm_90a", DType::f32).is_taken());
    EXPECT_FALSE(Subject(kMlp, "sm_80").is_taken());
    EXPECT_FALSE(Subject(product_text(8, 100, 64, "%y = Relu(%p)")).is_taken());     // rows of 200 bytes
    EXPECT_FALSE(Subject(conv_text(1, 3, 224, 224, 64, 7, 2, 3)).is_taken());        // pixels of 6 bytes
    EXPECT_FALSE(Subject(conv_text(1, 8, 640, 640, 8, 3, 9, 1)).is_taken());         // steps of more than 8 pixels
    EXPECT_FALSE(Subject(conv_text(1, 8, 640, 640, 8, 3, 1, 150, 150)).is_taken());  // taps 300 pixels apart
}

TEST(Wgmma, TakesBytesThatTheCopyEngineCanFetch) {
    EXPECT_TRUE(Subject(byte_product(300, 256, 160, kGelu)).is_taken());
    EXPECT_TRUE(Subject(byte_product(300, 256, 160, kSum, true)).is_taken());
    EXPECT_TRUE(Subject(byte_product(300, 1000, 160, kFloats)).is_taken());
    EXPECT_FALSE(Subject(byte_product(300, 1000, 160, kGelu)).is_taken());  // rows of 1000 bytes
    EXPECT_FALSE(Subject(byte_product(300, 256, 168, kGelu)).is_taken());
    EXPECT_FALSE(Subject(byte_product(300, 256, 160, kGelu), "sm_89").is_taken());
    EXPECT_TRUE(Subject(byte_conv(2, 64, 14, 64, 3, 1, 0, kRelu)).is_taken());
    EXPECT_TRUE(Subject(byte_conv(2, 64, 14, 64, 1, 2, 131, kRelu)).is_taken());
    EXPECT_FALSE(Subject(byte_conv(2, 64, 14, 64, 3, 1, 131, kRelu)).is_taken());  // padding of zero bytes is no zeros
}

// A step of 128 channels takes one load, and of fewer channels only what there is is multiplied.
TEST(Wgmma, StepsAreOf128Bytes) {
    const auto steps = [](const Subject& subject, std::string_view products) {
        const CudaKernel kernel = subject.compile(subject.tactics().front().name);
        EXPECT_NE(kernel.launches[0].spec.source.find("kProducts = " + std::string(products)), std::string::npos);
        GemmWgmmaParams params;
        std::memcpy(&params, kernel.launches[0].params.data(), sizeof(params));
        return params.steps;
    };
    EXPECT_EQ(steps(Subject(byte_product(300, 256, 400, kGelu)), "4"), 4);
    EXPECT_EQ(steps(Subject(byte_conv(2, 64, 14, 64, 3, 1, 0, kRelu)), "2"), 9);
    EXPECT_EQ(steps(Subject(conv_text(2, 64, 14, 14, 64, 3, 1, 1)), "4"), 9);
    EXPECT_EQ(steps(Subject(conv_text(2, 24, 14, 14, 64, 3, 1, 1)), "2"), 9);
}

// The order in which a lane of wgmma has four neighbouring columns: its elements are those of columns 8i + 2j and the
// next of each eight.
TEST(Wgmma, ColumnsOfBytesLieSoThatALaneHasFourNeighbours) {
    Subject subject(byte_product(64, 32, 16, kRelu));
    Value* weights = nullptr;
    for (Value* value : subject.graph->node_list().back()->inputs())
        if (value->type.dtype == DType::i8) weights = value;
    ASSERT_NE(weights, nullptr);
    Tensor numbers(DType::i8, {32, 16});
    for (int64_t i = 0; i < numbers.size(); ++i) numbers.set_double(i, static_cast<double>(i / 16));
    weights->constant = std::make_shared<Tensor>(numbers);
    subject.region.emplace(*subject.graph->node_list().back());
    const CudaKernel kernel = subject.compile(subject.tactics().front().name);
    for (int lane = 0; lane < 4; ++lane)
        for (int unit = 0; unit < 2; ++unit)
            for (int column = 0; column < 4; ++column) {
                const int place = 16 * unit + 8 * (column / 2) + 2 * lane + column % 2;
                EXPECT_EQ(kernel.constants.front().at_double(16 * place), 16 * unit + 4 * lane + column);
            }
}

TEST(Wgmma, ChoosesLargeTilesForLargeProductsAndSplitsSmallOnes) {
    EXPECT_NE(Subject(kMlp).tactics().front().name.find('p'), std::string::npos);  // GELU under the other's products
    EXPECT_TRUE(Subject(product_text(8192, 8192, 8192, "%y = Relu(%p)")).tactics().front().name.starts_with("128x256"));
    Subject small(conv_text(1, 512, 7, 7, 512, 3, 1, 1));
    EXPECT_NE(small.tactics().front().name.find('k'), std::string::npos) << small.tactics().front().name;
    small.environment.batch_invariant = true;
    for (const Tactic& tactic : small.tactics()) EXPECT_EQ(tactic.name.find('k'), std::string::npos) << tactic.name;
}

TEST(Wgmma, IsExpectedToBeatProductsWithoutTensorCores) {
    for (const std::string& text :
         {kMlp, kResidual, product_text(1, 1000, 2048, "%y = Relu(%p)"), conv_text(1, 64, 56, 56, 64, 3, 1, 1),
          conv_text(1, 512, 7, 7, 512, 3, 1, 1), conv_text(1, 16, 112, 112, 96, 1, 1, 0)}) {
        const Subject subject(text);
        ASSERT_EQ(families::kConvSimt.can_implement(*subject.region, subject.environment), Refusal::none) << text;
        const auto others = families::kConvSimt.tactics(*subject.region, subject.environment);
        EXPECT_LT(subject.tactics().front().seconds, others.front().seconds) << text;
    }
}

// The bounding box of an im2col map holds each output pixel's first tap: w and h, strides and asymmetric sizes apart.
TEST(Wgmma, BoundsTheImage) {
    const Subject subject(conv_text(2, 64, 15, 22, 64, 3, 2, 1));
    const CudaKernel kernel = subject.compile(subject.tactics().front().name);
    ASSERT_EQ(kernel.launches.size(), 1u);
    const TensorMapDesc& map = kernel.launches[0].maps[0].desc;
    EXPECT_EQ(map.mode, TensorMapDesc::Mode::im2col);
    EXPECT_EQ(map.dims, (std::array<int64_t, 5>{64, 22, 15, 2, 0}));
    EXPECT_EQ(map.lower_corner, (std::array<int, 3>{-1, -1, 0}));
    // 11 columns and 8 rows of pixels, two apart, from -1 on: the last ones are 19 and 13, two and one before the end.
    EXPECT_EQ(map.upper_corner, (std::array<int, 3>{-2, -1, 0}));
    EXPECT_EQ(map.element_strides, (std::array<int, 5>{1, 2, 2, 1, 1}));
    GemmWgmmaParams params;
    std::memcpy(&params, kernel.launches[0].params.data(), sizeof(params));
    EXPECT_EQ(params.m, 2 * 8 * 11);
    EXPECT_EQ(params.steps, 9);
}

void compile_all(const std::vector<std::string>& texts, DType storage, size_t every, unsigned product = kHgmma) {
    if (nvrtc() == nullptr) GTEST_SKIP() << nvrtc_problem();
    size_t number = 0;
    for (const std::string& text : texts) {
        const Subject subject(text, "sm_90a", storage);
        ASSERT_TRUE(subject.is_taken()) << text;
        for (const Tactic& tactic : subject.tactics()) {
            if (number++ % every != 0) continue;
            const CudaKernel kernel = subject.compile(tactic.name);
            for (const Launch& launch : kernel.launches) {
                SCOPED_TRACE(launch.spec.name + "\n" + launch.spec.source);
                EXPECT_LE(launch.spec.shared_bytes, subject.environment.device.shared_per_block);
                EXPECT_EQ(launch.grid[0] % static_cast<unsigned>(launch.spec.cluster), 0u);
                const auto binary = compile_kernel(launch.spec, subject.environment.arch);
                EXPECT_LE(binary->resources.registers, launch.spec.max_registers);
                EXPECT_EQ(binary->resources.spilled_bytes, 0);
                EXPECT_GE(count_instructions(*binary, product), 2u);
            }
        }
    }
}

TEST(Wgmma, ProductsCompile) {
    compile_all({kMlp, kResidual, product_text(3000, 1000, 520, "%y = Add(%p, %r)")}, DType::f16, 3);
}

TEST(Wgmma, ConvolutionsCompile) {
    compile_all({conv_text(128, 64, 56, 56, 64, 3, 1, 1), conv_text(1, 256, 14, 14, 256, 3, 1, 1)}, DType::bf16, 3);
}

TEST(Wgmma, ProductsOfBytesCompile) {
    compile_all({byte_product(16384, 3072, 768, kGelu), byte_product(16384, 768, 3072, kSum, true),
                 byte_product(130, 1000, 2048, kFloats), byte_product(130, 512, 2048, kRelu)},
                DType::f16, 2, kIgmma);
}

/// The same in e4m3, whose zero points are zero.
std::string in_float8(std::string text) {
    for (const auto& [from, to] : {std::pair<std::string_view, std::string_view>{"uint8", "float8_e4m3fn"},
                                   {": int8", ": float8_e4m3fn"},
                                   {"[] = [131]", "[] = [0]"},
                                   {"[] = [5]", "[] = [0]"},
                                   {"[] = [7]", "[] = [0]"}})
        for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
            text.replace(at, from.size(), to);
    return text;
}

TEST(Wgmma, TakesFloatsOfEightBits) {
    EXPECT_TRUE(Subject(in_float8(byte_product(300, 256, 160, kGelu))).is_taken());
    EXPECT_TRUE(Subject(in_float8(byte_product(300, 1000, 160, kFloats))).is_taken());
    EXPECT_TRUE(Subject(in_float8(byte_conv(2, 64, 14, 64, 3, 1, 131, kSum, true))).is_taken());
    EXPECT_FALSE(Subject(in_float8(byte_product(300, 256, 160, kGelu)), "sm_89").is_taken());
    // Kernels store a sum and its operand in one type.
    std::string mixed = byte_conv(2, 64, 14, 64, 3, 1, 0, kSum, true);
    mixed.replace(mixed.find("%rq : uint8"), 11, "%rq : float8_e4m3fn");
    mixed.replace(mixed.find("%rz : uint8[] = [5]"), 19, "%rz : float8_e4m3fn[] = [0]");
    EXPECT_FALSE(Subject(mixed).is_taken());
}

TEST(Wgmma, ProductsOfFloat8Compile) {
    compile_all({in_float8(byte_product(16384, 3072, 768, kGelu)), in_float8(byte_product(130, 1000, 2048, kFloats)),
                 in_float8(byte_conv(128, 128, 28, 512, 1, 1, 0, kSum, true)),
                 in_float8(byte_conv(1, 256, 14, 256, 3, 1, 0, kRelu))},
                DType::f16, 4, kQgmma);
}

TEST(Wgmma, ConvolutionsOfBytesCompile) {
    compile_all({byte_conv(128, 64, 56, 64, 3, 1, 0, kRelu), byte_conv(128, 128, 28, 512, 1, 1, 0, kSum, true),
                 byte_conv(1, 256, 14, 256, 3, 1, 0, kRelu)},
                DType::f16, 3, kIgmma);
}

}  // namespace
}  // namespace planish::cuda
