// Shape rules of sampling, signal processing, losses and Einsum.
#include <map>

#include "ir/einsum.hpp"
#include "ir/infer_common.hpp"
#include "planish/error.hpp"

namespace planish::infer {

namespace {

/// Input i as one integer that is known, as a symbol or a number; else a fresh unknown.
Dim scalar_dim(const InferContext& ctx, int i) {
    const auto values = ctx.symbolic(i);
    return values && values->size() == 1 ? (*values)[0] : Dim::unknown();
}

DType dtype_attribute(const InferContext& ctx, std::string_view name) {
    const int64_t value = ctx.integer(name);
    if (value <= 0 || value > static_cast<int64_t>(DType::i2))
        ctx.error("has attribute '" + std::string(name) + "' = " + std::to_string(value) +
                  ", which is no element type");
    return static_cast<DType>(value);
}

}  // namespace

void einsum(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    std::vector<size_t> ranks;
    for (int i = 0; i < ctx.input_count(); ++i) {
        require_same_dtype(ctx, 0, i);
        if (!ctx.has_shape(i)) return ctx.set_output(0, dtype, std::nullopt);
        ranks.push_back(ctx.shape(i).size());
    }
    const EinsumEquation equation = parse_einsum(ctx.text("equation"), ranks);
    std::map<int, Dim> sizes;
    for (size_t k = 0; k < ranks.size(); ++k)
        for (size_t d = 0; d < ranks[k]; ++d) {
            const Dim& size = ctx.shape(static_cast<int>(k))[d];
            const auto [it, fresh] = sizes.try_emplace(equation.inputs[k][d], size);
            if (fresh) continue;
            const auto both = broadcast_shapes({it->second}, {size});
            if (!both)
                ctx.error("has equation '" + ctx.text("equation") + "' in which one label has the sizes " +
                          it->second.to_string() + " and " + size.to_string());
            it->second = (*both)[0];
        }
    Shape out;
    for (int label : equation.output) out.push_back(sizes.at(label));
    ctx.set_output(0, dtype, std::move(out));
}

void grid_sample(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, std::nullopt);
    Shape out = ctx.shape(0);
    require_rank(ctx, 1, out.size());
    for (size_t d = 2; d < out.size(); ++d) out[d] = ctx.has_shape(1) ? ctx.shape(1)[d - 1] : Dim::unknown();
    ctx.set_output(0, dtype, std::move(out));
}

void affine_grid(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    const auto size = ctx.symbolic(1);
    if (!size) return ctx.set_output(0, dtype, std::nullopt);
    if (size->size() != 4 && size->size() != 5) ctx.error("needs a size of 4 or 5 axes");
    Shape out{(*size)[0]};
    out.insert(out.end(), size->begin() + 2, size->end());
    out.push_back(static_cast<int64_t>(size->size()) - 2);
    ctx.set_output(0, dtype, std::move(out));
}

void roi_align(InferContext& ctx) {
    require_rank(ctx, 0, 4);
    const Dim channels = ctx.has_shape(0) ? ctx.shape(0)[1] : Dim::unknown();
    const Dim regions = ctx.has_shape(1) && !ctx.shape(1).empty() ? ctx.shape(1)[0] : Dim::unknown();
    ctx.set_output(0, ctx.input(0).dtype,
                   Shape{regions, channels, ctx.integer("output_height"), ctx.integer("output_width")});
}

void max_roi_pool(InferContext& ctx) {
    require_rank(ctx, 0, 4);
    const std::vector<int64_t>& pooled = ctx.integers("pooled_shape");
    if (pooled.size() != 2) ctx.error("needs a pooled_shape of two sizes");
    const Dim channels = ctx.has_shape(0) ? ctx.shape(0)[1] : Dim::unknown();
    const Dim regions = ctx.has_shape(1) && !ctx.shape(1).empty() ? ctx.shape(1)[0] : Dim::unknown();
    ctx.set_output(0, ctx.input(0).dtype, Shape{regions, channels, pooled[0], pooled[1]});
}

void col2im(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    const auto image = ctx.symbolic(1), block = ctx.symbolic(2);
    if (!image) {
        const bool ranked = ctx.has_shape(1) && ctx.shape(1).size() == 1 && ctx.shape(1)[0].is_constant();
        if (!ranked) return ctx.set_output(0, dtype, std::nullopt);
        return ctx.set_output(0, dtype, Shape(static_cast<size_t>(*ctx.shape(1)[0].value()) + 2, Dim::unknown()));
    }
    Dim batch = Dim::unknown(), channels = Dim::unknown();
    if (ctx.has_shape(0)) {
        require_rank(ctx, 0, 3);
        batch = ctx.shape(0)[0];
        if (block) {
            Dim taps = 1;
            for (const Dim& d : *block) taps = taps * d;
            const auto exact = Dim::exact_div(ctx.shape(0)[1], taps);
            if (exact) channels = *exact;
        }
    }
    Shape out{batch, channels};
    out.insert(out.end(), image->begin(), image->end());
    ctx.set_output(0, dtype, std::move(out));
}

void dft(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, std::nullopt);
    Shape out = ctx.shape(0);
    if (out.size() < 2) ctx.error("needs a signal axis and an axis of parts, but its input is " + to_string(out));
    const bool inverse = ctx.integer("inverse") != 0, onesided = ctx.integer("onesided") != 0;
    out.back() = inverse && onesided ? 1 : 2;
    const Dim axis = ctx.has_input(2) ? scalar_dim(ctx, 2) : Dim(-2);
    if (!axis.is_constant()) {
        for (size_t d = 0; d + 1 < out.size(); ++d) out[d] = Dim::unknown();
        return ctx.set_output(0, dtype, std::move(out));
    }
    Dim& size = out[static_cast<size_t>(normalize_axis(ctx, *axis.value(), out.size()))];
    Dim length = inverse && onesided ? (size - 1) * 2 : size;
    if (ctx.has_input(1)) length = scalar_dim(ctx, 1);
    size = onesided && !inverse ? Dim::floor_div(length, 2) + 1 : length;
    ctx.set_output(0, dtype, std::move(out));
}

void stft(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    require_rank(ctx, 0, 3);
    if (!ctx.has_shape(0)) return ctx.set_output(0, dtype, Shape(4, Dim::unknown()));
    const Shape& signal = ctx.shape(0);
    Dim frame = signal[1];
    if (ctx.has_input(3))
        frame = scalar_dim(ctx, 3);
    else if (ctx.has_input(2))
        frame = ctx.has_shape(2) && ctx.shape(2).size() == 1 ? ctx.shape(2)[0] : Dim::unknown();
    const Dim step = scalar_dim(ctx, 1);
    const bool zero_step = step == Dim(0);
    if (zero_step) ctx.error("has a frame_step of 0");
    ctx.set_output(0, dtype,
                   Shape{signal[0], Dim::floor_div(signal[1] - frame, step) + 1,
                         ctx.integer("onesided") ? Dim::floor_div(frame, 2) + 1 : frame, 2});
}

void window(InferContext& ctx) {
    ctx.set_output(0, dtype_attribute(ctx, "output_datatype"), Shape{scalar_dim(ctx, 0)});
}

void mel_weight_matrix(InferContext& ctx) {
    ctx.set_output(0, dtype_attribute(ctx, "output_datatype"),
                   Shape{Dim::floor_div(scalar_dim(ctx, 1), 2) + 1, scalar_dim(ctx, 0)});
}

/// The loss, one for each target or reduced to a scalar; output 1, where there is one, is like the scores.
void loss(InferContext& ctx) {
    const DType dtype = ctx.input(0).dtype;
    ctx.set_output(0, dtype, ctx.text("reduction") == "none" ? ctx.input(1).shape : std::optional(Shape{}));
    ctx.set_output(1, dtype, ctx.input(0).shape);
}

}  // namespace planish::infer
