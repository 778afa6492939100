"""planish.sparsify and `planish sparsify`: the sparse ONNX in ONNX Runtime equals the compressed plan."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import make_model, value
from onnx import helper, numpy_helper

import planish


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(5)
    parts = {
        "w0": rng.standard_normal((32, 4, 3, 3)).astype(np.float32) / 6,
        "w1": rng.standard_normal((64, 32, 1, 1)).astype(np.float32) / 6,
        "w2": rng.standard_normal((10, 64)).astype(np.float32) / 8,
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w1"], ["c"], name="expand"),
        node("Relu", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "w2"], ["y"], name="fc", transB=1),
    ]
    return make_model(nodes, [value("x", ["N", 4, 8, 8])], [value("y", ["N", 10])], list(parts.items()))


def samples(count, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 4, 8, 8), dtype=np.float32) for _ in range(count)]


@pytest.mark.parametrize("options", [{}, {"pattern": "unstructured", "sparsity": 0.8}])
def test_the_sparse_model_runs_alike_everywhere(network, options, tmp_path):
    sparse = planish.sparsify(network, calibration=samples(20, 0), progress=False, **options)
    model = onnx.load_from_string(sparse.onnx_bytes())
    onnx.checker.check_model(model, full_check=True)
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) > 1]
    share = options.get("sparsity", 0.5)
    assert sum(np.sum(w == 0) for w in weights) == pytest.approx(share * sum(w.size for w in weights), rel=0.01)
    feeds = {"x": samples(1, 9)[0]}
    expected = onnxruntime.InferenceSession(sparse.onnx_bytes()).run(None, feeds)[0]
    fast = {"progress": False, "optimization_level": 1, "samples": [feeds]}
    plan, plain = sparse.build(tmp_path / "small.plan", **fast), sparse.build(compress=False, **fast)
    assert len(plan.bytes()) == (tmp_path / "small.plan").stat().st_size
    assert len(plan.bytes()) < len(plain.bytes()) - 0.8 * (share - 1 / 32) * 4 * sum(w.size for w in weights)
    # A few hundred products in each of three layers, float32 on both sides.
    np.testing.assert_allclose(
        planish.load(tmp_path / "small.plan").run(feeds)["y"],
        expected,
        rtol=0,
        atol=1000 * 2.0**-24 * abs(expected).max(),
    )


def test_what_is_left_makes_up_for_what_went(network):
    rng = np.random.default_rng(2)
    patterns = rng.standard_normal((6, 4, 8, 8))

    def alike(count):  # pixels that depend on each other, as those of photographs do
        return [
            np.einsum("k,kchw->chw", rng.standard_normal(6), patterns)[None].astype(np.float32) for _ in range(count)
        ]

    seen, others = alike(50), alike(20)

    def quality(criterion):
        options = {"criterion": criterion, "measure": False, "progress": False}
        return planish.sparsify(network, calibration=seen, test=others, **options).report["outputs"][0]["sqnr"]

    assert quality("sparsegpt") > quality("magnitude") + 3


def test_the_command_prints_its_table_and_chains(network, tmp_path, capfd):
    model, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    onnx.save(network, model)
    np.savez(data, x=np.concatenate(samples(10, 0)))
    words = ["sparsify", str(model), "--calib", str(data), "-o", str(tmp_path / "sparse.plan"), "--json"]
    assert planish._planish.cli_main(["planish", *words]) == 0
    report = json.loads(capfd.readouterr().out)
    assert {row["layer"]: row["zeros"] for row in report["layers"]} == {"stem": 576, "expand": 1024, "fc": 320}
    assert report["bytes"] < 0.6 * report["bytes_before"]
    assert report["outputs"][0]["name"] == "y"
    assert planish._planish.cli_main(["planish", "inspect", str(tmp_path / "sparse.plan"), "--json"]) == 0
    stored = json.loads(capfd.readouterr().out)["compressed"]
    assert stored["constants"] == 2  # what is below some kilobytes stays as it is
    assert stored["elements"] == 2 * stored["nonzeros"] == 1152 + 2048
    # What is sparse can be pruned, whose samples need no name either.
    np.save(tmp_path / "sample.npy", samples(1, 0)[0])
    (tmp_path / "folder").mkdir()
    (tmp_path / "sample.npy").rename(tmp_path / "folder" / "0.npy")
    words = ["prune", str(tmp_path / "sparse.plan"), "--ratio", "0.3", "--calib", str(tmp_path / "folder")]
    assert planish._planish.cli_main(["planish", *words, "--onnx", str(tmp_path / "small.onnx")]) == 0
    onnx.checker.check_model(str(tmp_path / "small.onnx"))


def test_prune_takes_samples_without_a_name(network):
    by_name = [{"x": x} for x in samples(8, 0)]
    options = {"ratio": 0.3, "measure": False, "progress": False}
    a = planish.prune(network, calibration=samples(8, 0), **options)
    b = planish.prune(network, calibration=by_name, **options)
    assert a.onnx_bytes() == b.onnx_bytes()
