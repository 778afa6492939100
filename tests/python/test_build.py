"""Building plans from Python: every kind of model, options, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import make_model, value
from onnx import TensorProto, helper

import planish


def failure(call, code):
    with pytest.raises(planish.Error) as error:
        call()
    assert error.value.code == code, error.value
    return str(error.value)


def test_every_kind_of_model_gives_the_same_plan(dense, dense_onnx_path, tmp_path):
    plans = [
        bytes(planish.build(model, timing_cache=tmp_path / "timing.json", progress=False))
        for model in (dense, dense.SerializeToString(), dense_onnx_path, str(dense_onnx_path))
    ]
    assert all(plan == plans[0] for plan in plans)


def test_report_and_output(dense, tmp_path):
    path = tmp_path / "out.plan"
    plan = planish.build(dense, path, metadata={"team": "vision"}, progress=False)
    assert path.read_bytes() == bytes(plan)
    report = plan.report
    assert report["verification"]
    assert all(row["passed"] for row in report["verification"])
    assert {"import", "optimise", "compile", "verify"} <= set(report["seconds"])
    assert planish.load(path).info["provenance"]["metadata.team"] == "vision"
    assert "MatMul" in str(plan) or "Region" in str(plan)


@pytest.fixture(scope="module")
def convolution():
    """A region with several tactics: Winograd, the direct sum, its parts one by one."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="act"),
    ]
    shape = [1, 32, 14, 14]
    weights = [("w", rng.standard_normal((32, 32, 3, 3), dtype=np.float32))]
    return make_model(nodes, [value("x", shape)], [value("y", shape)], weights)


def test_same_timing_cache_same_bytes(convolution, tmp_path):
    cache = tmp_path / "new" / "timing.json"
    first = planish.build(convolution, timing_cache=cache, progress=False)
    measured = cache.read_bytes()
    second = planish.build(convolution, timing_cache=cache, progress=False)
    replayed = planish.build(convolution, timing_cache=cache, replay_only=True, progress=False)
    assert bytes(first) == bytes(second) == bytes(replayed)
    assert cache.read_bytes() == measured
    assert first.report["timing_cache"] == str(cache)
    for plan, from_cache in ((first, False), (second, True), (replayed, True)):
        row = plan.report["tactics"][0]
        assert row["region"] == "conv"
        assert row["from_cache"] == from_cache
        assert {"conv_jit", "conv_winograd", "conv_winograd2x2", "dissolve"} == set(row["seconds"])
        assert row["chosen"] in row["seconds"]
    rows = json.loads(measured)["entries"].values()
    assert all(row["region"].startswith(("Conv+Relu", "network")) for row in rows)


def other_choice(cache, chosen):
    """The timing cache, made to say that `chosen` is fastest."""
    content = json.loads(cache.read_text())
    content["entries"] = {k: row for k, row in content["entries"].items() if chosen in row["nanoseconds"]}
    for row in content["entries"].values():
        row["noise"] = 0
        row["nanoseconds"] = {k: 10 if k == chosen else 1000 for k in row["nanoseconds"]}
    cache.write_text(json.dumps(content))


@pytest.mark.parametrize("chosen", ["conv_jit", "conv_winograd", "conv_winograd2x2", "dissolve"])
def test_plan_runs_as_the_timing_cache_says(convolution, tmp_path, chosen):
    cache = tmp_path / "timing.json"
    planish.build(convolution, timing_cache=cache, progress=False)
    other_choice(cache, chosen)
    plan = planish.build(convolution, timing_cache=cache, optimization_level=2, progress=False)
    assert plan.report["tactics"][0]["chosen"] == chosen
    engine = planish.load(plan)
    steps = [row["implementation"] for row in engine.layers({"x": (1, 32, 14, 14)}) if row["op"] != "Reorder"]
    assert steps == [row["implementation"] for row in plan.report["layers"] if row["op"] != "Reorder"]
    assert len(steps) == (2 if chosen == "dissolve" else 1)
    kernel = {"conv_jit": "conv_f32_3x3", "conv_winograd": "conv_f32_winograd4x4"}.get(chosen, "conv_f32_winograd2x2")
    assert steps[0].startswith(kernel + "_") or chosen == "dissolve"
    assert engine.info["ignored_tactics"] == []


def test_what_may_be_timed(convolution, tmp_path):
    cache = tmp_path / "timing.json"

    def build(**options):
        return planish.build(convolution, timing_cache=cache, progress=False, **options)

    assert "'conv'" in failure(lambda: build(replay_only=True), "not_found")
    for options in ({"optimization_level": 0}, {"optimization_level": 1}, {"optimization_level": 2}):
        build(**options)
        assert not cache.exists()
    plan = build(time_budget=0)
    assert not cache.exists()
    assert any("time budget" in warning for warning in plan.report["warnings"])
    assert plan.report["tactics"][0]["seconds"] == {}
    build(optimization_level=4)
    assert all(row["turns"] > 3 for row in json.loads(cache.read_text())["entries"].values() if "Conv" in row["region"])
    failure(lambda: build(optimization_level=6), "invalid_argument")
    failure(lambda: planish.build(convolution, replay_only=True), "invalid_argument")
    failure(lambda: build(replay_only=True, optimization_level=1), "invalid_argument")
    cache.write_text("precious")
    failure(build, "invalid_argument")
    assert cache.read_text() == "precious"


def test_measurements_that_cannot_be_kept_are_a_warning(convolution, tmp_path):
    (tmp_path / "file").write_text("")
    plan = planish.build(convolution, timing_cache=tmp_path / "none", time_budget=0, progress=False)
    assert not any("not kept" in warning for warning in plan.report["warnings"])
    plan = planish.build(convolution, timing_cache="/proc/planish/timing.json", progress=False)
    assert any("not kept" in warning for warning in plan.report["warnings"])


def test_shapes_fix_and_range(dense):
    fixed = planish.load(planish.build(dense, shapes={"x": (4, 3)}, progress=False))
    assert fixed.inputs[0].shape == (4, 3)
    ranged = planish.load(planish.build(dense, shapes={"x": ((1, 3), (2, 3), (8, 3))}, progress=False))
    assert ranged.inputs[0].shape[1] == 3
    assert ranged(np.ones((8, 3), np.float32)).shape == (8, 5)


def test_progress_function_sees_every_stage_and_can_cancel(dense):
    seen = []
    planish.build(dense, progress=lambda stage, detail, fraction: seen.append((stage, fraction)))
    assert {"import", "optimise", "compile"} <= {stage for stage, _ in seen}
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[0] >= 0
    assert fractions[-1] <= 1
    failure(lambda: planish.build(dense, progress=lambda *_: False), "invalid_argument")


def test_progress_function_may_raise(dense):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planish.build(dense, progress=interrupted)


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16", "fp8"])
def test_precisions_to_come_are_unsupported(dense, precision):
    assert precision in failure(lambda: planish.build(dense, precision=precision, progress=False), "unsupported")


def test_bad_options(dense):
    failure(lambda: planish.build(dense, precision="fp7"), "invalid_argument")
    failure(lambda: planish.build(dense, target="cuda:sm_70"), "invalid_argument")
    failure(lambda: planish.build(dense, target="toaster"), "invalid_argument")
    failure(lambda: planish.build(dense, calibration=[]), "invalid_argument")
    failure(lambda: planish.build(dense, shapes={"nope": (1, 3)}, progress=False), "invalid_argument")
    failure(lambda: planish.build(dense, shapes={"x": "large"}), "invalid_argument")
    failure(lambda: planish.build(dense, shapes={"x": (1, 3, 3)}, progress=False), "invalid_argument")
    failure(lambda: planish.build(42), "invalid_argument")


def test_bad_models(tmp_path, dense, dense_plan):
    assert "no.onnx" in failure(lambda: planish.build(tmp_path / "no.onnx", progress=False), "not_found")
    good = dense.SerializeToString()
    for name, content, code in (
        ("empty", b"", "invalid_model"),
        ("text", b"this is not a model\n" * 20, "invalid_model"),
        ("truncated", good[: len(good) // 2], "invalid_model"),
        ("damaged plan", bytes(dense_plan)[:-9], "invalid_plan"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        output = tmp_path / f"{name}.plan"
        failure(lambda path=path, output=output: planish.build(path, output, progress=False), code)
        assert not output.exists()


def test_external_data_stays_in_the_models_folder(tmp_path, dense):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    copy = onnx.ModelProto.FromString(
        dense.SerializeToString()
    )  # saving moves the tensors out of the model it is given
    onnx.save_model(copy, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    planish.build(path, progress=False)
    model = onnx.load(path, load_external_data=False)
    (tmp_path / "w.bin").write_bytes((folder / "w.bin").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    failure(lambda: planish.build(path, progress=False), "invalid_model")


def test_unwritable_output_leaves_nothing(tmp_path, dense):
    failure(lambda: planish.build(dense, tmp_path / "missing" / "a.plan", progress=False), "io_error")
    target = tmp_path / "folder.plan"
    target.mkdir()
    failure(lambda: planish.build(dense, target, progress=False), "io_error")
    assert sorted(os.listdir(tmp_path)) == ["folder.plan"]


def test_torch_module():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten())
    x = torch.randn(2, 3, 8, 8)
    plan = planish.build(
        module, example_inputs=(x,), shapes={"input": ((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))}, progress=False
    )
    engine = planish.load(plan)
    assert [i.name for i in engine.inputs] == ["input"]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        # 27 products a sum: k * eps * magnitude
        np.testing.assert_allclose(engine(x), module(x).detach().numpy(), atol=27 * 1.2e-7 * 10)
    assert "example_inputs" in failure(lambda: planish.build(module), "invalid_argument")


def test_sequences_in_and_out():
    split = helper.make_node("SplitToSequence", ["x"], ["s"], axis=0)
    model = make_model(
        [split],
        [value("x", [3, 2])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    )
    engine = planish.load(planish.build(model, progress=False))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    parts = engine(x)
    assert len(parts) == 3
    np.testing.assert_array_equal(np.concatenate(parts), x)


def test_onnx_backend(dense, weights):
    from planish import onnx_backend

    x = np.ones((2, 3), np.float32)
    want = np.maximum(x @ weights[0] + weights[1], 0)
    np.testing.assert_allclose(onnx_backend.run_model(dense, [x])[0], want, rtol=1e-5)
    np.testing.assert_allclose(onnx_backend.prepare(dense).run(x).y, want, rtol=1e-5)
    node = helper.make_node("Add", ["a", "b"], ["c"])
    np.testing.assert_array_equal(onnx_backend.run_node(node, [x, x])[0], x + x)
    assert onnx_backend.supports_device("CPU")
    assert not onnx_backend.supports_device("CUDA")


@pytest.mark.parametrize(
    "order",
    [
        ("planish", "onnx", "torch", "onnxruntime"),
        ("onnxruntime", "torch", "onnx", "planish"),
        ("torch", "planish", "onnxruntime", "onnx"),
    ],
)
def test_imports_in_any_order(order, dense_onnx_path):
    for name in order:
        pytest.importorskip(name)
    code = "".join(f"import {name}\n" for name in order) + (
        f"planish.build({str(dense_onnx_path)!r}, progress=False)\n"
        f"onnx.checker.check_model(onnx.load({str(dense_onnx_path)!r}))\n"
        f"onnxruntime.InferenceSession({str(dense_onnx_path)!r}, providers=['CPUExecutionProvider'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
