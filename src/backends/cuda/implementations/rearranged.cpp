// DepthToSpace, SpaceToDepth and Tile as strided copies: axes of input and output are cut into those that both have.
#include "backends/cuda/implementations/indexed.hpp"
#include "backends/cuda/implementations/strided.hpp"

namespace planish::cuda::families {
namespace {

/// Outermost first: sizes, strides in the input and in the plain output.
struct Axes {
    Dims extents;
    std::vector<int64_t> from, to;

    void add(int64_t extent, int64_t in, int64_t out) {
        extents.push_back(extent);
        from.push_back(in);
        to.push_back(out);
    }
};

Axes tiled(const Node& node, const std::vector<int64_t>& in, const std::vector<int64_t>& out) {
    const Dims dims = node.input(0)->dims();
    const std::vector<int64_t> repeats = node.input(1)->constant->to_int64s();
    Axes axes;
    for (size_t i = 0; i < dims.size(); ++i) {
        axes.add(repeats[i], 0, out[i] * dims[i]);
        axes.add(dims[i], in[i], out[i]);
    }
    return axes;
}

/// Channel c of the wide image at (y b + i, x b + j) is a channel of the deep one at (y, x): the last of (i, j, c), or
/// of (c, i, j) in mode CRD.
Axes blocks(const Node& node, const std::vector<int64_t>& in, const std::vector<int64_t>& out) {
    const int64_t b = node.integer("blocksize");
    const bool widens = node.is("DepthToSpace"), channels_first = node.text("mode") == "CRD";
    const Dims wide = (widens ? node.output() : node.input(0))->dims();
    const int64_t unit = (widens ? in : out)[1], c = channels_first ? b * b * unit : unit;
    const int64_t j = channels_first ? unit : wide[1] * unit, i = b * j;
    Axes axes;
    if (widens) {
        axes.add(wide[0], in[0], out[0]);
        axes.add(wide[1], c, out[1]);
        axes.add(wide[2] / b, in[2], out[2] * b);
        axes.add(b, i, out[2]);
        axes.add(wide[3] / b, in[3], out[3] * b);
        axes.add(b, j, out[3]);
        return axes;
    }
    axes.add(wide[0], in[0], out[0]);
    if (channels_first) axes.add(wide[1], in[1], c);
    axes.add(b, in[2], i);
    axes.add(b, in[3], j);
    if (!channels_first) axes.add(wide[1], in[1], c);
    axes.add(wide[2] / b, in[2] * b, out[2]);
    axes.add(wide[3] / b, in[3] * b, out[3]);
    return axes;
}

StridedProblem problem_of(const RegionView& region, Layout layout, int64_t bytes) {
    const Node& node = region.node();
    const auto in = logical_strides(node.input(0)->dims(), layout),
               out = logical_strides(node.output()->dims(), Layout::plain);
    Axes axes = node.is("Tile") ? tiled(node, in, out) : blocks(node, in, out);
    return copy_problem(node.is("Tile") ? "tile" : "blocks", std::move(axes.extents),
                        moved(bytes, std::move(axes.from), 0, input(0)),
                        moved(bytes, std::move(axes.to), 0, output(0)));
}

Refusal can_implement(const RegionView& region, const Environment&) {
    if (region.has_body()) return Refusal::post_op_not_handled;
    const Node& node = region.node();
    const int bits = bit_width(node.output()->type.dtype);
    if (bits < 8 || bits > 64) return Refusal::dtype_not_handled;
    if (node.is("Tile") && !node.input(1)->is_constant()) return Refusal::weights_not_constant;
    if (element_count(node.output()->dims()) == 0) return Refusal::shape_not_handled;
    for (const Layout layout : {Layout::plain, Layout::channels_last})
        if (!can_launch(problem_of(region, layout, 4))) return Refusal::shape_not_handled;
    return Refusal::none;
}

// Reads its input as it lies; the result is plain.
Formats formats(const RegionView& region, std::span<const Format> available, const Environment& environment) {
    Formats result = plain_formats(region, available, environment);
    result.inputs[0].layout = available[0].layout;
    return result;
}

CudaKernel compile(const RegionView& region, const Formats& formats, std::string_view, const Environment&) {
    CudaKernel kernel;
    kernel.launches.push_back(
        strided_launch(problem_of(region, formats.inputs[0].layout, byte_size(formats.outputs[0].dtype, 1))));
    kernel.name = kernel.launches[0].spec.name;
    return kernel;
}

}  // namespace

const Implementation kRearrange{"rearrange", can_implement, formats, compile};

}  // namespace planish::cuda::families
