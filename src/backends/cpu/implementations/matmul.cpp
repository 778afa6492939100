// Matrix products: a packed constant right-hand side (Gemm, MatMul with weights), and batches of activations.
#include "backends/cpu/implementations/matmul.hpp"

#include <fmt/format.h>

#include <numeric>

#include "backends/cpu/jit/strassen.hpp"
#include "base/thread_pool.hpp"

namespace planish::cpu {

std::optional<Product> product_of(const Node& node) {
    const Dims a = node.input(0)->dims(), b = node.input(1)->dims();
    Product p;
    if (b.size() != 2) return std::nullopt;
    if (node.is("Gemm")) {
        if (node.integer("transA") != 0) return std::nullopt;
        p.transposed = node.integer("transB") != 0;
        p.alpha = static_cast<float>(node.real("alpha"));
        p.beta = static_cast<float>(node.real("beta"));
    }
    if (a.empty()) return std::nullopt;
    p.shape.k = a.back();
    p.shape.m = std::accumulate(a.begin(), a.end() - 1, int64_t{1}, std::multiplies<>());
    p.shape.n = p.transposed ? b[0] : b[1];
    if (p.shape.m == 0 || p.shape.n == 0 || p.shape.k == 0) return std::nullopt;
    return p;
}

std::optional<Epilogue> gemm_epilogue(const RegionView& region, const Product& product) {
    const Node& root = region.root();
    const int64_t rank = static_cast<int64_t>(root.output()->dims().size());
    Epilogue result;
    if (product.alpha != 1) result.ops.push_back({PostOp::Kind::scale_shift, product.alpha, 0});
    if (const Value* c = root.is("Gemm") ? root.input(2) : nullptr) {
        if (product.beta != 1 || !is_f32(c)) return std::nullopt;
        const Dims dims = c->dims();
        const int input = region.input_index(c);
        if (input < 0) {  // of one element: a constant of the region's body
            if (!c->is_constant()) return std::nullopt;
            result.ops.push_back({PostOp::Kind::scale_shift, 1, static_cast<float>(c->constant->at_double(0))});
            return read_epilogue(region, rank - 1, std::move(result));
        }
        const bool channel = element_count(dims) == product.shape.n && (dims.size() == 1 || dims[0] == 1);
        const bool full = dims.size() == 2 && dims[0] == product.shape.m && dims[1] == product.shape.n;
        if (!channel && !full) return std::nullopt;
        result.ops.push_back(
            {channel ? PostOp::Kind::add_channel : PostOp::Kind::add_tensor, 0, 0, result.add_operand(input)});
    }
    return read_epilogue(region, rank - 1, std::move(result));
}

namespace families {
namespace {

Refusal can_multiply(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const Node& root = region.root();
    if (!root.is("Gemm") && !root.is("MatMul")) return Refusal::op_not_handled;
    if (!is_f32(root.input(0)) || !is_f32(root.input(1))) return Refusal::dtype_not_handled;
    if (region.constant(root.input(1)) == nullptr) return Refusal::weights_not_constant;
    if (region.input_index(root.input(0)) < 0) return Refusal::op_not_handled;
    const auto product = product_of(root);
    if (!product) return Refusal::shape_not_handled;
    if (!gemm_epilogue(region, *product)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

/// What both kinds of plan have in common; `run` is given the plan, A, packed B, operands and the launch.
template <typename Plan, typename Run>
std::unique_ptr<Kernel> make_product(const RegionView& region, std::shared_ptr<const Plan> plan, const Tensor& packed,
                                     const Run& run) {
    const Node& root = region.root();
    const Product product = *product_of(root);
    const Epilogue epilogue = *gemm_epilogue(region, product);
    const int a = region.input_index(root.input(0)), b = region.input_index(root.input(1));
    auto kernel = make_kernel("", [plan, packed, epilogue, a, run](const Launch& launch) {
        const float* operands[kMaxOperands + 1];
        run(*plan, launch.f32(a), packed.data<float>().data(), operand_pointers(launch, epilogue.operands, operands),
            launch);
    });
    kernel->flops = 2 * product.shape.m * product.shape.n * product.shape.k;
    kernel->consumed = {b};
    return kernel;
}

using Operands = std::span<const float* const>;

std::unique_ptr<Kernel> compile_gemm(const RegionView& region, const Layouts&, const Environment& environment) {
    const Product product = *product_of(region.root());
    const Epilogue epilogue = *gemm_epilogue(region, product);
    auto plan = std::make_shared<const GemmPlan>(product.shape, epilogue.ops, environment.isa);
    const PackLayout& layout = plan->b_layout();
    const Tensor packed =
        environment.packed_weights(region.constant(region.root().input(1)),
                                   {layout.k, layout.n, 1, 1, layout.nr, layout.vector, product.transposed});
    auto kernel =
        make_product(region, plan, packed,
                     [](const GemmPlan& p, const float* a, const float* b, Operands operands, const Launch& launch) {
                         p.run(a, b, launch.out_f32(), operands, *launch.pool, launch.threads);
                     });
    kernel->name = fmt::format("gemm_f32_nr{}_{}", layout.nr, to_string(environment.isa));
    kernel->in_place = reusable_operands(epilogue, {region.input_index(region.root().input(0))});
    return kernel;
}

Refusal can_halve(const RegionView& region, const Environment& environment) {
    if (const Refusal refusal = can_multiply(region, environment); refusal != Refusal::none) return refusal;
    const Product product = *product_of(region.root());
    return StrassenPlan::fits(product.shape, environment.isa) ? Refusal::none : Refusal::shape_not_handled;
}

std::unique_ptr<Kernel> compile_strassen(const RegionView& region, const Layouts&, const Environment& environment) {
    const Product product = *product_of(region.root());
    auto plan =
        std::make_shared<const StrassenPlan>(product.shape, gemm_epilogue(region, product)->ops, environment.isa);
    const auto weights = region.constant(region.root().input(1));
    const std::string form = plan->packing() + (product.transposed ? " transposed=1" : " transposed=0");
    const Tensor packed = environment.transformed_weights(weights, form, plan->packed_size(), [&](std::span<float> to) {
        plan->pack(weights->data<float>().data(), product.transposed ? product.shape.k : product.shape.n,
                   product.transposed, to.data(), ThreadPool::process(), environment.threads);
    });
    auto kernel = make_product(
        region, plan, packed,
        [](const StrassenPlan& p, const float* a, const float* b, Operands operands, const Launch& launch) {
            p.run(a, b, launch.out_f32(), operands, launch.workspace, *launch.pool, launch.threads);
        });
    kernel->name = fmt::format("gemm_f32_strassen_{}", to_string(environment.isa));
    kernel->workspace = plan->workspace(environment.threads);
    return kernel;
}

// Its bound on the error is weaker: only a measured gain speaks for it.
bool strassen_pays(const RegionView&) {
    return false;
}

// ---- batches of activations ----

struct Batch {
    BatchedGemmShape shape;
    std::vector<int64_t> a, b, c;  // offsets in floats
};

// MatMul with NumPy's rules: the leading axes broadcast, a vector is a matrix of one row or column.
std::optional<Batch> batch_of(const Node& node) {
    const Dims a = node.input(0)->dims(), b = node.input(1)->dims();
    if (a.size() < 2 || b.size() < 2 || element_count(node.output()->dims()) == 0 || a.back() == 0) return std::nullopt;
    const size_t rank = std::max(a.size(), b.size());
    Batch result;
    BatchedGemmShape& s = result.shape;
    s.m = a[a.size() - 2];
    s.k = a.back();
    s.n = b.back();
    auto padded = [&](const Dims& dims, size_t i) {  // axis i of `rank`
        const size_t missing = rank - dims.size();
        return i < missing ? int64_t{1} : dims[i - missing];
    };
    Dims batch;
    for (size_t i = 0; i + 2 < rank; ++i) batch.push_back(std::max(padded(a, i), padded(b, i)));
    s.batch = element_count(batch);
    for (int64_t flat = 0; flat < s.batch; ++flat) {
        int64_t rest = flat, ia = 0, ib = 0, stride_a = 1, stride_b = 1;
        for (size_t i = batch.size(); i-- > 0;) {
            const int64_t index = rest % batch[i];
            rest /= batch[i];
            const int64_t da = padded(a, i), db = padded(b, i);
            if (da != 1) ia += index * stride_a;
            if (db != 1) ib += index * stride_b;
            stride_a *= da;
            stride_b *= db;
        }
        result.a.push_back(ia * s.m * s.k);
        result.b.push_back(ib * s.k * s.n);
        result.c.push_back(flat * s.m * s.n);
    }
    return result;
}

Refusal can_batch(const RegionView& region, const Environment& environment) {
    if (environment.isa < Isa::avx2) return Refusal::isa_missing;
    const Node& root = region.root();
    if (!root.is("MatMul")) return Refusal::op_not_handled;
    if (!is_f32(root.input(0)) || !is_f32(root.input(1))) return Refusal::dtype_not_handled;
    if (region.input_index(root.input(0)) < 0 || region.input_index(root.input(1)) < 0) return Refusal::op_not_handled;
    if (!batch_of(root)) return Refusal::shape_not_handled;
    const int64_t rank = static_cast<int64_t>(root.output()->dims().size());
    if (!read_epilogue(region, rank - 1)) return Refusal::post_op_not_handled;
    return Refusal::none;
}

std::unique_ptr<Kernel> compile_batch(const RegionView& region, const Layouts&, const Environment& environment) {
    const Node& root = region.root();
    auto batch = std::make_shared<const Batch>(*batch_of(root));
    const int64_t rank = static_cast<int64_t>(root.output()->dims().size());
    const Epilogue epilogue = *read_epilogue(region, rank - 1);
    auto plan = std::make_shared<const BatchedGemmPlan>(batch->shape, epilogue.ops, environment.isa);
    const int a = region.input_index(root.input(0)), b = region.input_index(root.input(1));
    auto kernel = make_kernel("batched_gemm_f32_" + std::string(to_string(environment.isa)), [plan, batch, epilogue, a,
                                                                                              b](const Launch& launch) {
        const float* operands[kMaxOperands + 1];
        plan->run(launch.f32(a), launch.f32(b), launch.out_f32(), {batch->a, batch->b, batch->c},
                  operand_pointers(launch, epilogue.operands, operands), launch.workspace, *launch.pool,
                  launch.threads);
    });
    kernel->workspace = plan->workspace(environment.threads);
    kernel->flops = 2 * batch->shape.batch * batch->shape.m * batch->shape.n * batch->shape.k;
    kernel->in_place = reusable_operands(epilogue, {a, b});
    return kernel;
}

}  // namespace

const Implementation kGemm{"gemm_jit", can_multiply, plain_layouts, compile_gemm};
const Implementation kStrassen{"gemm_strassen", can_halve, plain_layouts, compile_strassen, strassen_pays};
const Implementation kBatchedMatMul{"batched_gemm_jit", can_batch, plain_layouts, compile_batch};

}  // namespace families
}  // namespace planish::cpu
