"""The walk-through of docs/nvinfer.md: convert, optimise to 8 bits, deploy; and what its calls refuse."""

import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import nvinfer1
import planish

NVINFER = Path(planish._planish.__file__).resolve().parents[2] / "nvinfer"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two convolutions, a pool and a classifier over images of 3x16x16, any batch."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)) / 5,
        "w2": rng.standard_normal((32, 16, 1, 1)) / 4,
        "w3": rng.standard_normal((32, 10)) / 5,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("nvinfer") / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def images(count, seed, batch=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def context_of(network, **batches):
    engine = nvinfer1.ICudaEngine_Create_t()
    engine.set_network(network)
    if "prefer" in batches:
        engine.set_prefer_batch_size(batches["prefer"])
    if "most" in batches:
        engine.set_max_batch_size(batches["most"])
    return engine.create_execution_context()


@pytest.fixture(scope="module")
def plan(model):
    path = model.with_suffix(".plan")
    command = [NVINFER, "--input_file", model, "--output_file", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return path


def test_convert_optimise_deploy(model, plan):
    network = nvinfer1.Network().read_bin_file(plan.read_bytes())
    builder = nvinfer1.Builder()
    builder.set_calibration([{"image": image} for image in images(16, 1)])
    optimized = builder.build_optimized_network(network, 8)

    context = context_of(optimized.serialize(), prefer=1, most=4)
    context.set_device("0", allow_cpu=True)
    name = context.get_input_blob_name(0)
    assert (name, context.get_output_blob_name(0)) == ("image", "scores")
    expected = planish.load(planish.build(model, progress=False))
    for image in images(4, 2, batch=2):
        context.enqueue([name], [image])
        context.synchronize()
        scores, float_scores = context.get_output(0), expected(image)
        error = np.linalg.norm(scores - float_scores) / np.linalg.norm(float_scores)
        assert 0 < error < 0.05, "8 bits are about 1 % off, and not equal"


def test_noise_calibrates_with_a_warning(plan):
    network = nvinfer1.Network().read_bin_file(plan.read_bytes())
    with pytest.warns(UserWarning, match="no calibration data"):
        assert nvinfer1.Builder().build_optimized_network(network, 8).serialize()[:7] == b"PLANISH"


def test_no_gpu_is_an_error_unless_allowed(plan):
    context = context_of(plan.read_bytes())
    try:
        planish.load(plan, device="cuda:0")
    except planish.Error:
        with pytest.raises(planish.Error, match="device '0' cannot be used") as caught:
            context.set_device("0")
        assert "allow_cpu=True" in caught.value.hint
        context.set_device("0", allow_cpu=True)
        assert context.device == "cpu"
    else:
        context.set_device("0")
        assert context.device == "cuda:0"


def test_channels_last_input_is_named(plan):
    context = context_of(plan.read_bytes())
    context.set_device("cpu")
    context.enqueue(["image"], [images(1, 3)[0].transpose(0, 2, 3, 1).copy()])
    with pytest.raises(planish.Error) as caught:
        context.synchronize()
    assert "NHWC" in caught.value.hint
    context.enqueue(["image"], images(1, 3))  # the context lives on
    context.synchronize()
    assert context.get_output(0).shape == (1, 10)


def test_refusals(plan):
    with pytest.raises(planish.Error, match="read_bin_file got a str"):
        nvinfer1.Network().read_bin_file("network.plan")
    with pytest.raises(planish.Error, match="the network is empty"):
        nvinfer1.Builder().build_optimized_network(nvinfer1.Network(), 32)
    with pytest.raises(planish.Error, match="4 bits"):
        nvinfer1.Builder().build_optimized_network(nvinfer1.Network().read_bin_file(plan.read_bytes()), 4)
    with pytest.raises(planish.Error, match="the engine has no network"):
        nvinfer1.ICudaEngine_Create_t().create_execution_context()
    with pytest.raises(planish.Error, match="above the largest"):
        context_of(plan.read_bytes(), prefer=8, most=4)
    context = context_of(plan.read_bytes(), most=2)
    context.set_device("cpu")
    with pytest.raises(planish.Error, match="batch of 3"):
        context.enqueue(["image"], images(1, 4, batch=3))
    with pytest.raises(planish.Error, match="no run has ended"):
        context.get_output(0)
    with pytest.raises(planish.Error, match="2 names for 1 arrays"):
        context.enqueue(["image", "other"], images(1, 4))
    with pytest.raises(planish.Error, match="there is no input 1"):
        context.get_input_blob_name(1)


def test_a_plan_is_built_again_from_its_core(model, plan, tmp_path):
    again = planish.build(plan, tmp_path / "again.plan", target="cpu:avx2", progress=False)
    image = images(1, 5)[0]
    first, second = planish.load(plan), planish.load(again)
    assert second.info["provenance"]["source.format"] == "plan"
    np.testing.assert_allclose(first(image), second(image), rtol=1e-5, atol=1e-5)
    command = [NVINFER, "--input_file", plan]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "would replace" in done.stderr
