// Gemm and MatMul of float32 with constant weights in 4 or 8 bits, by blocks of scales or one for each column.
//
// A few rows: codes are decoded in registers while they stream past, so that a product that waits for memory waits for
// a quarter or an eighth of it. Many rows: strips of columns are decoded into the panels of the float32 product, in
// scratch that L2 holds. In memory the weights stay codes.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backends/cpu/implementations/matmul.hpp"
#include "backends/cpu/jit/pointwise.hpp"
#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu::families {
namespace {

constexpr int64_t kFewRows = 8;  // up to here, decoding in registers is faster
constexpr int64_t kStrip = 64;   // columns that are decoded at a time
constexpr int64_t kPanel = CodedWeights::kPanel;

/// What a region of this kind computes.
struct WeightProduct {
    Product product;
    Epilogue epilogue;  // operands are inputs of the region
    Quantization weights;
    int x = -1, w = -1;         // inputs of the region
    std::vector<int> consumed;  // that run() does not read
    CodedWeights layout;        // with pointers once it is compiled

    bool few_rows() const { return product.shape.m <= kFewRows; }
};

/// What of the weights' format the kernels take.
Refusal read_layout(WeightProduct& p) {
    CodedWeights& l = p.layout;
    l.k = p.product.shape.k;
    l.n = p.product.shape.n;
    l.bits = bit_width(p.weights.dtype);
    const bool along_k = !p.weights.per_tensor() && p.weights.axis == (p.product.transposed ? 1 : 0);
    if (along_k != (p.weights.block != 0)) return Refusal::attribute_not_handled;
    l.block = along_k ? std::min(p.weights.block, l.k) : l.k;
    return l.block < l.k && l.block % l.rows_per_word() != 0 ? Refusal::shape_not_handled : Refusal::none;
}

Refusal read(const RegionView& region, WeightProduct& p) {
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized || quantized->result()) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    const Node& root = inner.root();
    const auto product = product_of(root);
    if (!product) return Refusal::shape_not_handled;
    const int x = inner.input_index(root.input(0)), w = inner.input_index(root.input(1));
    if (x < 0 || w < 0) return Refusal::op_not_handled;
    const QuantizedRegion::Operand& b = quantized->operand(w);
    if (!b.quantization || b.input < 0 || !region.input(b.input).is_constant()) return Refusal::weights_not_constant;
    for (const QuantizedRegion::Operand& operand : quantized->operands())
        if (operand.quantization && &operand != &b) return Refusal::dtype_not_handled;
    p.product = *product;
    p.weights = *b.quantization;
    p.x = quantized->operand(x).input;
    p.w = b.input;
    if (p.x < 0 || !is_f32(&region.input(p.x))) return Refusal::dtype_not_handled;
    p.consumed = b.scale_inputs;
    p.consumed.push_back(b.input);
    auto epilogue = gemm_epilogue(inner, *product);
    if (!epilogue) return Refusal::post_op_not_handled;
    for (int& input : epilogue->operands) {
        input = quantized->operand(input).input;
        if (input < 0) return Refusal::post_op_not_handled;
    }
    p.epilogue = std::move(*epilogue);
    return read_layout(p);
}

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    WeightProduct p;
    return read(region, p);
}

// 8 bits only where memory is waited for; 4 bits for an eighth of the memory, too.
bool pays(const RegionView& region) {
    WeightProduct p;
    read(region, p);
    return p.layout.bits == 4 || p.few_rows();
}

// ---- Weights as the kernels read them ----

/// Element i of a tensor of 4 or 8 bits, signed ones moved up by half their range.
class Codes {
  public:
    explicit Codes(const Tensor& tensor)
        : bytes_(static_cast<const uint8_t*>(tensor.raw())),
          four_(bit_width(tensor.dtype()) == 4),
          flip_(!is_signed(tensor.dtype()) ? 0
                : four_                    ? 8
                                           : 128) {}
    uint32_t operator[](int64_t i) const { return (four_ ? (bytes_[i / 2] >> (i % 2 * 4)) & 15U : bytes_[i]) ^ flip_; }

  private:
    const uint8_t* bytes_;
    bool four_;
    uint32_t flip_;
};

/// to[(panel * lines + line) * kPanel + j] = value(line, column j of the panel), 0 past the last column.
template <typename T, typename Value>
void fill_panels(const CodedWeights& l, int64_t lines, std::span<T> to, const Value& value) {
    for (int64_t panel = 0; panel < l.panels(); ++panel)
        for (int64_t line = 0; line < lines; ++line)
            for (int64_t j = 0; j < kPanel; ++j) {
                const int64_t column = panel * kPanel + j;
                to[static_cast<size_t>((panel * lines + line) * kPanel + j)] = column < l.n ? value(line, column) : T{};
            }
}

/// Keeps what the pointers of a CodedWeights point to.
struct Storage {
    Tensor codes, scales, zeros;
    std::vector<uint8_t> no_zeros;  // where the weights have none
};

void store_codes(const RegionView& region, WeightProduct& p, const std::string& form, const Environment& environment,
                 Storage& storage) {
    CodedWeights& l = p.layout;
    const auto weights = region.constant(&region.input(p.w));
    const int64_t per_word = l.rows_per_word();
    const int64_t row_step = p.product.transposed ? 1 : l.n, column_step = p.product.transposed ? l.k : 1;
    const auto fill = [&](std::span<float> memory) {
        const Codes codes(*weights);
        fill_panels(l, l.words(), std::span(reinterpret_cast<uint32_t*>(memory.data()), memory.size()),
                    [&](int64_t word, int64_t column) {
                        const int64_t first = word * per_word, rows = std::min(per_word, l.k - first);
                        uint32_t packed = 0;
                        for (int64_t i = 0; i < rows; ++i)
                            packed |= codes[(first + i) * row_step + column * column_step] << (i * l.bits);
                        return packed;
                    });
    };
    storage.codes = environment.transformed_weights(weights, form, l.panels() * l.words() * kPanel, fill);
    l.codes = reinterpret_cast<const uint32_t*>(storage.codes.raw());
}

void store(const RegionView& region, WeightProduct& p, const Environment& environment, Storage& storage) {
    CodedWeights& l = p.layout;
    const std::string form =
        fmt::format("codes k={} n={} block={} transposed={:d}", l.k, l.n, l.block, p.product.transposed);
    store_codes(region, p, form, environment, storage);

    const bool one = p.weights.per_tensor();
    const int64_t block_step = one ? 0 : p.product.transposed ? 1 : l.n;
    const int64_t column_step = one ? 0 : p.product.transposed ? l.blocks() : 1;
    const int64_t count = l.panels() * l.blocks() * kPanel;
    const auto fill_scales = [&](std::span<float> to) {
        const auto from = p.weights.scales->data<float>();
        fill_panels(l, l.blocks(), to, [&](int64_t block, int64_t column) {
            return from[static_cast<size_t>(block * block_step + column * column_step)];
        });
    };
    storage.scales = environment.transformed_weights(p.weights.scales, "scales of " + form, count, fill_scales);
    l.scales = storage.scales.data<float>().data();

    if (p.weights.zeros == nullptr) {
        const int middle = is_signed(p.weights.dtype) ? 1 << (l.bits - 1) : 0;
        storage.no_zeros.assign(static_cast<size_t>(count), static_cast<uint8_t>(middle));
        l.zeros = storage.no_zeros.data();
        return;
    }
    const auto fill_zeros = [&](std::span<float> memory) {
        const Codes zeros(*p.weights.zeros);
        fill_panels(l, l.blocks(), std::span(reinterpret_cast<uint8_t*>(memory.data()), 4 * memory.size()),
                    [&](int64_t block, int64_t column) {
                        return static_cast<uint8_t>(zeros[block * block_step + column * column_step]);
                    });
    };
    storage.zeros = environment.transformed_weights(p.weights.zeros, "zero points of " + form, count / 4, fill_zeros);
    l.zeros = static_cast<const uint8_t*>(storage.zeros.raw());
}

// ---- A few rows ----

/// That of a post-op with an operand; nullopt: prelu, which is none.
std::optional<PointwiseOp::Kind> binary_kind(PostOp::Kind kind) {
    using Kind = PostOp::Kind;
    using Op = PointwiseOp::Kind;
    switch (kind) {
        case Kind::add_channel:
        case Kind::add_tensor:
            return Op::add;
        case Kind::mul_channel:
        case Kind::mul_tensor:
            return Op::mul;
        case Kind::sub_tensor:
        case Kind::rsub_tensor:
            return Op::sub;
        case Kind::div_tensor:
            return Op::div;
        case Kind::max_tensor:
            return Op::max;
        case Kind::min_tensor:
            return Op::min;
        default:
            return std::nullopt;
    }
}

/// The epilogue over the sums and its operands; nullopt: it is no expression.
std::optional<PointwiseProgram> as_expression(const Epilogue& epilogue) {
    PointwiseProgram program;
    program.inputs = 1 + static_cast<int>(epilogue.operands.size());
    int value = 0, next = program.inputs;
    for (const PostOp& post : epilogue.ops) {
        PointwiseOp op;
        op.dst = next++;
        op.a = value;
        op.alpha = post.alpha;
        op.beta = post.beta;
        op.function = post.kind;
        if (post.operand >= 0) {
            const auto kind = binary_kind(post.kind);
            if (!kind) return std::nullopt;
            op.kind = *kind;
            op.b = 1 + post.operand;
            if (post.kind == PostOp::Kind::rsub_tensor) std::swap(op.a, op.b);
        }
        program.ops.push_back(op);
        value = op.dst;
    }
    program.outputs = {value};
    return program;
}

std::shared_ptr<const PointwiseKernel> epilogue_kernel(const WeightProduct& p, Isa isa) {
    if (p.epilogue.ops.empty()) return nullptr;
    const std::array<int64_t, 2> shape{p.product.shape.m, p.product.shape.n};
    std::vector<PointwiseInput> inputs(1 + p.epilogue.operands.size(), {PointwiseType::f32, {shape[1], 1}});
    for (const PostOp& op : p.epilogue.ops)
        if (has_channel_operand(op.kind)) inputs[static_cast<size_t>(1 + op.operand)].strides = {0, 1};
    const PointwiseType type[] = {PointwiseType::f32};
    return std::make_shared<const PointwiseKernel>(*as_expression(p.epilogue), shape, inputs, type, isa);
}

std::unique_ptr<Kernel> compile_few(const WeightProduct& p, const std::shared_ptr<const Storage>& storage,
                                    const Environment& environment) {
    const auto epilogue = epilogue_kernel(p, environment.isa);
    return make_kernel("", [p, storage, epilogue, &table = kernels(environment.isa)](const Launch& launch) {
        const GemmShape& s = p.product.shape;
        const CodedProductArgs args{p.layout, launch.f32(p.x), launch.out_f32(), s.m, s.k, s.n};
        split_items(launch, p.layout.panels(), s.m * s.k,
                    [&](int64_t begin, int64_t end, int) { table.coded_product(args, begin, end); });
        if (epilogue == nullptr) return;
        const void* inputs[kMaxOperands + 1] = {launch.out_f32()};
        for (size_t i = 0; i < p.epilogue.operands.size(); ++i) inputs[1 + i] = launch.f32(p.epilogue.operands[i]);
        void* outputs[] = {launch.out_f32()};
        epilogue->run({inputs, 1 + p.epilogue.operands.size()}, outputs, *launch.pool, launch.threads);
    });
}

// ---- Many rows ----

std::unique_ptr<Kernel> compile_many(const WeightProduct& p, const std::shared_ptr<const Storage>& storage,
                                     const Environment& environment) {
    const bool wide = environment.isa >= Isa::avx512;
    const PanelWidth width{wide ? 32 : 16, wide ? 16 : 8};  // whole panels of codes
    const auto plan_of = [&](int64_t columns) {
        GemmShape shape = p.product.shape;
        shape.n = columns;
        shape.ldc = p.product.shape.n;
        return std::make_shared<const GemmPlan>(shape, p.epilogue.ops, environment.isa, width);
    };
    const int64_t n = p.layout.n, rest = n % kStrip, strips = (n + kStrip - 1) / kStrip;
    const auto whole = plan_of(std::min(n, kStrip)), last = rest == 0 ? whole : plan_of(rest);
    const int64_t scratch = p.layout.k * kStrip;
    auto kernel = make_kernel(
        "", [p, storage, whole, last, strips, scratch, &table = kernels(environment.isa)](const Launch& launch) {
            split_items(launch, strips, p.product.shape.m * p.layout.k, [&](int64_t begin, int64_t end, int thread) {
                float* panels = reinterpret_cast<float*>(launch.workspace) + thread * scratch;
                for (int64_t strip = begin; strip < end; ++strip) {
                    const GemmPlan& plan = strip + 1 == strips ? *last : *whole;
                    const PackLayout& layout = plan.b_layout();
                    const int64_t column = strip * kStrip;
                    for (int64_t i = 0; i < layout.panels(); ++i) {
                        const int64_t first = (column + i * layout.nr) / kPanel, columns = layout.width(i) + kPanel - 1;
                        table.decode_weights({p.layout, panels + layout.panel_offset(i), layout.width(i)}, first,
                                             first + columns / kPanel);
                    }
                    const float* operands[kMaxOperands + 1];
                    for (size_t i = 0; i < p.epilogue.operands.size(); ++i)
                        operands[i] = launch.f32(p.epilogue.operands[i]) + column;
                    plan.run_serial(launch.f32(p.x), panels, launch.out_f32() + column,
                                    {operands, p.epilogue.operands.size()});
                }
            });
        });
    kernel->workspace = static_cast<size_t>(scratch * environment.threads) * sizeof(float);
    return kernel;
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    WeightProduct p;
    read(region, p);
    auto storage = std::make_shared<Storage>();
    store(region, p, environment, *storage);
    const bool few = p.few_rows() && as_expression(p.epilogue);
    auto kernel = (few ? compile_few : compile_many)(p, storage, environment);
    const std::string blocks = p.layout.block < p.layout.k ? fmt::format("_block{}", p.layout.block) : "";
    kernel->name =
        fmt::format("{}_f32_w{}{}_{}", few ? "gemv" : "gemm", p.layout.bits, blocks, to_string(environment.isa));
    kernel->flops = 2 * p.product.shape.m * p.product.shape.n * p.product.shape.k;
    kernel->consumed = p.consumed;
    return kernel;
}

}  // namespace

const Implementation kWeightOnlyGemm{"weight_only_gemm", can_multiply, plain_layouts, compile, pays};

}  // namespace planish::cpu::families
