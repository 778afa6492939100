// Reference functions of ops that make tensors from attributes, ranges and random numbers, or convert element types.
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/checked.hpp"
#include "base/small_float.hpp"
#include "planish/error.hpp"
#include "reference/elements.hpp"
#include "reference/ref_context.hpp"

namespace planish::reference {
namespace {

size_t at(int64_t i) {
    return static_cast<size_t>(i);
}
DType dtype_attribute(RefContext& c, std::string_view name) {
    return static_cast<DType>(c.integer(name));
}

std::string number_to_text(const Tensor& x, int64_t i) {
    if (x.dtype() == DType::boolean) return x.at_int64(i) != 0 ? "True" : "False";
    char buffer[64];
    if (!is_float(x.dtype())) {
        const auto end = x.dtype() == DType::u64
                             ? std::to_chars(buffer, std::end(buffer), static_cast<uint64_t>(x.at_int64(i))).ptr
                             : std::to_chars(buffer, std::end(buffer), x.at_int64(i)).ptr;
        return {buffer, end};
    }
    // The shortest text that reads back as the same value of its type.
    const double value = x.at_double(i);
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-INF" : "INF";
    const auto end = x.dtype() == DType::f64 ? std::to_chars(buffer, std::end(buffer), value).ptr
                                             : std::to_chars(buffer, std::end(buffer), static_cast<float>(value)).ptr;
    std::string text(buffer, end);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
}

/// 2^k nearest to |value| by the rounding mode of ONNX's Cast to float8e8m0: up (towards infinity), down or nearest.
double round_to_power_of_two(double value, const std::string& mode) {
    value = std::fabs(value);
    int exponent = 0;
    const double fraction = std::frexp(value, &exponent);  // value = fraction * 2^exponent, fraction in [0.5, 1)
    const double below = std::ldexp(1.0, exponent - 1);
    if (fraction == 0.5 || value == 0) return value;
    if (mode == "down") return below;
    if (mode == "nearest") return fraction < 0.75 ? below : 2 * below;
    return 2 * below;
}

void store_float(Tensor& to, int64_t i, double value, bool saturate, const std::string& round_mode) {
    switch (to.dtype()) {
        case DType::f8e8m0:
            if (std::isfinite(value)) value = round_to_power_of_two(value, round_mode);
            [[fallthrough]];
        case DType::f8e4m3fn:
        case DType::f8e4m3fnuz:
        case DType::f8e5m2:
        case DType::f8e5m2fnuz:
            to.data<uint8_t>()[at(i)] = static_cast<uint8_t>(encode_small_float(to.dtype(), value, saturate));
            return;
        case DType::f16:
        case DType::bf16:
            to.data<uint16_t>()[at(i)] = static_cast<uint16_t>(encode_small_float(to.dtype(), value, false));
            return;
        default:
            to.set_double(i, value);
            return;
    }
}

void cast_to(RefContext& c, DType dtype) {
    const Tensor& x = c.input(0);
    if (dtype == x.dtype()) return c.set_output(0, x);
    const bool saturate = c.integer("saturate") != 0;
    const std::string& round_mode = c.text("round_mode");
    Tensor& out = c.output(0, dtype, x.dims());
    for (int64_t i = 0; i < x.size(); ++i) {
        if (dtype == DType::string) {
            out.strings()[at(i)] = number_to_text(x, i);
        } else if (x.dtype() == DType::string) {
            const std::string& text = x.strings()[at(i)];
            char* end = nullptr;
            if (is_float(dtype))
                store_float(out, i, std::strtod(text.c_str(), &end), saturate, round_mode);
            else if (dtype == DType::u64)
                store_int64(out, i, static_cast<int64_t>(std::strtoull(text.c_str(), &end, 10)));
            else
                store_int64(out, i, std::strtoll(text.c_str(), &end, 10));
            if (end == text.c_str()) c.error("'" + text + "' is not a number");
        } else if (is_float(x.dtype())) {
            store_float(out, i, x.at_double(i), saturate, round_mode);
        } else if (is_float(dtype)) {
            store_float(out, i, x.at_double(i), saturate, round_mode);
        } else {
            store_int64(out, i, x.at_int64(i));
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): equal seeds give equal tensors on every machine.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t bits() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
    double normal() {                                                         // Box-Muller
        const double radius = std::sqrt(-2 * std::log(1 - uniform()));
        return radius * std::cos(6.283185307179586 * uniform());
    }

  private:
    uint64_t state_;
};

/// The node's seed, else one made from its name, so that a graph run twice gives the same numbers.
Random random_of(RefContext& c) {
    if (c.has("seed")) {
        const double seed = c.real("seed");
        uint64_t bits;
        std::memcpy(&bits, &seed, sizeof bits);
        return Random(bits);
    }
    uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    for (char ch : c.node().name) hash = (hash ^ static_cast<uint8_t>(ch)) * 0x100000001b3u;
    return Random(hash);
}

Tensor& random_output(RefContext& c) {
    if (c.input_count() == 0) return c.output(0, dtype_attribute(c, "dtype"), c.integers("shape"));
    return c.output(0, c.has("dtype") ? dtype_attribute(c, "dtype") : c.input(0).dtype(), c.input(0).dims());
}

}  // namespace

void cast(RefContext& c) {
    cast_to(c, dtype_attribute(c, "to"));
}
void cast_like(RefContext& c) {
    cast_to(c, c.input(1).dtype());
}

void bit_cast(RefContext& c) {
    const Tensor& x = c.input(0);
    const DType dtype = dtype_attribute(c, "to");
    if (bit_width(dtype) != bit_width(x.dtype())) c.error("the types differ in width");
    Tensor& out = c.output(0, dtype, x.dims());
    if (x.size() > 0) std::memcpy(out.raw(), x.raw(), at(x.bytes()));
}

void constant(RefContext& c) {
    if (c.has("value")) return c.set_output(0, c.node().tensor("value"));
    if (c.has("value_float")) return c.output(0, DType::f32, {}).set_double(0, c.real("value_float"));
    if (c.has("value_int")) return c.set_output(0, Tensor::scalar(c.integer("value_int")));
    if (c.has("value_string")) return c.set_output(0, Tensor::from_strings({c.text("value_string")}, {}));
    if (c.has("value_ints")) {
        const std::vector<int64_t>& values = c.integers("value_ints");
        return c.set_output(0, Tensor::from(std::span(values), {static_cast<int64_t>(values.size())}));
    }
    if (c.has("value_floats")) {
        const std::vector<double>& values = c.node().reals("value_floats");
        Tensor& out = c.output(0, DType::f32, {static_cast<int64_t>(values.size())});
        for (size_t i = 0; i < values.size(); ++i) out.set_double(static_cast<int64_t>(i), values[i]);
        return;
    }
    if (c.has("value_strings")) {
        const auto& values = std::get<std::vector<std::string>>(*c.node().find("value_strings"));
        return c.set_output(0, Tensor::from_strings(values, {static_cast<int64_t>(values.size())}));
    }
    c.error("has no value");
}

void constant_of_shape(RefContext& c) {
    const Tensor value = c.has("value") ? c.node().tensor("value") : Tensor(DType::f32, {1});
    Tensor& out = c.output(0, value.dtype(), c.input(0).to_int64s());
    for (int64_t i = 0; i < out.size(); ++i) copy_elements(out, i, value, 0);
}

void range(RefContext& c) {
    const DType dtype = c.input(0).dtype();
    if (is_float(dtype)) {
        const double start = c.input(0).at_double(0), limit = c.input(1).at_double(0), delta = c.input(2).at_double(0);
        if (delta == 0) c.error("delta is 0");
        const int64_t count = std::max<int64_t>(0, saturating_int64(std::ceil((limit - start) / delta)));
        Tensor& out = c.output(0, dtype, {count});
        for (int64_t i = 0; i < count; ++i) out.set_double(i, start + static_cast<double>(i) * delta);
        return;
    }
    const int64_t start = c.input(0).at_int64(0), limit = c.input(1).at_int64(0), delta = c.input(2).at_int64(0);
    if (delta == 0) c.error("delta is 0");
    // In 128 bits: the difference of two 64-bit numbers need not fit into 64.
    const __int128 span = static_cast<__int128>(limit) - start, step = delta;
    const auto count =
        static_cast<int64_t>(std::clamp<__int128>((span + step - (step > 0 ? 1 : -1)) / step, 0, INT64_MAX));
    Tensor& out = c.output(0, dtype, {count});
    for (int64_t i = 0; i < count; ++i) store_int64(out, i, start + i * delta);
}

void one_hot(RefContext& c) {
    const Tensor& indices = c.input(0);
    const Tensor& values = c.input(2);
    const int64_t depth = c.input(1).at_int64(0);
    const int64_t axis = c.axis("axis", indices.rank() + 1);
    if (depth < 0 || values.size() != 2) c.error("needs a depth >= 0 and two values");
    Dims dims = indices.dims();
    dims.insert(dims.begin() + axis, depth);
    Tensor& out = c.output(0, values.dtype(), dims);
    for (int64_t i = 0; i < out.size(); ++i) copy_elements(out, i, values, 0);
    const int64_t inner = count_range(indices.dims(), axis, indices.rank());
    for (int64_t i = 0; i < indices.size(); ++i) {
        int64_t hot = indices.at_int64(i);
        if (hot < -depth || hot >= depth) continue;  // out of range: no hot element
        if (hot < 0) hot += depth;
        copy_elements(out, (i / inner * depth + hot) * inner + i % inner, values, 1);
    }
}

void eye_like(RefContext& c) {
    const Tensor& x = c.input(0);
    if (x.rank() != 2) c.error("needs a matrix, got " + to_string(x.dims()));
    Tensor& out = c.output(0, c.has("dtype") ? dtype_attribute(c, "dtype") : x.dtype(), x.dims());
    for (int64_t i = 0; i < x.dim(0); ++i) {
        const int64_t j = i + c.integer("k");
        if (j >= 0 && j < x.dim(1)) out.set_double(i * x.dim(1) + j, 1);
    }
}

void random_normal(RefContext& c) {
    Tensor& out = random_output(c);
    Random random = random_of(c);
    for (int64_t i = 0; i < out.size(); ++i) out.set_double(i, c.real("mean") + c.real("scale") * random.normal());
}

void random_uniform(RefContext& c) {
    Tensor& out = random_output(c);
    Random random = random_of(c);
    const double low = c.real("low"), high = c.real("high");
    for (int64_t i = 0; i < out.size(); ++i) out.set_double(i, low + (high - low) * random.uniform());
}

void bernoulli(RefContext& c) {
    Tensor& out = random_output(c);
    Random random = random_of(c);
    for (int64_t i = 0; i < out.size(); ++i) out.set_double(i, random.uniform() < c.input(0).at_double(i) ? 1 : 0);
}

// Samples classes from rows of unnormalised log-probabilities by inverting the cumulative distribution.
void multinomial(RefContext& c) {
    const Tensor& x = c.input(0);
    if (x.rank() != 2) c.error("needs [batch, classes], got " + to_string(x.dims()));
    const int64_t classes = x.dim(1), samples = c.integer("sample_size");
    Tensor& out = c.output(0, dtype_attribute(c, "dtype"), {x.dim(0), samples});
    Random random = random_of(c);
    std::vector<double> cumulative(at(classes));
    for (int64_t b = 0; b < x.dim(0); ++b) {
        double sum = 0;
        for (int64_t k = 0; k < classes; ++k) cumulative[at(k)] = sum += std::exp(x.at_double(b * classes + k));
        for (int64_t s = 0; s < samples; ++s) {
            const double target = random.uniform() * sum;
            int64_t k = 0;
            while (k + 1 < classes && cumulative[at(k)] <= target) ++k;
            store_int64(out, b * samples + s, k);
        }
    }
}

void dropout(RefContext& c) {
    const Tensor& x = c.input(0);
    const bool training = c.has_input(2) && c.input(2).at_int64(0) != 0;
    const double ratio = c.has_input(1) ? c.input(1).at_double(0) : 0.5;
    if (!training || ratio == 0) {
        c.set_output(0, x);
        if (c.wants_output(1))
            for (uint8_t& kept : c.output(1, DType::boolean, x.dims()).data<uint8_t>()) kept = 1;
        return;
    }
    Random random = c.has("seed") ? Random(static_cast<uint64_t>(c.integer("seed"))) : Random(0);
    Tensor& out = c.output(0, x.dtype(), x.dims());
    Tensor mask(DType::boolean, x.dims());
    for (int64_t i = 0; i < x.size(); ++i)
        if (random.uniform() >= ratio) {
            mask.data<uint8_t>()[at(i)] = 1;
            out.set_double(i, x.at_double(i) / (1 - ratio));
        }
    if (c.wants_output(1)) c.set_output(1, mask);
}

}  // namespace planish::reference
