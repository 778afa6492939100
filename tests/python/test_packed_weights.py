"""Plans keep weights once, in the order that the kernels of their target read; every other machine reads them too."""

import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from conftest import make_model, value
from onnx import helper

import planish

RNG = np.random.default_rng(3)
WEIGHTS = {
    "stem": RNG.standard_normal((64, 48, 3, 3), dtype=np.float32) / 20,
    "depth": RNG.standard_normal((192, 1, 3, 3), dtype=np.float32) / 3,
    "expand": RNG.standard_normal((192, 64, 1, 1), dtype=np.float32) / 8,
    "project": RNG.standard_normal((96, 192, 1, 1), dtype=np.float32) / 14,
    "grouped": RNG.standard_normal((96, 48, 3, 3), dtype=np.float32) / 20,
    "fc": RNG.standard_normal((250, 96), dtype=np.float32) / 10,
    "out": RNG.standard_normal((250, 200), dtype=np.float32) / 16,
}
BYTES = sum(w.nbytes for w in WEIGHTS.values())


@pytest.fixture(scope="module")
def model():
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["a", "expand"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "depth"], ["d"], pads=[1, 1, 1, 1], group=192),
        helper.make_node("Conv", ["d", "project"], ["e"]),
        helper.make_node("Conv", ["e", "grouped"], ["f"], group=2, strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "fc"], ["i"], transB=1),
        helper.make_node("MatMul", ["i", "out"], ["y"]),
    ]
    return make_model(nodes, [value("x", ["N", 48, 18, 18])], [value("y", ["N", 200])], list(WEIGHTS.items()))


def image(batch):
    return np.random.default_rng(batch).standard_normal((batch, 48, 18, 18), dtype=np.float32)


def build(model, target, largest_batch=1):
    # Without measurements, so that equal builds choose alike, and without kernels that transform their weights.
    return planish.build(
        model,
        target=target,
        progress=False,
        shapes={"x": ((1, 48, 18, 18), (1, 48, 18, 18), (largest_batch, 48, 18, 18))},
        optimization_level=1,
        disabled_implementations=["conv_winograd", "conv_strassen", "gemm_strassen"],
    )


TARGETS = ["cpu", "cpu:avx2"]


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_kept_once_and_used_where_they_lie(model, target):
    plan = build(model, target)
    assert len(bytes(plan)) <= 1.1 * BYTES + 32_768  # the description
    assert bytes(plan) == bytes(build(model, target))
    engine = planish.load(bytes(plan), device=target)
    engine(image(1))
    assert engine.info["weight_bytes"] <= 1.1 * BYTES
    # What is smaller than a page is packed at load.
    assert engine.info["packed_bytes"] <= 0.05 * BYTES


@pytest.mark.parametrize("built_for", TARGETS)
@pytest.mark.parametrize("run_on", TARGETS)
@pytest.mark.parametrize("batch", [1, 5])
def test_any_machine_and_batch_size_runs_it(model, built_for, run_on, batch):
    x = image(batch)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, {"x": x})[0]
    engine = planish.load(bytes(build(model, built_for, largest_batch=8)), device=run_on)
    y = engine(x)
    # six layers, each with the rounding of sums of at most 432 products: 6 * 6 sqrt(432) eps of the largest element
    bound = 6 * 6 * 432**0.5 * np.finfo(np.float32).eps * np.abs(want).max()
    np.testing.assert_allclose(y, want, rtol=0, atol=bound)
    # The same kernels on the same weights, whatever order the plan keeps them in.
    np.testing.assert_array_equal(y, planish.load(build(model, run_on, largest_batch=8), device=run_on)(x))


def test_a_processor_of_less_reads_the_plan(model, tmp_path):
    path = tmp_path / "net.plan"
    build(model, "cpu").save(path)
    np.save(tmp_path / "x.npy", image(1))
    code = "import sys, numpy as np, planish; np.save(sys.argv[3], planish.load(sys.argv[1])(np.load(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(command, check=True, env={**os.environ, "PLANISH_MAX_ISA": "avx2"})
    want = planish.load(path, device="cpu:avx2")(image(1))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)


@pytest.mark.parametrize("built_for", TARGETS)
def test_int8_weights_too(model, built_for):
    plan = planish.build(
        model,
        target=built_for,
        precision="int8",
        calibration=[image(batch)[:1] for batch in range(1, 9)],
        progress=False,
        optimization_level=1,
    )
    assert [row["after"] for row in plan.report["precision"]].count("int8") == len(WEIGHTS)
    # A quarter of the floats, column sums and the padding of panels.
    assert len(bytes(plan)) <= 0.3 * BYTES + 65_536
    engine = planish.load(bytes(plan), device=built_for)
    want = engine(image(1))
    # The depthwise filters are all that is packed at load; 1/40 of the weights, in 16 bits.
    assert engine.info["packed_bytes"] <= 0.05 * BYTES
    for device in TARGETS:
        # Sums are exact; the roundings before a byte is stored may differ between instruction sets: a step of 1/255.
        np.testing.assert_allclose(
            planish.load(bytes(plan), device=device)(image(1)), want, atol=np.abs(want).max() / 64
        )
