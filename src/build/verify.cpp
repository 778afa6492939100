// Verification: tolerance by perturbation of the reference, and the comparison itself.
#include "build/verify.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <unordered_map>
#include <unordered_set>

#include "base/function_ref.hpp"
#include "base/small_float.hpp"
#include "base/thread_pool.hpp"
#include "passes/inline_region.hpp"
#include "passes/pass.hpp"
#include "passes/rewrite.hpp"
#include "planish/error.hpp"
#include "reference/interpreter.hpp"

namespace planish::verification {
namespace {

constexpr double kEps = 0x1p-24;      // unit roundoff of float32
constexpr double kLambda = 6;         // Higham and Mary: the bound fails with probability 2 exp(-lambda^2 / 2) = 3e-8
constexpr double kPointwiseUlps = 5;  // largest error of the kernels' elementary functions, stated in vector_math.hpp

double unit_roundoff(DType dtype) {
    switch (dtype) {
        case DType::f64:
            return 0x1p-53;
        case DType::f16:
            return 0x1p-11;
        case DType::bf16:
            return 0x1p-8;
        case DType::f32:
            return kEps;
        default:
            return 0x1p-2;  // float8 and float4: as coarse as the coarsest of them
    }
}

// Elements summed for one output of an op, 1 when it sums nothing.
int64_t summed(const Node& node) {
    const std::string_view op = node.op().name;
    const auto is_static = [](const Value* v) {
        return v == nullptr || (v->type.kind == Kind::tensor && v->has_static_shape());
    };
    // Where shapes depend on data the interpreter runs the node, on both sides of the comparison.
    if (!std::all_of(node.inputs().begin(), node.inputs().end(), is_static) || !is_static(node.output())) return 1;
    auto dims = [&](int i) { return node.input(i)->dims(); };
    auto product = [](const Dims& d, size_t first) {
        return std::accumulate(d.begin() + static_cast<long>(std::min(first, d.size())), d.end(), int64_t{1},
                               std::multiplies<>());
    };
    if (op == "Conv") return product(dims(1), 1);
    if (op == "ConvTranspose") return dims(1)[0] * product(dims(1), 2);
    if (op == "MatMul" || op == "Gemm") return op == "Gemm" && node.integer("transA") ? dims(0)[0] : dims(0).back();
    if (op == "Attention") return dims(0).back() + dims(1)[dims(1).size() - 2];
    const int64_t in = node.input(0) ? element_count(dims(0)) : 1, out = element_count(node.output()->dims());
    if (op.starts_with("Reduce") || op.ends_with("Pool") || op.starts_with("Global"))
        return out ? std::max<int64_t>(1, in / out) : 1;
    if (op.ends_with("Normalization") || op == "Softmax" || op == "LogSoftmax") return dims(0).back();
    return 1;
}

bool is_product(const Node& node) {
    for (std::string_view op : {"Conv", "ConvTranspose", "MatMul", "Gemm"})
        if (node.is(op)) return true;
    return false;
}

bool multiplies_float8(const Node& node) {
    const Node* dq = node.input(0)->producer;
    return dq != nullptr && dq->is("DequantizeLinear") && dq->input(0)->type.dtype == DType::f8e4m3fn;
}

double largest_norm(const Tensor& t, int64_t rows, int64_t columns, bool along_rows) {
    // Rows of a [rows, columns] view, or its columns.
    const auto x = t.data<float>();
    double best = 0;
    if (along_rows) {
        for (int64_t r = 0; r < rows; ++r) {
            double sum = 0;
            for (int64_t c = 0; c < columns; ++c)
                sum += double(x[static_cast<size_t>(r * columns + c)]) * x[static_cast<size_t>(r * columns + c)];
            best = std::max(best, sum);
        }
    } else {
        std::vector<double> sums(static_cast<size_t>(columns), 0);
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c)
                sums[static_cast<size_t>(c)] +=
                    double(x[static_cast<size_t>(r * columns + c)]) * x[static_cast<size_t>(r * columns + c)];
        for (const double s : sums) best = std::max(best, s);
    }
    return std::sqrt(best);
}

// Cauchy-Schwarz: |sum a_i b_i| <= |a| |b| bounds the magnitude of a product's partial sums. Convolutions bound the
// norm of a patch by that of the largest pixel column times the patch's length.
double product_magnitude(const Node& node, const Tensor& a, const Tensor& b) {
    if (a.size() == 0 || b.size() == 0) return 0;
    if (node.is("Conv") || node.is("ConvTranspose")) {
        const int64_t n = a.dims()[0], c = a.dims()[1], spatial = a.size() / (n * c);
        double largest = 0;
        for (int64_t i = 0; i < n; ++i)
            largest = std::max(largest, largest_norm(Tensor(DType::f32, {c, spatial},
                                                            a.data<float>().data() + i * c * spatial, nullptr),
                                                     c, spatial, false));
        const int64_t taps = b.size() / (b.dims()[0] * b.dims()[1]);
        const double weights = largest_norm(b, b.dims()[0], b.size() / b.dims()[0], true);
        return largest * std::sqrt(static_cast<double>(taps)) * weights;
    }
    const int64_t ka = a.dims().back();
    const bool trans_a = node.is("Gemm") && node.integer("transA");
    const bool trans_b = node.is("Gemm") && node.integer("transB");
    const double na = largest_norm(a, a.size() / ka, ka, !trans_a);
    if (b.rank() < 2) return na * largest_norm(b, 1, b.size(), true);
    const int64_t columns = b.dims().back(), rows = b.dims()[b.dims().size() - 2];
    double nb = 0;
    for (int64_t i = 0; i < b.size() / (rows * columns); ++i)
        nb = std::max(
            nb, largest_norm(Tensor(DType::f32, {rows, columns}, b.data<float>().data() + i * rows * columns, nullptr),
                             rows, columns, trans_b));
    return na * nb * (node.is("Gemm") ? std::fabs(node.real("alpha")) : 1);
}

// What a region rounds beside its float32 arithmetic.
struct Precision {
    explicit Precision(const StepInfo& step)
        : stored(step.unit_roundoff), factors(step.factor_roundoff), smallest(stored == 0x1p-11 ? 0x1p-24 : 0x1p-126) {}

    double stored;   // unit roundoff of results where they are stored
    double factors;  // of the factors of products before they are multiplied; 0: they are not rounded
    /// Of a factor whose largest magnitude is `magnitude`, relative to that: float16 steps no finer than 2^-24.
    double factor_roundoff(double magnitude) const {
        return stored == 0x1p-11 && magnitude > 0 ? std::max(factors, 0x1p-25 / magnitude) : factors;
    }

    double smallest;  // by which a result may be off however small it is: float16 has subnormals from 2^-24 on
};

double largest_magnitude(const Tensor& t) {
    double largest = 0;
    for (const float v : t.data<float>()) largest = std::max(largest, std::fabs(double(v)));
    return largest;
}

// Absolute rounding error bound of one op's float32 outputs beyond what its inputs carry: relative part per element and
// absolute part for all.
struct OwnError {
    double relative = 0, absolute = 0;
};

/// `precision` is that of the region: factors that are rounded by u before they are multiplied move a sum of products
/// by at most u |a| |b|, after Cauchy-Schwarz, each.
OwnError own_error(const Node& node, const std::vector<const RefValue*>& inputs, const Precision& precision) {
    if (has(node.op().traits, Trait::data_movement)) return {};
    const double k = kLambda * std::sqrt(static_cast<double>(summed(node)));
    if (is_product(node)) {
        const Tensor &a = inputs[0]->tensor, &b = inputs[1]->tensor;
        const double factors = precision.factors == 0 ? 0
                                                      : precision.factor_roundoff(largest_magnitude(a)) +
                                                            precision.factor_roundoff(largest_magnitude(b));
        // Tensor cores add up products of float8 32 at a time, with 13 fraction bits.
        const double sums = multiplies_float8(node) ? k / std::sqrt(32.0) * 0x1p-13 : k * kEps;
        return {2 * kEps, (sums + factors) * product_magnitude(node, a, b)};
    }
    if (node.is("Attention")) {
        const double largest = inputs.size() > 2 && inputs[2] ? largest_magnitude(inputs[2]->tensor) : 0;
        // Scores and weights pass through the storage type on their way to the second product.
        return {kPointwiseUlps * kEps, (k * kEps + 4 * precision.factor_roundoff(largest)) * largest};
    }
    if (node.is("ReduceSum") || node.is("ReduceMean") || node.op().name.ends_with("Pool")) {
        if (inputs[0]->tensor.dtype() != DType::f32) return {};  // bytes and their maxima are exact
        const double largest = largest_magnitude(inputs[0]->tensor);
        return {2 * kEps, k * kEps * largest * (node.is("ReduceSum") ? static_cast<double>(summed(node)) : 1)};
    }
    // 1 + erf cancels for x << 0: kernels are good to 2^-22 |x| there, and give -0 from about -6 on. A quarter of that:
    // the spread counts four times.
    const double cancelled = node.is("Gelu") ? 0x1p-24 * std::min(largest_magnitude(inputs[0]->tensor), 6.0) : 0;
    return {(kPointwiseUlps + k) * kEps, cancelled};
}

// Calls fn(begin, end) for consecutive pieces of [0, count), whose bounds do not depend on the number of threads.
constexpr int64_t kPiece = 1 << 14;
void for_each_piece(int64_t count, FunctionRef<void(int64_t begin, int64_t end)> fn) {
    ThreadPool& pool = ThreadPool::process();
    pool.parallel_for((count + kPiece - 1) / kPiece, pool.size(),
                      [&](int64_t piece, int) { fn(piece * kPiece, std::min(count, (piece + 1) * kPiece)); });
}

enum class Sign { plus, minus, random };

// A fair bit for each index: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
bool random_bit(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((z ^ (z >> 31)) & 1) != 0;
}

/// std::nextafter(v, up ? INFINITY : -INFINITY) of a finite v. Floats of one sign are ordered as their bits are.
float neighbour(float v, bool up) {
    constexpr uint32_t kSignBit = 1u << 31;
    const auto bits = std::bit_cast<uint32_t>(v);
    const bool away_from_zero = up == ((bits & kSignBit) == 0);
    const uint32_t next = away_from_zero ? bits + 1 : bits - 1;
    return std::bit_cast<float>((bits & ~kSignBit) != 0 ? next : up ? 1u : kSignBit | 1u);
}

// Moves every element of a float32 tensor by its error bound. Signs are as good as random, so nothing branches on them.
Tensor perturbed(const Tensor& t, OwnError error, Sign sign, std::mt19937_64& generator) {
    if (t.dtype() != DType::f32 || (error.relative == 0 && error.absolute == 0)) return t;
    Tensor result(t.dtype(), t.dims());
    const float* from = t.data<float>().data();
    float* to = result.data<float>().data();
    const uint64_t seed = sign == Sign::random ? generator() : 0;
    const auto move = [&](int64_t i, bool up) {
        const float v = from[i];
        const double amount = error.relative * std::fabs(double(v)) + error.absolute;
        const float moved = static_cast<float>(v + std::copysign(amount, up ? 1.0 : -1.0));
        // At least one representable step, else small errors would vanish in the rounding of this very addition.
        const bool vanished = (amount > 0) & (moved == v) & (std::fabs(v) <= std::numeric_limits<float>::max());
        const uint32_t mask = vanished ? ~0u : 0u;
        to[i] = std::bit_cast<float>((std::bit_cast<uint32_t>(neighbour(v, up)) & mask) |
                                     (std::bit_cast<uint32_t>(moved) & ~mask));
    };
    for_each_piece(t.size(), [&](int64_t begin, int64_t end) {
        if (sign == Sign::random)
            for (int64_t i = begin; i < end; ++i) move(i, random_bit(seed, static_cast<uint64_t>(i)));
        else
            for (int64_t i = begin; i < end; ++i) move(i, sign == Sign::plus);
    });
    return result;
}

using Values = std::unordered_map<const Value*, RefValue>;

std::vector<const RefValue*> gather_inputs(const Node& node, const Values& values, std::vector<RefValue>& constants) {
    std::vector<const RefValue*> inputs;
    constants.reserve(static_cast<size_t>(node.input_count()));
    for (const Value* input : node.inputs()) {
        if (input == nullptr) {
            inputs.push_back(nullptr);
        } else if (input->is_constant()) {
            constants.emplace_back(*input->constant);
            inputs.push_back(&constants.back());
        } else {
            inputs.push_back(&values.at(input));
        }
    }
    return inputs;
}

// The reference of one region on given inputs, and how far rounding may move each output. Of an output that is rounded
// to bytes it is the real number before: bytes are right that a number within its tolerance is stored as.
struct RegionReference {
    struct Output {
        Tensor tensor;
        std::vector<double> spread = {};  // of the reals; empty where there are none
        // Of bytes:
        const Value* real_value = nullptr;
        Tensor real = {};
        double scale = 1, zero = 0;
    };
    std::vector<Output> outputs;
};

/// A result of QuantizeLinear to 8 bits with one scale, known with `values`; else `output` stays as it is.
void note_real(const Value& result, const Values& values, RegionReference::Output& output) {
    const Node* node = result.producer;
    const DType dtype = output.tensor.dtype();
    if (node == nullptr || !node->is("QuantizeLinear") ||
        (dtype != DType::u8 && dtype != DType::i8 && dtype != DType::f8e4m3fn))
        return;
    const auto known = [&](const Value* value) -> const Tensor* {
        if (value->is_constant()) return value->constant.get();
        const auto it = values.find(value);
        return it != values.end() ? &it->second.tensor : nullptr;
    };
    const Tensor *real = known(node->input(0)), *scale = known(node->input(1));
    const Tensor* zero = node->input(2) != nullptr ? known(node->input(2)) : nullptr;
    if (real == nullptr || real->dtype() != DType::f32 || scale == nullptr || scale->size() != 1) return;
    if (node->input(2) != nullptr && (zero == nullptr || zero->size() != 1)) return;
    output.real_value = node->input(0);
    output.real = *real;
    output.scale = scale->at_double(0);
    output.zero = zero != nullptr ? zero->at_double(0) : 0;
}

RegionReference evaluate(const Node& region, const std::vector<Tensor>& inputs, const Precision& precision) {
    // A single op is looked at as a body of one node.
    const bool has_body = region.is("Region", "planish");
    const std::unique_ptr<Graph> body = has_body ? passes::flat_body(region) : nullptr;
    std::vector<const Node*> nodes;
    std::vector<const Value*> results;
    Values exact;
    if (has_body) {
        for (const auto& node : body->nodes()) nodes.push_back(node.get());
        results.assign(body->outputs().begin(), body->outputs().end());
        for (size_t i = 0; i < inputs.size(); ++i) exact[body->inputs()[i]] = RefValue(inputs[i]);
    } else {
        nodes.push_back(&region);
        results.assign(region.outputs().begin(), region.outputs().end());
        for (size_t i = 0; i < inputs.size(); ++i)
            if (region.inputs()[i]) exact[region.inputs()[i]] = RefValue(inputs[i]);
    }
    const Values given = exact;
    const auto operands = has_body ? std::span<Value* const>(body->inputs()) : region.inputs();
    std::unordered_map<const Node*, OwnError> errors;
    auto run = [&](Values& values, const Node& node) {
        std::vector<RefValue> constants;
        const auto in = gather_inputs(node, values, constants);
        if (!errors.contains(&node)) errors[&node] = own_error(node, in, precision);
        std::vector<RefValue> out = reference::run_node(node, in);
        for (size_t i = 0; i < out.size(); ++i)
            if (node.outputs()[i]) values[node.outputs()[i]] = std::move(out[i]);
    };
    for (const Node* node : nodes) run(exact, *node);

    RegionReference result;
    for (const Value* value : results) {
        RegionReference::Output output{exact.at(value).tensor};
        note_real(*value, exact, output);
        if (output.real_value != nullptr || output.tensor.dtype() == DType::f32)
            output.spread.assign(static_cast<size_t>(output.tensor.size()), 0.0);
        result.outputs.push_back(std::move(output));
    }
    // A product is not evaluated again: its result moves by its own bound, which is what moved inputs would do. Bytes
    // are decoded once, too: they do not move.
    const auto decoded = [&](const Node& node) {
        return node.is("DequantizeLinear") &&
               std::all_of(node.inputs().begin(), node.inputs().end(), [&](const Value* input) {
                   return input == nullptr || input->is_constant() || given.contains(input);
               });
    };
    std::unordered_set<const Node*> fixed;
    std::unordered_set<const Value*> reread;
    for (const Node* node : nodes) {
        const bool upstream = std::any_of(node->inputs().begin(), node->inputs().end(), [&](const Value* input) {
            return input && input->producer && exact.contains(input) && !given.contains(input) &&
                   !decoded(*input->producer);
        });
        if (!upstream && (is_product(*node) || decoded(*node) || has(node->op().traits, Trait::data_movement)))
            fixed.insert(node);
        else
            reread.insert(node->inputs().begin(), node->inputs().end());
    }
    std::mt19937_64 generator(7);
    for (const Sign sign : {Sign::plus, Sign::minus, Sign::random}) {
        Values moved;
        // Inputs of ops that are evaluated again are moved by one rounding: it shows how ill-conditioned the op is.
        // In the order of the inputs, so that equal builds draw equal signs.
        for (const Value* value : operands)
            if (reread.contains(value) && value && !moved.contains(value))
                moved[value] = RefValue(perturbed(given.at(value).tensor, {2 * std::max(kEps, precision.factors), 0},
                                                  sign == Sign::plus ? Sign::random : sign, generator));
        for (const Node* node : nodes) {
            if (fixed.contains(node)) {
                for (const Value* output : node->outputs()) moved[output] = exact.at(output);
            } else {
                run(moved, *node);
            }
            for (const Value* output : node->outputs())
                if (output && moved.contains(output))
                    moved[output].tensor = perturbed(moved[output].tensor, errors[node], sign, generator);
        }
        for (size_t i = 0; i < results.size(); ++i) {
            RegionReference::Output& output = result.outputs[i];
            std::vector<double>& spread = output.spread;
            if (spread.empty() || (output.real_value != nullptr && !moved.contains(output.real_value))) continue;
            const Value* value = output.real_value != nullptr ? output.real_value : results[i];
            const Tensor &a = output.real_value != nullptr ? output.real : output.tensor, &b = moved.at(value).tensor;
            const float *x = a.data<float>().data(), *y = b.data<float>().data();
            for_each_piece(static_cast<int64_t>(spread.size()), [&](int64_t begin, int64_t end) {
                for (int64_t e = begin; e < end; ++e) {
                    const double d = std::fabs(double(x[e]) - y[e]);
                    double& widest = spread[static_cast<size_t>(e)];
                    if (std::isfinite(d)) widest = std::max(widest, d);
                }
            });
        }
    }
    return result;
}

struct Comparison {
    double error = 0, tolerance = 0, ratio = 0;
    std::string note;
};

/// Between which numbers, in units of the scale, everything is stored as `stored`: an element of `dtype`.
std::pair<double, double> rounded_from(DType dtype, double stored, double zero) {
    if (dtype == DType::f8e4m3fn) {
        const double magnitude = std::fabs(stored);
        const uint32_t code = encode_small_float(dtype, magnitude, true);
        const double below = code == 0 ? -decode_small_float(dtype, 1) : decode_small_float(dtype, code - 1);
        const double least = (below + magnitude) / 2;
        const double most = magnitude == 448 ? INFINITY : (magnitude + decode_small_float(dtype, code + 1)) / 2;
        return stored < 0 ? std::pair(-most, -least) : std::pair(least, most);
    }
    const double least = dtype == DType::i8 ? -128 : 0, most = least + 255;
    return {stored <= least ? -INFINITY : stored - zero - 0.5, stored >= most ? INFINITY : stored - zero + 0.5};
}

// How far the real number before rounding lies from those that are stored as the actual bytes. Division by the scale
// and the sum with the zero point cost some roundings of numbers of that size.
Comparison compare_bytes(const Tensor& actual, const RegionReference::Output& output, double mean) {
    Comparison result;
    const double sums = actual.dtype() == DType::f8e4m3fn ? 0 : 255 * output.scale;  // float8 has no zero point
    for (int64_t i = 0; i < actual.size(); ++i) {
        const double real = output.real.data<float>()[static_cast<size_t>(i)], stored = actual.at_double(i);
        if (std::isnan(stored) && !std::isnan(real)) return {INFINITY, 0, INFINITY, "not a number"};
        const auto [least, most] = rounded_from(actual.dtype(), stored, output.zero);
        const double low = least * output.scale, high = most * output.scale;
        const double error = std::max({low - real, real - high, 0.0});
        if (error == 0 || std::isnan(real)) continue;
        const double tolerance = 4 * output.spread[static_cast<size_t>(i)] + mean + 4 * kEps * (std::fabs(real) + sums);
        if (error / tolerance > result.ratio) result = {error, tolerance, error / tolerance, ""};
    }
    return result;
}

Comparison compare(const Tensor& actual, const RegionReference::Output& output, const Precision& precision) {
    const Tensor& expected = output.tensor;
    const std::vector<double>& spread = output.spread;
    Comparison result;
    // Three samples of the spread may all miss an element's worst case: the tensor's mean spread stands in for it.
    const double mean =
        spread.empty() ? 0 : std::accumulate(spread.begin(), spread.end(), 0.0) / static_cast<double>(spread.size());
    if (output.real_value != nullptr) return compare_bytes(actual, output, mean);
    if (expected.dtype() != DType::f32) {
        if (!identical(actual, expected)) result = {1, 0, INFINITY, "elements differ from the reference"};
        return result;
    }
    const auto a = actual.data<float>(), b = expected.data<float>();
    std::vector<Comparison> worst(static_cast<size_t>((expected.size() + kPiece - 1) / kPiece));
    for_each_piece(expected.size(), [&](int64_t begin, int64_t end) {
        Comparison& most = worst[static_cast<size_t>(begin / kPiece)];
        for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
            if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
            const double error = std::fabs(double(a[i]) - b[i]);
            const double tolerance =
                4 * spread[i] + mean + 2 * precision.stored * std::fabs(double(b[i])) + precision.smallest;
            const double ratio = std::isfinite(error) ? error / tolerance : INFINITY;
            if (std::isnan(a[i]) != std::isnan(b[i]) && most.note.empty())
                most.note = "not a number where the reference is one";
            if (ratio > most.ratio) most = {error, tolerance, ratio, most.note};
        }
    });
    for (const Comparison& piece : worst) {
        const std::string note = result.note.empty() ? piece.note : result.note;
        if (piece.ratio > result.ratio) result = piece;
        result.note = note;
    }
    return result;
}

}  // namespace

std::vector<VerificationRow> verify_regions(const Program& program, const std::vector<Tensor>& inputs, int threads,
                                            std::vector<Tensor>* outputs, const std::function<void(double)>& progress) {
    std::vector<Tensor> results;
    std::vector<const void*> in;
    std::vector<void*> out;
    for (const Tensor& t : inputs) in.push_back(t.raw());
    for (const Port& port : program.outputs()) {
        results.emplace_back(port.dtype, port.dims);
        out.push_back(results.back().raw());
    }
    const Tensor arena(DType::u8, {std::max<int64_t>(program.arena_bytes(), 1)});
    const std::vector<StepInfo> steps = program.steps();

    std::vector<VerificationRow> rows;
    std::vector<Tensor> read;
    StepObserver observer;
    observer.before = [&](int, const Node& region, const ValueReader& values) {
        read.clear();
        for (const Value* input : region.inputs()) read.push_back(input ? values.read(*input) : Tensor());
    };
    observer.after = [&](int step, const Node& region, const ValueReader& values) {
        const StepInfo& info = steps[static_cast<size_t>(step)];
        if (progress) progress(static_cast<double>(step + 1) / static_cast<double>(steps.size()));
        VerificationRow row{info.name, info.layers, info.implementation, 0, 0, true, {}};
        if (info.implementation.starts_with("reference.")) {
            row.note = "runs in the reference interpreter";
            rows.push_back(std::move(row));
            return;
        }
        const Precision precision(info);
        const RegionReference expected = evaluate(region, read, precision);
        double worst = -1;
        for (size_t i = 0; i < expected.outputs.size(); ++i) {
            const Comparison c = compare(values.read(*region.outputs()[i]), expected.outputs[i], precision);
            if (c.ratio > worst) {
                worst = c.ratio;
                row.error = c.error;
                row.tolerance = c.tolerance;
                row.note = c.note;
            }
            row.passed = row.passed && c.ratio <= 1;
        }
        rows.push_back(std::move(row));
    };
    program.run_observed(in, out, static_cast<std::byte*>(const_cast<void*>(arena.raw())), threads, observer);
    if (outputs) *outputs = std::move(results);
    return rows;
}

std::vector<VerificationRow> verify_outputs(const Graph& graph, const std::vector<Tensor>& outputs,
                                            const std::vector<Tensor>& reference, double roundoff) {
    double k = 1;
    for (const auto& node : graph.nodes()) {
        if (!node->is("Region", "planish")) {
            k += std::sqrt(static_cast<double>(summed(*node)));
            continue;
        }
        const auto body = passes::flat_body(*node);
        for (const auto& inner : body->nodes()) k += std::sqrt(static_cast<double>(summed(*inner)));
    }
    const size_t regions = graph.nodes().size() + 1;
    std::vector<VerificationRow> rows;
    for (size_t i = 0; i < outputs.size(); ++i) {
        VerificationRow row{"output:" + graph.outputs()[i]->name, {}, "", 0, 0, true, {}};
        const Tensor &a = outputs[i], &b = reference[i];
        if (!is_float(b.dtype()) || a.dtype() != b.dtype() || a.dims() != b.dims()) {
            row.passed = identical(a, b);
            row.note = row.passed ? "" : "elements differ from the reference";
        } else {
            double largest = 0;
            for (int64_t e = 0; e < b.size(); ++e)
                if (const double y = b.at_double(e); std::isfinite(y)) largest = std::max(largest, std::fabs(y));
            const double eps = unit_roundoff(b.dtype());
            // Values of the outputs' own size, stored as float16, are off by half a step of its subnormals at least.
            const double stored = roundoff == 0x1p-11 && largest > 0 ? std::max(roundoff, 0x1p-25 / largest) : roundoff;
            // Three roundings a region: of its inputs, of its weights, of its result.
            const double coarse = stored > eps ? stored * std::sqrt(3.0 * static_cast<double>(regions)) : 0;
            row.tolerance = kLambda * (k * eps + coarse) * largest;
            for (int64_t e = 0; e < b.size(); ++e) {
                const double x = a.at_double(e), y = b.at_double(e);
                if (x == y || (std::isnan(x) && std::isnan(y))) continue;
                const double error = std::fabs(x - y);
                row.error = std::isfinite(error) ? std::max(row.error, error) : INFINITY;
            }
            row.passed = row.error <= row.tolerance;
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

std::unique_ptr<Graph> without_quantisation(const Graph& graph) {
    std::unique_ptr<Graph> real = graph.clone();
    passes::lower_quantised_operators(*real);
    int changes = 0;
    for (Node* dq : passes::nodes_of(*real, {"DequantizeLinear"})) {
        const Node* q = passes::producer(dq->input(0), "QuantizeLinear");
        if (q == nullptr) q = passes::producer(dq->input(0), "DynamicQuantizeLinear");
        if (q == nullptr || q->input(0)->type.dtype != dq->output()->type.dtype) continue;
        passes::replace(*real, dq, q->input(0));
        ++changes;
    }
    return changes > 0 ? std::move(real) : nullptr;
}

void allow_other_bytes(std::vector<VerificationRow>& rows, const std::vector<Tensor>& reference,
                       const std::vector<Tensor>& real) {
    for (size_t i = 0; i < rows.size(); ++i) {
        if (!is_float(reference[i].dtype())) continue;
        double noise = 0;
        for (int64_t e = 0; e < reference[i].size(); ++e)
            if (const double d = std::fabs(reference[i].at_double(e) - real[i].at_double(e)); std::isfinite(d))
                noise = std::max(noise, d);
        rows[i].tolerance = std::max(rows[i].tolerance, std::sqrt(12.0) * noise);
        rows[i].passed = rows[i].error <= rows[i].tolerance;
    }
}

std::vector<Tensor> random_inputs(const Graph& graph, uint64_t seed) {
    std::mt19937_64 generator(seed);
    std::vector<Tensor> result;
    for (const Value* input : graph.inputs()) {
        Tensor t(input->type.dtype, input->dims());
        if (is_float(t.dtype())) {
            std::normal_distribution<double> normal;
            for (int64_t i = 0; i < t.size(); ++i) t.set_double(i, normal(generator));
        } else if (t.dtype() != DType::string) {
            // An index stays inside the smallest table that it selects from, seen through shape-only ops.
            int64_t limit = 2;
            std::vector<const Value*> work{input};
            bool found = false;
            while (!work.empty()) {
                const Value* value = work.back();
                work.pop_back();
                for (const Use& use : value->uses) {
                    const Node& node = *use.node;
                    if (node.is("Gather") && use.index == 1 && node.input(0)->has_static_shape()) {
                        const Dims table = node.input(0)->dims();
                        const int64_t axis = node.integer("axis");
                        const int64_t length =
                            table[static_cast<size_t>(axis < 0 ? axis + static_cast<int64_t>(table.size()) : axis)];
                        limit = found ? std::min(limit, length) : length;
                        found = true;
                    } else if (node.is("Cast") || node.is("Reshape") || node.is("Unsqueeze") || node.is("Squeeze") ||
                               node.is("Identity")) {
                        if (use.index == 0) work.push_back(node.output());
                    }
                }
            }
            for (int64_t i = 0; i < t.size(); ++i)
                t.set_double(i, static_cast<double>(generator() % static_cast<uint64_t>(std::max<int64_t>(limit, 1))));
        }
        result.push_back(std::move(t));
    }
    return result;
}

}  // namespace planish::verification
