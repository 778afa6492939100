"""Plans written back as ONNX: valid, and equal in ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest

import planish


@pytest.mark.parametrize("from_file", [True, False])
def test_a_plan_comes_back_as_onnx(dense, dense_plan, dense_plan_path, tmp_path, from_file):
    path = tmp_path / "dense.onnx"
    planish.export_onnx(dense_plan_path if from_file else dense_plan, path)
    onnx.checker.check_model(str(path), full_check=True)
    x = np.random.default_rng(1).standard_normal((4, 3), dtype=np.float32)
    expected, actual = (
        onnxruntime.InferenceSession(model).run(None, {"x": x})[0] for model in (dense.SerializeToString(), str(path))
    )
    # Three products and a bias in float32: at most four roundings of the largest partial sum.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * 2.0**-24 * np.abs(expected).max() * 3)
    assert [o.name for o in onnx.load(str(path)).graph.output] == ["y"]


def test_the_command_writes_it_too(dense_plan_path, tmp_path):
    from planish import _planish

    path = tmp_path / "dense.onnx"
    assert _planish.cli_main(["planish", "export", str(dense_plan_path), "-o", str(path), "-q"]) == 0
    assert onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert _planish.cli_main(["planish", "export", str(tmp_path / "absent.plan")]) == 1
