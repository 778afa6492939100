"""The command line on a real ONNX file: every verb, its JSON, its exit codes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import planish


def run(*words, code=0, cwd=None):
    command = [sys.executable, "-m", "planish", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ})
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def plan(dense_onnx_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "dense.plan"
    report = json.loads(run("build", dense_onnx_path, "-o", path, "--metadata", "team=vision", "--json").stdout)
    assert report["bytes"] == path.stat().st_size
    assert all(row["passed"] for row in report["verification"])
    return path


def default_timing_cache():
    return pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "planish" / "timing.json"


def test_build_is_the_same_as_from_python(plan, dense_onnx_path):
    cache = default_timing_cache()
    want = planish.build(dense_onnx_path, metadata={"team": "vision"}, timing_cache=cache, progress=False)
    assert plan.read_bytes() == bytes(want)


def test_timing_caches(plan, tmp_path, dense_onnx_path):
    out = tmp_path / "m.plan"
    text = run("build", dense_onnx_path, "-o", out).stdout
    assert f"timing cache: {default_timing_cache()}" in text
    assert "instead of" in text  # what the choice gained
    assert "tuned" not in run("build", dense_onnx_path, "-o", out, "--optimization-level", 1).stdout
    cache = tmp_path / "timing.json"
    assert "fc" in run("build", dense_onnx_path, "-o", out, "--timing-cache", cache, "--replay-only", code=1).stderr
    report = json.loads(run("build", dense_onnx_path, "-o", out, "--timing-cache", cache, "--json").stdout)
    assert report["tactics"][0]["from_cache"] is False
    first = out.read_bytes()
    report = json.loads(
        run("build", dense_onnx_path, "-o", out, "--timing-cache", cache, "--replay-only", "--json").stdout
    )
    assert report["tactics"][0]["from_cache"] is True
    assert out.read_bytes() == first
    assert json.loads(run("cache", "show", cache, "--json").stdout)["entries"]
    assert "the times were not kept" in run("build", dense_onnx_path, "-o", out, "--timing-cache", "none").stdout

    default_timing_cache().write_text("damaged")
    assert "not a timing cache" in run("build", dense_onnx_path, "-o", out).stderr
    default_timing_cache().unlink()


def test_default_output_and_shape(tmp_path, dense_onnx_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(dense_onnx_path.read_bytes())
    run("build", "m.onnx", "--shape", "x=1x3:2x3:8x3", "-q", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.plan"]


def test_run_reads_and_writes_numpy_files(tmp_path, plan, weights):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "in.npz", x=x)
    want = np.maximum(x @ weights[0] + weights[1], 0)
    run("run", plan, "--input", f"x={tmp_path / 'x.npy'}", "--output", f"y={tmp_path / 'y.npy'}")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), want, rtol=1e-5)
    run("run", plan, "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz")
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], want, rtol=1e-5)


def test_bench_inspect(plan):
    figures = json.loads(run("bench", plan, "--runs", 3, "--shape", "x=4x3", "--threads", 1, "--json").stdout)
    assert figures["runs"] == 3
    assert figures["threads"] == 1
    seen = json.loads(run("inspect", plan, "--json").stdout)
    assert seen["inputs"] == [{"name": "x", "dtype": "float32", "kind": "tensor", "shape": ["N", "3"]}]
    assert seen["provenance"]["metadata"] == {"team": "vision"}
    assert seen["layers"]
    text = run("inspect", plan, "--explain", "--verification", "--graph").stdout
    assert "\x1b[" not in text  # colours on a terminal only
    assert "fc" in text


def test_compare_with_onnx_runtime(plan, dense_onnx_path):
    pytest.importorskip("onnxruntime")
    result = json.loads(run("compare", plan, "--onnx", dense_onnx_path, "--json").stdout)
    assert result["failed"] == 0
    assert result["onnxruntime"][0]["max_abs"] < 1e-4
    assert "fc" in {layer for row in result["regions"] for layer in row["layers"]}


@pytest.mark.parametrize("verb", ["build", "run", "bench", "inspect", "compare"])
def test_help_has_examples(verb):
    assert "Examples:" in run(verb, "--help").stdout


def test_failures(tmp_path, plan, dense_onnx_path):
    run(code=2)
    run("run", code=2)
    run("bench", plan, "--runs", "many", code=2)
    for words, expected in (
        (("run", tmp_path / "no.plan"), "no.plan"),
        (("run", dense_onnx_path), "planish build"),
        (("build", plan), "plan"),
        (("build", dense_onnx_path, "-o", tmp_path / "none" / "a.plan"), "none"),
        (("build", dense_onnx_path, "--precision", "int8"), "int8"),
        (("run", plan, "--input", "x"), "NAME=VALUE"),
        (("run", plan), "'x'"),
        (("bench", plan, "--shape", "z=1x3"), "'z'"),
    ):
        done = run(*words, code=1)
        assert "error:" in done.stderr
        assert expected in done.stderr
        assert not done.stdout
    error = json.loads(run("inspect", tmp_path / "no.plan", "--json", code=1).stdout)["error"]
    assert error["code"] == "not_found"
    assert os.listdir(tmp_path) == []
