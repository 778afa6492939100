"""Operators whose meaning changed between opsets, and ONNX Runtime's contributed ones, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import planish

onnxruntime = pytest.importorskip("onnxruntime")

F32 = np.float32
MS = "com.microsoft"


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def ints(*values):
    return np.array(values, np.int64)


def check(op, opset, feeds, weights=None, outputs=1, inputs=None, domain="", step=0.0, **attributes):
    """Runs the node in ONNX Runtime, unoptimised, and in planish. step: of quantised outputs, one is allowed."""
    weights = weights or {}
    names = outputs if isinstance(outputs, list) else [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, inputs or [*feeds, *weights], names, name="node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(a.dtype), [f"{n}{i}" for i in range(a.ndim)]
            )
            for n, a in feeds.items()
        ],
        [onnx.ValueInfoProto(name=n) for n in names if n],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    got = planish.load(planish.build(model, progress=False)).run(feeds)
    assert list(got) == [n for n in names if n]
    for (name, y), e in zip(got.items(), expected):
        assert (y.dtype, y.shape) == (e.dtype, e.shape), name
        # Both round after each of about a hundred operations on values of this size.
        magnitude = max(1.0, float(np.abs(e.astype(np.float64)).max(initial=0)))
        tolerance = step or (100 * np.finfo(F32).eps * magnitude if e.dtype.kind == "f" else 0)
        np.testing.assert_allclose(y.astype(np.float64), e.astype(np.float64), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_over_several_axes(op, axis, opset):
    check(op, opset, {"x": array(2, 3, 4)}, **({} if axis is None else {"axis": axis}))


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 20])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
def test_reductions(op, opset):
    as_input = opset >= 18 or (op == "ReduceSum" and opset >= 13)
    x = {"x": array(2, 3, 4)}
    if as_input:
        check(op, opset, x, {"axes": ints(0, 2)}, keepdims=0)
    else:
        check(op, opset, x, axes=[0, 2], keepdims=0)
    check(op, opset, x)


@pytest.mark.parametrize("opset", [7, 9])
def test_slice_by_attributes(opset):
    check("Slice", opset, {"x": array(5, 6, 7)}, starts=[1, -3], ends=[4, 100], axes=[0, 2])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_by_attributes(mode):
    check("Pad", 10, {"x": array(3, 4)}, pads=[1, 0, 1, 2], mode=mode, value=1.5)


@pytest.mark.parametrize("bounds", [{}, {"min": 0.0}, {"min": -0.5, "max": 0.5}])
def test_clip_by_attributes(bounds):
    check("Clip", 10, {"x": array(3, 4)}, **bounds)


def test_split_squeeze_unsqueeze_topk():
    check("Split", 11, {"x": array(6, 4)}, outputs=3, axis=0, split=[1, 2, 3])
    check("Split", 13, {"x": array(6, 4)}, outputs=3, axis=0)
    check("Split", 18, {"x": array(7, 4)}, outputs=3, axis=0, num_outputs=3)
    check("Squeeze", 11, {"x": array(1, 3, 1)}, axes=[0])
    check("Unsqueeze", 11, {"x": array(3, 4)}, axes=[0, 3])
    check("TopK", 9, {"x": array(3, 6)}, outputs=2, k=2)


@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 1.7, 2.6)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_and_old_resize(mode, scales):
    x, s = {"x": array(1, 2, 4, 5)}, np.array(scales, F32)
    check("Upsample", 7, x, mode=mode, scales=[float(v) for v in scales])
    check("Upsample", 9, x, {"s": s}, mode=mode)
    check("Resize", 10, x, {"s": s}, mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resize_that_shrinks(mode):
    check("Resize", 10, {"x": array(1, 2, 8, 10)}, {"s": np.array([1, 1, 0.5, 0.6], F32)}, mode=mode)


def test_normalisations():
    at_places = {"s": np.abs(array(3, 4)), "b": array(3, 4), "m": array(3, 4, seed=1), "v": np.abs(array(3, 4, seed=2))}
    check("BatchNormalization", 7, {"x": array(2, 3, 4)}, at_places, spatial=0)
    by_channel = {name: a[:, 0].copy() for name, a in at_places.items()}
    for opset in (7, 9, 14, 15):
        check("BatchNormalization", opset, {"x": array(2, 3, 4)}, by_channel)
    check("GroupNormalization", 18, {"x": array(2, 4, 5)}, {"s": array(2), "b": array(2, seed=1)}, num_groups=2)


def test_names_that_changed():
    grid = {"x": array(1, 2, 5, 6), "g": 0.8 * np.tanh(array(1, 3, 4, 2))}
    for mode in ("bilinear", "bicubic", "nearest"):
        check("GridSample", 16, grid, mode=mode)
    rois = {"r": np.array([[0, 0, 3, 3], [1, 1, 4, 4]], F32), "b": ints(0, 0)}
    for opset in (10, 16):
        check("RoiAlign", opset, {"x": array(1, 2, 6, 6)}, rois, output_height=2, output_width=2, sampling_ratio=2)
    check("Scatter", 9, {"x": array(3, 3)}, {"i": ints(0, 1, 2)[None], "u": array(1, 3, seed=1)}, axis=0)
    check("DFT", 17, {"x": array(1, 8, 1)}, axis=1)


# ---- ONNX Runtime's operators ----


def test_activations():
    x, bias = {"x": array(2, 8)}, {"b": array(8, seed=1)}
    check("Gelu", 17, x, domain=MS)
    check("FastGelu", 17, x, bias, domain=MS)
    check("BiasGelu", 17, x, bias, domain=MS)
    check("QuickGelu", 17, x, domain=MS)


def test_fused_products():
    check("FusedMatMul", 17, {"a": array(2, 3, 4), "b": array(2, 5, 4)}, domain=MS, transB=1, alpha=0.5)
    check("FusedGemm", 17, {"a": array(2, 3), "b": array(3, 4)}, {"c": array(4)}, domain=MS, activation="Relu")
    image, weights = {"x": array(1, 2, 5, 5)}, {"w": array(3, 2, 3, 3), "b": array(3), "z": array(1, 3, 3, 3)}
    check("FusedConv", 17, image, weights, domain=MS, activation="Relu", kernel_shape=[3, 3])


def test_skip_norms():
    x = {"x": array(2, 3, 8), "s": array(2, 3, 8, seed=1)}
    weights = {"g": array(8), "b": array(8, seed=2), "bias": array(8, seed=3)}
    check("SkipLayerNormalization", 17, x, weights, outputs=["y", "", "", "sum"], domain=MS, epsilon=1e-5)
    check("SkipSimplifiedLayerNormalization", 17, x, {"g": array(8)}, domain=MS, epsilon=1e-5)


@pytest.mark.parametrize(("bits", "block", "zeros"), [(4, 16, False), (4, 16, True), (4, 32, True), (8, 16, True)])
def test_weights_in_blocks(bits, block, zeros):
    rng, k, n = np.random.default_rng(0), 96, 6
    blocks = k // block
    weights = {
        "b": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": np.abs(array(n * blocks)) / 16,
    }
    if zeros:
        weights["z"] = rng.integers(0, 256, n * ((blocks * bits + 7) // 8)).astype(np.uint8)
    check("MatMulNBits", 17, {"a": array(3, k)}, weights, domain=MS, K=k, N=n, bits=bits, block_size=block, step=2e-3)


def test_quantised_operators():
    rng = np.random.default_rng(0)

    def quantised(*shape):
        return rng.integers(0, 255, shape).astype(np.uint8)

    def scale(value):
        return np.array(value, F32)

    def zero(value):
        return np.array(value, np.uint8)

    a, b = quantised(3, 8), quantised(3, 8)
    order = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    weights = {
        "as": scale(0.02),
        "az": zero(110),
        "bs": scale(0.03),
        "bz": zero(100),
        "ys": scale(0.05),
        "yz": zero(128),
    }
    for op in ("QLinearAdd", "QLinearMul"):
        check(op, 17, {"a": a, "b": b}, weights, inputs=order, domain=MS, step=1)
    order = ["ys", "yz", "a", "as", "az", "b", "bs", "bz"]
    check("QLinearConcat", 17, {"a": a, "b": b}, weights, inputs=order, domain=MS, axis=1, step=1)
    dynamic = {"B": quantised(8, 5), "bs": scale(0.02), "bz": zero(120), "bias": array(5)}
    check("DynamicQuantizeMatMul", 17, {"a": array(3, 8)}, dynamic, domain=MS, step=1e-4)


@pytest.mark.parametrize("mask", [None, "lengths", "keys", "pairs", "causal"])
def test_attention(mask):
    h = 8
    weights = {"w": array(h, 3 * h), "b": array(3 * h, seed=1)}
    masks = {
        "lengths": np.array([3, 5], np.int32),
        "keys": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
        "pairs": np.tril(np.ones((2, 5, 5), np.int32)),
    }
    if mask in masks:
        weights["mask"] = masks[mask]
    causal = int(mask == "causal")
    check("Attention", 17, {"x": array(2, 5, h)}, weights, domain=MS, num_heads=2, unidirectional=causal, step=1e-4)


def test_embedding():
    tables = {
        "w": array(20, 8),
        "p": array(9, 8, seed=1),
        "s": array(2, 8, seed=2),
        "g": array(8, seed=3),
        "b": array(8),
    }
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    feeds = {"ids": ids, "segments": ids % 2}
    check("EmbedLayerNormalization", 17, feeds, tables, outputs=2, domain=MS, epsilon=1e-6)
