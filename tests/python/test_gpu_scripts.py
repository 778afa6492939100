"""The scripts of tests/gpu check themselves where there is no GPU: on the CPU, or by building only."""

import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[1] / "gpu"


def run(script, *arguments):
    done = subprocess.run([sys.executable, "-W", "ignore", GPU / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_kernels():
    assert "2 passed, 0 failed" in run(
        "kernels.py", "--device", "cpu", "--first", "--only", "gemm 1", "--precision", "fp32"
    )


def test_kernels_take_the_tactic_that_is_asked_for():
    lines = run("kernels.py", "--device", "cpu", "--only", "conv 2x40", "--precision", "fp32").splitlines()
    named = {line.split(": ")[0].rsplit(" ", 1)[1]: line for line in lines if line.startswith("PASS")}
    assert "conv_f32_wino" in named["conv_winograd"]
    assert "conv_f32_3x3" in named["conv_jit"]


def test_shapes():
    assert "PASS 400 runs of 12 shapes" in run("shapes.py", "--device", "cpu", "--runs", "400", "--shapes", "12")


def test_nodes(tmp_path):
    pytest.importorskip("onnx")
    archive = tmp_path / "nodes.zip"
    run("collect_nodes.py", archive)
    out = run("nodes.py", "--archive", archive, "--device", "cpu", "--jobs", "2", "--only", "test_sequence_insert")
    assert "2 cases on cpu: 2 passed" in out
