"""The examples run as their docstrings say, and what they print is right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_zoo import NETWORKS, onnx_path
from PIL import Image, ImageDraw, ImageFont

import planish

EXAMPLES = Path(__file__).parents[2] / "examples"
BUILT = Path(planish._planish.__file__).parents[2] / "examples"


def run_python(name, folder, *arguments):
    command = [sys.executable, EXAMPLES / "python" / f"{name}.py", *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.splitlines()


def test_classify_photograph(tmp_path):
    lines = run_python("classify_photograph", tmp_path)
    answers = [("chelsea", "Egyptian cat"), ("coffee", "espresso"), ("rocket", "missile")]
    for line, (photograph, expected) in zip(lines[-3:], answers):  # the weights' package prints a line of its own
        assert line.startswith(f"{photograph}: {expected} ")
    assert (tmp_path / "efficientnet_lite0.plan").exists()


def test_embed_sentences(tmp_path):
    lines = run_python("embed_sentences", tmp_path)
    assert len(lines) == 5
    assert "latency of neural nets" in lines[1]  # the nearest comes first
    scores = [float(line.split()[0]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)


def test_read_text_line(tmp_path):
    assert run_python("read_text_line", tmp_path) == ["Flatten the network onto the hardware 2026"]


def test_read_text_lines_of_an_image(tmp_path):
    image = Image.new("RGB", (640, 320), "white")
    texts = ["first line of text", "and the second one"]
    for row, text in enumerate(texts):
        ImageDraw.Draw(image).text((50, 60 + 120 * row), text, "black", ImageFont.load_default(size=40))
    image.save(tmp_path / "page.png")
    assert run_python("read_text_line", tmp_path, tmp_path / "page.png") == texts


def built(name):
    path = BUILT / name
    if not path.exists():
        pytest.skip("the C++ examples are not built")
    return str(path)


def test_classify_in_cpp(tmp_path):
    from skimage import data
    from torchvision.models._meta import _IMAGENET_CATEGORIES as classes

    Image.fromarray(data.coffee()).save(tmp_path / "coffee.ppm")
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    model = next(onnx_path(network) for network in NETWORKS if network.name == "efficientnet_lite0")
    command = [built("classify"), model, tmp_path / "coffee.ppm", tmp_path / "classes.txt"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=1) for line in run.stdout.splitlines()]
    assert len(rows) == 5
    assert rows[0][1] == "espresso"
    plan = tmp_path / "model.plan"
    planish.build(model, plan, verify=False, progress=False)
    again = subprocess.run([command[0], plan, *command[2:]], capture_output=True, text=True, check=True)
    assert again.stdout == run.stdout


@pytest.mark.parametrize("name", ["classify", "run_files", "describe"])
def test_programs_say_what_is_wrong(name, tmp_path):
    assert subprocess.run([built(name)], capture_output=True, text=True).returncode == 2
    (tmp_path / "no.plan").write_text("not a plan")
    for plan in ("missing.plan", "no.plan"):
        run = subprocess.run([built(name), tmp_path / plan, "x"], capture_output=True, text=True)
        assert run.returncode == 1
        assert plan in run.stderr


def test_run_files_and_describe(tmp_path, dense_plan_path, weights):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    x.tofile(tmp_path / "x.bin")
    command = [built("run_files"), dense_plan_path, f"x=2x3:{tmp_path}/x.bin", f"y={tmp_path}/y.bin"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "y 2x5\n"
    y = np.fromfile(tmp_path / "y.bin", np.float32).reshape(2, 5)
    np.testing.assert_allclose(y, np.maximum(x @ weights[0] + weights[1], 0), rtol=1e-5, atol=1e-5)
    wrong = subprocess.run([*command[:2], f"x=3x3:{tmp_path}/x.bin"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "36" in wrong.stderr
    described = subprocess.run([built("describe"), dense_plan_path, "2x3"], capture_output=True, text=True, check=True)
    assert described.stdout.splitlines()[:2] == ["input x: dtype 1 [N, 3]", "output y: dtype 1 [N, 5]"]
    values = [float(text) for text in described.stdout.splitlines()[2].removeprefix("y:").split()]
    np.testing.assert_allclose(values, np.maximum(weights[1], 0), rtol=1e-5)
