// Quantisation: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.
#include "reference/quantize.hpp"

#include <algorithm>

#include "base/small_float.hpp"
#include "planish/error.hpp"

namespace planish::reference {

void subtract_per_line(std::vector<double>& values, const Dims& dims, const std::vector<double>& zeros, bool per_row,
                       const RefContext& ctx) {
    if (values.empty()) return;
    const int64_t columns = dims.empty() ? 1 : dims.back();
    const int64_t rows = dims.size() < 2 ? 1 : dims[dims.size() - 2];
    const auto count = static_cast<int64_t>(zeros.size());
    const int64_t lines = per_row ? static_cast<int64_t>(values.size()) / columns : columns;
    if (count != 1 && count != (per_row ? rows : columns) && count != lines)
        ctx.error("has " + std::to_string(count) + " zero points for an operand of shape " + to_string(dims));
    for (size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        const int64_t line = per_row ? at / columns : at % columns;
        values[i] -= zeros[static_cast<size_t>(line % count)];
    }
}

namespace {

/// Which scale (or zero point) each element of a tensor takes: one for all, one for each place along an axis, or one
/// for each block of `block` places along it.
class Granularity {
  public:
    Granularity(RefContext& ctx, const Dims& x, const Dims& scale) {
        if (element_count(scale) == 1) return;
        const auto rank = static_cast<int64_t>(x.size());
        const int64_t block = ctx.integer("block_size");
        int64_t axis = ctx.integer("axis");
        if (axis < -rank || axis >= rank)
            ctx.error("axis " + std::to_string(axis) + " is out of range for rank " + std::to_string(rank));
        if (axis < 0) axis += rank;
        const auto at = static_cast<size_t>(axis);
        for (size_t d = at + 1; d < x.size(); ++d) inner_ *= x[d];
        size_ = x[at];
        if (block == 0) {
            if (scale.size() != 1 || scale[0] != size_)
                ctx.error("a scale of shape " + to_string(scale) + " does not fit axis " + std::to_string(axis) +
                          " of " + to_string(x));
            kind_ = Kind::axis;
            return;
        }
        Dims expected = x;
        expected[at] = (size_ + block - 1) / block;
        if (block < 0 || scale != expected)
            ctx.error("a scale of shape " + to_string(scale) + " does not fit blocks of " + std::to_string(block) +
                      " along axis " + std::to_string(axis) + " of " + to_string(x));
        kind_ = Kind::block;
        block_ = block;
        blocks_ = expected[at];
    }

    size_t index(size_t element) const {
        const auto i = static_cast<int64_t>(element);
        if (kind_ == Kind::axis) return static_cast<size_t>(i / inner_ % size_);
        if (kind_ == Kind::block)
            return static_cast<size_t>((i / inner_ / size_ * blocks_ + i / inner_ % size_ / block_) * inner_ +
                                       i % inner_);
        return 0;
    }

  private:
    enum class Kind { tensor, axis, block } kind_ = Kind::tensor;
    int64_t inner_ = 1, size_ = 1, block_ = 1, blocks_ = 1;
};

bool is_scale_type(DType dtype) {
    return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

}  // namespace

/// y = saturate(round(x / scale) + zero_point); the quotient is rounded to the precision of `precision`, else the
/// scale's.
void quantize_linear(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &scale = ctx.input(1);
    DType dtype = static_cast<DType>(ctx.integer("output_dtype"));
    if (ctx.has_input(2)) dtype = ctx.input(2).dtype();
    if (dtype == DType::undefined) dtype = DType::u8;
    const Granularity g(ctx, x.dims(), scale.dims());
    const std::vector<double> scales = read_all<double>(scale);
    std::vector<double> values = read_all<double>(x);
    for (size_t i = 0; i < values.size(); ++i) values[i] /= scales[g.index(i)];
    DType precision = static_cast<DType>(ctx.integer("precision"));
    if (precision == DType::undefined && is_scale_type(scale.dtype())) precision = scale.dtype();
    if (precision != DType::undefined && !values.empty()) {
        Tensor rounded(precision, x.dims());
        write_all(values, rounded);
        values = read_all<double>(rounded);
    }
    Tensor& out = ctx.output(0, dtype, x.dims());
    std::vector<double> zeros(scales.size(), 0.0);
    if (ctx.has_input(2)) {
        if (ctx.input(2).size() != scale.size())
            ctx.error("the zero point of shape " + to_string(ctx.input(2).dims()) + " does not match the scale's " +
                      to_string(scale.dims()));
        zeros = read_all<double>(ctx.input(2));
    }
    if (is_integer(dtype)) {
        const IntegerRange range(dtype);
        for (size_t i = 0; i < values.size(); ++i) values[i] = range.quantize(values[i], zeros[g.index(i)]);
        return write_all(values, out);
    }
    const bool saturate = ctx.integer("saturate") != 0;
    for (size_t i = 0; i < values.size(); ++i) {
        const double v = values[i] + zeros[g.index(i)];
        if (bit_width(dtype) == 8)
            out.data<uint8_t>()[i] = static_cast<uint8_t>(encode_small_float(dtype, v, saturate));
        else
            out.set_double(static_cast<int64_t>(i), v);
    }
}

/// y = (x - zero_point) * scale
void dequantize_linear(RefContext& ctx) {
    const Tensor &x = ctx.input(0), &scale = ctx.input(1);
    DType dtype = static_cast<DType>(ctx.integer("output_dtype"));
    if (dtype == DType::undefined) dtype = scale.dtype();
    const Granularity g(ctx, x.dims(), scale.dims());
    const std::vector<double> scales = read_all<double>(scale);
    std::vector<double> zeros(scales.size(), 0.0);
    if (ctx.has_input(2)) {
        if (ctx.input(2).size() != scale.size())
            ctx.error("the zero point of shape " + to_string(ctx.input(2).dims()) + " does not match the scale's " +
                      to_string(scale.dims()));
        zeros = read_all<double>(ctx.input(2));
    }
    std::vector<double> values = read_all<double>(x);
    for (size_t i = 0; i < values.size(); ++i) {
        const size_t at = g.index(i);
        values[i] = (values[i] - zeros[at]) * scales[at];
    }
    write_all(values, ctx.output(0, dtype, x.dims()));
}

/// uint8 quantisation over the data's own range, widened to contain 0. Outputs: y, scale, zero point. The scale and
/// the quotients are float32, as the operator's definition has them.
void dynamic_quantize_linear(RefContext& ctx) {
    const Tensor& x = ctx.input(0);
    const std::vector<double> in = read_all<double>(x);
    double low = 0, high = 0;
    for (double v : in) {
        low = std::fmin(low, v);
        high = std::fmax(high, v);
    }
    const IntegerRange range(DType::u8);
    const float width = static_cast<float>(high) - static_cast<float>(low);
    const float scale = (width == 0 ? 1.0f : width) / 255.0f;
    const double zero = std::nearbyint(std::fmin(std::fmax(-static_cast<float>(low) / scale, 0.0f), 255.0f));
    std::vector<double> y(in.size());
    for (size_t i = 0; i < in.size(); ++i) y[i] = range.quantize(static_cast<float>(in[i]) / scale, zero);
    write_all(y, ctx.output(0, DType::u8, x.dims()));
    ctx.output(1, x.dtype(), {}).set_double(0, scale);
    ctx.output(2, DType::u8, {}).set_double(0, zero);
}

}  // namespace planish::reference
