"""Plans for GPUs on a machine without one: built with NVRTC, loaded on the CPU, refused with a reason elsewhere."""

import json

import numpy as np
import pytest

import planish
from planish import _planish


def doctor(capfd):
    assert _planish.cli_main(["planish", "doctor", "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.fixture
def no_gpu(capfd):
    if doctor(capfd)["gpus"]:
        pytest.skip("this machine has a GPU")


def test_doctor_names_what_it_found(capfd):
    report = doctor(capfd)
    assert [row["name"] for row in report["libraries"]] == ["driver", "nvrtc", "cublasLt", "cudnn"]
    for row in report["libraries"]:
        assert row["path"] or row["problem"]
    assert _planish.cli_main(["planish", "doctor"]) == 0
    assert "nvrtc" in capfd.readouterr().out


def test_fat_plan(no_gpu, dense_onnx_path, tmp_path):
    path = tmp_path / "fat.plan"
    plan = planish.build(dense_onnx_path, path, target=["cpu", "cuda:sm_90a"], precision="fp16", progress=False)
    assert any("cuda:sm_90a" in warning and "not verified" in warning for warning in plan.report["warnings"])
    engine = planish.load(path)  # "auto"
    assert (engine.info["device"], engine.info["precision"]) == ("cpu", "fp32")
    feeds = {i.name: np.ones([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in engine.inputs}
    only_cpu = planish.load(planish.build(dense_onnx_path, progress=False))
    for name, value in engine.run(feeds).items():
        np.testing.assert_array_equal(value, only_cpu.run(feeds)[name])
    with pytest.raises(planish.Error) as error:
        planish.load(path, device="cuda:0")
    assert error.value.code == "unsupported"
    assert "driver" in error.value.message


def test_equal_bytes(no_gpu, dense_onnx_path):
    build = lambda: planish.build(dense_onnx_path, target="cuda:sm_80", precision="bf16", progress=False).bytes()  # noqa: E731
    assert build() == build()


def test_precisions(dense_onnx_path):
    for target, precision in (("cpu", "fp16"), ("cuda:sm_86", "fp8"), ("cuda:sm_90a", "auto")):
        with pytest.raises(planish.Error) as error:
            planish.build(dense_onnx_path, target=target, precision=precision, progress=False)
        assert error.value.code == "unsupported", (target, precision)
    with pytest.raises(planish.Error, match="sm_86 does not multiply floats of 8 bits"):
        planish.build(dense_onnx_path, target=["cuda:sm_90a", "cuda:sm_86"], precision="fp8", progress=False)
    with pytest.raises(planish.Error, match="not available on the CPU"):
        planish.build(dense_onnx_path, target=["cuda:sm_90a", "cpu"], precision="fp8", progress=False)
    for precision in ("int8", "fp8"):
        with pytest.raises(planish.Error, match="needs calibration data") as error:
            planish.build(dense_onnx_path, target="cuda:sm_90a", precision=precision, progress=False)
        assert error.value.code == "invalid_argument"


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits(no_gpu, dense_onnx_path, precision):
    """The plan's kernels multiply 8 bits; its portable core, which the CPU runs too, keeps the signal: the tensors of a
    dense layer, input and weights, are 31 dB above their noise in fp8, further in int8."""
    rng = np.random.default_rng(0)
    floats = planish.load(planish.build(dense_onnx_path, progress=False, verify=False, optimization_level=1), "cpu")
    shapes = {info.name: [d if isinstance(d, int) else 64 for d in info.shape] for info in floats.inputs}
    samples = [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(16)]
    plan = planish.build(
        dense_onnx_path,
        target="cuda:sm_90a",
        precision=precision,
        calibration=samples,
        calibration_method="min_max",
        progress=False,
        shapes=shapes,
    )
    assert {row["after"] for row in plan.report["precision"]} == {precision}
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    expected, actual = floats.run(feeds), planish.load(plan, "cpu").run(feeds)
    for name, value in expected.items():
        noise = np.square(actual[name] - value).sum() / np.square(value).sum()
        assert 10 * np.log10(1 / noise) > 31 - 10 * np.log10(2 * len(plan.report["precision"])) - 3
