"""planish.prune and `planish prune`: the pruned ONNX in ONNX Runtime equals the pruned plan."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import make_model, value
from onnx import helper

import planish


@pytest.fixture(scope="module")
def network():
    """An inverted residual block with squeeze-excite between two convolutions."""
    rng = np.random.default_rng(3)

    def weights(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    parts = {
        "w0": weights(16, 3, 3, 3),
        "w1": weights(64, 16, 1, 1),
        "w2": weights(64, 1, 3, 3),
        "s0": weights(16, 64, 1, 1),
        "s1": weights(64, 16, 1, 1),
        "w3": weights(16, 64, 1, 1),
        "w4": weights(10, 16),
    }
    same = {"pads": [1, 1, 1, 1]}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem", **same),
        node("Conv", ["a", "w1"], ["b0"], name="expand"),
        node("Relu", ["b0"], ["b"]),
        node("Conv", ["b", "w2"], ["c0"], name="depthwise", group=64, **same),
        node("Relu", ["c0"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Conv", ["p", "s0"], ["q0"], name="squeeze"),
        node("Relu", ["q0"], ["q"]),
        node("Conv", ["q", "s1"], ["r0"], name="excite"),
        node("Sigmoid", ["r0"], ["r"]),
        node("Mul", ["c", "r"], ["d"]),
        node("Conv", ["d", "w3"], ["e"], name="project"),
        node("Add", ["a", "e"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "w4"], ["y"], name="fc", transB=1),
    ]
    return make_model(nodes, [value("x", ["N", 3, 16, 16])], [value("y", ["N", 10])], list(parts.items()))


def samples(count, seed):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"scope": "layer", "criterion": "l1"}, {"keep_parameters": True}])
def test_the_pruned_model_runs_alike_everywhere(network, options):
    pruned = planish.prune(network, ratio=0.4, calibration=samples(8, 0), measure=False, progress=False, **options)
    model = pruned.onnx_bytes()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    report = pruned.report
    assert report["channels"] < report["channels_before"]
    assert report["bytes"] < report["bytes_before"]
    feeds = samples(1, 9)[0]
    expected = onnxruntime.InferenceSession(model).run(None, feeds)[0]
    actual = planish.load(pruned.build(progress=False, optimization_level=1, samples=[feeds])).run(feeds)["y"]
    # Some hundred products in a row of layers, float32 on both sides.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1000 * 2.0**-24 * np.abs(expected).max())


def test_reconstruction_brings_outputs_back(network):
    feeds = samples(4, 9)
    reference = onnxruntime.InferenceSession(network.SerializeToString())

    def error(**options):
        pruned = planish.prune(
            network, ratio=0.3, calibration=samples(32, 0), measure=False, progress=False, keep=["stem"], **options
        )
        session = onnxruntime.InferenceSession(pruned.onnx_bytes())
        outputs = [(session.run(None, f)[0], reference.run(None, f)[0]) for f in feeds]
        return sum(np.sum((a - b) ** 2) for a, b in outputs) / sum(np.sum(b**2) for _, b in outputs)

    assert error() < 0.5 * error(reconstruct=False)


def test_the_command_prints_its_table(network, tmp_path, capfd):
    model, data = tmp_path / "net.onnx", tmp_path / "sample.npz"
    onnx.save(network, model)
    np.savez(data, **samples(1, 0)[0])
    words = ["prune", str(model), "--ratio", "0.3", "--calib", str(data), "-o", str(tmp_path / "small.onnx")]
    assert planish._planish.cli_main(["planish", *words, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    rows = {row["layer"]: row for row in report["layers"]}
    assert rows["fc"]["channels"] == 10
    assert report["seconds"] > 0
    assert sum(row["channels"] < row["channels_before"] for row in report["layers"]) > 0
    onnx.checker.check_model(str(tmp_path / "small.onnx"))
