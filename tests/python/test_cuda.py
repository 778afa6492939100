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
    for target, precision in (("cpu", "fp16"), ("cuda:sm_90a", "fp8"), ("cuda:sm_90a", "auto")):
        with pytest.raises(planish.Error) as error:
            planish.build(dense_onnx_path, target=target, precision=precision, progress=False)
        assert error.value.code == "unsupported", (target, precision)
    with pytest.raises(planish.Error, match="needs calibration data") as error:
        planish.build(dense_onnx_path, target="cuda:sm_90a", precision="int8", progress=False)
    assert error.value.code == "invalid_argument"
