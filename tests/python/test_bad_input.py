"""Every kind of bad input, from Python and from the command line: one clear error with a hint, nothing half-written."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

import planish

ROOT = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def outside(folder, model):
    """A model whose weights are said to lie in the folder above its own, where they are."""
    (folder / "inner").mkdir()
    onnx.save_model(model, folder / "inner" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    os.rename(folder / "inner" / "w.bin", folder / "w.bin")
    escaped = onnx.load(folder / "inner" / "m.onnx", load_external_data=False)
    for tensor in escaped.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    (folder / "inner" / "m.onnx").write_bytes(escaped.SerializeToString())
    return folder / "inner" / "m.onnx"


def missing_external(folder, model):
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="gone.bin", size_threshold=0)
    os.remove(folder / "gone.bin")
    return folder / "m.onnx"


def file(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


# What is wrong -> (a function that makes the model, the code of the error).
MODELS = {
    "missing": (lambda folder, model, plan: folder / "no.onnx", "not_found"),
    "a folder": (lambda folder, model, plan: folder, "invalid_argument"),
    "empty": (lambda folder, model, plan: file(folder, "m.onnx", b""), "invalid_model"),
    "text": (lambda folder, model, plan: file(folder, "m.onnx", b"not a model\n" * 99), "invalid_model"),
    "truncated": (lambda folder, model, plan: file(folder, "m.onnx", model.SerializeToString()[:-40]), "invalid_model"),
    "a damaged plan": (lambda folder, model, plan: file(folder, "m.onnx", plan[:-9]), "invalid_plan"),
    "weights outside its folder": (lambda folder, model, plan: outside(folder, model), "invalid_model"),
    "weights missing": (lambda folder, model, plan: missing_external(folder, model), "not_found"),
}
PLANS = {
    "missing": (lambda folder, model, plan: folder / "no.plan", "not_found"),
    "a folder": (lambda folder, model, plan: folder, "invalid_argument"),
    "empty": (lambda folder, model, plan: file(folder, "m.plan", b""), "invalid_plan"),
    "text": (lambda folder, model, plan: file(folder, "m.plan", b"not a plan\n" * 99), "invalid_plan"),
    "truncated": (lambda folder, model, plan: file(folder, "m.plan", plan[:-9]), "invalid_plan"),
    "changed": (lambda folder, model, plan: file(folder, "m.plan", plan[:90] + b"!" + plan[91:]), "invalid_plan"),
    "an ONNX model": (lambda folder, model, plan: file(folder, "m.plan", model.SerializeToString()), "invalid_plan"),
}


def python_failure(call):
    with pytest.raises(planish.Error) as caught:
        call()
    return caught.value.code, caught.value.message, caught.value.hint


def command(*words):
    run = subprocess.run([sys.executable, "-m", "planish", *map(str, words)], capture_output=True, text=True)
    assert run.returncode in (0, 1, 2), f"{words}: ended with {run.returncode}"
    return run


def command_failure(*words):
    run = command(*words, "--json")
    assert run.returncode == 1
    error = json.loads(run.stdout)["error"]
    assert run.stderr.startswith(f"error: {error['message']}")
    assert run.stderr.count("\n") <= 2
    return error["code"], error["message"], error["hint"]


@pytest.mark.parametrize("what", MODELS)
def test_models(what, tmp_path, dense, dense_plan):
    make, code = MODELS[what]
    model = onnx.ModelProto()
    model.CopyFrom(dense)  # saving with external data takes the weights out of the object
    path = make(tmp_path, model, bytes(dense_plan))
    output = tmp_path / "out" / "x.plan"
    output.parent.mkdir()
    for got, message, hint in (
        python_failure(lambda: planish.build(path, output, progress=False)),
        command_failure("build", path, "-o", output),
    ):
        assert got == code, message
        assert message
        assert hint, message
    assert os.listdir(output.parent) == []


@pytest.mark.parametrize("what", PLANS)
def test_plans(what, tmp_path, dense, dense_plan):
    make, code = PLANS[what]
    path = make(tmp_path, dense, bytes(dense_plan))
    for got, message, hint in (
        python_failure(lambda: planish.load(path)),
        command_failure("inspect", path),
        command_failure("run", path, "--random"),
    ):
        assert got == code, message
        assert hint, message


# What is wrong -> (the feed, what the message and hint speak of).
FEEDS = {
    "unknown name": ({"image": np.ones((1, 3), np.float32)}, ["'image'", "'x'"]),
    "wrong dtype": ({"x": np.ones((1, 3), np.int64)}, ["'x'", "int64", "float32"]),
    "wrong size": ({"x": np.ones((1, 4), np.float32)}, ["'x'", "4", "3"]),
    "wrong rank": ({"x": np.ones((1, 1, 3), np.float32)}, ["'x'"]),
    "no input": ({}, ["'x'"]),
}


@pytest.mark.parametrize("what", FEEDS)
def test_feeds(what, tmp_path, dense_plan_path):
    feeds, words = FEEDS[what]
    inputs = []
    for name, array in feeds.items():
        np.save(tmp_path / "array.npy", array)
        inputs = ["--input", f"{name}={tmp_path / 'array.npy'}"]
    engine = planish.load(dense_plan_path)
    target = tmp_path / "y.npy"
    for code, message, hint in (
        python_failure(lambda: engine.run(feeds)),
        command_failure("run", dense_plan_path, *inputs, "--output", f"y={target}"),
    ):
        assert code == "invalid_argument"
        for word in words:
            assert word in message + hint
    assert not target.exists()


@pytest.mark.parametrize("what", ["missing", "text", "truncated"])
def test_arrays_on_the_command_line(what, tmp_path, dense_plan_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 3), np.float32))
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(b"hello" if what == "text" else path.read_bytes()[:-5])
    _, message, _ = command_failure("run", dense_plan_path, "--input", f"x={path}")
    assert str(path) in message


def test_unwritable_outputs(tmp_path, dense_onnx_path, dense_plan_path):
    nowhere = tmp_path / "missing" / "m.plan"
    folder = tmp_path / "folder.plan"
    folder.mkdir()
    for target in (nowhere, folder):
        for code, message, hint in (
            python_failure(lambda target=target: planish.build(dense_onnx_path, target, progress=False)),
            command_failure("build", dense_onnx_path, "-o", target),
        ):
            assert code == "io_error"
            assert str(target) in message
            assert hint
    code, message, _ = command_failure("run", dense_plan_path, "--random", "--output", f"y={nowhere}")
    assert code == "io_error"
    assert str(nowhere) in message
    assert os.listdir(tmp_path) == ["folder.plan"]
    assert os.listdir(folder) == []


@ROOT
def test_folder_without_permission(tmp_path, dense_onnx_path):
    tmp_path.chmod(0o500)
    code, _, hint = python_failure(lambda: planish.build(dense_onnx_path, tmp_path / "m.plan", progress=False))
    assert code == "io_error"
    assert hint
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_failed_build_keeps_the_former_plan(tmp_path, dense_onnx_path):
    plan = tmp_path / "m.plan"
    planish.build(dense_onnx_path, plan, progress=False)
    before = plan.read_bytes()
    (tmp_path / "bad.onnx").write_bytes(b"text")
    assert command("build", tmp_path / "bad.onnx", "-o", plan).returncode == 1
    assert plan.read_bytes() == before
