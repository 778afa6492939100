// Softmax and normalisations by rows between bytes: a few rows at a time are decoded into scratch that stays in L1,
// computed there in float32 and encoded.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "backends/cpu/kernels/kernels.hpp"
#include "backends/cpu/split.hpp"
#include "backends/quantized.hpp"

namespace planish::cpu::families {
namespace {

constexpr int64_t kScratchFloats = 3072;  // of a thread, unless one row is longer

struct RowOp {
    enum class Kind { softmax, layer_norm, rms_norm } kind = Kind::softmax;
    int x = -1, scale = -1, bias = -1;  // inputs of the region
    std::optional<ByteScale> stored_x, stored_y;
    // Where they are stored in bytes themselves:
    std::vector<float> decoded_scale, decoded_bias;
    std::vector<int> consumed;  // inputs that run() does not read
    int64_t n = 1, rows = 1;
    float eps = 0;
};

std::optional<ByteScale> byte_scale(const Quantization& q) {
    if (!q.is_bytes()) return std::nullopt;
    return ByteScale{q.scale(), static_cast<float>(q.zero())};
}

Refusal read(const RegionView& region, const Environment& environment, RowOp& op) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const auto quantized = QuantizedRegion::read(region);
    if (!quantized) return Refusal::attribute_not_handled;
    const RegionView& inner = quantized->inner();
    if (inner.has_body()) return Refusal::post_op_not_handled;
    const Node& node = inner.node();
    if (uses_later_outputs(node)) return Refusal::attribute_not_handled;
    op.kind = node.is("Softmax")              ? RowOp::Kind::softmax
              : node.is("LayerNormalization") ? RowOp::Kind::layer_norm
                                              : RowOp::Kind::rms_norm;
    const Dims dims = node.input(0)->dims();
    const auto rank = static_cast<int64_t>(dims.size());
    const int64_t axis = node.integer("axis") < 0 ? node.integer("axis") + rank : node.integer("axis");
    for (int64_t i = axis; i < rank; ++i) op.n *= dims[static_cast<size_t>(i)];
    if (element_count(dims) == 0) return Refusal::shape_not_handled;
    // Softmax is over one axis: the last one that counts.
    if (op.kind == RowOp::Kind::softmax && op.n != dims[static_cast<size_t>(axis)]) return Refusal::shape_not_handled;
    op.rows = element_count(dims) / op.n;
    if (op.kind != RowOp::Kind::softmax) op.eps = static_cast<float>(node.real("epsilon"));
    for (int i = 0; i < node.input_count(); ++i) {
        if (node.input(i) == nullptr) continue;
        const QuantizedRegion::Operand& operand = quantized->operand(i);
        if (operand.input < 0) return Refusal::op_not_handled;
        if (operand.quantization && i > 0) {
            const auto constant = region.constant(&region.input(operand.input));
            if (constant == nullptr || !operand.quantization->per_tensor()) return Refusal::weights_not_constant;
            std::vector<float>& decoded = i == 1 ? op.decoded_scale : op.decoded_bias;
            for (int64_t k = 0; k < constant->size(); ++k)
                decoded.push_back(static_cast<float>(constant->at_int64(k) - operand.quantization->zero()) *
                                  operand.quantization->scale());
            op.consumed.push_back(operand.input);
            op.consumed.insert(op.consumed.end(), operand.scale_inputs.begin(), operand.scale_inputs.end());
        } else if (operand.quantization) {
            op.stored_x = byte_scale(*operand.quantization);
            if (!op.stored_x) return Refusal::dtype_not_handled;
        } else if (!is_f32(node.input(i))) {
            return Refusal::dtype_not_handled;
        }
        if (i > 0 && element_count(node.input(i)->dims()) != op.n) return Refusal::shape_not_handled;
        (i == 0 ? op.x : i == 1 ? op.scale : op.bias) = operand.input;
    }
    if (quantized->result()) {
        op.stored_y = byte_scale(*quantized->result());
        if (!op.stored_y) return Refusal::dtype_not_handled;
    }
    return Refusal::none;
}

Refusal can_implement(const RegionView& region, const Environment& environment) {
    RowOp op;
    return read(region, environment, op);
}

/// Rows of `op` from `x` to `y`, which may be the same memory.
void compute(const RowOp& op, const KernelTable& table, const Launch& launch, const float* x, float* y, int64_t rows) {
    if (op.kind == RowOp::Kind::softmax) {
        SoftmaxArgs args;
        args.input = x;
        args.output = y;
        args.n = op.n;
        return table.softmax(args, 0, rows);
    }
    NormArgs args;
    args.input = x;
    args.output = y;
    args.scale = op.decoded_scale.empty() ? launch.f32(op.scale) : op.decoded_scale.data();
    args.bias = op.decoded_bias.empty() ? launch.f32(op.bias) : op.decoded_bias.data();
    args.n = op.n;
    args.eps = op.eps;
    (op.kind == RowOp::Kind::rms_norm ? table.rms_norm : table.layer_norm)(args, 0, rows);
}

std::unique_ptr<Kernel> compile(const RegionView& region, const Layouts&, const Environment& environment) {
    RowOp op;
    read(region, environment, op);
    const int64_t together = std::max<int64_t>(1, kScratchFloats / op.n);
    const int64_t scratch = (together * op.n + 15) / 16 * 16;
    const char* name = op.kind == RowOp::Kind::softmax      ? "softmax"
                       : op.kind == RowOp::Kind::layer_norm ? "layer_norm"
                                                            : "rms_norm";
    auto kernel = make_kernel(
        fmt::format("{}_i8_{}", name, to_string(environment.isa)),
        [op, together, scratch, &table = kernels(environment.isa)](const Launch& launch) {
            const std::byte* x = launch.in[static_cast<size_t>(op.x)];
            split_items(launch, op.rows, op.n, [&](int64_t begin, int64_t end, int thread) {
                float* floats = reinterpret_cast<float*>(launch.workspace) + thread * scratch;
                for (int64_t row = begin; row < end; row += together) {
                    const int64_t rows = std::min(together, end - row), at = row * op.n, count = rows * op.n;
                    const float* from = op.stored_x ? floats : reinterpret_cast<const float*>(x) + at;
                    if (op.stored_x)
                        table.decode({reinterpret_cast<const uint8_t*>(x) + at, floats, *op.stored_x}, 0, count);
                    float* to = op.stored_y ? floats : launch.out_f32() + at;
                    compute(op, table, launch, from, to, rows);
                    if (op.stored_y)
                        table.encode({floats, reinterpret_cast<uint8_t*>(launch.out[0]) + at, *op.stored_y}, 0, count);
                }
            });
        });
    kernel->workspace = static_cast<size_t>(scratch * environment.threads) * sizeof(float);
    kernel->flops = 8 * op.rows * op.n;
    kernel->consumed = op.consumed;
    return kernel;
}

}  // namespace

const Implementation kQuantizedRowOps{"quantized_rows", can_implement, plain_layouts, compile};

}  // namespace planish::cpu::families
